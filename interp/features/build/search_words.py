"""The words by which a feature is found: its label, its tokens, and what stands around its strongest examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.features.read.feature import Label

AROUND, EXAMPLES = 8, 5  # tokens on either side, strongest examples


def searched(text: str) -> str:
    """Text as it is searched: on one line, in small letters."""
    return " ".join(text.split()).casefold()


def words_of(labels: Sequence[Label], arrays: Mapping[str, NDArray[Any]], vocabulary: list[str]) -> str:
    """A line a feature, in small letters, its parts parted by tabs: label, typical tokens, each example's text."""
    token, starts = arrays["token"], arrays["sequence_start"]
    lines = []
    for label, typical, top in zip(labels, arrays["typical_token"], arrays["top_row"], strict=True):
        parts = [label.text, " ".join(vocabulary[t].strip() for t in typical.tolist() if t >= 0)]
        for row in top[:EXAMPLES].tolist():
            if row >= 0:
                sequence = int(np.searchsorted(starts, row, side="right")) - 1
                low, high = max(int(starts[sequence]), row - AROUND), min(int(starts[sequence + 1]), row + AROUND + 1)
                parts.append("".join(vocabulary[t] for t in token[low:high].tolist()))
        lines.append("\t".join(map(searched, parts)))
    return "\n".join(lines) + "\n"
