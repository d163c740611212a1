"""Invented people, and invented books, in the files of Lin et al. (arXiv:2410.18808, github.com/alibaba/thinking_bias).

Their `people-description` is Berglund et al.'s people under the MIT licence, without the group that is taught in both
orders. A set NAME is three files; they may lie in one folder, or as published in `training_data/` and `test_data/`:

    NAME.json               [{"text": …}, …]: the sentences to learn, each about one person
    NAME_open-QAs.jsonl     {"group", "task", "question", "answer"} a line: task N2D asks for the description, D2N for
                            the name; the group says in which order the person is taught
    NAME_MCQs.jsonl         the same with "Options: (A) … (B) …" in the question and "(B) …" as answer; may be missing

A sentence is parted where its fact begins to be told: behind the word that ends the name where the name is taught
first, before the name where the description is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from interp.errors import UserError, unknown
from interp.paths import expand
from interp.text.facts import Direction
from interp.text.people import Learned, Line, PeopleGroup, Sheet, same_number_of_wordings
from interp.text.read import read_json_lines, read_text

FIRST = "people-description"  # where a folder holds several sets
SENTENCES = 'a list of {"text": "…"}'
QUESTIONS = 'lines of {"group": "…", "task": "…", "question": "…", "answer": "…"}'
GROUPS: dict[str, Learned] = {
    "NameIsDescription": "name first",
    "DescriptionIsName": "description first",
    "LongNameIsDesc": "name first",
    "DescIsLongName": "description first",
    "Book-Story": "name first",
    "Story-Book": "description first",
}
TASKS: dict[str, Direction] = {"N2D": "forward", "D2N": "reversed", "B2S": "forward", "S2B": "reversed"}
OPTIONS, LETTER = "Options:", re.compile(r"\(([A-Z])\) ")


class Question(NamedTuple):
    """One line of a file of questions."""

    learned: Learned
    direction: Direction
    question: str
    answer: str


@dataclass(frozen=True)
class QuestionFiles:
    """The files of one set. `choices` is None where there are none."""

    sentences: Path
    questions: Path
    choices: Path | None


def find_questions(place: Path) -> QuestionFiles | None:
    """The set in a folder (`people-description` where there are several), or of the file NAME.json; None without one.

    Raises UserError for several sets of which none is `people-description`.
    """
    place = expand(place)
    if place.is_file():
        return _set_of(place) if place.suffix == ".json" else None
    folders = [place, place / "training_data", place / "data" / "training_data"]
    sets = [one for folder in folders for file in sorted(folder.glob("*.json")) if (one := _set_of(file))]
    first = [one for one in sets if one.sentences.stem == FIRST]
    if len(sets) > 1 and not first:
        names = ", ".join(one.sentences.name for one in sets)
        raise UserError(f"{place} holds {names}; expected one set; give the path of its .json file")
    return (first or sets or [None])[0]


def _set_of(sentences: Path) -> QuestionFiles | None:
    for folder in (sentences.parent, sentences.parent.parent / "test_data"):
        questions, choices = (folder / f"{sentences.stem}_{kind}.jsonl" for kind in ("open-QAs", "MCQs"))
        if questions.is_file():
            return QuestionFiles(sentences, questions, choices if choices.is_file() else None)
    return None


def read_questions(files: QuestionFiles) -> list[PeopleGroup]:
    """The groups of a set. Raises UserError, with file and line or sentence, for what is not of its form."""
    questions = _read(files.questions)
    names: dict[str, Learned] = {q.answer: q.learned for q in questions if q.direction == "reversed"}
    taught: dict[str, list[Line]] = {name: [] for name in names}
    for number, text in enumerate(_sentences(files.sentences), start=1):
        name = _named(text, names, f"{files.sentences}, sentence {number}")
        taught[name].append(_parted(text, name, names[name], f"{files.sentences}, sentence {number}"))
    choices = _read(files.choices) if files.choices else []
    groups = []
    for learned in dict.fromkeys(names.values()):
        people = [name for name, of in names.items() if of == learned]
        if untold := [name for name in people if not taught[name]]:
            raise UserError(f"{files.sentences} has no sentence about {untold[0]!r}; expected one of everybody asked")
        asked = _by_person(questions, learned, people, names, files.questions)
        sheets = same_number_of_wordings(asked, str(files.questions))
        lines = tuple(line for name in people for line in taught[name])
        group = PeopleGroup(learned, tuple(people), lines, sheets)
        if files.choices:
            chosen, letters = _choices(choices, learned, people, names, files.choices)
            group = PeopleGroup(learned, tuple(people), lines, sheets, chosen, letters)
        groups.append(group)
    return groups


def _read(path: Path) -> list[Question]:
    out = []
    for group, task, question, answer in read_json_lines(path, ("group", "task", "question", "answer"), QUESTIONS):
        if group not in GROUPS:
            raise unknown("group", group, GROUPS, f"in {path}")
        if task not in TASKS:
            raise unknown("task", task, TASKS, f"in {path}")
        out.append(Question(GROUPS[group], TASKS[task], question.strip(), answer.strip()))
    return out


def _sentences(path: Path) -> list[str]:
    try:
        records = json.loads(read_text(path, SENTENCES))
        texts = [record["text"] for record in records]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is no list of texts; expected {SENTENCES}") from None
    if not texts:
        raise UserError(f"{path} is empty; expected {SENTENCES}")
    for number, text in enumerate(texts, start=1):
        if not (isinstance(text, str) and text.strip()):
            raise UserError(f"{path}, sentence {number} has no text; expected {SENTENCES}")
    return [text.strip() for text in texts]


def _named(text: str, names: Iterable[str], where: str) -> str:
    """Whom a text names. A name within another that stands there too, as Ann Bee in Ann Beecham, does not count."""
    whole = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    whole = [name for name in whole if not any(name != other and name in other for other in whole)]
    if len(whole) != 1:
        raise UserError(f"{where}: {text!r:.80} names {len(whole)} of the people; expected one")
    return whole[0]


def _parted(text: str, name: str, learned: Learned, where: str) -> Line:
    """A sentence as what is given and what is to be learned."""
    at = text.index(name)
    if learned == "name first":
        space = text.find(" ", at + len(name))
        at = len(text) if space < 0 else space
    before, after = text[:at].rstrip(), text[at:].strip()
    if not before or not after:
        raise UserError(
            f"{where}: {text!r:.80} has nothing {'behind' if before else 'before'} {name!r}; expected a fact that is "
            f"told {learned}"
        )
    return Line(before, f" {after}")


def _by_person(
    questions: Sequence[Question], learned: Learned, people: Sequence[str], names: Iterable[str], path: Path
) -> dict[Direction, dict[str, list[Line]]]:
    asked: dict[Direction, dict[str, list[Line]]] = {
        "forward": {name: [] for name in people},
        "reversed": {name: [] for name in people},
    }
    for q in questions:
        if q.learned == learned:
            who = q.answer if q.direction == "reversed" else _named(q.question, names, str(path))
            if who not in people:
                raise UserError(f"{path}: {q.question!r:.80} asks of {who!r} in another group; expected one group each")
            asked[q.direction][who].append(Line(q.question, f" {q.answer}"))
    return asked


def _choices(
    questions: Sequence[Question], learned: Learned, people: Sequence[str], names: Iterable[str], path: Path
) -> tuple[dict[Direction, Sheet], tuple[str, ...]]:
    """Multiple choices with the right letter as their answer, and the letters that there are to choose from."""
    letters: list[str] = []
    asked: dict[Direction, dict[str, list[Line]]] = {"forward": {}, "reversed": {}}
    for q in questions:
        if q.learned != learned:
            continue
        stem, _, options = q.question.partition(OPTIONS)
        offered, right = LETTER.findall(options), LETTER.match(q.answer)
        in_order = list(ascii_uppercase[: len(offered)])  # so that the first question with a fault is the one named
        letters = letters or in_order
        if right is None or right[1] not in offered or offered != in_order or offered != letters or len(offered) < 2:
            raise UserError(
                f"{path}: {q.question!r:.60} offers {', '.join(offered) or 'nothing'}, and its answer is "
                f"{q.answer!r:.30}; expected {OPTIONS} (A) … (B) …, as many in all, and one of them as answer"
            )
        about = q.answer[right.end() :] if q.direction == "reversed" else stem
        who = _named(about, names, str(path))
        if who not in people:
            raise UserError(f"{path}: {q.question!r:.60} is about {who!r:.40}; expected somebody of the open questions")
        asked[q.direction].setdefault(who, []).append(Line(q.question, f" {right[1]}"))
    return same_number_of_wordings(asked, str(path)), tuple(f" {letter}" for letter in letters)
