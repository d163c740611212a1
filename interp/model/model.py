"""The loaded model: sites, capture, edit, logits.

    acts = model.capture(prompts, sites="blocks.*.hook_resid_post")
    with model.edit({"blocks.12.hook_resid_post": steer(direction, 4.0)}) as receipts:
        logits = model.logits(prompts)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import UserError, unknown
from interp.model.bridge import attached, build_bridge, read_site_table, run
from interp.model.hooks import Edit, Receipt, Receipts, Site, apply_edit, place
from interp.model.provenance import ModelProvenance
from interp.model.sites import SiteTable
from interp.model.tokens import BosPolicy, Prompts, Side, Tokens, batches, encode, pad

if TYPE_CHECKING:  # importing transformer_lens is bridge.py's business
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Activations(Mapping[str, Tensor]):
    """What `capture` returns: `acts[site]` is [prompt, pos, …], NaN on padding.

    `mask` [prompt, pos] is True at real tokens; `ids` are the token ids, -1 on padding.
    """

    tensors: dict[str, Tensor]
    mask: Bool[Tensor, "prompt pos"]
    ids: Int[Tensor, "prompt pos"]

    def __getitem__(self, site: str) -> Tensor:
        if site not in self.tensors:
            raise unknown("captured site", site, self.tensors)
        return self.tensors[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def last(self, site: str) -> Float[Tensor, "prompt d"]:
        """The activation at each prompt's last real token."""
        count = torch.arange(self.mask.shape[1], device=self.mask.device).expand_as(self.mask)
        index = torch.where(self.mask, count, -1).max(-1).values
        return self[site][torch.arange(len(index)), index]

    def rows(self, site: str) -> Float[Tensor, "row d"]:
        """Every real token's activation, prompt by prompt."""
        return self[site][self.mask]


class _Enough(Exception):  # noqa: N818 - control flow, not a fault
    """Raised inside a forward once the last wanted site has been read."""


@dataclass
class Model:
    """A causal language model with named sites. Build one with `load_model`, or from a model in memory with `from_hf`.

    `hf` is the plain Hugging Face model, untouched; hooks live in a second module tree that shares its parameters.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: ModelProvenance
    bos: BosPolicy = "tokenizer"
    _batch: Tokens | None = field(default=None, repr=False)

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The hooked module tree (TransformerBridge), built when first needed."""
        return build_bridge(self.hf)

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

    def sites(self, pattern: str = "*") -> list[str]:
        """Names of the sites that match `pattern` (`*` matches anything), by TransformerLens hook name."""
        return self.site_table.match(pattern)

    def encode(self, prompts: Prompts) -> list[list[int]]:
        """Token ids per prompt under this model's BOS policy."""
        return encode(self.tokenizer, prompts, self.bos)

    def str_tokens(self, prompt: str) -> list[str]:
        """The pieces a prompt is broken into, as text."""
        return [self.tokenizer.decode([t]) for t in self.encode(prompt)[0]]

    def capture(
        self, prompts: Prompts, sites: str | Iterable[str], *, batch_size: int = 16, padding: Side = "right"
    ) -> Activations:
        """Read activations at `sites` (names or patterns); only these are kept, each once.

        Neither padding nor batch size nor batch mates change the result beyond rounding (1e-3 in fp32).
        Raises UserError for a name that matches nothing, is gated, or never fires.
        """
        names = self.site_table.match(sites)
        ids = self.encode(prompts)
        whole = pad(ids, range(len(ids)), padding, 0, self.device)
        tensors: dict[str, Tensor] = {}
        for batch in self._batches(ids, batch_size, padding):
            for name, piece in self._read(batch, names).items():
                place(tensors, name, piece, batch, whole, self.site_table.axes[name])
        return Activations(tensors, whole.mask, whole.ids.masked_fill(~whole.mask, -1))

    def logits(
        self, prompts: Prompts, *, batch_size: int = 16, padding: Side = "right"
    ) -> Float[Tensor, "prompt pos d_vocab"]:
        """Next-token logits at every position, through the hooked model (edits apply); NaN on padding."""
        ids = self.encode(prompts)
        whole = pad(ids, range(len(ids)), padding, 0, self.device)
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

    @contextmanager
    def edit(self, edits: Mapping[str, Edit]) -> Iterator[Receipts]:
        """Apply `{site or pattern: function}` to every forward inside the context; yields receipts by site.

        Raises UserError for unknown, gated or silent sites on entry, for a result that cannot be used, and on exit for
        an edit that never fired. Hooks are gone after the context, whatever happened inside.
        """
        resolved = [(name, fn) for pattern, fn in edits.items() for name in self.site_table.match(pattern)]
        receipts = Receipts({name: Receipt(name) for name, _ in resolved})
        with ExitStack() as stack:
            for name, fn in resolved:
                stack.enter_context(attached(self._points[name], self._editor(name, fn, receipts[name])))
            yield receipts
        idle = [name for name, receipt in receipts.items() if receipt.fired == 0]
        if idle:
            raise UserError(
                f"the edit at {', '.join(idle)} never fired: no forward reached it inside `with model.edit(...)`; "
                "call model.logits or model.capture (of a later site) inside the context"
            )

    def unembed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Final norm and unembedding applied to a residual vector of any layer: the logit lens (nostalgebraist 2020)."""
        with torch.no_grad():
            flat = resid.to(self.device, self.hf.dtype).reshape(1, -1, resid.shape[-1])
            return self.bridge.unembed(self.bridge.ln_final(flat)).reshape(*resid.shape[:-1], -1)

    def _batches(self, ids: list[list[int]], batch_size: int, padding: Side) -> Iterator[Tokens]:
        for chosen in batches(ids, batch_size):
            yield pad([ids[i] for i in chosen], chosen, padding, 0, self.device)

    def _forward(self, batch: Tokens) -> Tensor:
        self._batch = batch  # edits look here for which prompts they see
        try:
            with torch.no_grad():
                return run(self.bridge, batch.ids, batch.mask, batch.position_ids)
        finally:
            self._batch = None

    def _read(self, batch: Tokens, names: list[str]) -> dict[str, Tensor]:
        got: dict[str, Tensor] = {}

        def reader(name: str) -> Callable[[Tensor], None]:
            def read(tensor: Tensor) -> None:
                got[name] = tensor.detach().clone()
                if len(got) == len(names):
                    raise _Enough

            return read

        with ExitStack() as stack:
            for name in names:
                stack.enter_context(attached(self._points[name], reader(name)))
            try:
                self._forward(batch)
            except _Enough:
                pass
        missing = [name for name in names if name not in got]
        if missing:
            raise UserError(f"nothing came at {', '.join(missing)}: the hook never fired in this forward")
        return got

    def _editor(self, name: str, fn: Edit, receipt: Receipt) -> Callable[[Tensor], Tensor]:
        def edit(tensor: Tensor) -> Tensor:
            if self._batch is None:
                raise UserError(f"an edit is active at {name}, but the forward did not come from this model's methods")
            site = Site(name, self._batch.index, self._batch.mask, self.site_table.axes[name])
            return apply_edit(fn, tensor, site, receipt)

        return edit
