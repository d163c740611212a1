"""Training that was stopped: everything it needs to continue, in one hashed file beside what it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.activations.create import differences
from interp.activations.tensor_file import read_tensors, write_tensors
from interp.errors import UserError
from interp.saes.learner import Learner
from interp.saes.plan import SAEPlan, Training
from interp.saes.sources import Batches

FILE, METRICS = "checkpoint.safetensors", "metrics.jsonl"


def folder_of(out: Path) -> Path:
    """Where training towards `out` keeps itself until it is done."""
    return out.with_name(f"{out.name}.training")


def describe(
    saes: Sequence[SAEPlan], training: Training, lineages: Sequence[dict[str, Any]], precision: str, ranks: int
) -> dict[str, Any]:
    """All that decides the weights, ready for JSON: a checkpoint of another is not continued."""
    record = {
        "saes": {str(i): plan.to_dict() for i, plan in enumerate(saes)},
        "training": asdict(training) | {"precision": precision},
        "rows": {str(i): lineage for i, lineage in enumerate(lineages)},
        "ranks": ranks,
    }
    return json.loads(json.dumps(record))


def kernels(device: torch.device) -> dict[str, Any]:
    """What decides the order of sums besides: on another of these, the last bits differ."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    capability = torch.backends.cpu.get_cpu_capability()
    return {"device": f"cpu {capability}", "threads": torch.get_num_threads(), "torch": torch.__version__}


def save_checkpoint(
    folder: Path, record: dict[str, Any], learners: Sequence[Learner], batches: Batches, step: int
) -> None:
    """Replace the checkpoint in `folder` by one after `step` steps."""
    metrics = folder / METRICS
    tensors: dict[str, Tensor] = {f"left.{site}": rows for site, rows in batches.left.items()}
    for i, learner in enumerate(learners):
        tensors |= {f"{i}.{name}": tensor for name, tensor in learner.tensors().items()}
    note = {
        "record": record,
        "step": step,
        "place": batches.place(),
        "memory": batches.source.memory,
        "learners": [learner.numbers() for learner in learners],
        "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
        "kernels": kernels(learners[0].device),
    }
    write_tensors(folder / FILE, tensors, note)


def read_checkpoint(folder: Path, record: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `save_checkpoint` wrote, None where there is none.

    Raises UserError for a damaged one, and for one of other settings, with every difference.
    """
    if not (folder / FILE).exists():
        return None
    tensors, note = read_tensors(folder / FILE)
    if note.get("record") != record:
        told = "; ".join(differences(note.get("record"), record))
        raise UserError(
            f"{folder} holds training with other settings: {told}; remove it, choose another --out or those settings"
        )
    return tensors, note


def part_of(tensors: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """The tensors of one learner, by the names that it gave them."""
    return {name.removeprefix(f"{index}."): t for name, t in tensors.items() if name.startswith(f"{index}.")}


def restore(
    folder: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any], learners: Sequence[Learner], batches: Batches
) -> int:
    """Put learners and batches where the checkpoint was, and drop metrics of later steps. Returns the steps done."""
    for i, (learner, numbers) in enumerate(zip(learners, note["learners"], strict=True)):
        learner.restore(part_of(tensors, i), numbers, note["step"])
    batches.source.memory.update(note["memory"])
    batches.left = {name.removeprefix("left."): t.clone() for name, t in tensors.items() if name.startswith("left.")}
    batches.epoch, batches.chunk, batches.at = (note["place"][key] for key in ("epoch", "chunk", "at"))
    if (folder / METRICS).exists() and learners[0].ranks.rank == 0:
        with (folder / METRICS).open("r+b") as file:
            file.truncate(note["metrics_bytes"])
    return int(note["step"])
