"""The edits that come ready-made: steer, ablate and patch, at chosen positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import Model, UserError, ablate, patch, steer
from interp.model.choose import only
from interp.model.edits import compose, freeze, knock_out, scale

PROMPTS = ["The capital of France is Paris, and", "Mary", "John gave a drink to the lazy dog; Rome is"]
RESID = "blocks.0.hook_resid_post"


def same(ours: Tensor, theirs: Tensor, atol: float = 1e-5) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-4, atol=atol, equal_nan=True)


def test_steering_by_nothing_changes_nothing(smol: Model):
    direction = torch.randn(576, generator=torch.Generator().manual_seed(1))
    base = smol.last_logits(PROMPTS[:2])
    for edit in (steer(direction, 0.0), steer(torch.zeros(576))):
        with smol.edit({"blocks.12.hook_resid_post": edit}) as receipts:
            assert torch.equal(smol.last_logits(PROMPTS[:2]), base)
        assert receipts["blocks.12.hook_resid_post"].norm_change == 0.0
    with smol.edit({"blocks.12.hook_resid_post": steer(direction, 4.0)}) as receipts:
        assert not same(smol.last_logits(PROMPTS[:2]), base, atol=0.1)
    assert receipts["blocks.12.hook_resid_post"].norm_change == pytest.approx(4 * float(direction.norm()), rel=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pos", [-1, 0, np.int64(-2), slice(1, -1), slice(None, None, -2)])
def test_positions_are_counted_per_prompt_without_its_padding(tiny_gpt2: Model, side: Any, pos: Any):
    prompts = [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14]]
    base = tiny_gpt2.logits(prompts)
    with tiny_gpt2.edit({RESID: ablate(pos=pos)}):
        acts = tiny_gpt2.capture(prompts, RESID, padding=side)
        logits = tiny_gpt2.logits(prompts)
    for i, row in enumerate(prompts):
        chosen = set(range(len(row))[pos] if isinstance(pos, slice) else [range(len(row))[pos]])
        zero = (acts[RESID][i][acts.mask[i]] == 0).all(-1)
        assert set(zero.nonzero().flatten().tolist()) == chosen
        changed = [(logits[i, p] - base[i, p]).abs().max() > 1e-4 for p in range(len(row))]
        assert all(not c for p, c in enumerate(changed) if p < min(chosen)), "a decoder cannot look ahead"
        assert all(changed[p] for p in chosen)


def test_patch_takes_values_from_the_right_prompt_whatever_the_batches(tiny_gpt2: Model):
    clean, corrupt = [[1, 2, 3, 4], [5, 6], [7, 8, 9]], [[21, 22, 23, 24], [25, 26], [27, 28, 29]]
    source = tiny_gpt2.capture(clean, RESID, batch_size=1)
    with tiny_gpt2.edit({RESID: patch(source[RESID])}):  # everything after block 0 comes from the clean run
        patched = tiny_gpt2.logits(corrupt, batch_size=2)
    assert same(patched, tiny_gpt2.logits(clean))
    with tiny_gpt2.edit({RESID: patch(source[RESID], pos=-1)}):
        acts = tiny_gpt2.capture(corrupt, RESID)
    assert same(acts.last(RESID), source.last(RESID))
    base = tiny_gpt2.capture(corrupt, RESID)
    assert torch.equal(acts[RESID][0, :3], base[RESID][0, :3])


def test_patch_refuses_what_does_not_line_up(tiny_gpt2: Model):
    short, long = [[1, 2, 3], [4, 5]], [[1, 2, 3], [4, 5, 6]]

    def refusal(source: Any, target: list[list[int]], pos: Any = None, side: Any = "right") -> str:
        with pytest.raises(UserError) as refused, tiny_gpt2.edit({RESID: patch(source, pos)}):
            tiny_gpt2.logits(target, padding=side)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    a, b = (tiny_gpt2.capture(p, RESID)[RESID] for p in (short, long))
    for pos in (None, -1, slice(0, 2)):
        assert "got a source of 2 tokens for prompt 1, which has 3" in refusal(a, long, pos)
        assert "got a source of 3 tokens for prompt 1, which has 2" in refusal(b, short, pos), "silently cut before"
    assert "no value (NaN) at a chosen position" in refusal(a, long, 2)
    assert "got 1 prompts, but the edited run has 2" in refusal(a[:1], short)
    assert "got 2 prompts, but the edited run has 1" in refusal(a, short[:1])
    assert "got shape (2, 3, 16); expected [prompt, pos, 32]" in refusal(a[..., :16], short)
    assert "got shape (3, 32)" in refusal(a[0], short)
    assert "got list" in refusal([a], short)
    with tiny_gpt2.edit({RESID: patch(a, pos=1)}):  # an index from the start means the same in both
        assert same(tiny_gpt2.capture(long, RESID)[RESID][1, 1], a[1, 1])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: patch(torch.zeros(1, 3, 4), pos=[0, 1.0]), "pos=[0, 1.0]; expected None for all"),  # type: ignore[list-item]
        (lambda: ablate(pos=[]), "pos=[]; expected None for all"),
        (lambda: ablate(pos=True), "pos=True"),
        (lambda: ablate(pos=torch.tensor(True)), "pos=tensor(True)"),  # type: ignore[arg-type]
        (lambda: ablate(pos=np.array([0, 1])), "pos=array([0, 1])"),  # type: ignore[arg-type]
        (lambda: ablate(pos=slice("a", None)), "pos=slice('a'"),
        (lambda: ablate(pos=slice(None, None, 0)), "pos=slice(None, None, 0)"),
        (lambda: steer(torch.zeros(4), "4"), "steer got '4'; expected a number"),  # type: ignore[arg-type]
        (lambda: only(ablate, pos=-1), "the edit given to only is ablate itself, which makes"),  # type: ignore[arg-type]
        (lambda: compose(ablate, scale(2.0)), "call it, e.g. ablate()"),  # type: ignore[arg-type]
        (compose, "expected one edit or more"),
        (lambda: freeze("x"), "freeze got a str"),  # type: ignore[arg-type]
        (lambda: knock_out(["1"], 3), "keys=['1']"),  # type: ignore[arg-type]
        (lambda: ablate(to="x"), "ablate got to='x'"),  # type: ignore[arg-type]
        (lambda: scale("x"), "scale got 'x'; expected a number"),  # type: ignore[arg-type]
        (lambda: scale(2.0, "last"), "pos='last'"),  # type: ignore[arg-type]
    ],
)
def test_odd_arguments_are_refused_where_they_are_given(make: Any, told: str):
    with pytest.raises(UserError) as refused:
        make()
    assert told in str(refused.value)
