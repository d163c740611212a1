"""The bundled prose: text that people wrote, whole, clean, and told apart from what the bundled model wrote."""

from __future__ import annotations

import json
import re
import runpy
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from refusals import the_line

from interp import UserError, bundled_corpus, data, load_corpus, prose, prose_sources, split_corpus, text_read
from probes._tokenization.words import frequencies

ROOT = Path(__file__).parents[1]
README = (ROOT / "data" / "README.md").read_text(encoding="utf-8")


def rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in data("corpus/prose.jsonl").read_text(encoding="utf-8").splitlines()]


def known_share(documents: Sequence[str]) -> float:
    """Share of the runs of letters that stand in the bundled list of words."""
    listed = {word for word, _ in frequencies()}
    words = [word.lower() for text in documents for word in re.findall("[A-Za-z]+", text)]
    return sum(word in listed for word in words) / len(words)


def is_clean(text: str) -> bool:
    """No control characters but line breaks, no traces of a format, no doubled blanks or page headers."""
    control = any(unicodedata.category(c) in {"Cc", "Cf", "Co", "Cn"} and c != "\n" for c in text)
    return not control and not re.search(r"[_`*<>{}|\\�]|  |\bchapter [ivxl\d]+\b|gutenberg|etext", text, re.IGNORECASE)


def test_it_is_some_hundred_thousand_words_of_several_kinds_and_says_whose() -> None:
    found = rows()
    assert prose() == [row["text"] for row in found] == load_corpus(data("corpus/prose.jsonl"))
    lengths = [len(row["text"].split()) for row in found]
    assert min(lengths) >= 100
    assert max(lengths) <= 320
    assert 90_000 < sum(lengths) < 120_000
    assert f"{len(found)} documents, {sum(lengths):,} words" in README
    parts = Counter(row["source"].split(",")[0].split(" (")[0] for row in found)
    assert {"Lewis Carroll", "Herman Melville", "Jane Austen", "The World Factbook"} <= set(parts)
    assert max(parts.values()) / len(found) < 0.3, "no part is most of it"
    early = Counter(row["source"].split(",")[0].split(" (")[0] for row in found[:40])
    assert len(early) >= 5, "the first documents are of every kind"


def test_the_readme_lists_the_words_of_every_part() -> None:
    table = {
        name: (int(documents), int(words.replace(",", "")))
        for name, documents, words in re.findall(r"^\| ([^|`]+?) \| (\d+) \| ([\d,]+) \| ", README, flags=re.MULTILINE)
    }
    for name, key in (
        ("Lewis Carroll", "Carroll"),
        ("Herman Melville", "Melville"),
        ("Jane Austen", "Austen"),
        ("State of the Union", "State of the Union"),
        ("The World Factbook", "World Factbook"),
    ):
        own = [row["text"] for row in rows() if key in row["source"]]
        (stated,) = [numbers for part, numbers in table.items() if part.startswith(name)]
        assert stated == (len(own), sum(len(text.split()) for text in own)), name


def test_its_words_are_words_and_those_of_the_models_own_sample_often_are_not() -> None:
    assert known_share(prose()) > 0.985
    assert known_share(split_corpus()[1]) < 0.96, "the negative control: babble"


def test_it_is_clean_and_holds_nothing_twice() -> None:
    texts = prose()
    assert all(map(is_clean, texts))
    for planted in ("a\x00b", "two  blanks", "_so_ it was", "CHAPTER XII", "a\u200bb", "The Project Gutenberg Etext"):
        assert not is_clean(planted), planted
    sentences = Counter(s for text in texts for s in re.split(r"(?<=[.!?]) ", text) if len(s.split()) > 8)
    assert max(sentences.values()) == 1, sentences.most_common(3)
    assert len(set(texts)) == len(texts)


def test_a_bundled_corpus_says_which_one_it_is_and_an_unknown_one_is_a_line() -> None:
    names: tuple[Literal["prose", "sample"], ...] = ("prose", "sample")
    by_people, by_model = (bundled_corpus(name) for name in names)
    assert "people wrote" in by_people.name
    assert "model wrote" in by_model.name
    assert sum(map(len, split_corpus())) == sum(1 for _ in by_model)
    with pytest.raises(UserError, match="prose") as refused:
        bundled_corpus("pros")  # pyright: ignore[reportArgumentType]
    the_line(refused)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "build_prose.py"))


def test_each_document_has_one_of_five_sources_and_a_report_says_whom_its_intervals_are_for() -> None:
    own = [row["source"] for row in rows()]
    assert Counter(prose_sources()).total() == len(own) == len(prose())
    assert len(set(prose_sources())) == 5
    assert all(row.startswith(source) for row, source in zip(own, prose_sources(), strict=True))
    assert "other pieces of its five sources" in text_read()
    assert text_read(Path("mine.txt")) == "mine.txt", "of a user's text nothing is known"


def test_the_script_leaves_out_headings_verses_and_marks(script: dict[str, Any]) -> None:
    paragraphs: Callable[[str], list[str]] = script["paragraphs"]
    text = (
        "CHAPTER I\n\nDown the Hole\n\nAlice was _very_ tired `of\nsitting,' she said.\n\n"
        "          How doth the little\n          crocodile improve.\n\n* * * *\n\nTHE END.\n"
    )
    assert paragraphs(text) == ["Alice was very tired 'of sitting,' she said."]


def test_the_script_cuts_documents_where_sentences_end(script: dict[str, Any]) -> None:
    documents: Callable[[list[str]], list[str]] = script["documents"]
    sentence = "On the way J. Smith told them of it and nobody said a word."
    found = documents([" ".join([sentence] * 12)] * 6)
    assert len(found) > 2
    for text in found:
        assert text.startswith("On the way")
        assert text.endswith("a word.")
        assert 180 <= len(text.split()) < 180 + len(sentence.split())
    assert "\n\n" in found[0], "paragraphs stay apart"
    assert not documents(["and so on " * 400 + "."]), "an endless sentence is no document"


def test_the_script_refuses_a_package_that_is_another_file(script: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / script["FACTBOOK"].file).write_bytes(b"something else")
    with pytest.raises(SystemExit, match="not the file"):
        script["open_package"](script["FACTBOOK"], tmp_path)


def test_the_script_reads_debian_packages_and_databases_of_r(script: dict[str, Any]) -> None:
    import struct
    import zlib

    head = b"data.tar.xz     0           0     0     100644  5         `\n"
    assert script["debian_data"](b"!<arch>\n" + head + b"abcde\n") == b"abcde"
    strings = ["Emma", "naïve", ""]
    piece = b"X\n" + b"".join(b"\x00\x04\x00\x09" + struct.pack(">I", len(s.encode())) + s.encode() for s in strings)
    packed = struct.pack(">I", len(piece)) + zlib.compress(piece)
    assert list(script["r_strings"](packed * 2)) == [strings, strings]
