"""Train sparse autoencoders: several from one pass over the rows, with a checkpoint from which not a bit changes.

    train([plan_sae(site, "topk", 9216, k=32)], StoreRows(open_store("store")), Path("sae"), Training(steps=5000))

While it trains, `OUT.training/` holds the checkpoint and `metrics.jsonl`; then `OUT/` appears, in SAELens' format, and
that goes. With several SAEs, `OUT/` holds a folder for each.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_lens import SAE
from torch import Tensor

from interp.errors import UserError
from interp.model.loading.device import pick_device
from interp.model.provenance import library_versions
from interp.paths import expand
from interp.progress import Stop, never
from interp.saes.training.checkpoint import (
    METRICS,
    describe,
    folder_of,
    kernels,
    part_of,
    plan_hash,
    read_checkpoint,
    restore,
    save_checkpoint,
    training_folder,
    was_made_by,
)
from interp.saes.training.encoder import Precision, choose_precision
from interp.saes.training.learner import Learner, Start, fresh, start_of
from interp.saes.training.memory import check_memory
from interp.saes.training.plan import SAEPlan, Training, usual_batch
from interp.saes.training.processes import Ranks
from interp.saes.training.report import Line, TrainingCallbacks, in_words, measure_step
from interp.saes.training.save import as_sae_lens, check_new, save_sae
from interp.saes.training.sources import Batches, SiteRows, Source

REPORTS = 200  # lines of metrics over the whole training
CHECKPOINT_SECONDS = 300.0


def train(
    saes: SAEPlan | Sequence[SAEPlan],
    source: Source,
    out: str | Path,
    training: Training | None = None,
    *,
    device: str | torch.device | None = "cpu",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    callbacks: TrainingCallbacks | None = None,
    stop: Stop = never,
    ranks: Ranks | None = None,
) -> list[Path] | None:
    """Train `saes` on rows of `source` and write each to its folder; None if `stop()` ended it before.

    `stop` is asked after every step: then, and every `checkpoint_seconds`, a checkpoint is written, and the same call
    continues from it to the very weights of a training that was never stopped, on the same kind of processor and number
    of threads. `callbacks`: who gets each line of metrics, and what is measured at each tenth of training.
    Raises UserError for a folder that is there, a checkpoint of other settings, a site that the source lacks, rows that
    are not finite or fewer than a batch, and a width that does not fit the memory.
    """
    plans, place = [saes] if isinstance(saes, SAEPlan) else list(saes), pick_device(device)
    if place.type not in ("cpu", "cuda"):
        raise UserError(f"device {str(place)!r} cannot train SAEs: its kernels lack what that takes; use cpu or cuda")
    training = training or Training(batch=usual_batch(place))
    ranks, callbacks = ranks or Ranks(), callbacks or TrainingCallbacks()
    out = Path(os.path.normpath(expand(out)))
    targets = _targets(plans, out)
    sites = list(dict.fromkeys(site for plan in plans for site in plan.sites))
    source.check(sites)
    _check_counts(source.count(sites), training, ranks)
    precision = choose_precision(training.precision, place)
    lineages = [source.lineage(plan.site) for plan in plans]
    record = describe(plans, training, lineages, precision)
    if all(was_made_by(target, record) for target in targets):  # killed after the last step, or simply asked again
        callbacks.log("it is there already, made with these settings")
        if ranks.rank == 0:
            shutil.rmtree(folder_of(out), ignore_errors=True)
        return targets
    check_new(out)
    job = _Job(plans, training, place, precision, ranks)
    with training_folder(out, ranks) as folder:
        checkpoint = read_checkpoint(folder, record)
        batches = Batches(source, sites, training.batch, training.seed, device=place, ranks=ranks)
        state = _begin(job, folder, batches) if checkpoint is None else _resume(job, folder, batches, *checkpoint)
        if state.done:
            callbacks.log(f"going on after step {state.done:,} of {training.steps:,}")
        if state.kernels != kernels(place, ranks.count):
            here = kernels(place, ranks.count)
            callbacks.log(f"on {here} instead of {state.kernels}: the last bits of the weights will differ")
        run = _Run(record, folder, state.learners, lineages, batches, callbacks, state.last)
        if not run.steps(state.done, training, checkpoint_seconds, stop):
            return None
        if ranks.rank == 0:
            _put(run, targets, out)
    return targets


class _Job(NamedTuple):
    """What is trained, and on what."""

    plans: list[SAEPlan]
    training: Training
    place: torch.device
    precision: Precision
    ranks: Ranks

    def learners(self, starts: Iterable[Start]) -> list[Learner]:
        """One for each plan, from its own start."""
        return [
            Learner(plan, self.training, start, self.place, self.precision, self.ranks)
            for plan, start in zip(self.plans, starts, strict=True)
        ]


class _State(NamedTuple):
    """Where a training stands: `done` steps, the `last` line of metrics of each SAE, and what computed them so far."""

    learners: list[Learner]
    done: int
    last: dict[str, Line]
    kernels: dict[str, Any]


def _begin(job: _Job, folder: Path, batches: Batches) -> _State:
    """A training from its first step; what a killed one left of metrics goes."""
    first = batches.pool()
    check_memory(job.plans, {site: rows.shape[1] for site, rows in first.items()}, job.training.batch, job.place)
    learners = job.learners(fresh(plan, first, job.training.seed) for plan in job.plans)
    if job.ranks.rank == 0:
        (folder / METRICS).unlink(missing_ok=True)
    return _State(learners, 0, {}, kernels(job.place, job.ranks.count))


def _resume(job: _Job, folder: Path, batches: Batches, tensors: Mapping[str, Tensor], note: dict[str, Any]) -> _State:
    """A training as its checkpoint holds it: weights, moments, and the place in the rows."""
    learners = job.learners(start_of(part_of(tensors, i), numbers) for i, numbers in enumerate(note["learners"]))
    done = restore(folder, tensors, note, learners, batches)
    return _State(learners, done, note["last"], note["kernels"])


def _put(run: _Run, targets: Sequence[Path], out: Path) -> None:
    """Write every SAE, whole, and then let all appear at once."""
    made = run.folder / "finished"
    shutil.rmtree(made, ignore_errors=True)
    for index, target in enumerate(targets):
        folder = made / target.relative_to(out)
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_sae(run.finished(index), folder, metrics=run.folder / METRICS)
    made.rename(out)
    shutil.rmtree(run.folder)


@dataclass
class _Run:
    """A training under way. `last`: the last line of metrics of each SAE, by its name."""

    record: dict[str, Any]
    folder: Path
    learners: list[Learner]
    lineages: list[dict[str, Any]]
    batches: Batches
    callbacks: TrainingCallbacks
    last: dict[str, Line]

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return self.learners[0].ranks

    def steps(self, done: int, training: Training, every: float, stop: Stop) -> bool:
        """Train from step `done` on. True at the end, False where `stop` ended it."""
        report, tenth = max(1, training.steps // REPORTS), max(1, training.steps // 10)
        saved = began = time.monotonic()
        for step in range(done, training.steps):
            rows = self._share(self.batches.next())
            is_last = step + 1 == training.steps
            is_tenth = (step + 1) % tenth == 0 or is_last
            for index, learner in enumerate(self.learners):
                outcome = learner.learn(rows, step)
                if is_tenth or (step + 1) % report == 0:
                    speed = (step + 1 - done) * training.batch / max(1e-9, time.monotonic() - began)
                    self._report(index, measure_step(learner, outcome, step + 1, speed), is_tenth)
            self.callbacks.progress("training", step + 1, training.steps)
            stopping = bool(self.ranks.largest(float(stop())))
            # at the end too: a full disk must not cost the training
            if stopping or is_last or self.ranks.largest(float(time.monotonic() - saved >= every)):
                if self.ranks.rank == 0:
                    save_checkpoint(self.folder, self.record, self.learners, self.batches, step + 1, self.last)
                saved = time.monotonic()
            if stopping and not is_last:
                return False
        return True

    def _share(self, rows: SiteRows) -> SiteRows:
        """The part of a batch that is for this rank."""
        return {site: values[self.ranks.rank :: self.ranks.count] for site, values in rows.items()}

    def _report(self, index: int, line: Line, is_tenth: bool) -> None:
        learner = self.learners[index]
        self.last[learner.plan.name] = line
        if self.ranks.rank:
            return
        if is_tenth and self.callbacks.watch:
            line |= self.callbacks.watched(self.finished(index))
        self.callbacks.write(line, self.folder / METRICS)
        if is_tenth:
            self.callbacks.log(in_words(line, learner.training.steps, len(self.learners) > 1))

    def finished(self, index: int) -> SAE[Any]:
        """An SAE as it is now, for inference."""
        learner = self.learners[index]
        scales = (learner.scale, learner.scale_out)
        return as_sae_lens(learner.plan, learner.weights, learner.buffers, scales, self._metadata(index))

    def _metadata(self, index: int) -> dict[str, Any]:
        """What the SAE's cfg.json says of its making, with what an SAE is checked against when it is attached."""
        learner = self.learners[index]
        plan, line = learner.plan, self.last.get(learner.plan.name, {})
        return {
            **self.lineages[index],
            **({"hook_name_out": plan.site_out} if plan.site_out else {}),
            "sinks_excluded": True,
            "training_plan": plan_hash(self.record),
            "training": {
                **self.record["training"],
                "lr": learner.training.rate,
                "ranks": self.ranks.count,
                "normalize": plan.normalize,
            },
            "training_rows": line.get("rows"),
            "mean_norm": learner.mean_norm,
            "explained_variance": line.get("explained_variance"),
            "l0": line.get("l0"),
            "dead_share": line.get("dead_share"),
            "libraries": library_versions(),
        }


def _targets(plans: Sequence[SAEPlan], out: Path) -> list[Path]:
    check_names(plans)
    return [out] if len(plans) == 1 else [out / plan.name for plan in plans]


def check_names(plans: Sequence[SAEPlan]) -> None:
    """Refuse no SAE at all, and two that would go by one name."""
    if not plans:
        raise UserError("no SAE to train came; expected one or more, by plan_sae(site, architecture, width, …)")
    names = [plan.name for plan in plans]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{', '.join(sorted(twice))} came twice; expected SAEs that differ in site, kind, width or k")


def _check_counts(rows: int, training: Training, ranks: Ranks) -> None:
    if rows < training.batch:
        raise UserError(
            f"{rows:,} rows came, fewer than a batch of {training.batch:,}; give more tokens or a smaller batch"
        )
    if training.batch % ranks.count:
        raise UserError(f"a batch of {training.batch} rows for {ranks.count} processes; expected a multiple of those")
