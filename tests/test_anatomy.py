"""Anatomy: counts are transformers' own, a model is left as it was, and biases do what arithmetic says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from answered import drawn
from refusals import the_line
from transformers import GPT2Config, GPT2LMHeadModel

from interp import Finding, Lab, Model, UserError
from interp.lab.discover import load_probe
from interp.model.parameter_count import biases_of, count_by_formula, count_parameters
from probes import anatomy as the_probe
from probes._anatomy.biases import biases_at, copied, losses
from probes._anatomy.neurons import neuron_inputs, overlaps, read_neurons, share_above

pytestmark = pytest.mark.usefixtures("trained_once")


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "opt", "gemma2", "phi", "bloom", "mistral"])
def test_every_parameter_is_counted_once(tiny_of: Any, architecture: str) -> None:
    hf = tiny_of(architecture).hf
    found = count_parameters(hf)
    assert sum(found.values()) == hf.num_parameters()
    assert {"embedding", "attention", "MLP", "norms"} <= set(found)
    assert "other" not in found


@pytest.mark.parametrize("tied", [True, False])
def test_the_formula_is_that_of_gpt2_and_llama(tiny_of: Any, tied: bool) -> None:
    sizes = {"vocab_size": 50, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_inner": 40}
    config = GPT2Config(**sizes, tie_word_embeddings=tied)  # pyright: ignore[reportArgumentType]
    for hf in (tiny_of("llama").hf, GPT2LMHeadModel(config)):
        assert count_by_formula(hf.config) == count_parameters(hf)
    assert count_by_formula(tiny_of("gpt_neox").hf.config) is None


def test_gpt2s_real_size_is_the_published_one() -> None:
    assert sum((count_by_formula(GPT2Config()) or {}).values()) == 124_439_808


@pytest.fixture(scope="module")
def found(tiny_gpt2: Model) -> list[Finding]:
    """The findings on a tiny model, which must be left as it was."""
    before = {name: value.clone() for name, value in tiny_gpt2.hf.state_dict().items()}
    known = tiny_gpt2.provenance
    answers = drawn(load_probe("anatomy")(Lab(tiny_gpt2, quick=True), tokens=40))
    assert tiny_gpt2.provenance == known, "it counts as another model from then on"
    assert all(torch.equal(before[name], value) for name, value in tiny_gpt2.hf.state_dict().items())
    return answers


def test_a_gpt2_is_its_own_subject(found: list[Finding], tiny_gpt2: Model) -> None:
    told = {finding.claim: finding for finding in found}
    for words in ("Part by part", "A bias alters", "Positive control", "Negative control"):
        (finding,) = [f for claim, f in told.items() if words in claim]
        assert finding.verdict == "yes", words
    (lost,) = [f for claim, f in told.items() if "Without its biases" in claim]
    assert tiny_gpt2.provenance.name in lost.claim
    assert "has no biases" not in lost.measure


def test_the_share_of_biases_is_counted_once_and_is_no_sample_of_layers(found: list[Finding], tiny_gpt2: Model) -> None:
    (few,) = [f for f in found if "less than one in a hundred is a bias" in f.claim]
    parameters = tiny_gpt2.hf.named_parameters()
    inside = {name: p.numel() for name, p in parameters if ".wte." not in name and ".wpe." not in name}
    biases = sum(n for name, n in inside.items() if name.endswith("bias"))
    norms = sum(n for name, n in inside.items() if "ln_" in name and name.endswith("weight"))
    assert few.estimate.mean == pytest.approx(biases / (sum(inside.values()) - norms))
    assert few.estimate.is_known, "one number was counted: n layers of it would be no evidence"
    assert few.verdict == "no"


def test_random_weights_are_no_few_neurons(found: list[Finding]) -> None:
    """The tiny model was never trained: it cannot beat random weights by 10 points."""
    (few,) = [f for f in found if "few neurons" in f.claim]
    assert few.verdict != "yes"


def change_and_fail(hf: Any, parts: list[str], to: str) -> None:
    with biases_at(hf, parts, to):
        moved = [p for some in biases_of(hf).values() for p in some]
        assert (to == "zero") == all(float(p.detach().abs().max()) == 0 for p in moved)
        raise RuntimeError


def test_biases_are_put_back_whatever_happens(word_model: Model) -> None:
    hf = copied(word_model)
    rows = [[5, 6, 7, 8], [9, 10, 11]]
    clean = losses(hf, rows)
    parts = list(biases_of(hf))
    assert parts == ["attention biases", "MLP biases", "norm biases"]
    for to in ("zero", "random"):
        with pytest.raises(RuntimeError):
            change_and_fail(hf, parts, to)
        assert torch.equal(losses(hf, rows), clean)
    with torch.no_grad():
        logits = hf(torch.tensor(rows[:1])).logits[0, :-1]
    plain = torch.nn.functional.cross_entropy(logits, torch.tensor(rows[0][1:]))
    assert float(clean[0]) == pytest.approx(float(plain), rel=1e-5)


def test_strongest_neurons_are_those_of_a_sort(tiny_gpt2: Model) -> None:
    rows = [[5, 6, 7, 8, 6], [9, 6, 11, 5]]
    read = read_neurons(Lab(tiny_gpt2), tiny_gpt2, rows, (1,), "reading")
    site = "blocks.1.mlp.hook_post"
    x = tiny_gpt2.capture([rows[0]], site)[site][0, 1:].float()
    n = read.strongest[0].shape[1]
    for row, found in zip(x, read.strongest[0], strict=False):
        assert set(found.tolist()) == set(row.abs().argsort(descending=True)[:n].tolist())
    squared = x.square()
    held = squared.topk(n, dim=1).values.sum(1) / squared.sum(1)
    assert read.held[0, 0] == pytest.approx(float(held.mean()), rel=1e-4)
    same, other = overlaps(read, 1, 10, 0)
    assert len(same) == len(other) == 1, "6 alone is read in both, behind the first token"


def test_a_larger_bias_is_active_more_often(tiny_gpt2: Model) -> None:
    rows = [[5, 6, 7, 8, 6, 9, 10]]
    inputs = neuron_inputs(tiny_gpt2, rows, 0)
    shares = [share_above(inputs, shift) for shift in (-9.0, 0.0, 9.0)]
    assert np.all(shares[0] <= shares[1])
    assert np.all(shares[1] <= shares[2])
    assert shares[2].mean() > 0.9


@pytest.mark.parametrize(("flag", "value"), [("documents", 7), ("tokens", 23)])
def test_bad_flags_are_one_line(tiny_gpt2: Model, flag: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{flag} {value}") as refused:
        next(iter(the_probe.anatomy(Lab(tiny_gpt2), **{flag: value})))
    the_line(refused)
