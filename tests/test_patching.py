"""Sweeps of patches: against one patch at a time, against TransformerLens, and where the answer is known beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp import Model, UserError, ablate, patch
from interp.analysis.metrics import logit_difference
from interp.analysis.patching import By, attribution_patch, correlation, patch_sweep
from interp.analysis.paths import path_patch
from interp.model.choose import only
from interp.model.edits import freeze
from interp.model.gradients import gradients_of

METRIC = logit_difference([5, 6], [8, 9])
RESID, Z = "blocks.*.hook_resid_pre", "blocks.*.attn.hook_z"


@pytest.fixture(scope="module")
def pairs(tiny_gpt2: Model) -> tuple[list[list[int]], list[list[int]]]:
    """Two pairs of unequal length, token ids of one length within each."""
    generator = torch.Generator().manual_seed(0)
    source = [torch.randint(5, 250, (n,), generator=generator).tolist() for n in (7, 5)]
    corrupt = [[*row[:2], *torch.randint(5, 250, (len(row) - 2,), generator=generator).tolist()] for row in source]
    return source, corrupt


@pytest.mark.parametrize("batch_size", [3, 64])
@pytest.mark.parametrize("by", [("pos",), ("head",), ("pos", "head"), ()])
def test_a_sweep_is_one_patch_at_a_time(tiny_gpt2: Model, pairs: Any, by: Any, batch_size: int) -> None:
    source, corrupt = pairs
    sites = Z if "head" in by else [RESID, "blocks.1.hook_mlp_out"]
    swept = patch_sweep(tiny_gpt2, source, corrupt, METRIC, sites, by=by, batch_size=batch_size)
    base = tiny_gpt2.measure(corrupt, METRIC)
    assert torch.allclose(swept.total, tiny_gpt2.measure(source, METRIC) - base, atol=1e-5)
    for i, site in enumerate(swept.sites):
        values = tiny_gpt2.capture(source, site)[site]
        for pair in range(2):
            for pos in swept.positions if "pos" in by else (None,):
                for head in range(values.shape[2]) if "head" in by else (None,):
                    index = tuple(x for x in (pos, head) if x is not None)
                    found = swept.effect[(pair, i, *index)]
                    if pos is not None and pos >= len(source[pair]):
                        assert bool(found.isnan())
                        continue
                    edit = only(patch(values[[pair]], pos), heads=head)
                    one = logit_difference([[5, 6][pair]], [[8, 9][pair]])
                    with tiny_gpt2.edit({site: edit}):
                        moved = tiny_gpt2.measure([corrupt[pair]], one) - base[pair]
                    assert float(found) == pytest.approx(float(moved), abs=2e-5)


def test_what_is_known_beforehand(tiny_gpt2: Model, pairs: Any) -> None:
    source, corrupt = pairs
    itself = patch_sweep(tiny_gpt2, source, source, METRIC, RESID)
    assert float(itself.effect.nan_to_num().abs().max()) < 1e-4, "a model's own values change nothing"
    swept = patch_sweep(tiny_gpt2, source, corrupt, METRIC, ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"])
    assert float(swept.effect[:, 0, :2].abs().max()) < 1e-4, "the prompts begin alike"
    for pair, ids in enumerate(source):
        assert float(swept.share[pair, 1, len(ids) - 1]) == pytest.approx(1, abs=1e-3)
        assert float(swept.effect[pair, 1, : len(ids) - 1].abs().max()) < 1e-4, (
            "behind the last block nobody looks back"
        )
    whole = patch_sweep(tiny_gpt2, source, corrupt, METRIC, "blocks.0.hook_resid_pre", by=())
    assert torch.allclose(whole.share[:, 0], torch.ones(2), atol=1e-3), "patching everything gives the other run"


def test_it_equals_transformer_lens(make_tiny: Callable[..., Model]) -> None:
    """Its patching module's residual and head sweeps, on the same hooked model."""
    from transformer_lens import patching

    model = make_tiny("gpt2")
    generator = torch.Generator().manual_seed(1)
    source, corrupt = torch.randint(5, 250, (2, 1, 6), generator=generator)
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(source)
        measure = lambda logits: logits[0, -1, 5] - logits[0, -1, 8]  # noqa: E731
        resid = patching.get_act_patch_resid_pre(model.bridge, corrupt, cache, measure)  # type: ignore[arg-type]
        heads = patching.get_act_patch_attn_head_out_by_pos(model.bridge, corrupt, cache, measure)  # type: ignore[arg-type]
        base = measure(model.bridge(corrupt))
    metric = logit_difference([5], [8])
    ours = patch_sweep(model, source.tolist(), corrupt.tolist(), metric, RESID).effect[0]
    torch.testing.assert_close(ours, resid.cpu() - base, atol=1e-5, rtol=1e-4)
    ours = patch_sweep(model, source.tolist(), corrupt.tolist(), metric, Z, by=("pos", "head")).effect[0]
    torch.testing.assert_close(ours, heads.cpu() - base, atol=1e-5, rtol=1e-4)


