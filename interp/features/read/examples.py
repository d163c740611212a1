"""Top activating examples: a feature's strongest tokens in a corpus, and the features that fire on a prompt.

Attention sinks take part in nothing here: a feature's rate, its maximum and its examples are over the other tokens, and
a sink inside an example's window shows 0 (its own activation would drown the rest of the picture).
Ties go to the token that was read first, so that the same rows always give the same examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.rows import Rows, capture_rows
from interp.errors import UserError
from interp.features.read.feature import Example
from interp.features.read.prompts import Active
from interp.model.hooks.tokens import Prompts
from interp.model.model import Model
from interp.saes.loading.sae import BLOCK, SAE, site_of

RATE_BAND = (0.001, 0.05)  # rarer: too few tokens to read it by; commoner: it says "a token", not what kind of token
MIN_FIRINGS = 10


class Encoder(Protocol):
    """Anything that gives feature activations [row, d_sae] for activations [row, d_model], as an SAE does."""

    def encode(self, x: Tensor, /) -> Tensor:
        """Feature activations of `x`."""
        ...


@dataclass(frozen=True)
class FeatureExamples:
    """A feature's share of tokens on which it fires, its largest activation, and its top examples, strongest first."""

    feature: int
    rate: float
    maximum: float
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class PromptFeatures:
    """What fires on a prompt. `per_token[i]` belongs to `tokens[i]`, strongest first; empty at sinks (`is_sink[i]`).

    `strongest`: each feature's largest activation over the prompt, the top ones.
    """

    tokens: tuple[str, ...]
    is_sink: tuple[bool, ...]
    per_token: tuple[tuple[Active, ...], ...]
    strongest: tuple[Active, ...]


def top_examples(
    sae: Encoder, rows: Rows, features: Sequence[int], model: Model, n: int = 5, window: int = 8
) -> list[FeatureExamples]:
    """The `n` tokens of `rows` on which each feature is strongest, with `window` tokens on either side.

    Exact: every row is encoded, in blocks, and only what fired is kept. A feature that never fires has no examples.
    Windows stay within the document. Raises UserError for a feature that the dictionary does not have.
    """
    if n < 1 or window < 0:
        raise UserError(f"n={n}, window={window}; expected at least one example and no negative window")
    fired = _firings(sae, rows, features)
    total = max(1, int((~rows.is_sink).sum()))
    starts = torch.searchsorted(rows.document, rows.document)
    ends = torch.searchsorted(rows.document, rows.document, right=True)
    out = []
    for feature, (row, value) in zip(features, fired, strict=True):
        best = value.sort(descending=True, stable=True).indices[:n]  # stable: of equals, the first read comes first
        examples = []
        for peak in row[best].tolist():
            low, high = max(int(starts[peak]), peak - window), min(int(ends[peak]), peak + window + 1)
            examples.append(_example(rows, model, (row, value), peak, range(low, high)))
        maximum = float(value.max()) if len(value) else 0.0
        out.append(FeatureExamples(feature, len(row) / total, maximum, tuple(examples)))
    return out


@torch.no_grad()
def interesting(sae: Encoder, rows: Rows, n: int) -> list[int]:
    """Up to `n` features worth a look, most telling first.

    The rule: a feature fires on 0.1 to 5 % of the tokens, and on ten at least; of those, the ones that are strongest on
    average where they fire. Equals go by number. Raises UserError when no feature is in that band.
    """
    count = total = torch.zeros((), dtype=torch.float64)
    for block, is_sink in zip(rows.values.split(BLOCK), rows.is_sink.split(BLOCK), strict=True):
        acts = _encode(sae, block)[~is_sink].double()
        count = count + (acts > 0).sum(0)
        total = total + acts.clamp(min=0).sum(0)
    rate = count / max(1, int((~rows.is_sink).sum()))
    sane = (rate >= RATE_BAND[0]) & (rate <= RATE_BAND[1]) & (count >= MIN_FIRINGS)
    if not bool(sane.any()):
        raise UserError(
            f"no feature fires on {RATE_BAND[0]:.1%} to {RATE_BAND[1]:.0%} of the {len(rows)} tokens and on "
            f"{MIN_FIRINGS} of them at least; expected some; capture more tokens or train longer"
        )
    strength = torch.where(sane, total / count.clamp(min=1), -1.0)
    return strength.sort(descending=True, stable=True).indices[: min(n, int(sane.sum()))].tolist()


