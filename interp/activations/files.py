"""Files that are there whole or not at all: temporary name, fsync, rename; with a hash, or with a seal of their own.

A kill at any moment leaves the old file, or the new one, and a temporary one that the next process removes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from interp.activations.leftovers import make_temporary

BLOCK = 1 << 20  # fits the cache: a quarter faster than 16 MB, and small


class NewFile:
    """A file in the making. `hash` is known when it is done."""

    def __init__(self, descriptor: int, beside: ThreadPoolExecutor) -> None:
        self.descriptor, self.hash = descriptor, ""
        self._beside, self._synced = beside, beside.submit(lambda: None)

    def begin_sync(self) -> None:
        """Let the disk take what was written so far, beside what comes next; no call waits for it."""
        if self._synced.done():
            self._synced.result()  # a full disk is told here
            self._synced = self._beside.submit(os.fsync, self.descriptor)

    def finish(self) -> None:
        """Hash the file while the disk takes the rest of it."""
        synced = self._synced, self._beside.submit(os.fsync, self.descriptor)
        self.hash = hash_descriptor(self.descriptor)
        for each in synced:  # the kernel tells a write that failed once, to whichever asks first
            each.result()


@contextmanager
def new_file(path: Path, size: int | None = None, *, first: bool = False) -> Iterator[NewFile]:
    """A temporary file that becomes `path`, fsynced and hashed, when the block succeeds, and else vanishes.

    With `first`, a file that another process put there meanwhile stays, and this one vanishes.

    Its name tells who writes it; `leftovers.py` finds by that what the killed left.
    """
    descriptor, temporary = make_temporary(path)
    try:
        if size is not None:
            os.truncate(descriptor, size)
        with ThreadPoolExecutor(1) as beside:
            made = NewFile(descriptor, beside)
            yield made
            os.fchmod(descriptor, 0o644)  # mkstemp's 0600 would hide a shared store from colleagues
            made.finish()
        if first:
            _link(temporary, path)
        else:
            temporary.replace(path)
        sync_folder(path.parent)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """Put the file in its place unless there is one."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if not path.exists():  # a file system without links: two that begin within a moment may both pass here
            temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_sealed(path: Path, record: Mapping[str, Any], *, first: bool = False) -> None:
    """Write JSON that can tell whether a byte of it was changed, by the hash of the rest. `first` as in `new_file`."""
    with new_file(path, first=first) as file:
        os.write(file.descriptor, _sealed(record).encode())


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote, or None if the file is not byte for byte what that would write."""
    try:
        text = path.read_bytes().decode("ascii")
        record = json.loads(text)
        return record if record.pop("seal", None) and _sealed(record) == text else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _sealed(record: Mapping[str, Any]) -> str:
    body = json.dumps(record, sort_keys=True)
    return _indented({**record, "seal": hashlib.sha256(body.encode()).hexdigest()}) + "\n"


def _indented(value: Any, space: str = "\n") -> str:
    """As `json.dumps(value, indent=1, sort_keys=True)`, which does without json's C code and is ten times slower."""
    deeper = space + " "
    if isinstance(value, Mapping) and value:
        inside = (f"{json.dumps(key)}: {_indented(value[key], deeper)}" for key in sorted(value))
        return f"{{{deeper}{f',{deeper}'.join(inside)}{space}}}"
    if isinstance(value, list | tuple) and value:
        return f"[{deeper}{f',{deeper}'.join(_indented(one, deeper) for one in value)}{space}]"
    return json.dumps(value)


def hash_file(path: Path) -> str:
    """XXH3 (128 bits) of a file: finds any damage, at the speed of memory; no protection from malice."""
    with path.open("rb", buffering=0) as file:
        return hash_descriptor(file.fileno())


def hash_descriptor(descriptor: int) -> str:
    """`hash_file` of an open file."""
    digest, buffer, at = xxhash.xxh3_128(), bytearray(BLOCK), 0
    while n := os.preadv(descriptor, [buffer], at):
        digest.update(memoryview(buffer)[:n])
        at += n
    return f"xxh3:{digest.hexdigest()}"


def write_at(descriptor: int, data: memoryview, at: int) -> None:
    """Write all of `data` at an offset."""
    while data:  # a signal or a full pipe of the kernel's may cut a write short
        n = os.pwrite(descriptor, data, at)
        data, at = data[n:], at + n
