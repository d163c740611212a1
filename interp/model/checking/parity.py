"""Does every site carry what its name says? Hooks against plain transformers, site by site.

Four kinds of evidence, so that no shared mistake can hide:

- reference: forward hooks on the plain Hugging Face modules (eager attention) see the same tensors as the sites;
- identities among sites: resid_pre + attn_out + mlp_out = resid_post, pattern @ v = z, softmax(scores) = pattern,
  norm(x) / scale = normalized. Each is asked where the model promises it, and whether it does is asked of plain
  transformers; what is not asked is in the result, with the reason;
- behaviour: a padded batch gives what each prompt gives alone, logits are plain transformers', each layer whose
  attention transformers reports shows a pattern, and an edit at a site of every kind reaches the logits and does to
  them what the same edit of the plain module does. Where edits are refused the reason is in the result, and it is a
  fault where the change would move the logits. All of this in the hooked tree, and then the values, logits and
  edits once more by the engine that users get, which is plain transformers with taps wherever these show a site;
- planted faults that must be found: one MLP's output scaled by 1.01, and a site read one layer off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.checking.behaviour import (
    batch_agrees,
    logits_agree,
    misedited_as_users_do,
    misread_as_users_do,
    streams,
)
from interp.model.checking.coverage import sort_unchecked
from interp.model.checking.edited import EditsChecked, check_edits
from interp.model.checking.identities import MIXES, NotAsked, identities_of
from interp.model.checking.noted import PlainRun
from interp.model.checking.reference import RELATIVE, Read, against_reference, difference
from interp.model.checking.watching import find_layouts, watch_plain
from interp.model.hooks.asked import ask_all_taps
from interp.model.hooks.sites import kind_of
from interp.model.hooks.tokens import Prompts
from interp.model.hooks.where import Where
from interp.model.model import Model
from interp.progress import Progress

PROMPTS = (
    "Here is a fact. The capital of France is Paris, and 4 is an even number.",
    "Once upon a time, a small dog lived by the sea.",
    "def add(a, b):\n    return a + b\n",
)
BATCH, LOGITS = "a padded batch gives what each prompt gives alone", "logits and last_logits are plain transformers'"
AS_USERS = "as users get it"
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
    """All kinds, what the model must do and whether it does, the planted faults with whether each was found, the sites
    that nothing checks though something should, what this architecture cannot be asked, with the reason, and the kinds
    of site where an edit is refused, with the words of the refusal."""

    kinds: tuple[KindResult, ...]
    behaviour: dict[str, bool]
    faults: dict[str, bool]
    unchecked: tuple[str, ...]
    not_asked: dict[str, str] = field(default_factory=dict)
    not_editable: dict[str, str] = field(default_factory=dict)

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
    with model.tree.settled():  # nobody else changes the model meanwhile
        ask_all_taps(model.tree)
        with model.tree.hooked_only():  # the plain model is what it is compared with
            result = _check_hooked(model, rows, tell)
        return replace(result, behaviour=result.behaviour | check_as_users(model, rows, tell))


def compare_values(model: Model, rows: list[list[int]], tell: Progress | None = None) -> Compared:
    """What `check_parity` begins with, a tenth of its time: every site's values against plain transformers."""
    with model.tree.settled(), model.tree.hooked_only():
        return _compare(model, rows, _plain_runs(model, rows[0]), model.tree.site_table.listed, tell)


def check_as_users(model: Model, rows: list[list[int]], tell: Progress) -> dict[str, bool]:
    """What `check_parity` does last: values, logits and edits by the engine that users get, with nothing forced."""
    told = {
        f"{BATCH}, {AS_USERS}": batch_agrees(model, [*rows, rows[0][:3]]),
        f"{LOGITS}, {AS_USERS}": logits_agree(model, rows[0]),
    }
    asked = (("values", misread_as_users_do, rows[0]), ("edits", misedited_as_users_do, rows[-1][:8]))
    for i, (what, ask, row) in enumerate(asked):
        tell("the engine that users get", i + 1, len(asked))
        wrong = ask(model, row)
        told[_but(f"{what} by the plain model are the hooked model's, {AS_USERS}", wrong)] = not wrong
    return told


