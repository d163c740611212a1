"""The probes of a series in several processes: each loads the model once and asks one probe after the other.

A model of this size leaves a second core half idle, whatever torch does with it; two probes side by side do not. What a
process has to tell goes to the parent, which alone prints and keeps the record of the series.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

from interp.cli.loading import LoadingOptions
from interp.cli.running import sae_record
from interp.cli.terminal import shown_progress
from interp.errors import UserError

LOOK = 1.0  # seconds between two looks at whether all processes live
PATIENCE = 60.0  # seconds for a process that was told to end, to keep what it found
Kind = Literal["begun", "doing", "done", "left out", "stopped", "failed"]


@dataclass(frozen=True)
class Setting:
    """What all processes of a series share: how to load the model, and what its lab is made of."""

    loading: LoadingOptions
    seed: int
    sae: Path
    quick: bool
    full: bool


class Job(NamedTuple):
    """A probe, the folder for its run, and the command that repeats it."""

    name: str
    folder: Path
    command: str


class Told(NamedTuple):
    """What a process says of a probe: `text` is what it is doing, or why it ended; `seconds` how long it took."""

    kind: Kind
    name: str
    text: str = ""
    seconds: float = 0.0


def default_jobs(device: str) -> int:
    """Two where there are two cores and no other device."""
    return min(2, os.cpu_count() or 1) if device == "cpu" else 1


def run_side_by_side(jobs: list[Job], n: int, setting: Setting) -> Generator[Told, None, None]:
    """Ask all of them, `n` at a time; yields "begun", "done" and "left out" as they come.

    Ctrl-C or SIGTERM ends the processes, which keep what they found, and goes on as KeyboardInterrupt. Raises UserError
    where a process was killed, and RuntimeError with the traceback of a probe that has a bug.
    """
    from interp.lab.runner import sigterm_as_interrupt

    context = multiprocessing.get_context("spawn")
    asked, told = context.Queue(), context.Queue()
    for job in [*jobs, *[None] * n]:
        asked.put(job)
    with _threads_for(n):
        workers = [context.Process(target=_work, args=(asked, told, setting, os.getpid())) for _ in range(n)]
        for worker in workers:
            worker.start()
    open_ones, doing = len(jobs), dict[str, str]()
    with sigterm_as_interrupt():  # to the end of `_end`: a second SIGTERM ends the wait, and what is kept is told
        try:
            with shown_progress() as say:
                while open_ones:
                    news = _next(told, workers, doing)
                    if news is None:
                        continue
                    if news.kind in ("begun", "doing"):
                        doing[news.name] = news.text
                    else:
                        doing.pop(news.name, None)
                        open_ones -= 1
                    if sys.stderr.isatty():
                        now = " · ".join(f"{name}: {what}" for name, what in doing.items())
                        say(now, len(jobs) - open_ones, len(jobs))
                    if news.kind == "failed":
                        raise RuntimeError(news.text)
                    if news.kind == "stopped":
                        raise KeyboardInterrupt
                    if news.kind != "doing":
                        yield news
        finally:
            _end(workers, asked)


def _next(told: Any, workers: Sequence[BaseProcess], doing: Mapping[str, str]) -> Told | None:
    try:
        return told.get(timeout=LOOK)
    except queue.Empty:
        for worker in workers:
            if worker.exitcode not in (None, 0):
                raise UserError(
                    f"a process that asked {' or '.join(doing) or 'a probe'} was ended from outside (exit code "
                    f"{worker.exitcode}); finished runs are kept; if memory ran out, --jobs 1 takes half of it"
                ) from None
        return None


def _end(workers: Sequence[BaseProcess], asked: Any) -> None:
    """End what still runs; each keeps what it found."""
    asked.cancel_join_thread()
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    until = time.monotonic() + PATIENCE
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
        if worker.is_alive():
            worker.kill()


@contextmanager
def _threads_for(n: int) -> Iterator[None]:
    """Processes that start meanwhile take an equal share of the cores each."""
    before = os.environ.get("OMP_NUM_THREADS")
    if before is None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // n))
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]


def _work(asked: Any, told: Any, setting: Setting, parent: int) -> None:
    """A process: ask until there is nothing left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent decides
    from interp.lab.discover import load_probe
    from interp.lab.probe import Lab
    from interp.lab.runner import Interrupted, run_probe

    model = setting.loading.load()
    extra = {"sae": sae_record(setting.sae, model)}
    while (job := asked.get()) is not None:
        began, last = time.monotonic(), ""
        told.put(Told("begun", job.name))

        def say(what: str, *_: int, name: str = job.name) -> None:
            nonlocal last
            if os.getppid() != parent:
                raise KeyboardInterrupt  # nobody is there to be told
            if what != last:
                last = what
                told.put(Told("doing", name, what))

        lab = Lab(model, setting.seed, setting.sae, setting.quick, setting.full, say)
        try:
            run_probe(load_probe(job.name), lab, {}, job.folder, command=job.command, extra=extra)
            news = Told("done", job.name, seconds=time.monotonic() - began)
        except UserError as error:
            news = Told("left out", job.name, str(error))
        except Interrupted as stop:
            told.put(Told("stopped", job.name, str(stop)))
            return
        except Exception:
            news = Told("failed", job.name, traceback.format_exc())
        told.put(news)
