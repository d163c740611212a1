"""Prompts read ahead: all tokens but the last are read once; the last is read anew for each change that is made there.

    ahead = ReadAhead(model, prompts)
    with model.edit({"blocks.12.hook_resid_post": steer(direction, 4.0, pos=-1)}):
        shares = ahead.last_logits().softmax(-1)

What is changed at a prompt's last token reaches no other token, so that twenty directions added there need not read the
prompt twenty times. The numbers are those of `model.last_logits` under the same edit of the last token (`pos=-1`). An
edit of other tokens belongs there: here it sees the last token alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.asked import Engine, has_length_switch, padding_is_harmless
from interp.model.hooks.caches import cache_repeats, copies_of, one_of_each, repeated
from interp.model.hooks.forward import engine_for, forward, keeps_a_cache, stream
from interp.model.hooks.metrics import Metric, apply_metric, needs_last_only
from interp.model.hooks.tokens import Prompts, Tokens, batches_of, pad
from interp.model.hooks.tree import looks_once
from interp.model.model import Model

Ahead = tuple[Tokens, Any, int]  # what is before the last tokens; attention's cache of it; how often it is repeated


class ReadAhead:
    """Prompts of one model, read up to their last token when they are first asked for, without any edit.

    Holds as long as the model's weights stay as they are. A model that cannot go on from a cache reads whole prompts
    each time.
    """

    def __init__(self, model: Model, prompts: Prompts, *, batch_size: int = 32) -> None:
        self.model, self.ids, self.batch_size = model, model.encode(prompts), batch_size
        self._read: dict[Engine, list[Ahead]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def last_logits(self) -> Float[Tensor, "prompt d_vocab"]:
        """Next-token logits at each prompt's last token; edits apply there."""
        return _logits(self.model, self)

    def measure(self, metric: Metric) -> Float[Tensor, " prompt"]:
        """One number a prompt, as `model.measure` gives it, of a metric that reads the last token's logits alone.

        Raises UserError for another metric.
        """
        return _measured(self.model, self, metric)

    def capture(self, sites: Sequence[str]) -> dict[str, Float[Tensor, "prompt d"]]:
        """The last token's activations at these sites (full names), after the edits there."""
        return _captured(self.model, self, sites)

    def gradients(self, site: str, metric: Metric) -> Float[Tensor, "prompt d"]:
        """The slope of the metric along the last token's activation at one site; see `gradients_of`."""
        return _slopes(self.model, self, site, metric)

    def batches(self, sites: Iterable[str] = ()) -> Iterator[tuple[Tokens, Any]]:
        """What a forward that reads `sites` is given: the last tokens, and a cache of its own of those before them.

        Without a cache: whole prompts, of one length at a time.
        """
        tree, ids = self.model.tree, self.ids
        engine = engine_for(tree, sites)
        if not (keeps_a_cache(tree, sites, ids, 0) and cache_repeats(tree, sites)):
            for group in batches_of(ids, self.batch_size, lambda i: len(ids[i])):
                yield pad([ids[i] for i in group], group, len(ids), "right", 0, self.model.device), None
            return
        if engine not in self._read:
            self._read[engine] = self._read_ahead(engine)
        for past, cache, copies in self._read[engine]:
            last = torch.tensor([ids[i][-1:] for i in past.index.tolist()], device=self.model.device)
            batch = replace(Tokens.full(last), index=past.index, total=len(ids))
            if cache is None:  # a prompt of one token has nothing before it
                yield batch, None
            else:
                yield replace(batch, past=past.mask), repeated(cache, copies)

    def _read_ahead(self, engine: Engine) -> list[Ahead]:
        """Everything but the last tokens; what several prompts begin with is read once where all of them do."""
        tree, rows = self.model.tree, [ids[:-1] for ids in self.ids]
        together = not has_length_switch(tree) and padding_is_harmless(tree, engine, "left")
        out: list[Ahead] = []
        for group in batches_of(rows, self.batch_size, lambda i: (len(rows[i]) > 0) if together else len(rows[i])):
            if not rows[group[0]]:
                nothing = torch.zeros(len(group), 0, dtype=torch.long)
                out.append((Tokens(nothing, nothing.bool(), torch.tensor(group), len(rows)), None, 1))
                continue
            group = sorted(group, key=lambda i: rows[i])  # those that are alike side by side
            past = pad([rows[i] for i in group], group, len(rows), "left", 0, self.model.device)
            copies = copies_of(past)
            with tree.resting(), tree.hooked_only() if engine == "hooked" else nullcontext():
                out.append((past, forward(tree, one_of_each(past, copies), keep=1, use_cache=True).cache, copies))
        return out


def _last(batch: Tokens) -> Tokens:
    """The last token of each prompt, as a metric is shown it."""
    return replace(Tokens.full(batch.ids[:, -1:]), index=batch.index, total=batch.total)


def _check(metric: Metric) -> None:
    if not needs_last_only(metric):
        raise UserError(
            "the metric reads more than the last token's logits; expected one that does not, such as log_prob"
        )


@looks_once
def _logits(model: Model, ahead: ReadAhead) -> Tensor:
    rows: list[Tensor] = [torch.empty(0)] * len(ahead)
    for batch, cache in ahead.batches():
        logits = forward(model.tree, batch, keep="last", cache=cache).logits
        _put(rows, batch, logits[:, 0])
    return torch.stack(rows)


@looks_once
def _measured(model: Model, ahead: ReadAhead, metric: Metric) -> Tensor:
    _check(metric)
    out = torch.empty(len(ahead), device=model.device)
    for batch, cache in ahead.batches():
        logits = forward(model.tree, batch, keep="last", cache=cache).logits
        out[batch.index.to(out.device)] = apply_metric(metric, logits, _last(batch)).float()
    return out


@looks_once
def _captured(model: Model, ahead: ReadAhead, sites: Sequence[str]) -> dict[str, Tensor]:
    rows: dict[str, list[Tensor]] = {site: [torch.empty(0)] * len(ahead) for site in sites}
    for batch, cache in ahead.batches(sites):

        def see(site: str, value: Tensor, batch: Tokens = batch) -> None:
            _put(rows[site], batch, value[:, -1].detach().clone())

        stream(model.tree, batch, sites, see, cache=cache)
    return {site: torch.stack(of_site) for site, of_site in rows.items()}


@looks_once
def _slopes(model: Model, ahead: ReadAhead, site: str, metric: Metric) -> Tensor:
    _check(metric)
    rows: list[Tensor] = [torch.empty(0)] * len(ahead)
    seen: list[Tensor] = []

    def follow(value: Tensor) -> Tensor:
        seen.append(value.clone() if value.requires_grad else value.detach().clone().requires_grad_(True))
        return seen[-1]

    for batch, cache in ahead.batches([site]):
        logits = forward(model.tree, batch, watch={site: follow}, keep="last", cache=cache, gradients=True).logits
        with torch.enable_grad():
            value = apply_metric(metric, logits, _last(batch))
        if not value.requires_grad:
            raise UserError(f"the metric does not depend on {site}: its value has no gradient")
        (slope,) = torch.autograd.grad(value.sum(), seen[:1])  # a module that runs twice shows its first run
        _put(rows, batch, slope[:, -1].detach())
        seen.clear()
    return torch.stack(rows)


def _put(rows: list[Tensor], batch: Tokens, values: Tensor) -> None:
    for i, value in zip(batch.index.tolist(), values, strict=True):
        rows[i] = value
