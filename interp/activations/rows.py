"""Activations of a corpus at one site, one row a token, each traceable to its document and position.

Attention sinks are marked, not kept quiet: at the first position (and a few others) a model parks a vector a hundred
times longer than the rest (norm 24,569 against 169 in SmolLM2). One such row makes an SAE's explained variance near
1 whatever it learned, so training and metrics leave them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.plan import fit_context
from interp.errors import UserError
from interp.model.hooks.forward import batches, stream
from interp.model.hooks.shown import Shown
from interp.model.hooks.tokens import Tokens
from interp.model.hooks.tree import looks_once
from interp.model.model import Model
from interp.progress import Progress, silent

SINK_FACTOR = 10.0
SINK_RULE = f"position 0, and every token whose norm exceeds {SINK_FACTOR:g} times the median norm at the site"
SORTED = 8  # batches


@dataclass(frozen=True, repr=False)
class Rows(Shown):
    """Activations [row, d] of a corpus at `site`, sinks included; `document` and `position` say where each is from."""

    site: str
    values: Float[Tensor, "row d"]
    ids: Int[Tensor, " row"]
    document: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    is_sink: Bool[Tensor, " row"]

    @property
    def clean(self) -> Float[Tensor, "row d"]:
        """Rows that are no attention sinks."""
        return self.values[~self.is_sink]

    def __len__(self) -> int:
        return len(self.ids)


def capture_rows(
    model: Model,
    documents: Sequence[str] | Sequence[list[int]],
    site: str,
    *,
    max_tokens: int | None = None,
    context: int | None = None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Rows:
    """Run `documents` (each cut to `context` tokens) and keep the activations at `site`, `max_tokens` rows at most.

    `context`: by default 128 tokens, or as many as the model takes, as `plan_capture` has it.

    Row order is reading order: document by document, position by position; `document` counts from 0 in the order given.
    `progress` counts tokens. Neither `batch_size` nor neighbours change a row beyond rounding.
    Raises UserError for a site without one vector a token, a corpus without tokens, or a limit below one token.
    """
    for word, value in (("max_tokens", max_tokens), ("context", context)):
        if value is not None and value < 1:
            raise UserError(f"{word}={value}; expected 1 or more")
    context = fit_context(model, None) if context is None else context
    name = [rows_site(model, site)]
    chosen = first_tokens(model.encode(documents, cut=context), max_tokens)
    position = torch.cat([torch.arange(len(ids)) for ids in chosen])
    values = torch.empty(0)
    done = 0
    many = SORTED * batch_size  # sorted by length inside, so that little is padded
    for start in range(0, len(chosen), many):
        piece = read_rows(model, chosen[start : start + many], name, batch_size)[name[0]].float().cpu()
        if not done:  # one block from the start: joining pieces at the end would need the memory twice
            values = torch.empty(len(position), piece.shape[1])
        values[done : done + len(piece)] = piece
        done += len(piece)
        progress("capturing activations", done, len(position))
    return Rows(
        site=name[0],
        values=values,
        ids=torch.tensor([t for ids in chosen for t in ids]),
        document=torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor([len(ids) for ids in chosen])),
        position=position,
        is_sink=find_sinks(values, position),
    )


def rows_site(model: Model, site: str) -> str:
    """The full name of a site that has one vector a token. Raises UserError for another one, and for several."""
    name = model.tree.match(site)
    if len(name) != 1:
        raise UserError(f"site {site!r} matches {len(name)} sites; expected exactly one here")
    axes = model.site_table.axes[name[0]]
    if axes != ("prompt", "pos", "feature"):
        raise UserError(
            f"site {site!r} has no single vector a token (its axes are {', '.join(axes)}); "
            "choose one that has, such as 'blocks.0.hook_resid_post'"
        )
    return name[0]


Part = tuple[int, int]  # every `count`th batch, beginning with `index`
WHOLE: Part = (0, 1)


def read_rows(
    model: Model, sequences: list[list[int]], sites: Sequence[str], batch_size: int = 16
) -> dict[str, Float[Tensor, "row _"]]:
    """Activations of token sequences at several sites (full names), sequence by sequence, on the model's device."""
    read = read_sequences(model, sequences, sites, batch_size)
    return {site: torch.cat(list(rows.values())) for site, rows in read.items()}


@looks_once
def read_sequences(
    model: Model, sequences: list[list[int]], sites: Sequence[str], batch_size: int = 16, part: Part = WHOLE
) -> dict[str, dict[int, Float[Tensor, "row _"]]]:
    """The same of the sequences in a part of the batches, by their numbers, which ascend.

    Batches are those of all sequences, so that parts together give the numbers of the whole, to the last bit.
    """
    rows: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    for batch in _part(batches(model.tree, sequences, batch_size, "right", sites), part):
        index = batch.index.tolist()

        def keep(site: str, value: Tensor, index: list[int] = index) -> None:
            for i, row in zip(index, value, strict=True):
                rows[site][i] = row[: len(sequences[i])].clone()

        stream(model.tree, batch, sites, keep)
    return {site: {i: read[i] for i in sorted(read)} for site, read in rows.items()}


def batches_of_part(
    model: Model, sequences: list[list[int]], sites: Sequence[str], part: Part, batch_size: int = 16
) -> list[int]:
    """Which sequences `read_sequences` gives for a part."""
    each = _part(batches(model.tree, sequences, batch_size, "right", sites), part)
    return sorted(i for batch in each for i in batch.index.tolist())


def _part(every: Iterable[Tokens], part: Part) -> Iterator[Tokens]:
    return islice(every, part[0], None, part[1])


def median_norm(values: Float[Tensor, "row d"]) -> float:
    """The median L2 norm of the rows: what `find_sinks` measures a row against."""
    return float(values.norm(dim=-1).median())


def find_sinks(
    values: Float[Tensor, "row d"], position: Int[Tensor, " row"], typical: float | None = None
) -> Bool[Tensor, " row"]:
    """Which rows are attention sinks: position 0, and every row whose norm exceeds ten times the median norm.

    `typical` is that median where a larger sample knows it better than these rows do.
    """
    return (position == 0) | (values.norm(dim=-1) > SINK_FACTOR * (median_norm(values) if typical is None else typical))


def first_tokens(encoded: list[list[int]], max_tokens: int | None) -> list[list[int]]:
    """Documents until there are `max_tokens`; the last one is cut to fit."""
    chosen: list[list[int]] = []
    room = max_tokens if max_tokens is not None else sum(map(len, encoded))
    for ids in encoded:
        if room == 0:
            break
        chosen.append(ids[:room])
        room -= len(chosen[-1])
    return chosen
