"""The `interp` command: parse, call, print. Every error that a user can cause is one line and exit code 2."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, make_dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from interp import __version__
from interp.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    from interp.lab.findings import Finding
    from interp.lab.probe import Lab, Probe
    from interp.model.model import Model

Positional = tyro.conf.Positional
MARKS = {"yes": "[green]yes[/]", "no": "[red]no[/]", "unclear": "[yellow]unclear[/]"}


def main(argv: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        sys.exit(dispatch(arguments))
    except UserError as error:
        print(f"interp: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interp: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `interp models | head`
        sys.stderr.close()
        sys.exit(0)


def run_probe_file(file: str) -> None:
    """What `python probes/NAME.py` does: `interp probe` on that file with the rest of the command line."""
    main(["probe", file, *sys.argv[1:]])


def dispatch(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(f"interp-probes {__version__}")
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS, "`interp --help` lists them")
    return COMMANDS[name](rest)


def usage() -> str:
    """The text of `interp --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  interp {name:<{width}}  {(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()]
    return "\n".join(
        [
            "Why does a language model do that? Probes with controls, on a laptop.",
            "",
            *lines,
            "",
            "interp COMMAND --help says what a command takes. Start with: interp demo",
        ]
    )


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


# --- commands ------------------------------------------------------------------------------------------------------


@dataclass
class DemoOptions:
    """From nothing to a report on a real model: load, capture, train a sparse autoencoder, probe, write one HTML file."""

    model: str = "smollm2-135m"
    """Model to look at."""
    out: Path | None = None
    """Folder for runs and report; by default a new one under runs/."""
    device: str | None = None
    """cpu, cuda, cuda:1 …; by default CUDA when there is one."""
    seed: int = 0
    """Decides everything random."""


def demo(arguments: list[str]) -> int:
    """the main job, end to end, on the bundled model"""
    options: DemoOptions = parse(DemoOptions, arguments, "demo")
    out = options.out or _new_folder("demo")
    from interp.lab.discover import load_probe
    from interp.lab.probe import Lab
    from interp.lab.runner import check_out
    from interp.model.load import load_model
    from interp.saes.default import ensure_default_sae
    from interp.views.report import build_report

    check_out(out)
    model = load_model(options.model, options.device)
    with shown_progress() as say:
        sae = ensure_default_sae(model, say)
    runs = []
    for name in ("dictionary", "reversal-curse"):
        chosen = load_probe(name)
        lab = Lab(model, seed=options.seed, sae_folder=sae, quick=True)
        command = f"interp probe {name} --model {shlex.quote(options.model)} --seed {options.seed} --sae {shlex.quote(str(sae))} --quick"
        runs.append(_run(chosen, lab, {}, out / name, command))
    report = build_report(runs, out / "report.html")
    print(f"\nreport: {report.resolve()}")
    return 0


@dataclass
class ModelsOptions:
    """What can be loaded, what is cached, and what it takes in memory. `interp models prepare NAME` loads it once."""

    action: Positional[Literal["list", "prepare"]] = "list"
    """list, or prepare: download or unpack now, so that later loads are quick and need no network."""
    name: Positional[str] = "smollm2-135m"
    """The model to prepare."""


def models(arguments: list[str]) -> int:
    """what can be loaded, what is cached, what it costs in memory"""
    options: ModelsOptions = parse(ModelsOptions, arguments, "models")
    if options.action == "prepare":
        from interp.model.load import load_model

        load_model(options.name)
        return 0
    from interp.model.doctor import loadable_models

    rows = [(m.name, m.where, f"{m.memory / 1e6:,.0f} MB", m.note) for m in loadable_models()]
    print_table(("model", "where", "weights in fp32", "what"), rows)
    print("also: any decoder by its Hugging Face name (gpt2, name@revision), a folder, a .gguf file")
    return 0


@dataclass
class DoctorOptions:
    """Versions, device and caches; what is missing and the command that mends it. Exit code 1 when something is."""


def doctor(arguments: list[str]) -> int:
    """versions, device, caches, what is missing and how to get it"""
    parse(DoctorOptions, arguments, "doctor")
    from interp.model.doctor import check_machine

    checks = check_machine()
    print_table(("", "", "found", "to mend it"), [(c.state, c.what, c.found, c.mend) for c in checks])
    return int(any(c.state == "missing" for c in checks))


@dataclass
class ParityOptions:
    """Hooks against plain transformers, site by site. Exit code 1 when a site is off or a planted fault stays unseen."""

    model: str = "smollm2-135m"
    """Model to check."""
    device: str | None = None
    """cpu, cuda …"""


def parity(arguments: list[str]) -> int:
    """hooks against plain transformers, site by site"""
    options: ParityOptions = parse(ParityOptions, arguments, "parity")
    from interp.model.load import load_model
    from interp.model.parity import check_parity

    result = check_parity(load_model(options.model, options.device))
    rows = [
        (k.kind, k.reference, str(k.n_sites), f"{k.absolute:.1e}", f"{k.relative:.1e}", "ok" if k.ok else "OFF")
        for k in result.kinds
    ]
    print_table(("sites", "checked against", "n", "largest difference", "relative", ""), rows)
    for fault, found in result.faults.items():
        print(f"planted fault, {fault}: {'found' if found else 'NOT FOUND'}")
    for site in result.unchecked:
        print(f"nothing checks {site}")
    print("parity holds" if result.ok else "parity does NOT hold")
    return int(not result.ok)


@dataclass
class ReportOptions:
    """One HTML file from run folders. Works without a network, a model or torch."""

    runs: Positional[list[Path]]
    """Run folders that `interp probe` wrote."""
    out: Path | None = None
    """The file to write; by default report.html in the first run's folder."""


def report(arguments: list[str]) -> int:
    """one HTML file from saved runs"""
    options: ReportOptions = parse(ReportOptions, arguments, "report")
    if not options.runs:
        raise UserError("no run folder came; expected at least one, such as runs/reversal-curse-…")
    from interp.views.report import build_report

    print(build_report(options.runs, options.out or options.runs[0] / "report.html").resolve())
    return 0


@dataclass
class ProbeOptions:
    """Options that every probe has."""

    model: Annotated[str, tyro.conf.arg(help="Bundled name, Hugging Face name, folder or .gguf file.")] = "smollm2-135m"
    device: Annotated[str | None, tyro.conf.arg(help="cpu, cuda …; by default CUDA when there is one.")] = None
    dtype: Annotated[str | None, tyro.conf.arg(help="fp32 (default), bf16 or fp16.")] = None
    seed: Annotated[int, tyro.conf.arg(help="Decides everything random.")] = 0
    out: Annotated[Path | None, tyro.conf.arg(help="Run folder to create; by default a new one under runs/.")] = None
    sae: Annotated[Path | None, tyro.conf.arg(help="Sparse autoencoder to use, a folder in SAELens' format.")] = None
    quick: Annotated[bool, tyro.conf.arg(help="Fewer repeats, for a first look.")] = False


def probe(arguments: list[str]) -> int:
    """run a probe by name or file; without a name: the list"""
    from interp.lab.discover import list_probes, load_probe

    if not arguments or arguments[0] in ("-h", "--help"):
        print_table(("probe", "question"), list(list_probes().items()))
        print("run one: interp probe NAME; its flags: interp probe NAME --help; your own: interp probe path/to/file.py")
        return 0
    if arguments[0] == "all" or arguments[0].startswith("-"):
        raise unknown("probe", arguments[0], list_probes(), "write the name first: interp probe NAME --flags")
    chosen = load_probe(arguments[0])
    options = parse(_probe_options(chosen), arguments[1:], f"probe {arguments[0]}")
    own = {name: getattr(options, name) for name in chosen.parameters()}
    out = options.out or _new_folder(chosen.name)
    from interp.lab.probe import Lab
    from interp.lab.runner import check_out
    from interp.model.load import load_model
    from interp.views.report import build_report

    check_out(out)
    for name, value in own.items():
        if isinstance(value, Path) and not value.exists():
            raise UserError(f"--{name.replace('_', '-')} {value}: no such file; check the path")
    model = load_model(options.model, options.device, options.dtype)
    lab = Lab(model, seed=options.seed, sae_folder=options.sae, quick=options.quick)
    run = _run(chosen, lab, own, out, shlex.join(["interp", "probe", *arguments]))
    print(f"\nrun: {run}\nreport: {build_report([run], run / 'report.html').resolve()}")
    return 0


def _probe_options(chosen: Probe) -> type[Any]:
    """The options of one probe: the common ones, then its own keyword parameters with their help."""
    helps = dict(re.findall(r"^\s+(\w+): (.+)$", chosen.function.__doc__ or "", re.MULTILINE))
    fields: list[Any] = [
        (name, Annotated[kind, tyro.conf.arg(help=helps.get(name, ""))], field(default=default))
        for name, (kind, default) in chosen.parameters().items()
    ]
    clash = {name for name, *_ in fields} & set(ProbeOptions.__dataclass_fields__)
    if clash:
        raise UserError(f"probe {chosen.name} has a parameter {', '.join(sorted(clash))}, which every probe has; rename it")
    made = make_dataclass(f"{chosen.name}-options", fields, bases=(ProbeOptions,))
    made.__doc__ = chosen.title
    return made


def _run(chosen: Probe, lab: Lab, own: dict[str, Any], out: Path, command: str) -> Path:
    """Run a probe with progress and findings on the terminal."""
    from dataclasses import replace

    from interp.lab.runner import Interrupted, run_probe

    extra: dict[str, Any] = {"settings": {"quick": lab.quick}}
    if lab.sae_folder is not None:
        from interp.saes.load import describe_sae, load_sae

        extra["sae"] = describe_sae(load_sae(lab.sae_folder, lab.model))
    try:
        with shown_progress() as say:
            return run_probe(
                chosen, replace(lab, progress=say), own, out, command=command, extra=extra, on_finding=print_finding
            )
    except Interrupted as stop:
        print(f"interp: {stop}", file=sys.stderr)
        sys.exit(130)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo,
    "models": models,
    "probe": probe,
    "report": report,
    "parity": parity,
    "doctor": doctor,
}


# --- printing ------------------------------------------------------------------------------------------------------


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


def _new_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


if __name__ == "__main__":
    main()
