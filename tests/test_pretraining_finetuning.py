"""Pre-training and fine-tuning: small models with a past and without, features, and the whole probe."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exams import same, short_exam, weights
from refusals import the_line
from word_sae import SENTENCES

from interp import Finding, Lab, Model, NotAsked, UserError
from interp.analysis.completions import score_completions
from interp.lab.claims import check_declared, not_reached
from interp.lab.discover import load_probe
from interp.model.training.finetune import fine_tune
from interp.model.training.small import train_small_gpt2
from interp.saes.loading.sae import load_sae
from interp.views.figures import draw
from probes import pretraining_finetuning as the_probe
from probes._pretraining_finetuning import behaviour, controls, features, inside, knowledge, layers, small
from probes._pretraining_finetuning.questions import Exam, Question, dealt

pytestmark = pytest.mark.usefixtures("trained_once")


@pytest.fixture(scope="module")
def exam(tiny_gpt2: Model) -> Exam:
    return short_exam(tiny_gpt2)


# small models


def test_pretraining_makes_the_difference_and_shuffled_answers_teach_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer beings, which are learned in fewer steps."""
    monkeypatch.setattr(small, "PEOPLE", 20)
    world = small.make_world(1)
    size = replace(small.SIZE, steps=250)
    model = train_small_gpt2([*map("".join, world.statements()), small.WORDS], size, seed=1)
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
    monkeypatch.setattr(small, "SEEDS", 2)
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
