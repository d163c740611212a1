"""Identities among the sites of a transformer, for `parity`, each asked only where the model promises it.

Whether it does is asked of plain transformers, never of the hooks under test: an identity is promised in a layer unless
the plain model's own values, read by forward hooks, break it there. What is not asked is noted with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from interp.model.checking.noted import PlainRun
from interp.model.checking.reference import (
    RELATIVE,
    Pair,
    Read,
    difference,
    mixed,
    parted,
)
from interp.model.hooks.plain import plain_module
from interp.model.model import Model

ADDS_UP = "resid_pre + attn_out + mlp_out"
MIXES = "pattern @ v = z"
SOFTMAX = "softmax = pattern"
KEEPS = "keeps norms"
SCORES = "rot_q · rot_k = scores"


class NotAsked:
    """What is not asked, layer by layer, and why."""

    def __init__(self) -> None:
        self._why: dict[str, dict[int, str]] = {}

    def note(self, what: str, layer: int, reason: str) -> None:
        """Keep the first reason that comes: prompts differ in numbers only."""
        self._why.setdefault(what, {}).setdefault(layer, reason)

    def layers(self, what: str) -> set[int]:
        """The layers where it is not asked."""
        return set(self._why.get(what, ()))

    def reasons(self) -> dict[str, str]:
        """One line for each thing that is not asked, with its layers."""
        lines: dict[str, str] = {}
        for what, why in self._why.items():
            layers = sorted(why)
            where = f", layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}" if layers[0] >= 0 else ""
            lines[what + where] = why[layers[0]]
        return lines


def identities_of(model: Model, read: Read, plain: PlainRun, not_asked: NotAsked) -> Iterator[Pair]:
    """Identities among captured sites; each yields (site, identity, left side, right side)."""
    for layer in range(model.n_layers):
        yield from _residual_stream(model, read, plain, layer, not_asked)
        yield from _mixing(read, plain, layer, not_asked)
        yield from _softmax(read, plain, layer, not_asked)
        yield from _rotation(model, read, plain, layer, not_asked)
    for norm in [site.removesuffix(".hook_normalized") for site in read.by_site if site.endswith(".hook_normalized")]:
        yield from _norm(model, read, norm)


def _missing(read: Read, layer: int, what: str, names: list[str], not_asked: NotAsked) -> bool:
    """Does the layer lack one of the sites? Noted where it has another: then a reader expects the identity."""
    lacking = [name for name in names if read.get(f"blocks.{layer}.{name}") is None]
    if lacking and len(lacking) < len(names):
        not_asked.note(what, layer, f"there is no {', '.join(lacking)}")
    return bool(lacking)


def _residual_stream(model: Model, read: Read, plain: PlainRun, layer: int, not_asked: NotAsked) -> Iterator[Pair]:
    b, names = f"blocks.{layer}", [f"hook_{n}" for n in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    post, following = read.get(f"{b}.hook_resid_post"), read.get(f"blocks.{layer + 1}.hook_resid_pre")
    if post is not None and following is not None:
        yield f"{b}.hook_resid_post", "next resid_pre", post, following
    if _missing(read, layer, ADDS_UP, names, not_asked):
        return
    pre, attn, mlp, post = (read.by_site[read.listed(f"{b}.{name}") or ""] for name in names)
    own = [plain.seen.get(read.origin(f"{b}.{name}")) for name in names]
    if all(value is not None for value in own):
        before, adds, more, after = (value for value in own if value is not None)
        parts = [before, *(part.reshape(before.shape) for part in (adds, more) if part.numel() == before.numel())]
        gap = difference(torch.stack(parts).sum(0), after)[1]  # OPT's fc2 gives all positions in one row
        if len(parts) < 3 or not gap < RELATIVE:
            not_asked.note(
                ADDS_UP,
                layer,
                f"plain transformers' own block is no such sum (off by {gap:.0%} of the largest): it adds more, or "
                "norms or scales what it adds",
            )
            return
    yield f"{b}.hook_resid_post", ADDS_UP, post, pre + attn + mlp


def _plain_v(read: Read, plain: PlainRun, layer: int) -> Tensor | None:
    """The plain model's own v, [prompt, pos, head, d_head]."""
    a = f"blocks.{layer}.attn"
    shown = [read.get(f"{a}.hook_{part}") for part in "qkv"]
    call = plain.calls.get(layer)
    if f"{a}.qkv" in plain.seen and all(value is not None for value in shown):
        return parted(plain, layer, [value for value in shown if value is not None])[2]
    v = plain.seen.get(read.origin(f"{a}.hook_v"))
    if v is not None and v.ndim == 3 and call is not None and v.shape[-1] % call.value.shape[-1] == 0:
        return v.unflatten(-1, (-1, call.value.shape[-1]))
    if v is not None and v.ndim == 3 and shown[2] is not None and v.numel() == shown[2].numel():
        return v.reshape(shown[2].shape)
    return v


