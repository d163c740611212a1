"""Which sites a hooked tree has and what they carry, found by asking it: two dummy forwards of different size.

Asking beats a table of architectures: an axis whose length follows the number of prompts is `prompt`, one that follows
the number of tokens is `pos`, and a hook that stays silent is not a site of this model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.model.hooks.bridge import Attach, attached, opened, run, run_dummy
from interp.model.hooks.sites import SiteTable

if TYPE_CHECKING:  # importing transformer_lens is bridge.py's business
    from transformer_lens.model_bridge import TransformerBridge

HEADS: dict[tuple[str, ...], tuple[str, ...]] = {  # what has four axes is parted into heads
    ("prompt", "pos", "feature", "feature"): ("prompt", "pos", "head", "feature"),
    ("prompt", "feature", "pos", "pos"): ("prompt", "head", "pos", "pos"),
}


def read_site_table(bridge: TransformerBridge) -> SiteTable:
    """Ask the model which hooks fire and what they carry."""
    points = bridge.hook_dict
    empty = _mislabelled(bridge)
    small, large = _dummy_shapes(bridge, 2, 5), _dummy_shapes(bridge, 3, 7)
    aliases: dict[int, list[str]] = {}
    for name, point in points.items():
        aliases.setdefault(id(point), []).append(name)
    axes: dict[str, tuple[str, ...]] = {}
    gated: dict[str, str] = {}
    silent: set[str] = set()
    for name, point in points.items():
        first = aliases[id(point)][0]
        reason = bridge._gated_hook_reason(name)
        if reason is not None:
            gated[name] = reason
        elif first in empty or first not in small or first not in large:
            silent.add(name)
        else:
            axes[name] = _name_axes(small[first], large[first])
    usable = {name: ax for name, ax in axes.items() if ax[0] == "prompt"}
    silent |= {name for name in axes if name not in usable}
    misnomers = _misnomers(aliases.values())
    usable = {name: ax for name, ax in usable.items() if name not in misnomers}
    # The last name a hook point got is TransformerLens' traditional one (hook_resid_post), the first the bridge's own.
    names = [[name for name in group if name in usable] for group in aliases.values()]
    listed = [group[-1] for group in names if group]
    origin = {name: aliases[id(points[name])][0] for name in usable}
    return SiteTable(tuple(listed), usable, origin, gated, frozenset(silent), misnomers)


def _misnomers(aliases: Iterable[list[str]]) -> dict[str, str]:
    """Names of neurons (`mlp.hook_pre`, `mlp.hook_post`) that the bridge gives to a whole MLP's input or output.

    It does so where the MLP is a mixture of experts, which has no one layer of neurons.
    """
    named = {}
    for group in aliases:
        end = group[0].rpartition(".mlp.")[2]
        if end in ("hook_in", "hook_out"):
            what = "input" if end == "hook_in" else "output"
            reason = (
                f"it is the {what} of an MLP of several experts, {group[0]}, and no layer of neurons; use that name"
            )
            named |= {n: reason for n in group if n.rpartition(".")[2] in ("hook_pre", "hook_post", "hook_pre_linear")}
    return named


def measure_gated(
    bridge: TransformerBridge, names: Sequence[str], switch: str
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """The axes of gated sites of one switch, those that fire a prompt, and a shape; asked with the switch on."""
    with opened(bridge, [switch]):
        small, large = (_dummy_shapes(bridge, prompts, length, names) for prompts, length in ((2, 5), (3, 7)))
    both = [name for name in names if name in small and name in large]
    measured = {name: (_name_axes(small[name], large[name]), small[name]) for name in both}
    return {name: (axes, shape) for name, (axes, shape) in measured.items() if axes[0] == "prompt"}


def _mislabelled(bridge: TransformerBridge) -> set[str]:
    """Score hooks that carry the pattern: where TransformerLens cannot see the scores, it shows the pattern twice."""
    seen: dict[str, Tensor] = {}
    pairs = [(n, n.replace("hook_attn_scores", "hook_pattern")) for n in bridge.hook_dict if "hook_attn_scores" in n]
    with ExitStack() as stack:
        for name in {n for pair in pairs for n in pair if n in bridge.hook_dict}:
            stack.enter_context(attached(bridge.hook_dict[name], lambda t, name=name: seen.update({name: t.detach()})))
        run_dummy(bridge)
    return {s for s, p in pairs if s in seen and p in seen and torch.equal(seen[s], seen[p])}


def measure_axes(bridge: TransformerBridge, attach: Mapping[str, Attach]) -> dict[str, tuple[str, ...] | None]:
    """What each axis at each of these places is, by two dummy forwards of different size.

    None where nothing came by, something came by twice, or what came holds no fractions (token ids).
    """
    shapes: dict[str, list[tuple[int, ...]]] = {site: [] for site in attach}

    def look(site: str) -> Callable[[Tensor], None]:
        return lambda tensor: shapes[site].append(tuple(tensor.shape) if tensor.is_floating_point() else ())

    for prompts, length in ((2, 5), (3, 7)):
        with ExitStack() as stack:
            for site, at in attach.items():
                stack.enter_context(at(look(site)))
            _run_zeros(bridge, prompts, length)
    right = {site: len(seen) == 2 and 0 < len(seen[0]) == len(seen[1]) for site, seen in shapes.items()}
    return {site: _name_axes(*seen) if right[site] else None for site, seen in shapes.items()}


def _run_zeros(bridge: TransformerBridge, prompts: int, length: int) -> None:
    ids = torch.zeros((prompts, length), dtype=torch.long, device=next(bridge.parameters()).device)
    mask = torch.ones_like(ids)
    with torch.no_grad():  # with a mask in one of two: a site that carries ids in either is none
        run(bridge, ids, mask if prompts == 2 else None, mask.cumsum(-1) - 1)


def _dummy_shapes(
    bridge: TransformerBridge, prompts: int, length: int, only: Collection[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """Shape of the activation at each hook point's first name (or at `only`), in a forward of `prompts` x `length`."""
    shapes: dict[str, tuple[int, ...]] = {}

    def reader(name: str) -> Callable[[Tensor], None]:
        def read(tensor: Tensor) -> None:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():  # some hooks carry ids, tuples or None
                shapes[name] = tuple(tensor.shape)

        return read

    first_names = {id(point): name for name, point in reversed(bridge.hook_dict.items())}
    with ExitStack() as stack:
        for name, point in bridge.hook_dict.items():
            first = first_names[id(point)] == name and bridge._gated_hook_reason(name) is None
            if first if only is None else name in only:
                stack.enter_context(attached(point, reader(name)))
        _run_zeros(bridge, prompts, length)
    return shapes


def _name_axes(small: tuple[int, ...], large: tuple[int, ...]) -> tuple[str, ...]:
    def name(i: int, a: int, b: int) -> str:
        if i == 0:
            return "prompt" if (a, b) == (2, 3) else "shared"
        return "pos" if (a, b) == (5, 7) else "feature"

    names = tuple(name(i, a, b) for i, (a, b) in enumerate(zip(small, large, strict=True)))
    return HEADS.get(names, names)
