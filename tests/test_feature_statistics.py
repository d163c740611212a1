"""Statistics of planted firings, ties and sinks and all, against loops; and the largest of many products."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from interp.features.build import cofirings, neighbours
from interp.features.build.statistics import RowFacts, row_facts, summarise
from interp.features.read.ranking import first_by

SIZES = {"top": 3, "bands": 2, "examples": 2, "typical": 3}


# --- planted firings, ties and all -----------------------------------------------------------------------------------


@st.composite
def planted(draw: st.DrawFn) -> tuple[NDArray[np.float64], RowFacts]:
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    n = sum(lengths)
    numbers = st.lists(st.integers(0, 3), min_size=n, max_size=n)  # few values: many ties
    vocabulary = [" the", "cat", "s", "."]
    token = np.array(draw(numbers), np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    is_sink = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    values = np.array(draw(numbers), np.float64)
    return np.where(is_sink, 0.0, values), row_facts(token, starts, is_sink, vocabulary)


@settings(max_examples=150)
@given(planted())
def test_ties_and_sinks_are_as_in_a_loop(case: tuple[NDArray[np.float64], RowFacts]):
    values, facts = case
    rows = np.flatnonzero(values).astype(np.int32)
    found = summarise(4, rows, values[rows].astype(np.float32), facts, **SIZES)
    order = sorted(rows.tolist(), key=lambda r: (-values[r], r))
    assert [r for r in found["top_row"].tolist() if r >= 0] == order[:3]
    assert found["histogram"].sum() == len(rows)
    kept = ~facts.is_sink
    later = [
        facts.place[r] > 0 and facts.token[r] in (1, 2) and facts.token[r - 1] in (0, 1, 2) for r in range(len(values))
    ]
    assert facts.is_later.tolist() == later
    column = values[kept]
    for name, other in (("by_position", facts.place[kept]), ("by_word", np.array(later)[kept])):
        if len(rows) == 0 or column.std() == 0 or np.std(other) == 0:
            assert math.isnan(found[name])
        else:
            assert found[name] == pytest.approx(np.corrcoef(column, other)[0, 1], abs=1e-9)


@settings(max_examples=200)
@given(st.lists(st.sets(st.integers(0, 11), max_size=6), min_size=1, max_size=30), st.integers(1, 6), st.booleans())
def test_partners_are_those_of_counting_every_pair(fires: list[set[int]], n: int, sorts: bool):
    """However they are counted, with many that are met once, or equally often; a row may have no firing."""
    dense = np.zeros((len(fires), 12), np.int64)
    for row, features in enumerate(fires):
        dense[row, list(features)] = 1
    counts, total = dense.sum(0), len(fires)
    rank = np.empty(12, np.int32)
    rank[cofirings.rarest_first(counts)] = np.arange(12)
    start = np.concatenate([[0], np.cumsum(dense.sum(1))])
    by_row = cofirings.ByRow(start, rank[np.nonzero(dense)[1]], counts)
    feature, rows = np.nonzero(dense.T)
    run = range(2, 12)
    starts = np.searchsorted(feature, np.arange(2, 13))
    with patch.object(cofirings, "SORTED_BELOW", 10.0 * sorts):
        found = cofirings.find_partners(run, starts - starts[0], rows[starts[0] :].astype(np.int32), by_row, n, total)
    together = dense.T @ dense
    for i, f in enumerate(run):
        scored = [(-float(cofirings._phi(together[f, g : g + 1], counts[f], counts[g : g + 1], total)[0]), g)
                  for g in range(12) if g != f and together[f, g]]  # fmt: skip
        expected = [g for _, g in sorted(scored)[:n]]
        assert [g for g in found["with_feature"][i].tolist() if g >= 0] == expected
        assert found["with_count"][i][: len(expected)].tolist() == [int(together[f, g]) for g in expected]


@pytest.mark.parametrize("n", [1, 5, 50, 400])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_extreme_products_are_those_of_fp32(n: int, scale: float):
    """By bfloat16's candidates or without, also where thousands of products lie closer together than it can tell."""
    torch.manual_seed(n)
    x, W = torch.randn(70, 64), torch.randn(3000, 64)
    W[1500:] = W[7] + scale * torch.randn(1500, 64)
    for precision in ("fp32", "bf16"):
        ends = neighbours.extreme_products(x, W, n, precision=precision)
        for found, largest in zip(ends, (True, False), strict=True):
            plain = (x @ W.T).topk(n, dim=1, largest=largest)
            torch.testing.assert_close(found.values, plain.values, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close((x @ W.T).gather(1, found.columns), plain.values, rtol=1e-5, atol=1e-4)


@given(st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(1, 7))
def test_the_first_by_score_are_those_of_a_sort(scores: list[list[int]], n: int):
    found = first_by(np.array(scores, np.float64), n)
    for row, line in zip(scores, found.tolist(), strict=True):
        expected = sorted(range(5), key=lambda i: (-row[i], i))[:n]
        assert line == expected + [-1] * (n - len(expected))
