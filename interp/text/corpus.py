"""Corpora: the documents that activations are captured on."""

from __future__ import annotations

import json
import re
from pathlib import Path

from interp.errors import UserError
from interp.text.read import read_text

_EXPECTED = {
    ".jsonl": 'JSON lines, each an object with a "text" field',
    ".txt": "plain text, its documents parted by blank lines",
}


def load_corpus(path: Path) -> list[str]:
    """The documents of a `.jsonl` file (one object a line, read from its `text` field) or of a `.txt` file.

    A `.txt` file holds one document per paragraph: blank lines part them. Nothing is skipped: a blank line between
    JSON lines or a document without text is a UserError that names the row. Other JSON fields are ignored.
    """
    kind = path.suffix.lower()
    if kind not in _EXPECTED:
        raise UserError(f"cannot tell the format of {path} by its ending {kind!r}; expected .jsonl or .txt; rename it")
    text = read_text(path, _EXPECTED[kind])
    if not text.strip():
        raise UserError(f"{path} is empty; expected {_EXPECTED[kind]}; add at least one document")
    text = text.replace("\r\n", "\n")
    return _paragraphs(text) if kind == ".txt" else _json_lines(path, text)


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip("\n") for paragraph in re.split(r"\n(?:[^\S\n]*\n)+", text) if paragraph.strip()]


def _json_lines(path: Path, text: str) -> list[str]:
    # str.splitlines would also split at U+2028, which JSON allows inside a string
    lines = text.rstrip("\n").split("\n")
    return [_document(f"{path} row {number}", line) for number, line in enumerate(lines, start=1)]


def _document(where: str, line: str) -> str:
    if not line.strip():
        raise UserError(f"{where} is blank; expected {_EXPECTED['.jsonl']}; delete the line")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also a number too long to read
        raise UserError(f"{where} is not JSON: {error}; expected {_EXPECTED['.jsonl']}; mend or delete it") from None
    if not isinstance(record, dict):
        raise UserError(f"{where} is a JSON {type(record).__name__}; expected {_EXPECTED['.jsonl']}; wrap it in one")
    if "text" not in record:
        came = ", ".join(map(repr, record))[:200] or "none"
        raise UserError(f'{where} has the fields {came}; expected "text" among them; rename the field that holds it')
    document = record["text"]
    if not isinstance(document, str):
        raise UserError(f"{where}: text is a {type(document).__name__}; expected a string; put it in quotes")
    if not document.strip():
        raise UserError(f"{where}: text is empty; expected a document; fill it or delete the line")
    if bad := re.search("[\0\ud800-\udfff]", document):
        raise UserError(f"{where}: text holds U+{ord(bad[0]):04X}, which no tokenizer can encode; delete it")
    return document
