"""Corpora: the documents that activations are captured on, streamed from files of any size.

A corpus is text, JSON lines or Parquet, each also compressed by gzip or zstd; or a folder of such files, read in the
order of their paths; or a Hugging Face dataset. What cannot be a document is a UserError that names the file and the
row, for a row left out unseen is a number that nobody can reproduce; empty ones are left out and counted when asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from interp.errors import UserError, unknown
from interp.paths import expand
from interp.text.data import data
from interp.text.formats import (
    ENDINGS,
    TEXT,
    Document,
    check_column,
    expected,
    how_to_convert,
    kind_of,
    make_document,
    read_documents,
    unknown_column,
)
from interp.text.read import neighbours

SAMPLE = "corpus/smollm2_sample.jsonl"
PROSE = "corpus/prose.jsonl"
BUNDLED = {
    "prose": (PROSE, "the bundled prose, which people wrote"),
    "sample": (SAMPLE, "the bundled sample, which the bundled model wrote"),
}  # file, and what it is
OTHER_PIECES = "intervals over documents are for other pieces of its five sources, not for other kinds of text"
HELD_OUT = 10  # every tenth document of the sample is kept from training, for evaluation


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read from the start as often as asked. `read` does it; `name` is for messages.

    `root` is what the names of its files have in front: without it they are the same wherever the corpus lies.
    `skip_empty`: leave out rows without text (empty, blank, null), which are a UserError otherwise. `ignored`: files of
    its folder that are of no known kind and are not read.
    """

    name: str
    read: Callable[[], Iterator[Document]]
    root: str = ""
    skip_empty: bool = False
    ignored: tuple[Path, ...] = ()

    def __iter__(self) -> Iterator[Document]:
        return (document for document in self.read() if self.keeps(document))

    def keeps(self, document: Document) -> bool:
        """Has it text? Raises UserError for one that has none, unless these are to be left out."""
        if document.text.strip():
            return True
        if self.skip_empty:
            return False
        raise UserError(
            f"{document.where}: text is {'null' if document.is_null else 'empty'}; expected a document; fill it, "
            "delete the row or leave rows without text out (--skip-empty, skip_empty=True)"
        )


def open_corpus(source: str | Path, *, skip_empty: bool = False, text_column: str = TEXT) -> Corpus:
    """The corpus in a file, in all files of a known kind below a folder, or in a Hugging Face dataset.

    A dataset is a folder that `save_to_disk` wrote, or `hf:NAME`, `hf:NAME:SPLIT` for one of the hub (split "train"
    unless told). Reads nothing yet but names. `skip_empty` leaves rows without text out: empty, blank or null.
    `text_column`: the column (in JSON lines: the field) that holds the text.
    Raises UserError for a place without a corpus; reading raises it for a row that is no document.
    """
    if str(source).startswith("hf:"):
        return Corpus(str(source), partial(_dataset, str(source), text_column), skip_empty=skip_empty)
    path = expand(source)
    try:
        if _is_dataset(path):
            read = partial(_dataset, str(path), text_column)
            return Corpus(str(path), read, str(path.parent), skip_empty)
        files, ignored = _find(path)
        for file in files:
            check_column(file, text_column)
        root = path if path.is_dir() else path.parent
        return Corpus(str(path), partial(_files, files, text_column), str(root), skip_empty, tuple(ignored))
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise UserError(f"cannot read {str(path)!r} ({error}); expected a corpus; check the path") from error


def _is_dataset(path: Path) -> bool:
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def _find(path: Path) -> tuple[list[Path], list[Path]]:
    """The files of a corpus, in the order of their paths, and those below it that are of no known kind."""
    if path.is_dir():
        below = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p, path))
        files = [p for p in below if kind_of(p)]
        if not files:
            first = f"; it holds {below[0]}: {how_to_convert(below[0])}" if below else ""
            raise UserError(f"{path} is a folder without a corpus; expected files ending in {ENDINGS}{first}")
        return files, [p for p in below if not kind_of(p)]
    if not path.suffix and not path.exists():
        raise UserError(
            f"no file or folder {path}; expected a corpus; {neighbours(path)}; a dataset of the hub is written hf:NAME"
        )
    if not kind_of(path):
        raise UserError(
            f"cannot tell the format of {path} by its ending {path.suffix.lower()!r}; expected {ENDINGS}; "
            f"{how_to_convert(path)}"
        )
    try:
        path.stat()
    except FileNotFoundError:
        raise UserError(f"no file {path}; expected {expected(path)}; {neighbours(path)}") from None
    return [path], []


