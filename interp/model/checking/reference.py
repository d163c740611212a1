"""What plain transformers computes where a site is, for `interp.model.checking.parity` to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp.model.hooks.bridge import relative_gap
from interp.model.hooks.plain import find_tap, plain_module
from interp.model.hooks.taps import tapped
from interp.model.model import Model

Pair = tuple[str, str, Tensor, Tensor]  # site, what it is compared with, ours, theirs


def difference(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Absolute and relative; infinite where the sizes differ or ours are not finite where theirs are."""
    ours, theirs = ours.flatten(), theirs.flatten()
    finite = torch.isfinite(theirs) & (theirs > -1e30)  # not the scores above the diagonal
    if len(ours) != len(theirs) or not bool(finite.any()) or not bool(torch.isfinite(ours[finite]).all()):
        return float("inf"), float("inf")
    gap = float((ours - theirs)[finite].abs().max())
    return gap, gap / max(float(theirs[finite].abs().max()), 1e-12)


def against_reference(model: Model, acts: dict[str, Tensor], plain: dict[str, Tensor]) -> Iterator[Pair]:
    """Every site that plain transformers shows, ours beside theirs."""
    for site, ours in acts.items():
        origin = model.site_table.origin[site]
        if origin in plain:
            yield site, "plain transformers", ours, same_layout(ours, plain[origin])
    for layer in range(model.n_layers):
        fused = plain.get(f"blocks.{layer}.attn.qkv")
        if fused is not None:
            sites = [f"blocks.{layer}.attn.hook_{part}" for part in "qkv"]
            ours = [acts[site] for site in sites]
            for site, own, part in zip(sites, ours, _parted(model, fused, ours), strict=True):
                yield site, "plain transformers, one matrix", own, part


def _parted(model: Model, fused: Tensor, ours: list[Tensor]) -> tuple[Tensor, ...]:
    """q, k and v of one matrix, laid side by side (GPT-2) or group of heads by group of heads (NeoX, Bloom, Falcon).

    Which of the two is told by which fits better; in both, q stands before k and k before v. CodeGen, made for four
    TPU cores, has four groups with v before k.
    """
    (*_, heads, width), groups = ours[0].shape, ours[1].shape[-2]
    if heads % groups or (heads + 2 * groups) * width != fused.shape[-1]:
        return (fused,) * 3  # no layout fits what came as q, k and v: a difference without end
    if model.config.model_type == "codegen":
        q, v, k = fused.unflatten(-1, (4, 3, -1)).unbind(-2)
        return q, k, v
    grouped = fused.unflatten(-1, (groups, heads // groups + 2, width))
    layouts = (
        fused.split([heads * width, groups * width, groups * width], dim=-1),
        (grouped[..., :-2, :], grouped[..., -2, :], grouped[..., -1, :]),
    )
    return min(layouts, key=lambda parts: sum(difference(own, part)[0] for own, part in zip(ours, parts, strict=True)))


def same_layout(ours: Tensor, theirs: Tensor) -> Tensor:
    """Norms of q and k run before or after heads and positions swap places, and the bridge has its own mind on it."""
    if theirs.ndim != 4 or ours.ndim != 4:
        return theirs
    layouts = [t for t in (theirs, theirs.transpose(1, 2)) if t.shape == ours.shape] or [theirs]
    return min(layouts, key=lambda t: difference(ours, t)[0])


def plain_activations(model: Model, row: list[int]) -> dict[str, Tensor]:
    """One plain forward with hooks on every module that a site names; keys are the bridge's own names."""
    seen: dict[str, Tensor] = {}

    def keep(origin: str, value: Tensor) -> None:
        seen[origin] = value.detach().clone()

    with ExitStack() as stack:
        for origin in set(model.site_table.origin.values()):
            if (tap := find_tap(model.tree, origin)) is not None:
                stack.enter_context(tapped(tap, partial(keep, origin)))
        for layer in range(model.n_layers):
            _watch_fused(model, stack, f"blocks.{layer}.attn", ("q", "k", "v"), seen)
            _watch_fused(model, stack, f"blocks.{layer}.mlp", ("gate", "in"), seen)
        ids = torch.tensor([row], device=model.device)
        with torch.no_grad():
            usual = model.hf(ids, use_cache=False).logits
            with _eager(model):
                out = model.hf(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
            if relative_gap(out.logits, usual) > 1e-3:  # Falcon cannot switch, and computes nonsense when told to
                out = model.hf(ids, output_hidden_states=True, use_cache=False)
    attentions = getattr(out, "attentions", None) or ()
    for layer, pattern in enumerate(attentions):
        seen[f"blocks.{layer}.attn.hook_pattern"] = pattern
    if attentions:  # recurrent models count their hidden states in other ways
        for layer, resid in enumerate(out.hidden_states[:-1]):  # the last one is after the final norm
            seen[f"blocks.{layer}.hook_in"] = resid
    return seen


def _watch_fused(
    model: Model, stack: ExitStack, component: str, parts: tuple[str, ...], seen: dict[str, Tensor]
) -> None:
    """Some models compute q, k and v, or gate and in, by one matrix; the bridge gives each a hook of its own."""
    fused = plain_module(
        model.tree, f"{component}.qkv" if parts[0] == "q" else component, "" if parts[0] == "q" else "gate_up_proj"
    )
    if fused is None:
        return

    def hook(_: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        for part in parts:
            seen[f"{component}.{part}.hook_in"] = args[0]
        if parts[0] == "gate":
            for part, tensor in zip(parts, output.chunk(len(parts), dim=-1), strict=True):
                seen[f"{component}.{part}.hook_out"] = tensor
        else:
            seen[f"{component}.qkv"] = output

    stack.callback(fused.register_forward_hook(hook).remove)


@contextmanager
def _eager(model: Model) -> Iterator[None]:
    before = model.hf.config._attn_implementation or "eager"
    model.hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)
