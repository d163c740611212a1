"""`interp probe all`: every probe on one model, and one report with a page of answers in front."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from interp.cli.loading import RunOptions
from interp.cli.probe_jobs import Job, Setting, default_jobs, run_side_by_side
from interp.cli.running import run_shown, sae_record, tally, write_report
from interp.cli.terminal import parse, print_table, shown_progress
from interp.errors import UserError, unknown

if TYPE_CHECKING:
    from interp.lab.probe import Lab, Probe
    from interp.lab.series import Series
    from interp.model.model import Model


@dataclass(kw_only=True)
class AllOptions(RunOptions):
    """Every probe, one after the other, and one report. Stopped, the same command with the same --out goes on."""

    only: Annotated[tuple[str, ...], tyro.conf.arg(help="Run these probes alone.")] = field(default_factory=tuple)
    without: Annotated[tuple[str, ...], tyro.conf.arg(help="Leave these probes out.")] = field(default_factory=tuple)
    jobs: Annotated[int | None, tyro.conf.arg(help="Probes at a time; by default two on a CPU, one on a GPU.")] = None


def probe_all(arguments: list[str], new_folder: Path) -> int:
    """Run the series and write its report; `new_folder` is where it goes without --out."""
    from interp.lab.discover import list_probes, load_probe
    from interp.lab.probe import Lab
    from interp.lab.series import choose_probes, open_series
    from interp.paths import check_place

    options: AllOptions = parse(AllOptions, arguments, "probe all")
    options.check()
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}; expected 1 or more")
    available = list_probes()
    for name in (*options.only, *options.without):
        if name.replace("_", "-") not in available:
            raise unknown("probe", name, available)
    names = choose_probes(available, options.only, options.without)
    if not names:
        raise UserError("no probe is left to run; expected --only or --without to leave some")
    probes = {name: load_probe(name) for name in names}
    out = options.out or new_folder
    check_place(out, "--out")
    model = options.load()
    shared = {
        "model": model.provenance.name,
        "weights": model.provenance.weights,
        "dtype": model.provenance.computes_in,
    }
    shared |= {"seed": options.seed, "quick": options.quick, "full": options.full, "sae": str(options.sae or "")}
    shared |= {"bos": options.bos} if options.bos != "tokenizer" else {}  # a series of before knows no such setting
    if options.sae is not None:
        sae_record(options.sae, model)  # one that is not this model's is refused before anything is written
    series = open_series(out, shared)
    lab = Lab(model, seed=options.seed, sae_folder=_sae(model, options.sae), quick=options.quick, full=options.full)
    commands = {name: shlex.join(["interp", "probe", name, *_flags(options)]) for name in names}
    started = time.monotonic()
    if (options.jobs or default_jobs(model.device.type)) > 1:
        series = _side_by_side(series, probes, lab, options, commands)
    else:
        for i, (name, one) in enumerate(probes.items()):
            print(f"[{i + 1}/{len(probes)}] {name}: {one.title}", flush=True)
            series = _one(series, name, one, lab, commands[name])
    return _close(series, time.monotonic() - started)


def _sae(model: Model, chosen: Path | None) -> Path:
    """The SAE for all probes: made once, where the model has none."""
    from interp.saes.loading.default import ensure_default_sae

    if chosen is not None:
        return chosen
    with shown_progress() as say:
        return ensure_default_sae(model, say)


def _one(series: Series, name: str, probe: Probe, lab: Lab, command: str) -> Series:
    """One probe of the series; a model that cannot be asked is written down, and the series goes on."""
    if series.has(name):
        print("  kept from before")
        return series
    began = time.monotonic()
    try:
        run = run_shown(probe, lab, {}, series.clear(name), command, on_finding=lambda _: None)
    except UserError as error:
        print(f"  left out: {error}")
        return series.leave_out(name, str(error))
    except SystemExit:
        print(f"interp: the same command with --out {series.folder} goes on", file=sys.stderr)
        raise
    print(f"  {tally(run)} ({time.monotonic() - began:.0f} s)", flush=True)
    return series


def _side_by_side(
    series: Series, probes: dict[str, Probe], lab: Lab, options: AllOptions, commands: dict[str, str]
) -> Series:
    """All that are not there yet, several at a time."""
    for name in probes:
        if series.has(name):
            print(f"{name}: kept from before")
    # What takes long, and else what has many claims, comes first: begun last, it would run alone while a core is idle.
    most_first = sorted(probes, key=lambda name: (not probes[name].long, -len(probes[name].claims)))
    jobs = [Job(name, series.clear(name), commands[name]) for name in most_first if not series.has(name)]
    if not jobs:
        return series
    setting = Setting(options, lab.seed, lab.sae_folder or Path(), lab.quick, lab.full)
    n = min(len(jobs), options.jobs or default_jobs(lab.model.device.type))
    done = 0
    try:
        with closing(run_side_by_side(jobs, n, setting)) as news:
            for one in news:
                if one.kind == "begun":
                    print(f"{one.name}: {probes[one.name].title}", flush=True)
                    continue
                done += 1
                if one.kind == "left out":
                    series = series.leave_out(one.name, one.text)
                told = f"left out: {one.text}" if one.kind == "left out" else tally(series.folder / one.name)
                took = f" ({one.seconds:.0f} s)" if one.kind == "done" else ""
                print(f"  [{done}/{len(jobs)}] {one.name}: {told}{took}", flush=True)
    except (KeyboardInterrupt, UserError) as stop:
        kept = f"{done} of {len(jobs)} probes are kept; the same command with --out {series.folder} goes on"
        if isinstance(stop, UserError):
            raise UserError(f"{stop}; {kept}") from None
        print(f"interp: interrupted; {kept}", file=sys.stderr)
        sys.exit(130)
    return series


def _close(series: Series, seconds: float) -> int:
    """What was answered, on the terminal and as one page."""
    from interp.lab.runs import read_run

    rows = [
        (run.name, finding.verdict, finding.claim)
        for run in series.runs
        for finding in read_run(run).findings
        if finding.answers
    ]
    print()
    print_table(("probe", "verdict", "claim"), rows)
    if not series.runs:
        raise UserError(f"no probe could be asked: {'; '.join(f'{n}: {why}' for n, why in series.left_out.items())}")
    print(f"\n{len(series.runs)} probes, {seconds / 60:.0f} minutes\nruns: {series.folder}")
    print(f"report: {write_report(series.runs, series.folder / 'report.html', series.left_out)}")
    return 0


def _flags(options: AllOptions) -> list[str]:
    """What repeats one of the runs by itself."""
    sae = [] if options.sae is None else ["--sae", str(options.sae)]
    told = [*options.repeated(), "--seed", str(options.seed), *sae]
    return [*told, *(f"--{name}" for name in ("quick", "full") if getattr(options, name))]
