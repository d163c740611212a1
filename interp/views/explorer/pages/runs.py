"""The saved runs of probes: what was claimed, what was measured, beside which control, and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from interp.errors import UserError, nearest
from interp.lab.findings import Finding
from interp.lab.runs import Run, read_run
from interp.paths import modified_at
from interp.views import wording
from interp.views.explorer.context import Context
from interp.views.explorer.page import Page, Query, address
from interp.views.explorer.parts import graph, note, problem, section
from interp.views.figures import draw

SIGNS = {"yes": "✓", "no": "✗", "unclear": "?"}


def layout(context: Context, parts: Sequence[str], query: Query) -> Component:
    """The list of runs, or the one that the path names."""
    folders = find_runs(context.runs)
    if not parts:
        return _list(context, folders)
    by_name = {folder.name: folder for folder in folders}
    if parts[0] not in by_name:  # only names that were listed: a path from the address is never opened
        near = ", ".join(nearest(parts[0], by_name)) or "none"
        raise UserError(f"there is no run {parts[0]!r} in {context.runs}; nearest: {near}")
    return _run(read_run(by_name[parts[0]]))


def find_runs(folder: Path | None) -> list[Path]:
    """The folders of saved runs, newest first."""
    if folder is None or not folder.is_dir():
        return []
    found = [path.parent for path in folder.glob("*/run.json")]
    return sorted(found, key=lambda path: (modified_at(path / "run.json"), path.name), reverse=True)


def _list(context: Context, folders: Sequence[Path]) -> Component:
    head = html.H1("Runs")
    if not folders:
        where = f" in {context.runs}" if context.runs else ""
        return html.Div(
            [
                head,
                note(
                    f"There are no runs{where}. Make one with: interp probe dictionary, or name a folder with --runs."
                ),
            ]
        )
    return html.Div([head, html.Ul([html.Li(_entry(folder)) for folder in folders], className="runs")])


def _entry(folder: Path) -> Component:
    try:
        run = read_run(folder)
    except UserError as error:
        return html.Div([html.Span(folder.name, className="number"), problem(str(error))])
    verdicts = [_verdict(finding.verdict) for finding in run.findings]
    return html.Div(
        [
            dcc.Link(wording.headline(run.info.method), href=address("runs", folder.name)),
            html.Span(f" {run.info.probe}, {wording.when(run.info.started)}", className="unit"),
            html.Div(verdicts or "no finding yet", className="verdicts"),
        ]
    )


def _run(run: Run) -> Component:
    told = (
        f"{run.info.probe} · {wording.when(run.info.started)} · {wording.lasted(run.info.seconds)} · {run.info.status}"
    )
    shown = [_finding(finding, number) for number, finding in enumerate(run.findings)]
    return html.Div(
        [
            html.H1(wording.headline(run.info.method)),
            note(told),
            html.P(wording.question(run.info.method)),
            *(shown or [note("This run has found nothing yet.")]),
            dcc.Link("all runs", href=address("runs")),
        ]
    )


def _finding(finding: Finding, number: int) -> Component:
    estimate, control = finding.estimate, finding.control.estimate
    ours, theirs = (" ".join(filter(None, wording.interval(one))) for one in (estimate, control))
    picture: Component | None = None
    if finding.figure is not None:
        try:
            drawn = draw(finding)
            picture = graph(drawn, f"finding-{number}") if isinstance(drawn, go.Figure) else _strips(finding)
        except (UserError, OverflowError, ValueError) as error:
            picture = problem(f"its figure cannot be drawn: {error}")
    return section(
        "",
        html.H2([_verdict(finding.verdict), f" {finding.claim}"]),
        html.P(
            [
                html.B(ours),
                f" {estimate.unit}, n = {wording.counted(estimate)}; control {theirs} ({finding.control.name})",
            ]
        ),
        html.P(". ".join(filter(None, [finding.rule, finding.other_margins])), className="hint"),
        picture,
        html.P(finding.caveat, className="hint") if finding.caveat else None,
    )


def _strips(finding: Finding) -> Component:
    """Shaded text is drawn as HTML in reports; here its rows are listed."""
    return note(
        f"{len(finding.table):,} rows of tokens: see the report of this run (interp report), which shades them."
    )


def _verdict(word: str) -> Component:
    return html.Span(f"{SIGNS.get(word, '')} {word}", className=f"verdict {word}")


PAGE = Page("runs", "runs", layout)
