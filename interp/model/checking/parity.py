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
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.checking.identities import identities_of
from interp.model.checking.reference import against_reference, difference, plain_activations
from interp.model.hooks.editing import Where
from interp.model.hooks.sites import kind_of
from interp.model.hooks.tokens import Prompts
from interp.model.model import Model
from interp.progress import Progress

PROMPTS = (
    "Here is a fact. The capital of France is Paris, and 4 is an even number.",
    "Once upon a time, a small dog lived by the sea.",
    "def add(a, b):\n    return a + b\n",
)
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
    with model.tree.hooked_only():  # the plain model is what it is compared with
        return _check(model, rows, tell)


def _check(model: Model, rows: list[list[int]], tell: Progress) -> ParityResult:
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
        if any(difference(ours, theirs)[1] > BATCHED for ours, theirs in pairs):
            return False
    return True


def _logits_agree(model: Model, row: list[int]) -> bool:
    with torch.no_grad():
        plain = model.hf(torch.tensor([row], device=model.device), use_cache=False).logits[0].float().cpu()
    pairs = (model.logits([row])[0], plain), (model.last_logits([row])[0], plain[-1])
    return all(difference(ours.float().cpu(), theirs)[1] < 10 * RELATIVE for ours, theirs in pairs)


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
        reference = plain_activations(model, row)
        pairs = [*against_reference(model, dict(acts), reference), *identities_of(model, dict(acts))]
        for site, what, ours, theirs in pairs:
            checked.add(site)
            worst.setdefault((kind_of(site), what), []).append(difference(ours, theirs))
    kinds = [
        KindResult(kind, what, len(found), max(a for a, _ in found), max(r for _, r in found))
        for (kind, what), found in worst.items()
    ]
    return checked, sorted(kinds, key=lambda k: (k.kind, k.reference))


def _scale(activation: Tensor, where: Where) -> Tensor:
    return activation * 1.01


def _spoil(activation: Tensor, where: Where) -> Tensor:
    slope = torch.linspace(-1, 1, activation.shape[-1], device=activation.device, dtype=activation.dtype)
    return activation * 1.5 + activation.abs().clamp(max=100).mean() * slope


def _misread_is_found(model: Model, rows: list[list[int]]) -> bool:
    acts = model.capture(rows, ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"])
    absolute, relative = difference(acts["blocks.0.hook_resid_pre"], acts["blocks.0.hook_resid_post"])
    return not KindResult("", "", 1, absolute, relative).ok
