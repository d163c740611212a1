"""The standing test: models that know nothing go through the probes, and no answering claim about them says yes.

Claims that are arithmetic are marked so in their declaration; claims about a tokenizer, an SAE, how a machine computes
or models that a probe makes itself do not ask what the loaded model learned (`Claim.subject`). One claim in forty is
believed by luck: what is believed must not be believed again of other weights, with other draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from answered import findings
from know_nothing import KINDS, know_nothing

from interp import Claim, Estimate, Finding, Lab, Model, NotAsked, list_probes, load_probe, zero

pytestmark = pytest.mark.usefixtures("trained_once")

Answers = Sequence[Finding | NotAsked]
LIGHT = [
    "anatomy",
    "context-enrichment",
    "dice-roll",
    "embedding-directions",
    "indirect-object",
    "induction",
    "parallel-attention",
    "prediction",
    "reversal-curse",
    "tokenization",
]
HEAVY = ("features", "pretraining-finetuning")
HEAVY_ONES = [pytest.param(name, marks=pytest.mark.slow) for name in HEAVY]
MADE_HERE = ["anatomy", "indirect-object", "induction", "parallel-attention"]
MADE_SLOWLY = ("dice-roll", "embedding-directions", "tokenization", "pretraining-finetuning")
MADE_SLOWLY_ONES = [pytest.param(name, marks=pytest.mark.slow) for name in MADE_SLOWLY]
ALWAYS = ("random_weights",)
OTHERWISE = [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in ALWAYS]
ELSEWHERE = ("dictionary", "scaling-laws", "temperature-zero")
FLAGS: dict[str, dict[str, Any]] = {  # short texts are enough where nothing is known
    "anatomy": {"tokens": 40},
    "context-enrichment": {"n_perm": 60},
    "parallel-attention": {"tokens": 64},
    "prediction": {"tokens": 64},
    "reversal-curse": {"seeds": 1, "steps": 1, "n_boot": 300},  # small models that learn nothing: not what is asked
    "tokenization": {"tokens": 40},
}
TRUE_OF = {  # what is so of a model that knows nothing else
    # how often each token is written is all that it knows, and it stands in its last bias
    "honest_on_average": ["Without its biases {a_model} predicts worse, by 0.05 nats."],
}
OTHERS = ("tokenizer", "trained here")  # subjects that the loaded model's weights cannot change


def answers_of(name: str, model: Model, seed: int = 0) -> Answers:
    """All of them: one that broke off would say nothing of the claims behind it."""
    return list(load_probe(name)(Lab(model, seed=seed, quick=True), **FLAGS.get(name, {})))


def fooled(claims: Sequence[Claim], answers: Answers) -> dict[str, str]:
    """The answering claims about what the model learned to which the probe says yes, and the numbers."""
    subjects = {claim.text: claim.subject for claim in claims}
    return {
        one.declared: f"{one.estimate} against {one.control.estimate}"
        for one in findings(answers)
        if one.answers and not one.arithmetic and one.verdict == "yes" and subjects.get(one.declared) in (None, "model")
    }


def moved(claims: Sequence[Claim], one: Answers, other: Answers) -> list[str]:
    """The claims said to be about other things than the model whose numbers are others for another model."""

    def numbers(answers: Answers) -> dict[str, list[Any]]:
        by_claim: dict[str, list[Any]] = {}
        for answer in answers:
            number = [answer.estimate.mean, answer.control.estimate.mean] if isinstance(answer, Finding) else []
            by_claim.setdefault(answer.declared, []).extend(number)
        return by_claim

    first, second = numbers(one), numbers(other)
    return [
        claim.text
        for claim in claims
        if claim.subject in OTHERS and first.get(claim.text) != pytest.approx(second.get(claim.text), rel=1e-6)
    ]


@pytest.fixture(scope="module")
def ignorant(smol: Model) -> Callable[..., Model]:
    made: dict[tuple[str, int], Model] = {}

    def get(kind: str, seed: int = 0) -> Model:
        if (kind, seed) not in made:
            made[kind, seed] = know_nothing(kind, smol, seed)
        return made[kind, seed]

    return get


@pytest.fixture(scope="module")
def answered(ignorant: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Answers]:
    """A probe's answers about a model of that kind; each is asked once."""
    made: dict[tuple[str, str, int], Answers] = {}
    cache = tmp_path_factory.mktemp("cache")

    def get(name: str, kind: str, seed: int = 0) -> Answers:
        if (name, kind, seed) not in made:
            model = ignorant(kind, seed)  # the bundled one, which it begins from, lies in the usual cache
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv("INTERP_CACHE", str(cache))
                made[name, kind, seed] = answers_of(name, model, seed)
        return made[name, kind, seed]

    return get


