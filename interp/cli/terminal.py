"""What every command shares: parsing into a dataclass, tables, findings and progress on the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING, Any

import tyro

from interp.errors import UserError, nearest

if TYPE_CHECKING:
    from interp.lab.findings import Finding

Positional = tyro.conf.Positional
MARKS = {"yes": "[green]yes[/]", "no": "[red]no[/]", "unclear": "[yellow]unclear[/]"}


def parse(options: type[Any], arguments: list[str], command: str) -> Any:
    """Parse `arguments` into a dataclass; what tyro says over ten lines becomes one UserError."""
    said = StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(options, args=arguments, prog=f"interp {command}", description=options.__doc__)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        blocks = [re.sub(r"[│╭╮╰╯─]|\s+", " ", block).strip() for block in re.split(r"-{5,}|─{5,}", said.getvalue())]
        text = re.sub(r"\s+", " ", blocks[1] if len(blocks) > 1 else " ".join(blocks)).strip().rstrip(".")
        fields = options.__dataclass_fields__.values()
        flags = [f"--{f.name.replace('_', '-')}" for f in fields if "Positional" not in str(f.type)]
        wrong = [a.partition("=")[0] for a in arguments if a.startswith("--") and a.partition("=")[0] not in flags]
        near = f"; nearest flag: {', '.join(nearest(wrong[0], flags))}" if wrong and flags else ""
        raise UserError(f"{text}{near}; `interp {command} --help` lists what it takes") from None


def print_finding(finding: Finding) -> None:
    """One finding on the terminal: claim, verdict, number, control."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{escape(finding.claim)}[/]  {MARKS[finding.verdict]}")
    console.print(escape(f"  measured  {finding.estimate}"))
    console.print(escape(f"  control   {finding.control.estimate}: {finding.control.name}"))


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A plain table: aligned columns, no boxes, readable through a pipe."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())


@contextmanager
def shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A live bar on a terminal; elsewhere one line when a stage begins. On stderr, so that output can be piped."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def say(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[what] = bars.add_task(what, total=total)
                if not console.is_terminal:
                    print(f"… {what}", file=sys.stderr, flush=True)
            bars.update(tasks[what], completed=done, total=total, visible=done < total)

        yield say
