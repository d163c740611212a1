"""Give a name to a place that TransformerLens does not name: any module's input or output, or some columns of it."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import torch

from interp.errors import UserError, unknown
from interp.model.hooks.forward import read
from interp.model.hooks.site_reading import measure_axes
from interp.model.hooks.taps import Place, parse_place
from interp.model.hooks.tokens import pad
from interp.model.hooks.tree import HookedTree


def register(tree: HookedTree, name: str, where: str) -> list[str]:
    """Add sites to the model's table; see `Model.register_site`. All of them, or none where one cannot be had."""
    pattern = parse_place(where)
    modules: dict[str, object] = dict(tree.hf.named_modules())
    if name.count("*") != pattern.module.count("*") or name.count("*") > 1 or not re.fullmatch(r"[\w.*]+", name):
        raise UserError(
            f"site {name!r} at {where!r}: expected a name of letters, digits, dots and underscores, and `*` for the "
            "layer once in both or in neither"
        )
    if tree.is_edited:
        raise UserError(f"site {name!r} cannot be named while an edit is active; register sites first")
    table, places = tree.site_table, dict[str, Place]()
    for label, path in _resolve(pattern.module, modules):
        site = name.replace("*", label)
        if site in table.axes or site in table.silent or site in table.gated or site in table.misnomers:
            raise UserError(f"site {site!r} exists already; choose another name")
        places[site] = replace(pattern, module=path)
    try:
        _add(tree, places)
    except BaseException:
        tree.forget_sites([*places])
        raise
    return [*places]


def _resolve(path: str, modules: dict[str, object]) -> list[tuple[str, str]]:
    """(what `*` stands for, the module) for every module that matches."""
    if "*" not in path:
        if path not in modules:
            raise unknown("module", path, modules, "the names are those of model.hf.named_modules()")
        return [("", path)]
    form = re.compile(re.escape(path).replace(r"\*", r"(\d+)"))
    matches = [(match[1], module) for module in modules if (match := form.fullmatch(module))]
    if not matches:
        raise unknown("module", path.replace("*", "0"), modules, f"{path!r} matches no module of model.hf")
    return matches


def _add(tree: HookedTree, places: dict[str, Place]) -> None:
    """All of them in the same few forwards: a pattern may mean a place in every layer."""
    for site, place in places.items():
        start, stop = place.columns
        if stop is not None and (start or 0) >= stop:
            raise UserError(f"site {site!r}: columns {start}:{stop} are none; expected a first one below the last")
        tree.name_site(site, ("prompt", "pos", "feature"), place)  # hooks look there for their place
    measured = measure_axes(tree.bridge, {site: partial(tree.attached_at, site) for site in places})
    for site, place in places.items():
        axes = measured[site]
        if axes is None or axes[0] != "prompt":
            raise UserError(
                f"site {site!r}: the hooked model does not run {place.module} once a forward, or what comes by is not "
                f"one activation a prompt (axes: {axes}); name another module"
            )
        tree.name_site(site, axes, place)
    with tree.hooked_only(), torch.no_grad():
        shown = read(tree, pad([[0]], [0], 1, "right", 0, tree.hf.device), [*places])
    for site, place in places.items():
        start, stop = place.columns
        if shown[site].shape[-1] < (1 if stop is None else stop - (start or 0)):
            raise UserError(f"site {site!r}: the module does not have the columns {start}:{stop}")
