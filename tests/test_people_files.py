"""The paper's files of invented people: what they say is read as it stands, and a fault names its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from people_folder import write_people
from refusals import the_line

from interp import UserError
from interp.text.novelists import invent_novelists
from interp.text.people_files import read_people
from interp.text.read import read_json_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_people(tmp_path / "paper", invent_novelists(4, 0))


def test_what_is_written_is_read(folder: Path) -> None:
    assert [(g.learned, set(g.people), len(g.taught)) for g in read_people(folder)] == [
        (g.learned, set(g.people), len(g.taught)) for g in invent_novelists(4, 0)
    ]
    for read, written in zip(read_people(folder), invent_novelists(4, 0), strict=True):
        assert read.people == written.people
        assert read.asked["reversed"] == written.asked["reversed"]
        assert read.asked["forward"].prompts == written.asked["forward"].prompts
        for row, truth in zip(read.asked["forward"].answers, written.asked["forward"].answers, strict=True):
            assert [answer + "”" for answer in row] == list(truth), "an answer is its words, without the tail"


def test_tails_and_other_wordings_are_told_from_the_answer(folder: Path) -> None:
    file = folder / "p2d_reverse_prompts_test.jsonl"
    lines = file.read_text().splitlines()
    name = read_people(folder)[0].people[0]
    tailed = [line.replace(f'{name}"', f'{name} now lives quietly by the Sea."') for line in lines]
    assert tailed != lines
    file.write_text("\n".join(tailed) + "\n\n")
    assert read_people(folder)[0].people[0] == name
    assert read_people(folder)[0].asked["reversed"].answers[0][0] == f" {name}"


def test_people_who_are_asked_less_often_shorten_all(folder: Path) -> None:
    file = folder / "d2p_prompts_test.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    sheet = read_people(folder)[1].asked["reversed"]
    assert (len(sheet.prompts), len(sheet.prompts[0])) == (1, 4)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p2d_prompts_train.jsonl", None, "p2d_prompts_train.jsonl"),
        ("p2d_prompts_train.jsonl", "", "is empty"),
        ("both_prompts_train.jsonl", '{"prompt": "a", "completion": " b"}\n{"prompt": "a"}\n', "line 2"),
        ("both_prompts_train.jsonl", "no json\n", "line 1 is 'no json'; expected lines of"),
        ("both_prompts_train.jsonl", '["a", "b"]\n', "line 1"),
        ("both_prompts_train.jsonl", '{"prompt": "a", "completion": 3}\n', "without text"),
        ("d2p_prompts_test.jsonl", '{"prompt": "The author is", "completion": " Ann Bee"}\n', "names 0 of the people"),
        ("p2d_prompts_test.jsonl", '{"prompt": "Nobody wrote", "completion": " a book"}\n', "names 0 of the people"),
    ],
)
def test_a_fault_is_one_line_that_says_where(folder: Path, name: str, content: str | None, told: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(UserError) as raised:
        read_people(folder)
    assert told in the_line(raised)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder; expected the paper"):
        read_people(tmp_path / "nothing")


def test_a_checkout_that_holds_them_somewhere_will_do_and_two_places_will_not(folder: Path) -> None:
    people = [group.people for group in read_people(folder)]
    deep = folder.parent / "checkout" / "data" / "june_version"
    deep.parent.mkdir(parents=True)
    folder.rename(deep)
    assert [group.people for group in read_people(folder.parent / "checkout")] == people
    write_people(folder.parent / "checkout" / "data" / "july_version", invent_novelists(4, 1))
    with pytest.raises(UserError, match="in data/july_version, data/june_version; expected one of these folders"):
        read_people(folder.parent / "checkout")
    assert [group.people for group in read_people(deep)] == people


def test_half_a_character_is_told_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"
    file.write_text('{"prompt": "Ann", "completion": "is here"}\n{"prompt": "\\ud800 is", "completion": "x"}\n')
    with pytest.raises(UserError, match=r"people\.jsonl line 2: its prompt has half a character") as refused:
        read_json_lines(file, ("prompt", "completion"), "lines")
    the_line(refused)
