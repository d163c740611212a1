"""The report, from saved runs: what it shows, what it refuses, and that no text can break out of it."""

from __future__ import annotations

import json
import re
import string
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from fake_findings import fake_findings, finding_with
from fake_run import METHOD, run_info, write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.errors import UserError
from interp.lab.findings import Control, Estimate, Figure, Finding, Row
from interp.lab.runs import Run, Status, read_run
from interp.views import figures, one_file, report, wording
from interp.views.report import build_report, render


class Page(HTMLParser):
    """The elements of a page, what they refer to, their text, and the contents of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.structure: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self.data: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.structure.append((tag, tuple(name for name, _ in attrs)))
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "poster")]
        self._inside = "json" if ("type", "application/json") in attrs else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        kept = {"json": self.data, "style": self.styles, "script": []}.get(self._inside, self.texts)
        kept.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.texts))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", fake_findings())


def test_the_report_opens_with_the_question_and_the_claims_that_answer_it(tmp_path: Path) -> None:
    method = METHOD + "\nQuestion. Does it read\nboth ways?\n\nMore.\n"
    findings = fake_findings()
    findings[2] = replace(findings[2], answers=True)
    run = write_run(tmp_path / "run", findings, run_info(method=method))
    page = Page(build_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    start, stop = page.text.index("In short"), page.text.index("All that was found")
    assert "Does it read both ways?" in page.text[start:stop]
    assert [f.claim for f in findings if f.claim in page.text[start:stop]] == [findings[2].claim]
    plain = write_run(tmp_path / "plain", fake_findings())
    assert "In short" not in Page(build_report([plain], tmp_path / "p.html").read_text(encoding="utf-8")).text


def test_a_quick_run_is_shown_as_one(tmp_path: Path) -> None:
    for quick in (True, False):
        provenance = {"settings": {"quick": quick}}
        run = write_run(tmp_path / f"run{quick}", fake_findings()[:1], run_info(provenance=provenance))
        page = Page(build_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
        assert ("quick run (fewer repeats)" in page.text) == quick


def test_each_figure_is_drawn_once(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a report's time goes into; the seconds themselves are another number on each machine."""
    drawn: list[Finding] = []
    monkeypatch.setattr(report, "draw", lambda finding: (drawn.append(finding), figures.draw(finding))[1])
    build_report([run_folder], tmp_path / "report.html")
    assert [f.claim for f in drawn] == [f.claim for f in read_run(run_folder).findings if f.figure]


def test_the_report_says_everything(run_folder: Path, tmp_path: Path) -> None:
    out = build_report([run_folder], tmp_path / "deep" / "report.html")
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    for finding in fake_findings():
        assert page.texts.count(finding.claim) == 2, "once in the summary, once as a heading"
        assert finding.control.name in page.text
        assert finding.rule in page.text
        assert finding.other_margins in page.text
        assert finding.caveat in page.text
        assert finding.measure in page.text
        assert finding.part in page.text
        mean, ends = wording.interval(finding.estimate)
        assert f"{mean} {ends}" in page.text
    shown = Counter(text.strip() for text in page.texts)
    for verdict, count in Counter(finding.verdict for finding in fake_findings()).items():
        assert shown[verdict] == 1 + 2 * count, "once in the tally, then in the summary and at the finding"
    assert METHOD.splitlines()[0] in page.text
    assert "smollm2-135m" in page.text
    assert run_info().command in page.text
    assert "The first 200 of 576 rows" in page.text
    drawn = [f for f in fake_findings() if isinstance(f.figure and figures.draw(f), go.Figure)]
    assert len(page.data) == len(drawn)
    assert html.count("plotly.js v") == 1


