"""Identities that hold among the sites of any transformer, for `parity`: they need no reference."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from interp.model.checking.reference import Pair, same_layout
from interp.model.hooks.plain import plain_module
from interp.model.model import Model


def identities_of(model: Model, acts: dict[str, Tensor]) -> Iterator[Pair]:
    """Identities among captured sites; each yields (site, identity, left side, right side)."""
    for layer in range(model.n_layers):
        b = f"blocks.{layer}"
        get = lambda name, b=b: acts.get(f"{b}.{name}")  # noqa: E731
        pre, attn, mlp, post = (get(f"hook_{n}") for n in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
        if pre is not None and attn is not None and mlp is not None and post is not None:
            yield f"{b}.hook_resid_post", "resid_pre + attn_out + mlp_out", post, pre + attn + mlp
        if layer + 1 < model.n_layers and post is not None:
            yield f"{b}.hook_resid_post", "next resid_pre", post, acts[f"blocks.{layer + 1}.hook_resid_pre"]
        pattern, v, z = get("attn.hook_pattern"), get("attn.hook_v"), get("attn.hook_z")
        if pattern is not None and v is not None and z is not None:
            v = v.repeat_interleave(z.shape[2] // v.shape[2], dim=2)  # grouped-query attention shares v between heads
            mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
            for site in ("z", "pattern"):
                yield f"{b}.attn.hook_{site}", "pattern @ v = z", z, mixed
        scores = get("attn.hook_attn_scores")
        if scores is not None and pattern is not None:
            seen = scores.masked_fill(pattern == 0, float("-inf"))  # some models mask after this hook, some before
            yield f"{b}.attn.hook_attn_scores", "softmax = pattern", seen.softmax(-1), pattern
        yield from _rotary_invariants(model, layer, acts)
    by_origin = {model.site_table.origin[site]: tensor for site, tensor in acts.items()}
    for norm in [site.removesuffix(".hook_normalized") for site in acts if site.endswith(".hook_normalized")]:
        yield from _norm_invariants(acts, norm, by_origin.get(f"{norm}.hook_in"))


def _rotary_invariants(model: Model, layer: int, acts: dict[str, Tensor]) -> Iterator[Pair]:
    """Rotating keeps lengths, and rotated q times rotated k, scaled, are the scores (capped in Gemma 2)."""
    b = f"blocks.{layer}"
    for part in "qk":
        turned, straight = acts.get(f"{b}.attn.hook_rot_{part}"), acts.get(f"{b}.attn.hook_{part}")
        normed, out = acts.get(f"{b}.attn.hook_{part}_normed"), acts.get(f"{b}.attn.{part}_norm.hook_out")
        if normed is not None and out is not None:
            yield f"{b}.attn.hook_{part}_normed", "the norm's output", normed, out
            straight = same_layout(turned, normed) if turned is not None else None
        if turned is not None and straight is not None and straight.shape == turned.shape:
            yield f"{b}.attn.hook_rot_{part}", "keeps norms", turned.norm(dim=-1), straight.norm(dim=-1)
    q, k, scores, pattern = (acts.get(f"{b}.attn.hook_{n}") for n in ("rot_q", "rot_k", "attn_scores", "pattern"))
    if q is not None and k is not None and scores is not None and pattern is not None:
        k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
        scale = getattr(plain_module(model.tree, f"{b}.attn"), "scaling", q.shape[-1] ** -0.5)
        product = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
        if (cap := getattr(model.config, "attn_logit_softcapping", None)) is not None:
            product = cap * torch.tanh(product / cap)
        for part in "qk":
            yield f"{b}.attn.hook_rot_{part}", "rot_q · rot_k = scores", product[pattern > 0], scores[pattern > 0]
    for part in ("cos", "sin"):
        here, first = acts.get(f"{b}.attn.hook_{part}"), acts.get(f"rotary_emb.hook_{part}")
        if here is not None and first is not None:
            yield f"{b}.attn.hook_{part}", "the model's rotary table", here, first
            yield f"rotary_emb.hook_{part}", "every layer's rotary table", first, here


def _norm_invariants(acts: dict[str, Tensor], norm: str, x: Tensor | None) -> Iterator[Pair]:
    """The input (centred in a LayerNorm) divided by scale is normalized, whose mean square is 1."""
    scale, normalized = acts.get(f"{norm}.hook_scale"), acts.get(f"{norm}.hook_normalized")
    if x is None or scale is None or normalized is None:
        return
    centred = x - x.mean(-1, keepdim=True)
    is_layer_norm = bool((normalized.mean(-1).abs() < 1e-4).all())
    rebuilt = (centred if is_layer_norm else x) / scale
    yield f"{norm}.hook_normalized", "x / scale", normalized, rebuilt
    yield f"{norm}.hook_scale", "root mean square of x", scale * normalized, centred if is_layer_norm else x
