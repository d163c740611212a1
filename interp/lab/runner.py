"""Run a probe into a run folder: each finding is on disk the moment it comes, however the run ends."""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from interp.errors import UserError
from interp.lab.claims import NotAsked, check_declared, check_once
from interp.lab.findings import Finding, shown
from interp.lab.probe import Lab, Probe
from interp.lab.runs import RunInfo, RunWriter
from interp.paths import check_place, expand

OnFinding = Callable[[Finding], None]


class Interrupted(Exception):  # noqa: N818 - an ending, not a fault
    """Ctrl-C or SIGTERM; the message says what is kept."""


def check_out(folder: str | Path) -> None:
    """Refuse an output folder that cannot be used, before anything slow starts."""
    folder = expand(folder)
    check_place(folder, "--out")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--out {folder} is not empty; expected a new folder; choose another path or remove it")


def run_probe(
    probe: Probe,
    lab: Lab,
    arguments: dict[str, Any],
    folder: str | Path,
    *,
    command: str,
    extra: dict[str, Any] | None = None,
    on_finding: OnFinding = lambda _: None,
) -> Path:
    """Run `probe`, write `folder` and return it. `extra` is further provenance (the SAE's).

    A run that fails before its first finding leaves nothing behind, neither `folder` nor parents made for it.
    Raises UserError for bad input and a full disk, Interrupted after Ctrl-C or SIGTERM.
    """
    folder = expand(folder)
    check_out(folder)
    arguments = {name: default for name, (_, default) in probe.parameters().items()} | arguments
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    started = time.monotonic()
    try:
        writer = RunWriter(folder, _info(probe, lab, arguments, command, extra or {}))
    except OSError as error:
        _discard(folder, made)
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; free some space or choose another --out"
        ) from error
    try:
        with sigterm_as_interrupt():
            for answer in check_once(_answers(probe, lab, arguments), probe.name):
                _put(writer, answer)
                if isinstance(answer, Finding):
                    on_finding(answer)
    except BaseException as error:
        count = writer.kept
        _end(writer, error, count, time.monotonic() - started, made)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted; {_kept(count, folder)}") from error
        if isinstance(error, UserError) and count:
            raise UserError(f"{error}; {_kept(count, folder)}") from error
        if isinstance(error, Exception) and not isinstance(error, UserError):  # a bug of the probe: show where
            error.add_note(f"probe {probe.name} failed; {_kept(count, folder)}")
        raise
    writer.finish("finished", time.monotonic() - started)
    return folder


def _answers(probe: Probe, lab: Lab, arguments: dict[str, Any]) -> Iterator[Finding | NotAsked]:
    """What the probe yields. Raises UserError, which names the probe and what came, for anything that answers none of
    its claims."""
    yielded: object = probe(lab, **arguments)
    if isinstance(yielded, Finding | NotAsked) or not isinstance(yielded, Iterable):
        raise UserError(
            f"probe {probe.name} returned {shown(yielded)}; expected findings, one after the other; write "
            "`yield CLAIM.answer(…)` in it"
        )
    for answer in yielded:
        if not isinstance(answer, Finding | NotAsked):
            raise UserError(
                f"probe {probe.name} yielded {shown(answer)}; expected a Finding; write `yield CLAIM.answer(…)`"
            )
        check_declared(answer, probe.claims, probe.name)
        yield answer


def _put(writer: RunWriter, answer: Finding | NotAsked) -> None:
    try:
        writer.add(answer) if isinstance(answer, Finding) else writer.leave_out(answer)
    except OSError as error:  # only here: an OSError of the probe's own is about another file
        raise UserError(f"cannot write to {writer.folder}: {error.strerror}") from error


def _shown(value: Any) -> Any:
    """An argument ready for JSON."""
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # `limit: float = inf` is a setting like any other, and JSON knows no such number
    return str(value) if isinstance(value, Path) else value


def _info(probe: Probe, lab: Lab, arguments: dict[str, Any], command: str, extra: dict[str, Any]) -> RunInfo:
    shown = {name: _shown(value) for name, value in arguments.items()}
    return RunInfo(
        probe=probe.name,
        method=probe.method,
        paper=probe.paper,
        command=command,
        arguments=shown,
        seed=lab.seed,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        claims=list(probe.claims),
        provenance={
            "settings": {"quick": lab.quick, "full": lab.full, **shown},
            "model": asdict(lab.model.provenance),
            **extra,
        },
    )


def _end(writer: RunWriter, error: BaseException, count: int, seconds: float, made: list[Path]) -> None:
    """Record how a run broke off; a run without findings is not worth a folder."""
    if count == 0:
        _discard(writer.folder, made)
        return
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    with suppress(OSError):  # a full disk: run.json keeps the status it had
        writer.finish(status, seconds, str(error) or type(error).__name__)


def _discard(folder: Path, made: list[Path]) -> None:
    """Empty the folder, and remove it and its parents where this run made them and nobody else has put anything in."""
    for child in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    with suppress(OSError):
        for path in made:  # the folder first, then its parents upwards
            if path.is_dir():
                path.rmdir()


def _kept(count: int, folder: Path) -> str:
    if count == 0:
        return "nothing was found yet, so nothing is kept"
    return f"kept {count} finding{'s' if count > 1 else ''} in {folder}; `interp report {folder}` shows them"


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: what was found is kept and said."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
