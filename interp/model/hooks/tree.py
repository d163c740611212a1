"""The hooked tree of a model: where functions are attached, forwards run, and edits learn what they see.

`Model` is what people use; this is how it works. A function attached at a site sees every forward; an edit is such a
function with its checks and its receipt.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import UserError
from interp.model.hooks.bridge import (
    attached,
    build_bridge,
    copies_weights,
    has_effect,
    lens_gap,
    pads_left,
    read_site_table,
    run,
)
from interp.model.hooks.editing import Edit, Receipt, Receipts, Site, apply_edit, check_edit
from interp.model.hooks.sites import SiteTable, kind_of
from interp.model.hooks.taps import Tap, tapped
from interp.model.hooks.tokens import Side, Tokens, batches, pad
from interp.model.hooks.unchanged import BuiltFrom, remember_weights

if TYPE_CHECKING:  # importing transformer_lens is bridge.py's business
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge


class _Enough(Exception):  # noqa: N818 - control flow, not a fault
    """Raised inside a forward once the last wanted site has been read."""


class HookedTree:
    """A second module tree with hooks, which shares the parameters of `hf`; built when first needed."""

    def __init__(self, hf: PreTrainedModel) -> None:
        self.hf = hf
        self._modules: dict[str, torch.nn.Module] = {}
        self._built_from: BuiltFrom | None = None
        self._batch: Tokens | None = None  # of the forward that runs
        self._resting = False  # do edits stand aside?
        self._hooks = 0
        self._has_effect: dict[str, bool] = {}

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The hooked module tree (TransformerBridge), built when first needed."""
        bridge, modules = build_bridge(self.hf)
        self._modules.update(modules)
        self._built_from = remember_weights(self.hf, copied=copies_weights(bridge, self.hf))
        return bridge

    @cached_property
    def pads_left(self) -> bool:
        """Does padding on the left leave real tokens alone?"""
        with self.resting():
            return pads_left(self.bridge)

    @cached_property
    def lens_gap(self) -> float:
        """How far the last block's output through the final norm and unembedding is from the logits."""
        with self.resting():
            return lens_gap(self.bridge, f"blocks.{self.hf.config.num_hidden_layers - 1}.hook_resid_post")

    @cached_property
    def points(self) -> dict[str, HookPoint]:
        """Hook points by every accepted name; the bridge builds this dictionary anew each time it is asked."""
        return dict(self.bridge.hook_dict)

    @cached_property
    def site_table(self) -> SiteTable:
        """Every site of this model and what it carries, found by asking it."""
        return read_site_table(self.bridge)

    @property
    def is_edited(self) -> bool:
        """Is something attached?"""
        return self._hooks > 0

    @contextmanager
    def attached_at(self, name: str, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Run `function` on the activation at a site of the hooked tree; a returned tensor replaces it."""
        place = self.site_table.registered.get(name)
        if place is None:
            hook = attached(self.points[name], function)
        else:
            hook = tapped(Tap(self._modules[place.module], place.is_input, place.columns), function)
        self._hooks += 1
        try:
            with hook:
                yield
        finally:
            self._hooks -= 1

    @contextmanager
    def edited(self, edits: Mapping[str, Edit]) -> Iterator[Receipts]:
        """Apply edits to every forward inside the context; see `Model.edit`."""
        if not isinstance(edits, Mapping):
            raise UserError(f"edit() got a {type(edits).__name__}; expected {{site or pattern: edit}}")
        if not edits:
            raise UserError(
                "no edit came; expected {site or pattern: edit}, such as {'blocks.3.hook_mlp_out': ablate()}"
            )
        resolved = [(name, fn) for pattern, fn in edits.items() for name in self.site_table.match(pattern)]
        for name, fn in resolved:
            self._check_edit(name, fn)
        receipts = Receipts({name: Receipt(name) for name, _ in resolved})
        with ExitStack() as stack:
            for name, fn in resolved:
                stack.enter_context(self.attached_at(name, self._editor(name, fn, receipts[name])))
            yield receipts
        idle = [name for name, receipt in receipts.items() if receipt.fired == 0]
        if idle:
            raise UserError(
                f"the edit at {', '.join(idle)} never fired: no forward reached it inside `with model.edit(...)`; "
                "call model.logits or model.capture (of a later site) inside the context"
            )

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let edits stand aside while the model is asked about itself."""
        before, self._resting = self._resting, True
        try:
            yield
        finally:
            self._resting = before

    def _check_edit(self, name: str, fn: object) -> None:
        check_edit(name, fn)
        kind = name if name in self.site_table.registered else kind_of(name)  # every layer is built alike
        if kind not in self._has_effect:
            with self.resting():
                self._has_effect[kind] = has_effect(self.bridge, name, partial(self.attached_at, name))
        if not self._has_effect[kind]:
            raise UserError(
                f"an edit at {name} would change nothing: this model shows the value there and does not read it back; "
                "edit another site, such as hook_z or hook_attn_out for attention"
            )

    def _editor(self, name: str, fn: Edit, receipt: Receipt) -> Callable[[Tensor], Tensor]:
        def edit(tensor: Tensor) -> Tensor:
            if self._resting:
                return tensor
            if self._batch is None:
                raise UserError(f"an edit is active at {name}, but the forward did not come from this model's methods")
            site = Site(name, self._batch.index, self._batch.total, self._batch.mask, self.site_table.axes[name])
            with self.resting():  # what an edit asks of the model is answered without edits, or it would ask for ever
                return apply_edit(fn, tensor, site, receipt)

        return edit

    def batches(self, ids: list[list[int]], batch_size: int, padding: Side) -> Iterator[Tokens]:
        """The prompts in padded batches of similar length. Raises UserError for a side that the model cannot have."""
        if padding == "left" and not self.pads_left:
            raise UserError(f"padding on the left changes what {type(self.hf).__name__} computes; use padding='right'")
        for chosen in batches(ids, batch_size):
            yield pad([ids[i] for i in chosen], chosen, len(ids), padding, 0, self.hf.device)

    def forward(self, batch: Tokens, *, gradients: bool = False) -> Float[Tensor, "prompt pos d_vocab"]:
        """The logits of one batch. Raises UserError where the weights are no longer those that the hooks hold."""
        _ = self.bridge
        if self._built_from is not None:
            self._built_from.check(self.hf)
        outer, self._batch = self._batch, batch  # edits look here for which prompts they see
        try:
            with torch.set_grad_enabled(gradients):
                return run(self.bridge, batch.ids, batch.mask, batch.position_ids)
        finally:
            self._batch = outer

    def read(self, batch: Tokens, names: list[str]) -> dict[str, Tensor]:
        """The activations of one batch at these sites; the forward ends with the last of them."""
        got: dict[str, Tensor] = {}

        def reader(name: str) -> Callable[[Tensor], None]:
            def read(tensor: Tensor) -> None:
                got.setdefault(name, tensor.detach().clone())  # a module that runs twice shows its first run
                if len(got) == len(names):
                    raise _Enough

            return read

        with ExitStack() as stack:
            for name in names:
                stack.enter_context(self.attached_at(name, reader(name)))
            with suppress(_Enough):
                self.forward(batch)
        missing = [name for name in names if name not in got]
        if missing:
            raise UserError(f"nothing came at {', '.join(missing)}: the hook never fired in this forward")
        return got


class Editing(AbstractContextManager[Receipts]):
    """`with model.edit(...)`: edits while the context is open. One that is never opened would do nothing, and warns."""

    def __init__(self, tree: HookedTree, edits: Mapping[str, Edit]) -> None:
        self._context: AbstractContextManager[Receipts] | None = None
        self._tree, self._edits = tree, edits

    def __enter__(self) -> Receipts:
        self._context = self._tree.edited(self._edits)
        return self._context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._context is not None
        return self._context.__exit__(kind, error, trace)

    def __del__(self) -> None:
        if getattr(self, "_context", self) is None:
            warnings.warn(
                "model.edit(...) was never entered and edits nothing; write: with model.edit(...):", stacklevel=2
            )
