"""A run folder: what was run, with what, and the findings, each on disk the moment it was found.

    runs/reversal-curse-20261124-020000/
        run.json           what ran (schema version, probe, method, arguments, provenance, status)
        findings.jsonl     one finding a line, appended and fsynced as it comes
        not_asked.jsonl    one claim a line that was not put to this model, and why
        tables/0.json      the rows behind finding 0
        report.html

No torch here: a report is rebuilt from a run folder on any laptop.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from interp.errors import UserError
from interp.lab.claims import Claim, NotAsked, check_declared, check_once, not_reached
from interp.lab.findings import Finding, checked, finding_from_json, finding_to_json, plain_scalar, storable
from interp.paths import expand

SCHEMA = 1
Status = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class RunInfo:
    """`run.json`: everything a reader needs to judge a run and to repeat it."""

    probe: str
    method: str  # the probe's module docstring: question, paper, what counts as yes, what could fool us
    paper: str | None
    command: str  # a shell line that repeats the run
    arguments: dict[str, Any]
    seed: int
    started: str  # ISO 8601, UTC
    provenance: dict[str, Any]  # {"model": {...}, "sae": {...} | None, "environment": {...}}
    status: Status = "running"
    seconds: float = 0.0
    error: str = ""
    findings: int | None = None  # how many the run found; not known before it ended
    claims: list[Claim] = field(default_factory=list)  # what the probe declared; none in runs of earlier versions
    schema: int = SCHEMA


@dataclass(frozen=True)
class Run:
    """A run read back: `info` from run.json, `findings` and `not_asked` in the order in which they came."""

    folder: Path
    info: RunInfo
    findings: list[Finding] = field(default_factory=list)
    not_asked: list[NotAsked] = field(default_factory=list)

    @property
    def not_reached(self) -> list[Claim]:
        """The declared claims that this run neither answered nor said not to ask: it was stopped before."""
        return not_reached(self.info.claims, [*self.findings, *self.not_asked])


def write_json(path: Path, value: Any) -> None:
    """Write JSON to `path` through a temporary file, fsync and rename, so that it is whole or absent."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would hide a shared run from colleagues
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class RunWriter:
    """Appends to a run folder, which must be new or empty (`runner.check_out` makes sure)."""

    def __init__(self, folder: Path, info: RunInfo) -> None:
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.info = info
        write_json(folder / "run.json", asdict(info))

    @property
    def kept(self) -> int:
        """How many findings are on disk, read from there: an interrupt may come between a line and a counter."""
        path = self.folder / "findings.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def add(self, finding: Finding) -> None:
        """Put one finding on disk: its table first, then its line, so that a line never lacks its table.

        Raises UserError, with row and column, for a cell of the table that no file can hold.
        """
        finding = storable(finding)
        write_json(self.folder / "tables" / f"{self.kept}.json", finding.table)
        self._append("findings.jsonl", finding_to_json(finding))

    def leave_out(self, claim: NotAsked) -> None:
        """Put on disk that a declared claim was not asked, and why."""
        self._append("not_asked.jsonl", asdict(claim))

    def _append(self, name: str, record: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            # ASCII escapes: a lone surrogate or a U+2028 inside a token must neither fail nor split the line
            file.write(json.dumps(record, allow_nan=False, default=plain_scalar) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, status: Status, seconds: float, error: str = "") -> None:
        """Record how the run ended."""
        self.info = replace(self.info, status=status, seconds=round(seconds, 1), error=error, findings=self.kept)
        write_json(self.folder / "run.json", asdict(self.info))


def read_run(folder: str | Path) -> Run:
    """Read a run folder; a last line that a kill cut short is dropped, any other damage is a UserError."""
    folder = expand(folder)
    if not _is_run(folder):
        raise UserError(f"{folder} is not a run: it has no run.json; expected a folder that `interp probe` wrote")
    try:
        raw = _decode(_read(folder / "run.json"))
        if raw.get("schema") != SCHEMA:
            raise UserError(
                f"{folder} has schema {raw.get('schema')}; this version reads {SCHEMA}; rerun: {raw.get('command')}"
            )
        info = checked(RunInfo, raw)
        findings = _read_findings(folder)
        not_asked = [checked(NotAsked, record) for record in _read_lines(folder / "not_asked.jsonl")]
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{folder} is damaged ({type(error).__name__}: {why}); run the probe again") from error
    if info.findings is not None and info.findings != len(findings):
        raise UserError(
            f"{folder} is damaged: it holds {len(findings)} findings, and its run ended with {info.findings}; "
            "run the probe again"
        )
    try:
        for answer in check_once([*findings, *not_asked], info.probe) if info.claims else ():  # early runs have none
            check_declared(answer, info.claims, info.probe)
    except UserError as error:
        raise UserError(f"{folder} is damaged: {error}; run the probe again") from error
    return Run(folder, info, findings, not_asked)


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "run.json").is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _read_findings(folder: Path) -> list[Finding]:
    records = _read_lines(folder / "findings.jsonl")
    return [
        finding_from_json(record, _decode(_read(folder / "tables" / f"{i}.json"))) for i, record in enumerate(records)
    ]


def _read_lines(path: Path) -> list[Any]:
    if not path.exists():
        return []
    lines = _read(path, errors="replace").split("\n")
    return [_decode(line) for line in lines[:-1]]  # an unfinished last line was never promised


def _read(path: Path, errors: str = "strict") -> str:
    if not path.is_file():  # a pipe would wait for ever
        raise OSError(f"{path.name} is missing or no file")
    return path.read_text(encoding="utf-8", errors=errors)


def _decode(text: str) -> Any:
    """JSON without the numbers that are none: NaN and Infinity, and 1e999, which Python reads as infinite."""

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"{number} is no finite number")
        return float(number)

    return json.loads(text, parse_constant=finite, parse_float=finite)
