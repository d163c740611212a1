"""What the commands that run probes share: a run on the terminal, its tally, its report."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from interp.cli.terminal import MARKS, print_finding, shown_progress
from interp.errors import UserError

if TYPE_CHECKING:
    from interp.lab.findings import Finding
    from interp.lab.probe import Lab, Probe
    from interp.model.model import Model


def run_shown(
    chosen: Probe,
    lab: Lab,
    own: dict[str, Any],
    out: Path,
    command: str,
    on_finding: Callable[[Finding], None] = print_finding,
) -> Path:
    """Run a probe with progress, and findings as they come, on the terminal."""
    from interp.lab.runner import Interrupted, run_probe

    extra = {} if lab.sae_folder is None else {"sae": sae_record(lab.sae_folder, lab.model)}
    try:
        with shown_progress() as say:
            return run_probe(
                chosen, replace(lab, progress=say), own, out, command=command, extra=extra, on_finding=on_finding
            )
    except Interrupted as stop:
        print(f"interp: {stop}", file=sys.stderr)
        sys.exit(130)


def sae_record(folder: Path, model: Model) -> dict[str, Any]:
    """What a run writes down of the sparse autoencoder it was given."""
    from interp.saes.loading.sae import describe_sae, load_sae

    return describe_sae(load_sae(folder, model))


def tally(run: Path) -> str:
    """`15 yes, 2 no, 1 unclear, 1 not asked`."""
    from interp.lab.runs import read_run

    made = read_run(run)
    counts = Counter(finding.verdict for finding in made.findings)
    counts |= {"not asked": len(made.not_asked), "not reached": len(made.not_reached)}
    return ", ".join(f"{counts[word]} {word}" for word in (*MARKS, "not asked", "not reached") if counts[word])


def print_left_open(run: Path) -> None:
    """The claims that were declared and have no answer, and why."""
    from interp.lab.runs import read_run

    made = read_run(run)
    if made.not_asked or made.not_reached:
        print()
    for claim in made.not_asked:
        print(f"not asked: {claim.claim.rstrip('.')}, {claim.because}")
    for claim in made.not_reached:
        print(f"not reached: {claim.shown}")
    if made.not_reached and made.info.status == "finished":
        print("(a finished run should reach every claim: `yield CLAIM.answer(…)` or `yield CLAIM.not_asked(…)`)")


def write_report(runs: list[Path], out: Path, left_out: Mapping[str, str] = MappingProxyType({})) -> Path:
    """The report of runs that were just made; when it cannot be written, they are kept."""
    from interp.views.report import build_report

    try:
        return build_report(runs, out, left_out).resolve()
    except UserError as error:
        kept = " ".join(map(str, runs))
        raise UserError(f"{error}; what was found is kept; later: interp report {kept} --out FILE") from error
