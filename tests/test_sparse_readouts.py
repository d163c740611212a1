"""How many columns tell where something fires: held against a plain loop, scikit-learn, and what is planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from interp.analysis.sparse_readouts import RIDGE, sparse_readouts
from interp.stats.ranks import auc


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_auc_counts_pairs(rows: list[tuple[int, bool]]) -> None:
    scores, fires = [score for score, _ in rows], [fire for _, fire in rows]
    pairs = [(s > t) + (s == t) / 2 for s, f in rows if f for t, g in rows if not g]
    if pairs:
        assert auc(scores, fires) == pytest.approx(np.mean(pairs))
        assert auc(scores, fires) == pytest.approx(roc_auc_score(fires, scores))
    else:
        assert np.isnan(auc(scores, fires))


def test_the_columns_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))
    fires = np.stack([x[:, 1] + x[:, 4] + rng.normal(size=200) > 1, x[:, 0] < -1], 1)
    held_out = np.arange(200) % 5 == 4
    found = sparse_readouts(x, fires, held_out, (1, 3))
    fit, judge = x[~held_out], x[held_out]
    a, b = (fit - fit.mean(0)) / fit.std(0), (judge - fit.mean(0)) / fit.std(0)
    for j in range(2):
        y = fires[~held_out, j] - fires[~held_out, j].mean()
        chosen: list[int] = []
        left = y
        for size in (1, 2, 3):
            gains = [abs(a[:, k] @ left) if k not in chosen else -1 for k in range(6)]
            chosen.append(int(np.argmax(gains)))
            some = a[:, chosen]
            weights = np.linalg.inv(some.T @ some + RIDGE * len(a) * np.eye(size)) @ some.T @ y
            left = y - some @ weights
            if size != 2:
                expected = roc_auc_score(fires[held_out, j], b[:, chosen] @ weights)
                assert found[(1, 3).index(size), j] == pytest.approx(expected)


def test_what_is_planted_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 80))
    held_out = np.arange(4000) % 5 == 4
    four = x[:, [3, 11, 29, 60]].sum(1) > 3
    one, four_at, noise = sparse_readouts(
        x, np.stack([x[:, 7] > 1.5, four, rng.random(4000) < 0.05], 1), held_out, (1, 4, 64)
    ).T
    assert one[0] == 1
    assert four_at[0] < 0.9 < 0.99 < four_at[1]
    assert abs(noise - 0.5).max() < 0.12


def test_constant_columns_and_outputs_are_let_be() -> None:
    x = np.random.default_rng(2).normal(size=(50, 3))
    x[:, 1] = 7
    held_out = np.arange(50) % 2 == 0
    fires = np.stack([np.zeros(50, bool), x[:, 0] > 0, held_out], 1)
    found = sparse_readouts(x, fires, held_out, (1, 2, 9))
    assert np.isnan(found[:, [0, 2]]).all(), "never fires where it is fitted, or always where it is judged"
    assert found[0, 1] == 1
    assert found[2, 1] == found[1, 1], "two columns vary; nine are those two"
    assert np.isnan(sparse_readouts(np.ones((50, 2)), fires, held_out, (1,))).all()


@pytest.mark.parametrize(
    ("rows", "held_out", "sizes", "says"),
    [(9, 10, (1,), "have 9, 10 and 10 rows"), (10, 10, (0,), "sizes"), (10, 10, (), "sizes")],
)
def test_bad_shapes_are_refused(rows: int, held_out: int, sizes: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sparse_readouts(np.ones((rows, 2)), np.ones((10, 1), bool), np.arange(held_out) % 2 == 0, sizes)
    with pytest.raises(ValueError, match="two rows"):
        sparse_readouts(np.ones((10, 2)), np.ones((10, 1), bool), np.zeros(10, bool), (1,))
