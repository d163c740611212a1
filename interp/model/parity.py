"""Does every site carry what its name says? Hooks against plain transformers, site by site.

Four kinds of evidence, so that no shared mistake can hide:

- reference: forward hooks on the plain Hugging Face modules (eager attention) see the same tensors as our sites;
- invariants that need no reference: resid_pre + attn_out + mlp_out = resid_post, pattern @ v = z,
  softmax(scores) = pattern, norm(x) / scale = normalized;
- behaviour: a padded batch gives what each prompt gives alone, logits are plain transformers', and an edit at a site
  of every kind reaches them or is refused;
- planted faults that must be found: one MLP's output scaled by 1.01, and a site read one layer off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.bridge import module_path, relative_gap
from interp.model.hooks import Site
from interp.model.model import Model
from interp.model.sites import kind_of
from interp.model.tokens import Prompts

PROMPTS = (
    "Here is a fact. The capital of France is Paris, and 4 is an even number.",
    "Once upon a time, a small dog lived by the sea.",
    "def add(a, b):\n    return a + b\n",
)
Progress = Callable[[str, int, int], None]
RELATIVE = 1e-5  # fp32: largest difference over the largest value of the reference
BATCHED = 1e-4  # the same where another shape of batch may choose other kernels
ABSOLUTE_RESIDUAL = 1e-3  # and at residual sites, whose norms reach 25,000, this bound too


@dataclass(frozen=True)
class KindResult:
    """The largest difference over all sites of one kind. `relative` is to the largest value of the reference."""

    kind: str
    reference: str
    n_sites: int
    absolute: float
    relative: float

    @property
    def ok(self) -> bool:
        """Within tolerance; NaN is not."""
        return self.relative < RELATIVE and (self.absolute < ABSOLUTE_RESIDUAL or "hook_resid" not in self.kind)


@dataclass(frozen=True)
class ParityResult:
    """All kinds, what the model must do and whether it does, the planted faults with whether each was found, and the
    sites that nothing checks."""

    kinds: tuple[KindResult, ...]
    behaviour: dict[str, bool]
    faults: dict[str, bool]
    unchecked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Every kind within tolerance, all behaviour right, every planted fault found, no site unchecked."""
        told = [*self.behaviour.values(), *self.faults.values()]
        return all(k.ok for k in self.kinds) and all(told) and not self.unchecked


