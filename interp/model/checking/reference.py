"""Every site that plain transformers shows, the hooked value beside the plain one, for `parity`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from interp.model.checking.noted import AttentionCall, PlainRun, positions_first
from interp.model.hooks.plain import plain_module
from interp.model.model import Model

Pair = tuple[str, str, Tensor, Tensor]  # site, what it is compared with, the value under test, what it should be
RELATIVE = 1e-5  # fp32: largest difference over the largest value of the reference
LATENTS = {"hook_q_latent": "q_a_layernorm", "hook_kv_latent": "kv_a_layernorm"}  # of multi-head latent attention


class Read:
    """What the hooks showed of one prompt: a site by any of its names, positions before heads."""

    def __init__(self, model: Model, acts: dict[str, Tensor]) -> None:
        table = model.tree.site_table
        self.by_site = {site: positions_first(tensor, table.axes[site]) for site, tensor in acts.items()}
        self._listed = {table.origin[site]: site for site in acts}
        self._origin = table.origin

    def listed(self, name: str) -> str | None:
        """The name under which the site was captured; None where the model has no such site."""
        return self._listed.get(self._origin.get(name, name))

    def get(self, name: str) -> Tensor | None:
        """The value at a site; None where the model has none."""
        site = self.listed(name)
        return None if site is None else self.by_site[site]

    def origin(self, name: str) -> str:
        """The bridge's own name of the place, under which plain transformers shows it."""
        return self._origin.get(name, name)


def difference(value: Tensor, right: Tensor) -> tuple[float, float]:
    """Absolute and relative; infinite where the sizes differ or the value is not finite where what is right is."""
    value, right = value.flatten(), right.flatten()
    finite = torch.isfinite(right) & (right > -1e30)  # not the scores above the diagonal
    if len(value) != len(right) or not bool(finite.any()) or not bool(torch.isfinite(value[finite]).all()):
        return float("inf"), float("inf")
    gap = float((value - right)[finite].abs().max())
    return gap, gap / max(float(right[finite].abs().max()), 1e-12)


def against_reference(model: Model, read: Read, plain: PlainRun) -> Iterator[Pair]:
    """Every site that plain transformers shows: what the hooks have there beside what the plain model has."""
    for site, value in read.by_site.items():
        right = plain.seen.get(read.origin(site))
        if right is not None:
            yield site, "plain transformers", value, right
    for layer in range(model.n_layers):
        yield from _fused(model, read, plain, layer)
        yield from _scaled_parts(read, plain, layer)
        yield from _inside_attention(model, read, plain, layer)
    for i, part in enumerate(("cos", "sin")):
        yield from _made_table(read, f"rotary_emb.hook_{part}", [table[i] for table in plain.made])


def _made_table(read: Read, name: str, made: list[Tensor]) -> Iterator[Pair]:
    """A rotary table, where plain transformers makes several in no promised order: the one that fits."""
    shown = read.get(name)
    if made and shown is not None:
        value = shown
        right = min(made, key=lambda table: difference(value, table))
        yield from _one(read, name, "a rotary table of plain transformers", right)


def _one(read: Read, name: str, what: str, right: Tensor) -> Iterator[Pair]:
    site = read.listed(name)
    if site is not None:
        yield site, what, read.by_site[site], right


def _inside_attention(model: Model, read: Read, plain: PlainRun, layer: int) -> Iterator[Pair]:
    """Patterns, rotary tables, and what was handed to the function that computes attention."""
    a = f"blocks.{layer}.attn"
    if layer in plain.patterns:
        yield from _one(read, f"{a}.hook_pattern", "plain transformers", plain.patterns[layer])
    for part, right in zip(("cos", "sin"), plain.tables.get(layer, ()), strict=False):
        yield from _one(read, f"{a}.hook_{part}", "the rotary table that this layer gets", right)
    q_out, gate = plain.seen.get(f"{a}.q.hook_out"), read.get(f"{a}.hook_q_gate")
    if q_out is not None and gate is not None and q_out.shape[-1] == 2 * gate.shape[-1] and layer in plain.patterns:
        heads = plain.patterns[layer].shape[1]  # each head's query, then its gate
        yield from _one(read, f"{a}.hook_q_gate", "plain transformers", q_out.unflatten(-1, (heads, 2, -1))[..., 1, :])
    call = plain.calls.get(layer)
    if call is None:
        return
    rotated = getattr(plain_module(model.tree, a), "qk_rope_head_dim", None)  # latent attention turns these columns
    for part, tensor in (("q", call.query), ("k", call.key)):
        whole = tensor.transpose(1, 2)
        turned = whole if rotated is None else whole[..., -rotated:]
        shown = read.get(f"{a}.hook_rot_{part}")
        if shown is not None and rotated is not None and shown.shape[2] == 1:
            turned = turned[:, :, :1]  # one rotated key, given to all heads
        yield from _one(read, f"{a}.hook_rot_{part}", "what plain attention is given", turned)
        if rotated is not None:
            yield from _one(read, f"{a}.hook_{part}", "what plain attention is given", whole)
    if rotated is not None:
        yield from _one(read, f"{a}.hook_v", "what plain attention is given", call.value.transpose(1, 2))
        for name, norm in LATENTS.items():
            if (latent := plain.seen.get(f"{a}.{norm}.hook_out")) is not None:
                yield from _one(read, f"{a}.{name}", "plain transformers", latent)
    if plain_scores_hold(call) and (shown := read.get(f"{a}.hook_attn_scores")) is not None:
        right, seen = call.scores(), call.weights > 0
        if shown.shape == right.shape:
            yield f"{a}.hook_attn_scores", "q · k of plain attention", shown[seen], right[seen]
    if call.mask is not None and (shown := read.get(f"{a}.hook_dsa_mask")) is not None:
        right = call.mask[0, 0] > -1
        yield f"{a}.hook_dsa_mask", "the mask of plain attention", (shown[0] > -1).tril().float(), right.float()


