"""Fact sets: what loads, and what is refused by the line that names the place."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from fact_files import write_facts
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal

from interp.errors import UserError
from interp.text.corpus import load_corpus
from interp.text.facts import Direction, Fact, begin_alike, load_facts
from interp.text.pairs import load_pairs
from interp.text.read import LONGEST_CELL

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
TEMPLATES = (0, 1, 2, "held_out")


# --- facts: what loads ---


def test_the_two_directions_ask_for_each_others_item(tmp_path: Path) -> None:
    towns = load_facts(write_facts(tmp_path, "subject,object\nThames,London\nSeine,Paris\n"))
    assert towns.facts == (Fact("Thames", "London"), Fact("Seine", "Paris"))
    assert (towns.name, towns.subject, towns.object, len(towns)) == ("towns", "river", "town", 2)
    assert towns.prompts("forward", 1) == ["Near the Thames lies", "Near the Seine lies"]
    assert towns.answers("forward") == [" London", " Paris"]
    assert towns.prompts("reversed", "held_out") == ["Close to London passes", "Close to Paris passes"]
    assert towns.answers("reversed") == [" Thames", " Seine"]
    assert towns.given("forward") == ["Thames", "Seine"]
    assert towns.given("reversed") == ["London", "Paris"]
    assert towns.sentences("reversed", 0)[1] == "In the town of Paris flows Seine"
    assert towns.accepted("forward") == [(" London",), (" Paris",)]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbfsubject,object\nThames,London\n",
        b"subject,object\r\nThames,London\r\n\r\n\r\n",
        b"object,subject\nLondon,Thames",
        b'subject , object\n  Thames ,"London"\n',
    ],
    ids=["utf8-bom", "crlf and blank end", "columns exchanged", "spaces and quotes"],
)
def test_harmless_variants_of_a_file_load_the_same(tmp_path: Path, raw: bytes) -> None:
    assert load_facts(write_facts(tmp_path, raw)).facts == (Fact("Thames", "London"),)


def test_an_item_with_braces_or_a_comma_reaches_the_prompt_unchanged(tmp_path: Path) -> None:
    towns = load_facts(write_facts(tmp_path, 'subject,object\n"{}, or {0}",London\n'))
    assert towns.prompts("forward", 0) == ["By the {}, or {0} is"]


def test_two_unicode_spellings_of_a_name_are_one_name(tmp_path: Path) -> None:
    path = write_facts(tmp_path, "subject,object\nSão,A\nSa\u0303o,B\n")
    assert "row 3 repeats the subject" in refusal(load_facts, path)


# --- facts: what is refused ---


BAD_CSV = {
    "empty file": (b"", ["is empty", "subject,object"]),
    "only blank lines": (b"\n \n\n", ["is empty"]),
    "no rows": (b"subject,object\n", ["a header and no rows", "add at least one"]),
    "missing column": (b"subject,town\na,b\n", ["'subject,town'", "'subject,object'", "'object' is missing"]),
    "extra column": (b"subject,object,note\na,b,c\n", ["'subject,object,note'", "nothing else"]),
    "column twice": (b"subject,object,object\na,b,c\n", ["expected 'object' once"]),
    "empty cell": (b"subject,object\na,b\nc,\n", ["row 3, column 'object' is empty"]),
    "blank cell": (b"subject,object\n \t,b\n", ["row 2, column 'subject' is empty"]),
    "invisible cell": ("subject,object\na,\u200b\n".encode(), ["row 2, column 'object' is empty"]),
    "too many cells": (b"subject,object\na,b,c\n", ["row 2 has 3 cells; expected 2", "quote"]),
    "too few cells": (b"subject,object\na,b\nc\n", ["row 3 has 1 cells; expected 2"]),
    "blank line inside": (b"subject,object\na,b\n\nc,d\n", ["row 3 has 0 cells"]),
    "equal columns": (b"subject,object\nRome,rome\n", ["row 2 has 'Rome' in both columns"]),
    "subject twice": (b"subject,object\na,b\nc,d\nA,e\n", ["row 4 repeats the subject 'A' of row 2"]),
    "object twice": (b"subject,object\na,b\nc,B\n", ["row 3 repeats the object 'B' of row 2"]),
    "nul": (b"subject,object\na,b\nc\0,d\n", ["NUL byte at offset 20 (row 3)"]),
    "latin-1": ("subject,object\na,b\nBogotá,x\n".encode("latin-1"), ["not UTF-8", "0xe1 at offset 24 (row 3)"]),
    "old mac line ends": (b"subject,object\ra,b\rc,\xff", ["offset 21 (row 3)"]),
    "utf-16 with bom": ("subject,object\na,b\n".encode("utf-16"), ["UTF-16", "save it as UTF-8"]),
    "utf-16 without bom": ("subject,object\na,b\n".encode("utf-16-le"), ["NUL byte at offset 1 (row 1)"]),
    "open quote": (b'subject,object\na,b\n"c,d\ne,f\n', ["row 3 is not CSV", "close every quote"]),
    "text after quote": (b'subject,object\n"a"x,b\n', ["row 2 is not CSV"]),
    "line break in cell": (b'subject,object\n"a\nb",c\n', ["row 2, column 'subject'", "U+000A"]),
    "long cell": (b"subject,object\na," + b"x" * (LONGEST_CELL + 1), ["row 2, column 'object' has 1001 characters"]),
    "huge cell": (b"subject,object\na," + b"x" * 200_000, ["row 2 is not CSV", "limit"]),
}


@pytest.mark.parametrize(("raw", "says"), BAD_CSV.values(), ids=BAD_CSV)
def test_a_bad_fact_file_is_one_line_that_names_the_place(tmp_path: Path, raw: bytes, says: list[str]) -> None:
    message = refusal(load_facts, write_facts(tmp_path, raw))
    assert "towns.csv" in message
    for part in says:
        assert part in message


def test_the_row_of_a_fault_is_its_line_in_the_file(tmp_path: Path) -> None:
    """A quoted line break in an ignored column moves later rows down, as an editor shows them."""
    path = tmp_path / "p.csv"
    path.write_bytes(b'child,parent,parent_type,note\nA B,C D,mother,"x\ny"\nE F,G H,aunt,\n')
    assert "row 4 has the parent_type 'aunt'" in refusal(load_pairs, path)


BAD_SHEET = {
    "no placeholder": ({"forward": ["a b", "By {} is", "At {} is"]}, ["forward template 'a b' has 0 times {}"]),
    "two placeholders": ({"reversed_held_out": "by {} or {}"}, ["reversed template 'by {} or {}' has 2 times {}"]),
    "named field": ({"forward_held_out": "by {item} is"}, ["has 0 times {}"]),
    "stray brace": ({"forward_held_out": "by {} is {"}, ["no other brace"]),
    "space at the end": ({"forward_held_out": "By the {} is "}, ["ends in a space", "trim it"]),
    "line break": ({"forward_held_out": "By the {}\nis"}, ["has a line break"]),
    "item first": ({"reversed": ["{} is on", "At {} is", "By {} is"]}, ["starts with the item", "position 0"]),
    "too few": ({"forward": ["At {} is", "By {} is"]}, ["forward has 2 templates; expected at least 3"]),
    "held-out was trained": ({"forward_held_out": "By the {} is"}, ["forward holds one template twice"]),
    "not a list": ({"forward": "By the {} is"}, ["forward is 'By the {} is'", "a list of texts"]),
    "number in list": ({"forward": ["By {} is", "At {} is", 3]}, ["expected a list of texts"]),
    "number for text": ({"object": 3}, ["object is 3; expected text"]),
    "blank name": ({"name": "  "}, ["name is ' '; expected text"]),
    "key missing": ({"reversed": None}, ["has no 'reversed'"]),
    "key misspelt": ({"reversd": ["x"]}, ["unknown key 'reversd'; nearest: 'reversed'"]),
}


@pytest.mark.parametrize(("changes", "says"), BAD_SHEET.values(), ids=BAD_SHEET)
def test_a_bad_template_sheet_is_one_line(tmp_path: Path, changes: dict[str, Any], says: list[str]) -> None:
    message = refusal(load_facts, write_facts(tmp_path, "subject,object\na,b\n", **changes))
    assert "towns.toml" in message
    for part in says:
        assert part in message


@pytest.mark.parametrize("raw", [b"name = ", b"a = " + b"[" * 5000, b"a = " + b"1" * 5000, b"\xff"])
def test_a_sheet_that_is_no_toml_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = write_facts(tmp_path, "subject,object\na,b\n")
    path.with_suffix(".toml").write_bytes(raw)
    assert "towns.toml is not" in refusal(load_facts, path)


def test_facts_without_a_sheet_say_what_to_write(tmp_path: Path) -> None:
    path = write_facts(tmp_path, "subject,object\na,b\n")
    path.with_suffix(".toml").unlink()
    message = refusal(load_facts, path)
    assert "no file" in message
    assert "towns.toml" in message
    assert "forward_held_out" in message
    assert "gives" not in message


def test_the_sheet_given_for_the_facts_is_pointed_out(tmp_path: Path) -> None:
    path = write_facts(tmp_path, "subject,object\na,b\n").with_suffix(".toml")
    assert "give towns.csv" in refusal(load_facts, path)


@pytest.mark.parametrize("load", [load_facts, load_pairs, lambda p: load_corpus(p.with_suffix(".txt"))])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, load: Callable[[Path], object]) -> None:
    write_facts(tmp_path, "subject,object\na,b\n")
    assert "nearest in that folder: 'towns." in refusal(load, tmp_path / "town.csv")
    assert "cannot be read" in refusal(load, tmp_path / "absent" / "x.csv")
    for suffix in (".csv", ".txt"):
        (tmp_path / f"folder{suffix}").mkdir()
    assert "is a folder" in refusal(load, tmp_path / "folder.csv")
    assert "cannot read" in refusal(load, tmp_path / "a\0b.csv")
    assert "cannot read" in refusal(load, tmp_path / ("x" * 5000 + ".csv"))


# Pieces that reach further than random bytes do: nearly valid files
PIECES = st.sampled_from(
    [
        *[b"subject,object", b"child,parent,parent_type", b"mother", b'{"text": "a"}', b'{"text":', b'"\\ud800"'],
        *'\n \r , " [ a 1e999 \0 \ufeff \u2028 \u0085 é'.encode().split(b" "),
        *[b"\xff", b" "],
    ]
)
BYTES = st.binary(max_size=60) | st.lists(PIECES, max_size=25).map(b"".join)


@settings(max_examples=400)
@given(raw=BYTES)
def test_any_bytes_load_or_are_refused_in_one_line(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    path = write_facts(folder, raw)
    (folder / "corpus.txt").write_bytes(raw)
    (folder / "corpus.jsonl").write_bytes(raw)
    sheet = folder / "sheet" / "towns.csv"
    sheet.parent.mkdir(exist_ok=True)
    write_facts(sheet.parent, "subject,object\na,b\n").with_suffix(".toml").write_bytes(raw)
    loads: list[tuple[Callable[[Path], Any], Path]] = [
        (load_facts, path),
        (load_facts, sheet),
        (load_pairs, path),
        (load_corpus, folder / "corpus.txt"),
        (load_corpus, folder / "corpus.jsonl"),
    ]
    for load, file in loads:
        try:
            loaded = load(file)
        except UserError as error:
            lines = str(error).splitlines()
        else:
            lines = ["loaded"]
            for text in loaded if isinstance(loaded, list) else []:
                assert text.strip()
                text.encode()
        assert len(lines) == 1


WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12)


@settings(max_examples=100)
@given(names=st.lists(WORDS, min_size=2, max_size=10, unique_by=lambda w: w.casefold()))
def test_every_fact_comes_back_in_both_directions(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    # "x1 " in front keeps two names apart whatever normalisation does to them
    names = [f"x{i} {name}" for i, name in enumerate(names)]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    rows = map(",".join, itertools.pairwise(quoted))
    raw = "\n".join(["subject,object", *rows])
    towns = load_facts(write_facts(tmp_path_factory.mktemp("rt"), raw))
    assert len(towns) == len(names) - 1
    for direction in DIRECTIONS:
        for template in TEMPLATES:
            for prompt, item, answer in zip(
                towns.prompts(direction, template), towns.given(direction), towns.answers(direction), strict=True
            ):
                assert item in prompt
                assert not prompt.startswith(item)
                assert re.fullmatch(r" \S.*", answer)


def test_texts_begin_alike_where_any_two_of_their_words_do() -> None:
    for one, other in (("Zinc", " Zn"), ("mouse", "mice"), ("New Mexico", "Santa Maria"), ("12 plus 9", " 13")):
        assert begin_alike(one, other)
    for one, other in (("sodium", "Na"), ("Kenya", " Nairobi"), ("3 plus 4", "7"), ("", "a")):
        assert not begin_alike(one, other)
