"""One HTML file that needs nothing but a browser: written whole or not at all, its scripts named by their hashes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from markupsafe import Markup

from interp.errors import UserError


def write_html(out: Path, html: str) -> Path:
    """Write `html` to `out`, making its folder; nothing is left of an attempt that failed. Returns `out`."""
    made = [path for path in out.parents if not path.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(out, html)
    except OSError as error:
        with suppress(OSError):
            for path in made:  # the nearest first, each empty by now
                path.rmdir()
        raise UserError(
            f"cannot write {out} ({error.strerror}); expected a place to write to; choose another"
        ) from error
    return out


def check_out(out: Path) -> None:
    """Refuse a file that a report must not replace, such as a part of the run itself."""
    try:
        if out.is_dir():
            raise UserError(f"{out} is a folder; expected a file to write; add a name, such as {out / 'report.html'}")
        if out.exists() and (not out.is_file() or out.suffix.lower() not in (".html", ".htm")):
            raise UserError(f"{out} exists and is no HTML file; expected a new name or a report to replace")
    except OSError as error:
        raise UserError(f"cannot write {out!s:.80}… ({error.strerror}); choose another file") from error


def for_script(value: Any) -> Markup:
    """JSON for a script element: no `<`, so no text in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def hash_of(script: str) -> str:
    """A script's hash as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _write_whole(out: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would keep colleagues from reading it
        Path(temporary).replace(out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
