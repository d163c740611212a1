"""Paths that a user typed: the home folder's `~`, and whether anything can be made at a place.

A shell expands `~` only at the start of a word, so `--out=~/x`, a path in a quoted command and one in a Python string
arrive with it. Taken as it stands it is a folder called `~` in the current one, which `rm -rf ~` will not remove.
"""

from __future__ import annotations

import os
from pathlib import Path

from interp.errors import UserError


def expand(path: str | Path) -> Path:
    """`path` with a leading `~` or `~user` replaced by that home folder; text `./~` is a folder really called `~`.

    Expanding twice changes nothing. Raises UserError for a user who has no home folder here.
    """
    plain = Path(path)
    if isinstance(path, str) and not path.startswith("~"):
        # `Path("./~")` forgets its "./", and whoever expands it next would write into the home folder
        return plain.absolute() if str(plain).startswith("~") else plain
    try:
        return plain.expanduser()
    except RuntimeError as error:
        user = plain.parts[0].removeprefix("~")
        who = f"user {user!r} has" if user else "this user has"
        raise UserError(
            f"{path}: {who} no home folder on this machine; expected ~/… for your own, or a whole path; "
            f"write ./{path} for a folder of that name"
        ) from error


def modified_at(path: Path) -> float:
    """When the file or folder was last written, in seconds since 1970; 0 if somebody removed it after it was listed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def check_place(path: Path, flag: str) -> None:
    """Refuse a place where nothing can be made, before anything slow starts; `flag` is where the user named it."""
    try:
        above = next(p for p in (path, *path.absolute().parents) if p.exists())
        is_folder = above.is_dir()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise UserError(f"{flag} {str(path)[:80]!r}: {error}; expected a path of a folder; choose another") from error
    if not is_folder and above == path:
        raise UserError(f"{flag} {path} is a file; expected a folder to create; choose another path")
    if not is_folder:
        raise UserError(f"{flag} {path} lies under {above}, which is a file; expected a folder; choose another path")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path}: no permission to write in {above}; choose another path")
