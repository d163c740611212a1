"""Small GPT-2s that learned invented people, trained once a process, for the tests of the reversal curse."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

from interp.lab.claims import NotAsked
from interp.lab.findings import Finding
from interp.model.training.small import SmallGPT2
from interp.model.training.students import Course, Student, teach_students
from interp.text.people import Learned
from probes._reversal_curse import lifted
from probes._reversal_curse import taught as part_a

T = TypeVar("T")
Yielded = Finding | NotAsked
PEOPLE = (12, 12, 12)  # name first, description first, in both orders


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
    """All that these tests teach, of few people: two seeds of each kind, and one that also reads backwards."""
    how = {tied: SmallGPT2(tied=tied, steps=300, batch=32, lr=4e-3) for tied in (True, False)}
    kinds = [
        Course(f"{tying} embeddings, {words} names", how[tying == "tied"], (0, 1), tokens, PEOPLE)
        for tying, words, tokens in part_a.KINDS
    ]
    twice_the_sentences = SmallGPT2(tied=False, steps=400)
    backwards = Course("reversed sentences too", twice_the_sentences, (0,), sizes=PEOPLE, more=lifted.turned_round)
    return teach_students([*kinds, backwards])


def with_groups(students: Sequence[Student], **groups: Learned) -> list[Student]:
    """Students whose group of one name is passed off as another: what they were taught is not what they are said to."""
    return [
        replace(s, groups=s.groups | {name.replace("_", " "): s.groups[of] for name, of in groups.items()})
        for s in students
    ]
