"""Read an index of features: what each fires on, with what, and what it does. Needs neither torch nor a model.

`open_index(folder)` maps the arrays into memory; `index.feature(7)` gathers what is known of one feature,
`index.context(row, …)` shows a token with its neighbours, `index.document(…)` a whole document.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.activations.files import hash_file, read_sealed
from interp.errors import UserError, nearest
from interp.features.read.arrays import damaged, inside, map_array, number_of, read_list
from interp.features.read.feature import Effect, Example, Feature, Label, Neighbour
from interp.features.read.layout import ARRAYS, FIXED, LABELS, RECORD, SCHEMA, TEXTS, VOCABULARY, WORDS
from interp.paths import expand

ERROR = "error"  # the name under which the SAE's error term is asked for


@dataclass(frozen=True)
class Index:
    """An index that is open. `len(index)` is its number of features."""

    folder: Path
    record: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(repr=False)

    def __repr__(self) -> str:
        return f"Index({str(self.folder)!r}: {len(self):,} features, {self.sizes['row']:,} tokens)"

    def __len__(self) -> int:
        return int(self.record["sizes"]["feature"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        """One of the arrays of `layout.ARRAYS`, mapped into memory."""
        return self.arrays[name]

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows, documents, features, firings … there are."""
        return self.record["sizes"]

    @cached_property
    def tokens_counted(self) -> int:
        """Tokens that statistics are over: all that are no sinks."""
        return int(self.sizes["row"] - np.count_nonzero(self["is_sink"]))

    @cached_property
    def vocabulary(self) -> list[str]:
        """The text of every token id."""
        return [str(text) for text in read_list(self.folder / VOCABULARY)]

    @cached_property
    def labels(self) -> list[Label]:
        """A label for every feature."""
        rows = read_list(self.folder / LABELS)
        try:
            found = [
                Label(str(text), number_of(score), number_of(precision), number_of(recall), str(by))
                for text, score, precision, recall, by in rows
            ]
        except (TypeError, ValueError) as error:
            raise damaged(self.folder / LABELS, f"{type(error).__name__}: {error}") from error
        if len(found) != len(self):
            raise damaged(self.folder / LABELS, f"{len(found)} labels for {len(self)} features")
        return found

    @cached_property
    def words(self) -> list[str]:
        """A line a feature, in small letters: what it is searched by."""
        try:
            lines = (self.folder / WORDS).read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError) as error:
            raise damaged(self.folder / WORDS, str(error)) from error
        if len(lines) != len(self):
            raise damaged(self.folder / WORDS, f"{len(lines)} lines for {len(self)} features")
        return lines

    @cached_property
    def by_row(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The firings row by row: where each row's begin in the second array, and the features. Sorted when asked."""
        feature = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self["firing_start"]))
        order = np.argsort(self["firing_row"], kind="stable")
        counts = np.bincount(self["firing_row"], minlength=self.sizes["row"])
        return np.concatenate([[0], np.cumsum(counts)]), feature[order]

    def text(self, token: int) -> str:
        """The text of a token id."""
        return self.vocabulary[token] if 0 <= token < len(self.vocabulary) else f"<{token}>"

    def check(self, feature: int | str) -> int:
        """`feature` as a number. Raises UserError for one that the index does not have."""
        try:
            number = int(feature)
        except ValueError as error:
            raise UserError(f"feature {feature!r}; expected a number from 0 to {len(self) - 1}, or {ERROR}") from error
        if not 0 <= number < len(self):
            raise UserError(f"feature {number}; this index has features 0 to {len(self) - 1}")
        return number

    def firings(self, feature: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The rows on which a feature fires, ascending, and its activation there. Sinks are left out."""
        start, stop = (int(n) for n in self["firing_start"][feature : feature + 2])
        return self["firing_row"][start:stop], self["firing_value"][start:stop]

    def feature(self, number: int, *, window: int = 12, top: int | None = None) -> Feature:
        """All that is known of one feature, examples with `window` tokens on either side."""
        number = self.check(number)
        fired = self.firings(number)
        low, high = tuple(float(v) for v in self["effect"][number][1:3])
        return Feature(
            number=number,
            label=self.labels[number],
            rate=float(self["rate"][number]),
            mean=float(self["mean"][number]),
            maximum=float(self["maximum"][number]),
            firings=len(fired[0]),
            histogram=np.array(self["histogram"][number]),
            by_token=float(self["by_token"][number]),
            by_position=float(self["by_position"][number]),
            by_word=float(self["by_word"][number]),
            typical=self._pairs(number, "typical_token", "typical_share"),
            fires_with=self._neighbours(number, "with_feature", "with_phi", "with_count"),
            near=self._neighbours(number, "near_feature", "near_cosine"),
            raises=self._pairs(number, "up_token", "up_logit"),
            lowers=self._pairs(number, "down_token", "down_logit"),
            effect=Effect(
                float(self["effect"][number][0]),
                low,
                high,
                int(self["effect_n"][number]),
                float(self["effect_random"][number]),
            ),
            top=tuple(self._examples(self["top_row"][number][:top], fired, window)),
            bands=tuple(tuple(self._examples(rows, fired, window)) for rows in self["band_row"][number]),
        )

    def _pairs(self, number: int, tokens: str, values: str) -> tuple[tuple[str, float], ...]:
        both = zip(self[tokens][number].tolist(), self[values][number].tolist(), strict=True)
        return tuple((self.text(token), value) for token, value in both if token >= 0)

    def _neighbours(self, number: int, features: str, closeness: str, count: str = "") -> tuple[Neighbour, ...]:
        counts = self[count][number].tolist() if count else [0] * self.sizes["neighbour"]
        found = zip(self[features][number].tolist(), self[closeness][number].tolist(), counts, strict=True)
        return tuple(Neighbour(*one) for one in found if 0 <= one[0] < len(self))

    def _examples(
        self, rows: NDArray[Any], fired: tuple[NDArray[np.int32], NDArray[np.float32]], window: int
    ) -> list[Example]:
        return [self.context(int(row), window, fired) for row in rows if 0 <= row < self.sizes["row"]]

    def context(
        self, row: int, window: int, fired: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None
    ) -> Example:
        """The token at `row` with `window` tokens on either side, within its sequence; `fired` are `firings`."""
        starts = self["sequence_start"]
        sequence = int(np.searchsorted(starts, row, side="right")) - 1
        low, high = max(int(starts[sequence]), row - window), min(int(starts[sequence + 1]), row + window + 1)
        return self._example(low, high, row, fired)

    def document(self, number: int, fired: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None) -> Example:
        """A whole document, `peak` at the largest activation. Raises UserError for one that there is not."""
        if not 0 <= number < self.sizes["document"]:
            raise UserError(f"document {number}; this index has documents 0 to {self.sizes['document'] - 1}")
        low, high = (int(np.searchsorted(self["document"], number, side=side)) for side in ("left", "right"))
        shown = self._example(low, high, low, fired)
        peak = int(np.argmax(shown.activations)) if shown.activations else 0
        return Example(shown.tokens, shown.activations, peak, number, int(self["position"][low + peak]))

    def _example(
        self, low: int, high: int, row: int, fired: tuple[NDArray[np.int32], NDArray[np.float32]] | None
    ) -> Example:
        shown = np.zeros(high - low, np.float32)
        if fired is not None:
            first, stop = np.searchsorted(fired[0], [low, high])
            shown[fired[0][first:stop] - low] = fired[1][first:stop]
        return Example(
            tokens=tuple(self.text(token) for token in self["token"][low:high].tolist()),
            activations=tuple(shown.tolist()),
            peak=row - low,
            document=int(self["document"][row]),
            position=int(self["position"][row]),
        )

    def errors(self, window: int = 12) -> list[tuple[float, Example]]:
        """Where the dictionary misses most: error relative to the activation's norm, and the token."""
        rows = [int(row) for row in self["error_row"] if 0 <= row < self.sizes["row"]]
        return [(float(self["error"][row] / self["norm"][row]), self.context(row, window)) for row in rows]

    def source(self, document: int) -> tuple[str, int]:
        """The file of a document, and its row there."""
        files = self.record["files"]
        number = int(self["file"][document])
        return (str(files[number]) if 0 <= number < len(files) else "?"), int(self["file_row"][document])

    def verify(self) -> list[str]:
        """The files whose bytes are not those that were written; reads all of them."""
        return [name for name, hash_ in self.record["hashes"].items() if hash_file(self.folder / name) != hash_]


def open_index(folder: str | Path) -> Index:
    """Open an index, memory-mapped.

    Raises UserError, in one line, for a folder that is none, another version's, an unfinished or a damaged one.
    """
    folder = expand(folder)
    if not (folder / RECORD).exists():
        raise UserError(_why_none(folder))
    record = read_sealed(folder / RECORD)
    if record is None:
        raise damaged(folder / RECORD, "its seal does not fit its bytes")
    schema = record.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        todo = "update interp-probes" if newer else "build it again"
        raise UserError(f"{folder} has schema {schema}; this version reads {SCHEMA}; {todo}")
    try:
        sizes = {str(k): int(v) for k, v in record["sizes"].items()} | FIXED
        hashes = {name: str(record["hashes"][name]) for name in (*TEXTS, *(f"{name}.npy" for name in ARRAYS))}
        record = {**record, "sizes": sizes, "hashes": hashes, "files": [str(f) for f in record["files"]]}
        arrays = {name: map_array(folder, name, sizes) for name in ARRAYS}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder / RECORD, f"{type(error).__name__}: {error}") from error
    for name in TEXTS:
        inside(folder, name)
    _check_places(folder, record, arrays)
    return Index(folder, record, arrays)


