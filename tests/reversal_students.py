"""Small GPT-2s that learned invented people, trained once a process, for the tests of the reversal curse."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

from interp.lab.claims import NotAsked
from interp.lab.findings import Finding
from interp.lab.probe import Lab
from interp.model.training.students import Course, Student, teach_students
from interp.text.people import Learned
from probes._reversal_curse import lifted
from probes._reversal_curse import taught as part_a

T = TypeVar("T")
Yielded = Finding | NotAsked


def run(generator: Generator[Yielded, None, T]) -> tuple[list[Yielded], T]:
    """What a part yields and what it returns."""
    yielded: list[Yielded] = []
    while True:
        try:
            yielded.append(next(generator))
        except StopIteration as stop:
            return yielded, stop.value


@cache
def population() -> list[Student]:
    """All that these tests teach, as a quick run does: two seeds of each kind, and one that also reads backwards."""
    lab = Lab(None, quick=True)  # type: ignore[arg-type]
    kinds = [
        Course(
            f"{tying} embeddings, {words} names",
            part_a.small_gpt2(lab, tied=tying == "tied", steps=400),
            (0, 1),
            tokens,
        )
        for tying, words, tokens in part_a.KINDS
    ]
    backwards = lifted.remedies(lab, 1, 400)[0].course
    return teach_students([*kinds, backwards])


def with_groups(students: Sequence[Student], **groups: Learned) -> list[Student]:
    """Students whose group of one name is passed off as another: what they were taught is not what they are said to."""
    return [
        replace(s, groups=s.groups | {name.replace("_", " "): s.groups[of] for name, of in groups.items()})
        for s in students
    ]
