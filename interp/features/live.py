"""A loaded model with the SAE of an index: prompts of the user's, read, explained and changed on the spot.

An edit is seen by every run of the model, so one question is answered at a time. Changes leave the error term alone,
x + decode(changed) - decode(features), and attention sinks too; the control beside each change is a random direction,
at every token as long as the change there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.join import refuse_other_model
from interp.activations.rows import find_sinks
from interp.errors import UserError
from interp.features.read.index import Index
from interp.features.read.prompts import Active, Continuation, NextToken, Part, PromptReading
from interp.model.hooks.forward import forward
from interp.model.hooks.tokens import Tokens
from interp.model.hooks.where import Where
from interp.model.loading.load import load_model
from interp.model.model import Model
from interp.saes.loading.attach import attach_sae
from interp.saes.loading.default import shipped_sae
from interp.saes.loading.sae import SAE, describe_sae, site_of

NEXT = 10  # likeliest next tokens shown
LONGEST = 512  # tokens of a prompt
ERROR = "what the SAE misses"
SEED = 0
SAMPLE = 24  # sequences
P = ParamSpec("P")
R = TypeVar("R")


def attach_live(
    index: Index, model_name: str, sae: str | Path | None = None, *, model: Model | None = None
) -> LiveModel:
    """The model and SAE that `index` was built from, loaded. `sae`: by default the one that ships with the model.

    `model`: one that is loaded already. Raises UserError where either is not what the index says.
    """
    model = model or load_model(model_name)
    refuse_other_model(index.record["plan"]["capture"]["model"], model, "the index was built")
    source = sae or shipped_sae(model)
    if source is None:
        raise UserError("no SAE ships with this model; name the folder of the index' SAE: --sae FOLDER")
    loaded = attach_sae(source, model, sample=_sample(index))
    wanted, there = index.record["plan"]["sae"], describe_sae(loaded)
    if wanted["tensors"] != there["tensors"]:
        raise UserError(
            f"the index is of another SAE ({wanted['kind']}, {wanted['d_sae']} features at {wanted['site']}) than "
            f"{source} ({there['kind']}, {there['d_sae']} features at {there['site']}); name its folder: --sae FOLDER"
        )
    return LiveModel(model, loaded, float(np.median(index["norm"])))


def _sample(index: Index) -> list[list[int]]:
    """Some of the index' own text, to try the SAE on."""
    starts = index["sequence_start"]
    return [index["token"][a:b].tolist() for a, b in pairwise(starts[: SAMPLE + 1].tolist())]


