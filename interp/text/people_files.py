"""Invented people to fine-tune on and to ask, in the files of Berglund et al. (arXiv:2309.12288, experiment 1).

A folder holds `{p2d,d2p,both}_prompts_{train,test}.jsonl` and `{p2d,d2p}_reverse_prompts_test.jsonl`, a line each
{"prompt": …, "completion": …}: p2d gives the person's name and asks for the description, d2p the other way round. The
published files carry no licence, so they are read from the user's copy and never shipped.

What the published files taught, and what is done about it:

- Completions carry tails (`."."`, `takes it in stride.`). A question's answer is the name where a name is asked for,
  else the completion to its last word.
- The right answer to one question may be worded otherwise in the next, so that answers are kept wording by wording.
- The `…_reverse_prompts_test_randomized.jsonl` deal the answers to the wrong people. Any sheet can be dealt so, and
  they are not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from interp.errors import UserError
from interp.paths import expand
from interp.text.facts import Direction
from interp.text.read import read_text

Learned = Literal["name first", "description first", "both orders"]

EXPECTED = 'lines of {"prompt": "…", "completion": " …"}'
_KINDS: dict[str, Learned] = {"p2d": "name first", "d2p": "description first", "both": "both orders"}
_NAME = re.compile(r"\s*((?:[A-Z][\w'’-]+ ){1,3}?[A-Z][\w'’-]+)\b")  # two capitalised words or more
_TAIL = re.compile(r"\W+$")


class Line(NamedTuple):
    """One line of a file."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Sheet:
    """Questions in one order: `prompts` and right `answers`, [wording][person]."""

    prompts: tuple[tuple[str, ...], ...]
    answers: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class PeopleGroup:
    """People who are all taught in the same order, or in both.

    `taught`: prompts and completions to train on. `asked`: questions in wordings that are not trained; forward gives
    the name, reversed the description.
    """

    learned: Learned
    people: tuple[str, ...]
    taught: tuple[Line, ...]
    asked: dict[Direction, Sheet]


def read_people(folder: str | Path) -> list[PeopleGroup]:
    """The three groups of a folder.

    Raises UserError for a missing file, and with file and line for what is no prompt with its completion.
    """
    folder = expand(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected the paper's files, p2d_prompts_train.jsonl and so on")
    groups = []
    for kind, learned in _KINDS.items():
        taught = read_lines(folder / f"{kind}_prompts_train.jsonl")
        tests = [f"{kind}_prompts_test.jsonl"]
        if kind != "both":
            tests.append(f"{kind}_reverse_prompts_test.jsonl")
        lines = [line for name in tests for line in read_lines(folder / name)]
        groups.append(_group(learned, taught, lines, folder / tests[0]))
    return groups


def read_lines(path: Path) -> list[Line]:
    """The lines of one file. Raises UserError for one that is not a prompt and the completion that follows it."""
    lines = []
    for number, text in enumerate(read_text(path, EXPECTED).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
            line = Line(record["prompt"], record["completion"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{path} line {number} is {text[:60]!r}; expected {EXPECTED}") from None
        if not all(isinstance(one, str) and one.strip() for one in line):
            raise UserError(f"{path} line {number} has a prompt or a completion without text; expected {EXPECTED}")
        lines.append(Line(line.prompt.rstrip(), f" {line.completion.strip()}"))
    if not lines:
        raise UserError(f"{path} is empty; expected {EXPECTED}")
    return lines


def _group(learned: Learned, taught: Sequence[Line], lines: Sequence[Line], path: Path) -> PeopleGroup:
    named = [(line, _NAME.match(line.completion)) for line in lines]
    names = dict.fromkeys(found[1] for _, found in named if found)
    by_person: dict[Direction, dict[str, list[Line]]] = {
        "forward": {name: [] for name in names},
        "reversed": {name: [] for name in names},
    }
    for line, found in named:
        if found:
            by_person["reversed"][found[1]].append(Line(line.prompt, f" {found[1]}"))
            continue
        who = [name for name in names if name in line.prompt]
        if len(who) != 1:
            raise UserError(f"{path}: {line.prompt!r:.80} names {len(who)} of the people; expected one")
        by_person["forward"][who[0]].append(Line(line.prompt, _TAIL.sub("", line.completion)))
    asked: dict[Direction, Sheet] = {}
    for direction, people in by_person.items():
        wordings = min(map(len, people.values()), default=0)
        if wordings < 1 or len(people) < 2:
            raise UserError(
                f"{path} and its reverse ask {len(people)} people in {wordings} wordings, {direction}; expected two "
                "people or more, each asked in both orders"
            )
        squares = [[rows[w] for rows in people.values()] for w in range(wordings)]
        asked[direction] = Sheet(
            tuple(tuple(line.prompt for line in row) for row in squares),
            tuple(tuple(line.completion for line in row) for row in squares),
        )
    return PeopleGroup(learned, tuple(names), tuple(taught), asked)