def _check_places(folder: Path, record: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Refuse an index whose arrays point beyond one another: a forged one has hashes that fit."""
    sizes = record["sizes"]
    for name, end in (("firing_start", sizes["firing"]), ("sequence_start", sizes["row"])):
        starts = arrays[name]
        if starts[0] != 0 or starts[-1] != end or bool((np.diff(starts) < 0).any()):
            raise damaged(folder / f"{name}.npy", f"it does not lead from 0 to {end}")
    for name, size in (("document", sizes["document"]), ("file", len(record["files"]))):
        values = arrays[name]
        if values.size and not 0 <= int(values.min()) <= int(values.max()) < size:
            raise damaged(folder / f"{name}.npy", f"it names one beyond {size - 1}")


def _why_none(folder: Path) -> str:
    if (folder / "plan.json").exists() or any(folder.glob("firings-*")):
        return f"{folder} is an index that is not finished; run the same `interp features build` again: it goes on"
    if (folder / "cfg.json").exists():
        return f"{folder} is an SAE; build its index first: interp features build --sae {folder} --out INDEX"
    why = f"{folder} is no index: it has no {RECORD}" if folder.exists() else f"{folder} does not exist"
    there = (
        [path.name for path in folder.parent.glob("*/") if (path / RECORD).exists()] if folder.parent.is_dir() else []
    )
    near = f"; nearest: {', '.join(nearest(folder.name, there))}" if there else ""
    return f"{why}; expected a folder that `interp features build` wrote{near}"