def check_parity(model: Model, prompts: Prompts = PROMPTS, *, progress: Progress | None = None) -> ParityResult:
    """Compare every capturable site with plain transformers; see the module docstring.

    There each prompt runs alone, so that padding cannot excuse a difference. `progress` gets (what, done, of how many).
    Raises UserError for a model not in fp32.
    """
    if model.hf.dtype != torch.float32:
        raise UserError(f"parity needs fp32, and this model is in {model.hf.dtype}; load it with dtype='fp32'")
    rows = model.encode(prompts)
    tell = progress or (lambda what, done, total: None)
    checked, kinds = _compare(model, rows, tell=tell)
    _, scaled = _compare(model, rows[:1], edit_layer=model.n_layers // 2)
    faults = {
        "one MLP output scaled by 1.01": not all(k.ok for k in scaled if k.kind == "blocks.*.hook_resid_post"),
        "residual stream read one layer off": _misread_is_found(model, rows[:1]),
    }
    lost = _edits_lost(model, rows[-1][:8], tell)
    behaviour = {
        "a padded batch gives what each prompt gives alone": _batch_agrees(model, [*rows, rows[0][:3]]),
        "logits and last_logits are plain transformers'": _logits_agree(model, rows[0]),
        "an edit at a site of every kind reaches the logits" + (f" (not {', '.join(lost)})" if lost else ""): not lost,
    }
    listed = set(model.site_table.listed)
    return ParityResult(tuple(kinds), behaviour, faults, tuple(sorted(listed - checked)))


def _batch_agrees(model: Model, rows: list[list[int]]) -> bool:
    """Are residual streams and logits of a padded batch those of each prompt alone? Batches round in other ways."""
    sites = ["blocks.0.hook_resid_pre", f"blocks.{model.n_layers - 1}.hook_resid_post"]
    together, logits = model.capture(rows, sites), model.logits(rows)
    for i, row in enumerate(rows):
        alone, mask = model.capture([row], sites), together.mask[i]
        pairs = [(together[site][i, mask], alone[site][0]) for site in sites]
        pairs.append((logits[i, mask.to(logits.device)], model.logits([row])[0]))
        if any(_difference(ours, theirs)[1] > BATCHED for ours, theirs in pairs):
            return False
    return True


def _logits_agree(model: Model, row: list[int]) -> bool:
    with torch.no_grad():
        plain = model.hf(torch.tensor([row], device=model.device), use_cache=False).logits[0].float().cpu()
    pairs = (model.logits([row])[0], plain), (model.last_logits([row])[0], plain[-1])
    return all(_difference(ours.float().cpu(), theirs)[1] < 10 * RELATIVE for ours, theirs in pairs)


def _edits_lost(model: Model, row: list[int], tell: Progress) -> list[str]:
    """Kinds of site where a coarse edit in a middle layer leaves the logits as they are, and is not refused either."""
    by_kind: dict[str, list[str]] = {}
    for site in model.site_table.listed:
        by_kind.setdefault(kind_of(site), []).append(site)
    plain, lost = model.logits([row]), []
    for i, (kind, sites) in enumerate(by_kind.items()):
        tell("an edit at every kind of site", i + 1, len(by_kind))
        with warnings.catch_warnings():  # TransformerLens tells that an edited norm is computed in another way
            warnings.simplefilter("ignore", UserWarning)
            try:
                with model.edit({sites[len(sites) // 2]: _spoil}):
                    edited = model.logits([row])
            except UserError:  # such as a site that only shows a value: an edit there says that it would do nothing
                continue
        if torch.equal(edited, plain):
            lost.append(kind)
    return lost


def _compare(
    model: Model, rows: list[list[int]], edit_layer: int | None = None, tell: Progress | None = None
) -> tuple[set[str], list[KindResult]]:
    worst: dict[tuple[str, str], list[tuple[float, float]]] = {}
    checked: set[str] = set()
    for i, row in enumerate(rows):
        if tell is not None:
            tell("every site against plain transformers", i + 1, len(rows))
        with ExitStack() as stack:
            if edit_layer is not None:
                mlp_out, block_out = (f"blocks.{edit_layer}.hook_{n}" for n in ("mlp_out", "resid_post"))
                stack.enter_context(model.edit({mlp_out if mlp_out in model.site_table.axes else block_out: _scale}))
            acts = model.capture([row], list(model.site_table.listed))
        reference = _plain_activations(model, row)
        pairs = [*_against_reference(model, dict(acts), reference), *_invariants(model, dict(acts))]
        for site, what, ours, theirs in pairs:
            checked.add(site)
            worst.setdefault((kind_of(site), what), []).append(_difference(ours, theirs))
    kinds = [
        KindResult(kind, what, len(found), max(a for a, _ in found), max(r for _, r in found))
        for (kind, what), found in worst.items()
    ]
    return checked, sorted(kinds, key=lambda k: (k.kind, k.reference))


def _scale(activation: Tensor, site: Site) -> Tensor:
    return activation * 1.01


def _spoil(activation: Tensor, site: Site) -> Tensor:
    slope = torch.linspace(-1, 1, activation.shape[-1], device=activation.device, dtype=activation.dtype)
    return activation * 1.5 + activation.abs().clamp(max=100).mean() * slope


def _misread_is_found(model: Model, rows: list[list[int]]) -> bool:
    acts = model.capture(rows, ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"])
    absolute, relative = _difference(acts["blocks.0.hook_resid_pre"], acts["blocks.0.hook_resid_post"])
    return not KindResult("", "", 1, absolute, relative).ok


def _difference(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Absolute and relative; infinite where the sizes differ or ours are not finite where theirs are."""
    ours, theirs = ours.flatten(), theirs.flatten()
    finite = torch.isfinite(theirs) & (theirs > -1e30)  # not the scores above the diagonal
    if len(ours) != len(theirs) or not bool(finite.any()) or not bool(torch.isfinite(ours[finite]).all()):
        return float("inf"), float("inf")
    gap = float((ours - theirs)[finite].abs().max())
    return gap, gap / max(float(theirs[finite].abs().max()), 1e-12)


def _against_reference(
    model: Model, acts: dict[str, Tensor], plain: dict[str, Tensor]
) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    for site, ours in acts.items():
        origin = model.site_table.origin[site]
        if origin in plain:
            yield site, "plain transformers", ours, _same_layout(ours, plain[origin])
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
    if model.hf.config.model_type == "codegen":
        q, v, k = fused.unflatten(-1, (4, 3, -1)).unbind(-2)
        return q, k, v
    grouped = fused.unflatten(-1, (groups, heads // groups + 2, width))
    layouts = (
        fused.split([heads * width, groups * width, groups * width], dim=-1),
        (grouped[..., :-2, :], grouped[..., -2, :], grouped[..., -1, :]),
    )
    return min(layouts, key=lambda parts: sum(_difference(own, part)[0] for own, part in zip(ours, parts, strict=True)))


def _same_layout(ours: Tensor, theirs: Tensor) -> Tensor:
    """Norms of q and k run before or after heads and positions swap places, and the bridge has its own mind on it."""
    if theirs.ndim != 4 or ours.ndim != 4:
        return theirs
    layouts = [t for t in (theirs, theirs.transpose(1, 2)) if t.shape == ours.shape] or [theirs]
    return min(layouts, key=lambda t: _difference(ours, t)[0])


def _plain_activations(model: Model, row: list[int]) -> dict[str, Tensor]:
    """One plain forward with hooks on every module that a site names; keys are the bridge's own names."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for origin in set(model.site_table.origin.values()):
            component, _, end = origin.rpartition(".")
            if end not in ("hook_in", "hook_out", "hook_hidden_states"):
                continue
            module = _plain_module(model, component)
            if module is not None:
                stack.callback(_watch(module, origin, end == "hook_in", seen))
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
    fused = _plain_module(
        model, f"{component}.qkv" if parts[0] == "q" else component, "" if parts[0] == "q" else "gate_up_proj"
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


def _plain_module(model: Model, component: str, child: str = "") -> torch.nn.Module | None:
    path = module_path(model.bridge, component)
    try:
        return model.hf.get_submodule(f"{path}.{child}" if child else path) if path else None
    except AttributeError:
        return None


def _watch(module: torch.nn.Module, origin: str, is_input: bool, seen: dict[str, Tensor]) -> Any:
    def hook(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        value = (args[0] if args else kwargs.get("hidden_states")) if is_input else output
        value = value[0] if isinstance(value, tuple) else value
        if isinstance(value, Tensor):
            seen[origin] = value.detach().clone()

    return module.register_forward_hook(hook, with_kwargs=True).remove


@contextmanager
def _eager(model: Model) -> Iterator[None]:
    before = model.hf.config._attn_implementation or "eager"
    model.hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)


def _invariants(model: Model, acts: dict[str, Tensor]) -> Iterator[tuple[str, str, Tensor, Tensor]]:
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


def _rotary_invariants(model: Model, layer: int, acts: dict[str, Tensor]) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Rotating keeps lengths, and rotated q times rotated k, scaled, are the scores (capped in Gemma 2)."""
    b = f"blocks.{layer}"
    for part in "qk":
        turned, straight = acts.get(f"{b}.attn.hook_rot_{part}"), acts.get(f"{b}.attn.hook_{part}")
        normed, out = acts.get(f"{b}.attn.hook_{part}_normed"), acts.get(f"{b}.attn.{part}_norm.hook_out")
        if normed is not None and out is not None:
            yield f"{b}.attn.hook_{part}_normed", "the norm's output", normed, out
            straight = _same_layout(turned, normed) if turned is not None else None
        if turned is not None and straight is not None and straight.shape == turned.shape:
            yield f"{b}.attn.hook_rot_{part}", "keeps norms", turned.norm(dim=-1), straight.norm(dim=-1)
    q, k, scores, pattern = (acts.get(f"{b}.attn.hook_{n}") for n in ("rot_q", "rot_k", "attn_scores", "pattern"))
    if q is not None and k is not None and scores is not None and pattern is not None:
        k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
        scale = getattr(_plain_module(model, f"{b}.attn"), "scaling", q.shape[-1] ** -0.5)
        product = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
        if (cap := getattr(model.hf.config, "attn_logit_softcapping", None)) is not None:
            product = cap * torch.tanh(product / cap)
        for part in "qk":
            yield f"{b}.attn.hook_rot_{part}", "rot_q · rot_k = scores", product[pattern > 0], scores[pattern > 0]
    for part in ("cos", "sin"):
        here, first = acts.get(f"{b}.attn.hook_{part}"), acts.get(f"rotary_emb.hook_{part}")
        if here is not None and first is not None:
            yield f"{b}.attn.hook_{part}", "the model's rotary table", here, first
            yield f"rotary_emb.hook_{part}", "every layer's rotary table", first, here


def _norm_invariants(acts: dict[str, Tensor], norm: str, x: Tensor | None) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """The input (centred in a LayerNorm) divided by scale is normalized, whose mean square is 1."""
    scale, normalized = acts.get(f"{norm}.hook_scale"), acts.get(f"{norm}.hook_normalized")
    if x is None or scale is None or normalized is None:
        return
    centred = x - x.mean(-1, keepdim=True)
    is_layer_norm = bool((normalized.mean(-1).abs() < 1e-4).all())
    rebuilt = (centred if is_layer_norm else x) / scale
    yield f"{norm}.hook_normalized", "x / scale", normalized, rebuilt
    yield f"{norm}.hook_scale", "root mean square of x", scale * normalized, centred if is_layer_norm else x
