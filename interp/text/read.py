"""Strict reading of text files: every fault is one UserError that names the file, the row and what to do.

A row's number is the line of the file on which it starts, so the header is row 1 and an editor finds it.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.errors import UserError, nearest
from interp.paths import expand

LONGEST_CELL = 1000  # characters; a longer name or phrase is nearly always a quote that was never closed

UTF16_OR_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32-LE begins with UTF-16-LE's


@dataclass(frozen=True)
class Row:
    """One record of a CSV file: its line number and its cells by column name, stripped."""

    number: int
    cells: dict[str, str]


def read_text(path: Path, expected: str) -> str:
    """The file as text. UTF-8, with or without a byte-order mark; `expected` says in words what it should hold."""
    path = expand(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no file {path}; expected {expected}; {neighbours(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; expected {expected}; give the path of the file itself") from None
    except (OSError, ValueError) as error:  # ValueError: the path itself holds a NUL
        raise UserError(f"cannot read {str(path)!r} ({error}); expected {expected}; check the path") from None
    if raw.startswith(UTF16_OR_32):
        raise UserError(f"{path} is UTF-16 or UTF-32 (its first bytes say so); expected UTF-8; save it as UTF-8")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{raw[error.start]:02x} at offset {error.start} (row {_row_at(raw[: error.start].decode())})"
        raise UserError(f"{path} is not UTF-8: {where}; expected {expected}; save it as UTF-8") from None
    if "\0" in text:
        at = text.index("\0")
        offset = len(text[:at].encode())
        where = f"at offset {offset} (row {_row_at(text[:at])})"
        raise UserError(f"{path} holds a NUL byte {where}; expected {expected}; delete it or save the file as UTF-8")
    return text.removeprefix("\ufeff")


def read_csv(path: Path, columns: Sequence[str], expected: str, *, allow_more: bool = False) -> list[Row]:
    """The rows of a CSV file with a header that names `columns`, in any order; never empty.

    Cells are stripped and NFC-normalised, so that two spellings of one name compare equal. Those of `columns` are
    checked; other columns are refused unless `allow_more`, and then only counted.
    """
    text = read_text(path, expected).rstrip("\r\n")
    if not text.strip():
        raise UserError(f"{path} is empty; expected {expected}; the first line must be {','.join(columns)}")
    records = _records(path, text)
    header = [name.strip() for name in next(records)[1]]
    _check_header(path, header, columns, allow_more)
    rows = [_row(path, number, header, cells, columns) for number, cells in records]
    if not rows:
        raise UserError(f"{path} has a header and no rows; expected {expected}; add at least one row")
    return rows


def read_json_lines(path: Path, fields: Sequence[str], expected: str) -> list[tuple[str, ...]]:
    """The texts of `fields` in each line of a JSON-lines file; never empty. Blank lines are passed over."""
    records = []
    for number, line in enumerate(read_text(path, expected).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            texts = tuple(record[name] for name in fields)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{path} line {number} is {line[:60]!r}; expected {expected}") from None
        for name, text in zip(fields, texts, strict=True):
            if not (isinstance(text, str) and text.strip()):
                raise UserError(f"{path} line {number} has a {name} without text; expected {expected}")
            if half := re.search("[\ud800-\udfff]", text):
                raise UserError(
                    f"{path} line {number}: its {name} has half a character, {half.group()!r}; expected text: write it "
                    "as UTF-8, or both halves"
                )
        records.append(texts)
    if not records:
        raise UserError(f"{path} is empty; expected {expected}")
    return records


def same(text: str) -> str:
    """The key under which two spellings of one name count as the same: NFC, case ignored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{path} row {number} is not CSV: {error}; expected cells parted by commas; "
                f'close every quote, and write a quote inside a quoted cell as ""'
            ) from None
        yield number, cells


def _check_header(path: Path, header: list[str], columns: Sequence[str], allow_more: bool) -> None:
    wanted = ",".join(columns)
    came = f"{path} has the columns {','.join(header)[:200]!r}"
    if missing := [name for name in columns if name not in header]:
        raise UserError(f"{came}; expected {wanted!r}, so {missing[0]!r} is missing; write the first line as {wanted}")
    if twice := [name for name in columns if header.count(name) > 1]:
        raise UserError(f"{came}; expected {twice[0]!r} once; rename or delete one of them")
    if not allow_more and len(header) > len(columns):
        raise UserError(f"{came}; expected {wanted!r} and nothing else; delete the others")


def _row(path: Path, number: int, header: list[str], cells: list[str], columns: Sequence[str]) -> Row:
    if len(cells) != len(header):
        hint = "quote a cell that holds a comma" if len(cells) > len(header) else "fill it or delete the row"
        raise UserError(f"{path} row {number} has {len(cells)} cells; expected {len(header)}; {hint}")
    row = {name: unicodedata.normalize("NFC", cell.strip()) for name, cell in zip(header, cells, strict=True)}
    for name in columns:
        where, cell = f"{path} row {number}, column {name!r}", row[name]
        if not any(c.isprintable() and not c.isspace() for c in cell):
            raise UserError(f"{where} is empty; expected a name or a phrase; fill it or delete the row")
        if len(cell) > LONGEST_CELL:
            raise UserError(
                f"{where} has {len(cell)} characters; expected at most {LONGEST_CELL}; look for a quote left open"
            )
        if bad := [c for c in cell if unicodedata.category(c) in ("Cc", "Zl", "Zp")]:
            raise UserError(f"{where} holds the control character U+{ord(bad[0]):04X}; expected plain text; delete it")
    return Row(number, row)


def _row_at(before: str) -> int:
    return len(before.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


def neighbours(path: Path) -> str:
    """For an error about a missing file: the nearest names in its folder."""
    try:
        names = sorted(p.name for p in path.parent.iterdir() if p.is_file())
    except OSError:
        return f"its folder {path.parent} cannot be read either; check the path"
    if not names:
        return f"the folder {path.parent} holds no files; check the path"
    return f"nearest in that folder: {', '.join(map(repr, nearest(path.name, names)))}"
