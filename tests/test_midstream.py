"""`hook_resid_mid` is the residual stream: what is changed there goes on past the MLP, in every engine and gradient."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from architecture_kinds import build
from architectures import ARCHITECTURES
from torch import Tensor

from interp import Model, UserError
from interp.analysis import gradients_of
from interp.edits import only, steer
from interp.model.provenance import describe_in_memory

ROW = [5, 17, 9, 23, 31]
MID = "blocks.0.hook_resid_mid"
PLAIN = {"gpt2": ("transformer.h", "ln_2"), "llama": ("model.layers", "post_attention_layernorm")}


def make(tiny: Model, name: str) -> Model:
    hf = build(ARCHITECTURES[name], len(tiny.tokenizer), eager=False)
    return Model(hf, tiny.tokenizer, describe_in_memory(hf, tiny.tokenizer, name, "made by hand"))


def by_hand(model: Model, name: str, change: Callable[[Tensor], Tensor]) -> Any:
    """The plain model whose first block's middle is changed: what its norm gets, and what the block gives."""
    path, norm = PLAIN[name]
    block = model.hf.get_submodule(path)[0]  # type: ignore[index]
    came: list[Tensor] = []

    def at_norm(_: Any, args: tuple[Any, ...]) -> Any:
        came.append(change(args[0]) - args[0])
        return (change(args[0]),)

    def at_end(_: Any, __: Any, output: Any) -> Any:
        return (output[0] + came.pop(), *output[1:]) if isinstance(output, tuple) else output + came.pop()

    return [
        block.get_submodule(norm).register_forward_pre_hook(at_norm),
        block.register_forward_hook(at_end),
    ]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("hooked", [False, True])
def test_a_direction_added_in_the_middle_of_a_block_stays_in_the_stream(tiny_gpt2: Model, name: str, hooked: bool):
    model = make(tiny_gpt2, name)
    direction = 3 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    before = model.logits([ROW])[0]
    with model.tree.hooked_only() if hooked else nullcontext(), model.edit({MID: steer(direction)}) as receipts:
        came = model.logits([ROW])[0]
        after = model.capture([ROW], "blocks.0.hook_resid_post")["blocks.0.hook_resid_post"][0]
        text = model.generate([ROW], max_new_tokens=3).ids[0]
    handles = by_hand(model, name, lambda tensor: tensor + direction)
    with torch.no_grad():
        right = model.hf(torch.tensor([ROW]), output_hidden_states=True)
        row = list(ROW)
        for _ in range(3):
            row.append(int(model.hf(torch.tensor([row])).logits[0, -1].argmax()))
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(came, right.logits[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after, right.hidden_states[1][0], atol=1e-4, rtol=1e-4)
    assert text == row[len(ROW) :]
    assert not torch.allclose(came, before, atol=1e-2)
    assert receipts[MID].changed >= 2 * len(ROW)
    with model.edit({"blocks.0.ln2.hook_in": steer(direction)}):  # the negative control: what only the MLP reads
        only_the_mlp = model.logits([ROW])[0]
    assert not torch.allclose(only_the_mlp, came, atol=1e-2)


def test_an_edit_at_the_end_of_the_block_sees_what_was_changed_in_its_middle(tiny_gpt2: Model):
    model = make(tiny_gpt2, "llama")
    seen: list[Tensor] = []
    end = "blocks.0.hook_resid_post"
    plain = model.capture([ROW], end)[end]
    for sites in ([MID, end], [end, MID]):
        edits: Any = {MID: lambda value, _: value + 7.0, end: lambda value, _: seen.append(value.clone())}
        with model.edit({site: edits[site] for site in sites}):
            model.logits([ROW])
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], seen[1])
    assert float((seen[0] - plain).mean()) > 3.0


@pytest.mark.parametrize("name", PLAIN)
def test_its_gradient_counts_both_ways_on(tiny_gpt2: Model, name: str):
    model = make(tiny_gpt2, name)
    slope = gradients_of(model, [ROW], MID, lambda logits, _: logits[:, -1, 3] - logits[:, -1, 4]).gradients[MID][0]
    leaf = torch.zeros(len(ROW), model.d_model, requires_grad=True)
    handles = by_hand(model, name, lambda tensor: tensor + leaf)
    last = model.hf(torch.tensor([ROW])).logits[0, -1]
    (right,) = torch.autograd.grad(last[3] - last[4], [leaf])
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(slope, right, atol=1e-5, rtol=1e-3)


def test_an_edit_of_one_position_leaves_the_others(tiny_gpt2: Model):
    model = make(tiny_gpt2, "llama")
    end = "blocks.0.hook_resid_post"
    plain = model.capture([ROW], end)[end][0]
    with model.edit({MID: only(lambda value, _: value + 1.0, pos=2)}):
        edited = model.capture([ROW], end)[end][0]
    moved = (edited - plain).abs().amax(-1)
    assert float(moved[2]) > 0.1
    assert float(moved[[0, 1, 3, 4]].max()) < 1e-5


@pytest.mark.parametrize("name", ["bloom_post_norm", "gpt1"])
def test_where_the_stream_does_not_go_past_the_mlp_a_change_is_refused_and_reading_is_not(tiny_gpt2: Model, name: str):
    model = make(tiny_gpt2, name)
    assert model.capture([ROW], MID)[MID].isfinite().all()
    with pytest.raises(UserError, match="cannot be changed on this model"), model.edit({MID: steer(torch.ones(32))}):
        model.logits([ROW])
    with pytest.raises(UserError, match="cannot be changed on this model"):
        gradients_of(model, [ROW], MID, lambda logits, _: logits[:, -1, 3])
