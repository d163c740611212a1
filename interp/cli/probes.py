"""`interp demo`, `interp probe`, `interp report`: run probes and read what they found."""

from __future__ import annotations

import re
import shlex
from copy import copy
from dataclasses import dataclass, field, make_dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from interp.cli.loading import LoadingOptions, RunOptions
from interp.cli.probe_all import probe_all
from interp.cli.running import print_left_open, run_shown, tally, write_report
from interp.cli.terminal import Positional, parse, print_table, shown_progress
from interp.errors import UserError, unknown

if TYPE_CHECKING:
    from interp.lab.probe import Probe


CLAIMS_HELP = "Print what the probe sets out to test, with the rule of each claim, and run nothing."


@dataclass(kw_only=True)
class DemoOptions(LoadingOptions):
    """From nothing to a report on a real model: load, train a sparse autoencoder, probe, write one HTML file."""

    out: Path | None = None
    """Folder for runs and report; by default a new one under runs/."""
    seed: int = 0
    """Decides everything random."""


def demo(arguments: list[str]) -> int:
    """The main job, end to end, on the bundled model"""
    options: DemoOptions = parse(DemoOptions, arguments, "demo")
    out = options.out or _new_folder("demo")
    from interp.lab.discover import load_probe
    from interp.lab.probe import Lab
    from interp.lab.runner import check_out
    from interp.saes.loading.default import ensure_default_sae

    check_out(out)
    model = options.load()
    with shown_progress() as say:
        sae = ensure_default_sae(model, say)
    runs = []
    for name in ("dictionary", "reversal-curse"):
        chosen = load_probe(name)
        lab = Lab(model, seed=options.seed, sae_folder=sae, quick=True)
        flags = [*options.repeated(), "--seed", str(options.seed), "--sae", str(sae), "--quick"]
        command = shlex.join(["interp", "probe", name, *flags])
        runs.append(run_shown(chosen, lab, {}, out / name, command))
    report = write_report(runs[::-1], out / "report.html")  # the phenomenon first, then the dictionary it leans on
    print()
    for run in runs[::-1]:
        print(f"{run.name}: {tally(run)}")
    print(f"features of the SAE: interp sae show {sae} --prompt TEXT")
    print(f"report: {report}")
    return 0


@dataclass
class ReportOptions:
    """One HTML file from run folders. Works without a network, a model or torch."""

    runs: Positional[list[Path]]
    """Run folders that `interp probe` wrote, or a folder of such, as `interp demo` makes it."""
    out: Path | None = None
    """The file to write; by default report.html in the first run's folder."""


def report(arguments: list[str]) -> int:
    """One HTML file from saved runs"""
    options: ReportOptions = parse(ReportOptions, arguments, "report")
    if not options.runs:
        raise UserError(
            "no run folder came; expected one or more: interp report RUN…; `interp probe` prints its run's path"
        )
    from interp.lab.series import read_series
    from interp.views.report import build_report

    runs = [run for folder in options.runs for run in _runs_in(folder)]
    series = [found for folder in options.runs if (found := read_series(folder)) is not None]
    left_out = {name: why for found in series for name, why in found.left_out.items()}
    print(f"report: {build_report(runs, options.out or options.runs[0] / 'report.html', left_out).resolve()}")
    return 0


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself when it is a run, else the runs in it, newest first as in the demo's report."""
    from interp.lab.series import read_series
    from interp.paths import modified_at

    try:
        if (folder / "run.json").exists() or not folder.is_dir():
            return [folder]
        if (series := read_series(folder)) is not None and series.runs:
            return series.runs
    except OSError as error:
        raise UserError(f"{folder!s:.80}… is no run ({error.strerror}); expected a run folder") from error
    return sorted((f.parent for f in folder.glob("*/run.json")), key=modified_at, reverse=True) or [folder]


