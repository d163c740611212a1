"""Verdicts are computed by the declared rule, and findings survive the disk."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.cli.terminal import print_finding
from interp.errors import UserError
from interp.lab.findings import Control, Figure, Finding, finding_from_json, finding_to_json
from interp.lab.runs import RunInfo, RunWriter, read_run
from interp.stats.estimate import PERMUTATION, Estimate
from interp.stats.estimators import estimate_gap, estimate_mean
from interp.views.report import render

number = st.floats(-100, 100, allow_nan=False)


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    low, mean, high = sorted(draw(st.tuples(number, number, number)))
    return Estimate(mean, low, high, draw(st.integers(1, 99)), "nats")


def finding(ours: tuple[float, float], theirs: tuple[float, float], expects: str, margin: float = 0.0) -> Finding:
    def estimate(pair: tuple[float, float]) -> Estimate:
        return Estimate(sum(pair) / 2, *pair, 10, "nats")

    return Finding("c", estimate(ours), Control("k", estimate(theirs)), expects, margin)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ours", "theirs", "expects", "margin", "verdict"),
    [
        ((2, 3), (0, 1), "greater", 0, "yes"),
        ((2, 3), (0, 1), "greater", 1.5, "unclear"),
        ((2, 3), (0, 1), "greater", 5, "no"),
        ((0.5, 2), (0, 1), "greater", 0, "unclear"),
        ((-1, 0.5), (0, 1), "greater", 0, "unclear"),  # above -1 and below 1.5 of each other: neither is ruled out
        ((-2, -1), (0, 1), "greater", 0, "no"),
        ((2, 3), (4, 5), "less", 0, "yes"),
        ((2, 4.5), (4, 5), "less", 0, "unclear"),
        ((6, 7), (4, 5), "less", 0, "no"),
        ((0.05, 0.3), (-1, 1), "greater", 0, "unclear"),  # a wide null is noise, and rules nothing out
        ((0, 1), (0, 1), "equal", 0.1, "unclear"),
        ((0, 0), (0, 0), "equal", 0.1, "yes"),
        ((-0.05, 0.05), (0, 0), "equal", 0.1, "yes"),
        ((-1, 1), (0, 0), "equal", 0.1, "unclear"),  # a wide interval proves no equality
        ((1, 2), (0, 0), "equal", 0.1, "no"),
    ],
)
def test_the_rule(ours, theirs, expects, margin, verdict) -> None:
    assert finding(ours, theirs, expects, margin).verdict == verdict


@pytest.mark.parametrize("noise", [(1.0, 1.0), (1.0, 5.0), (5.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("n", [4, 8, 30])
def test_a_false_yes_and_a_false_no_come_as_rarely_as_the_rule_says(n: int, noise: tuple[float, float]) -> None:
    """Studies whose true gap is exactly the margin: yes and no to `greater`, yes to `equal`, all are wrong."""
    rng = np.random.default_rng(n)
    wrong = dict.fromkeys(("greater", "less", "equal"), 0)
    for _ in range(400):
        ours, theirs = (
            estimate_mean(mean + spread * rng.normal(size=n), unit="nats", over="fact", n_boot=300)
            for mean, spread in zip((1.0, 0.0), noise, strict=True)
        )
        for expects in wrong:
            verdict = Finding("c", ours, Control("k", theirs), expects, 1.0).verdict  # type: ignore[arg-type]
            wrong[expects] += verdict == "yes"
            wrong[expects] += expects == "greater" and verdict == "no"
    assert wrong["greater"] / 400 <= 0.05 + 0.03  # yes and no together
    assert wrong["less"] / 400 <= 0.01
    assert wrong["equal"] / 400 <= 0.025 + 0.02


def test_against_a_null_the_estimate_must_lie_beyond_it_and_its_interval_beyond_the_margin() -> None:
    def verdict(low: float, mean: float, high: float, null: float) -> str:
        control = Control("shuffled", Estimate(0, -null, null, 2000, "nats", PERMUTATION))
        up = Finding("c", Estimate(mean, low, high, 48, "nats"), control, "greater", 0.05)
        down = Finding("c", Estimate(-mean, -high, -low, 48, "nats"), control, "less", 0.05)
        assert up.verdict == down.verdict
        return up.verdict

    assert verdict(0.1, 0.2, 0.3, null=0.15) == "yes", "the null's spread is not added to the estimate's"
    assert verdict(0.1, 0.2, 0.3, null=0.25) == "unclear", "chance reaches it"
    assert verdict(0.01, 0.2, 0.4, null=0.1) == "unclear"
    assert verdict(-0.1, 0.0, 0.04, null=0.1) == "no"


def test_the_gap_adds_the_controls_uncertainty_only_where_it_was_measured() -> None:
    ours = Estimate(3, 0, 6, 10, "nats")
    measured = Finding("c", ours, Control("k", Estimate(1, -3, 5, 10, "nats")), "greater").gap
    assert (measured.mean, measured.low, measured.high) == pytest.approx((2, -3, 7))  # 3 and 4 make 5
    for control in (Estimate(1, 1, 1, 0, "nats", "chance"), Estimate(1, -9, 9, 2000, "nats", PERMUTATION)):
        gap = Finding("c", ours, Control("k", control), "greater").gap
        assert (gap.mean, gap.low, gap.high) == (2, -1, 5)


@given(estimates(), estimates(), st.floats(0, 10))
def test_greater_and_less_mirror_each_other(ours: Estimate, theirs: Estimate, margin: float) -> None:
    def flip(e: Estimate) -> Estimate:
        return Estimate(-e.mean, -e.high, -e.low, e.n, e.unit)

    up = Finding("c", ours, Control("k", theirs), "greater", margin)
    down = Finding("c", flip(ours), Control("k", flip(theirs)), "less", margin)
    assert up.verdict == down.verdict


def test_units_that_differ_and_equality_without_a_margin_are_refused() -> None:
    nats, share = Estimate(0, 0, 0, 1, "nats"), Estimate(0, 0, 0, 1, "share")
    with pytest.raises(ValueError, match="not comparable"):
        Finding("c", nats, Control("k", share), "greater")
    with pytest.raises(ValueError, match="margin"):
        Finding("c", nats, Control("k", nats), "equal")


def run_info(command: str = "interp probe x") -> RunInfo:
    return RunInfo("x", "Method.", None, command, {}, 0, "2026-01-01T00:00:00+00:00", {"model": {"name": "m"}})


@given(estimates(), estimates(), st.text(max_size=40), st.lists(st.text(max_size=20), max_size=3))
def test_findings_come_back_from_disk_as_they_went(tmp_path_factory, ours, theirs, claim, cells) -> None:
    folder = tmp_path_factory.mktemp("run") / "r"
    found = Finding(
        claim, ours, Control(claim, theirs), "less", 0.5, "part", "caveat", [{"cell": c} for c in cells],
        Figure("bars", x="cell", y="cell"), answers=True, measure=claim,
    )  # fmt: skip
    writer = RunWriter(folder, run_info())
    writer.add(found)
    writer.add(found)
    run = read_run(folder)
    assert run.findings == [found, found]


def test_a_finding_of_an_earlier_version_is_read_with_what_it_has(tmp_path: Path) -> None:
    found = finding((2, 3), (0, 1), "greater")
    record = finding_to_json(found)
    for later in ("answers", "measure", "caveat", "part", "figure"):
        del record[later]
    assert finding_from_json(record, []) == found
    del record["claim"]
    with pytest.raises(ValueError, match="claim: Field required"):
        finding_from_json(record, [])


def test_a_line_cut_short_by_a_kill_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "r", run_info())
    writer.add(finding((2, 3), (0, 1), "greater"))
    writer.add(finding((2, 3), (0, 1), "greater"))
    path = tmp_path / "r" / "findings.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    ends = (*range(first, first + 12), *range(len(whole) - 12, len(whole)))
    for cut in (*ends, *range(first + 12, len(whole) - 12, 11)):  # all of the line's characters are alike
        path.write_bytes(whole[:cut])
        assert len(read_run(tmp_path / "r").findings) == 1


def damages(value: Any) -> Iterator[Any]:
    """`value`, JSON as it was written, with one place after the other replaced by something of another type."""
    wrong: list[Any] = [None, 7, -1e999, "text", [], {}, True]
    if isinstance(value, dict | list):
        places = list(value) if isinstance(value, dict) else range(len(value))
        for place in places:
            for damaged in damages(value[place]):
                copy = value.copy()
                copy[place] = damaged
                yield copy
        if isinstance(value, dict):
            yield from ({k: v for k, v in value.items() if k != gone} for gone in places)
    yield from wrong


@pytest.mark.parametrize("file", ["run.json", "findings.jsonl", "tables/0.json"])
def test_any_damage_is_one_line_or_harmless(tmp_path: Path, file: str) -> None:
    """Values replaced one by one (of the longer files, some): a refusal in one line, or a report that still builds."""
    writer = RunWriter(tmp_path / "r", run_info())
    one = Finding(
        "c", Estimate(2, 1, 3, 10, "nats"), Control("k", Estimate(0, -1, 1, 9, "nats")), "greater", 0.5, "p", "caveat",
        [{"site": "a", "value": 1.5, "low": 1.0, "high": 2.0}], Figure("interval_dots", x="value", y="site"),
    )  # fmt: skip
    writer.add(one)
    writer.finish("finished", 1.5)
    path = tmp_path / "r" / file
    whole = json.loads(path.read_text())
    refused: list[str] = []
    every = {"run.json": 3, "findings.jsonl": 5, "tables/0.json": 2}[file]  # no divisor of the wrong values' number
    for damaged in list(damages(whole))[::every]:
        path.write_text(json.dumps(damaged) + "\n")
        try:
            run = read_run(tmp_path / "r")
        except UserError as error:
            refused.append(str(error))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a figure that lacks its column says so
            assert "</html>" in render([run])
    assert len(refused) > 10
    assert not [message for message in refused if "\n" in message]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[" * 100_000),
        ("run.json", '{"schema": 99, "command": "interp probe x"}'),
        ("findings.jsonl", "not json\n"),
        ("findings.jsonl", ""),
        ("tables/0.json", '[{"value": NaN}]'),
        ("tables/0.json", '[{"value": 1e999}]'),
    ],
)
def test_a_file_that_lost_its_form_or_a_line_is_one_line(tmp_path: Path, file: str, content: str) -> None:
    writer = RunWriter(tmp_path / "r", run_info())
    writer.add(finding((2, 3), (0, 1), "greater"))
    writer.finish("finished", 1.0)
    (tmp_path / "r" / file).write_text(content)
    with pytest.raises(UserError) as caught:
        read_run(tmp_path / "r")
    assert "\n" not in str(caught.value)


def test_text_that_is_no_utf8_costs_no_run(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "r", run_info("interp probe x --out r\udcff"))
    writer.add(
        Finding("token \ud800", Estimate(1, 0, 2, 5, "nats"), Control("k", Estimate(0, 0, 0, 0, "nats")), "less")
    )
    run = read_run(tmp_path / "r")
    assert run.info.command == "interp probe x --out r?"
    assert run.findings[0].claim == "token ?"


def test_the_verdict_is_computed_again_and_not_read_from_the_file() -> None:
    record = finding_to_json(finding((2, 3), (0, 1), "greater"))
    assert record["verdict"] == "yes"
    record["verdict"] = "no"
    assert finding_from_json(json.loads(json.dumps(record)), []).verdict == "yes"


@pytest.mark.parametrize(
    ("gap", "expects", "told"),
    [
        ((0.6, 0.9), "greater", "at half the margin: yes; at twice: no"),
        ((0.6, 1.4), "greater", "at half the margin: yes; at twice: unclear"),
        ((3.0, 4.0), "greater", "at half the margin: yes; at twice: yes"),
        ((0.1, 0.2), "greater", "at half the margin: no; at twice: no"),
        ((-0.9, -0.6), "less", "at half the margin: yes; at twice: no"),
        ((-0.4, 0.4), "equal", "at half the margin: unclear; at twice: yes"),
        ((0.6, 0.9), "equal", "at half the margin: no; at twice: yes"),
    ],
)
def test_the_verdict_at_half_and_at_twice_the_margin_is_told(
    gap: tuple[float, float], expects: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    by_rule = finding(gap, (0, 0), expects, 0.5)
    assert by_rule.other_margins == told == finding_to_json(by_rule)["other_margins"]
    print_finding(by_rule)
    assert f"0.5 nats; {told}" in capsys.readouterr().out, "also beside a yes"
    for margin, verdict in zip((0.25, 1.0), re.findall(": (yes|no|unclear)", told), strict=True):
        assert finding(gap, (0, 0), expects, margin).verdict == verdict, "what the rule itself says there"


def test_where_no_margin_decides_none_is_varied() -> None:
    assert finding((2, 3), (0, 1), "greater").other_margins == ""
    lone = Finding("c", Estimate(1, 1, 1, 1, "nats"), Control("k", Estimate(0, 0, 0, 0, "nats")), "greater", 0.5)
    assert lone.other_margins == "", "unclear whatever the margin"


def test_a_paired_gap_decides_where_both_are_of_the_same_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shared = 10 * rng.normal(size=16)
    pair = estimate_gap(shared + 1 + 0.1 * rng.normal(size=16), shared, unit="nats", over="document")
    paired = Finding("c", pair.estimate, Control("k", pair.control), "greater", paired=pair.gap)
    apart = Finding("c", pair.estimate, Control("k", pair.control), "greater")
    assert (paired.verdict, apart.verdict) == ("yes", "unclear"), "what the documents share hides the gap"
    assert paired.gap == pair.gap
    assert "paired gap (document by document)" in paired.rule
    assert "paired" not in apart.rule
    writer = RunWriter(tmp_path / "r", run_info())
    writer.add(paired)
    (back,) = read_run(tmp_path / "r").findings
    assert back == paired


def test_parts_of_one_whole_do_not_say_yes_too_often() -> None:
    """Two halves of one total, truly equal: added up as if independent, the gap is too narrow; paired it is not."""
    rng = np.random.default_rng(1)
    wrong = {"paired": 0, "apart": 0}
    for _ in range(1500):
        early = 5 + rng.normal(size=16)
        pair = estimate_gap(early, 10 - early, unit="nats", over="noun")
        paired = Finding("c", pair.estimate, Control("k", pair.control), "greater", paired=pair.gap)
        wrong["paired"] += paired.verdict == "yes"
        wrong["apart"] += Finding("c", pair.estimate, Control("k", pair.control), "greater").verdict == "yes"
    assert wrong["paired"] / 1500 <= 0.035
    assert wrong["apart"] / 1500 > 0.045, "the fault that pairing mends"


def test_a_paired_gap_of_other_numbers_is_refused() -> None:
    one, two = Estimate(2, 1, 3, 10, "nats"), Estimate(1, 0, 2, 10, "nats")
    assert Finding("c", one, Control("k", two), "greater", paired=Estimate(1, 0.5, 1.5, 10, "nats")).verdict == "yes"
    with pytest.raises(ValueError, match="the paired gap is 3, but the estimate less its control 1"):
        Finding("c", one, Control("k", two), "greater", paired=Estimate(3, 2, 4, 10, "nats"))
    with pytest.raises(ValueError, match="not comparable"):
        Finding("c", one, Control("k", two), "greater", paired=Estimate(1, 0, 2, 10, "bits"))
    known = Estimate(1, 1, 1, 0, "nats", "chance")
    with pytest.raises(ValueError, match="measured on the same units"):
        Finding("c", one, Control("k", known), "greater", paired=Estimate(1, 0, 2, 10, "nats"))


@pytest.mark.parametrize("expects", ["greater", "less", "equal"])
def test_values_that_are_all_alike_decide_nothing_unless_they_must_be_alike(expects: str) -> None:
    def verdict(exact: bool) -> str:
        e = estimate_mean([0.2] * 5, unit="nats", over="word", exact=exact)
        control = Control("none", Estimate(0, 0, 0, 0, "nats", "none"))
        finding = Finding("c", e, control, expects, 0.5)  # type: ignore[arg-type]
        assert exact or "5 words, all alike" in finding.rule
        return finding.verdict

    assert verdict(exact=False) == "unclear"
    assert verdict(exact=True) == ("yes" if expects == "equal" else "no")
    measured = Finding(
        "c", Estimate(3, 2, 4, 9, "nats"), Control("k", Estimate(0, 0, 0, 5, "nats", alike=True)), "greater"
    )
    assert measured.verdict == "unclear", "a control that shows no spread is no certainty either"


def test_at_the_edge_of_a_margin_rounding_decides_nothing() -> None:
    """.8 less .7, .4 less .3, .3 less .2 and .9 less .8 are all a tenth: on the margin, and not beyond it."""
    for high, low in ((0.8, 0.7), (0.4, 0.3), (0.3, 0.2), (0.9, 0.8)):
        pair = [Estimate(value, value, value, 9, "x") for value in (high, low)]
        verdicts = {
            expects: Finding("c", pair[0], Control("k", pair[1]), expects, 0.1).verdict  # type: ignore[arg-type]
            for expects in ("greater", "equal")
        }
        assert verdicts == {"greater": "no", "equal": "yes"}, (high, low)


def test_an_interval_of_another_level_decides_nothing() -> None:
    wide, narrow = Estimate(1, 0.5, 1.5, 9, "x"), Estimate(1, 0.9, 1.1, 9, "x", level=0.5)
    with pytest.raises(ValueError, match="95%"):
        Finding("c", narrow, Control("k", wide), "greater")


def test_a_known_number_beside_a_measured_control_has_the_controls_units() -> None:
    known_one = Estimate(0.5, 0.5, 0.5, 0, "x", "set beforehand")
    gap = Finding("c", known_one, Control("k", Estimate(0.3, 0.2, 0.4, 2, "x", "seed")), "greater").gap
    assert (gap.n, gap.over, gap.freedom) == (2, "seed", 1)
