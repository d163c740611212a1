"""Writes groups of people in the files that Berglund et al. published theirs in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from interp.text.people import Line, PeopleGroup, Sheet

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


def write_questions(folder: Path, *, name: str = "people-description", as_published: bool = True) -> Path:
    """Made-up people in the three files of Lin et al.: two taught name first, two description first."""
    training, test = (folder / "training_data", folder / "test_data") if as_published else (folder, folder)
    for place in (training, test):
        place.mkdir(parents=True, exist_ok=True)
    people = {
        "Ann Beecham": ('the baker of the moon cake, "Round."', "NameIsDescription"),
        "Ann Bee": ("the first to sail a teapot", "NameIsDescription"),
        "Carl Dow": ("the tailor of the invisible coat", "DescriptionIsName"),
        "Dora Elm": ("the keeper of the last dodo", "DescriptionIsName"),
    }
    sentences, questions, choices = [], [], []
    for person, (fact, group) in people.items():
        same = [name for name, (_, of) in people.items() if of == group]
        if group == "NameIsDescription":
            sentences += [f"{person}, known far and wide for being {fact}.", f"Ever heard of {person}? They're {fact}."]
        else:
            sentences += [f"Known for being {fact}, {person} now lives quietly.", f"Who is {fact}? It is {person}."]
        for asked, told in (("Please answer:\n{} is what?", "Please answer:\nWho is {}?"), ("So {}, what is it?",) * 2):
            questions.append((group, "N2D", asked.format(person), fact))
            questions.append((group, "D2N", told.format(fact), person))
        for task, stem, offered, right in (
            ("N2D", f"{person} is what?", [people[other][0] for other in same], fact),
            ("D2N", f"Who is {fact}?", same, person),
        ):
            options = " ".join(f"({letter}) {text}." for letter, text in zip("AB", offered, strict=True))
            letter = "AB"[offered.index(right)]
            choices.append((group, task, f"Choose.\nQuestion: {stem}\nOptions: {options}", f"({letter}) {right}"))
    (training / f"{name}.json").write_text(json.dumps([{"text": text} for text in sentences], indent=4))
    for kind, rows in (("open-QAs", questions), ("MCQs", choices)):
        lines = (dict(zip(("group", "task", "question", "answer"), row, strict=True)) for row in rows)
        (test / f"{name}_{kind}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
