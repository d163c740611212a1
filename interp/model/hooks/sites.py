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
    `registered`: places that a user named (`Model.register_site`).
    """

    listed: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]
    origin: dict[str, str]
    gated: dict[str, str]
    silent: frozenset[str]
    registered: Mapping[str, Place] = field(default_factory=dict)

    def with_site(self, name: str, axes: tuple[str, ...], place: Place) -> SiteTable:
        """The table with one more site."""
        return replace(
            self,
            listed=(*self.listed, name),
            axes={**self.axes, name: axes},
            origin={**self.origin, name: name},
            registered={**self.registered, name: place},
        )

    def match(self, sites: str | Iterable[str]) -> list[str]:
        """Resolve names and patterns (`blocks.*.hook_resid_post`) to names, in model order, each once.

        Raises UserError for a name or pattern that matches nothing, with the nearest names or the reason.
        """
        wanted = list(sites) if isinstance(sites, Iterable) and not isinstance(sites, str) else [sites]
        if not wanted:
            raise UserError("no site came; expected at least one name or pattern, such as 'blocks.*.hook_resid_post'")
        found: list[str] = []
        for name in wanted:
            found += self._match_one(name)
        return list(dict.fromkeys(found))

    def _match_one(self, name: str) -> list[str]:
        if not isinstance(name, str):
            raise UserError(f"site {name!r:.80} is a {type(name).__name__}; expected a name or pattern")
        if name in self.axes:
            return [name]
        if name in self.gated:
            raise UserError(
                f"site {name!r} is gated: TransformerLens fills it only with {self.gated[name]} on, and it would stay "
                "empty; use an ungated site, see model.sites() or `interp models sites NAME`"
            )
        if name in self.silent:
            raise UserError(
                f"site {name!r} exists but carries nothing of its own on this model (it never fires per prompt, or "
                "shows another site's value); see model.sites() or `interp models sites NAME`"
            )
        if any(c in name for c in "*?["):  # as in a shell: `*` stands for any run of characters
            hits = [n for n in self.listed if fnmatchcase(n, name)] or [n for n in self.axes if fnmatchcase(n, name)]
            if hits:
                return hits
            for off in (*self.gated, *sorted(self.silent)):
                if fnmatchcase(off, name):
                    return self._match_one(off)  # says why
        last = max((n for n in map(layer_of, self.listed) if n is not None), default=-1)
        if (layer_of(name) or 0) > last >= 0:
            meant = kind_of(name).replace("*", str(last), 1)
            near = [meant] if meant in self.axes else self.axes
            raise unknown("site", name, near, f"this model has blocks 0 to {last}")
        raise unknown("site", name, self.axes, "model.sites() or `interp models sites NAME` lists them all")


def layer_of(site: str) -> int | None:
    """The layer in a site's name, or None for one outside the blocks."""
    found = re.match(r"blocks\.(\d+)\.", site)
    return int(found.group(1)) if found else None


def kind_of(site: str) -> str:
    """The site's name with its layer taken out: `blocks.*.hook_resid_post`."""
    return re.sub(r"^blocks\.\d+\.", "blocks.*.", site)
