"""The fact sets that ship: they follow the rules that their README states, and leak nothing."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from interp.text.data import data
from interp.text.facts import Direction, FactSet, load_facts

DATA = Path(__file__).parents[1] / "data"
SETS = ["capitals", "elements", "books", "gods"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
TEMPLATES = (0, 1, 2, 3, 4, "held_out")


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
