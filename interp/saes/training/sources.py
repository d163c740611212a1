"""The rows that training reads: from a store, straight from a model, or from memory; and random batches of them.

A source is read in chunks of some thousand rows. Which rows a chunk holds is decided by the seed and the epoch alone,
so that any chunk can be read again: training that stops keeps its place and continues with the same rows.

Attention sinks are left out, at every site that is asked for: one outweighs thousands of other rows, in the loss as in
the explained variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.plan import Plan
from interp.activations.rows import SINK_FACTOR, Rows, batches_of_part, find_sinks, median_norm, read_sequences
from interp.activations.store import Store
from interp.activations.token_table import Tokens
from interp.errors import UserError, unknown
from interp.model.hooks.bridge import NUMERICS
from interp.model.model import Model
from interp.saes.lineage import FILES, lineage_of, puts_bos_by
from interp.saes.training.processes import ALONE, Ranks

BLOCK, BLOCKS = 2048, 16  # of a store: runs that a disk reads well, and how many are mixed
CPU = torch.device("cpu")
CHUNK = 32_768  # tokens that a model reads before they are mixed
SiteRows = dict[str, Float[Tensor, "row d"]]


class Source(Protocol):
    """Where rows come from. `read` gives chunk `index` of an epoch, in fp32, without sinks, in no particular order, on
    the device where they are."""

    @property
    def memory(self) -> dict[str, float]:
        """What it learned on the way and needs again to read the same rows."""
        ...

    def check(self, sites: Sequence[str]) -> None:
        """Raise UserError for a site that is not there, or rows that are not finite."""
        ...

    def chunks(self, seed: int) -> int:
        """Chunks of an epoch with this seed."""
        ...

    def read(self, sites: Sequence[str], seed: int, index: int, ranks: Ranks = ALONE) -> SiteRows:
        """One chunk, the same for all `ranks`: each reads a part of it, and they give each other what they read."""
        ...

    def count(self, sites: Sequence[str]) -> int:
        """Rows of an epoch, at most."""
        ...

    def lineage(self, site: str) -> dict[str, Any]:
        """What an SAE's metadata says of model, site and text."""
        ...


