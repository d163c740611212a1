"""Capture: against forward hooks on plain transformers, whatever the padding, the batch and its mates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from compare import far, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import PLACES
from torch import Tensor

from interp import Model
from interp.model.hooks.tokens import Side

PROMPTS = ["The capital of France is Paris, and", "Mary", "John gave a drink to the lazy dog; Rome is"]
SIDES: list[Side] = ["right", "left"]
ids_lists = st.lists(st.lists(st.integers(0, 290), min_size=1, max_size=12), min_size=1, max_size=5)
SITES = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_pattern", "blocks.1.attn.hook_q", "blocks.*.mlp.hook_post"]
# ALiBi's scores are relative to the padded length here; softmax takes the constant out again
SHIFTED = {"mpt": "attn_scores"}


@contextmanager
def watching(module: torch.nn.Module, seen: dict[str, Tensor], name: str, read_input: bool = False) -> Iterator[None]:
    """A plain forward hook: what goes into a module, or comes out of it."""

    def hook(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        value = (args[0] if args else kwargs["hidden_states"]) if read_input else out
        seen[name] = (value[0] if isinstance(value, tuple) else value).detach().clone()

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("architecture", PLACES)
def test_capture_equals_plain_forward_hooks(tiny_of: Callable[[str], Model], architecture: str):
    model, places = tiny_of(architecture), PLACES[architecture]
    blocks: Any = model.hf.get_submodule(places.blocks)
    acts = model.capture(PROMPTS, "*")
    for i, row in enumerate(model.encode(PROMPTS)):
        seen: dict[str, Tensor] = {}
        with torch.no_grad(), watching(model.hf.get_submodule(places.final_norm), seen, "ln_final.hook_in", True):
            for layer, block in enumerate(blocks):
                b = f"blocks.{layer}"
                with (
                    watching(block, seen, f"{b}.hook_resid_pre", read_input=True),
                    watching(block, seen, f"{b}.hook_resid_post"),
                    watching(block.get_submodule(places.attn_out), seen, f"{b}.hook_attn_out"),
                    watching(block.get_submodule(places.mlp_out), seen, f"{b}.hook_mlp_out"),
                ):
                    model.hf(torch.tensor([row]), use_cache=False)
        assert len(seen) == 9
        for site, theirs in seen.items():
            if architecture == "mixtral" and site.endswith("hook_mlp_out"):
                continue  # its experts see tokens without their prompts: not a site
            assert far(rows_of(acts, site, i), theirs.reshape(len(row), -1)) < 1e-4, site


@pytest.mark.parametrize("architecture", [*PLACES, "mamba"])
def test_logits_are_plain_transformers_logits(tiny_of: Callable[[str], Model], architecture: str):
    model = tiny_of(architecture)
    ids = model.encode(PROMPTS)
    with torch.no_grad():
        plain = [model.hf(torch.tensor([row])).logits[0] for row in ids]
    for side in SIDES:
        logits = model.logits(PROMPTS, padding=side, batch_size=2)
        assert int(logits.isnan().all(-1).sum()) == logits[..., 0].numel() - sum(map(len, ids))
        for i, row in enumerate(ids):
            real = slice(len(row)) if side == "right" else slice(-len(row), None)
            assert far(logits[i, real], plain[i]) < 1e-4
    last = model.last_logits(PROMPTS)
    assert far(last, torch.stack([p[-1] for p in plain])) < 1e-4


@pytest.mark.parametrize("architecture", [*PLACES, "mamba"])
@pytest.mark.parametrize("side", SIDES)
def test_neither_padding_nor_batch_mates_change_any_site(tiny_of: Callable[[str], Model], architecture: str, side: Any):
    model = tiny_of(architecture)
    together = model.capture(PROMPTS, "*", padding=side)
    for i, row in enumerate(model.encode(PROMPTS)):
        alone = model.capture([row], "*")
        for site in alone:
            if side == "right" and site.endswith(SHIFTED.get(architecture, "no such site")):
                continue
            assert far(rows_of(together, site, i), alone[site][0]) < 1e-4, site


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=ids_lists, batch_size=st.integers(1, 6), side=st.sampled_from(SIDES))
def test_any_batch_gives_what_each_prompt_gives_alone(
    tiny_of: Callable[[str], Model], architecture: str, prompts: list[list[int]], batch_size: int, side: Any
):
    model = tiny_of(architecture)
    acts = model.capture(prompts, SITES, batch_size=batch_size, padding=side)
    assert acts.mask.sum(-1).tolist() == list(map(len, prompts))
    assert [row[row >= 0].tolist() for row in acts.ids] == prompts
    for i, row in enumerate(prompts):
        alone = model.capture([row], SITES)
        for site in alone:
            assert far(rows_of(acts, site, i), alone[site][0]) < 1e-4
            numbers = int((~acts[site][i].isnan()).sum())
            assert numbers == alone[site].numel(), "padding must be NaN on every pos axis, and only padding"


@pytest.mark.parametrize("side", SIDES)
def test_on_the_bundled_model_padding_and_batches_stay_within_the_promise(smol: Model, side: Any):
    """1e-3, but at attention sinks, where values reach 25,000 and cancel again, 1e-5 of the largest."""
    prompts = [*PROMPTS, "4", "def add(a, b):\n    return a + b"]
    sites = ["blocks.*.hook_resid_post", "blocks.29.attn.hook_z", "blocks.15.attn.hook_pattern"]
    acts = smol.capture(prompts, sites, padding=side, batch_size=3)
    layers: Any = smol.hf.get_submodule("model.layers")
    for i, row in enumerate(smol.encode(prompts)):
        alone = smol.capture([row], sites)
        stream = torch.stack([alone[f"blocks.{layer}.hook_resid_post"][0] for layer in range(30)])
        largest = stream.abs().amax((0, 2))
        sink = largest > 2000
        assert len(row) == 1 or int(sink.sum()) <= 2, "sinks are few"
        bound = torch.where(sink, 1e-5 * largest, 1e-3)
        together = torch.stack([rows_of(acts, f"blocks.{layer}.hook_resid_post", i) for layer in range(30)])
        assert bool(((together - stream).abs().amax((0, 2)) <= bound).all())
        for site in sites[1:]:
            assert far(rows_of(acts, site, i), alone[site][0]) < 1e-3
        seen: dict[str, Tensor] = {}
        with torch.no_grad(), watching(layers[12], seen, "plain"):
            smol.hf(torch.tensor([row]))
        assert bool(((together[12] - seen["plain"][0]).abs().amax(1) <= bound).all())


def test_heads_are_told_apart(smol: Model):
    """The projections, cut into heads by hand: 9 query heads, 3 of keys and values."""
    row = smol.encode(PROMPTS)[0]
    names = ["hook_q", "hook_k", "hook_v", "hook_z"]
    acts = smol.capture([row], [f"blocks.3.attn.{n}" for n in names])
    layer: Any = smol.hf.get_submodule("model.layers.3.self_attn")
    seen: dict[str, Tensor] = {}
    with (
        torch.no_grad(),
        watching(layer.q_proj, seen, "hook_q"),
        watching(layer.k_proj, seen, "hook_k"),
        watching(layer.v_proj, seen, "hook_v"),
        watching(layer.o_proj, seen, "hook_z", read_input=True),
    ):
        smol.hf(torch.tensor([row]))
    for name, heads in zip(names, [9, 3, 3, 9], strict=True):
        ours = acts[f"blocks.3.attn.{name}"]
        assert ours.shape == (1, len(row), heads, 64)
        for head in range(heads):
            assert far(ours[0, :, head], seen[name][0, :, 64 * head : 64 * head + 64]) < 1e-3
