"""Continue prompts, and keep the activations that were made on the way: no second forward over what was generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.captured import Activations
from interp.model.hooks.tokens import Prompts, pad

if TYPE_CHECKING:
    from interp.model.model import Model


@dataclass(frozen=True)
class Generation:
    """What a model wrote. `ids` [prompt]: the new tokens, a closing end-of-text token included; `texts`: as text.

    `activations`: of prompts and new tokens at the captured sites, padded on the left, or None. A prompt's last new
    token has none: it was chosen, but the model never read it.
    """

    ids: list[list[int]]
    texts: list[str]
    activations: Activations | None


def generate(
    model: Model,
    prompts: Prompts,
    max_new_tokens: int,
    capture: Sequence[str],
    temperature: float,
    top_k: int | None,
    seed: int,
) -> Generation:
    """Write up to `max_new_tokens` behind every prompt with the plain model, all prompts in one batch.

    `temperature` 0 takes the likeliest token each time; above 0, tokens are drawn, among the `top_k` likeliest if that
    is given, by a generator of this `seed`. A prompt ends at the tokenizer's end-of-text token. `capture` names sites
    of the plain trunk (the residual stream, outputs of attention and MLP, what goes into them).

    Raises UserError while an edit is active, for a site inside attention, for prompts of different lengths on a model
    that cannot be padded on the left, and where prompt and new tokens exceed the context.
    """
    from interp.model.hooks.trunk import find_taps, watching

    model.check_plain("model.generate")
    _check(max_new_tokens, temperature, top_k, seed)
    names = model.site_table.match(capture) if capture else []
    taps = find_taps(model, names)
    if inside := [name for name in names if name not in taps]:
        raise UserError(
            f"generate cannot capture {', '.join(inside)}: the plain model does not show it; capture the residual "
            "stream, attn_out or mlp_out, or run model.capture on prompt and text afterwards"
        )
    rows = model.encode(prompts)
    _check_length(model, rows, max_new_tokens)
    batch = pad(rows, range(len(rows)), len(rows), "left", 0, model.device)
    pieces: dict[str, list[Tensor]] = {name: [] for name in names}
    steps = _Steps(model, batch.ids, batch.mask)
    draw = _Draw(temperature, top_k, seed, model.device)
    end = model.tokenizer.eos_token_id
    new: list[Tensor] = []
    going = torch.ones(len(rows), dtype=torch.bool, device=model.device)
    fed = [batch.mask]
    with watching(taps, lambda site, value: pieces[site].append(value[:, -steps.width :].detach().clone())):
        for i in range(max_new_tokens):
            token = draw(steps.forward())
            new.append(torch.where(going, token, -1))
            going = going & (token != end)
            if i + 1 == max_new_tokens or not bool(going.any()):
                break
            steps.feed(token, going)
            fed.append(going[:, None])
    ids = [[t for t in row if t >= 0] for row in torch.stack(new, 1).tolist()]
    texts = [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in ids]
    return Generation(ids, texts, _joined(model, names, pieces, torch.cat(fed, 1), steps.read) if names else None)


class _Steps:
    """Feeds a model one token at a time, on top of its cache where it keeps one."""

    def __init__(self, model: Model, ids: Tensor, mask: Tensor) -> None:
        self.model, self.read, self.mask = model, ids, mask
        self.next, self.width = ids, ids.shape[1]  # tokens of the coming forward, and how many of them are new
        self.cache: Any = None

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Logits after the last token: [prompt, d_vocab]."""
        positions = (self.mask.long().cumsum(-1) - 1).clamp(min=0)[:, -self.next.shape[1] :]
        settings: dict[str, Any] = {} if bool(self.mask.all()) else {"attention_mask": self.mask.long()}
        if settings or self.cache is not None:
            settings["position_ids"] = positions
        out = self.model.hf(self.next, past_key_values=self.cache, use_cache=True, **settings)
        self.cache = getattr(out, "past_key_values", None)
        return out.logits[:, -1].float()

    def feed(self, token: Tensor, going: Tensor) -> None:
        """Read `token` next; prompts that are done read padding."""
        token = torch.where(going, token, 0)
        self.read = torch.cat([self.read, token[:, None]], dim=1)
        self.mask = torch.cat([self.mask, going[:, None]], dim=1)
        self.next, self.width = (self.read if self.cache is None else token[:, None]), 1


class _Draw:
    """Chooses the next token of every prompt."""

    def __init__(self, temperature: float, top_k: int | None, seed: int, device: torch.device) -> None:
        self.temperature, self.top_k = temperature, top_k
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        scores = (logits - logits.amax(-1, keepdim=True)) / self.temperature  # the largest is 0, however cold it is
        if self.top_k is not None:
            least = scores.topk(min(self.top_k, scores.shape[-1]), dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        return torch.multinomial(scores.softmax(-1), 1, generator=self.generator).squeeze(-1)


def _joined(model: Model, names: list[str], pieces: dict[str, list[Tensor]], mask: Tensor, ids: Tensor) -> Activations:
    whole = {name: torch.cat(pieces[name], dim=1) for name in names}
    for value in whole.values():
        value.masked_fill_(~mask[..., None], torch.nan)
    axes = {name: model.site_table.axes[name] for name in names}
    return Activations(whole, mask, ids.masked_fill(~mask, -1), axes)


def _check(max_new_tokens: int, temperature: float, top_k: int | None, seed: int) -> None:
    if not 0 <= seed < 1 << 63:
        raise UserError(f"seed={seed}; expected 0 to 2**63 - 1")
    if max_new_tokens < 1 or (top_k is not None and top_k < 1):
        raise UserError(f"max_new_tokens={max_new_tokens}, top_k={top_k}; expected 1 or more")
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature={temperature}; expected 0 (always the likeliest token) or more")


def _check_length(model: Model, rows: list[list[int]], new: int) -> None:
    longest, context = max(map(len, rows)), getattr(model.hf.config, "max_position_embeddings", None)
    if context and 0 < context < longest + new:
        raise UserError(f"{longest} tokens of prompt and {new} new ones; this model takes {context}; shorten either")
    if len({len(row) for row in rows}) > 1 and not model.tree.pads_left:
        raise UserError(
            f"padding on the left changes what {type(model.hf).__name__} computes; generate prompts of one length"
        )
