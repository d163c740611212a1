"""Corrected p-values: against a loop, under a null, and with an effect that is there."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from interp.stats.corrections import max_t


def test_it_equals_a_loop_over_every_pattern_of_signs() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, size=(6, 5))
    values[2, 3] = np.nan

    def t_of(signs: tuple[int, ...]) -> np.ndarray:
        flipped = values * np.array(signs)[:, None]
        n = (~np.isnan(flipped)).sum(0)
        return np.abs(np.nanmean(flipped, 0)) / (np.nanstd(flipped, 0, ddof=1) / np.sqrt(n))

    seen = t_of((1,) * 6)
    largest = np.array([t_of(signs).max() for signs in product((1, -1), repeat=6)])
    expected = [(largest >= t * (1 - 1e-9)).mean() for t in seen]
    assert max_t(values) == pytest.approx(expected)
    assert max_t(values.reshape(6, 5, 1)).shape == (5, 1)


@pytest.mark.parametrize("units", [8, 30])
def test_a_false_place_anywhere_is_as_rare_as_it_says(units: int) -> None:
    """Places that hang together, heavy tails: the family-wise rate stays at its level, and is not far below it."""
    rng = np.random.default_rng(1)
    studies = 300
    false = 0
    for _ in range(studies):
        shared = rng.standard_t(3, size=(units, 1))
        false += bool((max_t(shared + rng.standard_t(3, size=(units, 40)), n_perm=300, seed=2) < 0.05).any())
    assert 0.01 < false / studies < 0.085  # three standard errors above .05


def test_an_effect_is_found_where_it_is_and_nowhere_else() -> None:
    values = np.random.default_rng(3).normal(0, 1, size=(20, 100))
    values[:, 17] += 2
    assert (max_t(values) < 0.05).nonzero()[0].tolist() == [17]
    assert max_t(np.zeros((5, 3))).tolist() == [1.0, 1.0, 1.0]
    assert max_t(np.ones((5, 1))).tolist() == [2 / 2**5]


def test_the_unit_of_a_place_does_not_matter() -> None:
    values = np.random.default_rng(5).normal(0.5, 1, size=(8, 4))
    assert max_t(values * np.array([1e-170, 1.0, 1e170, 1e-3])) == pytest.approx(max_t(values))


def test_too_few_units_are_refused() -> None:
    for values in ([[1.0, 2.0]], [[1.0, np.nan], [1.0, 2.0]], np.zeros((0, 3))):
        with pytest.raises(ValueError, match="two units or more"):
            max_t(values)
    with pytest.raises(ValueError, match="infinite values"):
        max_t([[1.0, np.inf], [1.0, 2.0]])
