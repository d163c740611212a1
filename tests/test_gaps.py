"""What could not be measured: NaN and infinite values in tables and estimates, and a probe that yields no finding."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_findings import fake_findings
from fake_run import run_info
from markupsafe import Markup
from refusals import the_line

from interp import Claim, Control, Estimate, Figure, Finding, Lab, UserError, probe
from interp.lab import runner
from interp.lab.findings import storable
from interp.lab.probe import Probe
from interp.lab.runs import RunWriter, read_run
from interp.stats.calibration import reliability
from interp.stats.crossed import estimate_crossed
from interp.stats.estimators import (
    double_centre,
    estimate_mean,
    null_of,
    pairing_null,
    proportion,
    sign_flip_null,
)
from interp.stats.power_law import fit_power_law
from interp.views import figures
from interp.views.report import build_report

NAN = math.nan
RISES = Claim("it rises the {nth} time", "greater", "nats")
TIMES = count(1)


def finding(table: list[Any], caveat: str = "", figure: Figure | None = None) -> Finding:
    one = Estimate(1.0, 0.5, 1.5, 9, "nats")
    zero = Estimate(0.0, -0.1, 0.1, 9, "nats")
    about = {"nth": next(TIMES)}
    return RISES.answer(one, Control("none", zero), about=about, table=table, caveat=caveat, figure=figure)


def through_disk(folder: Path, *findings: Finding) -> list[Finding]:
    writer = RunWriter(folder, run_info())
    for one in findings:
        writer.add(one)
    writer.finish("finished", 1.0)
    return read_run(folder).findings


def test_nan_in_a_table_is_stored_as_null_and_comes_back_as_a_gap(tmp_path: Path) -> None:
    rows = [{"layer": 0, "effect": NAN}, {"layer": 1, "effect": 0.25}, {"layer": 2, "effect": np.float32("nan")}]
    (back,) = through_disk(tmp_path / "run", finding(rows, "Few layers."))
    assert [row["effect"] for row in back.table] == [None, 0.25, None]
    assert back.caveat == "Few layers.", "a gap needs no further word"
    assert back.verdict == "yes"
    raw = (tmp_path / "run" / "tables" / "0.json").read_text()
    assert json.loads(raw, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))[0]["effect"] is None
    assert math.isnan(rows[0]["effect"]), "the probe's own table is left alone"


def test_an_infinite_cell_loses_no_finding_and_the_caveat_says_where_it_stood(tmp_path: Path) -> None:
    rows = [{"layer": i, "effect": value} for i, value in enumerate([1.0, math.inf, -math.inf, NAN])]
    many = [{"effect": math.inf} for _ in range(5)]
    one, other = through_disk(tmp_path / "run", finding(rows, "Few layers."), finding(many))
    assert [row["effect"] for row in one.table] == [1.0, None, None, None]
    assert one.caveat == (
        "Few layers. Infinite, and left out of the table (rows counted from 0): row 1, column 'effect' (inf); row 2, "
        "column 'effect' (-inf)."
    )
    assert other.caveat.endswith("and 2 more.")


def test_scalars_of_numpy_and_torch_are_numbers_in_tables_and_estimates(tmp_path: Path) -> None:
    row: dict[Any, Any] = {
        "a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": torch.tensor(2.5), "e": np.array([7]),
        "f": torch.tensor([math.inf]), 1: "text", "g": np.str_("word"), "h": None,
    }  # fmt: skip
    made = finding([row], figure=Figure("lines", "a", "b", chance=NAN))
    made = replace(made, estimate=Estimate(np.float32(1), np.float32(0.5), np.float32(2), np.int64(9), "nats"))  # type: ignore[arg-type]
    (back,) = through_disk(tmp_path / "run", made)
    assert back.table == [
        {"a": 0.5, "b": 3, "c": True, "d": 2.5, "e": 7, "f": None, "1": "text", "g": "word", "h": None}
    ]
    assert (back.estimate.low, back.estimate.n) == (0.5, 9)
    assert back.figure is not None
    assert back.figure.chance is None


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([{"a": 1}, {"a": [1, 2]}], "row 1, column 'a' is the list [1, 2]; expected text, a number, True, False"),
        ([{"a": {"b": 1}}], "row 0, column 'a' is the dict {'b': 1}"),
        ([{"a": np.zeros(3)}], "row 0, column 'a' is the ndarray"),
        ([{"a": torch.zeros(2, 2)}], "row 0, column 'a' is the Tensor"),
        ([{"a": 1j}], "row 0, column 'a' is the complex 1j"),
        ([{"a": Path("x")}], "column 'a'"),
        ([{"a": 1}, ("a", 2)], "row 1 is the tuple ('a', 2); expected a dict"),
        ([{"a": 1}, None], "row 1 is the NoneType None; expected a dict"),
    ],
)
def test_a_cell_that_no_file_can_hold_is_one_line_with_row_and_column(
    tmp_path: Path, table: list[Any], says: str
) -> None:
    writer = RunWriter(tmp_path / "run", run_info())
    with pytest.raises(UserError) as refused:
        writer.add(finding(table))
    assert says in the_line(refused)
    writer.add(finding([{"a": 1}]))
    assert len(read_run(tmp_path / "run").findings) == 1, "nothing half-written"


@pytest.mark.parametrize("index", [i for i, f in enumerate(fake_findings()) if f.figure])
def test_every_kind_of_figure_shows_a_gap_as_nothing(index: int) -> None:
    made = fake_findings()[index]
    assert made.figure is not None
    numeric = {k for k, v in made.table[0].items() if isinstance(v, int | float) and not isinstance(v, bool)}
    holed = []
    for column in sorted(numeric):
        for which in (range(1), range(len(made.table))):
            table = [{**row, column: NAN} if i in which else dict(row) for i, row in enumerate(made.table)]
            holed.append(replace(made, claim=f"{made.claim} {len(holed)}", table=table))
    for back in map(storable, holed):
        picture = figures.draw(back)
        if not isinstance(picture, Markup):
            json.dumps(picture.to_plotly_json(), allow_nan=False)


def test_a_report_shows_a_gap_as_nothing(tmp_path: Path) -> None:
    holed = [NAN if row["exact match (share of facts)"] else 1 for row in fake_findings()[0].table]
    table = [{**row, "exact match (share of facts)": v} for row, v in zip(fake_findings()[0].table, holed, strict=True)]
    through_disk(tmp_path / "run", replace(fake_findings()[0], table=table))
    build_report([tmp_path / "run"], tmp_path / "report.html")
    assert not [word for word in (">nan<", ">NaN<", ">None<") if word in (tmp_path / "report.html").read_text()]


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        (lambda: estimate_mean([0.1, NAN, 0.3, NAN], unit="nats", over="fact"), "2 NaN of 4 values, the first at 1"),
        (lambda: estimate_mean([NAN] * 3, unit="nats", over="fact", bounds=(0, 1)), "3 NaN of 3 values"),
        (lambda: estimate_mean([[1, 2], [3, NAN]], unit="nats", over="fact"), "1 NaN of 4 values, the first at (1, 1)"),
        (lambda: estimate_mean([1.0, None], unit="nats", over="fact"), "1 NaN of 2 values"),  # type: ignore
        (lambda: estimate_mean([math.inf, NAN, 1], unit="x", over="y"), "1 NaN and 1 infinite of 3 values"),
        (lambda: estimate_mean([-math.inf, 1], unit="x", over="y"), "1 infinite of 2 values, the first at 0"),
        (lambda: estimate_crossed([[[1, 2], [NAN, 3]]], unit="x", over="y"), "table 0: 1 NaN of 4 values"),
        (lambda: proportion([True, NAN], unit="x", over="y"), "1 NaN of 2"),  # type: ignore[list-item]
        (lambda: proportion([], unit="x", over="y"), "no values"),
        (lambda: sign_flip_null([1, NAN], unit="x"), "1 NaN of 2"),
        (lambda: pairing_null([[1, NAN], [2, 3]], unit="x"), "1 NaN of 4"),
        (lambda: double_centre([[1, -math.inf], [2, 3]]), "1 infinite of 4"),
        (lambda: null_of([1, NAN], unit="x"), "1 NaN of 2"),
        (lambda: fit_power_law([1, 2, 4, 8], [3, 2, NAN, 1]), "losses of a power law: 1 NaN of 4 values"),
        (lambda: reliability([0.1, NAN], [0, 1]), "1 NaN of 2"),
    ],
)
def test_a_statistic_of_nan_is_one_line_that_counts_them(measure: Callable[[], object], says: str) -> None:
    with pytest.raises(UserError) as refused:
        measure()
    assert says in the_line(refused)
    assert isinstance(refused.value, ValueError), "numerical code catches it as such"


def test_finite_values_are_measured_as_before() -> None:
    assert estimate_mean([0.0, 1.0, 2.0], unit="nats", over="fact").mean == 1.0
    assert proportion([True, False], unit="x", over="y").mean == 0.5


# --- what a probe yields ----------------------------------------------------------------------------------------------


def lab_of_nothing() -> Lab:
    return Lab(SimpleNamespace(provenance=fake_provenance()))  # type: ignore[arg-type]


def fake_provenance() -> Any:
    from interp.model.provenance import ModelProvenance

    texts = dict.fromkeys(("name", "location", "weights", "tokenizer", "architecture", "dtype", "device"), "x")
    return ModelProvenance(**texts, source="folder", parameters=1, numerics="x", bos={}, libraries={})  # type: ignore[arg-type]


def yielding(*values: object) -> Probe:
    @probe(claims=[RISES])
    def odd(lab: Lab, *, limit: float = math.inf) -> Iterator[Finding]:
        """Yield anything."""
        yield from values  # type: ignore[misc]

    return odd


@pytest.mark.parametrize("odd", [3, None, {"claim": "x"}, ("claim", 1.0), "yes", Estimate(1, 1, 1, 1, "x"), Finding])
def test_a_probe_that_yields_no_finding_is_one_line_and_what_was_found_is_kept(tmp_path: Path, odd: object) -> None:
    good = [finding([{"a": 1}]), finding([{"a": 1}])]
    with pytest.raises(UserError) as refused:
        runner.run_probe(yielding(*good, odd), lab_of_nothing(), {}, tmp_path / "run", command="x")
    line = the_line(refused)
    assert f"probe odd yielded the {type(odd).__name__} {odd!r}"[:50] in line
    assert "expected a Finding" in line
    assert f"kept 2 findings in {tmp_path / 'run'}" in line
    run = read_run(tmp_path / "run")
    assert (len(run.findings), run.info.status) == (2, "failed")


@pytest.mark.parametrize("returned", [None, 3, finding([{"a": 1}])])
def test_a_probe_that_returns_instead_of_yielding_is_told_to_yield(tmp_path: Path, returned: object) -> None:
    @probe(claims=[RISES])
    def odd(lab: Lab) -> Iterator[Finding]:
        """Return anything."""
        return returned  # type: ignore[return-value]

    with pytest.raises(UserError, match=r"probe odd returned the .*write `yield CLAIM\.answer\(…\)` in it"):
        runner.run_probe(odd, lab_of_nothing(), {}, tmp_path / "run", command="x")
    assert not (tmp_path / "run").exists()


def test_findings_before_a_bad_table_are_kept_and_an_infinite_setting_is_written_down(tmp_path: Path) -> None:
    good, bad = finding([{"a": NAN}]), finding([{"a": [1]}])
    with pytest.raises(UserError, match=r"row 0, column 'a' is the list \[1\].*kept 1 finding in"):
        runner.run_probe(yielding(good, bad), lab_of_nothing(), {}, tmp_path / "run", command="x")
    run = read_run(tmp_path / "run")
    assert run.findings[0].table == [{"a": None}]
    assert run.info.arguments == {"limit": "inf"}
    runner.run_probe(yielding(good, finding([{"a": NAN}])), lab_of_nothing(), {}, tmp_path / "whole", command="x")
    assert read_run(tmp_path / "whole").info.status == "finished"
