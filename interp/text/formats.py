"""The file formats that a corpus can have, each read one document at a time.

Nothing is skipped: what cannot be a document is a UserError that names the file and the row. An empty text is one that
`Corpus` judges.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from interp.errors import UserError, nearest
from interp.text.read import UTF16_OR_32

TEXT = "text"  # the column that holds the documents, unless another is named
KINDS = {
    ".jsonl": "JSON lines, each an object with a {column!r} field",
    ".txt": "plain text, its documents separated by blank lines",
    ".parquet": "a Parquet file with a column {column!r}",
}
PACKED = (".gz", ".zst")
ENDINGS = ", ".join([*KINDS, "those with .gz or .zst behind"])
# Tables of other endings, which a new name would only make misread: what reads each in the library `datasets`.
CONVERTIBLE = {
    ".csv": "'csv', keep_default_na=False",
    ".tsv": "'csv', sep='\\t', keep_default_na=False",
    ".json": "'json'",
    ".arrow": "'arrow'",
    ".feather": "'arrow'",
}
BLOCK = 1 << 20  # bytes unpacked at a time


@dataclass(frozen=True)
class Document:
    """A text and where it stands: `row` of `file`, counted from 1 as an editor does (a Parquet file's records, too).

    `is_null`: the row holds no text at all (None, null, or NaN, which pandas writes for it); then `text` is "".
    """

    text: str
    file: str
    row: int
    is_null: bool = False

    @property
    def where(self) -> str:
        """For an error message: `corpus.jsonl row 3`."""
        return f"{self.file} row {self.row}"


def make_document(value: object, file: str, row: int, column: str = "") -> Document:
    """The document in one cell, of `column` where there are columns.

    Raises UserError, with file and row, for what no tokenizer can encode. A cell without a value is a document that
    `is_null`: `Corpus` decides whether it may be left out.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Document("", file, row, is_null=True)
    if not isinstance(value, str):
        what = "join its parts to one text" if isinstance(value, list | tuple | dict) else "make it a text"
        other = ", or name the column that holds the text (--text-column, text_column=…)" if column else ""
        raise UserError(
            f"{file} row {row}: {column or TEXT} is a {type(value).__name__}; expected a string; {what}{other}"
        )
    if bad := re.search("[\0\ud800-\udfff]", value):
        raise UserError(
            f"{file} row {row}: {column or TEXT} holds U+{ord(bad[0]):04X}, which no tokenizer can encode; delete it"
        )
    return Document(value, file, row)


def unknown_column(where: str, column: str, there: Sequence[str], word: str = "columns") -> UserError:
    """The error for a file or a row that has no such column; it names the nearest."""
    listed = ", ".join(map(repr, there))[:200] or "none"
    near = f"nearest: {nearest(column, there, n=1)[0]!r}; " if there else ""
    return UserError(
        f"{where} has the {word} {listed}; expected {column!r} among them; {near}name the one that holds the text by "
        "--text-column (text_column=…)"
    )


def kind_of(path: Path) -> str:
    """`.jsonl` of `corpus.JSONL.gz`; "" for a file of no known kind."""
    ending = ending_of(path)
    return ending if ending in KINDS else ""


def ending_of(path: Path) -> str:
    """`.jsonl` of `corpus.JSONL.gz`: the ending without the one of a packer, in small letters."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    if len(endings) > 1 and endings[-1] in PACKED:
        endings.pop()
    return endings[-1] if endings else ""


def how_to_convert(path: Path) -> str:
    """What to do with a file of no known kind so that it is read as it was meant."""
    if reader := CONVERTIBLE.get(ending_of(path)):
        name = path.name[: path.name.lower().rindex(ending_of(path))]
        made = str(path.with_name(f"{name}.parquet"))
        return (
            f'convert it: python -c "import datasets; datasets.load_dataset({reader}, data_files={str(path)!r}, '
            f"split='train').to_parquet({made!r})\""
        )
    return "rename it if it is one of these; else write its documents as JSON lines"


def check_column(path: Path, column: str) -> None:
    """Raise UserError where a column is named for a file that has none: plain text."""
    if kind_of(path) == ".txt" and column != TEXT:
        raise UserError(
            f"{path} is plain text, which has no column {column!r}; expected .jsonl or .parquet with --text-column; "
            "leave the option out"
        )


def expected(path: Path, column: str = TEXT) -> str:
    """What a file of this ending should hold, in words."""
    return KINDS[kind_of(path)].format(column=column)


def read_documents(path: Path, column: str = TEXT) -> Iterator[Document]:
    """The documents of one file, one at a time. Raises UserError for a row that is none, and for a file with none.

    `column`: the field or column that holds the text.
    """
    check_column(path, column)
    readers: dict[str, Callable[[Path, str], Iterator[Document]]]
    readers = {".jsonl": _json_lines, ".txt": _paragraphs, ".parquet": _records}
    empty = True
    try:
        for document in readers[kind_of(path)](path, column):
            empty = False
            yield document
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; expected a file; rename it") from None
    except (OSError, EOFError, zlib.error) as error:  # a gzip file cut short is an EOFError
        raise UserError(
            f"cannot read {str(path)!r} ({error}); expected {expected(path, column)}; check the file"
        ) from None
    if empty:
        raise UserError(f"{path} is empty; expected {expected(path, column)}; add at least one document")


def _json_lines(path: Path, column: str) -> Iterator[Document]:
    blank: int | None = None
    for row, line in _lines(path):
        if not line.strip():
            blank = blank or row
            continue
        if blank is not None:  # blank lines at the end are no fault
            raise UserError(f"{path} row {blank} is blank; expected {expected(path, column)}; delete the line")
        yield make_document(_json_cell(path, row, line, column), str(path), row, column)


def _json_cell(path: Path, row: int, line: str, column: str) -> object:
    where, wanted = f"{path} row {row}", expected(path, column)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also a number too long to read
        raise UserError(f"{where} is not JSON: {error}; expected {wanted}; fix or delete it") from None
    if not isinstance(record, dict):
        raise UserError(f"{where} is a JSON {type(record).__name__}; expected {wanted}; wrap it in one")
    if column not in record:
        raise unknown_column(where, column, list(record), "fields")
    return record[column]


def _paragraphs(path: Path, _: str) -> Iterator[Document]:
    start, lines = 0, []
    for row, line in _lines(path):
        if line.strip():
            start = start or row
            lines.append(line)
        elif lines:
            yield make_document("\n".join(lines), str(path), start)
            start, lines = 0, []
    if lines:
        yield make_document("\n".join(lines), str(path), start)


def _records(path: Path, column: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    if path.suffix.lower() in PACKED:
        raise UserError(f"{path} is a packed Parquet file; expected .parquet, which is packed inside; unpack it")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise unknown_column(str(path), column, file.schema_arrow.names)
        row = 0
        for batch in file.iter_batches(batch_size=1024, columns=[column]):
            for value in _values(batch.column(0), path, row):
                row += 1
                yield make_document(value, str(path), row, column)
    except pyarrow.ArrowException as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"cannot read {str(path)!r} ({why}); expected {expected(path, column)}; check the file"
        ) from None


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
                raise UserError(f"{path} is not UTF-8: {at}; expected {expected(path)}; save it as UTF-8") from None
            if "\0" in line:  # in JSON and in text alike
                raise UserError(f"{path} holds a NUL byte in row {row}; expected {expected(path)}; delete it")
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
