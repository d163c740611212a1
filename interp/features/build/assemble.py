"""From the parts to an index: they are joined, ablations are added, and the files written, the record last."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interp.activations.files import write_sealed
from interp.features.build.effects import Chosen, measure_effects, summarise_effects
from interp.features.build.firings import Firings
from interp.features.build.inputs import Building
from interp.features.build.parts import ABLATED, Arrays, Corpus, read_part
from interp.features.build.search_words import words_of
from interp.features.build.statistics import RowFacts
from interp.features.build.write import IndexFiles
from interp.features.read.feature import Label
from interp.features.read.layout import FIXED, RECORD, SCHEMA, VOCABULARY, WORDS
from interp.features.read.ranking import first_by
from interp.model.provenance import library_versions


def assemble(corpus: Corpus, effects: Arrays) -> None:
    """Write the index of all parts, its record last."""
    building = corpus.building
    tokens, files, firings = building.tokens, IndexFiles(building.folder), corpus.firings
    arrays, labels = _joined(corpus, files)
    arrays |= {"map": _plane(corpus.unit), "firing_start": np.concatenate([[0], np.cumsum(firings.counts)])} | effects
    norm, error = (corpus.per_row(name) for name in ("norm", "error"))
    relative = np.where(corpus.is_sink, -np.inf, error / np.maximum(norm, 1e-30))
    arrays["error_row"] = first_by(relative[None], building.plan.settings["top"])[0]
    arrays |= {
        "token": tokens.ids,
        "document": tokens.document,
        "position": tokens.position,
        "is_sink": corpus.is_sink,
        "sequence_start": tokens.starts,
        "norm": norm,
        "error": error,
        "file": tokens.file,
        "file_row": tokens.row,
    }
    for name, values in arrays.items():
        files.array(name, values)
    files.text(VOCABULARY, json.dumps(corpus.vocabulary))
    files.labels(labels)
    files.text(WORDS, words_of(labels, arrays, corpus.vocabulary))
    write_sealed(building.folder / RECORD, _record(building, files, firings, corpus.facts, norm, error))


def effects_of(corpus: Corpus) -> Arrays | None:
    """What ablations do, by feature; None when measuring them was stopped."""
    d_sae = corpus.firings.d_sae
    if not corpus.building.plan.settings["effects"]:
        nothing = np.full((d_sae, FIXED["interval"]), np.nan)
        return {
            "effect": nothing,
            "effect_random": nothing[:, 0],
            "effect_n": np.zeros(d_sae),
            "error_effect": nothing[0],
        }
    parts = [read_part(corpus, i)[0] for i in range(len(corpus.runs))]
    chosen = Chosen(*(np.concatenate([part[name] for part in parts]) for name in ABLATED))
    measured = measure_effects(corpus.building, corpus.coder, chosen)
    return None if measured is None else summarise_effects(measured, d_sae)


def _joined(corpus: Corpus, files: IndexFiles) -> tuple[Arrays, list[Label]]:
    """What the parts say of every feature; their firings are written on the way."""
    total = (int(corpus.firings.counts.sum()),)
    columns: dict[str, list[NDArray[Any]]] = {}
    labels: list[Label] = []
    with files.stream("firing_row", total) as put_row, files.stream("firing_value", total) as put_value:
        for index in range(len(corpus.runs)):
            arrays, names = read_part(corpus, index)
            put_row(arrays.pop("firing_row"))
            put_value(arrays.pop("firing_value"))
            labels += names
            for name in arrays.keys() - set(ABLATED):
                columns.setdefault(name, []).append(arrays[name])
    return {name: np.concatenate(parts) for name, parts in columns.items()}, labels


def _record(
    building: Building, files: IndexFiles, firings: Firings, facts: RowFacts, norm: Any, error: Any
) -> dict[str, Any]:
    plan, tokens = building.plan, building.tokens
    sizes = {
        "row": len(tokens),
        "sequence": len(tokens.starts) - 1,
        "document": len(tokens.row),
        "feature": firings.d_sae,
        "firing": int(firings.counts.sum()),
        "top": plan.settings["top"],
        "band": plan.settings["bands"],
        "example": plan.settings["examples"],
        "typical": plan.settings["typical"],
        "neighbour": plan.settings["neighbours"],
        "logit": plan.settings["logits"],
    }
    kept = ~facts.is_sink
    missed = float(np.square(error[kept], dtype=np.float64).sum() / np.square(norm[kept], dtype=np.float64).sum())
    summary = {
        "l0": sizes["firing"] / max(1, facts.counted),
        "silent": int(np.count_nonzero(firings.counts == 0)),
        "sinks": int(facts.is_sink.sum()),
        "missed": missed,
    }
    return {
        "schema": SCHEMA,
        "sizes": sizes,
        "files": list(tokens.files),
        "hashes": files.hashes,
        "plan": asdict(plan),
        "summary": summary,
        "libraries": library_versions(),
    }


def _plane(unit: torch.Tensor) -> NDArray[np.float32]:
    """First two principal components of the directions at unit length; of each the sign that makes its sum positive."""
    unit = unit.cpu() - unit.cpu().mean(0)
    vectors = torch.linalg.eigh(unit.T.double() @ unit.double()).eigenvectors[:, -2:].flip(1)
    vectors = vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0)
    return (unit.double() @ vectors).float().numpy()
