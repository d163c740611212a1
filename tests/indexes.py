"""A small index for the tests, built for real: which settings, and what lies on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from word_sae import SENTENCES, SITE

from interp.activations.capture import Worker
from interp.activations.plan import plan_capture
from interp.activations.store import Store
from interp.activations.token_table import Cut
from interp.features.build import passes as build
from interp.features.build import plan
from interp.features.build.inputs import Building
from interp.features.read.index import Index
from interp.features.read.layout import ARRAYS, TEXTS
from interp.model.model import Model

SETTINGS = plan.Settings(top=6, bands=3, examples=2, typical=4, neighbours=5, logits=4, effects=3)
ROWS = 100  # of a piece: several of them


def prepared(
    model: Model,
    sae: Any,
    folder: Path,
    *,
    texts: Sequence[str] = SENTENCES,
    settings: plan.Settings = SETTINGS,
    batch_tokens: int | None = None,
    piece_rows: int = ROWS,
    store: Store | None = None,
    stop: Callable[[], bool] = lambda: False,
    site: str = SITE,
) -> Building:
    """What a build works with."""
    capture, tokens = (
        (store.plan, store.tokens)
        if store
        else plan_capture(model, texts, [site], cut=Cut(10), batch_tokens=batch_tokens)
    )
    with patch.object(plan, "PIECE_ROWS", piece_rows):
        made = plan.plan_index(sae, capture, tokens, settings)
    return Building(model, sae, folder, made, tokens, store, stop=stop)


def built(model: Model, sae: Any, folder: Path, worker: Worker | None = None, **more: Any) -> Index:
    """An index, finished."""
    index = build.build_index(prepared(model, sae, folder, **more), worker)
    assert index is not None
    return index


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that holds a result."""
    return {name: (folder / name).read_bytes() for name in (*TEXTS, *(f"{name}.npy" for name in ARRAYS))}


def as_dense(index: Index) -> NDArray[np.float64]:
    """The firings as a matrix [row, feature]: what the loops below look at."""
    out = np.zeros((index.sizes["row"], len(index)))
    for feature in range(len(index)):
        rows, values = index.firings(feature)
        assert bool((np.diff(rows) > 0).all()), "rows ascend"
        out[rows, feature] = values
    return out
