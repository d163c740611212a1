"""An index in the JSON that Neuronpedia imports: `batch-0.json`, `batch-1.json`, … of features with examples.

The keys are those of SAEDashboard's `NeuronpediaDashboardBatch`. What an index does not hold (alignment with neurons, a
histogram of all logits, decoder weights by head) is an empty list, as it is there when it was not asked for. Bands of
examples are equal parts of the firings; `bin_contains` says how much of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.activations.files import new_file, write_at
from interp.errors import UserError
from interp.features.read.feature import Example, Feature
from interp.features.read.index import Index
from interp.paths import expand
from interp.progress import Progress, silent

BATCH = 128  # features of a file
DIGITS = 5
WINDOW = 32
NOT_HELD = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
    "vector",
)


def write_neuronpedia(
    index: Index,
    folder: str | Path,
    features: Sequence[int] | None = None,
    *,
    progress: Progress = silent,
) -> list[Path]:
    """Write `features` (all by default) to `folder`, each file whole or not at all; returns the files.

    Raises UserError for a folder that holds something else already.
    """
    folder = expand(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; expected a new folder; choose another")
    chosen = list(range(len(index)) if features is None else features)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, start in enumerate(range(0, len(chosen), BATCH)):
        batch = _head(index) | {"features": [_feature(index, f) for f in chosen[start : start + BATCH]]}
        path = folder / f"batch-{number}.json"
        with new_file(path) as file:
            text = json.dumps(batch, allow_nan=False)
            write_at(file.descriptor, memoryview(text.encode("utf-8", errors="replace")), 0)
        written.append(path)
        progress("writing", min(len(chosen), start + BATCH), len(chosen))
    return written


def _head(index: Index) -> dict[str, Any]:
    plan = index.record["plan"]
    site = str(plan["sae"]["site"])
    layer = next((int(part) for part in site.split(".") if part.isdigit()), 0)
    return {
        "model_id": str(plan["capture"]["model"]["name"]),
        "layer": layer,
        "sae_set": f"{plan['sae']['kind']}-{site.rpartition('.')[2]}-{len(index)}",
        "sae_id_suffix": None,
    }


def _feature(index: Index, number: int) -> dict[str, Any]:
    feature = index.feature(number, window=WINDOW)
    edges = np.linspace(0, feature.maximum, len(feature.histogram) + 1)
    near = {one.feature: one.closeness for one in feature.near}
    lengths = np.diff(index["sequence_start"])
    return {key: [] for key in NOT_HELD} | {
        "feature_index": number,
        "correlated_features_indices": [one.feature for one in feature.fires_with],
        "correlated_features_l1": [_rounded(near.get(one.feature, 0.0)) for one in feature.fires_with],
        "correlated_features_pearson": [_rounded(one.closeness) for one in feature.fires_with],
        "pos_str": [text for text, _ in feature.raises],
        "pos_values": [_rounded(value) for _, value in feature.raises],
        "neg_str": [text for text, _ in feature.lowers],
        "neg_values": [_rounded(value) for _, value in feature.lowers],
        "frac_nonzero": feature.rate,
        "freq_hist_data_bar_values": [_rounded(v) for v in ((edges[:-1] + edges[1:]) / 2).tolist()],
        "freq_hist_data_bar_heights": [float(n) for n in feature.histogram.tolist()],
        "n_prompts_total": len(lengths),
        "n_tokens_in_prompt": int(lengths.max(initial=0)),
        "dataset": ", ".join(index.record["files"][:3]),
        "activations": _activations(index, feature),
    }


def _activations(index: Index, feature: Feature) -> list[dict[str, Any]]:
    out = [_activation(one, -1.0, feature.maximum, -1.0) for one in feature.top]
    strengths = np.sort(index.firings(feature.number)[1])[::-1]
    n, bands = len(strengths), len(feature.bands)
    for band, examples in enumerate(feature.bands):
        members = strengths[band * n // bands : (band + 1) * n // bands]
        out += [_activation(one, float(members[-1]), float(members[0]), len(members) / n) for one in examples]
    return out


def _activation(example: Example, low: float, high: float, share: float) -> dict[str, Any]:
    return {
        "bin_min": _rounded(low),
        "bin_max": _rounded(high),
        "bin_contains": _rounded(share),
        "tokens": list(example.tokens),
        "values": [_rounded(value) for value in example.activations],
        "qualifying_token_index": example.peak,
    }


def _rounded(value: float) -> float:
    return 0.0 if math.isnan(value) else round(float(value), DIGITS)
