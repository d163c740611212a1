"""One copy of the weights: parts of a fused matrix are taken from what the whole gives, and nothing of it is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architecture_kinds import build
from architectures import ARCHITECTURES
from memory import memory_of

from interp import Model, analysis, edits, from_transformers
from interp.errors import UserError
from interp.model.hooks.fused import Part

IDS = [[1, 5, 7, 2], [3, 4, 9, 6]]
# heads side by side, interleaved in three ways, gate and up in one
FUSED = ["gpt2", "neox", "bloom", "falcon", "codegen", "mpt", "phi3_longrope"]


@pytest.mark.parametrize("name", [*FUSED, "llama", "qwen3_moe", "gemma3", "opt", "bloom_post_norm", "mpt_clip"])
def test_the_hooks_hold_no_copy_of_the_weights(name: str, tiny_gpt2: Model) -> None:
    hf = build(ARCHITECTURES[name], len(tiny_gpt2.tokenizer), eager=False)
    model = from_transformers(hf, tiny_gpt2.tokenizer)
    assert memory_of(model.bridge) <= memory_of(model.hf)


@pytest.mark.parametrize("name", FUSED)
def test_a_part_has_the_rows_of_its_matrix(name: str, tiny_gpt2: Model) -> None:
    """Held to what comes out: a part's weight and bias times what went in are the part's output."""
    model = from_transformers(build(ARCHITECTURES[name], len(tiny_gpt2.tokenizer), eager=False), tiny_gpt2.tokenizer)
    parts = [module for module in model.bridge.modules() if isinstance(module, Part)]
    for part in parts:
        x = torch.randn(2, 3, part.in_features)
        torch.testing.assert_close(part(x), torch.nn.functional.linear(x, part.weight, part.bias))
    assert bool(parts) == (name in ("neox", "bloom", "falcon", "codegen", "mpt"))


def test_a_hook_on_one_part_does_not_reach_the_others(tiny_gpt2: Model) -> None:
    """Another input of q alone: k and v are computed from what they get."""
    model = from_transformers(build(ARCHITECTURES["neox"], len(tiny_gpt2.tokenizer), eager=False), tiny_gpt2.tokenizer)
    sites = [f"blocks.0.attn.{part}.hook_out" for part in "qkv"]
    before = model.capture(IDS, sites)
    with model.edit({"blocks.0.attn.q.hook_in": edits.scale(2.0)}):
        after = model.capture(IDS, sites)
    assert not torch.allclose(after[sites[0]], before[sites[0]])
    for site in sites[1:]:
        torch.testing.assert_close(after[site], before[site])


class Adapted(torch.nn.Module):
    """A matrix with a low-rank sum beside it, as PEFT wraps one."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base, self.in_features, self.out_features = base, base.nx, base.nf
        self.a = torch.nn.Parameter(torch.randn(base.nx, 2))
        self.b = torch.nn.Parameter(torch.randn(2, base.nf))

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both."""
        return self.base(x) + x @ self.a @ self.b


def test_an_adapter_beside_a_fused_matrix_reaches_q_k_and_v(tiny_gpt2: Model) -> None:
    hf = build(ARCHITECTURES["gpt2"], len(tiny_gpt2.tokenizer), eager=False)
    model = from_transformers(hf, tiny_gpt2.tokenizer)
    before = model.capture(IDS, "blocks.*.attn.hook_k")
    for block in hf.transformer.h:
        block.attn.c_attn = Adapted(block.attn.c_attn)
    plain = model.logits(IDS)
    with model.tree.hooked_only():
        torch.testing.assert_close(model.logits(IDS), plain, rtol=1e-4, atol=1e-4)
    after = model.capture(IDS, "blocks.*.attn.hook_k")
    assert float((after["blocks.0.attn.hook_k"] - before["blocks.0.attn.hook_k"]).abs().max()) > 0.01


# ---- what a fused matrix gave is kept for the length of one attention, and gates do not read past what hangs on it


def kept_by(model: Model) -> list[Any]:
    parts = [module for module in model.bridge.modules() if isinstance(module, Part)]
    assert parts
    return [part.whole._made for part in parts if part.whole._made is not None]


@pytest.fixture
def neox(tiny_gpt2: Model) -> Model:
    hf = build(ARCHITECTURES["neox"], len(tiny_gpt2.tokenizer), eager=False)
    return from_transformers(hf, tiny_gpt2.tokenizer)


def test_nothing_is_kept_between_forwards(neox: Model) -> None:
    """Of forwards that end early, or where one part has another input: no activation, and no graph below it."""
    neox.capture(IDS, "blocks.*.attn.hook_q")
    assert kept_by(neox) == []
    with neox.edit({"blocks.*.attn.q.hook_in": edits.scale(1.1)}):
        analysis.gradients_of(neox, IDS, "blocks.0.hook_resid_pre", analysis.logit_difference([5, 6], [8, 9]))
    assert kept_by(neox) == []


def test_the_same_input_under_other_weights_gives_another_output(neox: Model) -> None:
    same: Any = torch.randn(2, 4, neox.d_model)
    weight: Any = neox.hf.get_submodule("gpt_neox.layers.0.attention.query_key_value").weight
    found = []
    with neox.edit({"blocks.0.ln1.hook_out": lambda activation, where: same}):
        for change in (lambda: None, lambda: weight.data.mul_(2), lambda: same.data.mul_(3)):
            change()
            found.append(neox.capture(IDS, "blocks.0.attn.hook_q")["blocks.0.attn.hook_q"].clone())
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[1], found[2])


def test_a_gate_that_would_read_past_a_hook_of_the_users_is_refused(neox: Model) -> None:
    with neox.edit({"blocks.*.hook_q_input": edits.scale(1.0)}):  # the control: without the hook it opens
        neox.logits(IDS)
    fused = neox.hf.get_submodule("gpt_neox.layers.0.attention.query_key_value")

    def larger(_: Any, __: Any, out: Any) -> Any:
        return out * 1.5

    fused.register_forward_hook(larger)
    plain = neox.logits(IDS)
    with neox.tree.hooked_only():
        torch.testing.assert_close(neox.logits(IDS), plain, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"cannot be opened on this GPTNeoXForCausalLM.*gives other logits, by"):
        neox.edit({"blocks.*.hook_q_input": edits.scale(1.0)}).__enter__()
