"""Names of places in a model, and the errors for names that are none.

A misspelt hook name is a silent no-op in the libraries below us (TransformerLens #1688, nnsight #143); here it is an
error with the nearest names, and so is a name that exists but carries nothing on this model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from interp.errors import UserError, unknown
from interp.model.hooks.taps import Place


@dataclass(frozen=True)
class SiteTable:
    """What one loaded model offers.

    `listed`: one name per place, TransformerLens' traditional one. `axes`: for every accepted name, aliases included,
    what each axis of its activation is ("prompt", "pos", "head", "feature"). `origin`: for every accepted name, the
    bridge's own name of the same place, which says what it is (the input or output of which module). `gated`: names
    that TransformerLens keeps switched off, with the switch. `silent`: names that carry nothing of their own here.
    `misnomers`: names that TransformerLens gives to something else in some layers, with what it is there.
    `registered`: places that a user named (`Model.register_site`).
    """

    listed: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]
    origin: dict[str, str]
    gated: dict[str, str]
    silent: frozenset[str]
    misnomers: Mapping[str, str] = field(default_factory=dict)
    registered: Mapping[str, Place] = field(default_factory=dict)

    def with_site(self, name: str, axes: tuple[str, ...], place: Place) -> SiteTable:
        """The table with one more site, or with that site's axes anew."""
        return replace(
            self,
            listed=(*(site for site in self.listed if site != name), name),
            axes={**self.axes, name: axes},
            origin={**self.origin, name: name},
            registered={**self.registered, name: place},
        )

    def with_open(self, opened: Mapping[str, tuple[str, ...]], origin: Mapping[str, str]) -> SiteTable:
        """The table with gated sites that were opened, their axes and places; they stay out of `listed`."""
        return replace(self, axes={**self.axes, **opened}, origin={**self.origin, **origin})

    def match(self, sites: str | Iterable[str]) -> list[str]:
        """Resolve names and patterns (`blocks.*.hook_resid_post`) to names, in model order, each place once.

        A pattern means places: it is held against every name that a place has.
        Raises UserError for a name or pattern that matches nothing, with the nearest names or the reason.
        """
        wanted = list(sites) if isinstance(sites, Iterable) and not isinstance(sites, str) else [sites]
        if not wanted:
            raise UserError("no site came; expected at least one name or pattern, such as 'blocks.*.hook_resid_post'")
        names: list[str] = []
        for name in wanted:
            names += self._match_one(name)
        return list(dict.fromkeys(names))

    def gated_in(self, name: str) -> list[str]:
        """The gated sites that a name or pattern means and that are not open yet; none where it means others too."""
        if not isinstance(name, str) or name in self.axes or any(hit not in self.gated for hit in self._hits(name)):
            return []
        meant = [site for site in self.gated if site == name or (is_pattern(name) and fnmatchcase(site, name))]
        return [site for site in meant if site not in self.axes]

    def _hits(self, pattern: str) -> list[str]:
        """One name for every place that a pattern matches by any of its names, the traditional one where that is it."""
        if not is_pattern(pattern):
            return []
        by_place: dict[str, str] = {}
        listed = set(self.listed)
        for name in self.axes:
            place = self.origin[name]
            if fnmatchcase(name, pattern) and by_place.get(place) not in listed:
                by_place[place] = name
        order = {self.origin[name]: i for i, name in enumerate(self.listed)}  # open gated places come last
        names = [by_place[place] for place in sorted(by_place, key=lambda place: order.get(place, len(order)))]
        # an open gated site is meant by a pattern of such sites only: `*` stays what it was, and as cheap
        return [name for name in names if name not in self.gated] or names

    def _match_one(self, name: str) -> list[str]:
        if not isinstance(name, str):
            raise UserError(f"site {name!r:.80} is a {type(name).__name__}; expected a name or pattern")
        if name in self.axes:
            return [name]
        if name in self.gated:
            raise UserError(
                f"site {name!r} is gated: TransformerLens fills it only with {self.gated[name]} on, which this model "
                "does not take; use another site, see model.sites() or `interp models sites NAME`"
            )
        if name in self.misnomers:
            raise UserError(f"site {name!r} is not what its name says on this model: {self.misnomers[name]}")
        if name in self.silent:
            raise UserError(
                f"site {name!r} exists but carries nothing of its own on this model (it never fires per prompt, or "
                "shows another site's value); see model.sites() or `interp models sites NAME`"
            )
        if hits := self._hits(name):
            return hits
        if is_pattern(name):
            for off in (*self.gated, *self.misnomers, *sorted(self.silent)):
                if fnmatchcase(off, name):
                    return self._match_one(off)  # says why
        last = max((n for n in map(layer_of, self.listed) if n is not None), default=-1)
        if (layer_of(name) or 0) > last >= 0:
            meant = kind_of(name).replace("*", str(last), 1)
            near = [meant] if meant in self.axes else self.axes
            raise unknown("site", name, near, f"this model has blocks 0 to {last}")
        raise unknown("site", name, self.axes, "model.sites() or `interp models sites NAME` lists them all")


def refuse_modules(wanted: Iterable[object], sites: Iterable[str], modules: Iterable[str]) -> None:
    """Raise UserError for the name of a module of the plain model, as nnsight has it, where a site's is expected."""
    known, there = set(sites), [module for module in modules if module]
    for name in wanted:
        if not isinstance(name, str) or name in known:
            continue
        path = re.sub(r"[.:](?:input|output)$", "", re.sub(r"\[(\d+)\]", r".\1", name))
        paths = [p for p in (path, path.removeprefix("model.")) if any(fnmatchcase(module, p) for module in there)]
        if path := next(iter(paths), ""):
            own = "blocks.*.my_site" if "*" in path else "my_site"
            raise UserError(
                f"{name!r} is a module of the plain model and no site; model.sites() lists the sites, by their "
                f"TransformerLens names, and model.register_site({own!r}, {path!r}) makes the module one"
            )


def is_pattern(name: str) -> bool:
    """Does `*` or the like stand in the name? As in a shell it stands for any run of characters."""
    return any(c in name for c in "*?[")


def layer_of(site: str) -> int | None:
    """The layer in a site's name, or None for one outside the blocks."""
    found = re.match(r"blocks\.(\d+)\.", site)
    return int(found.group(1)) if found else None


def kind_of(site: str) -> str:
    """The site's name with its layer taken out: `blocks.*.hook_resid_post`."""
    return re.sub(r"^blocks\.\d+\.", "blocks.*.", site)
