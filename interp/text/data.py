"""Where the bundled data lies: `data("facts/elements.csv")`, in a checkout and in an installed wheel alike."""

from __future__ import annotations

from pathlib import Path

from interp.errors import UserError, nearest


def data(name: str) -> Path:
    """The path of a bundled data file (`data/README.md` describes each). Raises UserError with the nearest names."""
    root = _root()
    path = root / name
    if not path.exists():
        near = ", ".join(nearest(name, (p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())))
        raise UserError(f"no bundled data file {name!r}; nearest: {near}")
    return path


def _root() -> Path:
    package = Path(__file__).parents[1]
    installed = package / "_data"  # where the wheel puts data/
    return installed if installed.is_dir() else package.parent / "data"