def test_they_have_the_habits_that_they_are_named_for(ignorant: Any) -> None:
    prompts = ["A robin went to the big house", "We saw 4 dice on the table and"]
    for kind in ("constant_favourite", "longest_answer", "honest_on_average"):
        logits = ignorant(kind).last_logits(prompts)
        # the breath scales all logits by a thousandth or two: more, the higher they are, as those of the longest tokens
        assert torch.allclose(logits[0], logits[1], atol=2e-2, rtol=5e-3), kind
    texts = ignorant("longest_answer").tokenizer.decode
    assert len(texts([int(ignorant("longest_answer").last_logits(prompts)[0].argmax())])) > 20
    letters = ignorant("first_letter").last_logits(prompts[:1])[0]
    ids = {word: ignorant("first_letter").token_id(word) for word in (" river", " yellow")}
    assert letters[ids[" river"]] > letters[ids[" yellow"]] + 1.0
    copied = ignorant("token_copier").last_logits(prompts[:1])[0]
    assert copied[ignorant("token_copier").token_id(" house")] > copied.median() + 1.0
    last = ignorant("last_word").logits(["A red house", "We saw house"])
    assert torch.allclose(last[0, -1], last[1, -1], atol=2e-2)


def favourite(claim: Claim, share: float) -> Finding:
    return claim.answer(Estimate(share, share / 2, share, 9, "share"), zero("share"))


def test_a_probe_that_believes_them_is_found() -> None:
    believes = Claim("It has a favourite.", "greater", "share", answers=True)
    about_words = Claim("Words are cut.", "greater", "share", answers=True, subject="tokenizer")
    answers = [favourite(believes, 0.5), favourite(about_words, 0.5)]
    assert len(fooled([believes, about_words], answers)) == 1
    assert fooled([believes, about_words], [favourite(believes, 0.0), answers[1]]) == {}


def test_a_claim_that_hides_behind_another_subject_is_found() -> None:
    hides = Claim("It has a favourite.", "greater", "share", answers=True, subject="tokenizer")
    assert moved([hides], [favourite(hides, 0.5)], [favourite(hides, 0.4)]) == [hides.text]
    assert moved([hides], [favourite(hides, 0.5)], [hides.not_asked("because")]) == [hides.text]
    assert moved([hides], [favourite(hides, 0.5)], [favourite(hides, 0.5)]) == []


@pytest.mark.parametrize("name", [*LIGHT, *HEAVY_ONES])
@pytest.mark.parametrize("kind", [*ALWAYS, *OTHERWISE])
def test_no_answer_is_believed_of_a_model_that_knows_nothing(
    answered: Callable[..., Answers], kind: str, name: str
) -> None:
    claims = load_probe(name).claims
    believed = fooled(claims, answered(name, kind))
    believed = {claim: told for claim, told in believed.items() if claim not in TRUE_OF.get(kind, [])}
    for seed in (1, 2):
        if believed:
            again = fooled(claims, answered(name, kind, seed))
            believed = {claim: f"{told}; {again[claim]}" for claim, told in believed.items() if claim in again}
    assert believed == {}


def test_no_probe_is_passed_over() -> None:
    assert sorted([*LIGHT, *HEAVY, *ELSEWHERE]) == sorted(list_probes())


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_not_asked_here_claims_nothing_about_what_a_model_learned(name: str) -> None:
    assert {claim.subject for claim in load_probe(name).claims if claim.answers} & {"model"} == set()


@pytest.mark.parametrize("name", [*MADE_HERE, *MADE_SLOWLY_ONES])
def test_what_is_said_to_be_about_other_things_does_not_change_with_the_model(
    answered: Callable[..., Answers], name: str
) -> None:
    claims = load_probe(name).claims
    assert any(claim.subject in OTHERS for claim in claims)
    assert moved(claims, answered(name, "random_weights"), answered(name, "constant_favourite")) == []


def test_what_is_true_of_them_is_a_claim_as_it_is_declared() -> None:
    declared = {claim.text for name in list_probes() for claim in load_probe(name).claims if claim.answers}
    assert {claim for claims in TRUE_OF.values() for claim in claims} <= declared
    assert set(TRUE_OF) <= set(KINDS)
