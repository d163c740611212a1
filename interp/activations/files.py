"""Files that are there whole or not at all: temporary name, fsync, rename; with a hash, or with a seal of their own.

A kill at any moment leaves the old file, or the new one, and a temporary one that the next process removes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash

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

    It is locked while its process lives: `is_live` tells by that whether anybody still writes it.
    """
    descriptor, temporary = _make_temporary(path)
    try:
        if size is not None:
            os.truncate(descriptor, size)
        with ThreadPoolExecutor(1) as beside:
            made = NewFile(descriptor, beside)
            yield made
            os.fchmod(descriptor, 0o644)  # mkstemp's 0600 would hide a shared store from colleagues
            made.finish()
        if first:
            with suppress(FileExistsError):
                os.link(temporary, path)
        else:
            Path(temporary).replace(path)
        sync_folder(path.parent)
    finally:
        os.close(descriptor)
        Path(temporary).unlink(missing_ok=True)


def _make_temporary(path: Path) -> tuple[int, str]:
    while True:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            os.close(descriptor)
            Path(temporary).unlink(missing_ok=True)
            raise
        if os.fstat(descriptor).st_nlink:  # else another process took it for a leftover before it was locked
            return descriptor, temporary
        os.close(descriptor)


def find_temporary(folder: Path, *names: str) -> Iterator[Path]:
    """The temporary files of files whose names match these patterns, somebody's who works or who was killed."""
    for name in names:
        yield from folder.glob(f".{name}.*")


def is_live(temporary: Path) -> bool:
    """Does a process still write this temporary file?"""
    try:
        with temporary.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # another user's is left alone
        return True
    except OSError:
        return False
    return False


def clear_leftovers(folder: Path, *names: str) -> list[Path]:
    """Remove the temporary files of processes that were killed, and return them."""
    gone = []
    for left in find_temporary(folder, *names):
        with suppress(OSError), left.open("rb") as file:  # OSError: somebody still writes it, or it is gone already
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
            gone.append(left)
    return gone


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
    return json.dumps({**record, "seal": hashlib.sha256(body.encode()).hexdigest()}, indent=1, sort_keys=True) + "\n"


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
