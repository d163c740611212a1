"""A corpus as rows: every token, cut into sequences, each with the document and the place it is from.

One row is one token. Rows stand in reading order, document by document; `Tokens` says of each row which token of which
document it is, and in which file and row of the corpus that document stands.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from interp.errors import UserError
from interp.model.hooks.tokens import encode
from interp.model.model import Model
from interp.progress import Progress, silent
from interp.text.corpus import Corpus
from interp.text.formats import Document

Packing = Literal["documents", "packed"]
MOST_DOCUMENTS = 2**31 - 1  # that the 32 bits of a document's number can count
AT_ONCE = 64  # documents tokenized at a time


@dataclass(frozen=True)
class Cut:
    """How text becomes sequences.

    `documents`: each document by itself, in pieces of at most `context` tokens; a BOS token stands in front of every
    piece where the model's policy puts one in front of a document. `packed`: documents one after the other, parted by
    `separator`, in pieces of exactly `context` tokens (the last one may be shorter).
    """

    context: int = 128
    packing: Packing = "documents"
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("context", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value}; expected 1 or more")


@dataclass(frozen=True)
class Tokens:
    """Every row's token and where it is from.

    `ids`, `document`, `position` [row]: the token, the number of its document, its place among that document's tokens
    (-1: a BOS or separator token that was put there). `starts` [sequence + 1]: the first row of each sequence, and the
    number of rows. `file`, `row` [document]: which of `files` the document stands in, and on which row.
    """

    ids: NDArray[np.int32]
    document: NDArray[np.int32]
    position: NDArray[np.int32]
    starts: NDArray[np.int64]
    file: NDArray[np.int32]
    row: NDArray[np.int64]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property  # it is asked for every sequence of every batch
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence."""
        return np.diff(self.starts)

    def sequence(self, index: int) -> NDArray[np.int32]:
        """The token ids of one sequence."""
        return self.ids[self.starts[index] : self.starts[index + 1]]


def read_tokens(model: Model, corpus: Corpus, cut: Cut, progress: Progress = silent) -> tuple[Tokens, dict[str, Any]]:
    """Tokenize a corpus: its tokens, and what a plan says of it (how much, its fingerprint, was it read to its end?).

    The fingerprint is of the documents read and their places. Reads a few documents more than `cut.max_tokens` needs,
    and no further.
    Raises UserError for a document that cannot be tokenized, and for a corpus without any.
    """
    seen = _Reader(model, cut, corpus)
    documents = corpus.read()
    while seen.room() and (some := list(islice(documents, AT_ONCE))):
        seen.add(some)
        progress("reading the corpus", len(seen.ids), cut.max_tokens or 0)
    ended = not seen.cut_off and seen.is_last(documents)
    if not seen.ids:
        empty = f" but {seen.left_out:,} without text" if seen.left_out else ""
        raise UserError(f"{corpus.name} holds no document{empty}; expected one or more")
    told: dict[str, Any] = {"documents": len(seen.row), "tokens": len(seen.ids), "fingerprint": seen.fingerprint()}
    left_out = {"left_out": seen.left_out} if seen.left_out else {}
    return seen.tokens(), told | {"whole": ended} | left_out