def load_corpus(source: str | Path, *, skip_empty: bool = False, text_column: str = TEXT) -> list[str]:
    """All documents of a corpus at once, as texts; see `open_corpus`."""
    return [document.text for document in open_corpus(source, skip_empty=skip_empty, text_column=text_column)]


def from_texts(texts: Iterable[str | None], name: str = "the texts", *, skip_empty: bool = False) -> Corpus:
    """An iterable as a corpus, checked like a file; `row` counts from 1. An iterator can be read only once.

    `skip_empty` leaves out texts that are empty, blank or None (in a pandas column: NaN).
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise UserError(f"a {type(texts).__name__} came as a corpus; expected several texts, or open_corpus(path)")

    def read() -> Iterator[Document]:
        for row, text in enumerate(texts, start=1):
            yield make_document(text, name, row)

    return Corpus(name, read, skip_empty=skip_empty)


def _files(paths: list[Path], column: str) -> Iterator[Document]:
    for path in paths:
        yield from read_documents(path, column)


def _dataset(source: str, column: str) -> Iterator[Document]:
    import datasets

    try:
        if source.startswith("hf:"):
            name, _, split = source.removeprefix("hf:").partition(":")
            rows: Any = datasets.load_dataset(name, split=split or "train", streaming=True)
        else:
            rows = datasets.load_from_disk(source)
    except Exception as error:  # what a missing network, name or file makes datasets raise varies
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot open the dataset {source} ({type(error).__name__}: {why}); check its name, split and network"
        ) from error
    if isinstance(rows, datasets.DatasetDict):
        raise UserError(f"{source} holds the splits {', '.join(map(str, rows))}; expected one; give one of its folders")
    if rows.column_names and column not in rows.column_names:
        raise unknown_column(source, column, rows.column_names)
    for row, record in enumerate(rows, start=1):
        if column not in record:  # a streamed dataset may not say its columns beforehand
            raise unknown_column(f"{source} row {row}", column, list(record))
        yield make_document(record[column], source, row, column)


def _is_hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def bundled_corpus(name: Literal["prose", "sample"]) -> Corpus:
    """A corpus that ships with the package; its `name` says which, in words for a report.

    "prose": some 100,000 words that people wrote: novels, addresses to Congress, profiles of countries. Nothing that
    ships was trained on it, but books so old stand in most models' training text. "sample": what the bundled model
    wrote itself at temperature 1, which that model, and an SAE trained on it, finds easier than any other text.
    """
    if name not in BUNDLED:
        raise unknown("bundled corpus", name, BUNDLED)
    file, called = BUNDLED[name]
    return replace(open_corpus(data(file)), name=called)


def prose() -> list[str]:
    """The documents of the bundled prose, which people wrote; every run of them holds all its kinds of text."""
    return [document.text for document in bundled_corpus("prose")]


def prose_sources() -> list[str]:
    """Which of five sources each document of `prose` is a piece of, in the same order: "Jane Austen"."""
    return [source.split(",")[0] for source in load_corpus(data(PROSE), text_column="source")]


def corpus_or_prose(corpus: str | Path | None) -> list[str]:
    """The documents of a user's corpus, or the bundled prose where none came; `text_read` names which."""
    return list(load_corpus(corpus)) if corpus else prose()


def text_read(corpus: str | Path | None = None) -> str:
    """What a report calls the text that a probe read, a user's or the bundled prose, and what its intervals are for."""
    return str(corpus) if corpus else f"{bundled_corpus('prose').name} ({OTHER_PIECES})"


def split_corpus() -> tuple[list[str], list[str]]:
    """The bundled model's own sample of text as (training, held-out) documents; see `bundled_corpus`."""
    documents = load_corpus(data(SAMPLE))
    return [d for i, d in enumerate(documents) if i % HELD_OUT], documents[::HELD_OUT]
