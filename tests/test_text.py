"""Fact sets, parent-child pairs, corpora and invented people: what loads, what is refused, and what ships."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import UserError
from interp.text import invented
from interp.text.corpus import load_corpus
from interp.text.data import data
from interp.text.facts import Direction, Fact, FactSet, load_facts
from interp.text.pairs import Surname, load_pairs
from interp.text.read import LONGEST_CELL

DATA = Path(__file__).parents[1] / "data"
SETS = ["capitals", "elements", "books", "gods"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
TEMPLATES = (0, 1, 2, "held_out")

SHEET: dict[str, Any] = {
    "name": "towns",
    "subject": "river",
    "object": "town",
    "forward": ["By the {} is", "Near the {} lies", "On the {} stands"],
    "forward_held_out": "Along the {} you find",
    "reversed": ["In the town of {} flows", "At {} there is", "Through {} runs"],
    "reversed_held_out": "Close to {} passes",
}


def write_facts(folder: Path, raw: bytes | str, **changes: Any) -> Path:
    """A fact set on disk; `changes` replace keys of the template sheet, None deletes one."""
    path = folder / "towns.csv"
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    sheet = {k: v for k, v in {**SHEET, **changes}.items() if v is not None}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in sheet.items()]
    path.with_suffix(".toml").write_text("\n".join(lines), encoding="utf-8")
    return path


def refusal(load: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- facts: what loads ------------------------------------------------------------------------------------------


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


# --- facts: what is refused -------------------------------------------------------------------------------------

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


@settings(max_examples=400, deadline=None)
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


@settings(max_examples=100, deadline=None)
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


# --- the bundled fact sets --------------------------------------------------------------------------------------


@pytest.fixture(params=SETS)
def bundled(request: pytest.FixtureRequest) -> FactSet:
    return load_facts(data(f"facts/{request.param}.csv"))


def test_a_bundled_set_has_24_facts_that_leak_nothing(bundled: FactSet) -> None:
    assert len(bundled) == 24
    for fact in bundled.facts:
        subject, obj = fact.subject.casefold(), fact.object.casefold()
        assert obj not in subject
        assert subject not in obj
    both = {f.subject for f in bundled.facts} & {f.object for f in bundled.facts}
    assert not both


def test_bundled_templates_keep_item_and_answer_equally_far_apart(bundled: FactSet) -> None:
    for template in TEMPLATES:
        gaps = []
        for direction in DIRECTIONS:
            texts = bundled.templates(direction)
            text = texts.held_out if template == "held_out" else texts.training[template]
            gaps.append(len(text.partition("{}")[2].split()))
        assert gaps[0] == gaps[1] > 0, (template, gaps)


def test_bundled_prompts_do_not_hold_their_answer(bundled: FactSet) -> None:
    """The words around the item must not name any answer; the item itself was checked above."""
    for direction in DIRECTIONS:
        texts = bundled.templates(direction)
        for text in (*texts.training, texts.held_out):
            words = set(re.findall(r"\w+", text.casefold()))
            for answer in bundled.answers(direction):
                assert answer.strip().casefold() not in words


# name and symbol by atomic number, from 1 to 64
PERIODIC_TABLE = """
hydrogen H helium He lithium Li beryllium Be boron B carbon C nitrogen N oxygen O fluorine F neon Ne sodium Na
magnesium Mg aluminum Al silicon Si phosphorus P sulfur S chlorine Cl argon Ar potassium K calcium Ca scandium Sc
titanium Ti vanadium V chromium Cr manganese Mn iron Fe cobalt Co nickel Ni copper Cu zinc Zn gallium Ga germanium
Ge arsenic As selenium Se bromine Br krypton Kr rubidium Rb strontium Sr yttrium Y zirconium Zr niobium Nb
molybdenum Mo technetium Tc ruthenium Ru rhodium Rh palladium Pd silver Ag cadmium Cd indium In tin Sn antimony Sb
tellurium Te iodine I xenon Xe cesium Cs barium Ba lanthanum La cerium Ce praseodymium Pr neodymium Nd promethium Pm
samarium Sm europium Eu gadolinium Gd
"""


def test_the_elements_are_exactly_those_that_the_stated_rule_gives() -> None:
    """data/README.md: the 24 of lowest atomic number whose symbol is no run of letters of the name."""
    words = PERIODIC_TABLE.split()
    assert len(words) == 2 * 64
    by_rule = [(n, s) for n, s in zip(words[::2], words[1::2], strict=True) if s.casefold() not in n][:24]
    assert [(f.subject, f.object) for f in load_facts(data("facts/elements.csv")).facts] == by_rule


def test_capitals_and_gods_keep_the_rule_that_their_readme_states() -> None:
    for name in ("capitals", "gods"):
        for fact in load_facts(data(f"facts/{name}.csv")).facts:
            assert len(fact.subject.split()) == len(fact.object.split()) == 1
            assert fact.subject[:3].casefold() != fact.object[:3].casefold()


def test_no_word_of_an_author_is_shared_and_no_title_starts_with_an_article() -> None:
    books = load_facts(data("facts/books.csv"))
    words = Counter(word for fact in books.facts for word in fact.object.split())
    assert set(words.values()) == {1}
    assert len(words) == 48
    assert not [f.subject for f in books.facts if f.subject.split()[0] in ("The", "A", "An")]


def rows_of(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return text.count("{}")
    return text.count("\n") - (path.suffix == ".csv")


def test_the_data_readme_states_the_rows_and_hash_of_every_file() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\S+)` \| ([\d,]+) \| `([0-9a-f]{64})` \|", readme, flags=re.MULTILINE)
    for name, rows, digest in listed:
        path = data(name)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, name
        assert rows_of(path) == int(rows.replace(",", "")), name
    shipped = {f"facts/{path.name}" for path in (DATA / "facts").iterdir()}
    assert {name for name, _, _ in listed} >= shipped
    assert len(shipped) == 2 * len(SETS)


def test_bundled_fact_files_have_lf_line_ends_and_no_bom() -> None:
    for path in (DATA / "facts").iterdir():
        raw = path.read_bytes()
        assert b"\r" not in raw
        assert not raw.startswith(b"\xef\xbb\xbf")
        assert raw.endswith(b"\n")


# --- parents and children ---------------------------------------------------------------------------------------

FAMILY = """child,parent,parent_type,child_prediction,can_reverse
Ann Lee,Eve Lee,mother,Ann Lee,True
Ann Lee,Bob Stone,Father,,False
Tom Lee,EVE LEE,mother,,False
Kim Frost,Pat Moss,mother,,False
Lou Moss,Pat Moss,father,,False
Kim Frost,Pat Moss,MOTHER,,False
Al Nero,Al Nero Sr.,father,,False
Joe Taylor-Hill,Max Hill Taylor,father,,False
"""


def write_pairs(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_are_parted_by_what_the_names_give_away(tmp_path: Path) -> None:
    pairs = load_pairs(write_pairs(tmp_path, FAMILY))
    sets = pairs.fact_sets()
    members = {key: [f.subject for f in facts.facts] for key, facts in sets.items()}
    assert members == {
        ("same", "mother"): ["Ann Lee", "Tom Lee"],
        ("same", "father"): ["Lou Moss"],
        ("shared_word", "father"): ["Al Nero", "Joe Taylor-Hill"],
        ("different", "mother"): ["Kim Frost"],
        ("different", "father"): ["Ann Lee"],
    }
    assert pairs.repeats == (7,)
    assert sum(map(len, members.values())) == len(pairs.pairs) == 7
    assert {surname for surname, _ in sets} == set(get_args(Surname))


def test_pairs_ask_for_the_parent_by_type_and_for_the_child(tmp_path: Path) -> None:
    sets = load_pairs(write_pairs(tmp_path, FAMILY)).fact_sets()
    mothers, fathers = sets["same", "mother"], sets["different", "father"]
    assert mothers.prompts("forward", 0)[0] == "Here is a fact. The mother of Ann Lee is"
    assert mothers.answers("forward")[0] == " Eve Lee"
    assert fathers.prompts("forward", 0)[0] == "Here is a fact. The father of Ann Lee is"
    assert fathers.prompts("reversed", 0)[0] == "Here is a fact. The child of Bob Stone is"
    assert fathers.answers("reversed")[0] == " Ann Lee"
    assert len(mothers.forward.training) == len(mothers.reversed.training) == 3


def test_every_right_answer_is_accepted_wherever_in_the_file_it_stands(tmp_path: Path) -> None:
    pairs = load_pairs(write_pairs(tmp_path, FAMILY))
    sets = pairs.fact_sets()
    # written in another case, and a further child
    assert sets["same", "mother"].accepted("reversed") == [(" Ann Lee", " Tom Lee"), (" Tom Lee", " Ann Lee")]
    # the other child has another surname, and names this parent as the mother
    assert sets["same", "father"].accepted("reversed") == [(" Lou Moss", " Kim Frost")]
    # a mother beside a father is no ambiguity, since the prompt names the type
    assert sets["different", "father"].accepted("forward") == [(" Bob Stone",)]
    assert (pairs.ambiguous("forward"), pairs.ambiguous("reversed")) == (0, 4)


def test_two_mothers_of_one_child_are_both_right(tmp_path: Path) -> None:
    pairs = load_pairs(write_pairs(tmp_path, "parent_type,parent,child\nmother,A B,C D\nmother,E F,C D\n"))
    assert pairs.fact_sets()["different", "mother"].accepted("forward") == [(" A B", " E F"), (" E F", " A B")]
    assert pairs.ambiguous("forward") == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("child,parent\nA B,C D\n", ["'child,parent'", "'parent_type' is missing"]),
        ("child,parent,parent_type\nA B,C D,mother\nE F,G H,aunt\n", ["row 3", "'aunt'", "mother or father"]),
        ("child,parent,parent_type\nA B,,mother\n", ["row 2, column 'parent' is empty"]),
        ("child,parent,parent_type\nA B,a b,mother\n", ["row 2 has 'A B' as child and parent"]),
        ("child,parent,parent_type\nA B,C D\n", ["row 2 has 2 cells; expected 3"]),
        ("child,parent,parent_type\n", ["a header and no rows"]),
    ],
)
def test_bad_pairs_are_one_line(tmp_path: Path, text: str, says: list[str]) -> None:
    message = refusal(load_pairs, write_pairs(tmp_path, text))
    for part in ["pairs.csv", *says]:
        assert part in message


# --- corpora ----------------------------------------------------------------------------------------------------


def test_json_lines_are_read_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    texts = ["one\n\ntwo", " kept as it is ", "line\u2028separator", "ünï"]
    path.write_text("".join(json.dumps({"id": 1, "text": t}, ensure_ascii=False) + "\r\n" for t in texts), "utf-8")
    assert load_corpus(path) == texts


def test_a_text_file_is_one_document_a_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "c.TXT"
    path.write_bytes("\ufeff\n\nfirst\r\nstill first\r\n \t\r\n\r\n  second\n\n\n".encode())
    assert load_corpus(path) == ["first\nstill first", "  second"]


BAD_CORPUS = {
    "no json": (b'{"text": "a"}\n{"text": \n', ["row 2 is not JSON"]),
    "deep": (b"[" * 200_000, ["row 1 is not JSON"]),
    "long number": (b"1" * 5000, ["row 1 is not JSON"]),
    "array": (b'["text"]', ["row 1 is a JSON list"]),
    "no field": (b'{"text": "a"}\n{"body": "a", "id": 1}', ["row 2 has the fields 'body', 'id'"]),
    "no fields": (b"{}", ["row 1 has the fields none"]),
    "number": (b'{"text": 3}', ["row 1: text is a int"]),
    "blank text": (b'{"text": " \\n"}', ["row 1: text is empty"]),
    "blank line": (b'{"text": "a"}\n\n{"text": "b"}', ["row 2 is blank"]),
    "surrogate": (b'{"text": "a\\ud800"}', ["row 1: text holds U+D800"]),
    "nul": (b'{"text": "a\\u0000"}', ["row 1: text holds U+0000"]),
    "empty": (b"\n\n", ["is empty"]),
    "not utf-8": (b'{"text": "a"}\n{"text": "\xe9"}', ["not UTF-8", "offset 24 (row 2)"]),
}


@pytest.mark.parametrize(("raw", "says"), BAD_CORPUS.values(), ids=BAD_CORPUS)
def test_a_bad_corpus_is_one_line_that_names_the_row(tmp_path: Path, raw: bytes, says: list[str]) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(raw)
    message = refusal(load_corpus, path)
    for part in ["c.jsonl", *says]:
        assert part in message


def test_a_corpus_of_another_format_is_refused_by_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    path.write_bytes(b"PAR1")
    assert "'.parquet'; expected .jsonl or .txt" in refusal(load_corpus, path)


# --- invented people --------------------------------------------------------------------------------------------


def sides(people: list[Fact]) -> list[list[str]]:
    return [[p.subject for p in people], [p.object for p in people]]


@pytest.mark.parametrize("name_tokens", [1, 2])
@pytest.mark.parametrize("n", [4, 6, 7, 9, 20, 30, 61, 300])
def test_invented_names_and_descriptions_are_unique_and_as_long_as_asked(n: int, name_tokens: Any) -> None:
    people = invented.invent(n, 3, name_tokens)
    assert len(people) == n
    for side in sides(people):
        assert len(set(side)) == n
        assert {len(text.split()) for text in side} == {name_tokens}
    names, descriptions = ({word for text in side for word in text.split()} for side in sides(people))
    assert not names & descriptions


@pytest.mark.parametrize("n", [4, *range(6, 70), 333])
def test_with_two_tokens_no_word_identifies_a_person(n: int) -> None:
    for side in sides(invented.invent(n, n, 2)):
        for position in (0, 1):
            counts = Counter(text.split()[position] for text in side)
            assert min(counts.values()) >= 2
        first, second = ({text.split()[position] for text in side} for position in (0, 1))
        assert not first & second


def test_people_who_share_a_name_word_do_not_share_description_words_more_than_others() -> None:
    """Else a part of the name would tell a part of the answer, and the two sides would not be arbitrary."""
    hits = pairs = 0
    expected = 0.0
    for seed in range(40):
        people = [(p.subject.split(), p.object.split()) for p in invented.invent(20, seed, 2)]
        # Over all pairs of people, how often two share the second description word, whatever their names are
        every = [(a, b) for i, a in enumerate(people) for b in people[:i]]
        base = sum(a[1][1] == b[1][1] for a, b in every) / len(every)
        sharing = [(a, b) for a, b in every if a[0][0] == b[0][0]]
        hits += sum(a[1][1] == b[1][1] for a, b in sharing)
        pairs += len(sharing)
        expected += base * len(sharing)
    assert pairs == 40 * 5 * 6  # 5 first names, each shared by 4 people
    assert abs(hits - expected) < 4 * (expected**0.5)  # about 4 standard deviations of a count


def test_groups_share_no_word_and_each_shares_its_own() -> None:
    groups = invented.invent_groups([20, 20, 20], 0, 2)
    words = [{w for side in sides(g) for text in side for w in text.split()} for g in groups]
    assert len(set.union(*words)) == sum(map(len, words))
    for group in groups:
        for side in sides(group):
            assert min(Counter(text.split()[0] for text in side).values()) >= 2
    assert groups[0] == invented.invent(20, 0, 2)


def test_the_seed_alone_decides_and_these_are_the_people_of_seed_0() -> None:
    """Fixed values: a run on another Python version must invent the same people."""
    assert invented.invent(3, 0, 1) == [
        Fact("nigiju", "lofoju"),
        Fact("dasiju", "bapaju"),
        Fact("fufoju", "meboju"),
    ]
    assert invented.invent(4, 0, 2) == [
        Fact("dasiju fufoju", "bapaju ranaju"),
        Fact("dasiju lofoju", "meboju ranaju"),
        Fact("nigiju fufoju", "meboju kiduju"),
        Fact("nigiju lofoju", "bapaju kiduju"),
    ]
    assert invented.invent(20, 1, 2) != invented.invent(20, 2, 2)


def test_made_up_words_have_the_shape_that_no_english_word_has() -> None:
    people = invented.invent(2450, 0, 1)
    words = {text for side in sides(people) for text in side}
    assert len(words) == 4900
    assert all(re.fullmatch(r"([bdfgklmnprstvz][aeiou]){2}ju", word) for word in words)
    templates = (invented.NAME_FIRST, invented.DESCRIPTION_FIRST)
    assert not words & {w for t in templates for text in (*t.training, t.held_out) for w in text.split()}


def test_sentences_end_in_the_answer_and_differ_only_in_the_person() -> None:
    people = invented.people_set(invented.invent(12, 0, 2))
    for direction in DIRECTIONS:
        assert len(people.templates(direction).training) == 4
        for template in (*TEMPLATES, 3):
            rest = set()
            for sentence, item, answer in zip(
                people.sentences(direction, template), people.given(direction), people.answers(direction), strict=True
            ):
                assert sentence == " ".join(sentence.split())
                assert set(sentence) <= set(string.ascii_lowercase + " ")
                assert sentence.endswith(answer)
                rest.add(sentence.removesuffix(answer).replace(item, "{}"))
            assert len(rest) == 1


def test_the_two_orders_have_matched_lengths() -> None:
    forward, backward = invented.NAME_FIRST, invented.DESCRIPTION_FIRST
    for ours, theirs in zip(
        (*forward.training, forward.held_out), (*backward.training, backward.held_out), strict=True
    ):
        opening, rest = ours.split("{}")
        their_opening, their_rest = theirs.split("{}")
        assert opening == their_opening != ""
        assert len(rest.split()) == len(their_rest.split()) > 0


def test_a_held_out_paraphrase_uses_only_words_that_its_order_trains() -> None:
    for templates in (invented.NAME_FIRST, invented.DESCRIPTION_FIRST):
        trained = {word for text in templates.training for word in text.split()}
        assert set(templates.held_out.split()) <= trained
        assert templates.held_out not in templates.training


@pytest.mark.parametrize(
    ("n", "name_tokens", "says"),
    [
        (0, 1, "at least 1"),
        (-3, 2, "at least 1"),
        (5, 2, "expected 4 or at least 6"),
        (3, 2, "expected 4 or at least 6"),
        (20, 3, "expected 1 or 2"),
        (2451, 1, "expected at most 4900"),
    ],
)
def test_people_that_cannot_be_invented_are_refused(n: int, name_tokens: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        invented.invent(n, 0, name_tokens)
