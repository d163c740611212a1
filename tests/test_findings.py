"""Verdicts are computed by the declared rule, and findings survive the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.analysis.estimate import Estimate
from interp.errors import UserError
from interp.lab.findings import Control, Figure, Finding, finding_from_json, finding_to_json
from interp.lab.runs import RunInfo, RunWriter, read_run

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
        ((0.5, 3), (0, 1), "greater", 0, "unclear"),
        ((-1, 0.5), (0, 1), "greater", 0, "no"),
        ((2, 3), (4, 5), "less", 0, "yes"),
        ((2, 4.5), (4, 5), "less", 0, "unclear"),
        ((5, 6), (4, 5), "less", 0, "no"),
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
    with pytest.raises(TypeError):
        finding_from_json(record, [])


def test_a_line_cut_short_by_a_kill_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "r", run_info())
    writer.add(finding((2, 3), (0, 1), "greater"))
    writer.add(finding((2, 3), (0, 1), "greater"))
    path = tmp_path / "r" / "findings.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert len(read_run(tmp_path / "r").findings) == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", '{"schema": 99, "command": "interp probe x"}'),
        ("run.json", '{"schema": 1}'),
        ("findings.jsonl", "{}\n"),
        ("findings.jsonl", "not json\n"),
        ("tables/0.json", "{"),
    ],
)
def test_a_damaged_run_is_one_line(tmp_path: Path, file: str, content: str) -> None:
    writer = RunWriter(tmp_path / "r", run_info())
    writer.add(finding((2, 3), (0, 1), "greater"))
    (tmp_path / "r" / file).write_text(content)
    with pytest.raises(UserError) as caught:
        read_run(tmp_path / "r")
    assert "\n" not in str(caught.value)


def test_the_verdict_is_computed_again_and_not_read_from_the_file() -> None:
    record = finding_to_json(finding((2, 3), (0, 1), "greater"))
    assert record["verdict"] == "yes"
    record["verdict"] = "no"
    assert finding_from_json(json.loads(json.dumps(record)), []).verdict == "yes"