def plain_scores_hold(call: AttentionCall) -> bool:
    """Is softmax of q · k of plain attention its pattern, up to what the rows sum to? Else there is more in it."""
    scores = call.scores()
    if scores.shape != call.weights.shape:
        return False
    rows = call.weights.sum(-1, keepdim=True)
    pattern = scores.masked_fill(call.weights == 0, float("-inf")).softmax(-1) * rows
    return difference(pattern, call.weights)[1] < RELATIVE


def _scaled_parts(read: Read, plain: PlainRun, layer: int) -> Iterator[Pair]:
    """What a block adds where it scales the outputs of attention and MLP first (Granite), which no module shows."""
    parts = {"hook_attn_out": "attn.hook_out", "hook_mlp_out": "mlp.hook_out"}
    b = f"blocks.{layer}"
    if all(read.origin(f"{b}.{name}") in plain.seen or read.get(f"{b}.{name}") is None for name in parts):
        return
    factors = plain.residual_factors(layer)
    for (name, module), factor in zip(parts.items(), factors or (), strict=False):
        what = f"plain transformers, times {factor:.4g} as its block adds it"
        yield from _one(read, f"{b}.{name}", what, factor * plain.seen[f"{b}.{module}"])


def _fused(model: Model, read: Read, plain: PlainRun, layer: int) -> Iterator[Pair]:
    sites = [f"blocks.{layer}.attn.hook_{part}" for part in "qkv"]
    shown = [read.get(site) for site in sites]
    if f"blocks.{layer}.attn.qkv" not in plain.seen or any(value is None for value in shown):
        return
    values = [value for value in shown if value is not None]
    for site, value, part in zip(sites, values, parted(plain, layer, values), strict=True):
        yield read.listed(site) or site, "plain transformers, one matrix", value, part


def parted(plain: PlainRun, layer: int, shown: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of one matrix, laid side by side (GPT-2), group of heads by group of heads (NeoX, Bloom, Falcon), or
    in four groups with v before k (CodeGen, made for four TPU cores).

    The plain model says which: the one whose v, mixed by its own pattern, is its own z. Where none is (a clip stands
    between), or it shows no pattern, the one that fits what the hooks show.
    """
    fused = plain.seen[f"blocks.{layer}.attn.qkv"]
    (*_, heads, width), groups = shown[0].shape, shown[1].shape[-2]
    if heads % groups or (heads + 2 * groups) * width != fused.shape[-1]:
        return fused, fused, fused  # no layout fits what came as q, k and v: a difference without end
    grouped = fused.unflatten(-1, (groups, heads // groups + 2, width))
    sizes = [heads * width, groups * width, groups * width]
    q, k, v = (t.unflatten(-1, (-1, width)) for t in fused.split(sizes, dim=-1))
    layouts = [(q, k, v), (grouped[..., :-2, :].flatten(-3, -2), grouped[..., -2, :], grouped[..., -1, :])]
    if heads == groups and heads % 4 == 0:
        q, v, k = (t.flatten(-2).unflatten(-1, (-1, width)) for t in fused.unflatten(-1, (4, 3, -1)).unbind(-2))
        layouts.append((q, k, v))
    pattern, z = plain.patterns.get(layer), plain.seen.get(f"blocks.{layer}.attn.o.hook_in")
    if pattern is not None and z is not None:
        for layout in layouts:
            if difference(mixed(pattern, layout[2]), z)[1] < RELATIVE:
                return layout
    return min(layouts, key=lambda parts: sum(difference(v, part)[0] for v, part in zip(shown, parts, strict=True)))


def mixed(pattern: Tensor, v: Tensor) -> Tensor:
    """Pattern @ v: values [prompt, pos, head, d_head] as attention adds them up; empty where the sizes do not fit."""
    heads, groups = pattern.shape[1], v.shape[2] if v.ndim == 4 else 0
    if not groups or heads % groups or pattern.shape[-1] != v.shape[1]:
        return v.new_empty(0)
    v = v.repeat_interleave(heads // groups, dim=2)  # grouped-query attention shares v between heads
    return torch.einsum("bhqk,bkhd->bqhd", pattern, v)
