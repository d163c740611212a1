"""Pre-training and fine-tuning: changes are measured right, swaps are exact, what was planted is found, and no more."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_run import run_info
from refusals import the_line
from word_sae import SENTENCES

from interp import Estimate, Finding, Lab, Model, NotAsked, UserError, begin_alike, zero
from interp.analysis.completions import score_completions
from interp.analysis.weight_change import (
    effective_rank,
    energies,
    layer_of_parameter,
    relative_change,
    share_in_top,
    weight_changes,
)
from interp.lab.claims import check_declared, not_reached
from interp.lab.discover import load_probe
from interp.lab.runs import RunWriter
from interp.model.loading.bundled import BUNDLED
from interp.model.training.copies import copy_model, weights_from
from interp.model.training.finetune import fine_tune
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.saes.loading.sae import load_sae
from interp.stats.estimators import matched_scores
from interp.views.figures import draw
from interp.views.report import build_report
from probes import pretraining_finetuning as the_probe
from probes._pretraining_finetuning import END, EXACT, behaviour, controls, features, inside, knowledge, layers, small
from probes._pretraining_finetuning.questions import Exam, Question, all_tasks, by_task, dealt, set_exam

pytestmark = pytest.mark.usefixtures("trained_once")


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.hf.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def exam(tiny_gpt2: Model) -> Exam:
    found = set_exam(tiny_gpt2, 0, each=6)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def tuned(tiny_gpt2: Model, exam: Exam) -> Model:
    return fine_tune(tiny_gpt2, [q.example for q in exam.taught], steps=150, batch=8, lr=1e-2)


# measures of a change


def test_energies_are_squared_singular_values() -> None:
    for shape in ((5, 9), (9, 5)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        plain = np.linalg.svd(x.double().numpy(), compute_uv=False)
        assert np.allclose(energies(x), plain**2)
        p = plain / plain.sum()
        assert effective_rank(energies(x)) == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-6)
        assert share_in_top(energies(x), 2) == pytest.approx((plain[:2] ** 2).sum() / (plain**2).sum())


def test_the_effective_rank_of_k_equal_directions_is_k() -> None:
    assert effective_rank(energies(3 * torch.eye(7)[:, :4])) == pytest.approx(4.0)
    assert effective_rank(energies(torch.zeros(4, 6))) == share_in_top(energies(torch.zeros(4, 6)), 2) == 0.0


def test_changes_are_those_of_a_loop(tiny_gpt2: Model, tuned: Model) -> None:
    changes = weight_changes(tiny_gpt2, tuned)
    assert len(changes) == len(list(tiny_gpt2.hf.parameters()))
    total = moved = 0.0
    for name, old in tiny_gpt2.hf.named_parameters():
        (one,) = [change for change in changes if change.name == name]
        new = dict(tuned.hf.named_parameters())[name]
        assert one.layer == (int(name.split(".")[2]) if ".h." in name else None)
        total += float((old.detach().double() ** 2).sum())
        moved += float(((new - old).detach().double() ** 2).sum())
    assert relative_change(changes) == pytest.approx((moved / total) ** 0.5, rel=1e-4)
    assert relative_change(weight_changes(tiny_gpt2, tiny_gpt2)) == 0.0
    assert layer_of_parameter("model.layers.12.mlp.up_proj.weight") == 12


def test_models_of_other_shapes_are_refused(tiny_gpt2: Model, word_model: Model) -> None:
    with pytest.raises(UserError, match="differ in name or shape") as refused:
        weight_changes(tiny_gpt2, word_model)
    the_line(refused)


@pytest.mark.parametrize(("others", "one", "verdict"), [(1.001, 1.06, "no"), (1.04, 1.04, "yes")])
def test_one_layer_that_moved_far_is_not_lost_in_the_mean(others: float, one: float, verdict: str) -> None:
    model = train_small_gpt2(["a b c d"], SmallGPT2(n_layers=12, d_model=32, steps=0), seed=0)
    changed = copy_model(model, "stretched")
    with torch.no_grad():
        for name, p in changed.hf.named_parameters():
            p *= one if layer_of_parameter(name) == 7 else others
    finding = inside.weights_moved(Lab(model), changed, None)
    assert finding.estimate.mean == pytest.approx(one - 1, abs=1e-5)
    assert finding.verdict == verdict


# swapping


def swap_and_fail(work: Model, source: Model, names: list[str]) -> None:
    with weights_from(work, source, names):
        raise RuntimeError


def test_swapped_weights_come_back_whatever_happens(tiny_gpt2: Model, tuned: Model) -> None:
    work, names = copy_model(tuned, "a copy"), [name for name, _ in tuned.hf.named_parameters()]
    with pytest.raises(RuntimeError):
        swap_and_fail(work, tiny_gpt2, names)
    assert same(weights(work), weights(tuned))
    with weights_from(work, tiny_gpt2, names):
        assert same(weights(work), weights(tiny_gpt2))
    with weights_from(work, tiny_gpt2, names[:1]):
        differ = [name for name, value in work.hf.named_parameters() if not torch.equal(value, weights(tuned)[name])]
        assert differ == names[:1]
    with pytest.raises(UserError, match="parameter") as refused, weights_from(work, tiny_gpt2, ["transformer.wtee"]):
        pass
    the_line(refused)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "opt"])
def test_blocks_hold_every_parameter_once(tiny_of: Any, architecture: str) -> None:
    model = tiny_of(architecture)
    for most in (1, 2, 9):
        blocks = layers.blocks_of(model, most)
        assert sorted(name for names in blocks.values() for name in names) == sorted(
            name for name, _ in model.hf.named_parameters()
        )
        assert len(blocks) == min(most, model.n_layers) + 1


def test_piles_run_from_nothing_to_everything() -> None:
    blocks = {"layer 0": ["a"], "layer 1": ["b"], "layer 2": ["c"], layers.OUTSIDE: ["e"]}
    piles = list(layers._piled(blocks).values())
    assert piles == [[], ["e", "a"], ["e", "a", "b"], ["e", "a", "b", "c"], ["e", "c"], ["e", "b", "c"]]


@pytest.mark.parametrize(("most", "verdict"), [(4.0, "no"), (6.0, "yes")])
def test_a_block_must_carry_more_than_other_blocks_do(tiny_gpt2: Model, most: float, verdict: str) -> None:
    """Embeddings lose next to nothing: beside them, each of three blocks that are alike would stand out."""
    rng = np.random.default_rng(0)
    lost = np.array([4.0, most, 4.0, 0.05]) + rng.normal(0, [0.5, 0.5, 0.5, 0.01], (48, 4))
    names = ["layer 0", "layer 1", "layer 2", layers.OUTSIDE]
    one_block, _ = layers._block_by_block(Lab(tiny_gpt2), names, lost, lost, lost.sum(1))
    assert asked(one_block).verdict == verdict
    of_one = layers._block_by_block(Lab(tiny_gpt2), names[2:], lost[:, 2:], lost[:, 2:], lost.sum(1))
    assert isinstance(next(of_one), NotAsked), "one layer has no other"


@pytest.mark.parametrize("seed", range(3))
def test_what_is_planted_is_found_and_noise_is_not(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = small.make_world(0)
    texts = ["".join(pair) for pair in (*world.statements(), *world.questions(taught=True))]
    model = train_small_gpt2(texts, SmallGPT2(n_layers=6, d_model=32, steps=0), seed=seed)
    changed, name = controls.plant(model, 1 + seed, seed)
    assert layer_of_parameter(name) == 1 + seed
    layer, rank, swapped = controls.found_at(model, changed)
    assert (layer, swapped) == (1 + seed, 1 + seed)
    assert rank == pytest.approx(2, abs=0.5)
    monkeypatch.setattr(controls, "LOUD", 0.0)
    assert controls.found_at(model, controls.plant(model, 1 + seed, seed)[0])[1] > 10


# the questions


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


def asked(answer: Finding | NotAsked) -> Finding:
    assert isinstance(answer, Finding)
    return answer


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


# small models


def test_pretraining_makes_the_difference_and_shuffled_answers_teach_none() -> None:
    world = small.make_world(1)
    model = train_small_gpt2([*map("".join, world.statements()), small.WORDS], small.SIZE, seed=1)
    held = world.questions(taught=False)
    taught_beings = {q.split()[2] for q, _ in world.questions(taught=True)}
    assert not taught_beings & {q.split()[2] for q, _ in held}
    pretrained, random, shuffled = (small.exact(m, held) for m in small.fine_tuned(model, world, 1).values())
    assert pretrained > random + 0.1
    assert pretrained > shuffled + 0.1
    assert small.exact(model, held) == 0.0


@pytest.mark.parametrize(("held", "verdict"), [(0.6, "yes"), (0.15, "no")])
def test_the_rule_of_the_small_models(tiny_gpt2: Model, held: float, verdict: str) -> None:
    sides = {(start, side): [0.1, 0.15, 0.2] for start in small.STARTS for side in
             ("trained questions", "held-out questions")}  # fmt: skip
    sides[small.STARTS[0], "held-out questions"] = [held - 0.01, held, held + 0.01]
    first, *_ = small._judged(Lab(tiny_gpt2), sides, [1.0] * 3)
    assert first.verdict in (verdict, "unclear" if verdict == "no" else verdict)
    assert (first.verdict == "yes") == (verdict == "yes")


@pytest.mark.parametrize(("shuffled", "shown"), [([0.04, 0.0, 0.18, 0.02, 0.04], True), ([0.6] * 5, False)])
def test_five_seeds_show_that_shuffled_answers_teach_none(tiny_gpt2: Model, shuffled: list[float], shown: bool) -> None:
    """Shares near zero are skewed, so that only pair by pair, beside the right answers, five of them tell."""
    right = [0.84, 0.56, 0.58, 0.58, 0.6]
    sides = {(start, side): right for start in small.STARTS for side in ("trained questions", "held-out questions")}
    sides[small.STARTS[2], "held-out questions"] = shuffled
    _, knows, control = small._judged(Lab(tiny_gpt2), sides, [1.0] * small.SEEDS)
    assert knows.verdict == "yes"
    assert (control.verdict == "yes") == shown


# features


@pytest.mark.parametrize("changed", [True, False])
def test_features_that_come_up_are_those_of_the_change(
    word_model: Model, word_sae: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    monkeypatch.setattr(features, "attach_sae", load_sae)  # the bundled text is not in its vocabulary
    monkeypatch.setattr(features, "CHOSEN", 2)
    monkeypatch.setattr(features, "split_corpus", lambda: ([], list(SENTENCES)))
    prompts = sorted({" ".join(s.split()[:n]) for s in SENTENCES for n in (1, 2, 4)})
    some = tuple(Question("word", prompt, f" {SENTENCES[0].split()[0]}") for prompt in prompts)
    exam = Exam(some[::2], some[1::2], ())
    pairs = [(q.prompt, q.answer) for q in exam.taught]
    tuned = fine_tune(word_model, pairs, steps=60, lr=3e-3) if changed else word_model
    risen = features.features_moved(Lab(word_model, sae_folder=word_sae), exam, tuned)
    assert isinstance(risen, Finding)
    assert risen.estimate.mean > 0.01 if changed else risen.estimate.mean == 0.0
    draw(risen)


def test_without_an_sae_no_feature_is_asked_about(tiny_gpt2: Model, exam: Exam) -> None:
    answer = features.features_moved(Lab(tiny_gpt2), exam, tiny_gpt2)
    assert isinstance(answer, NotAsked)
    assert "--sae" in answer.because


# the whole


def run(model: Model, monkeypatch: pytest.MonkeyPatch, **flags: Any) -> list[Finding | NotAsked]:
    monkeypatch.setattr(small, "SIZE", replace(small.SIZE, steps=4, d_model=32))
    monkeypatch.setattr(small, "TUNING", {"steps": 4, "batch": 8, "lr": 1e-3})
    chosen = load_probe("pretraining-finetuning")
    answers = list(chosen(Lab(model, quick=True), **flags))
    for answer in answers:
        check_declared(answer, chosen.claims, chosen.name)
    assert not_reached(chosen.claims, answers) == []
    return answers


def test_the_loaded_model_comes_back_as_it_was_and_every_figure_draws(
    tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights(tiny_gpt2)
    answers = run(tiny_gpt2, monkeypatch, steps=3, lr=1e-3)
    assert same(before, weights(tiny_gpt2))
    told = {answer.declared: answer for answer in answers if isinstance(answer, Finding)}
    for finding in told.values():
        if finding.figure:
            draw(finding)
    for claim in (layers.EXACT_SWAPS, controls.PLANTED):
        assert told[claim.text].verdict == "yes", claim.text
    for claim in (behaviour.FORGETS, inside.WHERE_DUE):
        assert "the bundled sample, which the bundled model wrote" in told[claim.text].measure, claim.text
    for claim in (behaviour.LEARNS_FORMAT, behaviour.CARRIES_OVER, knowledge.KNEW, small.MAKES_IT):
        assert told[claim.text].verdict != "yes", claim.text
    left_out = {answer.declared for answer in answers if isinstance(answer, NotAsked)}
    assert left_out == {knowledge.KNEW_ALREADY.text, features.COME_UP.text, controls.OTHER_ANSWERS.text}
    assert 2 <= sum(f.answers for f in told.values()) <= 4
    again = {a.declared: a for a in run(tiny_gpt2, monkeypatch, steps=3, lr=1e-3) if isinstance(a, Finding)}
    assert {text: (f.estimate, f.control, f.table) for text, f in again.items()} == {
        text: (f.estimate, f.control, f.table) for text, f in told.items()
    }


def test_a_model_that_cannot_write_the_questions_is_said_not_to_be_asked(word_model: Model) -> None:
    answers = islice(the_probe.pretraining_finetuning(Lab(word_model)), len(the_probe.OF_THE_LOADED))
    assert [(a.declared, isinstance(a, NotAsked)) for a in answers] == [(c.text, True) for c in the_probe.OF_THE_LOADED]


def test_answers_of_other_questions_are_no_right_ones(tiny_gpt2: Model, exam: Exam) -> None:
    wrong = fine_tune(tiny_gpt2, dealt(exam.taught, 0), steps=150, batch=8, lr=1e-2)
    examples = [q.example for q in exam.taught]
    assert float(score_completions(wrong, examples).greedy.double().mean()) < 0.3
    assert controls.other_answers(Lab(tiny_gpt2), exam, wrong).estimate.mean < 0.1


@pytest.mark.parametrize(("lost", "verdict"), [(0, "yes"), (12, "unclear")])
def test_the_same_questions_before_and_after_are_compared_one_by_one(
    tiny_gpt2: Model, exam: Exam, monkeypatch: pytest.MonkeyPatch, lost: int, verdict: str
) -> None:
    """Half are right, the same half as before: taken as two samples, 48 questions could not tell."""
    nothing = np.zeros(48)
    before = np.arange(48) % 2 == 0
    sat = iter(behaviour.Sitting(right, right, right, nothing) for right in (before, before & (np.arange(48) >= lost)))
    monkeypatch.setattr(controls, "sit", lambda *_: next(sat))
    assert controls.other_answers(Lab(tiny_gpt2), exam, tiny_gpt2).verdict == verdict


@pytest.mark.parametrize(("flag", "value"), [("steps", 0), ("lr", 0.0), ("lr", 1.0)])
def test_bad_flags_are_one_line(tiny_gpt2: Model, flag: str, value: float) -> None:
    arguments: dict[str, Any] = {flag: value}
    with pytest.raises(UserError, match=f"--{flag} {value}") as refused:
        next(iter(the_probe.pretraining_finetuning(Lab(tiny_gpt2), **arguments)))
    the_line(refused)