def _in_turn(method: Callable[Concatenate[LiveModel, P], R]) -> Callable[Concatenate[LiveModel, P], R]:
    """Let threads wait for each other: two tabs of a browser ask at once."""

    @wraps(method)
    def waiting(self: LiveModel, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.turn:
            return method(self, *args, **kwargs)

    return waiting


@dataclass(frozen=True)
class LiveModel:
    """`prompts.Live` with a model. `typical_norm`: the median norm at the site, that sinks exceed."""

    model: Model
    sae: SAE[Any]
    typical_norm: float
    turn: Lock = field(default_factory=Lock, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.provenance.name

    @property
    def site(self) -> str:
        """The SAE's site."""
        return site_of(self.sae)

    def token_id(self, text: str) -> int:
        """The id of a text that is one token. Raises UserError for another, with its pieces."""
        return self.model.token_id(text)

    @_in_turn
    @torch.no_grad()
    def read(self, prompt: str) -> PromptReading:
        """What fires where, and the likeliest next tokens. Sinks are left out."""
        ids = self._encode(prompt)
        seen: list[Tensor] = []
        watch = {self.site: lambda value: seen.append(value[0].clone())}
        logits = forward(self.model.tree, Tokens.full(ids[None]), watch=watch, keep=1).logits[0, -1]
        x = seen[0]
        features, missed = self._coded(x)
        sinks = self._sinks(x)
        error = (missed.norm(dim=1) / x.norm(dim=1).clamp(min=1e-30)).tolist()
        return PromptReading(
            tokens=tuple(self.model.vocabulary[i] for i in ids.tolist()),
            is_sink=tuple(sinks.tolist()),
            features=tuple(() if s else _active(row) for row, s in zip(features, sinks.tolist(), strict=True)),
            error=tuple(0.0 if s else e for e, s in zip(error, sinks.tolist(), strict=True)),
            next=self._next(logits),
        )

    @_in_turn
    def attribute(self, prompt: str, token: int, n: int = 20) -> tuple[Part, ...]:
        """What speaks for `token` as the next one: features taken away one by one at all their tokens, in one batch.

        The `n` that gradient times activation says are largest, and what the SAE misses (Marks et al. 2403.19647).
        """
        if not 0 <= token < len(self.model.tokenizer) or n < 1:
            raise UserError(
                f"token {token}, n={n}; expected an id from 0 to {len(self.model.tokenizer) - 1}, and 1 part"
            )
        ids = self._encode(prompt)
        x, slope = self._slope(ids, token)
        sinks = self._sinks(x)
        with torch.no_grad():
            features, missed = self._coded(x)
        features, missed = features.masked_fill(sinks[:, None], 0.0), missed.masked_fill(sinks[:, None], 0.0)
        estimates = self._estimates(x, features, slope)
        fired = (features > 0).any(0)
        order = estimates.abs().masked_fill(~fired, -1.0).sort(descending=True, stable=True).indices
        chosen = order[: min(n, int(fired.sum()))].tolist()
        with torch.no_grad():
            away = [self._without(x, features, feature) for feature in chosen] + [missed]
            effects = self._fall(ids, token, torch.stack(away))
        told = [(feature, f"feature {feature}", float(estimates[feature])) for feature in chosen]
        told.append((None, ERROR, float((missed * slope).sum().detach())))
        parts = [Part(f, name, effect, guess) for (f, name, guess), effect in zip(told, effects, strict=True)]
        return tuple(sorted(parts, key=lambda part: -abs(part.effect))[:n])

    @_in_turn
    @torch.no_grad()
    def change(self, prompt: str, changes: Mapping[int, float], *, new_tokens: int = 20) -> tuple[Continuation, ...]:
        """As it is, with features set to activations at every token, and with random directions in their place."""
        if not changes or new_tokens < 1:
            raise UserError(f"{len(changes)} features, {new_tokens} new tokens; expected one of each, or more")
        for feature, value in changes.items():
            if not 0 <= feature < self.sae.cfg.d_sae or not np.isfinite(value):
                raise UserError(f"feature {feature} at {value}; expected 0 to {self.sae.cfg.d_sae - 1}, and a number")
        ids = self._encode(prompt, room=new_tokens)
        random = torch.randn(self.sae.cfg.d_in, generator=torch.Generator().manual_seed(SEED)).to(self.model.device)
        random = random / random.norm()

        def edit(value: Tensor, where: Where) -> Tensor:
            """Row 0 stays, row 1 is changed, row 2 moved as far along a random direction."""
            delta, beside = (self._delta(value[i].float(), changes, where.before is None) for i in (1, 2))
            moved = torch.stack([torch.zeros_like(delta), delta, beside.norm(dim=-1, keepdim=True) * random])
            return value + moved.to(value)

        rows = [ids.tolist()] * 3
        with self.model.edit({self.site: edit}):
            texts = self.model.generate(rows, max_new_tokens=new_tokens).texts
            logits = self.model.last_logits(rows)
        told = ", ".join(f"{feature} at {value:g}" for feature, value in changes.items())
        names = (
            "as it is",
            f"with {'feature' if len(changes) == 1 else 'features'} {told}",
            "a random direction instead",
        )
        return tuple(
            Continuation(name, text, self._next(row)) for name, text, row in zip(names, texts, logits, strict=True)
        )

    def _encode(self, prompt: str, room: int = 0) -> Tensor:
        if not prompt:
            raise UserError("no prompt came; expected some text")
        (ids,) = self.model.encode([prompt])
        context = self.model.context_length or LONGEST
        if len(ids) > (most := min(LONGEST, context - room)):
            raise UserError(f"the prompt has {len(ids)} tokens; expected {most} at most; shorten it")
        return torch.tensor(ids, device=self.model.device)

    def _sinks(self, x: Float[Tensor, "pos d"], first: bool = True) -> Bool[Tensor, " pos"]:
        place = torch.arange(len(x), device=x.device) + (not first)
        return find_sinks(x.float(), place, self.typical_norm)

    def _coded(self, x: Float[Tensor, "pos d"]) -> tuple[Tensor, Tensor]:
        """(features, what the SAE misses), as numbers of the model's own kind."""
        rows = x.to(self.sae.device, self.sae.dtype)
        features = self.sae.encode(rows)
        return features.float(), (rows - self.sae.decode(features)).to(x)

    def _delta(self, x: Tensor, changes: Mapping[int, float], first: bool) -> Tensor:
        """What setting features to numbers adds to the activations; nothing at sinks."""
        rows = x.to(self.sae.device, self.sae.dtype)
        features = self.sae.encode(rows)
        before = self.sae.decode(features)
        changed = features.clone()
        changed[:, list(changes)] = torch.tensor(list(changes.values())).to(changed)
        self.sae.encode(rows)  # an SAE that normalises keeps what its decoder undoes, and once
        return (self.sae.decode(changed) - before).to(x).masked_fill(self._sinks(x, first)[:, None], 0.0)

    def _without(self, x: Tensor, features: Tensor, feature: int) -> Tensor:
        """What a feature adds to the reconstruction, at every token."""
        rows, fewer = x.to(self.sae.device, self.sae.dtype), features.to(self.sae.dtype).clone()
        fewer[:, feature] = 0.0
        parts = []
        for some in (features.to(self.sae.dtype), fewer):
            self.sae.encode(rows)
            parts.append(self.sae.decode(some))
        return (parts[0] - parts[1]).to(x)

    def _estimates(self, x: Tensor, features: Tensor, slope: Tensor) -> Float[Tensor, " d_sae"]:
        """To first order, what each feature's share adds to the log-probability: its activation times a slope."""
        start = features.to(self.sae.dtype).requires_grad_(True)
        with torch.no_grad():
            self.sae.encode(x.to(self.sae.device, self.sae.dtype))
        with torch.enable_grad():
            read = (self.sae.decode(start) * slope.to(self.sae.dtype)).sum()
            (by,) = torch.autograd.grad(read, start)
        return (features * by.float()).sum(0).detach()

    def _slope(self, ids: Tensor, token: int) -> tuple[Tensor, Tensor]:
        """(activations at the site, slope of the token's log-probability there)."""
        kept: list[Tensor] = []

        def watch(value: Tensor) -> Tensor:
            kept.append(value.detach().requires_grad_(True))
            return kept[0]

        with torch.enable_grad():
            ran = forward(self.model.tree, Tokens.full(ids[None]), watch={self.site: watch}, keep=1, gradients=True)
            logits = ran.logits[0, -1]
            (slope,) = torch.autograd.grad(logits.float().log_softmax(-1)[token], kept[0])
        return kept[0].detach()[0], slope[0]

    def _fall(self, ids: Tensor, token: int, away: Float[Tensor, "part pos d"]) -> list[float]:
        """By how much the token's log-probability falls when each of `away` is subtracted."""
        some = torch.cat([torch.zeros_like(away[:1]), away])
        change = {self.site: lambda value: value - some.to(value)}
        logits = forward(self.model.tree, Tokens.full(ids.expand(len(some), -1)), change=change, keep=1).logits[:, -1]
        scores = logits.float().log_softmax(-1)[:, token]
        return (scores[0] - scores[1:]).tolist()

    def _next(self, logits: Tensor) -> tuple[NextToken, ...]:
        probabilities = logits.float().softmax(-1)
        order = probabilities.sort(descending=True, stable=True).indices[:NEXT].tolist()
        return tuple(NextToken(i, self.model.vocabulary[i], float(probabilities[i])) for i in order)


def _active(row: Float[Tensor, " d_sae"]) -> tuple[Active, ...]:
    fired = (row > 0).nonzero().flatten()
    order = fired[row[fired].sort(descending=True, stable=True).indices]
    return tuple(Active(int(i), float(row[i])) for i in order)
