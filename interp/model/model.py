"""The loaded model: sites, capture, edit, logits.

acts = model.capture(prompts, sites="blocks.*.hook_resid_post")
with model.edit({"blocks.12.hook_resid_post": steer(direction, 4.0)}) as receipts:
    logits = model.logits(prompts)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import UserError
from interp.model.bridge import (
    attached,
    build_bridge,
    copies_weights,
    has_effect,
    lens_gap,
    pads_left,
    read_site_table,
    run,
    unembed,
)
from interp.model.captured import Activations
from interp.model.hooks import Edit, Metric, Receipt, Receipts, Site, apply_edit, check_edit, place
from interp.model.provenance import ModelProvenance
from interp.model.sites import SiteTable, kind_of
from interp.model.taps import Tap, tapped
from interp.model.tokens import BosPolicy, Prompts, Side, Tokens, batches, encode, pad
from interp.model.weights import BuiltFrom, remember_weights

if TYPE_CHECKING:  # importing transformer_lens is bridge.py's business
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge

    from interp.model.generate import Generation


class _Enough(Exception):  # noqa: N818 - control flow, not a fault
    """Raised inside a forward once the last wanted site has been read."""


@dataclass
class Model:
    """A causal language model with named sites. Build one with `load_model`, or from a model in memory with `from_hf`.

    `hf` is the plain Hugging Face model, untouched; hooks live in a second module tree that shares its parameters.
    Where that tree must hold copies (a fused q-k-v matrix, as in Pythia), a later change to `hf`'s weights is refused.
    An edit reaches every forward while it is active, another thread's too: one thread at a time.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: ModelProvenance
    bos: BosPolicy = "tokenizer"
    _batch: Tokens | None = field(default=None, repr=False)
    _edits_rest: bool = field(default=False, repr=False)
    _built_from: BuiltFrom | None = field(default=None, repr=False)
    _hooks: int = field(default=0, repr=False)
    _has_effect: dict[str, bool] = field(default_factory=dict, repr=False)
    _modules: dict[str, torch.nn.Module] = field(default_factory=dict, repr=False)

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The hooked module tree (TransformerBridge), built when first needed."""
        bridge, modules = build_bridge(self.hf)
        self._modules.update(modules)
        self._built_from = remember_weights(self.hf, copied=copies_weights(bridge, self.hf))
        return bridge

    @cached_property
    def _pads_left(self) -> bool:
        with self._rest():
            return pads_left(self.bridge)

    @cached_property
    def _lens_gap(self) -> float:
        with self._rest():
            return lens_gap(self.bridge, f"blocks.{self.n_layers - 1}.hook_resid_post")

    @cached_property
    def _points(self) -> dict[str, HookPoint]:
        """Hook points by every accepted name; the bridge builds this dictionary anew each time it is asked."""
        return dict(self.bridge.hook_dict)

    @cached_property
    def site_table(self) -> SiteTable:
        """Every site of this model and what it carries, found by asking it."""
        return read_site_table(self.bridge)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hf.device

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.hf.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.hf.config.hidden_size)

    def register_site(self, name: str, where: str) -> list[str]:
        """Name a place that TransformerLens does not, and use it like any site; returns the names that are new.

        `where` is a module of the plain model: `model.layers.3.mlp.act_fn` for what comes out of it, with `:input` for
        what goes in, `[0:64]` behind it for some columns. `*` in both stands for the layer:
        `register_site("blocks.*.mlp.hook_act", "model.layers.*.mlp.act_fn")`.
        Raises UserError for a name that exists, a module that does not, or one that the hooked model never runs.
        """
        from interp.model.register import register

        return register(self, name, where)

    def sites(self, pattern: str = "*") -> list[str]:
        """Names of the sites that match `pattern` (`*` matches anything), by TransformerLens hook name."""
        return self.site_table.match(pattern)

    def encode(self, prompts: Prompts) -> list[list[int]]:
        """Token ids per prompt under this model's BOS policy.

        Raises UserError for prompts that `tokens.encode` refuses, that do not fit the context or the embedding matrix.
        """
        rows = encode(self.tokenizer, prompts, self.bos)
        context = getattr(self.hf.config, "max_position_embeddings", None)
        embedded = int(self.hf.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr,arg-type]
        for i, row in enumerate(rows):
            if context and 0 < context < len(row):
                raise UserError(f"prompt {i} has {len(row)} tokens; this model takes {context} at most; shorten it")
            if max(row) >= embedded:
                raise UserError(
                    f"prompt {i} holds token id {max(row)}, but this model embeds ids 0 to {embedded - 1} only; "
                    "its tokenizer belongs to another model"
                )
        return rows

    def str_tokens(self, prompt: str) -> list[str]:
        """The pieces a prompt is broken into, as text."""
        return [str(self.tokenizer.decode([t])) for t in self.encode(prompt)[0]]

    def capture(
        self, prompts: Prompts, sites: str | Iterable[str], *, batch_size: int = 16, padding: Side = "right"
    ) -> Activations:
        """Read activations at `sites` (names or patterns); only these are kept, each once.

        Neither padding nor batch size nor batch mates change the result beyond rounding: 1e-3 in fp32, and 1e-5 of the
        largest at attention sinks, whose residual stream reaches 25,000 and cancels again.
        Raises UserError for a name that matches nothing, is gated, or never fires.
        """
        names = self.site_table.match(sites)
        ids = self.encode(prompts)
        whole = pad(ids, range(len(ids)), len(ids), padding, 0, self.device)
        tensors: dict[str, Tensor] = {}
        for batch in self._batches(ids, batch_size, padding):
            for name, piece in self._read(batch, names).items():
                place(tensors, name, piece, batch, whole, self.site_table.axes[name])
        axes = {name: self.site_table.axes[name] for name in names}
        return Activations(tensors, whole.mask, whole.ids.masked_fill(~whole.mask, -1), axes)

    def logits(
        self, prompts: Prompts, *, batch_size: int = 16, padding: Side = "right"
    ) -> Float[Tensor, "prompt pos d_vocab"]:
        """Next-token logits at every position, through the hooked model (edits apply); NaN on padding."""
        ids = self.encode(prompts)
        whole = pad(ids, range(len(ids)), len(ids), padding, 0, self.device)
        out: dict[str, Tensor] = {}
        for batch in self._batches(ids, batch_size, padding):
            place(out, "logits", self._forward(batch), batch, whole, ("prompt", "pos", "feature"))
        return out["logits"]

    def last_logits(self, prompts: Prompts, *, batch_size: int = 16) -> Float[Tensor, "prompt d_vocab"]:
        """Next-token logits at each prompt's last token, through the hooked model (edits apply)."""
        ids = self.encode(prompts)
        out = torch.empty(len(ids), self.hf.config.vocab_size, dtype=self.hf.dtype, device=self.device)
        for batch in self._batches(ids, batch_size, "right"):
            rows = torch.arange(len(batch.index), device=self.device)
            out[batch.index.to(self.device)] = self._forward(batch)[rows, batch.mask.sum(-1) - 1]
        return out

    def measure(
        self,
        prompts: Prompts,
        metric: Metric,
        *,
        batch_size: int = 16,
        numbers: Sequence[int] | None = None,
        total: int | None = None,
    ) -> Float[Tensor, " prompt"]:
        """One number a prompt from its logits, which are not kept: `metric(logits [prompt, pos, d_vocab], site)`.

        `site.prompts` says which prompts these are, `site.mask` where their tokens are; padding is on the right. Runs
        through the hooked model: edits apply. `numbers` and `total` are what edits and metric are told instead of
        0, 1, …, where these prompts are copies of others.
        """
        ids = self.encode(prompts)
        named = torch.arange(len(ids)) if numbers is None else torch.tensor(list(numbers))
        out = torch.empty(len(ids), device=self.device)
        for batch in self._batches(ids, batch_size, "right"):
            told = replace(batch, index=named[batch.index], total=len(ids) if total is None else total)
            out[batch.index.to(self.device)] = apply_metric(metric, self._forward(told), told).float()
        return out

    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int = 20,
        capture: str | Iterable[str] = (),
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Generation:
        """Continue prompts, keeping the activations of what is generated; see `interp.model.generate.generate`."""
        from interp.model.generate import generate

        sites = [capture] if isinstance(capture, str) else list(capture)
        return generate(self, prompts, max_new_tokens, sites, temperature, top_k, seed)

    @contextmanager
    def edit(self, edits: Mapping[str, Edit]) -> Iterator[Receipts]:
        """Apply `{site or pattern: function}` to every forward inside the context; yields receipts by site.

        Raises UserError for unknown, gated or silent sites and for those that the model does not read back on entry,
        for a result that cannot be used, and on exit for an edit that never fired. Hooks are gone after the context,
        whatever happened inside.
        """
        resolved = [(name, fn) for pattern, fn in edits.items() for name in self.site_table.match(pattern)]
        for name, fn in resolved:
            self._check_edit(name, fn)
        receipts = Receipts({name: Receipt(name) for name, _ in resolved})
        with ExitStack() as stack:
            for name, fn in resolved:
                stack.enter_context(self._attached(name, self._editor(name, fn, receipts[name])))
            yield receipts
        idle = [name for name, receipt in receipts.items() if receipt.fired == 0]
        if idle:
            raise UserError(
                f"the edit at {', '.join(idle)} never fired: no forward reached it inside `with model.edit(...)`; "
                "call model.logits or model.capture (of a later site) inside the context"
            )

    def unembed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Final norm and unembedding applied to a residual vector of any layer: the logit lens (nostalgebraist 2020).

        Raises UserError for a model whose logits are not made that way from its last block's output.
        """
        if self._lens_gap > (1e-3 if self.hf.dtype == torch.float32 else 0.2):
            raise UserError(
                f"the logit lens does not fit {type(self.hf).__name__}: final norm and unembedding of its last block "
                "do not give its logits; use another model"
            )
        if resid.shape[-1] != self.d_model:
            raise UserError(f"unembed got vectors of size {resid.shape[-1]}; expected d_model, {self.d_model}")
        with torch.no_grad():
            flat = resid.to(self.device, self.hf.dtype).reshape(1, -1, self.d_model)
            return unembed(self.bridge, flat).reshape(*resid.shape[:-1], -1)

    @contextmanager
    def _attached(self, name: str, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Run `function` on the activation at a site of the hooked tree; a returned tensor replaces it."""
        place = self.site_table.registered.get(name)
        if place is None:
            hook = attached(self._points[name], function)
        else:
            hook = tapped(Tap(self._modules[place.module], place.is_input, place.columns), function)
        self._hooks += 1
        try:
            with hook:
                yield
        finally:
            self._hooks -= 1

    @contextmanager
    def _rest(self) -> Iterator[None]:
        """Let edits stand aside while the model is asked about itself."""
        before, self._edits_rest = self._edits_rest, True
        try:
            yield
        finally:
            self._edits_rest = before

    def _check_edit(self, name: str, fn: object) -> None:
        check_edit(name, fn)
        kind = name if name in self.site_table.registered else kind_of(name)  # every layer is built alike
        if kind not in self._has_effect:
            with self._rest():
                self._has_effect[kind] = has_effect(self.bridge, name, partial(self._attached, name))
        if not self._has_effect[kind]:
            raise UserError(
                f"an edit at {name} would change nothing: this model shows the value there and does not read it back; "
                "edit another site, such as hook_z or hook_attn_out for attention"
            )

    def _batches(self, ids: list[list[int]], batch_size: int, padding: Side) -> Iterator[Tokens]:
        if padding == "left" and not self._pads_left:
            raise UserError(f"padding on the left changes what {type(self.hf).__name__} computes; use padding='right'")
        for chosen in batches(ids, batch_size):
            yield pad([ids[i] for i in chosen], chosen, len(ids), padding, 0, self.device)

    def _forward(self, batch: Tokens, *, gradients: bool = False) -> Tensor:
        _ = self.bridge
        if self._built_from is not None:
            self._built_from.check(self.hf)
        outer, self._batch = self._batch, batch  # edits look here for which prompts they see
        try:
            with torch.set_grad_enabled(gradients):
                return run(self.bridge, batch.ids, batch.mask, batch.position_ids)
        finally:
            self._batch = outer

    @property
    def is_edited(self) -> bool:
        """Is an edit active?"""
        return self._hooks > 0

    def check_plain(self, what: str) -> None:
        """Raise UserError where `what`, which runs the plain model, would be wrong: edited, or with dropout on."""
        if self.hf.training:
            raise UserError(f"{what} would run with dropout: model.hf is in training mode; call model.hf.eval() first")
        if self.is_edited:
            raise UserError(
                f"{what} runs the plain model, which edits do not reach; use model.logits inside model.edit"
            )

    def _read(self, batch: Tokens, names: list[str]) -> dict[str, Tensor]:
        got: dict[str, Tensor] = {}

        def reader(name: str) -> Callable[[Tensor], None]:
            def read(tensor: Tensor) -> None:
                got.setdefault(name, tensor.detach().clone())  # a module that runs twice shows its first run
                if len(got) == len(names):
                    raise _Enough

            return read

        with ExitStack() as stack:
            for name in names:
                stack.enter_context(self._attached(name, reader(name)))
            with suppress(_Enough):
                self._forward(batch)
        missing = [name for name in names if name not in got]
        if missing:
            raise UserError(f"nothing came at {', '.join(missing)}: the hook never fired in this forward")
        return got

    def _editor(self, name: str, fn: Edit, receipt: Receipt) -> Callable[[Tensor], Tensor]:
        def edit(tensor: Tensor) -> Tensor:
            if self._edits_rest:
                return tensor
            if self._batch is None:
                raise UserError(f"an edit is active at {name}, but the forward did not come from this model's methods")
            site = Site(name, self._batch.index, self._batch.total, self._batch.mask, self.site_table.axes[name])
            with self._rest():  # what an edit asks of the model is answered without edits, or it would ask for ever
                return apply_edit(fn, tensor, site, receipt)

        return edit


def apply_metric(metric: Metric, logits: Float[Tensor, "prompt pos d_vocab"], batch: Tokens) -> Tensor:
    """One number a prompt of the batch. Raises UserError for anything else."""
    value = metric(logits, Site("logits", batch.index, batch.total, batch.mask, ("prompt", "pos", "feature")))
    if not isinstance(value, Tensor) or value.shape != (len(batch.index),):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"the metric gave {got}; expected one number a prompt, shape ({len(batch.index)},)")
    return value
