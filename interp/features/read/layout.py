"""What an index on disk consists of: its files, what each holds, and how large it must be.

    INDEX/
        index.json        what the index is of, its sizes, and the hash of every file; sealed
        vocabulary.json   the text of every token id
        labels.json       a label for every feature, with what it predicts on held-out text
        words.txt         a line a feature: the words by which it is searched
        NAME.npy          the arrays below, one file each, mapped into memory when read

Nothing here is a pickle, and no file names another: an index from elsewhere can run no code and points nowhere.
"""

from __future__ import annotations

from typing import NamedTuple

SCHEMA = 1
RECORD, VOCABULARY, LABELS, WORDS = "index.json", "vocabulary.json", "labels.json", "words.txt"
TEXTS = (VOCABULARY, LABELS, WORDS)


class Array(NamedTuple):
    """One array: its numbers, and what each axis counts (a name among the sizes in `index.json`)."""

    dtype: str
    axes: tuple[str, ...]
    what: str


ARRAYS: dict[str, Array] = {
    # every token of the corpus
    "token": Array("<i4", ("row",), "token id"),
    "document": Array("<i4", ("row",), "number of its document"),
    "position": Array("<i4", ("row",), "place in its document; -1: a token that was put there (BOS, separator)"),
    "sequence_start": Array("<i8", ("sequence+1",), "first row of each sequence, and the number of rows"),
    "is_sink": Array("|b1", ("row",), "attention sinks: no statistic has them"),
    "norm": Array("<f4", ("row",), "norm of the activation"),
    "error": Array("<f4", ("row",), "norm of what the dictionary misses, activation less reconstruction"),
    # every document
    "file": Array("<i4", ("document",), "number of its file"),
    "file_row": Array("<i8", ("document",), "row in its file"),
    # every firing, feature by feature, in the order of rows
    "firing_start": Array("<i8", ("feature+1",), "first firing of each feature, and the number of firings"),
    "firing_row": Array("<i4", ("firing",), "row of a firing"),
    "firing_value": Array("<f4", ("firing",), "activation of a firing"),
    # every feature
    "rate": Array("<f4", ("feature",), "share of tokens on which it fires"),
    "mean": Array("<f4", ("feature",), "mean activation where it fires"),
    "maximum": Array("<f4", ("feature",), "largest activation"),
    "histogram": Array("<i4", ("feature", "bin"), "firings by activation, in equal bins from 0 to the maximum"),
    "top_row": Array("<i4", ("feature", "top"), "rows of the largest activations, largest first; -1: no more"),
    "band_row": Array("<i4", ("feature", "band", "example"), "rows drawn from each band of the firings; -1: no more"),
    "by_token": Array("<f4", ("feature",), "share of its variance that the token's identity explains"),
    "by_position": Array("<f4", ("feature",), "correlation with the place in the sequence"),
    "by_word": Array("<f4", ("feature",), "correlation with being a later piece of a word"),
    "typical_token": Array("<i4", ("feature", "typical"), "tokens with most of its activation; -1: no more"),
    "typical_share": Array("<f4", ("feature", "typical"), "share of its activation that falls on each"),
    "with_feature": Array("<i4", ("feature", "neighbour"), "features that fire with it most; -1: no more"),
    "with_count": Array("<i4", ("feature", "neighbour"), "tokens on which both fire"),
    "with_phi": Array("<f4", ("feature", "neighbour"), "correlation of the two firings"),
    "near_feature": Array("<i4", ("feature", "neighbour"), "features whose decoder directions are nearest"),
    "near_cosine": Array("<f4", ("feature", "neighbour"), "cosine of the two directions"),
    "up_token": Array("<i4", ("feature", "logit"), "tokens whose logits it raises most, as read by the unembedding"),
    "up_logit": Array("<f4", ("feature", "logit"), "by how much, at unit length of the direction"),
    "down_token": Array("<i4", ("feature", "logit"), "tokens whose logits it lowers most"),
    "down_logit": Array("<f4", ("feature", "logit"), "by how much"),
    "effect": Array(
        "<f4", ("feature", "interval"), "rise of the loss at the token when ablated there: mean, low, high"
    ),
    "effect_random": Array("<f4", ("feature",), "the same for a random direction of the same length, mean"),
    "effect_n": Array("<i4", ("feature",), "firings that were ablated"),
    "label_score": Array("<f4", ("feature",), "correlation of the label's prediction with firing, on held-out text"),
    "map": Array("<f4", ("feature", "plane"), "place on the map: first principal components of the directions"),
    # the error term
    "error_row": Array("<i4", ("top",), "rows of the largest error relative to the activation's norm"),
    "error_effect": Array("<f4", ("interval",), "rise of the loss when the error is taken away: mean, low, high"),
}
FIXED = {"bin": 40, "plane": 2, "interval": 3}
