"""What every command shares: parsing into a dataclass, tables, findings and progress on the terminal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import tyro

from interp.errors import UserError, nearest
from interp.paths import expand
from interp.progress import Progress

if TYPE_CHECKING:
    from interp.lab.findings import Finding

Positional = tyro.conf.Positional
WIDE = 10_000
REWORDED = (  # what tyro says, and what a newcomer understands
    (
        r"Error parsing (\S+): no type matching (?:\{None\}\|)?INT\b.*?instantiated from \[(.*?)\].*",
        r"\1 \2; expected a whole number",
    ),
    (
        r"Error parsing (\S+): no type matching (?:\{None\}\|)?FLOAT\b.*?instantiated from \[(.*?)\].*",
        r"\1 \2; expected a number",
    ),
    (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", r"\1 \2; expected a whole number"),
    (r"Error parsing (\S+): could not convert string to float: (.*)", r"\1 \2; expected a number"),
    (r"Missing value for argument '(.*?)'.*", r"\1 came without a value; write one behind it"),
    (r"Unrecognized options: ([^,]*).*", r"unknown option \1"),
    (r"invalid choice (.*) for argument '(.*?)'. Expected one of \((.*)\)", r"\1 came for \2; expected one of \3"),
    (r"Missing from interp [a-z -]*: ", "missing: "),
    (r"\.? \(required\)(?= \S)", ","),
    (r"\.? \(required\)", ""),
)
PATHS = tyro.constructors.ConstructorRegistry()
MARKS = {"yes": "[green]yes[/]", "no": "[red]no[/]", "unclear": "[yellow]unclear[/]"}


@PATHS.primitive_rule
def _expanded(kind: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    """Every flag that is a `Path` understands `~`: the shell leaves it in `--out=~/x`."""
    if kind.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda texts: expand(texts[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def parse(options: type[Any], arguments: list[str], command: str) -> Any:
    """Parse `arguments` into a dataclass; what tyro says over ten lines becomes one UserError."""
    said, told = StringIO(), StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(told), _columns(WIDE):
            parsed = tyro.cli(
                options, args=arguments, prog=f"interp {command}", description=options.__doc__, registry=PATHS
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            print(plain_help(told.getvalue(), shutil.get_terminal_size().columns))
            raise
        blocks = [re.sub(r"[│╭╮╰╯─]|\s+", " ", block).strip() for block in re.split(r"-{5,}|─{5,}", said.getvalue())]
        text = re.sub(r"\s+", " ", blocks[1] if len(blocks) > 1 else " ".join(blocks)).strip().rstrip(".")
        fields = options.__dataclass_fields__.values()
        flags = [f"--{f.name.replace('_', '-')}" for f in fields if "Positional" not in str(f.type)]
        wrong = [a.partition("=")[0] for a in arguments if a.startswith("--") and a.partition("=")[0] not in flags]
        near = f"; nearest flag: {', '.join(nearest(wrong[0], flags))}" if wrong and flags else ""
        raise UserError(f"{plain_error(text)}{near}; `interp {command} --help` lists what it takes") from None
    _check_lists(parsed, arguments, command)
    return parsed


def _check_lists(parsed: Any, arguments: list[str], command: str) -> None:
    """Tyro takes a list's flag with nothing behind it for no choice at all, which starts what nobody asked for."""
    for name in parsed.__dataclass_fields__:
        flag = f"--{name.replace('_', '-')}"
        if getattr(parsed, name) == () and {flag, f"--{name}"} & set(arguments):
            lists = f"`interp {command} --help` lists what it takes"
            raise UserError(f"{flag} came without a value; write one or more behind it; {lists}")


def plain_error(text: str) -> str:
    """Tyro's message in this program's words; one that is not known stays as it is."""
    for pattern, replacement in REWORDED:
        text = re.sub(pattern, replacement, text)
    return text


@contextmanager
def _columns(n: int) -> Iterator[None]:
    """Make tyro believe in a terminal of `n` columns, so that it breaks no line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(n)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def plain_help(text: str, width: int) -> str:
    """Tyro's help, one option a line, in a newcomer's notation: no `{None}|`, no `(default: None)`, no rules."""
    rows = [line.rstrip() for line in text.splitlines() if not re.fullmatch(r"[\s─│╭╮╰╯-]*", line)]
    rows = [re.sub(r"\{None\}\||\s*\(default: (None|'')?\)", "", row).strip("│ ") for row in rows]
    rows = [re.sub(r"\[(\w+) \[\1 \.\.\.\]\]", r"\1 …", row) for row in rows]
    parted: list[list[str]] = []
    for row in filter(None, rows):
        cells = re.split(r"\s{2,}", row, maxsplit=1)
        if len(cells) == 1 and parted and len(parted[-1]) == 1 and parted[-1][0].startswith("-") and row[0] != "-":
            parted[-1].append(row)  # a flag too long for its column: its text came on the next line
        else:
            parted.append(cells)
    column = max((len(row[0]) for row in parted if len(row) == 2), default=0) + 4
    out = []
    for row in parted:
        if len(row) == 2:
            lines = textwrap.wrap(row[1], max(30, width - column))
            out += [f"  {row[0]:<{column - 2}}{lines[0]}", *(" " * column + line for line in lines[1:])]
        elif row[0].startswith("-"):
            out.append(f"  {row[0]}")  # an option of which nobody said what it does
        else:
            lines = textwrap.wrap(row[0], width, subsequent_indent="  ", break_on_hyphens=False)
            out += ["", *lines] if out else lines
    return "\n".join(out)


def print_finding(finding: Finding) -> None:
    """One finding on the terminal: claim, verdict, number, control.

    Where nobody reads any more (`| head -1`), the run goes on without printing: its folder is what it is made for.
    """
    from rich.console import Console
    from rich.markup import escape

    lines = [
        f"\n[bold]{escape(finding.claim)}[/]  {MARKS[finding.verdict]}",
        escape(f"  measured  {finding.estimate}"),
        escape(f"  control   {finding.control.estimate}: {finding.control.name}"),
    ]
    if finding.verdict != "yes":
        lines += [escape(f"  gap       {finding.gap}"), escape(f"  rule      {finding.rule}")]
    if finding.other_margins:
        lines.append(escape(f"  margin    {finding.margin:g} {finding.estimate.unit}; {finding.other_margins}"))
    try:
        # Rendered apart and written in one go: rich would end the whole process when the pipe is closed.
        console = Console(highlight=False, soft_wrap=True)
        with console.capture() as text:
            console.print("\n".join(lines))
        sys.stdout.write(text.get())
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("interp: nobody reads stdout any more; the run goes on", file=sys.stderr)


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A plain table: aligned columns, no boxes, readable through a pipe."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A live bar on a terminal; elsewhere one line when a stage begins. On stderr, so that output can be piped."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
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


@contextmanager
def stoppable(doing: str) -> Iterator[Callable[[], int]]:
    """Ctrl-C or SIGTERM asks for an end after what is in hand, `doing`; a second one is at once. Yields which, or 0."""
    asked = 0

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = signum
        print(f"interp: {doing}; once more to stop at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