def _mixing(read: Read, plain: PlainRun, layer: int, not_asked: NotAsked) -> Iterator[Pair]:
    a, names = f"blocks.{layer}.attn", ["attn.hook_pattern", "attn.hook_v", "attn.hook_z"]
    pattern = read.get(f"{a}.hook_pattern")
    if pattern is None or _missing(read, layer, MIXES, names, not_asked):
        return
    v, z = read.get(f"{a}.hook_v"), read.get(f"{a}.hook_z")
    assert v is not None
    assert z is not None
    own, own_v, own_z = plain.patterns.get(layer), _plain_v(read, plain, layer), plain.seen.get(f"{a}.o.hook_in")
    if own is not None and z.ndim == 4:
        shown, right = (torch.tensor([float(heads)]) for heads in (z.shape[2], own.shape[1]))
        yield f"{a}.hook_z", "as many heads as the plain pattern", shown, right
    if own is not None and own_v is not None and own_z is not None:
        gap = difference(mixed(own, own_v), own_z)[1]
        if not gap < RELATIVE:
            not_asked.note(
                MIXES,
                layer,
                f"plain transformers' own pattern @ v is not what its output matrix reads (off by {gap:.0%} of the "
                "largest): a clip, a norm or a gate stands between",
            )
            return
    for site in ("z", "pattern"):
        yield f"{a}.hook_{site}", MIXES, z, mixed(pattern, v)


def _softmax(read: Read, plain: PlainRun, layer: int, not_asked: NotAsked) -> Iterator[Pair]:
    site, pattern = f"blocks.{layer}.attn.hook_attn_scores", read.get(f"blocks.{layer}.attn.hook_pattern")
    scores, own = read.get(site), plain.patterns.get(layer)
    if pattern is None or scores is None:
        if pattern is not None:
            not_asked.note(SOFTMAX, layer, "there is no hook_attn_scores")
        return
    masked = pattern if own is None or own.shape != scores.shape else own
    softmax = scores.masked_fill(masked == 0, float("-inf")).softmax(-1)  # the mask may come after this hook
    rows = None if own is None else own.sum(-1, keepdim=True)
    if rows is None or rows.shape[:-1] != softmax.shape[:-1] or bool(((rows - 1).abs() < RELATIVE).all()):
        yield site, SOFTMAX, softmax, pattern
        return
    not_asked.note(
        SOFTMAX,
        layer,
        f"the rows of plain transformers' own pattern sum to {float(rows.min()):.2f} to {float(rows.max()):.2f} "
        "(a sink takes the rest); asked instead: softmax times that sum = pattern",
    )
    yield site, "softmax, times the plain row's sum = pattern", softmax * rows, pattern


