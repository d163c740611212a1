"""The standing test: models that know nothing go through the probes, and no answering claim about them says yes.

Claims that are arithmetic are marked so in their declaration; claims about a tokenizer or about models that a probe
trains itself do not ask the loaded model (`Claim.subject`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from know_nothing import know_nothing

from interp import Claim, Estimate, Finding, Lab, Model, UserError, load_probe, zero

LIGHT = {
    "anatomy": {},
    "dice-roll": {},
    "embedding-directions": {},
    "indirect-object": {},
    "induction": {},
    "prediction": {},
}


def fooled(name: str, model: Model, **flags: Any) -> list[str]:
    """The answering claims about the model to which the probe says yes."""
    probe = load_probe(name)
    declared = {claim.text: claim for claim in probe.claims}
    answers: list[Finding] = []
    with suppress(UserError):  # it cannot be asked of this model, which is no yes
        for answer in probe(Lab(model, quick=True), **flags):
            answers += [answer] if isinstance(answer, Finding) else []
    return [
        f"{one.claim} {one.estimate} against {one.control.estimate}"
        for one in answers
        if one.answers and not one.arithmetic and one.verdict == "yes" and declared[one.declared].subject == "model"
    ]


@pytest.fixture(scope="module")
def ignorant(smol: Model) -> Any:
    made: dict[str, Model] = {}

    def get(kind: str) -> Model:
        if kind not in made:
            made[kind] = know_nothing(kind, smol)
        return made[kind]

    return get


def test_they_have_the_habits_that_they_are_named_for(ignorant: Any) -> None:
    prompts = ["A robin went to the big house", "We saw 4 dice on the table and"]
    for kind in ("constant_favourite", "longest_answer"):
        logits = ignorant(kind).last_logits(prompts)
        assert torch.allclose(logits[0], logits[1], atol=1e-5), kind
    texts = ignorant("longest_answer").tokenizer.decode
    assert len(texts([int(ignorant("longest_answer").last_logits(prompts)[0].argmax())])) > 20
    letters = ignorant("first_letter").last_logits(prompts[:1])[0]
    ids = {word: ignorant("first_letter").token_id(word) for word in (" river", " yellow")}
    assert letters[ids[" river"]] > letters[ids[" yellow"]] + 1.0
    copied = ignorant("token_copier").last_logits(prompts[:1])[0]
    assert copied[ignorant("token_copier").token_id(" house")] > copied.median() + 1.0
    last = ignorant("last_word").logits(["A red house", "We saw house"])
    assert torch.allclose(last[0, -1], last[1, -1], atol=1e-4)


def test_a_probe_that_believes_them_is_found(ignorant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    believes = Claim("It has a favourite.", "greater", "share", answers=True)

    class Credulous:
        claims = (believes,)

        def __call__(self, lab: Lab, **_: object) -> list[Finding]:
            share = float(lab.model.last_logits("Paris is").softmax(-1).max())
            return [believes.answer(Estimate(share, share / 2, share, 9, "share"), zero("share"))]

    monkeypatch.setattr("test_know_nothing.load_probe", lambda _: Credulous())
    assert len(fooled("credulous", ignorant("random_weights"))) == 1


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("kind", ["random_weights", "constant_favourite"])
def test_no_answer_is_believed_of_a_model_that_knows_nothing(ignorant: Any, kind: str, name: str) -> None:
    assert fooled(name, ignorant(kind), **LIGHT[name]) == []
