"""Writes groups of people in the files that Berglund et al. published theirs in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from interp.text.people_files import Line, PeopleGroup, Sheet

KINDS = {"name first": "p2d", "description first": "d2p", "both orders": "both"}


def write_people(folder: Path, groups: Sequence[PeopleGroup]) -> Path:
    """All their files but those that deal answers at random. Lines stand person by person, as theirs do."""
    folder.mkdir()
    for group in groups:
        kind = KINDS[group.learned]
        forward, backward = (list(_lines(group.asked[direction])) for direction in ("forward", "reversed"))
        _write(folder / f"{kind}_prompts_train.jsonl", group.taught)
        if kind == "both":
            _write(folder / "both_prompts_test.jsonl", [*forward, *backward])
            continue
        taught, other = (forward, backward) if kind == "p2d" else (backward, forward)
        _write(folder / f"{kind}_prompts_test.jsonl", taught)
        _write(folder / f"{kind}_reverse_prompts_test.jsonl", other)
    return folder


def _lines(sheet: Sheet) -> Iterable[Line]:
    for person in range(len(sheet.prompts[0])):
        for prompts, answers in zip(sheet.prompts, sheet.answers, strict=True):
            yield Line(prompts[person], answers[person])


def _write(path: Path, lines: Iterable[Line]) -> None:
    path.write_text("".join(json.dumps(line._asdict(), ensure_ascii=False) + "\n" for line in lines))
