"""What is worked out of a corpus' firings, in parts that workers share: each part is of some features, and a file.

    part-00000.safetensors   of its features: statistics, label, partners, nearest directions, logits, which firings are
                             to be ablated, and their firings in the order of the index

A part is whole or not there. What it needs of the whole corpus (`Corpus`) each process reads from the pieces by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.activations.rows import SINK_FACTOR
from interp.activations.share import claimed, free_pieces
from interp.activations.tensor_file import map_tensors, note_of, write_tensors
from interp.features.build.coder import Coder
from interp.features.build.cofirings import FILE, ByRow, find_partners, has_by_row, open_by_row, write_by_row
from interp.features.build.effects import choose_firings
from interp.features.build.firings import Firings, piece_path
from interp.features.build.inputs import Building
from interp.features.build.labels import TokenRules
from interp.features.build.neighbours import at_unit_length, find_near, read_logits_of
from interp.features.build.statistics import Ints, RowFacts, row_facts, summarise
from interp.features.read.feature import Label
from interp.features.read.layout import ARRAYS
from interp.saes.loading.sae import site_of

PARTS = "part-*.safetensors"
FIRINGS_AT_ONCE = 1 << 21  # of a part: 16 MB, and what a kill can cost
FEATURES_AT_ONCE = 4096
ABLATED = ("ablated_feature", "ablated_row", "ablated_value")
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Corpus:
    """What every part needs of all rows and all features."""

    building: Building
    coder: Coder

    @cached_property
    def firings(self) -> Firings:
        """The firings of all pieces, sinks left out."""
        plan = self.building.plan
        return Firings(self.building.folder, len(plan.pieces), plan.sae["d_sae"], self.is_sink)

    @cached_property
    def is_sink(self) -> NDArray[np.bool_]:
        """Attention sinks, as a store finds them: the first row of each sequence, and those of ten times the median."""
        norms, starts = torch.from_numpy(self.per_row("norm")), self.building.tokens.starts
        sinks = (norms > SINK_FACTOR * norms.median()).numpy()
        sinks[starts[:-1]] = True
        return sinks

    @cached_property
    def facts(self) -> RowFacts:
        """What statistics ask of the rows."""
        tokens = self.building.tokens
        return row_facts(tokens.ids, tokens.starts, self.is_sink, self.vocabulary)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The text of every token id."""
        return self.building.model.vocabulary

    @cached_property
    def rules(self) -> TokenRules:
        """What labels are chosen from."""
        return TokenRules(self.facts, self.building.tokens.document, self.vocabulary)

    @cached_property
    def unit(self) -> Float[Tensor, "d_sae d"]:
        """The features' directions, each of length 1."""
        return at_unit_length(self.coder.directions)

    @cached_property
    def by_row(self) -> ByRow:
        """The firings row by row; whoever comes first writes the file, and the others wait for it."""
        folder, plan = self.building.folder, self.building.plan.hash
        for _ in free_pieces([0], lambda _: folder / FILE, lambda _: has_by_row(folder, plan), wait=True):
            with claimed(folder / FILE):
                write_by_row(folder, self.firings, plan)
        return open_by_row(folder, self.firings.counts)

    @cached_property
    def runs(self) -> list[range]:
        """The features of each part: the same for every worker."""
        return self.firings.runs(FIRINGS_AT_ONCE, FEATURES_AT_ONCE)

    def per_row(self, name: str) -> NDArray[np.float32]:
        """`norm` or `error` of every row."""
        pieces = range(len(self.building.plan.pieces))
        return np.concatenate([map_tensors(piece_path(self.building.folder, i))[name].numpy() for i in pieces])


def part_path(folder: Path, index: int) -> Path:
    """Where a part lies."""
    return folder / f"part-{index:05d}.safetensors"


def is_part_there(corpus: Corpus, index: int) -> bool:
    """Is the part there, and of this plan?"""
    note = note_of(part_path(corpus.building.folder, index))
    return note is not None and {**note, "labels": None} == _note(corpus, index, None)


def _note(corpus: Corpus, index: int, labels: Any) -> dict[str, Any]:
    run = corpus.runs[index]
    return {"plan": corpus.building.plan.hash, "features": [run.start, run.stop], "labels": labels}


def write_part(corpus: Corpus, index: int) -> None:
    """Work out a part from the firings, and write it."""
    building, run = corpus.building, corpus.runs[index]
    settings, facts = building.plan.settings, corpus.facts
    starts, rows, values = corpus.firings.gather(run)
    kept = {name: settings[name] for name in ("top", "bands", "examples", "typical")}
    summaries: list[dict[str, Any]] = []
    ablated: list[Ints] = []
    for i, feature in enumerate(run):
        own = slice(int(starts[i]), int(starts[i + 1]))
        summaries.append(summarise(feature, rows[own], values[own], facts, **kept))
        ablated.append(own.start + choose_firings(feature, rows[own], facts.sequence_start, settings["effects"]))
    arrays = {name: np.stack([summary[name] for summary in summaries]) for name in summaries[0]}
    arrays |= find_partners(run, starts, rows, corpus.by_row, settings["neighbours"], facts.counted)
    arrays |= find_near(corpus.unit, run, settings["neighbours"])
    directions = corpus.coder.directions[run.start : run.stop]
    arrays |= read_logits_of(building.model, site_of(building.sae), directions, settings["logits"])
    arrays = {name: values.astype(ARRAYS[name].dtype) for name, values in arrays.items()}
    at = np.concatenate(ablated)
    arrays |= {"firing_row": rows, "firing_value": values}
    arrays |= dict(zip(ABLATED, (_feature_of(run, ablated), rows[at], values[at]), strict=True))
    labels = [list(label) for label in corpus.rules.name_all(starts, rows)]
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
    write_tensors(part_path(building.folder, index), tensors, _note(corpus, index, labels))


def _feature_of(run: range, ablated: list[Ints]) -> NDArray[np.int32]:
    return np.repeat(np.arange(run.start, run.stop, dtype=np.int32), [len(one) for one in ablated])


def read_part(corpus: Corpus, index: int) -> tuple[Arrays, list[Label]]:
    """The arrays of a part, mapped, and the labels of its features."""
    path = part_path(corpus.building.folder, index)
    note = note_of(path) or {}
    return {name: tensor.numpy() for name, tensor in map_tensors(path).items()}, [Label(*one) for one in note["labels"]]


def write_parts(corpus: Corpus) -> bool:
    """Write the parts that are not there and that nobody has in hand, until all are there; False when stopped."""
    building = corpus.building
    done = 0
    for index in free_pieces(
        range(len(corpus.runs)),
        lambda i: part_path(building.folder, i),
        lambda i: is_part_there(corpus, i),
        wait=True,
        stop=building.stop,
    ):
        with claimed(part_path(building.folder, index)):
            write_part(corpus, index)
        done = max(done, corpus.runs[index].stop)
        building.progress("summing up the features", done, corpus.firings.d_sae)
    return all(is_part_there(corpus, i) for i in range(len(corpus.runs)))
