"""A series: many probes on one model, a run folder each, and a record of what they share.

    runs/all-20261126-020000/
        series.json        what every run shares (model, seed, settings) and which probes could not be asked, and why
        dice-roll/         a run, as `interp probe dice-roll` writes it
        report.html

A series that was stopped goes on: finished runs are kept, the one that broke off is made again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.lab.findings import checked
from interp.lab.runs import read_run, write_json
from interp.paths import expand

RECORD = "series.json"
SCHEMA = 1


@dataclass(frozen=True)
class Series:
    """`shared`: what decides the numbers of all runs. `left_out`: a probe's name, and why it could not be asked."""

    folder: Path
    shared: dict[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> list[Path]:
        """Folders of the runs, in the order in which they were begun."""
        found = [file.parent for file in self.folder.glob("*/run.json")]
        return sorted(found, key=lambda run: (read_run(run).info.started, run.name))

    def has(self, name: str) -> bool:
        """Is there a finished run of this probe?"""
        try:
            return read_run(self.folder / name).info.status == "finished"
        except UserError:
            return False

    def clear(self, name: str) -> Path:
        """The folder for a run of this probe, empty: what a kill left of one is removed."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        return place

    def leave_out(self, name: str, why: str) -> Series:
        """The same series, on disk too, with one more probe that could not be asked."""
        return _write(Series(self.folder, self.shared, {**self.left_out, name: why}))


def open_series(folder: str | Path, shared: dict[str, Any]) -> Series:
    """Begin a series in a new or empty folder, or go on with the one that lies there.

    Raises UserError for a folder that holds anything else, or a series of another model or other settings.
    """
    folder = expand(folder)
    there = read_series(folder)
    if there is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"--out {folder} is not empty and no series; expected a new folder, or one to go on with")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _write(Series(folder, shared))
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    other = [key for key in {**there.shared, **shared} if there.shared.get(key) != shared.get(key)]
    if "weights" in shared and "weights" not in other:
        other = [key for key in other if key != "model"]  # the name informs, the hash of the weights decides
    if other:
        was, now = (", ".join(f"{key} {some.get(key)}" for key in other) for some in (there.shared, shared))
        raise UserError(f"--out {folder} was made with {was}; this is {now}; choose another --out")
    return _write(Series(folder, shared))  # what could not be asked is asked again: the model may have changed its mind


def read_series(folder: str | Path) -> Series | None:
    """The series in a folder; None where there is none. Raises UserError for a damaged one."""
    folder = expand(folder)
    record = folder / RECORD
    try:
        if not record.is_file():
            return None
        raw = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.pop("schema", None) != SCHEMA:
            raise ValueError("it is of another version")
        return checked(Series, {**raw, "folder": str(folder)})
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{record} cannot be read: {' '.join(str(error).split())}; choose another folder") from error


def _write(series: Series) -> Series:
    record = {key: value for key, value in asdict(series).items() if key != "folder"}
    write_json(series.folder / RECORD, {"schema": SCHEMA, **record})
    return series


def choose_probes(available: Iterable[str], only: Iterable[str], without: Iterable[str]) -> list[str]:
    """The probes of a series, in the order of their names."""
    wanted, unwanted = ({name.replace("_", "-") for name in some} for some in (only, without))
    return [name for name in available if (not wanted or name in wanted) and name not in unwanted]