def _check_hooked(model: Model, rows: list[list[int]], tell: Progress) -> ParityResult:
    watch = _plain_runs(model, rows[0])
    compared = _compare(model, rows, watch, model.tree.site_table.listed, tell)
    faults = {"one MLP output scaled by 1.01": _scaling_is_found(model, rows[0], watch)}
    if len(streams(model)) > 1:
        faults["residual stream read one layer off"] = _misread_is_found(model, rows[:1])
    edits = check_edits(model, rows[-1][:8], tell)
    behaviour = {
        BATCH: batch_agrees(model, [*rows, rows[0][:3]]),
        LOGITS: logits_agree(model, rows[0]),
        **_judged(edits),
    }
    if compared.with_patterns:
        hidden = sorted(compared.with_patterns - _layers_with(model, "attn.hook_pattern"))
        what = "a pattern in every layer where transformers reports one"
        behaviour[_but(what, [f"layer {layer}" for layer in hidden])] = not hidden
    not_asked = compared.not_asked.reasons()
    if edits.alone:
        not_asked["whether an edit does what it does in plain transformers"] = (
            f"no module of it stands at {', '.join(sorted(edits.alone))}; that the edit reaches the logits was asked"
        )
    missing = set(model.tree.site_table.listed) - compared.checked
    unchecked, excused = sort_unchecked(model, missing, compared.not_asked.layers(MIXES))
    return ParityResult(compared.kinds, behaviour, faults, unchecked, not_asked | excused, edits.refused)


def _plain_runs(model: Model, twice: list[int]) -> Callable[[list[int]], PlainRun]:
    """What plain transformers shows of a prompt; the one that is asked for twice runs once."""
    layouts = find_layouts(model)
    plain = {tuple(twice): watch_plain(model, twice, layouts)}
    return lambda row: plain.get(tuple(row)) or watch_plain(model, row, layouts)


def _judged(edits: EditsChecked) -> dict[str, bool]:
    """What an edit must do, and whether it does. That not one could be held against plain transformers is a fault."""
    compared = bool(edits.same) and not edits.other
    return {
        _but("an edit at every kind of site that takes one reaches the logits", edits.lost): not edits.lost,
        _but("and does to them what it does in plain transformers", edits.other): compared,
        _but("an edit is refused only where the model cannot take it", edits.barred): not edits.barred,
    }


def _but(what: str, exceptions: list[str]) -> str:
    return f"{what} (not {', '.join(exceptions)})" if exceptions else what


def _layers_with(model: Model, name: str) -> set[int]:
    return {layer for layer in range(model.n_layers) if f"blocks.{layer}.{name}" in model.tree.site_table.axes}


@dataclass(frozen=True)
class Compared:
    """What came of comparing every site. `with_patterns`: the layers whose attention plain transformers reports."""

    kinds: tuple[KindResult, ...]
    checked: set[str]
    not_asked: NotAsked
    with_patterns: set[int]


def _compare(
    model: Model,
    rows: list[list[int]],
    watch: Callable[[list[int]], PlainRun],
    sites: Sequence[str],
    tell: Progress | None = None,
) -> Compared:
    worst: dict[tuple[str, str], list[tuple[float, float]]] = {}
    checked: set[str] = set()
    not_asked, with_patterns = NotAsked(), set[int]()
    for i, row in enumerate(rows):
        if tell is not None:
            tell("every site against plain transformers", i + 1, len(rows))
        read, plain = Read(model, dict(model.capture([row], sites))), watch(row)
        with_patterns |= set(plain.patterns)
        if plain.unplaced:
            not_asked.note(
                "attention patterns", -1, f"{plain.unplaced} that transformers reports belong to no one layer"
            )
        pairs = [*against_reference(model, read, plain), *identities_of(model, read, plain, not_asked)]
        for site, what, value, right in pairs:
            listed = read.listed(site) or site
            checked.add(listed)
            worst.setdefault((kind_of(listed), what), []).append(difference(value.cpu(), right.cpu()))
    kinds = [
        KindResult(kind, what, len(gaps), max(a for a, _ in gaps), max(r for _, r in gaps))
        for (kind, what), gaps in worst.items()
    ]
    return Compared(tuple(sorted(kinds, key=lambda k: (k.kind, k.reference))), checked, not_asked, with_patterns)


def _scaling_is_found(model: Model, row: list[int], watch: Callable[[list[int]], PlainRun]) -> bool:
    """Is the stream behind an MLP whose output is scaled another than plain transformers'?"""
    places = [f"blocks.{model.n_layers // 2}.hook_{n}" for n in ("mlp_out", "resid_post", "resid_pre")]
    site = next(place for place in places if place in model.tree.site_table.axes)
    seen = [s for s in model.tree.site_table.listed if "hook_resid" in s or s == "hook_unembed"]
    with model.edit({site: _scale}):
        kinds = _compare(model, [row], watch, seen or model.tree.site_table.listed).kinds
    return not all(k.ok for k in kinds if "hook_resid" in k.kind or k.kind == "hook_unembed")


def _scale(activation: Tensor, where: Where) -> Tensor:
    return activation * 1.01


def _misread_is_found(model: Model, rows: list[list[int]]) -> bool:
    before, after = streams(model)[:2]
    acts = model.capture(rows, [before, after])
    absolute, relative = difference(acts[before], acts[after])
    return not KindResult("", "", 1, absolute, relative).ok
