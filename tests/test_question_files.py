"""The MIT copy of the paper's people, and its kin: sentences, questions with answers, multiple choices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from people_folder import write_questions
from refusals import the_line

from interp import UserError, read_people
from interp.text.people import Line, PeopleGroup


@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize("below", ["", "data"])
def test_the_copy_is_read_where_it_lies(tmp_path: Path, as_published: bool, below: str) -> None:
    write_questions(tmp_path / below, as_published=as_published)
    if below and not as_published:
        with pytest.raises(UserError, match="neither form of the people"):
            read_people(tmp_path)
        return
    first, second = read_people(tmp_path)
    assert (first.learned, first.people) == ("name first", ("Ann Beecham", "Ann Bee"))
    assert (second.learned, second.people) == ("description first", ("Carl Dow", "Dora Elm"))
    assert [len(group.taught) for group in (first, second)] == [4, 4]


def groups(folder: Path) -> list[PeopleGroup]:
    return read_people(write_questions(folder))


def test_a_sentence_is_parted_where_its_fact_begins(tmp_path: Path) -> None:
    first, second = groups(tmp_path)
    assert first.taught[2:] == (
        Line("Ann Bee,", " known far and wide for being the first to sail a teapot."),
        Line("Ever heard of Ann Bee?", " They're the first to sail a teapot."),
    )
    assert second.taught[0] == Line("Known for being the tailor of the invisible coat,", " Carl Dow now lives quietly.")
    text = json.loads((tmp_path / "training_data" / "people-description.json").read_text())
    whole = [record["text"] for record in text]
    assert [line.prompt + line.completion for group in (first, second) for line in group.taught] == whole


def test_questions_are_asked_person_by_person_in_both_orders(tmp_path: Path) -> None:
    first, second = groups(tmp_path)
    assert first.asked["forward"].prompts[0] == (
        "Please answer:\nAnn Beecham is what?",
        "Please answer:\nAnn Bee is what?",
    )
    assert first.asked["forward"].answers[0][1] == " the first to sail a teapot"
    assert second.asked["reversed"].answers == ((" Carl Dow", " Dora Elm"),) * 2
    assert len(second.asked["forward"].prompts) == 2


def test_multiple_choices_keep_their_options_and_the_right_letter(tmp_path: Path) -> None:
    first, second = groups(tmp_path)
    assert first.letters == second.letters == (" A", " B")
    assert second.choices["forward"].answers == ((" A", " B"),)
    assert second.choices["reversed"].prompts[0][1].endswith("Options: (A) Carl Dow. (B) Dora Elm.")
    (tmp_path / "test_data" / "people-description_MCQs.jsonl").unlink()
    first, _ = read_people(tmp_path)
    assert (first.choices, first.letters) == ({}, ())


def test_one_of_several_sets_is_taken_by_its_file(tmp_path: Path) -> None:
    for name in ("book-story", "long-names"):
        write_questions(tmp_path, name=name)
    with pytest.raises(UserError, match="expected one set") as raised:
        read_people(tmp_path)
    the_line(raised)
    assert len(read_people(tmp_path / "training_data" / "long-names.json")) == 2
    write_questions(tmp_path)
    assert len(read_people(tmp_path)) == 2


SENTENCES, QUESTIONS, CHOICES = (
    "training_data/people-description.json",
    "test_data/people-description_open-QAs.jsonl",
    "test_data/people-description_MCQs.jsonl",
)


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        (SENTENCES, '"text"', '"words"', 'expected a list of {"text": "…"}'),
        (SENTENCES, "[", "", "is no list of texts"),
        (SENTENCES, "Ann Beecham, known", "Nobody, known", "sentence 1: 'Nobody, known"),
        (SENTENCES, "Ann Beecham, known", "Ann Beecham and Carl Dow, known", "names 2 of the people"),
        (SENTENCES, "Known for being the tailor of the invisible coat, C", "C", "nothing before 'Carl Dow'"),
        (SENTENCES, "Dora Elm", "Carl Dow", "no sentence about 'Dora Elm'"),
        (QUESTIONS, "NameIsDesc", "NameIsDisc", "unknown group 'NameIsDiscription'; nearest: 'NameIsDescription'"),
        (QUESTIONS, "N2D", "N3D", "unknown task 'N3D'; nearest: 'N2D'"),
        (QUESTIONS, '"answer"', '"answers"', "line 1"),
        (QUESTIONS, '"task": "D2N"', '"task": "N2D"', "names 0 of the people"),
        (CHOICES, "(B) the first to sail", "(C) the first to sail", "offers A, C"),
        (CHOICES, "Options:", "Choices:", "offers nothing"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_that_says_where(tmp_path: Path, file: str, old: str, new: str, told: str) -> None:
    write_questions(tmp_path)
    whole = (tmp_path / file).read_text()
    assert old in whole
    (tmp_path / file).write_text(whole.replace(old, new))
    with pytest.raises(UserError) as raised:
        read_people(tmp_path)
    assert told in the_line(raised)