def test_an_estimate_from_the_gradient_is_exact_where_the_rest_is_linear(tiny_gpt2: Model, pairs: Any) -> None:
    source, corrupt = pairs
    places = (tiny_gpt2, source, corrupt, METRIC, "ln_final.hook_out")
    swept, guessed = patch_sweep(*places), attribution_patch(*places)
    torch.testing.assert_close(guessed.effect, swept.effect, atol=1e-4, rtol=1e-3, equal_nan=True)
    assert correlation(guessed, swept) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(guessed.total, swept.total, atol=1e-5, rtol=0)
    deeper = attribution_patch(tiny_gpt2, source, corrupt, METRIC, Z, by=("pos", "head"))
    assert correlation(deeper, patch_sweep(tiny_gpt2, source, corrupt, METRIC, Z, by=("pos", "head"))) > 0.9


def test_a_small_step_is_what_the_gradient_says(tiny_gpt2: Model, pairs: Any) -> None:
    """Halve the distance between the runs and the estimate's error falls by four."""
    source, _ = pairs
    site = "blocks.0.hook_resid_pre"
    values = tiny_gpt2.capture(source, site)[site]
    push = torch.randn(values.shape, generator=torch.Generator().manual_seed(3))
    slopes = gradients_of(tiny_gpt2, source, site, METRIC)
    errors = []
    for size in (0.01, 0.005):
        with tiny_gpt2.edit({site: patch(values + size * push)}):
            real = tiny_gpt2.measure(source, METRIC) - slopes.values
        guess = (slopes.gradients[site] * size * push).nan_to_num().flatten(1).sum(1)
        errors.append(float((real - guess).abs().sum()))
    assert errors[1] < errors[0] / 2.5


def test_the_direct_path_and_all_paths(tiny_gpt2: Model, pairs: Any) -> None:
    source, corrupt = pairs
    pair = (tiny_gpt2, source, corrupt, METRIC)
    # into the last block's output, everything held: the sender's own vector, carried by the residual stream
    sent = path_patch(*pair, "blocks.0.hook_mlp_out", "blocks.1.hook_resid_post", through_mlps=False)
    mlp, end = "blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"
    there, here = (tiny_gpt2.capture(prompts, [mlp, end]) for prompts in (source, corrupt))
    with tiny_gpt2.edit({end: patch(here[end] + there[mlp] - here[mlp])}):
        expected = tiny_gpt2.measure(corrupt, METRIC)
    torch.testing.assert_close(sent, expected - tiny_gpt2.measure(corrupt, METRIC), atol=1e-4, rtol=1e-3)
    for sender, receiver in (
        ("blocks.1.hook_mlp_out", "blocks.0.hook_resid_post"),  # behind its receiver
        ("blocks.0.hook_mlp_out", "blocks.1.hook_attn_out"),  # whose heads are held
    ):
        with pytest.raises(UserError, match=f"nothing of {sender} arrives at"):
            path_patch(*pair, sender, receiver)
    # a part of a head is not cut off by the hold on its own head
    through_v = path_patch(*pair, "blocks.0.attn.hook_v", "blocks.1.hook_resid_post")
    assert float(through_v.abs().max()) > 1e-4
    # a receiver by its other name is the same receiver
    both = [path_patch(*pair, "blocks.0.hook_resid_pre", f"blocks.1.attn.{n}") for n in ("hook_z", "o.hook_in")]
    torch.testing.assert_close(both[0], both[1], atol=1e-5, rtol=0)
    # of one head only
    parts = [
        path_patch(*pair, "blocks.0.attn.hook_z", "blocks.1.hook_resid_post", heads=h, through_mlps=False)
        for h in ([0, 1], [1])
    ]
    assert not torch.allclose(parts[0], parts[1], atol=1e-4)


