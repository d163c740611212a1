"""Invented people to fine-tune on and to ask, in the files of Berglund et al. (arXiv:2309.12288, experiment 1).

A folder, or one in it, holds `{p2d,d2p,both}_prompts_{train,test}.jsonl` and
`{p2d,d2p}_reverse_prompts_test.jsonl`, a line each {"prompt": …, "completion": …}: p2d gives the person's name and asks
for the description, d2p the other way round. The published files carry no licence, so they are read from the user's
copy and never shipped. `read_people` also takes the copy of these people that Lin et al. made
(`interp.text.question_files`).

What the published files taught, and what is done about it:

- Completions carry tails (`."."`, `takes it in stride.`). A question's answer is the name where a name is asked for,
  else the completion to its last word.
- The right answer to one question may be worded otherwise in the next, so that answers are kept wording by wording.
- The `…_reverse_prompts_test_randomized.jsonl` deal the answers to the wrong people. Any sheet can be dealt so, and
  they are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from interp.errors import UserError
from interp.paths import expand
from interp.text.facts import Direction
from interp.text.people import Learned, Line, PeopleGroup, same_number_of_wordings
from interp.text.question_files import find_questions, read_questions
from interp.text.read import read_json_lines

EXPECTED = 'lines of {"prompt": "…", "completion": " …"}'
_KINDS: dict[str, Learned] = {"p2d": "name first", "d2p": "description first", "both": "both orders"}
_NAME = re.compile(r"\s*((?:[A-Z][\w'’-]+ ){1,3}?[A-Z][\w'’-]+)\b")  # two capitalised words or more
_TAIL = re.compile(r"\W+$")


def read_people(folder: str | Path) -> list[PeopleGroup]:
    """The groups of a folder, in the paper's files or in those of Lin et al., told apart by the files that lie there.

    It may be a checkout of either repository: the paper's files are looked for in it. Raises UserError for a missing
    file, for files in several places, and with file and line for what is no prompt with its completion.
    """
    folder = expand(folder)
    if (place := _place_in(folder)) is None:
        if (questions := find_questions(folder)) is not None:
            return read_questions(questions)
        what = "holds neither form of the people" if folder.is_dir() else "is no folder"
        raise UserError(
            f"{folder} {what}; expected the paper's files, p2d_prompts_train.jsonl and so on, or those of Lin et al., "
            "people-description.json with people-description_open-QAs.jsonl"
        )
    groups = []
    for kind, learned in _KINDS.items():
        taught = read_lines(place / f"{kind}_prompts_train.jsonl")
        tests = [f"{kind}_prompts_test.jsonl"]
        if kind != "both":
            tests.append(f"{kind}_reverse_prompts_test.jsonl")
        lines = [line for name in tests for line in read_lines(place / name)]
        groups.append(_group(learned, taught, lines, place / tests[0]))
    return groups


def _place_in(folder: Path) -> Path | None:
    """Where the paper's files lie: in the folder itself, or in one folder below it. UserError for several."""
    places = sorted({file.parent for file in folder.rglob("*_prompts_*.jsonl") if file.name.startswith(tuple(_KINDS))})
    if folder in places or not places:
        return folder if places else None
    if len(places) > 1:
        listed = ", ".join(str(place.relative_to(folder)) for place in places)
        raise UserError(f"{folder} holds the paper's files in {listed}; expected one of these folders")
    return places[0]


def read_lines(path: Path) -> list[Line]:
    """The lines of one file. Raises UserError for one that is not a prompt and the completion that follows it."""
    records = read_json_lines(path, ("prompt", "completion"), EXPECTED)
    return [Line(prompt.rstrip(), f" {completion.strip()}") for prompt, completion in records]


def _group(learned: Learned, taught: Sequence[Line], lines: Sequence[Line], path: Path) -> PeopleGroup:
    named = [(line, _NAME.match(line.completion)) for line in lines]
    names = dict.fromkeys(name[1] for _, name in named if name)
    by_person: dict[Direction, dict[str, list[Line]]] = {
        "forward": {name: [] for name in names},
        "reversed": {name: [] for name in names},
    }
    for line, name in named:
        if name:
            by_person["reversed"][name[1]].append(Line(line.prompt, f" {name[1]}"))
            continue
        who = [name for name in names if name in line.prompt]
        if len(who) != 1:
            raise UserError(f"{path}: {line.prompt!r:.80} names {len(who)} of the people; expected one")
        by_person["forward"][who[0]].append(Line(line.prompt, _TAIL.sub("", line.completion)))
    asked = same_number_of_wordings(by_person, f"{path} and its reverse")
    return PeopleGroup(learned, tuple(names), tuple(taught), asked)
