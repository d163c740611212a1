"""The loaded model: sites, capture, edit, logits.

acts = model.capture(prompts, sites="blocks.*.hook_resid_post")
with model.edit({"blocks.12.hook_resid_post": steer(direction, 4.0)}) as receipts:
    logits = model.logits(prompts)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import UserError
from interp.model.hooks.bridge import unembed
from interp.model.hooks.captured import Activations
from interp.model.hooks.editing import Edit, Metric, Receipts, apply_metric, place
from interp.model.hooks.sites import SiteTable
from interp.model.hooks.tokens import BosPolicy, Prompts, Side, encode, pad
from interp.model.hooks.tree import Editing, HookedTree
from interp.model.provenance import ModelProvenance

if TYPE_CHECKING:  # importing transformer_lens is bridge.py's business
    from transformer_lens.model_bridge import TransformerBridge

    from interp.model.hooks.generation import Generation


@dataclass
class Model:
    """A causal language model with named sites. Build one with `load_model`, or `Model(hf, tokenizer, provenance)`.

    `hf` is the plain Hugging Face model, untouched; hooks live in a second module tree that shares its parameters.
    Where that tree must hold copies (a fused q-k-v matrix, as in Pythia), a later change to `hf`'s weights is refused.
    An edit reaches every forward while it is active, another thread's too: one thread at a time.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: ModelProvenance
    bos: BosPolicy = "tokenizer"

    @cached_property
    def tree(self) -> HookedTree:
        """The hooks and what runs through them."""
        return HookedTree(self.hf)

    @property
    def bridge(self) -> TransformerBridge:
        """The hooked module tree as TransformerLens has it, built when first needed."""
        return self.tree.bridge

    @property
    def site_table(self) -> SiteTable:
        """Every site of this model and what it carries, found by asking it."""
        return self.tree.site_table

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
        from interp.model.hooks.registered import register

        return register(self, name, where)

    def sites(self, pattern: str = "*") -> list[str]:
        """Names of the sites that match `pattern` (`*` matches anything), by TransformerLens hook name."""
        return self.site_table.match(pattern)

    def encode(self, prompts: Prompts, *, cut: int | None = None) -> list[list[int]]:
        """Token ids per prompt under this model's BOS policy; with `cut`, the first so many of each.

        Raises UserError for prompts that `tokens.encode` refuses, that do not fit the context or the embedding matrix.
        """
        rows = [row[:cut] for row in encode(self.tokenizer, prompts, self.bos)]
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
        for batch in self.tree.batches(ids, batch_size, padding):
            for name, piece in self.tree.read(batch, names).items():
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
        for batch in self.tree.batches(ids, batch_size, padding):
            place(out, "logits", self.tree.forward(batch), batch, whole, ("prompt", "pos", "feature"))
        return out["logits"]

    def last_logits(self, prompts: Prompts, *, batch_size: int = 16) -> Float[Tensor, "prompt d_vocab"]:
        """Next-token logits at each prompt's last token, through the hooked model (edits apply)."""
        ids = self.encode(prompts)
        out = torch.empty(len(ids), self.hf.config.vocab_size, dtype=self.hf.dtype, device=self.device)
        for batch in self.tree.batches(ids, batch_size, "right"):
            rows = torch.arange(len(batch.index), device=self.device)
            out[batch.index.to(self.device)] = self.tree.forward(batch)[rows, batch.mask.sum(-1) - 1]
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
        total = len(ids) if total is None else total
        if len(named) != len(ids) or not bool(((named >= 0) & (named < total)).all()):
            raise UserError(
                f"numbers={numbers} of total={total} came for {len(ids)} prompts; expected one each, from 0 on"
            )
        out = torch.empty(len(ids), device=self.device)
        for batch in self.tree.batches(ids, batch_size, "right"):
            told = replace(batch, index=named[batch.index], total=total)
            out[batch.index.to(self.device)] = apply_metric(metric, self.tree.forward(told), told).float()
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
        """Continue prompts, keeping the activations of what is generated; see `hooks.generation`."""
        from interp.model.hooks.generation import generate

        sites = [capture] if isinstance(capture, str) else list(capture)
        return generate(self, prompts, max_new_tokens, sites, temperature, top_k, seed)

    def edit(self, edits: Mapping[str, Edit]) -> AbstractContextManager[Receipts]:
        """Apply `{site or pattern: function}` to every forward inside `with model.edit(...)`; yields receipts by site.

        Raises UserError for unknown, gated or silent sites and for those that the model does not read back on entry,
        for a result that cannot be used, and on exit for an edit that never fired. Hooks are gone after the context,
        whatever happened inside. Without `with`, nothing is edited: that is warned of.
        """
        return Editing(self.tree, edits)

    def unembed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Final norm and unembedding applied to a residual vector of any layer: the logit lens (nostalgebraist 2020).

        Gradients flow to `resid` where it asks for them.
        Raises UserError for a model whose logits are not made that way from its last block's output.
        """
        if self.tree.lens_gap > (1e-3 if self.hf.dtype == torch.float32 else 0.2):
            raise UserError(
                f"the logit lens does not fit {type(self.hf).__name__}: final norm and unembedding of its last block "
                "do not give its logits; use another model"
            )
        if resid.shape[-1] != self.d_model:
            raise UserError(f"unembed got vectors of size {resid.shape[-1]}; expected d_model, {self.d_model}")
        with torch.set_grad_enabled(resid.requires_grad and torch.is_grad_enabled()):
            flat = resid.to(self.device, self.hf.dtype).reshape(1, -1, self.d_model)
            return unembed(self.bridge, flat).reshape(*resid.shape[:-1], -1)

    @property
    def is_edited(self) -> bool:
        """Is an edit active?"""
        return self.tree.is_edited

    def check_plain(self, what: str) -> None:
        """Raise UserError where `what`, which runs the plain model, would be wrong: edited, or with dropout on."""
        if self.hf.training:
            raise UserError(f"{what} would run with dropout: model.hf is in training mode; call model.hf.eval() first")
        if self.is_edited:
            raise UserError(
                f"{what} runs the plain model, which edits do not reach; use model.logits inside model.edit"
            )
