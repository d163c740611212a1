"""Many claims: how many say yes by chance, and which stand when all of them are taken together."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.lab.findings import Control, Finding, finding_from_json, finding_to_json
from interp.lab.summary import p_of_yes, summarise_claims
from interp.stats.corrections import holm, p_above, p_below
from interp.stats.crossed import estimate_crossed
from interp.stats.estimate import PERMUTATION, Estimate
from interp.stats.estimators import estimate_mean, known
from interp.stats.power_law import fit_power_law, foretold_miss
from interp.stats.tails import student_point, student_tail

NOTHING = Control("nothing", known(0.0, unit="nats", why="no effect"))
number = st.floats(-10, 10, allow_nan=False)


def claim(values: np.ndarray, answers: bool = True) -> Finding:
    return Finding("c", estimate_mean(values, unit="nats", over="item"), NOTHING, "greater", answers=answers)


def test_holm_is_the_step_down_of_the_book() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, 1.2])


def test_the_p_value_of_students_interval_is_that_of_the_t_test() -> None:
    values = np.random.default_rng(0).normal(0.8, 1, size=12)
    half = stats.t.ppf(0.975, 11) * stats.sem(values)
    e = Estimate(values.mean(), values.mean() - half, values.mean() + half, 12, "nats")
    assert p_above(e, e.low) == pytest.approx(0.025), "at the interval's own level it is exact"
    for line in (e.low - 0.3, e.low - 1.0):  # farther out larger than the t-test's, which skewed values do not hold
        test: Any = stats.ttest_1samp(values, line, alternative="greater")
        assert test.pvalue < p_above(e, line) < 0.025


def test_far_out_in_the_tail_a_p_value_is_no_smaller_than_skewed_values_allow() -> None:
    """Mostly zeros, the truth on the line: with Student's n - 1 a p of a thousandth came in a hundredth of studies."""
    rng = np.random.default_rng(0)
    p = []
    for _ in range(3000):
        values = rng.exponential(size=16) * (rng.random(16) < 0.3)
        e = estimate_mean(values, unit="nats", over="item")
        p.append(1.0 if e.alike else p_below(e, 0.3))
    assert np.mean(np.array(p) <= 0.025) <= 0.035
    assert np.mean(np.array(p) <= 0.001) <= 0.004


@given(st.tuples(number, number, number), number, st.sampled_from(["greater", "less", "equal"]), st.floats(0.01, 5))
def test_p_is_below_its_line_just_where_the_verdict_is_yes(ends, null: float, expects, margin: float) -> None:
    low, mean, high = sorted(ends)
    for control in (
        known(null, unit="nats", why="set"),
        Estimate(null, null - 1, null + 2, 9, "nats"),
        Estimate(null, null - 1, null + 2, 5000, "nats", PERMUTATION),
    ):
        finding = Finding("c", Estimate(mean, low, high, 10, "nats"), Control("k", control), expects, margin)
        p = p_of_yes(finding)
        turns = [end - line for end in (finding.gap.low, finding.gap.high) for line in (margin, -margin)]
        if min(map(abs, turns)) > 1e-9 and abs(p - 0.025) > 1e-9:  # on the line, rounding decides
            assert (p < 0.025) == (finding.verdict == "yes")
    single = Finding("c", Estimate(1, 1, 1, 1, "nats"), NOTHING, "greater")
    assert p_of_yes(single) == 1


def test_among_claims_of_nothing_one_stands_as_rarely_as_the_correction_says() -> None:
    rng = np.random.default_rng(2)
    alone = together = 0
    for _ in range(300):
        summary = summarise_claims([claim(rng.normal(size=12)) for _ in range(20)])
        assert (summary.asked, summary.by_chance) == (20, 0.5)
        alone += summary.yes > 0
        together += any(answer.stands for answer in summary.answers)
    assert alone / 300 > 0.2, "twenty claims of nothing: one or more says yes in four runs of ten"
    assert together / 300 <= 0.05


def test_what_is_there_stands_and_only_answers_are_corrected() -> None:
    rng = np.random.default_rng(3)
    there = claim(3 + rng.normal(size=12))
    weak = Finding("c", Estimate(1, 0.05, 1.95, 12, "nats"), NOTHING, "greater", answers=True)
    others = [claim(rng.normal(size=12), answers=False) for _ in range(30)]
    summary = summarise_claims([weak, *others, weak, there])
    assert [answer.stands for answer in summary.answers] == [False, False, True]
    assert [answer.together for answer in summary.answers] == ["does not stand", "does not stand", "stands"]
    assert str(summarise_claims([weak])) == "1 of 1 claim says yes; if none of them held, about 0.025 would"
    assert summarise_claims([weak]).answers[0].stands, "a single answer needs no correction"


@pytest.mark.parametrize("df", [1, 2, 4.5, 11, 47, 4607])
def test_students_tails_are_scipys(df: float) -> None:
    for t in (-3.0, -0.1, 0.0, 0.5, 2.2, 9.0, 80.0):
        assert student_tail(t, df) == pytest.approx(stats.t.sf(t, df), rel=1e-8, abs=1e-300)
    for tail in (0.4, 0.025, 1e-6):
        assert student_point(tail, df) == pytest.approx(stats.t.isf(tail, df), rel=1e-8)


def test_p_values_of_crossed_wordings_are_about_what_they_say() -> None:
    """Three wordings have two degrees of freedom or little more, however many items there are."""
    rng = np.random.default_rng(4)
    p = []
    for _ in range(4000):
        table = 1.5 * rng.normal(size=(3, 1)) + rng.normal(size=(1, 24)) + rng.normal(size=(3, 24))
        e = estimate_crossed([table], unit="nats", over="item")
        p.append(p_above(e, 0.0))
    assert np.mean(np.array(p) <= 0.025) <= 0.03
    assert np.mean(np.array(p) <= 0.001) <= 0.004


def test_every_estimate_knows_the_degrees_of_freedom_of_its_interval() -> None:
    """The p of a slope is the t-test's; a gap has those of the less sure side; old files have none."""
    x = np.geomspace(1, 100, 6)
    v = np.log(x) * -0.1 + np.random.default_rng(0).normal(0, 0.05, 6)
    line: Any = stats.linregress(np.log(x), v)
    exponent = fit_power_law(x, np.exp(v)).exponent
    assert exponent.df == 4
    assert p_above(exponent, 0.0) >= line.pvalue / 2
    assert foretold_miss(x, np.exp(v), unit="nats").df == 3
    crossed = Estimate(1.0, 0.5, 1.5, 24, "nats", df=1.7)
    finding = Finding("c", crossed, NOTHING, "greater")
    assert finding.gap.df == 1.7
    assert replace(finding, control=Control("k", Estimate(0, -0.1, 0.1, 9, "nats"))).gap.freedom == 1.7
    assert p_below(replace(crossed, mean=-1.0, low=-1.5, high=-0.5), 0.0) == pytest.approx(p_above(crossed, 0.0))
    record = json.loads(json.dumps(finding_to_json(finding)))
    assert finding_from_json(record, []) == finding
    del record["estimate"]["df"]
    assert finding_from_json(record, []).estimate.freedom == 23
    with pytest.raises(ValueError, match="degrees of freedom"):
        replace(crossed, df=0.0)
