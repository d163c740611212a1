"""Statistics: against closed forms and brute force, and with nulls that must stay silent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from interp.analysis.estimate import Estimate
from interp.analysis.statistics import (
    bootstrap_mean,
    double_centre,
    known,
    matched_scores,
    pairing_null,
    proportion,
    sign_flip_null,
    t_interval,
    top_choice,
)

finite = st.floats(-1e3, 1e3, allow_nan=False)


def test_bootstrap_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(300):
        e = bootstrap_mean(rng.normal(3.0, 2.0, size=60), unit="x", over="item", n_boot=400, seed=i)
        hits += e.low <= 3.0 <= e.high
    assert 0.90 <= hits / 300 <= 0.98


def test_bootstrap_resamples_units_and_not_their_repeats() -> None:
    units = np.random.default_rng(1).normal(size=20)
    repeated = np.repeat(units[:, None], 50, axis=1)  # 1000 numbers, but 20 independent ones
    a = bootstrap_mean(units, unit="x", over="item", seed=3)
    b = bootstrap_mean(repeated, unit="x", over="item", seed=3)
    assert (a.low, a.high, a.n) == pytest.approx((b.low, b.high, b.n))
    assert b.high - b.low > 0.3


@given(arrays(np.float64, st.integers(1, 30), elements=finite), st.integers(0, 5))
def test_bootstrap_is_ordered_reproducible_and_inside_the_data(values: np.ndarray, seed: int) -> None:
    first, second = (bootstrap_mean(values, unit="x", over="item", n_boot=50, seed=seed) for _ in range(2))
    assert first == second
    assert values.min() - 1e-6 <= first.low <= first.high <= values.max() + 1e-6


def test_t_interval_is_scipys_and_keeps_to_its_bounds() -> None:
    values = [0.1, 0.4, 0.2, 0.25]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    e = t_interval(values, unit="x", over="seed")
    assert (e.low, e.high) == pytest.approx((low, high))
    cut = t_interval([0.9, 1.0, 1.0], unit="x", over="seed", bounds=(0, 1))
    assert cut.high == 1.0
    with pytest.raises(ValueError, match="two units"):
        t_interval([1.0], unit="x", over="seed")


def test_wilson_interval_does_not_collapse_at_zero() -> None:
    e = proportion([False] * 20, unit="share", over="item")
    assert e.mean == 0
    assert e.low == 0
    assert 0.1 < e.high < 0.2  # Wilson 1927: 0.161 for 0 of 20


@given(arrays(np.float64, (3, 5, 5), elements=finite))
def test_double_centring_takes_out_priors_and_nothing_else(matrix: np.ndarray) -> None:
    centred = double_centre(matrix)
    assert np.allclose(centred.sum(-1), 0, atol=1e-6)
    assert np.allclose(centred.sum(-2), 0, atol=1e-6)
    priors = matrix + np.arange(5)[None, None, :] * 100.0 + np.arange(5)[None, :, None] * 7.0
    assert np.allclose(double_centre(priors), centred, atol=1e-6)


def test_answer_priors_alone_look_like_knowledge_until_centred() -> None:
    n = 30
    raw = np.zeros((n, n))
    raw[:, 0] = 50.0  # one answer is likely after every prompt
    assert np.diagonal(raw).mean() > 1
    assert matched_scores(raw).mean() == pytest.approx(0, abs=1e-9)


def test_pairing_null_finds_a_planted_pairing_and_stays_silent_on_noise() -> None:
    rng = np.random.default_rng(2)
    planted = rng.normal(size=(3, 20, 20)) + 2.0 * np.eye(20)
    assert matched_scores(planted).mean() > pairing_null(planted, unit="nats", n_perm=500).high
    alarms = 0
    for i in range(200):
        noise = rng.normal(size=(20, 20))
        alarms += matched_scores(noise).mean() > pairing_null(noise, unit="nats", n_perm=200, seed=i).high
    assert alarms / 200 < 0.06  # one-sided 2.5 % by construction


def test_top_choice_is_chance_on_noise_and_right_on_a_pairing() -> None:
    rng = np.random.default_rng(3)
    noise = np.mean([top_choice(rng.normal(size=(20, 20))).mean() for _ in range(200)])
    assert noise == pytest.approx(0.05, abs=0.02)
    assert top_choice(np.eye(20) * 10 + rng.normal(size=20)).all()


def test_sign_flip_null_is_centred_and_widens_with_the_effect() -> None:
    e = sign_flip_null(np.full(16, 2.0), unit="x", n_perm=4000)
    assert abs(e.mean) < 0.1
    # the sum of 16 signs, scaled: exact quantiles of a binomial
    assert e.high == pytest.approx(2.0 * (2 * stats.binom.ppf(0.975, 16, 0.5) - 16) / 16, abs=0.26)


@settings(max_examples=50)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_an_estimate_that_is_no_number_is_refused(value: float) -> None:
    if np.isfinite(value):
        assert Estimate(value, value, value, 1, "x").mean == value
    else:
        with pytest.raises(ValueError, match="finite"):
            Estimate(value, 0.0, 1.0, 1, "x")


def test_a_known_number_says_why_and_claims_no_sample() -> None:
    assert str(known(0.05, unit="share of people", why="1 of 20 answers")) == "0.05 share of people (1 of 20 answers)"