@dataclass(frozen=True)
class StoreRows:
    """Rows of a store on disk."""

    store: Store
    memory: dict[str, float] = field(default_factory=dict)
    _keeps: dict[tuple[str, ...], Bool[Tensor, " row"]] = field(default_factory=dict, repr=False)
    _orders: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    def _kept(self, sites: Sequence[str]) -> Bool[Tensor, " row"]:
        if (key := tuple(sites)) not in self._keeps:
            self._keeps[key] = ~torch.stack([self.store.is_sink(site) for site in sites]).any(0)
        return self._keeps[key]

    def check(self, sites: Sequence[str]) -> None:
        """Raise UserError for a site that is not in the store, a row that is not finite, or one of several vectors."""
        for site in sites:
            norms = self.store.norms(site)
            if len(shape := self.store.plan.sites[site]) != 1:
                raise UserError(f"{site} has rows of shape {shape}; expected one vector a token")
            bad = (~torch.isfinite(norms)).nonzero().flatten()
            if len(bad):
                at = self.store.where(int(bad[0]))
                raise UserError(
                    f"{self.store.folder}: row {int(bad[0])} at {site} holds NaN or infinity ({at['file']} row "
                    f"{at['file_row']}, token {at['position']}; {len(bad)} such rows); capture it again, in fp32"
                )

    def chunks(self, seed: int) -> int:
        """Chunks of an epoch."""
        return -(-len(self.store) // (BLOCK * BLOCKS))

    def _order(self, seed: int) -> np.ndarray[Any, Any]:
        if seed not in self._orders:
            self._orders.clear()
            self._orders[seed] = np.random.default_rng([seed, 1]).permutation(-(-len(self.store) // BLOCK))
        return self._orders[seed]

    def read(self, sites: Sequence[str], seed: int, index: int, ranks: Ranks = ALONE) -> SiteRows:
        """Some blocks of neighbouring rows, which the seed chose."""
        starts = self._order(seed)[index * BLOCKS : (index + 1) * BLOCKS] * BLOCK
        spans = [(int(a), min(int(a) + BLOCK, len(self.store))) for a in starts]
        kept = [self._kept(sites)[a:b] for a, b in spans]
        sizes = [int(keep.sum()) for keep in kept]
        return {
            site: ranks.share(
                [list(range(rank, len(spans), ranks.count)) for rank in range(ranks.count)],
                sizes,
                lambda i, site=site: self.store.rows(site, *spans[i])[kept[i]].float(),
            )
            for site in sites
        }

    def count(self, sites: Sequence[str]) -> int:
        """Rows that are no sinks."""
        return int(self._kept(sites).sum())

    def lineage(self, site: str) -> dict[str, Any]:
        """What an SAE's metadata says of model, site and text."""
        return _lineage_of_plan(self.store.plan, site)


@dataclass(frozen=True)
class ModelRows:
    """Rows that a model gives as it reads, kept nowhere. `plan` and `tokens` are `plan_capture`'s."""

    model: Model
    plan: Plan
    tokens: Tokens
    memory: dict[str, float] = field(default_factory=dict)
    """The median norm at each site in the first chunk that was read: sinks are measured against it."""
    _orders: dict[int, list[np.ndarray[Any, Any]]] = field(default_factory=dict, repr=False, compare=False)

    def check(self, sites: Sequence[str]) -> None:
        """Raise UserError for a site that is not in the plan, or one of several vectors a token."""
        for site in sites:
            if site not in self.plan.sites:
                raise unknown("site", site, self.plan.sites, "of those planned")
            if len(shape := self.plan.sites[site]) != 1:
                raise UserError(f"{site} has rows of shape {shape}; expected one vector a token")

    def _order(self, seed: int) -> list[np.ndarray[Any, Any]]:
        """The sequences of each chunk; made once an epoch, which takes a second for a billion tokens."""
        if seed not in self._orders:
            order = np.random.default_rng([seed, 2]).permutation(len(self.tokens.lengths))
            ends = np.cumsum(self.tokens.lengths[order]) // CHUNK
            self._orders.clear()
            self._orders[seed] = np.split(order, np.flatnonzero(np.diff(ends)) + 1)
        return self._orders[seed]

    def chunks(self, seed: int) -> int:
        """Chunks of an epoch."""
        return len(self._order(seed))

    def read(self, sites: Sequence[str], seed: int, index: int, ranks: Ranks = ALONE) -> SiteRows:
        """The activations of some sequences, which the seed chose."""
        chosen = self._order(seed)[index]
        sequences = [self.tokens.sequence(int(i)).tolist() for i in chosen]
        parts = [batches_of_part(self.model, sequences, sites, (rank, ranks.count)) for rank in range(ranks.count)]
        own = read_sequences(self.model, sequences, sites, part=(ranks.rank, ranks.count))
        sizes = [len(ids) for ids in sequences]
        rows = {site: ranks.share(parts, sizes, lambda i, site=site: own[site][i].float()) for site in sites}
        position = torch.cat([torch.arange(len(ids)) for ids in sequences]).to(self.model.device)
        sinks = position == 0
        for site, values in rows.items():
            if not bool(torch.isfinite(values).all()):
                raise UserError(f"{self.model.provenance.name} gives NaN or infinity at {site}; load it in fp32")
            sinks |= find_sinks(values, position, self.memory.setdefault(site, median_norm(values)))
        return {site: values[~sinks] for site, values in rows.items()}

    def count(self, sites: Sequence[str]) -> int:
        """Rows, but the first of each sequence."""
        return len(self.tokens) - len(self.tokens.lengths)

    def lineage(self, site: str) -> dict[str, Any]:
        """What an SAE's metadata says of model, site and text."""
        return lineage_of(self.model, site) | _text_of(self.plan)


@dataclass(frozen=True)
class MemoryRows:
    """Rows that were captured to memory, of one site, and the model they are from."""

    rows: Rows
    model: Model
    memory: dict[str, float] = field(default_factory=dict)

    def check(self, sites: Sequence[str]) -> None:
        """Raise UserError for another site, or a row that is not finite."""
        for site in sites:
            if site != self.rows.site:
                raise unknown("site", site, [self.rows.site], "of the rows")
        bad = (~torch.isfinite(self.rows.values)).any(-1).nonzero().flatten()
        if len(bad):
            raise UserError(
                f"row {int(bad[0])} at {self.rows.site} holds NaN or infinity ({len(bad)} such rows); capture again"
            )

    def chunks(self, seed: int) -> int:
        """One."""
        return 1

    def read(self, sites: Sequence[str], seed: int, index: int, ranks: Ranks = ALONE) -> SiteRows:
        """All rows that are no sinks: each process holds them."""
        return {self.rows.site: self.rows.clean}

    def count(self, sites: Sequence[str]) -> int:
        """Rows that are no sinks."""
        return int((~self.rows.is_sink).sum())

    def lineage(self, site: str) -> dict[str, Any]:
        """What an SAE's metadata says of model, site and text."""
        digest = xxhash.xxh3_128(self.rows.values.contiguous().numpy().data).hexdigest()
        return lineage_of(self.model, site) | {"context_size": int(self.rows.position.max()) + 1, "rows_hash": digest}


def _lineage_of_plan(plan: Plan, site: str) -> dict[str, Any]:
    """As `lineage_of` a model, by what a store's plan says of it."""
    bos = plan.cut["bos"]
    return {
        "model_name": plan.model["name"],
        "hook_name": site,
        "prepend_bos": puts_bos_by(bos),
        "weights_hash": plan.model["weights"],
        "tokenizer_hash": plan.model["tokenizer"],
        "numerics": NUMERICS,
        "bos_policy": bos["policy"],
        **({FILES: plan.model["files"]} if "files" in plan.model else {}),
        **_text_of(plan),
    }


def _text_of(plan: Plan) -> dict[str, Any]:
    stored = {"stored_as": plan.numerics["stored"], "sinks_over": SINK_FACTOR}
    return {"context_size": plan.cut["context"], "capture_plan": plan.hash, "corpus": dict(plan.corpus), **stored}


@dataclass
class Batches:
    """Batches of rows without end: chunks of each epoch, mixed, what is left of one going into the next.

    `epoch`, `chunk` and `at` are the place: `left` are the rows that came before the chunk in hand, of which and of the
    chunk `at` rows are used up. From these four the rest follows. `device`: where the rows in hand are, and are mixed.
    `ranks`: the processes that share the reading.
    """

    source: Source
    sites: Sequence[str]
    batch: int
    seed: int
    epoch: int = 0
    chunk: int = 0
    at: int = 0
    left: Mapping[str, Tensor] = field(default_factory=dict)
    device: torch.device = CPU
    ranks: Ranks = ALONE
    _pool: SiteRows | None = field(default=None, repr=False)

    def next(self) -> SiteRows:
        """The next `batch` rows."""
        pool = self.pool()
        while len(pool[self.sites[0]]) - self.at < self.batch:
            self._advance(pool)
            pool = self.pool()
        batch = {site: pool[site][self.at : self.at + self.batch] for site in self.sites}
        self.at += self.batch
        return batch

    def pool(self) -> SiteRows:
        """The rows in hand, those used up too."""
        if self._pool is None:
            seed = self.seed + self.epoch
            read = self.source.read(self.sites, seed, self.chunk, self.ranks)
            order = np.random.default_rng([seed, 3, self.chunk]).permutation(len(read[self.sites[0]]))
            places = torch.from_numpy(order).to(self.device)
            mixed = {site: values.to(self.device)[places] for site, values in read.items()}
            left = {site: values.to(self.device) for site, values in self.left.items()}
            self._pool = {s: torch.cat([left[s], v]) if s in left else v for s, v in mixed.items()}
        return self._pool

    def _advance(self, pool: SiteRows) -> None:
        self.left = {site: values[self.at :].clone() for site, values in pool.items()}
        self.at, self._pool = 0, None
        self.chunk += 1
        if self.chunk == self.source.chunks(self.seed + self.epoch):
            self.epoch, self.chunk = self.epoch + 1, 0

    def place(self) -> dict[str, int]:
        """Where it is, but for the rows that are left."""
        return {"epoch": self.epoch, "chunk": self.chunk, "at": self.at}
