"""A feature index made of chosen tokens and drawn numbers: small for the tests, or as large as a real one.

What follows from the firings is worked out from them (rates, histograms, top rows), so that a page can be held to it.
What would need a model (logits, effects, the map) is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.activations.files import write_sealed
from interp.features.build.search_words import words_of
from interp.features.build.write import IndexFiles
from interp.features.read.feature import Label
from interp.features.read.layout import ARRAYS, FIXED, RECORD, SCHEMA, VOCABULARY, WORDS

TEXTS = (" the", " capital", " of", " France", " is", " Paris", ".", "\n", " tower", " small", " large", " café")
SIZES = {
    "top": 20,
    "band": 5,
    "example": 5,
    "typical": 8,
    "neighbour": 10,
    "logit": 10,
}  # as `interp features build` has
Arrays = dict[str, NDArray[Any]]


def write_fake_index(
    folder: Path,
    *,
    features: int = 40,
    documents: int = 12,
    length: int = 16,
    l0: int = 4,
    texts: Sequence[str] = TEXTS,
    labels: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Write an index of `documents` of `length` tokens to `folder`, and return it.

    Feature i is strongest on token i of `texts` (counted round), and is called `labels[i]`, else after that token. The
    last feature never fires; where it would have a number of its own it has none (NaN). Every third label has no score.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(seed), documents * length
    tokens = rng.integers(0, len(texts), rows).astype(np.int32)
    tokens[: min(rows, len(texts))] = np.arange(len(texts))[:rows]  # each at least once
    is_sink = np.arange(rows) % length == 0
    found = _per_row(rng, tokens, is_sink, documents, length)
    found |= _firings(rng, tokens, is_sink, features, l0, len(texts))
    found |= _per_feature(found, rng, features, len(texts))
    names = [
        labels[i] if i < len(labels) else f"the token {texts[i % len(texts)].strip()} {i}" for i in range(features)
    ]
    scores = [nan if i % 3 == 2 else round((i * 37 % 100) / 100, 2) for i in range(features)]
    files = IndexFiles(folder)
    for name, values in found.items():
        files.array(name, values)
    called = [
        Label(name, score, nan if score != score else 0.5, nan if score != score else 0.25, "rule")
        for name, score in zip(names, scores, strict=True)
    ]
    files.text(VOCABULARY, json.dumps(list(texts)))
    files.labels(called)
    files.text(WORDS, words_of(called, found, list(texts)))
    sizes = SIZES | {"row": rows, "sequence": documents, "document": documents, "feature": features}
    sizes["firing"] = len(found["firing_row"])
    record = {
        "schema": SCHEMA,
        "sizes": sizes,
        "files": ["corpus.txt"],
        "hashes": files.hashes,
        "plan": {"capture": {"model": {"name": "fake"}}, "sae": {"site": "blocks.1.hook_resid_post", "kind": "topk"}},
        "summary": {"l0": float(l0), "silent": 1, "sinks": int(is_sink.sum()), "missed": 0.125},
        "libraries": {},
    }
    write_sealed(folder / RECORD, record)
    return folder


def _per_row(
    rng: np.random.Generator, tokens: NDArray[np.int32], is_sink: NDArray[np.bool_], documents: int, length: int
) -> Arrays:
    rows = len(tokens)
    norm, share = rng.uniform(5, 10, rows), rng.uniform(0.05, 0.6, rows)
    worst = np.argsort(np.where(is_sink, 0, -share), kind="stable")[: SIZES["top"]]
    return {
        "token": tokens,
        "document": np.repeat(np.arange(documents), length),
        "position": np.tile(np.arange(length), documents),
        "sequence_start": np.arange(documents + 1) * length,
        "is_sink": is_sink,
        "norm": norm,
        "error": norm * share,
        "file": np.zeros(documents),
        "file_row": np.arange(documents),
        "error_row": _padded(worst, SIZES["top"]),
        "error_effect": np.array([0.5, 0.4, 0.6]),
    }


def _firings(
    rng: np.random.Generator, tokens: NDArray[np.int32], is_sink: NDArray[np.bool_], features: int, l0: int, texts: int
) -> Arrays:
    """Feature by feature: some rows that are no sinks, its own token among them and strongest; nothing for the last."""
    free = np.flatnonzero(~is_sink)
    own = [free[tokens[free] == token] for token in range(texts)]
    weight = 1.0 / np.arange(1, features)  # a few fire often, most seldom
    counts = np.maximum(1, (l0 * len(free) * weight / weight.sum()).astype(int)).clip(max=len(free) // 2)
    all_rows, all_values = [], []
    for feature, count in enumerate(counts.tolist()):
        rows = np.unique(np.concatenate([rng.choice(free, count), own[feature % texts][: max(2, count // 4)]]))
        all_rows.append(rows.astype(np.int32))
        values = rng.exponential(1.0, len(rows)) + 0.05
        all_values.append((values + 8.0 * (tokens[rows] == feature % texts)).astype(np.float32))
    lengths = [*map(len, all_rows), 0]
    return {
        "firing_start": np.concatenate([[0], np.cumsum(lengths)]),
        "firing_row": np.concatenate(all_rows),
        "firing_value": np.concatenate(all_values),
    }


def _per_feature(found: Arrays, rng: np.random.Generator, features: int, texts: int) -> Arrays:
    out: Arrays = {
        name: np.full((features, *(SIZES.get(axis, FIXED.get(axis, 0)) for axis in kind.axes[1:])), -1, kind.dtype)
        for name, kind in ARRAYS.items()
        if kind.axes[0] == "feature"
    }
    out |= {name: np.zeros(features, np.float32) for name in ("rate", "mean", "maximum")}
    out["histogram"][:] = 0
    out["typical_share"][:] = 0
    counted = int((~found["is_sink"]).sum())
    starts = found["firing_start"].tolist()
    for feature, (start, stop) in enumerate(pairwise(starts)):
        if stop > start:
            _one(out, found, feature, slice(start, stop), counted, rng)
    for name in ("by_token", "by_position", "by_word", "effect_random"):
        out[name] = rng.uniform(-0.2, 0.9, features).astype(np.float32)
    mean = rng.normal(0, 0.1, features)
    out["effect"] = np.stack([mean, mean - 0.05, mean + 0.05], 1).astype(np.float32)
    out["effect_n"] = np.full(features, 4)
    for name in ("by_token", "by_position", "by_word", "effect", "effect_random"):
        out[name][-1] = nan
    out["effect_n"][-1] = 0
    out["map"] = rng.normal(0, 1, (features, 2))
    neighbours, logits = SIZES["neighbour"], SIZES["logit"]
    others = (np.arange(features)[:, None] + 1 + np.arange(neighbours)) % features
    for name, closeness in (("with", "with_phi"), ("near", "near_cosine")):
        out[f"{name}_feature"], out[closeness] = others, np.sort(rng.uniform(0, 1, others.shape))[:, ::-1]
    out["with_count"] = rng.integers(1, 50, others.shape)
    for name, sign in (("up", 1), ("down", -1)):
        out[f"{name}_token"] = rng.integers(0, texts, (features, logits))
        out[f"{name}_logit"] = sign * np.sort(rng.uniform(0, 2, (features, logits)))[:, ::-1]
    return out


def _one(out: Arrays, found: Arrays, feature: int, part: slice, counted: int, rng: np.random.Generator) -> None:
    rows, values = found["firing_row"][part], found["firing_value"][part]
    order = np.argsort(-values, kind="stable")
    out["rate"][feature] = len(rows) / counted
    out["mean"][feature], out["maximum"][feature] = values.mean(), values.max()
    out["histogram"][feature] = np.histogram(values, FIXED["bin"], (0.0, float(values.max())))[0]
    out["top_row"][feature] = _padded(rows[order], SIZES["top"])
    for band, some in enumerate(np.array_split(rows[order], SIZES["band"])):
        drawn = some[rng.permutation(len(some))[: SIZES["example"]]]
        out["band_row"][feature, band] = _padded(drawn, SIZES["example"])
    total = np.bincount(found["token"][rows], weights=values)
    most = np.argsort(-total, kind="stable")[: SIZES["typical"]]
    most = most[total[most] > 0]
    out["typical_token"][feature, : len(most)] = most
    out["typical_share"][feature, : len(most)] = total[most] / total.sum()


def _padded(values: NDArray[Any], n: int) -> NDArray[np.int32]:
    """The first `n`, and -1 where there are no more."""
    out = np.full(n, -1, np.int32)
    out[: min(n, len(values))] = values[:n]
    return out