def most_active(sae: SAE, model: Model, prompts: Prompts, n: int = 5) -> list[PromptFeatures]:
    """Which features fire on `prompts`: the top `n` at each token and over each prompt, one entry per prompt.

    The whole prompt is read, however long. Sinks are found by the norms of all the prompts together.
    """
    ids = model.encode(prompts)
    rows = capture_rows(model, ids, site_of(sae), context=max(map(len, ids)))
    out = []
    for document in range(len(ids)):
        here = rows.document == document
        acts = torch.cat([_encode(sae, block) for block in rows.values[here].split(BLOCK)])
        acts[rows.is_sink[here]] = 0.0
        out.append(
            PromptFeatures(
                tokens=tuple(model.vocabulary[token] for token in ids[document]),
                is_sink=tuple(rows.is_sink[here].tolist()),
                per_token=tuple(_strongest(token, n) for token in acts),
                strongest=_strongest(acts.max(0).values, n),
            )
        )
    return out


def strip_rows(examples: Sequence[FeatureExamples]) -> list[dict[str, str | int | float]]:
    """A table row per token, in reading order: feature, example (1 is the strongest), token, position, activation.

    What the figure `token_strip` draws with x="token", y="example", z="activation", facet="feature".
    """
    return [
        {
            "feature": one.feature,
            "example": number,
            "token": token,
            "position": example.position - example.peak + i,
            "activation": activation,
        }
        for one in examples
        for number, example in enumerate(one.examples, start=1)
        for i, (token, activation) in enumerate(zip(example.tokens, example.activations, strict=True))
    ]


@torch.no_grad()
def _encode(sae: Encoder, block: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_sae"]:
    if isinstance(sae, SAE):
        block = block.to(sae.device, sae.dtype)
    return sae.encode(block).float().cpu()


def _firings(sae: Encoder, rows: Rows, features: Sequence[int]) -> list[tuple[Int[Tensor, " _"], Float[Tensor, " _"]]]:
    """Per feature, the rows on which it fires (ascending, no sinks) and how strongly."""
    wanted = torch.tensor(list(features), dtype=torch.long)
    pieces: list[list[tuple[Tensor, Tensor]]] = [[] for _ in features]
    for i, block in enumerate(rows.values.split(BLOCK)):
        acts = _encode(sae, block)
        if bad := [f for f in features if not 0 <= f < acts.shape[1]]:
            raise UserError(f"no feature {bad[0]}; expected 0 to {acts.shape[1] - 1} for this dictionary")
        chosen = acts[:, wanted].masked_fill(rows.is_sink[i * BLOCK : i * BLOCK + len(block), None], 0.0)
        for column, piece in zip(chosen.T, pieces, strict=True):
            row = (column > 0).nonzero().flatten()
            piece.append((row + i * BLOCK, column[row]))
    return [(torch.cat([r for r, _ in piece]), torch.cat([v for _, v in piece])) for piece in pieces]


def _example(rows: Rows, model: Model, fired: tuple[Tensor, Tensor], peak: int, span: range) -> Example:
    row, value = fired
    shown = torch.zeros(len(span))
    inside = (row >= span.start) & (row < span.stop)
    shown[row[inside] - span.start] = value[inside]
    return Example(
        tokens=tuple(model.vocabulary[token] for token in rows.ids[span.start : span.stop].tolist()),
        activations=tuple(shown.tolist()),
        peak=peak - span.start,
        document=int(rows.document[peak]),
        position=int(rows.position[peak]),
    )


def _strongest(acts: Float[Tensor, " d_sae"], n: int) -> tuple[Active, ...]:
    order = acts.sort(descending=True, stable=True).indices[:n].tolist()
    return tuple(Active(i, float(acts[i])) for i in order if acts[i] > 0)
