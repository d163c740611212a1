"""A power law is found where losses were made by one, and doubted where they were not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.stats.power_law import fit_floor, fit_power_law, lower_envelope

SIZES = np.geomspace(1e3, 1e6, 8)


@given(st.floats(0.02, 1.0), st.floats(0.1, 10.0))
def test_an_exact_law_is_found_exactly(a: float, c: float) -> None:
    law = fit_power_law(SIZES, c * SIZES**-a)
    assert law.exponent.mean == pytest.approx(a, rel=1e-6)
    assert law.bend.mean == pytest.approx(0, abs=1e-8)
    np.testing.assert_allclose(law.predict(SIZES), c * SIZES**-a, rtol=1e-6)


def test_the_slope_and_its_interval_are_scipys() -> None:
    loss = np.exp(1 - 0.1 * np.log(SIZES) + np.random.default_rng(0).normal(0, 0.02, 8))
    line: Any = stats.linregress(np.log(SIZES), np.log(loss))
    half = stats.t.ppf(0.975, 6) * line.stderr
    law = fit_power_law(SIZES, np.stack([loss, loss], 1))
    assert law.exponent.mean == pytest.approx(-line.slope)
    assert law.exponent.high == pytest.approx(-line.slope + half)
    assert law.exponent.n == 8


def test_the_interval_holds_the_exponent_in_19_of_20_studies() -> None:
    rng = np.random.default_rng(0)
    found = [fit_power_law(SIZES, SIZES**-0.08 * np.exp(rng.normal(0, 0.01, 8))).exponent for _ in range(300)]
    assert 0.91 < np.mean([one.low <= 0.08 <= one.high for one in found]) < 0.99


def test_a_floor_is_found_and_bends_the_line() -> None:
    loss = 1.5 + (1e3 / SIZES) ** 0.4
    assert fit_floor(SIZES, loss) == pytest.approx((1.5, 0.4), rel=0.02)
    assert fit_power_law(SIZES, loss).bend.low > 0.005
    plain = fit_floor(SIZES, SIZES**-0.1)
    assert plain is None or plain[0] < 0.1 * SIZES[-1] ** -0.1


def test_too_few_sizes_are_refused() -> None:
    for x, loss in (([1, 2, 3], [3, 2, 1]), ([1, 1, 2, 2], [1, 1, 1, 1]), ([1, 2, 3, 0], [1, 1, 1, 1])):
        with pytest.raises(ValueError, match="four sizes"):
            fit_power_law(x, loss)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_envelope_is_what_nothing_cheaper_beats(points: list[tuple[int, int]]) -> None:
    cost, loss = map(np.array, zip(*points, strict=True))
    kept = lower_envelope(cost, loss)
    for i in kept:
        others = [j for j in range(len(points)) if (cost[j], loss[j]) != (cost[i], loss[i])]
        assert not any(cost[j] <= cost[i] and loss[j] <= loss[i] for j in others)
    beaten = {p for p in points if any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)}
    assert {points[i] for i in kept} == set(points) - beaten
    assert sorted(cost[kept]) == cost[kept].tolist()
