"""The last tokens of prompts that begin alike, such as those of one template: beginnings are read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.beginnings import begin_alike_enough, begins_once, read_last
from interp.model.hooks.editing import Edit
from interp.model.hooks.forward import batches, engine_for, forward, read, stream
from interp.model.hooks.late import Late, starts_late
from interp.model.hooks.tokens import Prompts, Tokens
from interp.model.hooks.tree import looks_once
from interp.model.model import Model


@looks_once
@torch.no_grad()
def last_activations(
    model: Model, prompts: Prompts, sites: str | Iterable[str], *, batch_size: int = 64
) -> dict[str, Float[Tensor, "prompt ..."]]:
    """The activation at each prompt's last token, by site: [prompt, d_model], or [prompt, head, d_head].

    As `model.capture(prompts, sites).last(site)`, but what prompts begin with alike is read once, on a cache: of a
    hundred phrases "In the picture is his {} {}" only the last two words are many. Where the model has no cache to go
    on from, or edits are active, every prompt is read whole.
    Raises UserError as `capture` does, and for a site that has no activation per token.
    """
    tree, names = model.tree, model.tree.match(sites)
    rows = model.encode(prompts)
    vectors: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(rows) for name in names}

    def last(batch: Tokens, numbers: list[list[int]], cache: Any) -> None:
        def keep(site: str, value: Tensor) -> None:
            for vector, alike in zip(value[:, -1], numbers, strict=True):
                for i in alike:
                    vectors[site][i] = vector.clone()

        stream(tree, batch, names, keep, cache=cache)

    with _one_engine(model, names):
        per_token = all(tree.site_table.axes[name][:2] == ("prompt", "pos") for name in names)
        alike = per_token and not tree.is_edited and begin_alike_enough(rows)
        if alike and begins_once(tree, rows, names):
            read_last(tree, rows, batch_size, last)
            return {name: torch.stack(of_one) for name, of_one in vectors.items()}
        acts = model.capture(rows, names, batch_size=batch_size)
        return {name: acts.last(name) for name in names}


@looks_once
@torch.no_grad()
def last_logits_under(
    model: Model, prompts: Prompts, edits: Sequence[Mapping[str, Edit]], *, behind: int, batch_size: int = 64
) -> list[Float[Tensor, "prompt d_vocab"]]:
    """`model.last_logits` under each of several edits, which change nothing in the first `behind` blocks.

    These blocks are run once, where the model can go on from the residual stream that they gave.
    """
    tree, rows = model.tree, model.encode(prompts)
    out = [torch.empty(0)] * len(edits)
    once = behind > 0 and not tree.is_edited and starts_late(tree, behind)
    for batch in batches(tree, rows, batch_size, "right"):
        late = Late(behind, read(tree, batch, [site])[site]) if once and (site := model.residual(behind)) else None
        for i, some in enumerate(edits):
            with model.edit(some) if some else nullcontext():
                logits = forward(tree, batch, keep="last", late=late).logits[:, 0]
            if not len(out[i]):
                out[i] = logits.new_empty(len(rows), logits.shape[-1])
            out[i][batch.index] = logits
    return out


@looks_once
@torch.no_grad()
def last_log_probs(model: Model, rows: Sequence[Sequence[int]], *, batch_size: int = 16) -> Float[Tensor, " sequence"]:
    """The log-probability of the last token of each sequence, given those before it, in nats.

    As `-model.loss(rows)` at the last tokens, but what the sequences begin with alike is read once. They are token ids,
    two or more each. Edits apply; then every sequence is read whole.
    """
    tree, ids = model.tree, model.encode(list(rows))
    if (least := min(map(len, ids))) < 2:
        raise UserError(f"a sequence of {least} token came; expected two or more: nothing foretells a first token")
    before, wanted = [row[:-1] for row in ids], [row[-1] for row in ids]
    out = torch.empty(len(ids))

    def last(batch: Tokens, numbers: list[list[int]], cache: Any) -> None:
        logs = forward(tree, batch, keep="last", cache=cache).logits[:, 0].float().log_softmax(-1)
        for own, alike in zip(logs, numbers, strict=True):
            out[alike] = own[[wanted[i] for i in alike]].cpu()

    with _one_engine(model, ()):
        if tree.is_edited or not (begin_alike_enough(before) and begins_once(tree, before, ())):
            for batch in batches(tree, before, batch_size, "right"):
                last(batch, [[i] for i in batch.index.tolist()], None)
        else:
            read_last(tree, before, batch_size, last)
    return out


def _one_engine(model: Model, names: Iterable[str]) -> AbstractContextManager[None]:
    """What is read first and what goes on top of its cache must run on the same engine."""
    return model.tree.hooked_only() if engine_for(model.tree, names) == "hooked" else nullcontext()
