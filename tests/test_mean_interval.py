"""Coverage: intervals of skewed, mostly-zero and bounded means, each side's misses counted apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from interp.stats.estimators import estimate_gap, estimate_mean, proportion
from interp.stats.mean_interval import alike, mean_limits
from interp.stats.values import BadValuesError

ANY = (-np.inf, np.inf)
STUDIES = 4000  # a rate of 2.5 % is told to within half a point (two standard errors)
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def zeros_and(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.exponential(size=shape) * (rng.random(shape) < 0.3)


def zeros_and_both_signs(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(1, 1, size=shape) * (rng.random(shape) < 0.2)


LONG_TAILS: dict[str, tuple[Draw, float, tuple[float, float]]] = {  # how, its mean, bounds
    "normal": (lambda rng, shape: 1 + rng.normal(size=shape), 1.0, ANY),
    "half-normal": (lambda rng, shape: np.abs(rng.normal(size=shape)), (2 / np.pi) ** 0.5, ANY),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0, ANY),
    "70 % zeros": (zeros_and, 0.3, ANY),
    "beta(.3, 3)": (lambda rng, shape: rng.beta(0.3, 3, size=shape), 1 / 11, ANY),
    "beta(.3, 3), bounded": (lambda rng, shape: rng.beta(0.3, 3, size=shape), 1 / 11, (0, 1)),
    "1 of 5, bounded": (lambda rng, shape: (rng.random(shape) < 0.2).astype(float), 0.2, (0, 1)),
    "1 of 50, bounded": (lambda rng, shape: (rng.random(shape) < 0.02).astype(float), 0.02, (0, 1)),
    "19 of 20 people, bounded": (lambda rng, shape: rng.binomial(20, 0.95, size=shape) / 20, 0.95, (0, 1)),
    "lognormal": (lambda rng, shape: rng.lognormal(size=shape), np.exp(0.5), ANY),
    "minus lognormal": (lambda rng, shape: -rng.lognormal(size=shape), -np.exp(0.5), ANY),
    "80 % zeros, others of both signs": (zeros_and_both_signs, 0.2, ANY),
}


def misses(values: np.ndarray, mean: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Share of studies whose interval lies below the mean, and above it; values all alike give no verdict."""
    low, high = mean_limits(values, bounds, n_draws=800)
    told = ~alike(values) | np.isfinite(bounds).all()
    return float((told & (mean > high + 1e-9)).mean()), float((told & (mean < low - 1e-9)).mean())


@pytest.mark.parametrize("n", [5, 8, 16, 20, 48])
@pytest.mark.parametrize("name", LONG_TAILS)
def test_no_side_misses_more_often_than_a_false_verdict_may_come(name: str, n: int) -> None:
    draw, mean, bounds = LONG_TAILS[name]
    below, above = misses(draw(np.random.default_rng(n), (STUDIES, n)), mean, bounds)
    assert max(below, above) <= 0.035 + 0.004
    assert below + above <= 0.07 + 0.004


@pytest.mark.parametrize("name", ["normal", "half-normal", "exponential"])
def test_two_units_of_one_sign_may_have_a_long_tail_too(name: str) -> None:
    """A quick run has two seeds: Student's interval missed 7.7 % of exponential means, all on one side."""
    draw, mean, bounds = LONG_TAILS[name]
    below, above = misses(draw(np.random.default_rng(2), (STUDIES, 2)), mean, bounds)
    assert max(below, above) <= 0.035 + 0.004


def test_students_interval_would_not_pass_that_test() -> None:
    """The planted fault: on the same values, its misses are three to eight times as many, all on one side."""
    faults = {"exponential": 0.08, "70 % zeros": 0.14, "lognormal": 0.12, "80 % zeros, others of both signs": 0.12}
    for name, at_least in faults.items():
        values = LONG_TAILS[name][0](np.random.default_rng(8), (STUDIES, 8))
        mean, half = values.mean(1), stats.t.ppf(0.975, 7) * values.std(1, ddof=1) / 8**0.5
        below, above = (
            ((LONG_TAILS[name][1] > mean + half) & ~alike(values)).mean(),
            (mean - half > LONG_TAILS[name][1]),
        )
        assert below > at_least
        assert above.mean() < 0.01


@pytest.mark.parametrize(("n", "wider"), [(5, 1.3), (8, 1.2), (16, 1.15), (48, 1.1)])
def test_normal_values_pay_little_for_it(n: int, wider: float) -> None:
    values = np.random.default_rng(n).normal(size=(STUDIES, n))
    low, high = mean_limits(values, ANY)
    half = stats.t.ppf(0.975, n - 1) * values.std(1, ddof=1) / n**0.5
    assert np.median((high - low) / (2 * half)) <= wider
    assert (high - low >= 2 * half * (1 - 1e-9)).all()


