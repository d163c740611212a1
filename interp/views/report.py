"""One HTML file for one or several runs. It needs nothing but a browser: plotly.js and all data are inside it.

User text (labels, claims, docstrings) is escaped by jinja, and figure data so that `</script>` cannot end its block.
A content security policy in the page forbids every request, and every script but our two, whose hashes it names.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp.errors import UserError
from interp.lab.findings import Finding, Row
from interp.lab.runs import Run, RunInfo, read_run
from interp.lab.summary import ClaimsSummary, summarise_claims
from interp.paths import expand
from interp.views import strip, wording
from interp.views.figures import draw
from interp.views.glossary import glossary
from interp.views.one_file import check_out, for_script, hash_of, write_html
from interp.views.tables import columns, written

SHOWN_ROWS = 200
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class FindingView:
    """A finding as the template reads it: `figure` is plotly JSON, `fragment` HTML, `problem` why there is neither."""

    id: str
    finding: Finding
    figure: Markup | None
    height: int
    fragment: Markup | None
    problem: str
    columns: list[str]
    rows: list[Row]
    source: str  # the file that holds all rows


@dataclass(frozen=True)
class RunView:
    """A run as the template reads it; `parts` keep the order in which the probe reached them."""

    id: str
    run: Run
    title: str
    model: str
    question: str
    answers: list[FindingView]  # the findings that answer the probe's question
    parts: list[tuple[str, list[FindingView]]]
    verdicts: list[tuple[str, int]]
    claims: ClaimsSummary  # its answers in the order of `answers`
    quick: bool
    facts: dict[str, Any]  # everything that decided the numbers, nested as recorded


def build_report(
    runs: Sequence[str | Path], out: str | Path, left_out: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Read the run folders and write one HTML file to `out`, whole or not at all. Returns `out`.

    `left_out`: probes that could not be asked, and why; the first page says so.
    """
    if not runs:
        raise UserError(
            "a report got no runs; expected at least one run folder; name a folder that `interp probe` wrote"
        )
    out = expand(out)
    check_out(out)
    html = render([read_run(folder) for folder in runs], left_out)
    return write_html(out, html)


def render(runs: list[Run], left_out: Mapping[str, str] = MappingProxyType({})) -> str:
    """The report's HTML."""
    views = [_run_view(run, f"run{i + 1}") for i, run in enumerate(runs)]
    scripts, hashes = _scripts()
    return _template().render(
        runs=views,
        claims=summarise_claims([item.finding for view in views for _, items in view.parts for item in items]),
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        scripts=scripts,
        hashes=hashes,
        shown_rows=SHOWN_ROWS,
        left_out=dict(left_out),
        words=glossary([text for run in runs for finding in run.findings for text in _texts(finding)]),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {f.__name__: f for f in (written, wording.interval, wording.when, wording.counted)}
    environment.filters |= {
        f.__name__: f for f in (wording.lasted, wording.p_value, wording.prose, strip.strip, strip.small_strip)
    }
    return environment.get_template("report.html.j2")


@cache
def _scripts() -> tuple[list[Markup], list[str]]:
    """Plotly and our own, with their hashes: five megabytes that are read once, for however many reports."""
    scripts = [get_plotlyjs(), (_HERE / "report.js").read_text(encoding="utf-8")]
    return [Markup(script) for script in scripts], [hash_of(script) for script in scripts]


def _run_view(run: Run, name: str) -> RunView:
    parts: dict[str, list[FindingView]] = {}
    for i, finding in enumerate(run.findings):
        parts.setdefault(finding.part, []).append(_finding_view(run, i, f"{name}-finding{i + 1}"))
    counts = Counter(finding.verdict for finding in run.findings)
    settings = run.info.provenance.get("settings")
    return RunView(
        id=name,
        run=run,
        title=wording.headline(run.info.method),
        model=_model_name(run.info.provenance),
        question=wording.question(run.info.method),
        answers=[view for views in parts.values() for view in views if view.finding.answers],
        parts=list(parts.items()),
        verdicts=[(verdict, counts[verdict]) for verdict in ("yes", "no", "unclear") if counts[verdict]],
        claims=summarise_claims([view.finding for views in parts.values() for view in views]),
        quick=isinstance(settings, dict) and settings.get("quick") is True,
        facts=_facts(run.info),
    )


def _texts(finding: Finding) -> list[str]:
    """What a reader reads of a finding, for the glossary."""
    said = [finding.claim, finding.part, finding.measure, finding.caveat, finding.control.name, finding.estimate.unit]
    caption = finding.figure.caption if finding.figure else ""
    return [*said, finding.estimate.over, caption, *columns(finding.table)]


def _facts(info: RunInfo) -> dict[str, Any]:
    return {
        "settings": info.arguments,
        **info.provenance,
        "probe": info.probe,
        "paper": info.paper,
        "started": wording.when(info.started),
        "took": wording.lasted(info.seconds),
        "seed": info.seed,
    }


def _finding_view(run: Run, index: int, name: str) -> FindingView:
    finding = run.findings[index]
    picture, problem = None, ""
    if finding.figure:
        try:
            picture = draw(finding)
        except (UserError, OverflowError, ValueError) as error:  # one bad column must not cost the other findings
            problem = str(error)
            warnings.warn(f"{run.folder}: finding {index}: {problem}", stacklevel=2)
    return FindingView(
        id=name,
        finding=finding,
        figure=for_script(picture.to_plotly_json()) if isinstance(picture, go.Figure) else None,
        height=int(picture.layout.height) if isinstance(picture, go.Figure) else 0,
        fragment=picture if isinstance(picture, Markup) else None,
        problem=problem,
        columns=columns(finding.table),
        rows=finding.table[:SHOWN_ROWS],
        source=f"tables/{index}.json",
    )


def _model_name(provenance: dict[str, Any]) -> str:
    model = provenance.get("model")
    if isinstance(model, dict):
        described = f" ({model['described']})" if model.get("described") else ""
        model = next((f"{model[key]}{described}" for key in ("name", "model", "id", "path") if model.get(key)), None)
    return str(model) if model else "not recorded"
