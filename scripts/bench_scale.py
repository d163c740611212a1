"""What grows with size: a store of very many shards, and the co-firings of very many features; made up, on this disk.

    python scripts/bench_scale.py [--shards 12000] [--features 131072] [--rows 1048576] [--runs 8]

Shards are tiny, for what is asked is what each costs beside its bytes. Firings are drawn: 32 a row, a few features
often and most seldom. Co-firings are first compared with a sparse product of scipy on some features; then as many runs
of features are timed as `--runs` says, spread over all, and the whole is reckoned from them. Beside each figure stands
what the ways before cost: a plan that hashes itself for every shard (measured on this plan), and a counter for every
pair of features that reads all firings for each block of them (one block measured, all reckoned).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import tyro

from interp.activations import files
from interp.activations.create import create_store
from interp.activations.files import hash_file
from interp.activations.plan import Plan
from interp.activations.shards import shard_layout
from interp.activations.store import DTYPES, Store, open_store
from interp.activations.token_table import Tokens
from interp.cli.terminal import print_table
from interp.features.build import cofirings
from interp.features.build.cofirings import ByRow, find_partners, rarest_first

L0, NEIGHBOURS, PER_RUN, ROWS_AT_ONCE = 32, 10, 4096, 1 << 16
COUNTERS = 1 << 26  # of pairs, that the way before held at a time


@dataclass(frozen=True)
class Settings:
    """How large."""

    shards: int = 12_000
    features: int = 131_072
    rows: int = 1 << 20
    runs: int = 8


def main() -> None:
    """Measure, and print a table."""
    settings = tyro.cli(Settings, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        of_stores = measure_stores(Path(folder), settings.shards)
    print_table((f"a store of {settings.shards:,} shards", "seconds", "before"), of_stores)
    of_features = measure_cofirings(settings)
    print_table((f"{settings.features:,} features, {settings.rows:,} rows", "seconds", "before"), of_features)


def measure_stores(folder: Path, shards: int) -> list[tuple[str, str, str]]:
    """Time what asks something of every shard."""
    store = write_store(folder, shards)
    hashed, _ = timed(lambda: Plan.hash.func(store.plan))  # type: ignore[attr-defined] - as if never asked before
    before = f"{hashed * shards:,.0f}, of which hashing the plan"

    def look(what: Callable[[Store], Any]) -> tuple[str, str]:
        seconds, _ = timed(lambda: what(open_store(folder)))
        return f"{seconds:.2f}", before

    rows = len(store)
    return [
        ("open", f"{timed(lambda: open_store(folder))[0]:.2f}", ""),
        ("missing", *look(lambda opened: opened.missing)),
        ("missing, and what computed each (store info)", *look(lambda opened: (opened.missing, opened.computed_on))),
        ("norms of a site", *look(lambda opened: opened.norms("site"))),
        ("a thousand reads of 16 rows", *look(lambda o: [o.rows("site", i % (rows - 16), i % (rows - 16) + 16)
                                                        for i in range(0, 7919 * 1000, 7919)])),
        ("all rows in random order", *look(lambda opened: sum(len(b["site"]) for b in opened.shuffled("site", 4096)))),
    ]  # fmt: skip


def write_store(folder: Path, shards: int, each: int = 16) -> Store:
    """A store of shards of `each` rows, of one sequence each, without waiting for the disk."""
    rows = shards * each
    cuts = tuple((i, i + 1, i * each, (i + 1) * each) for i in range(shards))
    numerics = {"compute": "float32", "stored": "fp32", "path": "plain model", "attention": "sdpa"}
    numerics |= {"device": "cpu", "threads": 1, "libraries": {}}
    model = {"name": "made up", "weights": "none", "tokenizer": "none", "architecture": "none"}
    corpus = {"documents": shards, "tokens": rows, "fingerprint": "none", "whole": True}
    plan = Plan(model, numerics, {"context": each}, {"site": [4]}, each, corpus, cuts, per_folder=1000)
    numbers, documents = np.arange(rows, dtype=np.int32), np.arange(shards)
    starts, zeros = np.arange(shards + 1) * each, np.zeros(shards, np.int32)
    tokens = Tokens(numbers, numbers // each, numbers % each, starts, zeros, documents, ("x",))
    create_store(folder, plan, tokens)
    store, rng = Store(folder, plan, tokens), np.random.default_rng(0)
    for index in range(shards):
        layout, path = shard_layout(plan.sites, each, DTYPES["fp32"], plan.hash, index), store.shard_path(index)
        body = bytearray(layout.size)
        body[: len(layout.header)] = layout.header
        for field in layout.fields.values():
            drawn = rng.standard_normal((field.stop - field.start) // field.dtype.itemsize)
            body[field.start : field.stop] = drawn.astype(str(field.dtype).removeprefix("torch.")).tobytes()
        path.write_bytes(body)
        seal = {"plan": plan.hash, "shard": index, "bytes": layout.size, "hash": hash_file(path)}
        store.shard_path(index, "json").write_text(sealed(seal | {"computed_on": {"device": "cpu", "threads": 1}}))
    return store


def sealed(record: dict[str, Any]) -> str:
    """As `write_sealed` writes it, whose two waits for the disk a shard would make this an hour."""
    return files._sealed(record)


def measure_cofirings(settings: Settings) -> list[tuple[str, str, str]]:
    """Time the partners of some runs of features, after a comparison."""
    by_row, starts, rows = draw_firings(settings)
    check_partners(by_row, starts, rows, settings)
    runs = [range(a, min(a + PER_RUN, settings.features)) for a in range(0, settings.features, PER_RUN)]
    chosen = [runs[i] for i in np.linspace(0, len(runs) - 1, min(settings.runs, len(runs))).astype(int)]
    seconds = sum(timed(lambda run=run: partners_of(run, by_row, starts, rows, settings))[0] for run in chosen)
    blocks = -(-settings.features // max(1, COUNTERS // settings.features))
    one, _ = timed(lambda: count_pairs(by_row, settings.features))
    before = one * blocks * settings.rows / min(settings.rows, ROWS_AT_ONCE)
    return [("co-firings", f"{seconds * len(runs) / len(chosen):,.0f}", f"{before:,.0f}")]


def draw_firings(settings: Settings) -> tuple[ByRow, Any, Any]:
    """Firings by row, and by feature: where each one's begin, and the rows."""
    rng = np.random.default_rng(0)
    weight = np.cumsum(1 / np.arange(1, settings.features + 1) ** 0.7)
    names = rng.permutation(settings.features).astype(np.int32)
    feature = np.empty((settings.rows, L0), np.int32)
    for first in range(0, settings.rows, ROWS_AT_ONCE):
        part = feature[first : first + ROWS_AT_ONCE]
        part[:] = names[np.searchsorted(weight, rng.random(part.shape) * weight[-1])]
    counts = np.bincount(feature.ravel(), minlength=settings.features)
    rank = np.empty(settings.features, np.int32)
    rank[rarest_first(counts)] = np.arange(settings.features)
    by_feature = np.argsort(feature.ravel(), kind="stable")
    by_row = ByRow(np.arange(0, feature.size + 1, L0), rank[feature].ravel(), counts)
    return by_row, np.concatenate([[0], np.cumsum(counts)]), (by_feature // L0).astype(np.int32)


def partners_of(run: range, by_row: ByRow, starts: Any, rows: Any, settings: Settings) -> dict[str, Any]:
    """As a part of an index works them out."""
    own = rows[starts[run.start] : starts[run.stop]]
    return find_partners(
        run, starts[run.start : run.stop + 1] - starts[run.start], own, by_row, NEIGHBOURS, settings.rows
    )


def check_partners(by_row: ByRow, starts: Any, rows: Any, settings: Settings) -> None:
    """Compare with a sparse product. A feature that was drawn twice for a row counts twice in both."""
    run = range(64)
    ours = partners_of(run, by_row, starts, rows, settings)
    shape = (settings.rows, settings.features)
    fires = scipy.sparse.csr_matrix(
        (np.ones(len(by_row.rank), np.int32), by_row.feature[by_row.rank], by_row.start), shape
    )
    of_run = scipy.sparse.csr_matrix(
        (np.ones(starts[64], np.int32), rows[: starts[64]], starts[:65]), (64, settings.rows)
    )
    product: Any = of_run @ fires
    together = product.toarray()
    for i in run:
        together[i, i] = 0
        there = np.flatnonzero(together[i])
        phi = cofirings._phi(together[i, there], int(by_row.counts[i]), by_row.counts[there], settings.rows)
        best = there[np.argsort(-phi, kind="stable")[:NEIGHBOURS]]
        assert np.array_equal(np.sort(phi)[::-1][: len(best)].astype(np.float32), ours["with_phi"][i][: len(best)]), i
        assert set(best) == set(ours["with_feature"][i][: len(best)].tolist()), i


def count_pairs(by_row: ByRow, features: int) -> Any:
    """The way before: counters for a block of features and every other one, over some rows."""
    size, rows = max(1, COUNTERS // features), min(len(by_row.start) - 1, ROWS_AT_ONCE)
    feature = by_row.feature[by_row.rank[: rows * L0]]
    together, row = np.zeros((size, features), np.int32), np.repeat(np.arange(rows), L0)
    inside = feature < size
    order = np.argsort(feature[inside], kind="stable")
    by_feature, fired, table = feature[inside][order], row[inside][order], feature.reshape(rows, L0).astype(np.int64)
    edges = np.searchsorted(by_feature, np.arange(size + 1))
    for i in range(size):
        if edges[i] < edges[i + 1]:
            together[i] += np.bincount(table[fired[edges[i] : edges[i + 1]]].ravel(), minlength=features).astype(
                np.int32
            )
    return together


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
