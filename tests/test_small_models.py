"""Probes on models of one layer: what such a model cannot be asked is said, and everything else is answered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp import Finding, Lab, Model, NotAsked, load_probe
from interp.model.provenance import describe_in_memory
from probes import indirect_object
from probes._indirect_object import heads, places
from probes._indirect_object.sentences import TEMPLATES, make_sentences


@pytest.fixture(scope="module")
def one_layer(smol: Model) -> Model:
    """A GPT-2 of one layer and two heads with random weights and the bundled tokenizer."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": len(smol.tokenizer), "n_embd": 32, "n_layer": 1, "n_head": 2}
    hf = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    described = describe_in_memory(hf, smol.tokenizer, "one layer", "made by hand")
    return Model(hf, smol.tokenizer, described, smol.bos)


@pytest.mark.parametrize(("name", "flags"), [("prediction", {"tokens": 48}), ("parallel-attention", {"tokens": 64})])
def test_what_is_read_in_the_bundled_prose_says_whom_its_intervals_are_for(
    one_layer: Model, name: str, flags: dict[str, int]
) -> None:
    answers = load_probe(name)(Lab(one_layer, quick=True), documents=8, **flags)  # as they come
    assert any("other pieces of its five sources" in one.measure for one in answers if isinstance(one, Finding))


def test_a_model_of_one_layer_is_asked_for_the_indirect_object_and_not_where_it_stands(one_layer: Model) -> None:
    probe = load_probe("indirect-object")
    answers: list[Finding | NotAsked] = list(probe(Lab(one_layer, quick=True)))
    assert [one.declared for one in answers] == [claim.text for claim in probe.claims], "none is missing"
    reasons = {one.declared: one.because for one in answers if isinstance(one, NotAsked)}
    assert all("does not name the right one" in reasons[claim.text] for claim in (*heads.CLAIMS, *places.CLAIMS))
    made = [make_sentences(one_layer, template, 12, i) for i, template in enumerate(TEMPLATES)]
    inside = list(indirect_object._inside(Lab(one_layer, quick=True), made, 0.05, 2))
    left_out = [one for one in inside if isinstance(one, NotAsked) and "no stream between two" in one.because]
    assert [one.declared for one in left_out] == [claim.text for claim in places.CLAIMS]
