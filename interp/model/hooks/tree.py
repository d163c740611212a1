"""A model and its hooked tree: the sites, the edits that are active, and what was asked of this model once.

`Model` is what people use; this is how it works. The hooked tree is a second module tree that shares the parameters of
the plain model; it is built when first needed and made anew when somebody changed the model since.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import UserError
from interp.model.hooks.active import Active, Editing, why_never_fired
from interp.model.hooks.bridge import (
    attached,
    build_bridge,
    check_decoder,
    has_effect,
    lens_gap,
    opened,
    relative_gap,
    run_dummy,
    same_logits,
    text_config,
)
from interp.model.hooks.editing import Edit
from interp.model.hooks.gated import cost_in_words
from interp.model.hooks.given import check_called, check_edit
from interp.model.hooks.receipts import Receipt, Receipts
from interp.model.hooks.site_reading import measure_gated, read_site_table
from interp.model.hooks.sites import SiteTable, kind_of, refuse_modules
from interp.model.hooks.taps import Place, Tap, tapped
from interp.model.hooks.tolerance import of_logits
from interp.model.hooks.unchanged import fingerprint, mark_own, user_code

if TYPE_CHECKING:  # importing transformer_lens is bridge.py's business
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge


SEE_THE_CUT = "registered sites that see the cut"
P = ParamSpec("P")
T = TypeVar("T")


class HookedTree:
    """The plain model `hf`, the hooked tree beside it, and the edits that every forward of either applies."""

    def __init__(self, hf: PreTrainedModel) -> None:
        self.hf = hf
        self.active: list[Active] = []
        self.running: object | None = None  # the forward that runs, and whose hooks may act
        self.engine: str | None = None  # "hooked" while a check wants that one
        self.waiting: weakref.WeakSet[Editing] = weakref.WeakSet()  # made by `edit`, and not entered
        self._built: dict[str, Any] = {}  # everything that a change of the model makes wrong
        self._named: dict[str, tuple[tuple[str, ...], Place]] = {}  # sites that a user registered
        self._print: Any = None  # of the model, when the first of these was found out
        self._settled = False  # has the call that runs looked already?

    # --- the hooked modules, and whether they are still those of the model ---

    @property
    def bridge(self) -> TransformerBridge:
        """The hooked module tree (TransformerBridge), built when first needed."""
        if "bridge" not in self._built:
            self.follow()  # so that no answer of another state of the model stays beside it
            with self.resting():
                bridge, modules = build_bridge(self.hf)
                self._built |= {"bridge": bridge, "modules": modules}
                self._print = fingerprint(self.hf)
        return self._built["bridge"]

    def follow(self) -> None:
        """Forget what was found out where somebody changed the model since: an adapter, a module, a setting, …"""
        if self._built and self.running is None and not self._settled and self._was_changed():
            self._built.clear()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Look once whether the model was changed, and not again inside: for one call of many forwards."""
        self.follow()
        outer, self._settled = self._settled, True
        try:
            yield
        finally:
            self._settled = outer

    def once(self, question: str, ask: Callable[[], Any]) -> Any:
        """The answer to a question about this model, asked again only after the model was changed."""
        if question not in self._built:
            if not self._built:
                self._print = fingerprint(self.hf)
            with self.resting():
                answer = ask()
            self._built[question] = answer
        return self._built[question]

    def _was_changed(self) -> bool:
        if self._print != fingerprint(self.hf):
            return True
        if "bridge" not in self._built or not user_code(self.hf):
            return False
        with self.resting():  # a user's code may do another thing by now, which no setting shows
            return not same_logits(self.bridge, self.hf)

    @property
    def config(self) -> Any:
        """The config of the language model, inside a multimodal one too."""
        return text_config(self.hf)

    @property
    def lens_gap(self) -> float:
        """How far the last block's output through the final norm and unembedding is from the logits."""
        self.follow()
        last = f"blocks.{self.config.num_hidden_layers - 1}.hook_resid_post"
        return self.once("lens_gap", lambda: lens_gap(self.bridge, last))

    # --- sites ---

    @property
    def points(self) -> dict[str, HookPoint]:
        """Hook points by every accepted name; the bridge builds this dictionary anew each time it is asked."""
        return self.once("points", lambda: dict(self.bridge.hook_dict))

    @property
    def site_table(self) -> SiteTable:
        """Every site of this model and what it carries, found by asking it. `follow` first: it may have changed."""

        def ask() -> SiteTable:
            table = read_site_table(self.bridge)
            for name, (axes, place) in self._named.items():
                table = table.with_site(name, axes, place)
            return table

        return self.once("site_table", ask)

    @property
    def registered(self) -> dict[str, Place]:
        """The sites that a user named, by name; known without building hooks."""
        return {name: place for name, (_, place) in self._named.items()}

    def name_site(self, name: str, axes: tuple[str, ...], place: Place) -> None:
        """Add a site of the user's; it stays when the hooked modules are made anew."""
        self._named[name] = (axes, place)
        self._built["site_table"] = self.site_table.with_site(name, axes, place)
        self._built.pop(SEE_THE_CUT, None)

    def forget_sites(self, names: Sequence[str]) -> None:
        """Take registered sites away again."""
        for name in names:
            self._named.pop(name, None)
        self._built.pop("site_table", None)
        self._built.pop(SEE_THE_CUT, None)

    def match(self, sites: Any) -> list[str]:
        """Names of the sites that names and patterns mean, in model order; gated ones are opened, and their cost said.

        Raises UserError for a name that matches nothing; see `SiteTable.match`.
        """
        self.follow()
        table = self.site_table
        wanted = [sites] if isinstance(sites, str) or not isinstance(sites, Sequence) else list(sites)
        for gated in filter(None, map(table.gated_in, wanted)):
            self._open(gated)
        try:
            return self.site_table.match(sites)
        except UserError:
            refuse_modules(wanted, table.axes, [name for name, _ in self.hf.named_modules()])
            raise

    def _open(self, names: list[str]) -> None:
        table = self.site_table
        for switch in sorted({table.gated[name] for name in names}):
            chosen = [name for name in names if table.gated[name] == switch]
            self._check_open([switch])
            with self.resting():
                measured = measure_gated(self.bridge, chosen, switch)
            places = {id(point): name for name, point in reversed(self.points.items())}  # the first name of each
            origin = {name: places[id(self.points[name])] for name in measured}
            known = set(table.origin.values())
            self._built["site_table"] = self.site_table.with_open(
                {name: axes for name, (axes, _) in measured.items()}, origin
            )
            told = {origin[name]: name for name in measured if origin[name] not in known}  # each place by one name
            for kind in dict.fromkeys(map(kind_of, told.values())):
                axes, shape = next(measured[name] for name in told.values() if kind_of(name) == kind)
                print(f"{kind} {cost_in_words(axes, shape, self.hf.dtype.itemsize)}", file=sys.stderr)

    def switches_of(self, names: Sequence[str]) -> list[str]:
        """The switches that must be on in a forward for these sites to carry something."""
        if not names:  # else nobody needs the hooked modules yet
            return []
        gated = self.site_table.gated
        return sorted({gated[name] for name in names if name in gated})

    @contextmanager
    def attached_at(self, name: str, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Run `function` on the activation at a site of the hooked tree; a returned tensor replaces it."""
        place = self.site_table.registered.get(name) if name not in self.points else None
        if place is None:
            hook = attached(self.points[name], function)
        else:
            _ = self.bridge
            hook = tapped(Tap(self._built["modules"][place.module], place.is_input, place.columns), function)
        with hook:
            yield

    def _check_open(self, switches: Sequence[str]) -> None:
        """Raise UserError where the hooked tree, with these switches on, computes something else than the model."""

        def ask() -> str:
            plain = check_decoder(self.hf)
            try:
                with opened(self.bridge, switches):
                    gap = relative_gap(run_dummy(self.bridge), plain)
            except UserError:
                raise
            except Exception as error:
                return f"fails ({type(error).__name__})"
            return "" if gap <= of_logits(self.hf.dtype) else f"gives other logits, by {gap:.1%} of the largest"

        if wrong := self.once(f"open {', '.join(switches)}", ask):
            raise UserError(
                f"a gated site ({', '.join(switches)}) cannot be opened on this {type(self.hf).__name__}: there "
                f"TransformerLens reads the weights by itself, and {wrong}; packed weights, adapters and hooks of "
                "yours are not in what it reads; use another site, such as attn.hook_q or attn.hook_z"
            )

    @contextmanager
    def opened(self, names: Sequence[str]) -> Iterator[None]:
        """The gated ones among these sites, open while the context lasts. Raises UserError where that is wrong."""
        if switches := self.switches_of(names):
            self._check_open(switches)
            with opened(self.bridge, switches):
                yield
        else:
            yield

    # --- edits ---

    @property
    def is_edited(self) -> bool:
        """Is an edit active?"""
        return bool(self.active)

    def warn_of_unopened(self) -> None:
        """Warn, once each, of what `edit` made and nobody entered: the forward that comes now is not edited by it."""
        for editing in list(self.waiting):
            editing.warn()

    def editing(self, edits: Mapping[str, Edit], gradients: Mapping[str, Edit]) -> Editing:
        """The context of `edited`, which warns where nobody opens it."""
        return Editing(partial(self.edited, edits, gradients), self.waiting)

    @contextmanager
    def edited(self, edits: Mapping[str, Edit], gradients: Mapping[str, Edit]) -> Iterator[Receipts]:
        """Apply edits to every forward inside the context; see `Model.edit`."""
        for name, given in (("edit()", edits), ("edit(gradients=)", gradients)):
            check_called(f"what {name} got", given)
            if not isinstance(given, Mapping):
                raise UserError(f"{name} got a {type(given).__name__}; expected {{site or pattern: edit}}")
        if not edits and not gradients:
            raise UserError(
                "no edit came; expected {site or pattern: edit}, such as {'blocks.3.hook_mlp_out': ablate()}"
            )
        new = [*self._resolve(edits, ""), *self._resolve(gradients, " (gradient)")]
        receipts = Receipts({active.receipt.site: active.receipt for active in new})
        self.active += new
        try:
            with _guarded(self):
                yield receipts
        finally:
            self.active = [active for active in self.active if not any(active is one for one in new)]
        if idle := [active for active in new if active.receipt.fired == 0]:
            raise UserError(why_never_fired(idle))

    def _resolve(self, edits: Mapping[str, Edit], kind: str) -> list[Active]:
        resolved: list[Active] = []
        taken: dict[str, int] = {}
        for pattern, edit in edits.items():
            for site in self.match(pattern):
                self._check(site, edit)
                taken[site] = taken.get(site, 0) + 1  # two edits at one site have a receipt each
                nth = f" (edit {taken[site]})" if taken[site] > 1 else ""
                resolved.append(Active(site, edit, Receipt(f"{site}{kind}{nth}"), bool(kind)))
        return resolved

    def _check(self, site: str, edit: Edit) -> None:
        check_edit(f"the edit at {site}", edit)
        kind = f"{kind_of(site)} {kind_of(self.site_table.origin[site])}"  # layers of one kind are built alike

        def ask() -> bool:
            with self.opened([site]):
                gates = ", ".join(self.switches_of([site]))  # an open one rounds in another way
                before = self.once(f"dummy logits {gates}", lambda: run_dummy(self.bridge))
                return has_effect(self.bridge, site, partial(self.attached_at, site), before)

        if not self.once(f"has_effect {kind}", ask):
            raise UserError(
                f"an edit at {site} would change nothing: this model shows the value there and does not read it back; "
                "edit another site, such as hook_z or hook_attn_out for attention"
            )

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside, no edit is active, and no hook of a forward that runs outside sees anything."""
        active, running = self.active, self.running
        self.active, self.running = [], None
        try:
            yield
        finally:
            self.active, self.running = active, running

    @contextmanager
    def hooked_only(self) -> Iterator[None]:
        """Inside, every forward runs the hooked tree: for checks of that tree, and comparisons to the last bit."""
        outer, self.engine = self.engine, "hooked"
        try:
            yield
        finally:
            self.engine = outer


def looks_once(call: Callable[P, T]) -> Callable[P, T]:
    """Let a call of many forwards, whose first argument is the model, look once whether the model was changed."""

    @wraps(call)
    def looking(*args: P.args, **kwargs: P.kwargs) -> T:
        model: Any = args[0] if args else kwargs["model"]
        with model.tree.settled():
            return call(*args, **kwargs)

    return looking


@contextmanager
def _guarded(tree: HookedTree) -> Iterator[None]:
    """Refuse a forward of the hooked modules that did not come from the model's methods: no edit would reach it."""

    def refuse(*_: Any) -> None:
        if tree.active and tree.running is None:
            names = ", ".join(active.site for active in tree.active[:3])
            raise UserError(f"an edit is active at {names}, but the forward did not come from this model's methods")

    handle = tree.bridge.original_model.register_forward_pre_hook(mark_own(refuse))
    try:
        yield
    finally:
        handle.remove()
