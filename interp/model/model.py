"""The loaded model: sites, capture, edit, logits, generate.

acts = model.capture(prompts, sites="blocks.*.hook_resid_post")
with model.edit({"blocks.12.hook_resid_post": steer(direction, 4.0)}) as receipts:
    print(model.generate(prompts).texts)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import UserError
from interp.model.elsewhere import ELSEWHERE, refuse_name, says_what_it_takes
from interp.model.hooks.asked import context_length, padding_is_harmless
from interp.model.hooks.bridge import unembed
from interp.model.hooks.captured import Activations, place
from interp.model.hooks.editing import Edit
from interp.model.hooks.forward import batches, check_fits, forward, measure_batch, read
from interp.model.hooks.generation import Generation, Sampling, generate
from interp.model.hooks.metrics import Metric, heeds_padding
from interp.model.hooks.receipts import Receipts
from interp.model.hooks.registered import register
from interp.model.hooks.sites import SiteTable
from interp.model.hooks.tokens import BosPolicy, Prompts, Side, encode, pad
from interp.model.hooks.tolerance import of_logits
from interp.model.hooks.tree import HookedTree, looks_once
from interp.model.hooks.vocabulary import end_ids, token_texts
from interp.model.matrices import Matrices
from interp.model.provenance import FollowedProvenance, ModelProvenance

if TYPE_CHECKING:  # importing transformer_lens is bridge.py's business
    from transformer_lens.model_bridge import TransformerBridge


@says_what_it_takes
@dataclass(repr=False, eq=False)
class Model(Matrices):
    """A causal language model with named sites. Build one with `load_model`, or with `from_transformers` of a
    model in memory.

    `hf` is the plain Hugging Face model, untouched; hooks live in a second module tree that shares its parameters and
    follows when `hf` is changed. An adapter on `hf` (PEFT) is part of the model while it is switched on.
    An edit reaches every forward while it is active, another thread's too: one thread at a time. Its weights as
    matrices (`W_Q`, `W_out`, `OV(layer, head)`, …) are in `interp.model.matrices`.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: ModelProvenance | FollowedProvenance = FollowedProvenance()  # noqa: RUF009 - a descriptor
    bos: BosPolicy = "tokenizer"

    def __post_init__(self) -> None:
        wrapped: Any = self.hf  # a PeftModel: its adapter lies inside the model that it wraps
        if hasattr(wrapped, "peft_config") and hasattr(wrapped, "get_base_model"):
            if kinds := [k for k, config in wrapped.peft_config.items() if config.is_prompt_learning]:
                raise UserError(
                    f"the adapter {kinds[0]!r} puts learned vectors in front of every prompt, which lie outside the "
                    "model that is hooked; expected LoRA or another adapter that changes modules"
                )
            known, self.hf = self.provenance, wrapped.get_base_model()
            self.provenance = known

    def __repr__(self) -> str:
        return f"Model({self.provenance.name}: {self.n_layers} layers, d_model {self.d_model}, {self.device})"

    def __getattr__(self, name: str) -> NoReturn:
        raise refuse_name(type(self).__name__, name, ELSEWHERE)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Raise UserError: a model is asked by name."""
        raise UserError(
            "a Model is not called; use model.logits(prompts), model.last_logits(prompts) or model.generate"
        )

    @cached_property
    def tree(self) -> HookedTree:
        """The hooks and the edits that are active."""
        return HookedTree(self.hf)

    def with_bos(self, bos: BosPolicy) -> Model:
        """The same model under another policy of what stands in front of a prompt, which its provenance records."""
        known = self.provenance
        other = Model(self.hf, self.tokenizer, replace(known, bos={**known.bos, "policy": bos}), bos)
        other.__dict__["tree"] = self.tree  # its hooks, registered sites and edits that are active
        return other

    @property
    def config(self) -> Any:
        """The language model's config, as transformers has it; of a multimodal model, that of its text part."""
        return self.tree.config

    @property
    def bridge(self) -> TransformerBridge:
        """The hooked module tree as TransformerLens has it, built when first needed."""
        self.tree.follow()
        return self.tree.bridge

    @property
    def site_table(self) -> SiteTable:
        """Every site of this model and what it carries, found by asking it."""
        self.tree.follow()
        return self.tree.site_table

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hf.device

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def context_length(self) -> int | None:
        """The most tokens that it takes; None where its config names no limit."""
        return context_length(self.tree)

    def pads(self, side: Side) -> bool:
        """May prompts be padded on this side without a change to their numbers? Asked of the model."""
        return padding_is_harmless(self.tree, "plain", side)

    def residual(self, layer: int) -> str:
        """The site of the residual stream after `layer` blocks: 0 is the embedding, n_layers what the final norm reads.

        Raises UserError for a layer outside 0 to n_layers.
        """
        if not hasattr(layer, "__index__") or not 0 <= layer <= self.n_layers:
            raise UserError(
                f"layer {layer!r} came; expected 0 (the embedding) to {self.n_layers} (after the last block)"
            )
        return f"blocks.{layer}.hook_resid_pre" if layer < self.n_layers else f"blocks.{layer - 1}.hook_resid_post"

    def register_site(self, name: str, where: str) -> list[str]:
        """Name a place that TransformerLens does not, and use it like any site; returns the names that are new.

        `where` is a module of the plain model: `model.layers.3.mlp.act_fn` for what comes out of it, with `:input` for
        what goes in, `[0:64]` behind it for some columns. `*` in both stands for the layer:
        `register_site("blocks.*.mlp.hook_act", "model.layers.*.mlp.act_fn")`.
        Raises UserError for a name that exists, a module that does not, or one that the hooked model never runs.
        """
        return register(self.tree, name, where)

    def sites(self, pattern: str = "*") -> list[str]:
        """Names of the sites that match `pattern` (`*` matches anything), by TransformerLens hook name.

        Gated sites (`blocks.*.attn.hook_result`) are named where the pattern means them alone, as in `capture`: they
        are measured once, and closed until a forward reads or edits one.
        """
        return self.tree.match(pattern)

    def encode(self, prompts: Prompts, *, cut: int | None = None) -> list[list[int]]:
        """Token ids per prompt under this model's BOS policy; with `cut`, the first so many of each.

        Raises UserError for prompts that `tokens.encode` refuses, that do not fit the context or the embedding matrix.
        """
        rows = [row[:cut] for row in encode(self.tokenizer, prompts, self.bos)]
        check_fits(self.tree, rows)
        return rows

    def str_tokens(self, prompt: str) -> list[str]:
        """The pieces a prompt is broken into, with their blanks; the bytes of a split character are written ‹E6›."""
        texts = self.vocabulary
        return [texts[t] for t in self.encode(prompt)[0]]

    @cached_property
    def vocabulary(self) -> list[str]:
        """The text of every token id, as `str_tokens` writes it."""
        return token_texts(self.tokenizer)

    def token_id(self, text: str) -> int:
        """The id of a text that is one token, such as " Paris". Raises UserError for another, with its pieces."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) != 1:
            pieces = ", ".join(repr(self.vocabulary[i]) for i in ids) or "nothing"
            raise UserError(f"{text!r} is {len(ids)} tokens ({pieces}); expected one; words mostly begin with a blank")
        return int(ids[0])

    @looks_once
    def capture(
        self, prompts: Prompts, sites: str | Iterable[str], *, batch_size: int = 16, padding: Side = "right"
    ) -> Activations:
        """Read activations at `sites` (names or patterns); only these are kept, each once.

        Neither padding nor batch size nor batch mates change the result beyond rounding: 1e-3 in fp32, and 1e-5 of the
        largest at attention sinks, whose residual stream reaches 25,000 and cancels again.
        Raises UserError for a name that matches nothing or never fires.
        """
        names = self.tree.match(sites)
        ids = self.encode(prompts)
        whole = pad(ids, range(len(ids)), len(ids), padding, 0, self.device)
        table = self.tree.site_table
        axes = {name: table.axes[name] for name in names}
        tensors: dict[str, Tensor] = {}
        for batch in batches(self.tree, ids, batch_size, padding, names):
            for name, piece in read(self.tree, batch, names).items():
                place(tensors, name, piece, batch, whole, axes[name])
        return Activations(tensors, whole.mask, whole.ids.masked_fill(~whole.mask, -1), axes)

    @looks_once
    def logits(
        self, prompts: Prompts, *, batch_size: int = 16, padding: Side = "right"
    ) -> Float[Tensor, "prompt pos d_vocab"]:
        """Next-token logits at every position (edits apply); NaN on padding."""
        ids = self.encode(prompts)
        whole = pad(ids, range(len(ids)), len(ids), padding, 0, self.device)
        out: dict[str, Tensor] = {}
        for batch in batches(self.tree, ids, batch_size, padding):
            place(out, "logits", forward(self.tree, batch).logits, batch, whole, ("prompt", "pos", "feature"))
        return out["logits"]

    @looks_once
    def last_logits(self, prompts: Prompts, *, batch_size: int = 16) -> Float[Tensor, "prompt d_vocab"]:
        """Next-token logits at each prompt's last token (edits apply)."""
        ids = self.encode(prompts)
        rows: list[Tensor] = [torch.empty(0)] * len(ids)
        for batch in batches(self.tree, ids, batch_size, "right"):
            for i, row in zip(batch.index.tolist(), forward(self.tree, batch, keep="last").logits[:, 0], strict=True):
                rows[i] = row
        return torch.stack(rows)

    @looks_once
    def loss(self, prompts: Prompts, *, batch_size: int = 8) -> Float[Tensor, "prompt pos"]:
        """Surprise of every token given those before it, in nats (cross-entropy); edits apply.

        NaN at each prompt's first token, which nothing foretells, and on padding. `nanmean()` is the loss.
        """
        ids = self.encode(prompts)
        out = torch.full((len(ids), max(map(len, ids))), torch.nan, device=self.device)
        for batch in batches(self.tree, ids, batch_size, "right"):
            if batch.ids.shape[1] < 2:
                continue
            logits, target = forward(self.tree, batch).logits[:, :-1].float(), batch.ids[:, 1:]
            # a row a token: along a transposed vocabulary it takes ten times as long
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
            piece = loss.view(target.shape).masked_fill(~batch.mask[:, 1:], torch.nan)
            out[batch.index.to(self.device), 1 : batch.ids.shape[1]] = piece
        return out

    @looks_once
    def measure(
        self,
        prompts: Prompts,
        metric: Metric,
        *,
        batch_size: int = 16,
        numbers: Sequence[int] | None = None,
        total: int | None = None,
    ) -> Float[Tensor, " prompt"]:
        """One number a prompt from its logits, which are not kept: `metric(logits [prompt, pos, d_vocab], where)`.

        `where.prompts` says which prompts these are. A metric of your own gets prompts of one length at a time, without
        padding. Those of `interp.analysis.metrics` take any, and of the last token alone where they read no other.
        Edits apply. `numbers` and `total` are the indices to report as `where.prompts`, and how many prompts there are,
        where these prompts are repeated ones.
        """
        ids = self.encode(prompts)
        named = torch.arange(len(ids)) if numbers is None else torch.tensor(list(numbers))
        total = len(ids) if total is None else total
        if len(named) != len(ids) or not bool(((named >= 0) & (named < total)).all()):
            raise UserError(
                f"numbers={numbers} of total={total} came for {len(ids)} prompts; expected one each, from 0 on"
            )
        out = torch.empty(len(ids), device=self.device)
        alike = None if heeds_padding(metric) else lambda i: len(ids[i])
        for batch in batches(self.tree, ids, batch_size, "right", alike=alike):
            named_batch = replace(batch, index=named[batch.index], total=total)
            out[batch.index.to(self.device)] = measure_batch(self.tree, named_batch, metric).float()
        return out

    @looks_once
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
        """Write up to `max_new_tokens` behind every prompt; edits apply to the prompt, then to each new token.

        `temperature` 0 takes the likeliest token each time; above 0, tokens are drawn, among the `top_k` likeliest if
        that is given, by a generator of this `seed`. A prompt ends at the tokenizer's end-of-text token and at every
        other one that the model's own generation settings name. `capture` names sites whose activations are kept.
        Raises UserError where prompt and new tokens exceed the context.
        """
        sampling = Sampling(max_new_tokens, temperature, top_k, seed)
        names = self.tree.match(wanted) if (wanted := [capture] if isinstance(capture, str) else list(capture)) else []
        ids, activations = generate(self.tree, self.encode(prompts), names, sampling, end_ids(self.hf, self.tokenizer))
        texts = [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in ids]
        return Generation(ids, texts, activations)

    def edit(
        self, edits: Mapping[str, Edit] | None = None, *, gradients: Mapping[str, Edit] | None = None
    ) -> AbstractContextManager[Receipts]:
        """Apply `{site or pattern: function}` to every forward inside `with model.edit(...)`; yields receipts by site.

        `gradients`: functions of the gradient that flows back through a site, `(gradient, where) -> gradient`; what was
        computed before the site gets what they return (`gradients_of`).
        An edit that returns None leaves the activation as it is. Hooks are gone after the context, whatever happened
        inside. Without `with`, nothing is edited: that is warned of.
        Raises UserError

        - for a name that matches nothing, a site that never fires, or one that the model does not read back, on entry;
        - for a result of another shape, device or dtype, or that is not finite;
        - for an edit that never fired, on exit.
        """
        if edits is None and gradients is not None:
            edits = {}
        return self.tree.editing({} if edits is None else edits, {} if gradients is None else gradients)

    @looks_once
    def unembed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Final norm and unembedding applied to a residual vector of any layer: the logit lens (nostalgebraist 2020).

        Gradients flow to `resid` where it asks for them.
        Raises UserError for a model whose logits are not made that way from its last block's output.
        """
        if self.tree.lens_gap > of_logits(self.hf.dtype):
            raise UserError(
                f"the logit lens does not fit {type(self.hf).__name__}: final norm and unembedding of its last block "
                "do not give its logits; use another model"
            )
        if resid.shape[-1] != self.d_model:
            raise UserError(f"unembed got vectors of size {resid.shape[-1]}; expected d_model, {self.d_model}")
        with torch.set_grad_enabled(resid.requires_grad and torch.is_grad_enabled()):
            flat = resid.to(self.device, self.hf.dtype).reshape(1, -1, self.d_model)
            return unembed(self.tree.bridge, flat).reshape(*resid.shape[:-1], -1)

    @property
    def is_edited(self) -> bool:
        """Is an edit active?"""
        return self.tree.is_edited

    def check_plain(self, what: str) -> None:
        """Raise UserError while `what` would keep other numbers under the model's name: edited, or in training mode."""
        if self.hf.training:
            raise UserError(f"{what} would run with dropout: model.hf is in training mode; call model.hf.eval() first")
        if self.is_edited:
            raise UserError(f"{what} would keep edited numbers under the model's name; leave model.edit first")
