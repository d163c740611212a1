"""Corpora: JSON lines and text files, whole, in order, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusals import refusal

from interp.text.corpus import load_corpus


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
    path = tmp_path / "c.csv"
    path.write_bytes(b"text")
    assert "'.csv'; expected .jsonl, .txt, .parquet, those with .gz or .zst behind" in refusal(load_corpus, path)
