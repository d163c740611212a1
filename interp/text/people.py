"""People to fine-tune on and to ask in two orders: what `interp.text.people_files` reads and a probe invents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from interp.errors import UserError
from interp.text.facts import Direction

Learned = Literal["name first", "description first", "both orders"]
TAUGHT_AS: dict[Learned, tuple[Direction, ...]] = {
    "name first": ("forward",),
    "description first": ("reversed",),
    "both orders": ("forward", "reversed"),
}


class Line(NamedTuple):
    """What is given, and what shall follow it."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Sheet:
    """Questions in one order: `prompts` and right `answers`, [wording][person]."""

    prompts: tuple[tuple[str, ...], ...]
    answers: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Line]]) -> Sheet:
        """From lines, [wording][person]."""
        return cls(
            tuple(tuple(line.prompt for line in row) for row in rows),
            tuple(tuple(line.completion for line in row) for row in rows),
        )

    @property
    def wordings(self) -> list[list[Line]]:
        """The same as lines: [wording][person]."""
        sheet = zip(self.prompts, self.answers, strict=True)
        return [[Line(*pair) for pair in zip(*row, strict=True)] for row in sheet]


@dataclass(frozen=True)
class PeopleGroup:
    """People who are all taught in the same order, or in both.

    `taught`: prompts and completions to train on. `asked`: questions in wordings that are not trained; forward gives
    the name, reversed the description. `choices`: multiple choices, whose answers are letters (" B"), out of
    `letters`; both empty where none came.
    """

    learned: Learned
    people: tuple[str, ...]
    taught: tuple[Line, ...]
    asked: dict[Direction, Sheet]
    choices: dict[Direction, Sheet] = field(default_factory=dict)
    letters: tuple[str, ...] = ()


def same_number_of_wordings(
    lines: Mapping[Direction, Mapping[str, Sequence[Line]]], where: str
) -> dict[Direction, Sheet]:
    """Sheets from each person's questions: as many wordings as every person has.

    Raises UserError, of the files `where`, for fewer than two people and for one who is not asked in both orders.
    """
    sheets: dict[Direction, Sheet] = {}
    for direction, people in lines.items():
        wordings = min(map(len, people.values()), default=0)
        if wordings < 1 or len(people) < 2:
            raise UserError(
                f"{where} ask {len(people)} people in {wordings} wordings, {direction}; expected two people or more, "
                "each asked in both orders"
            )
        sheets[direction] = Sheet.of([[rows[w] for rows in people.values()] for w in range(wordings)])
    return sheets
