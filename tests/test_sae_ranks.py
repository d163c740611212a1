"""Processes that train one SAE read every row once between them, and get the batches of one process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from interp import Model
from interp.activations.plan import plan_capture
from interp.activations.rows import batches_of_part, read_rows, read_sequences
from interp.activations.store import Store
from interp.saes.loading.sae import load_sae
from interp.saes.training import sources
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.processes import Ranks, Together
from interp.saes.training.sources import Batches, ModelRows, StoreRows
from interp.saes.training.trainer import train

SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
RANKS = 8


class Threads(Together):
    """Processes that are threads here: what one gives, the others find in a list."""

    def __init__(self, rank: int, given: list[Any], barrier: Barrier) -> None:
        self.rank, self.count, self.device = rank, len(given), "cpu"
        self._given, self._barrier = given, barrier

    def _each(self, mine: Any) -> list[Any]:
        self._given[self.rank] = mine
        self._barrier.wait()
        every = list(self._given)
        self._barrier.wait()
        return every

    def gather(self, values: Tensor) -> Tensor:
        return torch.cat(self._each(values))

    def largest(self, value: float) -> float:
        return max(self._each(value))

    def highest(self, value: Tensor) -> Tensor:
        return torch.stack(self._each(value)).max()

    def add(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            total = torch.stack(self._each(tensor.clone())).sum(0)
            tensor.copy_(total)


def on_every_rank(do: Callable[[Ranks], Any], count: int = RANKS) -> list[Any]:
    given, barrier = [None] * count, Barrier(count, timeout=60)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(do, [Threads(rank, given, barrier) for rank in range(count)]))


@pytest.fixture(scope="module")
def store(whole_store: tuple[Store, Any, Any]) -> Store:
    return whole_store[0]


def test_eight_ranks_ask_a_store_for_every_row_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK", 64)
    sites = store.sites[:2]
    chunk = 64 * sources.BLOCKS
    steps = 3 * chunk // 32
    alone = Batches(StoreRows(store), sites, 32, 0)
    expected = [alone.next() for _ in range(steps)]
    asked: list[int] = []
    rows = Store.rows

    def counted(store: Store, site: str, start: int = 0, stop: int | None = None) -> Tensor:
        asked.append((len(store) if stop is None else stop) - start)
        return rows(store, site, start, stop)

    monkeypatch.setattr(Store, "rows", counted)

    def read(ranks: Ranks) -> list[dict[str, Tensor]]:
        batches = Batches(StoreRows(store), sites, 32, 0, ranks=ranks)
        return [batches.next() for _ in range(steps)]

    for got in on_every_rank(read):
        for mine, theirs in zip(got, expected, strict=True):
            assert all(torch.equal(mine[site], theirs[site]) for site in sites)
    trained = steps * 32 * len(sites)
    assert trained <= sum(asked) <= 1.25 * trained + 2 * chunk * len(sites), "sinks are read and left out"


@pytest.mark.parametrize("count", [1, 3, RANKS])
def test_the_parts_of_a_model_s_batches_are_the_whole(tiny_gpt2: Model, count: int) -> None:
    """To the last bit: the batches are those of one process."""
    ids = [list(range(1, 2 + n % 9)) for n in range(70)]
    whole = read_rows(tiny_gpt2, ids, SITES)
    seen: dict[str, dict[int, Tensor]] = {site: {} for site in SITES}
    for rank in range(count):
        part = read_sequences(tiny_gpt2, ids, SITES, part=(rank, count))
        for site in SITES:
            assert list(part[site]) == batches_of_part(tiny_gpt2, ids, SITES, (rank, count))
            assert not seen[site].keys() & part[site].keys(), "no sequence runs twice"
            seen[site] |= part[site]
    for site in SITES:
        assert torch.equal(torch.cat([seen[site][i] for i in range(len(ids))]), whole[site])


def test_chunks_of_a_model_are_the_same_for_one_and_for_many(tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK", 300)
    plan, tokens = plan_capture(tiny_gpt2, ["the cat sat on the mat and ran far"] * 60, SITES)
    alone = ModelRows(tiny_gpt2, plan, tokens).read(SITES, 3, 1)
    memory = ModelRows(tiny_gpt2, plan, tokens)
    ready: dict[int, Any] = {}
    read = sources.read_sequences
    for rank in range(2):  # one after the other: hooks of one model are not for two threads
        monkeypatch.setattr(
            sources, "read_sequences", lambda *a, part, rank=rank: ready.setdefault(rank, read(*a, part=part))
        )
        with pytest.raises(_StopError):
            memory.read(SITES, 3, 1, _Stops(rank))
    monkeypatch.setattr(sources, "read_sequences", lambda *_, part: ready[part[0]])
    for got in on_every_rank(lambda ranks: ModelRows(tiny_gpt2, plan, tokens).read(SITES, 3, 1, ranks), 2):
        assert all(torch.equal(got[site], alone[site]) for site in SITES)


class _StopError(Exception):
    pass


class _Stops(Ranks):
    count = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def share(self, parts: Any, sizes: Any, read: Any) -> Tensor:
        raise _StopError


def test_a_training_that_lost_a_rank_goes_on(store: Store, tmp_path: Path) -> None:
    """Begun by two, ended by one: the weights are those of one, but for rounding."""
    site = store.sites[-1]
    training = Training(steps=40, batch=64)
    plan = plan_sae(site, "topk", 64, k=4)
    (whole,) = train(plan, StoreRows(store), tmp_path / "whole", training) or []

    def begin(ranks: Ranks) -> Any:
        steps = iter(range(100))
        return train(plan, StoreRows(store), tmp_path / "sae", training, ranks=ranks, stop=lambda: next(steps) >= 15)

    assert on_every_rank(begin, 2) == [None, None]
    (again,) = train(plan, StoreRows(store), tmp_path / "sae", training) or []
    saes = [load_sae(folder).state_dict() for folder in (whole, again)]
    for name, weights in saes[0].items():
        assert float((weights - saes[1][name]).norm() / weights.norm().clamp(min=1e-9)) < 1e-3, name
