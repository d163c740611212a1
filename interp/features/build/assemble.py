"""From the pieces of a pass to an index: everything that is worked out from the firings, and the files themselves."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interp.activations.files import write_sealed
from interp.activations.rows import SINK_FACTOR
from interp.activations.tensor_file import map_tensors
from interp.features.build.effects import Ablation, choose_firings, measure_effects, summarise_effects
from interp.features.build.firings import Firings, piece_path
from interp.features.build.inputs import Building
from interp.features.build.labels import TokenRules
from interp.features.build.neighbours import count_together, find_near, read_logits_of
from interp.features.build.search_words import words_of
from interp.features.build.statistics import RowFacts, row_facts, summarise
from interp.features.build.write import IndexFiles
from interp.features.read.feature import Label
from interp.features.read.layout import FIXED, RECORD, SCHEMA, VOCABULARY, WORDS
from interp.features.read.ranking import first_by
from interp.model.provenance import library_versions
from interp.saes.loading.sae import site_of

FIRINGS_AT_ONCE = 1 << 21  # 16 MB
Arrays = dict[str, NDArray[Any]]


def finish(building: Building) -> bool:
    """Write the index of all pieces; False when it was stopped: then what is measured by then is kept."""
    plan, tokens, files = building.plan, building.tokens, IndexFiles(building.folder)
    vocabulary = building.model.vocabulary
    norm, error = (_per_row(building, name) for name in ("norm", "error"))
    facts = row_facts(tokens.ids, tokens.starts, find_sinks_of(norm, tokens.starts), vocabulary)
    firings = Firings(building.folder, len(plan.pieces), plan.sae["d_sae"], facts.is_sink)
    arrays, chosen, labels = _per_feature(building, files, firings, facts, vocabulary)
    rows_in = [stop - first for *_, first, stop in plan.pieces]
    n = plan.settings["neighbours"]
    arrays |= count_together(firings, rows_in, n, facts.counted, building.progress)
    coder = building.coder()
    arrays |= find_near(coder.directions, n)
    arrays |= read_logits_of(building.model, site_of(building.sae), coder.directions, plan.settings["logits"])
    arrays["map"] = _plane(coder.directions)
    effects = _effects(building, coder, chosen)
    if effects is None:
        return False
    arrays |= effects
    relative = np.where(facts.is_sink, -np.inf, error / np.maximum(norm, 1e-30))
    arrays["error_row"] = first_by(relative[None], plan.settings["top"])[0]
    arrays |= {
        "token": tokens.ids,
        "document": tokens.document,
        "position": tokens.position,
        "is_sink": facts.is_sink,
        "sequence_start": tokens.starts,
        "norm": norm,
        "error": error,
        "file": tokens.file,
        "file_row": tokens.row,
    }
    for name, values in arrays.items():
        files.array(name, values)
    files.text(VOCABULARY, json.dumps(vocabulary))
    files.labels(labels)
    files.text(WORDS, words_of(labels, arrays, vocabulary))
    write_sealed(building.folder / RECORD, _record(building, files, firings, facts, norm, error))
    return True


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


def _per_row(building: Building, name: str) -> NDArray[np.float32]:
    parts = [map_tensors(piece_path(building.folder, i))[name].numpy() for i in range(len(building.plan.pieces))]
    return np.concatenate(parts)


def _per_feature(
    building: Building, files: IndexFiles, firings: Firings, facts: RowFacts, vocabulary: list[str]
) -> tuple[Arrays, list[Ablation], list[Label]]:
    """Everything that is worked out from one feature's firings, which are written on the way, feature by feature."""
    settings, total = building.plan.settings, int(firings.counts.sum())
    kept = {name: settings[name] for name in ("top", "bands", "examples", "typical")}
    rules = TokenRules(facts, building.tokens.document, vocabulary)
    summaries: list[dict[str, Any]] = []
    chosen: list[Ablation] = []
    labels: list[Label] = []
    with files.stream("firing_row", (total,)) as put_row, files.stream("firing_value", (total,)) as put_value:
        for run, starts, rows, values in firings.blocks(FIRINGS_AT_ONCE):
            put_row(rows)
            put_value(values)
            labels += rules.name_all(starts, rows)
            for i, feature in enumerate(run):
                firings_of_one = slice(int(starts[i]), int(starts[i + 1]))
                summaries.append(summarise(feature, rows[firings_of_one], values[firings_of_one], facts, **kept))
                picked = choose_firings(feature, rows[firings_of_one], facts.sequence_start, settings["effects"])
                chosen += [
                    Ablation(feature, int(rows[firings_of_one][at]), float(values[firings_of_one][at])) for at in picked
                ]
            building.progress("summing up the features", run.stop, firings.d_sae)
    columns = {name: np.stack([summary[name] for summary in summaries]) for name in summaries[0]}
    columns["firing_start"] = np.concatenate([[0], np.cumsum(firings.counts)])
    return columns, chosen, labels


def _effects(building: Building, coder: Any, chosen: list[Ablation]) -> Arrays | None:
    d_sae = building.plan.sae["d_sae"]
    if not building.plan.settings["effects"]:
        nothing = np.full((d_sae, FIXED["interval"]), np.nan)
        return {
            "effect": nothing,
            "effect_random": nothing[:, 0],
            "effect_n": np.zeros(d_sae),
            "error_effect": nothing[0],
        }
    measured = measure_effects(building, coder, chosen)
    return None if measured is None else summarise_effects(measured, d_sae)


def _plane(directions: torch.Tensor) -> NDArray[np.float32]:
    """First two principal components of the directions at unit length; of each the sign that makes its sum positive."""
    unit = directions.float().cpu()
    unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=1e-30)
    unit = unit - unit.mean(0)
    vectors = torch.linalg.eigh(unit.T.double() @ unit.double()).eigenvectors[:, -2:].flip(1)
    vectors = vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0)
    return (unit.double() @ vectors).float().numpy()


def find_sinks_of(norm: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """As a store finds them: the first row of each sequence, and every row of over ten times the median norm."""
    norms = torch.from_numpy(norm)
    sinks = (norms > SINK_FACTOR * norms.median()).numpy()
    sinks[starts[:-1]] = True
    return sinks