def _rotation(model: Model, read: Read, plain: PlainRun, layer: int, not_asked: NotAsked) -> Iterator[Pair]:
    """Rotating keeps lengths, and rotated q times rotated k, scaled, are the scores (capped in Gemma 2)."""
    a = f"blocks.{layer}.attn"
    for part in "qk":
        yield from _kept_norms(model, read, plain, layer, part, not_asked)
    q, k, scores, pattern = (read.get(f"{a}.hook_{n}") for n in ("rot_q", "rot_k", "attn_scores", "pattern"))
    if q is None or k is None or scores is None or pattern is None:
        return
    module, call = plain_module(model.tree, a), plain.calls.get(layer)
    if call is not None and getattr(module, "qk_rope_head_dim", call.query.shape[-1]) != call.query.shape[-1]:
        not_asked.note(SCORES, layer, "latent attention rotates some columns of q and k only, and all make the scores")
        return
    scale = call.scaling if call is not None else getattr(module, "scaling", q.shape[-1] ** -0.5)
    cap = call.cap if call is not None else getattr(model.config, "attn_logit_softcapping", None)
    product = q.new_empty(0)
    if q.shape[2] % k.shape[2] == 0:
        k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
        product = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale if q.shape == k.shape else product
    if cap is not None:
        product = cap * torch.tanh(product / cap)
    fits = product.shape == scores.shape == pattern.shape
    for part in "qk":
        pair = (product[pattern > 0], scores[pattern > 0]) if fits else (product, scores)
        yield f"{a}.hook_rot_{part}", SCORES, *pair
    for part in ("cos", "sin"):
        here, first = read.get(f"{a}.hook_{part}"), read.get(f"rotary_emb.hook_{part}")
        if here is not None and first is not None and layer not in plain.tables:
            yield f"{a}.hook_{part}", "the model's rotary table", here, first


def _kept_norms(
    model: Model, read: Read, plain: PlainRun, layer: int, part: str, not_asked: NotAsked
) -> Iterator[Pair]:
    a = f"blocks.{layer}.attn"
    straight_name = f"{a}.hook_{part}"
    turned, straight = read.get(f"{a}.hook_rot_{part}"), read.get(straight_name)
    normed, out = read.get(f"{a}.hook_{part}_normed"), read.get(f"{a}.{part}_norm.hook_out")
    if normed is not None and out is not None:
        yield f"{a}.hook_{part}_normed", "the norm's output", normed, out
        straight_name, straight = f"{a}.{part}_norm.hook_out", normed
    if turned is None or straight is None:
        return
    if straight.numel() == turned.numel():
        straight = straight.reshape(turned.shape)
    if straight.shape != turned.shape and hasattr(plain_module(model.tree, a), "qk_rope_head_dim"):
        not_asked.note(KEEPS, layer, "latent attention rotates some columns of q and k only")
        return
    call, own = plain.calls.get(layer), plain.seen.get(read.origin(straight_name))
    given = None if call is None else (call.query if part == "q" else call.key).transpose(1, 2)
    if given is not None and own is not None and own.numel() == given.numel():
        gap = difference(given.norm(dim=-1), own.reshape(given.shape).norm(dim=-1))[1]
        if not gap < RELATIVE:
            not_asked.note(
                KEEPS,
                layer,
                f"plain transformers itself changes the lengths of q and k on the way (by {gap:.0%} of the largest): "
                "its rotary table scales them, or they are clipped or scaled",
            )
            return
    yield f"{a}.hook_rot_{part}", KEEPS, turned.norm(dim=-1), straight.norm(dim=-1)
    if own is None:  # nothing else checks what is rotated
        yield read.listed(straight_name) or straight_name, KEEPS, straight.norm(dim=-1), turned.norm(dim=-1)


def _norm(model: Model, read: Read, norm: str) -> Iterator[Pair]:
    """The input (centred in a LayerNorm) divided by scale is normalized, whose mean square is 1."""
    x, scale, normalized = (read.get(f"{norm}.hook_{end}") for end in ("in", "scale", "normalized"))
    if x is None or scale is None or normalized is None:
        return
    centred = x - x.mean(-1, keepdim=True)
    x = centred if _centres(plain_module(model.tree, norm), x, normalized) else x
    yield f"{norm}.hook_normalized", "x / scale", normalized, x / scale
    yield f"{norm}.hook_scale", "root mean square of x", scale * normalized, x


@torch.no_grad()
def _centres(module: torch.nn.Module | None, x: Tensor, normalized: Tensor) -> bool:
    """Is it a LayerNorm? Asked of the plain module: one that centres does not see a constant in its input."""
    try:
        assert module is not None
        noise = torch.linspace(-1, 1, x.shape[-1], device=x.device, dtype=x.dtype).sin().expand(1, 1, -1)
        return difference(module(noise + 0.5), module(noise))[1] < 1e-3
    except (AssertionError, TypeError, RuntimeError, ValueError, AttributeError):  # it takes more than its input
        return bool((normalized.mean(-1).abs() < 1e-4).all())
