"""What fires where: features of a dictionary, neurons of an MLP, random directions, each as often as the other."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Lab, Rows, UserError, bundled_corpus, find_sinks, read_rows, split_corpus
from interp.features import Coder, RowFacts, row_facts

from . import FEATURES, NEURONS, RANDOM

FOLDS, FEWEST_DOCUMENTS = 5, 25
CONTEXT, AT_ONCE = 128, 64  # tokens of a document; documents between two signs of life
FEWEST, COMMONEST = 30, 0.05  # firings; share of tokens
LEAST = 10  # features to choose from


@dataclass(frozen=True)
class Text:
    """Held-out text as the model reads it at the dictionary's site, and the neurons of the layer before: [row, d_mlp].

    `rows` counts every token, `kept` are the places of those that are no attention sinks.
    """

    rows: Rows
    neurons: Float[Tensor, "row d_mlp"]
    layer: int
    vocabulary: list[str]

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        return np.flatnonzero(~self.rows.is_sink.numpy())

    @cached_property
    def document(self) -> NDArray[np.int32]:
        return self.rows.document.numpy().astype(np.int32)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each document begins, and the end."""
        return np.append(np.flatnonzero(self.rows.position.numpy() == 0), len(self.rows))

    @property
    def told(self) -> str:
        """Which text it is, for a finding's measure: what a feature fires on hangs on what was read."""
        documents, tokens = len(self.starts) - 1, len(self.kept)
        return f"Text: {tokens:,} tokens of {documents} held-out documents of {bundled_corpus('sample').name}."

    @cached_property
    def facts(self) -> RowFacts:
        return row_facts(self.rows.ids.numpy(), self.starts, self.rows.is_sink.numpy(), self.vocabulary)

    @cached_property
    def able(self) -> NDArray[np.int64]:
        """The neurons that are not constant."""
        spread = self.neurons[self.kept].double().std(0)
        return np.flatnonzero((spread > 1e-6 * spread.max()).numpy())

    def fold(self, i: int) -> NDArray[np.bool_]:
        """The kept rows of every fifth document from document `i` on: what is judged where the others fit."""
        return self.document[self.kept] % FOLDS == i

    def up_to(self, row: int) -> list[int]:
        """The document's tokens up to this one."""
        first = int(self.starts[np.searchsorted(self.starts, row, side="right") - 1])
        return self.rows.ids[first : row + 1].tolist()


@dataclass(frozen=True)
class Units:
    """Things that fire: unit i on the rows `rows[i]`, ascending, as strongly as `values[i]` says."""

    kind: str
    numbers: tuple[int, ...]
    rows: tuple[NDArray[np.int64], ...]
    values: tuple[NDArray[np.float64], ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def first(self, n: int) -> Units:
        """The first `n` of them."""
        return replace(self, numbers=self.numbers[:n], rows=self.rows[:n], values=self.values[:n])

    def fires(self, text: Text) -> NDArray[np.bool_]:
        """Where each fires among the kept rows: [kept row, unit]."""
        out = np.zeros((len(text.rows), len(self)), np.bool_)
        for i, rows in enumerate(self.rows):
            out[rows, i] = True
        return out[text.kept]


def layer_before(site: str) -> int:
    """The layer whose neurons wrote last what the dictionary reads. Raises UserError for a site that has none."""
    parts = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_pre|resid_mid|resid_post|mlp_out)", site)
    layer = -1 if parts is None else int(parts[1]) - (parts[2] in ("resid_pre", "resid_mid"))
    if layer < 0:
        raise UserError(
            f"the SAE reads {site}; expected the residual stream behind a layer, or an MLP's output, which neurons "
            "write to, such as blocks.3.hook_resid_post; give another with --sae"
        )
    return layer