def probe(arguments: list[str]) -> int:
    """Run a probe by name or file; without a name: the list"""
    from interp.lab.discover import list_probes, load_probe
    from interp.lab.probe import Lab

    if not arguments or arguments[0] in ("-h", "--help"):
        print_table(("probe", "question"), list(list_probes().items()))
        print("run one: interp probe NAME; what it claims: interp probe NAME --claims; its flags: NAME --help")
        print("run all of them, with one report: interp probe all --quick")
        print("your own: interp probe new NAME begins one, interp probe path/to/file.py runs it")
        return 0
    if arguments[0] == "all":
        return probe_all(arguments[1:], _new_folder("all"))
    if arguments[0] == "new":
        return _new(arguments[1:])
    if arguments[0].startswith("-"):
        raise unknown("probe", arguments[0], list_probes(), "write the name first: interp probe NAME --flags")
    chosen = load_probe(arguments[0])
    options = parse(_probe_options(chosen), arguments[1:], f"probe {arguments[0]}")
    if options.claims:
        return _print_claims(chosen)
    own = {name: getattr(options, name) for name in chosen.parameters()}
    chosen.check(own)
    options.check()
    out = options.out or _new_folder(chosen.name)
    from interp.lab.runner import check_out

    check_out(out)
    for name, value in own.items():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path) and not path.exists():
                raise UserError(f"--{name.replace('_', '-')} {path}: no such file; check the path")
    model = options.load()
    lab = Lab(model, seed=options.seed, sae_folder=options.sae, quick=options.quick, full=options.full)
    run = run_shown(chosen, lab, own, out, shlex.join(["interp", "probe", *_without_out(arguments)]))
    print_left_open(run)
    print(f"\nrun: {run}\nreport: {write_report([run], run / 'report.html')}")
    return 0


def _print_claims(chosen: Probe) -> int:
    """What a probe sets out to test, before it is run."""
    if not chosen.claims:
        print(f"{chosen.name} declares no claims: what it tests stands in its method\n\n{chosen.method}")
        return 0
    for part in dict.fromkeys(claim.part for claim in chosen.claims):
        print(f"\n{part}" if part else "")
        for claim in (one for one in chosen.claims if one.part == part):
            marks = [word for word, is_so in (("answers", claim.answers), ("arithmetic", claim.arithmetic)) if is_so]
            print(f"  {claim.shown}" + (f"  [{', '.join(marks)}]" if marks else ""))
            print(f"      {claim.rule}")
    answering = sum(claim.answers for claim in chosen.claims)
    print(f"\n{len(chosen.claims)} claims; {answering} of them answer the question")
    return 0


@dataclass
class NewOptions:
    """Lay down the file of a new probe. It runs as it is; probes/README.md says how to make it yours."""

    name: Positional[str]
    """What the probe is called, such as overlooks-not."""
    folder: Path = Path()
    """Where the file goes."""


def _new(arguments: list[str]) -> int:
    from interp.lab.new_probe import write_probe

    options: NewOptions = parse(NewOptions, arguments, "probe new")
    file = write_probe(options.name, options.folder)
    print(f"{file}: runs as it is with `interp probe {file}`; put your question, your prompts and your rule in")
    return 0


def _without_out(arguments: list[str]) -> list[str]:
    """What repeats a run: its folder is taken by then."""
    kept = [one for i, one in enumerate(arguments) if one != "--out" and arguments[i - 1 : i] != ["--out"]]
    return [one for one in kept if not one.startswith("--out=")]


def _probe_options(chosen: Probe) -> type[Any]:
    """The options of one probe: the common ones, then its own keyword parameters with their help."""
    described = re.findall(r"^ +(\w+): (.+(?:\n {12,}\S.*)*)$", chosen.function.__doc__ or "", re.MULTILINE)
    helps = {name: " ".join(text.split()) for name, text in described}
    fields: list[Any] = [
        (name, Annotated[kind, tyro.conf.arg(help=helps.get(name, ""))], field(default_factory=partial(copy, default)))
        for name, (kind, default) in chosen.parameters().items()
    ]
    fields.append(("claims", Annotated[bool, tyro.conf.arg(help=CLAIMS_HELP)], False))
    clash = {name for name, *_ in fields[:-1]} & {*RunOptions.__dataclass_fields__, "claims"}
    if clash:
        raise UserError(
            f"probe {chosen.name} has a parameter {', '.join(sorted(clash))}, which every probe has; rename it"
        )
    made = make_dataclass(f"{chosen.name}-options", fields, bases=(RunOptions,), kw_only=True)
    made.__doc__ = chosen.title
    return made


def _new_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
