"""Many claims: how many say yes by chance, and which stand when all of them are taken together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.lab.findings import Control, Finding
from interp.lab.summary import p_of_yes, summarise_claims
from interp.stats.corrections import holm, p_above
from interp.stats.estimate import PERMUTATION, Estimate
from interp.stats.estimators import estimate_mean, known
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
    test: Any = stats.ttest_1samp(values, 0.3, alternative="greater")
    assert p_above(e, 0.3) == pytest.approx(test.pvalue)


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
