"""Our folder in the user's cache: converted models and trained SAEs. Entries appear whole or not at all.

Each entry holds `manifest.json` with the SHA-256 of its files; one that no longer matches counts as absent.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from interp.errors import UserError
from interp.paths import expand, modified_at

MANIFEST = "manifest.json"


def cache_dir() -> Path:
    """`$INTERP_CACHE`, else `$XDG_CACHE_HOME/interp-probes`, else `~/.cache/interp-probes`."""
    if chosen := os.environ.get("INTERP_CACHE"):
        return expand(chosen)
    return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "interp-probes"


def is_intact(folder: Path) -> bool:
    """Does the folder hold exactly what its manifest says, byte for byte?"""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        there = {p.name for p in folder.iterdir() if not p.name.startswith(".")}  # file browsers leave hidden files
        if not manifest or there != {MANIFEST, *manifest}:
            return False
        return all(_sha256(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def new_folder(target: Path, needs_bytes: int = 0) -> Iterator[Path]:
    """A temporary folder that becomes `target`, with a manifest, when the block succeeds and vanishes when it does not.

    A damaged `target` is replaced, and what a killed process left behind an hour ago or earlier is removed.
    Two processes may do this at once: the first to finish wins, and both see a whole folder.
    Raises UserError when the disk is full or cannot be written.
    """
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        ours = cache_dir() in target.parents  # elsewhere, other hidden folders are somebody else's
        for left in target.parent.glob(".*.*" if ours else f".{target.name}.*"):
            if time.time() - modified_at(left) > 3600:
                shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(target.parent).free
        if needs_bytes > free:
            raise OSError(errno.ENOSPC, f"needs {needs_bytes / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        yield temporary
        digests = {p.name: _sha256(p) for p in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps(digests, indent=1), encoding="utf-8")
        if target.exists() and not is_intact(target):
            with (
                suppress(FileNotFoundError),
                tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as aside,
            ):
                target.rename(aside)  # whole: removed file by file, another process's new one could go with it
        try:
            temporary.rename(target)
        except OSError:
            if not is_intact(target):  # else another process was first: its folder is as good as ours
                raise
    except OSError as error:
        raise UserError(
            f"cannot write {target}: {error.strerror or error}; free some space or point INTERP_CACHE elsewhere"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
