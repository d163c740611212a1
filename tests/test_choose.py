"""Where edits act: chosen tokens, heads, features and prompts; and the edits that choose, hold and cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import Model, UserError
from interp.model.choose import only
from interp.model.edits import ablate, compose, freeze, knock_out, project_out, resample, scale, steer

PROMPTS = ["The capital of France is Paris, and", "Mary", "John gave a drink to the lazy dog; Rome is"]
RESID, Z, PATTERN = "blocks.0.hook_resid_post", "blocks.0.attn.hook_z", "blocks.1.attn.hook_pattern"


def edited(model: Model, site: str, edit: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """The activation at a site before and after an edit there."""
    before = model.capture(PROMPTS, site, **settings)[site]
    with model.edit({site: edit}):
        return before, model.capture(PROMPTS, site, **settings)[site]


def moved(before: Tensor, after: Tensor) -> Tensor:
    return (before != after) & ~before.isnan()


def zero_in_place(activation: torch.Tensor) -> None:
    """As a hook of TransformerLens may do; here it would be without effect."""
    activation.zero_()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_only_the_chosen_entries_move(tiny_gpt2: Model, side: Any, batch_size: int) -> None:
    settings = {"padding": side, "batch_size": batch_size}
    before, after = edited(tiny_gpt2, Z, only(scale(2.0), heads=[-1], pos=-1, prompts=[0, 2]), **settings)
    wanted = torch.zeros_like(before, dtype=torch.bool)
    acts = tiny_gpt2.capture(PROMPTS, Z, **settings)
    for prompt in (0, 2):
        last = int(acts.mask[prompt].nonzero()[-1])
        wanted[prompt, last, before.shape[2] - 1] = True
    assert torch.equal(moved(before, after), wanted)
    assert torch.equal(after[wanted], 2 * before[wanted])
    before, after = edited(tiny_gpt2, RESID, only(ablate(), features=[3, 5]), **settings)
    assert moved(before, after).flatten(0, 1).any(0).nonzero().flatten().tolist() == [3, 5]
    before, after = edited(tiny_gpt2, PATTERN, only(scale(0.5), heads=0, pos=1, prompts=2), **settings)
    assert moved(before, after).nonzero()[:, [0, 1]].unique(dim=0).tolist() == [[2, 0]]


def test_only_takes_a_users_own_edit_and_composes(tiny_gpt2: Model) -> None:
    def negate(activation: Tensor, site: Any) -> Tensor:
        activation.neg_()  # in place: the part that is not chosen must stay
        return activation

    before, after = edited(tiny_gpt2, Z, only(negate, heads=1))
    assert torch.equal(after[:, :, 1].nan_to_num(), -before[:, :, 1].nan_to_num())
    assert torch.equal(after[:, :, :1].nan_to_num(), before[:, :, :1].nan_to_num())
    some: tuple[Any, ...] = (torch.tensor([1]), np.array([1]), (i for i in (1,)))
    for same in some:
        again = edited(tiny_gpt2, Z, only(negate, heads=same), batch_size=1)[1]
        assert torch.allclose(again, after, atol=1e-6, equal_nan=True)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    before, after = edited(tiny_gpt2, RESID, compose(steer(direction), steer(-direction), scale(3.0)))
    assert torch.allclose(after, 3 * before, atol=1e-5, equal_nan=True)


def test_ablating_to_a_mean_and_to_samples(tiny_gpt2: Model) -> None:
    pool = tiny_gpt2.capture(["some other text to take from"], RESID).rows(RESID)
    before, after = edited(tiny_gpt2, RESID, ablate(to=pool.mean(0)))
    assert torch.allclose(after[~before.isnan()].view(-1, 32), pool.mean(0), atol=1e-6)
    draws = [edited(tiny_gpt2, RESID, resample(pool, seed=s), batch_size=b)[1] for s, b in ((0, 3), (0, 1), (1, 3))]
    assert torch.equal(draws[0].nan_to_num(), draws[1].nan_to_num()), "batches do not matter"
    assert not torch.equal(draws[0].nan_to_num(), draws[2].nan_to_num())
    rows = draws[0][~before.isnan().any(-1)]
    assert ((rows[:, None] - pool).abs().amax(-1) < 1e-6).any(1).all(), "each is a row of the pool"
    assert len(rows.unique(dim=0)) > 2


def test_projecting_out_leaves_nothing_along_the_span_and_all_across_it(tiny_gpt2: Model) -> None:
    span = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)) * 7
    before, after = edited(tiny_gpt2, RESID, project_out(span))
    real = ~before.isnan().any(-1)
    assert (after[real] @ span.T).abs().max() < 1e-3
    across = torch.linalg.qr(torch.cat([span, torch.randn(29, 32)]).T).Q[:, 3:]
    assert torch.allclose(after[real] @ across, before[real] @ across, atol=1e-4)
    twice = edited(tiny_gpt2, RESID, compose(project_out(span), project_out(span)))[1]
    assert torch.allclose(after, twice, atol=1e-5, equal_nan=True)


def test_frozen_patterns_stay_under_another_edit(tiny_gpt2: Model) -> None:
    """With every pattern held, an edit before it moves values only; without, patterns move too."""
    patterns = tiny_gpt2.capture(PROMPTS, "blocks.*.attn.hook_pattern")
    push = {"blocks.0.hook_resid_pre": steer(torch.ones(32) * torch.arange(32))}
    with tiny_gpt2.edit(push):
        loose = tiny_gpt2.capture(PROMPTS, PATTERN)[PATTERN]
    with tiny_gpt2.edit({**push, **freeze(patterns)}):
        held = tiny_gpt2.capture(PROMPTS, PATTERN, batch_size=1)[PATTERN]
    assert torch.equal(held.nan_to_num(), patterns[PATTERN].nan_to_num())
    assert not torch.allclose(loose, patterns[PATTERN], atol=1e-3, equal_nan=True)
    base = tiny_gpt2.logits(PROMPTS)
    with tiny_gpt2.edit(freeze(tiny_gpt2.capture(PROMPTS, ["blocks.*.attn.hook_pattern", "blocks.*.hook_mlp_out"]))):
        torch.testing.assert_close(tiny_gpt2.logits(PROMPTS), base, atol=1e-5, rtol=0, equal_nan=True)


def test_a_knocked_out_key_is_as_if_it_were_masked(make_tiny: Callable[..., Model]) -> None:
    """Against plain attention with -inf scores, computed here from q, k and v."""
    model = make_tiny("gpt2")
    q, k = (model.capture(PROMPTS[0], f"blocks.1.attn.hook_{part}")[f"blocks.1.attn.hook_{part}"][0] for part in "qk")
    n = len(q)
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
    scores[:, n - 1, 2] = -torch.inf
    with model.edit({PATTERN: knock_out(2, -1)}):
        found = model.capture(PROMPTS[0], PATTERN)[PATTERN][0]
    torch.testing.assert_close(found, scores.softmax(-1), atol=1e-5, rtol=0)
    with model.edit({PATTERN: knock_out(slice(None))}):
        assert float(model.capture(PROMPTS[0], PATTERN)[PATTERN].abs().max()) == 0.0


@pytest.mark.parametrize(
    ("site", "edit", "line"),
    [
        (RESID, only(ablate(), heads=0), "blocks.0.hook_resid_post has no heads"),
        (Z, only(ablate(), heads=2), "head 2 at blocks.0.attn.hook_z; expected some of 0 to 1"),
        (RESID, compose(lambda activation, where: activation[:, :1], scale(1.0)), "returned shape"),
        (Z, resample(torch.zeros(4, 16)), r"resample got rows of shape \(16,\)"),
        (RESID, only(ablate(), features=32), "feature 32 at blocks.0.hook_resid_post; expected some of 0 to 31"),
        (RESID, only(ablate(), prompts=3), "prompt 3 at blocks.0.hook_resid_post; expected some of 0 to 2"),
        (RESID, only(ablate(), pos=40), "position 40 is outside a prompt"),
        (PATTERN, only(scale(2.0), features=0), "has no features: its axes are prompt, head, pos, pos"),
        (RESID, knock_out(0), "knock_out works on attention patterns"),
        (RESID, ablate(to=torch.zeros(5)), r"ablate got values of shape \(5,\) at blocks.0.hook_resid_post"),
        (RESID, resample(torch.zeros(4, 5)), r"resample got rows of shape \(5,\)"),
        (RESID, project_out(torch.ones(5)), r"project_out got values of shape \(5,\)"),
        (
            Z,
            freeze({Z: torch.zeros(2, 3, 2, 16)})[Z],
            r"freeze at blocks.0.attn.hook_z got shape \(2, 3, 2, 16\) for 3",
        ),
        (Z, freeze({Z: torch.zeros(3, 9, 2, 16)})[Z], "prompts of other lengths"),
        (RESID, only(lambda activation, where: zero_in_place(activation), pos=0), "in place and returned None"),  # type: ignore
    ],
)
def test_misuse_is_one_line(tiny_gpt2: Model, site: str, edit: Any, line: str) -> None:
    with pytest.raises(UserError, match=line) as refused, tiny_gpt2.edit({site: edit}):
        tiny_gpt2.logits(PROMPTS)
    assert "\n" not in str(refused.value)


def test_what_cannot_be_an_edit_is_refused_when_it_is_made() -> None:
    for make, line in (
        (lambda: only(ablate(), heads=[True, False]), "no mask of True and False"),
        (lambda: only(ablate(), heads=[]), "expected a number, or several"),
        (lambda: only(ablate(), features=1.5), "expected a number, or several"),  # type: ignore[arg-type]
        (lambda: only(ablate(), prompts="all"), "expected a number, or several"),  # type: ignore[arg-type]
        (lambda: only(3), "the edit given to only is a int"),  # type: ignore[arg-type]
        (lambda: resample(torch.zeros(0, 3)), "resample got shape"),
        (lambda: project_out(torch.zeros(3)), "zero, not finite or linearly dependent"),
        (lambda: project_out(torch.ones(2, 3)), "linearly dependent"),
        (lambda: project_out(torch.stack([torch.randn(32)] * 2) * torch.tensor([[1.0], [0.1]])), "linearly dependent"),
        (lambda: project_out(torch.zeros(0, 32)), "linearly dependent"),
        (lambda: compose(ablate(), 5), "compose got"),  # type: ignore[arg-type]
        (lambda: project_out(torch.tensor([1.0, float("nan")])), "not finite"),
    ):
        with pytest.raises(UserError, match=line):
            make()