def read_text(lab: Lab, site: str, tokens: int) -> Text:
    """The first `tokens` tokens of documents that no dictionary of ours was trained on, or all that there are.

    Raises UserError for fewer than 25 documents: one in five judges.
    """
    layer, documents = layer_before(site), split_corpus()[1]
    sites = [site, f"blocks.{layer}.mlp.hook_post"]
    longest = min(CONTEXT, lab.model.context_length or CONTEXT)
    sequences = _cut(lab.model.encode(documents, cut=longest), tokens)
    tokens = sum(map(len, sequences))
    if len(sequences) < FEWEST_DOCUMENTS:
        raise UserError(
            f"{tokens} tokens are {len(sequences)} documents; expected {FEWEST_DOCUMENTS} or more, of which one in "
            f"{FOLDS} judges; raise --tokens"
        )
    pieces, done = {name: list[Tensor]() for name in sites}, 0
    for start in range(0, len(sequences), AT_ONCE):
        batch = sequences[start : start + AT_ONCE]
        for name, piece in read_rows(lab.model, batch, sites).items():
            pieces[name].append(piece.float().cpu())
        done += sum(map(len, batch))
        lab.progress("reading text", done, tokens)
    values, neurons = (torch.cat(pieces[name]) for name in sites)
    position = torch.cat([torch.arange(len(ids)) for ids in sequences])
    lengths = torch.tensor([len(ids) for ids in sequences])
    rows = Rows(
        site=site,
        values=values,
        ids=torch.tensor([i for ids in sequences for i in ids]),
        document=torch.repeat_interleave(torch.arange(len(sequences)), lengths),
        position=position,
        is_sink=find_sinks(values, position),
    )
    return Text(rows, neurons, layer, lab.model.vocabulary)


def _cut(sequences: list[list[int]], tokens: int) -> list[list[int]]:
    """The first of them that hold `tokens`; the last is cut to fit."""
    kept: list[list[int]] = []
    for ids in sequences:
        if (room := tokens - sum(map(len, kept))) <= 0:
            break
        kept.append(ids[:room])
    return kept


def choose_features(text: Text, coder: Coder, n: int, seed: int) -> Units:
    """`n` features drawn from those that fire on 30 tokens or more, and on 5 % of them at most; at most one a neuron.

    Raises UserError where fewer than 10 do.
    """
    pairs = coder(text.rows.values[text.kept]).pairs
    fires = pairs.pre > 0
    feature, row, value = (t[fires].numpy() for t in (pairs.feature, pairs.row, pairs.pre.double()))
    counts = np.bincount(feature, minlength=pairs.d_sae)
    eligible = np.flatnonzero((counts >= FEWEST) & (counts <= COMMONEST * len(text.kept)))
    n = min(n, len(text.able))
    if min(n, len(eligible)) < LEAST:
        raise UserError(
            f"{len(eligible)} features of the SAE fire on {FEWEST} to {COMMONEST * len(text.kept):.0f} of "
            f"{len(text.kept)} tokens, beside {len(text.able)} neurons; expected {LEAST} or more of both; give another "
            "SAE with --sae, or raise --tokens"
        )
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(eligible)[:n]
    where = [np.flatnonzero(feature == number) for number in chosen]
    return Units(
        FEATURES,
        tuple(map(int, chosen)),
        tuple(text.kept[row[places]] for places in where),
        tuple(value[places] for places in where),
    )


def choose_neurons(text: Text, like: Units, seed: int) -> Units:
    """As many neurons of the layer, each on its strongest tokens: as many as the feature beside it fires on.

    A neuron is read in the direction in which its distribution has the longer tail.
    """
    chosen = np.random.default_rng(seed + 1).permutation(text.able)[: len(like)]
    columns = text.neurons[text.kept][:, chosen].double()
    centred = columns - columns.mean(0)
    return _strongest(NEURONS, chosen, (centred * centred.pow(3).mean(0).sign()).numpy(), text, like)


def random_directions(text: Text, like: Units, seed: int) -> Units:
    """As many random directions of the dictionary's site, each on as many tokens as the feature beside it."""
    x = text.rows.values[text.kept].double()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(x.shape[1], len(like), generator=generator, dtype=torch.float64)
    along = ((x - x.mean(0)) @ drawn).numpy()
    return _strongest(RANDOM, np.arange(len(like)), along, text, like)


def _strongest(kind: str, numbers: NDArray[np.int64], along: NDArray[np.float64], text: Text, like: Units) -> Units:
    """Column i on its strongest rows, as many as unit i of `like`: what it has above the strongest that is left out."""
    rows, values = [], []
    for column, firings in zip(along.T, like.rows, strict=True):
        order = np.argsort(-column, kind="stable")
        best, floor = np.sort(order[: len(firings)]), column[order[len(firings)]]
        rows.append(text.kept[best])
        values.append(np.maximum(column[best] - floor, 1e-12))
    return Units(kind, tuple(map(int, numbers)), tuple(rows), tuple(values))


def dealt(units: Units, text: Text, seed: int) -> Units:
    """The same firings on rows drawn at random."""
    rng = np.random.default_rng(seed)
    drawn = tuple(np.sort(rng.permutation(text.kept)[: len(rows)]) for rows in units.rows)
    return replace(units, kind="dealt at random", rows=drawn)
