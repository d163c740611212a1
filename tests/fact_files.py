"""Writes fact sets to disk, whole or with a fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHEET: dict[str, Any] = {
    "name": "towns",
    "subject": "river",
    "object": "town",
    "forward": ["By the {} is", "Near the {} lies", "On the {} stands"],
    "forward_held_out": "Along the {} you find",
    "reversed": ["In the town of {} flows", "At {} there is", "Through {} runs"],
    "reversed_held_out": "Close to {} passes",
}


def write_facts(folder: Path, raw: bytes | str, **changes: Any) -> Path:
    """A fact set on disk; `changes` replace keys of the template sheet, None deletes one."""
    path = folder / "towns.csv"
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    sheet = {k: v for k, v in {**SHEET, **changes}.items() if v is not None}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in sheet.items()]
    path.with_suffix(".toml").write_text("\n".join(lines), encoding="utf-8")
    return path
