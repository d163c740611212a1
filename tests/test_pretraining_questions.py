"""What a model is asked before and after fine-tuning: right answers, and no liking for letters taken for them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exams import asked, short_exam
from fake_run import run_info

from interp import Estimate, Finding, Lab, Model, NotAsked, begin_alike, zero
from interp.lab.runs import RunWriter
from interp.model.loading.bundled import BUNDLED
from interp.model.training.finetune import fine_tune
from interp.stats.estimators import matched_scores
from interp.views.report import build_report
from probes._pretraining_finetuning import END, EXACT, behaviour, knowledge
from probes._pretraining_finetuning.questions import Exam, Question, all_tasks, by_task, dealt, set_exam


@pytest.fixture(scope="module")
def exam(tiny_gpt2: Model) -> Exam:
    return short_exam(tiny_gpt2)


@pytest.fixture(scope="module")
def tuned(tiny_gpt2: Model, exam: Exam) -> Model:
    return fine_tune(tiny_gpt2, [q.example for q in exam.taught], steps=150, batch=8, lr=1e-2)


def test_questions_have_one_right_answer_and_sides_do_not_meet(exam: Exam) -> None:
    for task, (_, questions) in all_tasks().items():
        assert len({q.answer for q in questions}) == len({q.prompt for q in questions}) == len(questions) == 24, task
    for question in all_tasks()["sum"][1]:
        first, second = (int(word) for word in question.prompt.replace("?", "").split() if word.isdigit())
        assert int(question.answer) == first + second
        assert min(first, second) >= 2
    prompts = [q.prompt for side in (exam.taught, exam.held_out, exam.other) for q in side]
    assert len(set(prompts)) == len(prompts)
    assert not {q.task for q in exam.other} & {q.task for q in exam.taught}
    assert {q.task for q in exam.held_out} == {q.task for q in exam.taught}


def test_dealt_answers_are_the_same_ones_and_none_is_its_own(exam: Exam) -> None:
    wrong = dealt(exam.taught, 3)
    assert sorted(c for _, c in wrong) == sorted(q.answer + END for q in exam.taught)
    assert all(prompt == q.prompt and c != q.answer + END for (prompt, c), q in zip(wrong, exam.taught, strict=True))


def test_a_vocabulary_without_the_words_leaves_the_loaded_model_out(word_model: Model) -> None:
    assert set_exam(word_model, 0, each=6) is None


def test_a_sitting_is_read_off_greedy_text(tuned: Model, exam: Exam) -> None:
    found = behaviour.sit(tuned, exam.taught)
    for i, question in enumerate(exam.taught):
        ids = tuned.encode([question.prompt])[0]
        for _ in range(12):
            with torch.no_grad():
                ids = [*ids, int(tuned.hf(torch.tensor([ids])).logits[0, -1].argmax())]
        written = str(tuned.tokenizer.decode(ids)).removeprefix(question.prompt)
        assert bool(found.word[i]) == written.startswith(question.answer)
        assert bool(found.exact[i]) == written.startswith(question.answer + END)
    assert found.exact.any()
    assert found.word.sum() >= found.exact.sum()


def test_text_losses_are_transformers_own(tiny_gpt2: Model) -> None:
    rows = [[5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16, 17, 18, 19], [20, 21], [22, 23, 24]]
    for row, loss in zip(rows, behaviour.text_losses(tiny_gpt2, rows), strict=True):
        ids = torch.tensor([row])
        with torch.no_grad():
            assert loss == pytest.approx(float(tiny_gpt2.hf(ids, labels=ids).loss), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_know_nothing_before(make_tiny: Any, seed: int, tiny_gpt2: Model) -> None:
    model = make_tiny("gpt2", seed)
    model.hf.config.n_positions = 64  # as it is built
    exam = set_exam(model, seed, each=8)
    assert exam is not None
    squares = knowledge.known_answers(model, exam.held_out)
    answers = {one.declared: one for one in knowledge.knowledge(Lab(model, seed=seed), exam, model)}
    assert np.isfinite(np.concatenate([matched_scores(square) for square in squares])).all()
    for claim in (knowledge.AS_MANY, knowledge.NO_SURER):
        assert asked(answers[claim.text]).estimate.mean == 0.0, "the same model before and after"
    assert asked(answers[knowledge.KNEW.text]).verdict != "yes"


@pytest.mark.parametrize(("copies", "knows", "verdict"), [(9.0, 0.0, "no"), (0.0, 2.0, "yes"), (4.0, 5.0, "yes")])
def test_a_liking_for_letters_is_not_taken_for_knowledge(
    tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch, copies: float, knows: float, verdict: str
) -> None:
    """Plurals begin like their singulars: a model that copies first letters has all of them, and knows none."""
    exam = set_exam(tiny_gpt2, 0, each=24)
    assert exam is not None

    def scores(_: Model, questions: tuple[Question, ...]) -> list[np.ndarray]:
        squares = []
        for places in by_task(questions).values():
            of_task = [questions[i] for i in places]
            alike = np.array([[begin_alike(q.item, other.answer) for other in of_task] for q in of_task])
            noise = np.random.default_rng(len(squares)).normal(0, 0.1, alike.shape)
            squares.append(copies * alike + knows * np.eye(len(alike)) + noise)
        return squares

    monkeypatch.setattr(knowledge, "known_answers", scores)
    answers = {one.declared: one for one in knowledge.knowledge(Lab(tiny_gpt2), exam, tiny_gpt2)}
    knew = asked(answers[knowledge.KNEW.text])
    assert knew.verdict == verdict
    assert knew.estimate.n < len(exam.held_out)


def test_where_every_answer_begins_like_its_question_nothing_is_asked(tiny_gpt2: Model, exam: Exam) -> None:
    plurals = tuple(q for q in exam.held_out if q.task == "plural")
    answers = {
        one.declared: one for one in knowledge.knowledge(Lab(tiny_gpt2), replace(exam, held_out=plurals), tiny_gpt2)
    }
    assert isinstance(answers[knowledge.KNEW.text], NotAsked)


def test_of_a_model_that_was_fine_tuned_already_nothing_is_said_of_pretraining(tiny_gpt2: Model, exam: Exam) -> None:
    """The bundled model is an Instruct model: that its answers were there is no deed of pre-training alone."""
    tokenizer = copy.deepcopy(tiny_gpt2.tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    tuned_already = Model(tiny_gpt2.hf, tokenizer, replace(tiny_gpt2.provenance, name="tiny-instruct"))
    for model, put, other in (
        (tiny_gpt2, knowledge.KNEW, knowledge.KNEW_ALREADY),
        (tuned_already, knowledge.KNEW_ALREADY, knowledge.KNEW),
    ):
        answers = {one.declared: one for one in knowledge.knowledge(Lab(model), exam, model)}
        assert isinstance(answers[put.text], Finding)
        left_out = answers[other.text]
        assert isinstance(left_out, NotAsked)
        assert model.provenance.name in left_out.because
        assert "chat template" in left_out.because
    assert not knowledge.KNEW_ALREADY.answers


def test_a_report_names_the_bundled_model_as_what_it_is(tmp_path: Path) -> None:
    """An Instruct model of 4-bit weights, not the base model that its short name might be taken for."""
    model = {"name": "smollm2-135m", "described": BUNDLED["smollm2-135m"].described}
    for name, provenance in (("described", {"model": model}), ("plain", {"model": {"name": "smollm2-135m"}})):
        writer = RunWriter(tmp_path / name, replace(run_info(), provenance=provenance))
        writer.add(Finding("x", Estimate(1.0, 0.8, 1.2, 9, "nats"), zero("nats"), "less"))
        writer.finish("finished", 1.0)
        page = build_report([tmp_path / name], tmp_path / f"{name}.html").read_text()
        assert ("<dd>smollm2-135m (SmolLM2-135M-Instruct, 4-bit)</dd>" in page) == (name == "described")


def test_that_no_answer_is_exact_before_is_said_to_be_format(tiny_gpt2: Model, tuned: Model, exam: Exam) -> None:
    for finding in behaviour.answers(Lab(tiny_gpt2), exam, tuned):
        assert "about the format" in finding.caveat
        sides = [row for row in finding.table if row["questions"] in ("held out", "tasks not trained")]
        after, before = (next(row for row in sides if row["fine-tuning"] == name) for name in ("after", "before"))
        assert finding.estimate.mean == after[EXACT]
        assert finding.control.estimate.mean == before[EXACT]
