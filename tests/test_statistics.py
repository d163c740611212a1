"""Statistics: against closed forms and brute force, and with nulls that must stay silent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from interp.stats.crossed import estimate_crossed
from interp.stats.estimate import HUGE, Estimate
from interp.stats.estimators import (
    double_centre,
    estimate_gap,
    estimate_mean,
    known,
    matched_scores,
    null_of,
    pairing_null,
    permutation_p,
    proportion,
    sign_flip_null,
    top_choice,
)
from interp.stats.values import BadValuesError

SHAPES = ((3, 1), (1, 24), (3, 24))
finite = st.floats(-1e3, 1e3, allow_nan=False)


@pytest.mark.parametrize("n", [3, 5, 8, 19, 20, 24, 60])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(n)
    studies = rng.normal(3.0, 2.0, size=(600, n))
    estimates = [estimate_mean(v, unit="x", over="item", n_boot=400, seed=i) for i, v in enumerate(studies)]
    assert 0.93 <= np.mean([e.low <= 3.0 <= e.high for e in estimates]) <= 0.975


def test_the_interval_is_over_units_and_not_their_repeats() -> None:
    units = np.random.default_rng(1).normal(size=24)
    repeated = np.repeat(units[:, None], 50, axis=1)  # 1200 numbers, but 24 independent ones
    a = estimate_mean(units, unit="x", over="item", seed=3)
    b = estimate_mean(repeated, unit="x", over="item", seed=3)
    assert (a.low, a.high, a.n) == pytest.approx((b.low, b.high, b.n))
    assert b.high - b.low > 0.3


@given(arrays(np.float64, st.integers(1, 40), elements=finite), st.integers(0, 5))
def test_the_interval_is_ordered_reproducible_and_inside_its_bounds(values: np.ndarray, seed: int) -> None:
    bounds = (-1e3, 1e3)
    first, second = (
        estimate_mean(values, unit="x", over="item", bounds=bounds, n_boot=50, seed=seed) for _ in range(2)
    )
    assert first == second
    assert bounds[0] <= first.low <= first.mean <= first.high <= bounds[1]
    assert (first.low < first.high) == (len(values) > 1), "values that are all alike are no certainty"


def test_units_without_a_long_tail_get_students_interval_and_keep_to_their_bounds() -> None:
    values = [-0.3, -0.1, 0.0, 0.1, 0.3]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    e = estimate_mean(values, unit="x", over="seed")
    assert (e.low, e.high) == pytest.approx((low, high))
    far = estimate_mean([1000 + v for v in values], unit="x", over="seed")
    assert (far.low, far.high) == pytest.approx((1000 + low, 1000 + high), abs=1e-3), "zero is far away"
    skewed = [-0.3, -0.1, 0.0, 0.1, 1.3]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(skewed), scale=stats.sem(skewed))
    e = estimate_mean(skewed, unit="x", over="seed")
    assert e.low == pytest.approx(low)
    assert e.high > high + 0.3, "it reaches farther where the tail is"
    mirrored = estimate_mean([-v for v in skewed], unit="x", over="seed")
    assert (mirrored.low, mirrored.high) == pytest.approx((-e.high, -e.low))
    assert estimate_mean([0.9, 1.0, 1.0], unit="x", over="seed", bounds=(0, 1)).high <= 1.0
    with pytest.raises(ValueError, match="outside their bounds"):
        estimate_mean([0.9, 1.1], unit="x", over="seed", bounds=(0, 1))
    with pytest.raises(ValueError, match="no values"):
        estimate_mean([], unit="x", over="seed")


def test_values_that_are_all_alike_between_two_bounds_leave_room_for_what_was_not_seen() -> None:
    e = estimate_mean([0.0] * 20, unit="share", over="item", bounds=(0, 1))
    exact = proportion([False] * 20, unit="share", over="item")
    assert (e.low, e.high) == pytest.approx((exact.low, exact.high))
    gap = estimate_mean([0.0] * 20, unit="share", over="item", bounds=(-1, 1))
    assert gap.low == pytest.approx(-gap.high)
    assert gap.high == pytest.approx(exact.high)


def test_values_that_are_all_alike_without_bounds_are_no_certainty_unless_they_must_be_alike() -> None:
    for values in ([0.0] * 5, [0.3] * 5, [1e6 + 1e-9, 1e6], [0.1 + 0.2, 0.3]):
        e = estimate_mean(values, unit="x", over="item")
        assert e.alike, "rounding is no spread"
        assert not e.has_interval
        assert "[no interval]" in str(e)
        exact = estimate_mean(values, unit="x", over="item", exact=True)
        assert exact.has_interval
    assert not estimate_mean([0.0, 1e-6], unit="x", over="item").alike
    assert estimate_mean([0.0] * 5, unit="x", over="item", bounds=(0, np.inf)).alike
    assert estimate_crossed([np.full((3, 4), 0.5)], unit="x", over="fact").alike


@pytest.mark.parametrize("spread", [(1.0, 0.2, 0.2), (0.2, 1.0, 0.2), (0.6, 0.6, 0.6), (0.0, 0.0, 1.0)])
def test_the_crossed_interval_covers_what_other_templates_and_facts_would_give(
    spread: tuple[float, float, float],
) -> None:
    """Three templates and 24 facts in each of four relations, as in the reversal curse."""
    rng = np.random.default_rng(0)
    hits, counts = [], set()
    for _ in range(600):
        template, fact, both = (s * rng.normal(size=(4, *shape)) for s, shape in zip(spread, SHAPES, strict=True))
        e = estimate_crossed(list(0.5 + template + fact + both), unit="x", over="fact")
        hits.append(e.low <= 0.5 <= e.high)
        counts.add(e.n)
    assert np.mean(hits) >= 0.93
    assert counts == {96}
    if spread[2] == 0.2:  # where one axis rules, the interval is not too wide either
        assert np.mean(hits) <= 0.98


def test_an_interval_over_facts_alone_is_too_narrow_where_wordings_differ() -> None:
    """The reason for the crossed one: a planted fault in the statistics that the test above must see."""
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        scores = 0.5 + rng.normal(size=(3, 1)) + 0.2 * rng.normal(size=(1, 24))
        e = estimate_mean(scores.T, unit="x", over="fact", n_boot=200, seed=i)
        hits += e.low <= 0.5 <= e.high
    assert hits / 200 < 0.5


def test_a_gap_of_two_crossed_sets_needs_neither_the_same_wordings_nor_their_order() -> None:
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(400):
        facts = rng.normal(size=(1, 24))
        forward, backward = (
            mean + facts + rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, 24)) for mean, n in ((0.7, 3), (0.4, 4))
        )
        e = estimate_crossed([forward], less=[backward], unit="x", over="fact")
        again = estimate_crossed([forward[::-1]], less=[backward[[2, 0, 3, 1]]], unit="x", over="fact")
        assert (again.low, again.high) == pytest.approx((e.low, e.high))
        hits.append(e.low <= 0.3 <= e.high)
    assert np.mean(hits) >= 0.93


@pytest.mark.parametrize(("sets", "facts"), [(1, 8), (1, 24), (2, 24), (4, 24)])
@pytest.mark.parametrize("share", [0.06, 0.1, 0.3])
def test_a_rare_gap_that_a_few_facts_do_not_show_is_not_ruled_out(sets: int, facts: int, share: float) -> None:
    """Each fact is known in one direction only with probability `share`, alike in all wordings: over 5 points."""
    rng = np.random.default_rng(0)
    ruled_out = 0
    for _ in range(500):
        forward = [np.repeat(rng.random((1, facts)) < share, 3, axis=0) for _ in range(sets)]
        none = [np.zeros((3, facts))] * sets
        e = estimate_crossed(forward, less=none, unit="x", over="fact", bounds=(-1, 1))
        assert e.low < e.mean < e.high
        ruled_out += e.high <= 0.05
    assert ruled_out / 500 <= 0.03


def test_a_group_with_one_wording_has_no_crossed_interval() -> None:
    for shape in ((1, 5), (5, 1)):
        with pytest.raises(ValueError, match="two templates and two items"):
            estimate_crossed([np.zeros((3, 5)), np.zeros(shape)], unit="x", over="fact")
    with pytest.raises(ValueError, match="two templates"):
        estimate_crossed([], unit="x", over="fact")


def test_a_share_gets_the_exact_interval_which_does_not_collapse_at_zero() -> None:
    e = proportion([False] * 20, unit="share", over="item")
    assert e.mean == 0
    assert e.low == 0
    assert 0.1 < e.high < 0.2  # 1 - 0.025 ** (1 / 20) = 0.168 for 0 of 20
    for k in (0, 1, 7, 20):
        e = proportion([i < k for i in range(20)], unit="share", over="item")
        scipys = stats.binomtest(k, 20).proportion_ci(0.95, method="exact")
        assert (e.low, e.high) == pytest.approx((scipys.low, scipys.high))
        same = estimate_mean([float(i < k) for i in range(20)], unit="share", over="item", bounds=(0, 1))
        assert (same.low, same.high) == pytest.approx((e.low, e.high))


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


def test_matched_scores_give_back_a_planted_bonus_and_forget_priors() -> None:
    rng = np.random.default_rng(4)
    priors = rng.normal(size=(1, 12)) * 5 + rng.normal(size=(12, 1))
    assert matched_scores(priors + 2.0 * np.eye(12)) == pytest.approx(2.0)


def test_a_model_that_tells_nothing_apart_chooses_at_chance() -> None:
    assert top_choice(np.zeros((5, 8, 8))) == pytest.approx(1 / 8)
    assert top_choice(np.arange(8.0)[None, :] + np.zeros((8, 1))) == pytest.approx(1 / 8)


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
    assert (top_choice(np.eye(20) * 10 + rng.normal(size=20)) == 1).all()


def test_sign_flip_null_is_centred_and_widens_with_the_effect() -> None:
    e = sign_flip_null(np.full(16, 2.0), unit="x", n_perm=4000)
    assert abs(e.mean) < 0.1
    # the sum of 16 signs, scaled: exact quantiles of a binomial
    assert e.high == pytest.approx(2.0 * (2 * stats.binom.ppf(0.975, 16, 0.5) - 16) / 16, abs=0.26)


@settings(max_examples=50)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_an_estimate_that_is_no_number_is_refused(value: float) -> None:
    if abs(value) < HUGE:
        assert Estimate(value, value, value, 1, "x").mean == value
    else:
        with pytest.raises(ValueError, match="finite"):
            Estimate(value, 0.0, 1.0, 1, "x")


@pytest.mark.parametrize(
    "wrong",
    [(50.0, 1.0, 3.0, 5), (2.0, 3.0, 1.0, 5), (2.0, 1.0, 3.0, -7), (1e308, 0.0, 1.5e308, 5), (2.0, 1.0, 3.0, 5, 55)],
)
def test_an_estimate_that_contradicts_itself_is_refused(wrong: tuple[float, ...]) -> None:
    mean, low, high, n, *level = wrong
    with pytest.raises(ValueError, match=r"finite|mean must lie|n must be"):
        Estimate(mean, low, high, int(n), "x", "item", level=level[0] if level else 0.95)


def test_a_known_number_says_why_and_claims_no_sample() -> None:
    assert str(known(0.05, unit="share of people", why="1 of 20 answers")) == "0.05 share of people (1 of 20 answers)"


@pytest.mark.parametrize("n", [39, 60, 200])
def test_one_more_draw_of_chance_is_beyond_a_null_as_rarely_as_it_says(n: int) -> None:
    """Few draws as well as many: a quantile between two of them would be passed more often."""
    rng = np.random.default_rng(0)
    studies = rng.uniform(size=(1500, n))  # of uniform draws, what lies beyond an end is known
    ends = [null_of(draws, unit="x") for draws in studies]
    assert np.mean([1 - e.high for e in ends]) <= 0.0255
    assert np.mean([e.low for e in ends]) <= 0.0255
    between = 1 - np.quantile(studies, 0.975, axis=1).mean()
    assert n > 60 or between > 0.03, "the planted fault"


def test_too_few_draws_are_no_null() -> None:
    with pytest.raises(BadValuesError, match=r"38 draws in x; expected 39 or more.*2\.5%"):
        null_of(np.arange(38), unit="x")
    assert null_of(np.arange(39), unit="x").high == 38


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: estimate_mean(1.0, unit="x", over="item"), "single number"),
        (lambda: estimate_mean(["a"], unit="x", over="item"), "expected numbers"),
        (lambda: estimate_mean(np.ma.masked_equal([1, 2, 99], 99), unit="x", over="item"), "masked"),
        (lambda: estimate_mean([0.0, 0.0], unit="x", over="item", bounds=(0, 0)), "bounds"),
        (lambda: estimate_mean([0.1, 0.2], unit="x", over="item", level=1.0), "level"),
        (lambda: proportion([0.9] * 4, unit="x", over="item"), "True and False"),  # type: ignore[list-item]
        (lambda: proportion([-1, 1, 1], unit="x", over="item"), "True and False"),  # type: ignore[list-item]
        (lambda: permutation_p([0.1, 0.2], np.nan), "finite"),
        (lambda: estimate_crossed([np.zeros(3)], unit="x", over="item"), "template, item"),
        (lambda: estimate_crossed([np.eye(3)], less=[np.eye(4)], unit="x", over="item"), "same items"),
        (lambda: estimate_crossed([5 + np.eye(3)], unit="x", over="item", bounds=(0, 1)), "outside their bounds"),
        (
            lambda: estimate_crossed([np.eye(3)], less=[np.ones((3, 3))], unit="x", over="item", bounds=(0, 1)),
            "those of the gap",
        ),
        (lambda: matched_scores(np.zeros((1, 1))), "as many of each"),
        (lambda: matched_scores(np.zeros((5, 3))), "as many of each"),
    ],
)
def test_what_no_statistic_can_be_made_of_is_one_line(make: Callable[[], object], told: str) -> None:
    with pytest.raises(BadValuesError, match=told) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_float32_values_that_differ_by_as_much_everywhere_are_alike() -> None:
    """Their differences vary in the seventh digit alone: that is no interval."""
    pair = estimate_gap(np.array([5.1, 7.1, 9.1], np.float32), np.array([5, 7, 9], np.float32), unit="x", over="item")
    assert pair.gap.alike