class _Reader:
    """Collects the rows of the documents added to it."""

    def __init__(self, model: Model, cut: Cut, corpus: Corpus) -> None:
        self.model, self.cut, self.corpus = model, cut, corpus
        self.ids, self.document, self.position = array("i"), array("i"), array("i")  # a list takes ten times as much
        self.starts, self.file, self.row = array("q", [0]), array("i"), array("q")
        self.files: dict[str, int] = {}
        self.cut_off = False  # is there text that `max_tokens` left out?
        self.left_out = 0
        self.hash = xxhash.xxh3_128()
        bos = model.tokenizer.bos_token_id
        self.bos = [bos] if isinstance(bos, int) and _opener(model) == bos else []
        if self.bos and cut.context < 2:
            raise UserError("context 1 leaves no room behind the BOS token of every sequence; expected 2 or more")
        end = model.tokenizer.eos_token_id
        self.separator = self.bos or ([end] if isinstance(end, int) else [])

    def room(self) -> int:
        limit = self.cut.max_tokens
        return 1 if limit is None else limit - len(self.ids)

    def fingerprint(self) -> str:
        return f"xxh3:{self.hash.hexdigest()}"

    def is_last(self, documents: Iterator[Document]) -> bool:
        """Is there no further document?"""
        try:
            for document in documents:
                if self.corpus.keeps(document):
                    return False
                self.left_out += 1
        except UserError:  # a bad row behind the last one that is needed is nobody's concern
            return False
        return True

    def add(self, documents: Sequence[Document]) -> None:
        kept = [document for document in documents if self.corpus.keeps(document)]
        encoded = iter(self._encode(kept))
        for document in documents:
            if not document.text.strip():
                self.left_out += 1
                continue
            if not self.room():
                self.cut_off = True
                return
            if len(self.row) == MOST_DOCUMENTS:
                raise UserError(f"{self.corpus.name} holds more than {MOST_DOCUMENTS:,} documents; take a part of it")
            root = self.corpus.root
            name = os.path.relpath(document.file, root) if root else document.file
            self.hash.update(json.dumps([document.text, name, document.row]).encode())
            self.file.append(self.files.setdefault(name, len(self.files)))
            self.row.append(document.row)
            self._cut(next(encoded), len(self.row) - 1)

    def _encode(self, documents: Sequence[Document]) -> list[list[int]]:
        """Ids without a BOS in front; that is put where sequences begin."""
        tokenizer, texts = self.model.tokenizer, [document.text for document in documents]
        rows = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
        unknown = tokenizer.unk_token_id
        for document, row in zip(documents, rows, strict=True):
            if not row or (unknown is not None and unknown in row):
                try:
                    encode(tokenizer, [document.text], "never")  # says what is wrong, if anything is
                except UserError as error:
                    raise UserError(f"{document.where}: {error}") from error
        return rows

    def _cut(self, ids: list[int], document: int) -> None:
        if self.cut.packing == "packed":
            own = list(range(len(ids)))
            if ids[:1] != self.separator:
                self._append(self.separator, document, [-1] * len(self.separator))
            self._append(ids, document, own)
            return
        size = self.cut.context - len(self.bos)
        for start in range(0, len(ids), size):
            piece = ids[start : start + size]
            opened = self.bos if piece[:1] != self.bos else []  # a document may bring its own
            places = [-1] * len(opened) + list(range(start, start + len(piece)))
            self._append([*opened, *piece], document, places)
            if len(self.ids) > self.starts[-1]:
                self.starts.append(len(self.ids))
            if not self.room():
                self.cut_off |= start + size < len(ids)
                return

    def _append(self, ids: Sequence[int], document: int, places: Sequence[int]) -> None:
        if self.cut.max_tokens is not None:
            self.cut_off |= len(ids) > self.room()
            ids, places = ids[: self.room()], places[: self.room()]
        self.ids.extend(ids)
        self.position.extend(places)
        self.document.extend([document] * len(ids))

    def tokens(self) -> Tokens:
        starts = np.array(self.starts, dtype=np.int64)
        if self.cut.packing == "packed":
            starts = np.array([*range(0, len(self.ids), self.cut.context), len(self.ids)], dtype=np.int64)
        ids, document, position = (np.array(some, np.int32) for some in (self.ids, self.document, self.position))
        file, row = np.array(self.file, np.int32), np.array(self.row, np.int64)
        return Tokens(ids, document, position, starts, file, row, tuple(self.files))


def _opener(model: Model) -> int:
    """The token that this model's policy puts, or does not put, in front of a document that begins otherwise."""
    special = set(model.tokenizer.all_special_ids)
    word = next(text for i in range(len(model.tokenizer)) if i not in special and (text := _plain(model, i)))
    return encode(model.tokenizer, [word], model.bos)[0][0]


def _plain(model: Model, token: int) -> str:
    """A token's text, "" where the tokenizer would not read it back."""
    text = str(model.tokenizer.decode([token]))
    return text if text.strip() and model.tokenizer(text, add_special_tokens=False).input_ids == [token] else ""
