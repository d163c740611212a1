"""Packed weights: hooks, edits and gradients on them, one copy of them, and what cannot be done with them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_kinds import build
from architectures import ARCHITECTURES
from memory import memory_of

from interp import Model, analysis, edits, load_model
from interp.activations.plan import plan_capture
from interp.errors import UserError
from interp.model.checking.parity import check_parity
from interp.model.training.finetune import fine_tune
from interp.model.training.random_weights import with_random_weights

PROMPTS = ["the cat sat", "a dog"]
IDS = [[1, 5, 7, 2], [3, 4, 9, 6]]
# heads side by side, interleaved in three ways, gate and up in one, and each matrix by itself
FUSED = ["gpt2", "neox", "bloom", "falcon", "codegen", "mpt", "phi3_longrope"]
BITS = ["4bit", "8bit"]


@pytest.fixture(scope="module")
def folders(tiny_gpt2: Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a tiny model of an architecture, with a tokenizer."""

    def folder_of(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        build(ARCHITECTURES[name], len(tiny_gpt2.tokenizer), eager=False).save_pretrained(folder)
        tiny_gpt2.tokenizer.save_pretrained(folder)
        return folder

    return folder_of


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", [*FUSED, "llama"])
def test_the_hooks_compute_what_the_packed_model_computes(name: str, bits: Any, folders: Any) -> None:
    model = load_model(folders(name), "cpu", quantize=bits)
    plain = model.logits(IDS)
    with model.tree.hooked_only():
        torch.testing.assert_close(model.logits(IDS), plain, rtol=0, atol=2e-5 * float(plain.abs().max()))
    assert memory_of(model.bridge) <= memory_of(model.hf), "one copy of the weights"


def test_packed_weights_are_another_model(folders: Any) -> None:
    """It computes what its unpacked weights do, which are others than the whole model's; a store's plan can tell."""
    folder = folders("llama")
    whole, packed = load_model(folder, "cpu"), load_model(folder, "cpu", quantize="4bit")
    theirs = packed.logits(IDS)
    assert float((whole.logits(IDS) - theirs).abs().max()) > 0.01
    unpacked = load_model(folder, "cpu", quantize="4bit").hf.dequantize()  # type: ignore[operator]
    torch.testing.assert_close(unpacked(torch.tensor(IDS)).logits, theirs, rtol=1e-4, atol=1e-4)
    assert packed.provenance.computes_in == "float32, weights in bitsandbytes 4bit nf4"
    assert packed.provenance.parameters == whole.provenance.parameters
    plans = [plan_capture(m, PROMPTS, "blocks.*.hook_resid_post")[0] for m in (whole, packed)]
    assert not plans[0].is_same(plans[1])
    kept = load_model(folder, "cpu", quantize="4bit")
    assert plan_capture(kept, PROMPTS, "blocks.*.hook_resid_post")[0].is_same(plans[1])


def test_edits_gradients_attribution_and_parity_work_on_packed_weights(folders: Any) -> None:
    model = load_model(folders("gpt2"), "cpu", quantize="4bit")
    metric, site = analysis.logit_difference([5, 6], [8, 9]), "blocks.0.attn.hook_v"
    before = model.last_logits(IDS)
    with model.edit({site: edits.scale(1.0)}):
        torch.testing.assert_close(model.last_logits(IDS), before, rtol=1e-4, atol=1e-4)
    with model.edit({site: edits.ablate()}):
        assert float((model.last_logits(IDS) - before).abs().max()) > 0.01
    slope = analysis.gradients_of(model, IDS, "blocks.0.hook_resid_post", metric).gradients
    step, size = slope["blocks.0.hook_resid_post"], 1e-2
    direction = torch.nn.functional.normalize(step[:, -1].mean(0), dim=0)
    with model.edit({"blocks.0.hook_resid_post": edits.steer(direction, size, pos=-1)}):
        rise = model.measure(IDS, metric)
    expected = size * (step[:, -1] @ direction)
    torch.testing.assert_close(rise - model.measure(IDS, metric), expected, rtol=0.05, atol=1e-4)
    by_head = analysis.attribute_logits(model, IDS, [5, 6], [8, 9], by="head")
    torch.testing.assert_close(by_head.effect.sum(1), by_head.total.float(), rtol=1e-3, atol=1e-3)
    assert check_parity(model).ok


def test_what_needs_whole_weights_says_so(folders: Any) -> None:
    model = load_model(folders("llama"), "cpu", quantize="8bit")
    with pytest.raises(UserError, match=r"W_Q of this LlamaForCausalLM is stored quantised \(bitsandbytes 8bit\)"):
        _ = model.W_Q
    with pytest.raises(UserError, match="fine_tune got weights that are quantised"):
        fine_tune(model, [("the cat", " sat")], steps=1)
    assert model.W_U.shape == (model.d_model, len(model.tokenizer)), "the unembedding stays whole"


def test_a_packed_checkpoint_is_loaded_as_it_is(folders: Any, tmp_path: Path) -> None:
    packed = load_model(folders("llama"), "cpu", quantize="4bit")
    packed.hf.save_pretrained(tmp_path / "packed")
    packed.tokenizer.save_pretrained(tmp_path / "packed")
    again = load_model(tmp_path / "packed", "cpu")
    assert again.provenance.quantized == packed.provenance.quantized
    assert torch.equal(again.logits(IDS), packed.logits(IDS))
    with pytest.raises(UserError, match=r"is quantised already \(bitsandbytes\), and quantize='8bit' came"):
        load_model(tmp_path / "packed", "cpu", quantize="8bit")


def test_other_words_and_a_missing_package_are_one_line(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders("llama")
    with pytest.raises(UserError, match="quantize='int4'; expected one of 4bit, 8bit, or nothing"):
        load_model(folder, "cpu", quantize="int4")  # type: ignore[arg-type]
    usual = importlib.util.find_spec
    monkeypatch.setattr(
        "interp.model.loading.quantize.find_spec", lambda name: None if name == "bitsandbytes" else usual(name)
    )
    with pytest.raises(UserError, match=r"needs bitsandbytes, which is not here; pip install 'interp-probes\[quantize"):
        load_model(folder, "cpu", quantize="4bit")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("site", ["hook_q_input", "hook_attn_in", "attn.hook_result"])
def test_gates_on_packed_weights_are_refused_in_one_line(site: str, bits: Any, folders: Any) -> None:
    model = load_model(folders("neox"), "cpu", quantize=bits)
    with pytest.raises(
        UserError, match=r"cannot be opened on this GPTNeoXForCausalLM: there TransformerLens reads the"
    ):
        model.capture(IDS, f"blocks.*.{site}")


def test_only_packed_weights_are_called_packed(folders: Any) -> None:
    model = load_model(folders("llama"), "cpu", quantize="4bit")
    drawn = with_random_weights(model)
    assert drawn.provenance.quantized == "", "its matrices are drawn anew, and whole"
    fine_tune(drawn, [("the cat", " sat")], steps=1)
    model.hf.dequantize()  # type: ignore[operator]
    assert model.provenance.quantized == ""