def test_held_receivers_are_read_one_at_a_time(tiny_gpt2: Model, pairs: Any) -> None:
    """Two layers' heads as receivers: neither may answer to what reaches the other. By hand: each read alone."""
    source, corrupt = pairs
    sites = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    sent = path_patch(tiny_gpt2, source, corrupt, METRIC, "blocks.0.hook_resid_pre", sites)
    values = tiny_gpt2.capture(source, "blocks.0.hook_resid_pre")["blocks.0.hook_resid_pre"]
    own = tiny_gpt2.capture(corrupt, sites)
    arrived = {}
    for site, other in (sites, sites[::-1]):
        with tiny_gpt2.edit({"blocks.0.hook_resid_pre": patch(values), **freeze({other: own[other]})}):
            arrived[site] = tiny_gpt2.capture(corrupt, [site, "blocks.1.hook_resid_post"])[site]
    with tiny_gpt2.edit(freeze(arrived)):
        expected = tiny_gpt2.measure(corrupt, METRIC)
    torch.testing.assert_close(sent, expected - tiny_gpt2.measure(corrupt, METRIC), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_an_edit_that_is_active_sees_pairs_not_cells(tiny_gpt2: Model, pairs: Any, batch_size: int) -> None:
    source, corrupt = pairs
    site = "blocks.0.hook_resid_post"
    outer = {
        "prompts": {"blocks.0.hook_mlp_out": only(ablate(), prompts=0)},
        "frozen": freeze(tiny_gpt2.capture(corrupt, "blocks.0.hook_mlp_out")),
    }
    for what, edits in outer.items():
        with tiny_gpt2.edit(edits):
            swept = patch_sweep(tiny_gpt2, source, corrupt, METRIC, site, batch_size=batch_size)
            values = tiny_gpt2.capture(source, site)[site]
            base = tiny_gpt2.measure(corrupt, METRIC)
            for pos in range(5):
                with tiny_gpt2.edit({site: patch(values, pos)}):
                    moved = tiny_gpt2.measure(corrupt, METRIC) - base
                torch.testing.assert_close(swept.effect[:, 0, pos], moved, atol=2e-5, rtol=1e-4, msg=what)


PATTERN = "blocks.*.attn.hook_pattern"
BY_HEAD: list[list[By]] = [["head"], ["head", "pos"]]


@pytest.mark.parametrize("by", [("head",), ("head", "pos"), ("pos", "head"), ("pos",), ()])
def test_patterns_are_patched_head_by_head_and_query_by_query(
    tiny_of: Callable[[str], Model], pairs: Any, by: Any
) -> None:
    model = tiny_of("gpt2")
    source, corrupt = pairs
    swept = patch_sweep(model, source, corrupt, METRIC, PATTERN, by=by, batch_size=5)
    base = model.measure(corrupt, METRIC)
    for i, site in enumerate(swept.sites):
        for pair, (there, here) in enumerate(zip(source, corrupt, strict=True)):
            values = model.capture([there], site)[site][0]
            metric = logit_difference([[5, 6][pair]], [[8, 9][pair]])
            axes = [range(values.shape[0]) if axis == "head" else swept.positions for axis in by]
            for index in itertools.product(*axes):
                place = dict(zip(by, index, strict=True))
                found = float(swept.effect[(pair, i, *index)])
                if place.get("pos", 0) >= len(there):
                    assert found != found
                    continue
                rows = slice(place["pos"], place["pos"] + 1) if "pos" in place else slice(None)
                heads = [place["head"]] if "head" in place else list(range(values.shape[0]))

                def put(pattern: torch.Tensor, _: Any, rows: Any = rows, heads: Any = heads, v: Any = values) -> Any:
                    pattern[0, heads, rows] = v[heads, rows]
                    return pattern

                with model.edit({site: put}):
                    moved = float(model.measure([here], metric)) - float(base[pair])
                assert found == pytest.approx(moved, abs=1e-4)
    assert float(swept.effect.nan_to_num().abs().max()) > 1e-2


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_pattern_sweeps_equal_transformer_lens(make_tiny: Callable[..., Model], architecture: str) -> None:
    from transformer_lens import patching

    model = make_tiny(architecture)
    source, corrupt = torch.randint(5, 250, (2, 1, 6), generator=torch.Generator().manual_seed(1))
    measure = lambda logits: logits[0, -1, 5] - logits[0, -1, 8]  # noqa: E731
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(source)
        whole = patching.get_act_patch_attn_head_pattern_all_pos(model.bridge, corrupt, cache, measure)  # type: ignore[arg-type]
        rows = patching.get_act_patch_attn_head_pattern_by_pos(model.bridge, corrupt, cache, measure)  # type: ignore[arg-type]
        base = measure(model.bridge(corrupt))
    args = (model, source.tolist(), corrupt.tolist(), logit_difference([5], [8]), PATTERN)
    torch.testing.assert_close(patch_sweep(*args, by=("head",)).effect[0], whole.cpu() - base, atol=1e-5, rtol=1e-4)
    by_row = patch_sweep(*args, by=("head", "pos")).effect[0]
    torch.testing.assert_close(by_row, rows.cpu() - base, atol=1e-5, rtol=1e-4)
    assert float(by_row.abs().max()) > 1e-3


def test_the_gradients_estimate_of_a_pattern_is_exact_where_the_rest_is_linear(
    tiny_of: Callable[[str], Model], pairs: Any
) -> None:
    """The last block's pattern, everything behind it but the sum held: the estimate is the measured effect."""
    model = tiny_of("gpt2")
    source, corrupt = pairs
    site = "blocks.1.attn.hook_pattern"
    held = freeze(model.capture(corrupt, ["blocks.1.hook_mlp_out", "ln_final.hook_scale"]))
    with model.edit(held):
        for by in BY_HEAD:
            places = (model, source, corrupt, METRIC, site)
            swept, guessed = patch_sweep(*places, by=by), attribution_patch(*places, by=by)
            torch.testing.assert_close(guessed.effect, swept.effect, atol=1e-4, rtol=1e-3, equal_nan=True)
            assert float(swept.effect.nan_to_num().abs().max()) > 1e-2
    scores = attribution_patch(model, source, corrupt, METRIC, "blocks.1.attn.hook_attn_scores", by=("head",))
    assert bool(scores.effect.isfinite().all()), "what the mask hides does not move"


def test_misuse_is_one_line_with_both_layouts(tiny_gpt2: Model, pairs: Any) -> None:
    source, corrupt = pairs
    for settings, line in (
        ({"by": ("head",)}, "expected one activation a token and head"),
        ({"by": "head", "sites": Z}, "expected \\(\\), \\('pos',\\)"),
        ({"by": ("neuron",)}, "expected \\(\\), \\('pos',\\)"),
        ({"positions": [9]}, "position 9 is outside a prompt of 7 tokens"),
        ({"by": (), "positions": [0]}, "expected some positions, and 'pos' in `by`"),
        ({"positions": []}, "expected some positions"),
        ({"sites": ["blocks.0.attn.hook_pattern", RESID], "by": ("head",)}, "expected one activation a token and head"),
        ({"sites": "blocks.*.hook_resid_prr"}, "nearest"),
    ):
        with pytest.raises(UserError, match=line):
            patch_sweep(tiny_gpt2, source, corrupt, METRIC, **{"sites": RESID, **settings})
    for words in ([" Paris"], " Paris", [[1, 2], [3]]):
        with pytest.raises(UserError, match="expected token ids"):
            logit_difference(words, [8])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is sender and receiver"):
        path_patch(tiny_gpt2, source, corrupt, METRIC, "blocks.0.hook_mlp_out", "blocks.*.hook_mlp_out")
    with pytest.raises(UserError, match=r"token id 100000 .* has \d+ tokens"):
        patch_sweep(tiny_gpt2, source, corrupt, logit_difference([5, 100_000], [8, 9]), RESID)
    with pytest.raises(UserError, match="expected pairs"):
        patch_sweep(tiny_gpt2, source[:1], corrupt, METRIC, RESID)
    with pytest.raises(UserError, match=r"\|.* has 5 tokens, .*\|.* has 4"):
        patch_sweep(tiny_gpt2, [source[1]], [corrupt[1][:-1]], logit_difference([1], [2]), RESID)
    with pytest.raises(UserError, match="of other places"):
        correlation(
            patch_sweep(tiny_gpt2, source, corrupt, METRIC, RESID),
            patch_sweep(tiny_gpt2, source, corrupt, METRIC, "blocks.0.hook_resid_pre"),
        )
