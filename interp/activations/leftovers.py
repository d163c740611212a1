"""Whose a temporary file is: its name tells the machine and the process, so that no lock needs to be asked.

The locks of a shared folder cannot be relied on. NFS grants one to a writable descriptor only, Lustre and FUSE may keep
them to one machine, and there a worker that starts would take for a leftover what another machine is writing.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

UNKNOWN, NEVER = 0, 1  # for when a process began
A_DAY = 86_400.0  # seconds; another machine's file that nobody wrote to for so long is a leftover
IN_HAND = 600.0  # seconds; a batch takes less, and to do a piece twice is harmless
NAME = re.compile(r"\.(?P<machine>[^.]+)-(?P<process>\d+)-(?P<born>\d+)\.[^.]+$")


def make_temporary(path: Path) -> tuple[int, Path]:
    """A new, empty file beside `path` that tells who writes it: its descriptor and its path."""
    who = f"{this_machine()}-{os.getpid()}-{_born(os.getpid())}"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{who}.")
    return descriptor, Path(temporary)


def find_temporary(folder: Path, *names: str) -> Iterator[Path]:
    """The temporary files of files whose names match these patterns, somebody's who works or who was killed."""
    patterns = [f".{name}.*" for name in names]
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from [folder / e.name for e in entries if any(fnmatch(e.name, pattern) for pattern in patterns)]


def is_live(temporary: Path) -> bool:
    """Does somebody still write this temporary file? Of another machine that is believed for a day."""
    who = NAME.search(temporary.name)
    if who is not None and who["machine"] == this_machine():
        return _runs(int(who["process"]), int(who["born"]))
    try:
        return time.time() - temporary.stat().st_mtime < A_DAY
    except OSError:  # gone: finished, or removed by another worker
        return False


def is_others(temporary: Path) -> bool:
    """Is another process at it? A file that nobody wrote to for some minutes is believed to be nobody's."""
    who = NAME.search(temporary.name)
    own = who is not None and who["machine"] == this_machine() and int(who["process"]) == os.getpid()
    try:
        return not own and is_live(temporary) and time.time() - temporary.stat().st_mtime < IN_HAND
    except OSError:  # gone: finished, or removed
        return False


def clear_leftovers(folder: Path, *names: str) -> list[Path]:
    """Remove the temporary files of processes that were killed, and return them."""
    gone = []
    for left in find_temporary(folder, *names):
        if not is_live(left):
            with suppress(OSError):  # another worker removed it, or it is another user's
                left.unlink()
                gone.append(left)
    return gone


@cache
def this_machine() -> str:
    """Host name, and a hash of what makes a process number mean the same process: host, boot, container."""
    host, parts = socket.gethostname(), []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    mark = hashlib.sha256("\n".join([host, *parts]).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]', '_', host)[:24]}~{mark}"


def _runs(process: int, born: int) -> bool:
    """Does the process run that began at `born`, and not another one under its number?"""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return _born(process) in (born, UNKNOWN)


def _born(process: int) -> int:
    """When a process began, in ticks since the machine did; UNKNOWN where the system does not tell."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # macOS, or another user's process, which a machine may hide
        return UNKNOWN
    state, *numbers = stat.rpartition(")")[2].split()
    return NEVER if state in ("Z", "X") else int(numbers[18])  # a killed process whose parent did not look after it
