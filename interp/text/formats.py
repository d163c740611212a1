"""The file formats that a corpus can have, each read one document at a time.

Nothing is skipped: what cannot be a document is a UserError that names the file and the row. An empty text is one that
`Corpus` judges.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from interp.errors import UserError
from interp.text.read import UTF16_OR_32

KINDS = {
    ".jsonl": 'JSON lines, each an object with a "text" field',
    ".txt": "plain text, its documents parted by blank lines",
    ".parquet": 'a Parquet file with a column "text"',
}
PACKED = (".gz", ".zst")
ENDINGS = ", ".join([*KINDS, "those with .gz or .zst behind"])
BLOCK = 1 << 20  # bytes unpacked at a time


@dataclass(frozen=True)
class Document:
    """A text and where it stands: `row` of `file`, counted from 1 as an editor does (a Parquet file's records, too)."""

    text: str
    file: str
    row: int

    @property
    def where(self) -> str:
        """For an error message: `corpus.jsonl row 3`."""
        return f"{self.file} row {self.row}"


def check_text(where: str, text: object) -> str:
    """`text` if it can be a document. Raises UserError, `where` said first, for one that is none."""
    if not isinstance(text, str):
        raise UserError(f"{where}: text is a {type(text).__name__}; expected a string; put it in quotes")
    if bad := re.search("[\0\ud800-\udfff]", text):
        raise UserError(f"{where}: text holds U+{ord(bad[0]):04X}, which no tokenizer can encode; delete it")
    return text


def kind_of(path: Path) -> str:
    """`.jsonl` of `corpus.JSONL.gz`; "" for a file that is none of ours."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    if endings and endings[-1] in PACKED:
        endings.pop()
    return endings[-1] if endings and endings[-1] in KINDS else ""


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of one file, one at a time. Raises UserError for a row that is none, and for a file with none."""
    readers = {".jsonl": _json_lines, ".txt": _paragraphs, ".parquet": _records}
    empty = True
    try:
        for document in readers[kind_of(path)](path):
            empty = False
            yield document
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; expected a file; rename it") from None
    except (OSError, EOFError, zlib.error) as error:  # a gzip file cut short is an EOFError
        raise UserError(
            f"cannot read {str(path)!r} ({error}); expected {KINDS[kind_of(path)]}; check the file"
        ) from None
    if empty:
        raise UserError(f"{path} is empty; expected {KINDS[kind_of(path)]}; add at least one document")


def _json_lines(path: Path) -> Iterator[Document]:
    blank: int | None = None
    for row, line in _lines(path):
        if not line.strip():
            blank = blank or row
            continue
        if blank is not None:  # blank lines at the end are no fault
            raise UserError(f"{path} row {blank} is blank; expected {KINDS['.jsonl']}; delete the line")
        yield Document(_json_text(f"{path} row {row}", line), str(path), row)


def _json_text(where: str, line: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also a number too long to read
        raise UserError(f"{where} is not JSON: {error}; expected {KINDS['.jsonl']}; mend or delete it") from None
    if not isinstance(record, dict):
        raise UserError(f"{where} is a JSON {type(record).__name__}; expected {KINDS['.jsonl']}; wrap it in one")
    if "text" not in record:
        came = ", ".join(map(repr, record))[:200] or "none"
        raise UserError(f'{where} has the fields {came}; expected "text" among them; rename the field that holds it')
    return check_text(where, record["text"])


def _paragraphs(path: Path) -> Iterator[Document]:
    start, lines = 0, []
    for row, line in _lines(path):
        if line.strip():
            start = start or row
            lines.append(line)
        elif lines:
            yield Document(check_text(f"{path} row {start}", "\n".join(lines)), str(path), start)
            start, lines = 0, []
    if lines:
        yield Document(check_text(f"{path} row {start}", "\n".join(lines)), str(path), start)


def _records(path: Path) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    if path.suffix.lower() in PACKED:
        raise UserError(f"{path} is a packed Parquet file; expected .parquet, which is packed inside; unpack it")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            came = ", ".join(map(repr, file.schema_arrow.names))[:200]
            raise UserError(f'{path} has the columns {came}; expected "text" among them; rename the one that holds it')
        row = 0
        for batch in file.iter_batches(batch_size=1024, columns=["text"]):
            for value in _values(batch.column(0), path, row):
                row += 1
                yield Document(check_text(f"{path} row {row}", value), str(path), row)
    except pyarrow.ArrowException as error:
        why = " ".join(str(error).split())
        raise UserError(f"cannot read {str(path)!r} ({why}); expected {KINDS['.parquet']}; check the file") from None


def _values(column: Any, path: Path, row: int) -> Iterator[object]:
    """The values of an Arrow column; its strings are not promised to be UTF-8."""
    for i in range(len(column)):
        try:
            yield column[i].as_py()
        except UnicodeDecodeError as error:
            raise UserError(f"{path} row {row + i + 1} is not UTF-8 ({error.reason}); write the file again") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(row, line) without line ends, decoded strictly, one at a time."""
    offset = 0
    with _opened(path) as file:
        for row, raw in enumerate(file, start=1):
            if row == 1:
                if raw.startswith(UTF16_OR_32):
                    raise UserError(f"{path} is UTF-16 or UTF-32 (its first bytes say so); expected UTF-8; save it so")
                if raw.startswith(codecs.BOM_UTF8):
                    raw, offset = raw.removeprefix(codecs.BOM_UTF8), len(codecs.BOM_UTF8)
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                at = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start} (row {row})"
                raise UserError(
                    f"{path} is not UTF-8: {at}; expected {KINDS[kind_of(path)]}; save it as UTF-8"
                ) from None
            if "\0" in line:  # in JSON and in text alike
                raise UserError(f"{path} holds a NUL byte in row {row}; expected {KINDS[kind_of(path)]}; delete it")
            offset += len(raw)
            yield row, line.removesuffix("\n").removesuffix("\r")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked."""
    ending = path.suffix.lower()
    if ending == ".gz":
        with gzip.open(path) as unpacked:
            yield unpacked  # type: ignore[misc]
    elif ending == ".zst":
        import pyarrow

        with pyarrow.CompressedInputStream(str(path), "zstd") as stream:
            yield io.BufferedReader(stream, BLOCK)  # type: ignore[arg-type]
    else:
        with path.open("rb") as file:
            yield file
