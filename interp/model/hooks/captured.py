"""What a capture gives: activations by site, with the tokens they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError, unknown
from interp.model.hooks.host import known, sent
from interp.model.hooks.tokens import Tokens

# What a user of TransformerLens' ActivationCache types first.
ELSEWHERE = {
    "stack_activation": "torch.stack([acts[site] for site in acts])",
    "cache_dict": "acts itself, a mapping from site to tensor, or acts.tensors",
    "accumulated_resid": 'model.capture(prompts, "blocks.*.hook_resid_post"), layer by layer',
    "decompose_resid": "interp.analysis.attribute_logits(model, prompts, right, wrong)",
    "logit_attrs": "interp.analysis.attribute_logits(model, prompts, right, wrong)",
    "stack_head_results": 'model.capture(prompts, "blocks.*.attn.hook_result"), or attribute_logits(…, by="head")',
    "stack_neuron_results": 'interp.analysis.attribute_logits(model, prompts, right, wrong, by="neuron")',
    "apply_ln_to_stack": "model.unembed(resid), final norm and unembedding in one",
    "remove_batch_dim": "acts[site][0]",
    "to": "acts[site].to(device), tensor by tensor",
    "cpu": "acts[site].cpu(), tensor by tensor",
    "shape": "acts[site].shape",
}


@dataclass(frozen=True)
class Activations(Mapping[str, Tensor]):
    """What `capture` returns: `acts[site]` is [prompt, pos, …], NaN on padding.

    `mask` [prompt, pos] is True at real tokens; `ids` are the token ids, -1 on padding; `axes` says what each axis of
    a site's tensor is.
    """

    tensors: dict[str, Tensor]
    mask: Bool[Tensor, "prompt pos"]
    ids: Int[Tensor, "prompt pos"]
    axes: Mapping[str, tuple[str, ...]]

    def __getattr__(self, name: str) -> NoReturn:
        if name in ELSEWHERE:
            raise AttributeError(f"Activations have no {name}; here it is called: {ELSEWHERE[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getitem__(self, site: str) -> Tensor:
        if not isinstance(site, str):
            first = next(iter(self.tensors), "site")
            raise UserError(
                f"acts[{site!r:.60}] names no site; expected a name, such as acts[{first!r}]; prompts are the first "
                "axis of what that gives"
            )
        if site not in self.tensors:
            raise unknown("captured site", site, self.tensors)
        return self.tensors[site]

    def __repr__(self) -> str:
        shapes = [f"{site} {list(tensor.shape)}" for site, tensor in self.tensors.items()]
        more = [f"and {len(shapes) - 3} more"] if len(shapes) > 3 else []
        return f"Activations({len(self.mask)} prompts, {int(self.mask.sum()):,} tokens; {', '.join(shapes[:3] + more)})"

    def __contains__(self, site: object) -> bool:
        return site in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def last(self, site: str) -> Float[Tensor, "prompt ..."]:
        """The activation at each prompt's last real token: [prompt, d_model], or [prompt, head, d_head].

        Raises UserError for a site that was not captured, and for one that has no activation per token (a pattern).
        """
        count = torch.arange(self.mask.shape[1], device=self.mask.device).expand_as(self.mask)
        index = torch.where(self.mask, count, -1).max(-1).values
        return self._per_token(site)[torch.arange(len(index)), index]

    def rows(self, site: str) -> Float[Tensor, "row ..."]:
        """Every real token's activation, prompt by prompt: [row, d_model], or [row, head, d_head].

        Raises UserError as `last` does.
        """
        return self._per_token(site)[self.mask]

    def _per_token(self, site: str) -> Tensor:
        tensor = self[site]
        if self.axes[site][:2] != ("prompt", "pos"):
            raise UserError(
                f"{site} has axes {self.axes[site]}, not one activation per token; index acts[{site!r}] yourself"
            )
        return tensor


def place(
    out: dict[str, Tensor], name: str, piece: Tensor, batch: Tokens, whole: Tokens, axes: tuple[str, ...]
) -> None:
    """Write a batch's activation into `out[name]`, which holds all prompts padded to one length, beside `whole`.

    Padding is NaN there, on every pos axis, so that it can never slip into a mean unseen.
    """
    n, width = whole.ids.shape
    piece = piece.to(whole.ids.device)  # from whichever card its block lies on
    length = batch.ids.shape[1]
    came = {piece.shape[axis] for axis, kind in enumerate(axes) if kind == "pos"}
    if came - {length}:  # one column would be spread over all tokens
        raise UserError(f"{name} gave {came.pop()} positions for prompts of {length} tokens; capture another site")
    if name not in out:
        shape = [n, *(width if axes[i] == "pos" else size for i, size in enumerate(piece.shape) if i > 0)]
        out[name] = torch.full(shape, float("nan"), dtype=piece.dtype, device=piece.device)
    for axis, kind in enumerate(axes):
        if kind == "pos" and not batch.is_full:
            shape = [1] * piece.ndim
            shape[0], shape[axis] = batch.mask.shape
            piece = piece.masked_fill(~batch.mask.view(shape), float("nan"))
    # the real tokens of a batch stand on the same side as those of the whole
    mask, target = known(whole.mask), out[name]
    left = bool(mask[:, -1].all()) and not bool(mask[:, 0].all())
    for axis, kind in enumerate(axes):
        if kind == "pos":
            target = target.narrow(axis, width - length if left else 0, length)
    target.index_copy_(0, sent(batch.index, piece.device), piece)