def test_the_report_asks_for_nothing(run_folder: Path, tmp_path: Path) -> None:
    page = Page(build_report([run_folder], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.links
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\(", "".join(page.styles))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("interrupted", "This run was interrupted"),
        ("failed", "OSError: the disk is full"),
        ("running", "had not finished"),
    ],
)
def test_an_unfinished_run_says_so(tmp_path: Path, status: Status, words: str) -> None:
    run = write_run(tmp_path / "run", fake_findings()[:1], status=status)
    page = Page(build_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"Status: {status}." in page.text
    assert words in page.text


@pytest.mark.parametrize("name", ["run.json", "findings.jsonl", "tables/0.json", "x" * 300, "notes.txt"])
def test_a_report_never_replaces_what_is_no_report(run_folder: Path, name: str) -> None:
    out = run_folder / name
    if name == "notes.txt":
        out.write_text("mine")
    before = {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()}
    with pytest.raises(UserError) as refused:
        build_report([run_folder], out)
    assert "\n" not in str(refused.value)
    assert {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("run.json", {"provenance": {"settings": "x", "model": 5, "seed": 999}}),
        ("run.json", {"started": "2026-01-01T02:00:00+05:00"}),
        pytest.param("tables/0.json", 10**400, id="a number beyond floats"),
        ("tables/0.json", 1e308),
    ],
)
def test_a_strange_run_still_has_a_report(run_folder: Path, file: str, change: Any) -> None:
    path = run_folder / file
    content = json.loads(path.read_text())
    if isinstance(content, list):
        content = [{k: v if isinstance(v, str) else change for k, v in row.items()} for row in content]
    path.write_text(json.dumps(content | change if isinstance(content, dict) else content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        html = render([read_run(run_folder)])
    assert "</html>" in html
    if "started" in str(change):
        assert "31 December 2025, 21:00 UTC" in html


def test_a_run_without_findings_and_several_runs(tmp_path: Path, run_folder: Path) -> None:
    empty = write_run(tmp_path / "empty", [], run_info(method="Is nothing found?", provenance={}))
    page = Page(build_report([empty], tmp_path / "one.html").read_text(encoding="utf-8"))
    assert "This run has no findings." in page.text
    both = Page(build_report([run_folder, empty], tmp_path / "two.html").read_text(encoding="utf-8"))
    assert {"#run1", "#run2"} <= set(both.links)
    assert "Report on 2 runs" in both.text


def test_a_figure_that_cannot_be_drawn_costs_only_itself(tmp_path: Path) -> None:
    bad = finding_with([{"layer": 1}], Figure("lines", x="layer", y="effect"), claim="broken one")
    run = write_run(tmp_path / "run", [bad, *fake_findings()[:1]])
    with pytest.warns(UserWarning, match="finding 0: figure 'lines': no column 'effect'"):
        page = Page(build_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "The figure could not be drawn. figure 'lines': no column 'effect' for y" in page.text
    assert len(page.data) == 1


def test_a_failing_write_leaves_the_old_report(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "report.html"
    out.write_text("old", encoding="utf-8")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(one_file.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        build_report([run_folder], out)
    assert out.read_text(encoding="utf-8") == "old"
    assert list(folder.iterdir()) == [out]


def test_places_that_cannot_hold_a_report_are_refused(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; expected a file"):
        build_report([run_folder], tmp_path)
    with pytest.raises(UserError, match="got no runs"):
        build_report([], tmp_path / "report.html")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        build_report([run_folder], tmp_path / "file" / "report.html")


def test_a_report_needs_no_model_library(run_folder: Path, tmp_path: Path) -> None:
    code = """
import sys
for name in ("torch", "transformers", "transformer_lens", "sae_lens", "datasets", "scipy", "dash"):
    sys.modules[name] = None
from pathlib import Path
from typing import Any
from interp.views.report import build_report
build_report([Path(sys.argv[1])], Path(sys.argv[2]))
"""
    out = tmp_path / "report.html"
    done = subprocess.run([sys.executable, "-c", code, run_folder, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 1_000_000


# No text can break out of its place

_ATTACKS = (
    "</script><script>alert(1)</script>",
    "<!--",
    "<img src=x onerror=alert(1)>",
    '"><b x="',
    "{{ 7*7 }}",
    "]]>",
)
_TEXT = st.builds(
    lambda before, attack, after: before + attack + after,
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20),
    st.sampled_from((*_ATTACKS, "")),
    st.text(string.printable.strip(), min_size=1, max_size=20),
)


def _planted(text: str) -> str:
    """A page with `text` wherever a user's text can stand."""
    rows: list[Row] = [{text + "k": text, "value": 1.0}]
    one = Estimate(1.0, 0.5, 1.5, n=3, unit=text, over=text)
    spec = Figure("interval_dots", x="value", y=text + "k", group=text + "k", facet=text + "k", caption=text)
    strips = Figure("token_strip", x=text + "k", y="value", z="value", facet=text + "k", caption=text)
    findings = [
        Finding(
            text, one, Control(text, one), "greater", part=text, caveat=text, measure=text, table=rows, figure=figure
        )
        for figure in (spec, strips)
    ]
    info = run_info(
        command=text, probe=text, paper=text, started=text, arguments={"a": text}, error=text, status="failed"
    )
    return render([Run(Path("run"), info, findings)])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=_TEXT)
def test_no_text_becomes_markup(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_scripts", lambda: ([], []))  # 5 MB of it would only slow the parser
    monkeypatch.setattr(report, "glossary", lambda texts: [])  # explains words that the text happens to hold
    page, plain = Page(_planted(text)), Page(_planted("x"))
    assert page.structure == plain.structure
    (data,) = page.data
    (trace,) = json.loads(data)["data"]
    assert trace["hovertext"]
    assert "<" not in data


def test_the_first_page_counts_the_claims_and_judges_the_answers_together(tmp_path: Path) -> None:
    """A yes that is just one among several does not stand; the words say how many would say yes by chance."""
    zero = Control("none", Estimate(0, 0, 0, 0, "nats", "none"))
    weak = Finding("weak", Estimate(1, 0.05, 1.95, 12, "nats"), zero, "greater", answers=True)
    nothing = Finding("nothing", Estimate(0, -1, 1, 12, "nats"), zero, "greater", answers=True)
    strong = replace(weak, claim="strong", estimate=Estimate(5, 4, 6, 12, "nats"))
    write_run(tmp_path / "r", [weak, nothing, strong, replace(nothing, answers=False)])
    text = Page(build_report([tmp_path / "r"], tmp_path / "one.html").read_text(encoding="utf-8")).text
    assert "2 of 4 claims say yes; if none of them held, about 0.1 would" in text
    assert text.index("2 of 4 claims say yes") < text.index("All that was found")
    assert len(re.findall("does not stand", text)) == 1
    assert len(re.findall(r"among all answers = 0\.00\d+: stands", text)) == 1
    both = Page(build_report([tmp_path / "r"] * 2, tmp_path / "two.html").read_text(encoding="utf-8")).text
    assert "4 of 8 claims say yes; if none of them held, about 0.2 would" in both
    alone = write_run(tmp_path / "a", [weak])
    assert "does not stand" not in Page(build_report([alone], tmp_path / "a.html").read_text(encoding="utf-8")).text


def test_a_paired_gap_is_called_paired() -> None:
    one, two = Estimate(2, 1, 3, 10, "nats", "document"), Estimate(1, 0, 2, 10, "nats", "document")
    paired = Finding("c", one, Control("k", two), "greater", paired=Estimate(1, 0.5, 1.5, 10, "nats", "document"))
    html = render([Run(Path("r"), run_info(), [paired, replace(paired, paired=None)])])
    assert Page(html).text.count("paired: measured less control, document by document, n = 10 documents") == 1
