"""Training that was stopped: everything it needs to continue, in one hashed file beside what it writes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.activations.create import differences
from interp.activations.tensor_file import read_tensors, write_tensors
from interp.errors import UserError
from interp.model.loading.cache import is_intact
from interp.saes.lineage import FILES
from interp.saes.training.learner import Learner
from interp.saes.training.plan import SAEPlan, Training
from interp.saes.training.processes import Ranks
from interp.saes.training.sources import Batches

FILE, METRICS = "checkpoint.safetensors", "metrics.jsonl"


EARLIER_RANKS = range(1, 65)  # processes that may have trained an SAE of an earlier version


def folder_of(out: Path) -> Path:
    """Where training towards `out` keeps itself until it is done."""
    return out.with_name(f"{out.name}.training")


@contextmanager
def training_folder(out: Path, ranks: Ranks) -> Iterator[Path]:
    """That folder, this training's alone; it vanishes again when the block fails before there is a checkpoint.

    Raises UserError where it cannot be made, and where another process trains towards `out`.
    """
    folder = folder_of(out)
    if ranks.rank:
        yield folder
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                yield folder
            except BaseException:
                if not (folder / FILE).exists():
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    except BlockingIOError as error:
        raise UserError(f"another process trains towards {out}; wait for it, or choose another --out") from error
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder}: {error.strerror or error}; what was checkpointed is kept; free "
            "some space, or choose another --out"
        ) from error


def plan_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the weights."""
    return _sha256_of(_deciding(record))


def _sha256_of(record: Mapping[str, Any]) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}"


def _deciding(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without the model's name, and with one name for its weights: the hash of their files where it is known.

    A folder is spelt in many ways, and weights on the hub are those in a folder. How many processes share the work only
    rounds the sums; earlier versions told of it here.
    """
    rows = {}
    for index, lineage in record["rows"].items():
        kept = {key: value for key, value in lineage.items() if key not in ("model_name", FILES)}
        rows[index] = kept | {"weights_hash": lineage.get(FILES, lineage["weights_hash"])}
    return {**{key: value for key, value in record.items() if key != "ranks"}, "rows": rows}


def was_made_by(folder: Path, record: Mapping[str, Any]) -> bool:
    """Is there a whole SAE in the folder that training of this record made?"""
    try:
        cfg = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        earlier = (_sha256_of({**one, "ranks": n}) for one in (record, _deciding(record)) for n in EARLIER_RANKS)
        known = {plan_hash(record), *earlier}  # version 0.1 has the processes in it, and at first the model's name
        return cfg["metadata"]["training_plan"] in known and is_intact(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def describe(
    saes: Sequence[SAEPlan], training: Training, lineages: Sequence[dict[str, Any]], precision: str
) -> dict[str, Any]:
    """All that decides the weights, ready for JSON: a checkpoint of another is not continued."""
    record = {
        "saes": {str(i): plan.to_dict() for i, plan in enumerate(saes)},
        "training": asdict(training) | {"precision": precision},
        "rows": {str(i): lineage for i, lineage in enumerate(lineages)},
    }
    return json.loads(json.dumps(record))


def kernels(device: torch.device, ranks: int = 1) -> dict[str, Any]:
    """What decides the order of sums besides: on another of these, the last bits differ."""
    together = {"processes": ranks} if ranks > 1 else {}
    if device.type == "cuda":
        settings = torch.backends.cuda.matmul
        return {
            "device": torch.cuda.get_device_name(device),
            "torch": torch.__version__,
            "cuda": torch.version.cuda or torch.version.hip,
            "tf32": settings.allow_tf32,
            "bf16_sums": settings.allow_bf16_reduced_precision_reduction,
            **together,
        }
    capability = torch.backends.cpu.get_cpu_capability()
    return {"device": f"cpu {capability}", "threads": torch.get_num_threads(), "torch": torch.__version__, **together}


def save_checkpoint(
    folder: Path,
    record: dict[str, Any],
    learners: Sequence[Learner],
    batches: Batches,
    step: int,
    last: Mapping[str, Any],
) -> None:
    """Replace the checkpoint in `folder` by one after `step` steps; `last`: each SAE's last line of metrics."""
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
        "kernels": kernels(learners[0].device, learners[0].ranks.count),
        "last": dict(last),
    }
    write_tensors(folder / FILE, tensors, note)


def read_checkpoint(folder: Path, record: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `save_checkpoint` wrote, None where there is none.

    Raises UserError for a damaged one, and for one of other settings, with every difference.
    """
    if not (folder / FILE).exists():
        return None
    try:
        tensors, note = read_tensors(folder / FILE)
    except UserError as error:
        raise UserError(f"{error}: remove {folder} to begin anew") from error
    if _deciding(note["record"]) != _deciding(record):
        told = "; ".join(differences(_deciding(note["record"]), _deciding(record)))
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
    if learners[0].ranks.rank == 0 and (folder / METRICS).exists():
        with (folder / METRICS).open("r+b") as file:
            file.truncate(min(note["metrics_bytes"], (folder / METRICS).stat().st_size))
    return int(note["step"])
