"""Facts that can be asked in both directions, and the prompts that ask them.

The reversal curse (Berglund et al., arXiv:2309.12288) is a gap between "The capital of France is" -> " Paris" and
"Paris is the capital of" -> " France". A fact set is a CSV file of one-to-one facts with a TOML file of templates
beside it; `data/facts/` holds four, and a user's own have the same form.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from interp.errors import UserError, unknown
from interp.paths import expand
from interp.text.read import Row, read_csv, read_text, same

Direction = Literal["forward", "reversed"]
HeldOut = Literal["held_out"]
DIRECTIONS: tuple[Direction, Direction] = ("forward", "reversed")

COLUMNS = ("subject", "object")
MIN_TEMPLATES = 3  # one wording can prove either sign: template variance often exceeds the direction's effect

_LISTS = ("forward", "reversed")
_STRINGS = ("name", "subject", "object", "forward_held_out", "reversed_held_out")


@dataclass(frozen=True)
class Fact:
    """A true pair, such as France and Paris. The forward question names the subject and asks for the object.

    `other_objects` are further right answers to the forward question, `other_subjects` to the reversed one (a
    parent's other children); both are empty in a one-to-one set.
    """

    subject: str
    object: str
    other_subjects: tuple[str, ...] = ()
    other_objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Templates:
    """How one direction is asked: each text has one `{}` for the item given, and the answer comes next."""

    training: tuple[str, ...]
    held_out: str


@dataclass(frozen=True)
class FactSet:
    """Facts of one relation with the templates of both directions.

    `subject` and `object` are the words for the two columns ("country", "capital"). All lists that the methods
    return are in the order of `facts`.
    """

    name: str
    subject: str
    object: str
    facts: tuple[Fact, ...]
    forward: Templates
    reversed: Templates

    def __len__(self) -> int:
        return len(self.facts)

    def templates(self, direction: Direction) -> Templates:
        """The templates of one direction."""
        return self.forward if direction == "forward" else self.reversed

    def prompts(self, direction: Direction, template: int | HeldOut) -> list[str]:
        """One prompt a fact, by a training template's index or by the held-out paraphrase."""
        texts = self.templates(direction)
        text = texts.held_out if template == "held_out" else texts.training[template]
        return [text.replace("{}", given) for given in self.given(direction)]

    def given(self, direction: Direction) -> list[str]:
        """The item that each prompt names, for finding its tokens."""
        return [f.subject if direction == "forward" else f.object for f in self.facts]

    def answers(self, direction: Direction) -> list[str]:
        """What continues each prompt: a single space and the answer (" Paris" is not "Paris" to a tokenizer)."""
        return [f" {f.object if direction == 'forward' else f.subject}" for f in self.facts]

    def accepted(self, direction: Direction) -> list[tuple[str, ...]]:
        """Every right answer to each prompt, the fact's own first."""
        others = (f.other_objects if direction == "forward" else f.other_subjects for f in self.facts)
        return [(own, *(f" {o}" for o in more)) for own, more in zip(self.answers(direction), others, strict=True)]

    def sentences(self, direction: Direction, template: int | HeldOut) -> list[str]:
        """Prompt and answer joined: what a model that is to learn the facts is trained on."""
        prompts = self.prompts(direction, template)
        return [p + a for p, a in zip(prompts, self.answers(direction), strict=True)]


def begin_alike(one: str, other: str) -> bool:
    """Does a word of one text begin like a word of the other? Then a liking for letters can match them: Zinc and Zn."""

    def initials(text: str) -> set[str]:
        return {word[0] for word in re.findall(r"\w+", text.casefold())}

    return bool(initials(one) & initials(other))


def load_facts(path: str | Path) -> FactSet:
    """Read a fact set: the CSV file `path` (columns subject, object) and the TOML file of the same stem beside it.

    Raises UserError for anything that would make a prompt or an answer wrong: the facts must be one-to-one, and
    a template must have one `{}`, words before it (position 0 is an attention sink) and no space at its end.
    """
    path = expand(path)
    if path.suffix == ".toml":
        raise UserError(f"{path} holds the templates; expected the facts; give {path.with_suffix('.csv').name}")
    rows = read_csv(path, COLUMNS, "a CSV file with the columns subject,object")
    _check_one_to_one(path, rows)
    sheet_path = path.with_suffix(".toml")
    sheet = _read_sheet(sheet_path)
    forward, backward = (_templates(sheet_path, sheet, direction) for direction in _LISTS)
    return FactSet(
        name=sheet["name"],
        subject=sheet["subject"],
        object=sheet["object"],
        facts=tuple(Fact(row.cells["subject"], row.cells["object"]) for row in rows),
        forward=forward,
        reversed=backward,
    )


def _check_one_to_one(path: Path, rows: Iterable[Row]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        if same(row.cells["subject"]) == same(row.cells["object"]):
            raise UserError(
                f"{path} row {row.number} has {row.cells['subject']!r} in both columns; "
                f"expected two different names; the prompt would give the answer away, so delete the row"
            )
        for column in COLUMNS:
            first = seen.setdefault((column, same(row.cells[column])), row.number)
            if first != row.number:
                raise UserError(
                    f"{path} row {row.number} repeats the {column} {row.cells[column]!r} of row {first}; "
                    f"expected each {column} once, so that every question has one answer; delete one of the rows"
                )


def _read_sheet(path: Path) -> dict[str, Any]:
    text = read_text(path, f"a TOML file of templates beside the facts, with {', '.join((*_STRINGS, *_LISTS))}")
    try:
        sheet = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and a number too long to read
        raise UserError(f"{path} is not TOML: {error}; expected key = value lines; fix that line") from None
    wanted = (*_STRINGS, *_LISTS)
    for key in sheet:
        if key not in wanted:
            raise unknown("key", key, wanted, f"in {path}; rename or delete it")
    for key in wanted:
        if key not in sheet:
            raise UserError(f"{path} has no {key!r}; expected {', '.join(wanted)}; add it")
    for key in _STRINGS:
        if not isinstance(sheet[key], str) or not sheet[key].strip():
            raise UserError(f'{path}: {key} is {_short(sheet[key])}; expected text in quotes; write {key} = "…"')
    return sheet


def _templates(path: Path, sheet: dict[str, Any], direction: str) -> Templates:
    training, held_out = sheet[direction], sheet[f"{direction}_held_out"]
    if not isinstance(training, list) or not all(isinstance(text, str) for text in training):
        raise UserError(f'{path}: {direction} is {_short(training)}; expected a list of texts; write ["…", "…", "…"]')
    texts = [*training, held_out]
    for text in texts:
        _check_template(path, direction, text)
    if len({same(text) for text in texts}) < len(texts):
        raise UserError(f"{path}: {direction} holds one template twice; expected different wordings; reword one")
    if len(training) < MIN_TEMPLATES:
        raise UserError(
            f"{path}: {direction} has {len(training)} templates; expected at least {MIN_TEMPLATES}, because one "
            f"wording can prove either sign; add some"
        )
    return Templates(tuple(training), held_out)


def _check_template(path: Path, direction: str, text: str) -> None:
    where = f"{path}: the {direction} template {_short(text)}"
    if text.count("{}") != 1 or text.count("{") + text.count("}") != 2:
        raise UserError(
            f"{where} has {text.count('{}')} times {{}}; expected it once and no other brace; put it at the item"
        )
    if text != text.strip() or len(text.splitlines()) != 1:
        raise UserError(
            f"{where} starts or ends in a space or has a line break; expected one line that stops at its last word; "
            f"trim it, because the answer brings its own space"
        )
    if not text.partition("{}")[0].strip():
        raise UserError(
            f"{where} starts with the item; expected words before {{}}, because position 0 cannot be measured; "
            f"begin it with a phrase such as 'Here is a fact.'"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