@pytest.mark.parametrize("n", [4, 8, 24, 48])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.95])
def test_a_share_misses_on_neither_side_more_often_than_it_says(n: int, share: float) -> None:
    """Exact: every count with its probability. Wilson's interval misses 14.9 % for 8 at 0.02, all on one side."""
    weights = stats.binom.pmf(np.arange(n + 1), n, share)
    ends = [proportion([i < k for i in range(n)], unit="share", over="item") for k in range(n + 1)]
    assert sum(w for w, e in zip(weights, ends, strict=True) if e.low > share) <= 0.025
    assert sum(w for w, e in zip(weights, ends, strict=True) if e.high < share) <= 0.025
    wilson = [stats.binomtest(k, 8).proportion_ci(0.95, method="wilson") for k in range(9)]
    fault = sum(w for w, e in zip(stats.binom.pmf(np.arange(9), 8, 0.02), wilson, strict=True) if e.low > 0.02)
    assert fault > 0.1


def test_units_and_order_change_nothing() -> None:
    values = np.random.default_rng(3).exponential(size=12)
    e = estimate_mean(values, unit="x", over="item")
    for factor in (1e-6, 1e-3, 1e60):
        scaled = estimate_mean(values[::-1] * factor, unit="x", over="item")
        assert (scaled.low / factor, scaled.high / factor) == pytest.approx((e.low, e.high))
    shares = np.random.default_rng(4).beta(0.3, 3, size=12)
    one, other = (estimate_mean(v, unit="x", over="item", bounds=(0, 1)) for v in (shares, shares[::-1]))
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_a_paired_gap_knows_what_the_units_share() -> None:
    rng = np.random.default_rng(0)
    total, part = 10 + rng.normal(size=8), 5 + rng.normal(size=8)
    pair = estimate_gap(part, total - part, unit="nats", over="item")
    assert pair.gap.mean == pytest.approx(pair.estimate.mean - pair.control.mean)
    apart = estimate_mean(2 * part - total, unit="nats", over="item")
    assert (pair.gap.low, pair.gap.high) == pytest.approx((apart.low, apart.high))
    shares = estimate_gap([1, 1, 1, 1], [0, 0, 0, 0], unit="share", over="item", bounds=(0, 1))
    assert (shares.gap.mean, shares.gap.high) == (1, 1)
    assert shares.gap.low < 0.3, "four of four is no certainty"
    with pytest.raises(BadValuesError, match="4 values and 3 of the control"):
        estimate_gap([1, 1, 1, 1], [0, 0, 0], unit="share", over="item")


HIDDEN: dict[str, tuple[Draw, float, tuple[float, float]]] = {  # rare units decide the mean, and few samples have one
    "most at one": (lambda rng, shape: rng.beta(0.1, 0.02, size=shape), 0.1 / 0.12, (0, 1)),
    "most at zero": (lambda rng, shape: rng.beta(0.05, 5, size=shape), 0.05 / 5.05, (0, 1)),
    "small gains, rare losses": (lambda rng, s: rng.choice([0.25, 0.0, -1.0], s, p=[0.4, 0.5, 0.1]), 0.0, (-1, 1)),
    "rare failures": (lambda rng, s: rng.choice([0.9, 0.95, 0.0], s, p=[0.5, 0.4, 0.1]), 0.83, (0, 1)),
}


@pytest.mark.parametrize("n", [3, 5, 8, 16])
@pytest.mark.parametrize("name", HIDDEN)
def test_bounds_hold_what_a_sample_hides(name: str, n: int) -> None:
    """Without them alone, up to a third of such studies missed on one side."""
    draw, mean, bounds = HIDDEN[name]
    values = draw(np.random.default_rng(7), (1500, n))
    low, high = mean_limits(values, bounds, n_draws=1000)
    assert np.mean(mean > high + 1e-9) < 0.035
    assert np.mean(mean < low - 1e-9) < 0.035


def test_worse_data_give_no_stronger_verdict() -> None:
    """All at the bound leave room for what was not seen; one unit off the bound leaves no less."""

    def lowest(*values: float) -> float:
        return estimate_mean(values, unit="share", over="seed", bounds=(0, 1)).low

    whole = lowest(1, 1, 1, 1, 1)
    assert whole == pytest.approx(0.478, abs=0.001)
    for last in (0.95, 0.99, 1 - 6e-8):
        assert lowest(1, 1, 1, 1, last) <= whole + 0.01
