"""Train sparse autoencoders: several from one pass over the rows, with a checkpoint from which not a bit changes.

    train([plan_sae(site, "topk", 9216, k=32)], StoreRows(open_store("store")), Path("sae"), Training(steps=5000))

While it trains, `OUT.training/` holds the checkpoint and `metrics.jsonl`; then `OUT/` appears, in SAELens' format, and
that goes. With several SAEs, `OUT/` holds a folder for each.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from interp.errors import UserError
from interp.model.loading.load import pick_device
from interp.model.provenance import library_versions
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
from interp.saes.training.encoder import choose_precision
from interp.saes.training.learner import Learner, Start, fresh, start_of
from interp.saes.training.memory import check_memory
from interp.saes.training.plan import SAEPlan, Training
from interp.saes.training.processes import Ranks
from interp.saes.training.report import Line, Telling, in_words, measure_step
from interp.saes.training.save import as_sae_lens, check_new, save_sae
from interp.saes.training.sources import Batches, SiteRows, Source

REPORTS = 200  # lines of metrics over the whole training
CHECKPOINT_SECONDS = 300.0


def train(
    saes: SAEPlan | Sequence[SAEPlan],
    source: Source,
    out: Path,
    training: Training | None = None,
    *,
    device: str | torch.device | None = "cpu",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    telling: Telling | None = None,
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> list[Path] | None:
    """Train `saes` on rows of `source` and write each to its folder; None if `stop()` ended it before.

    `stop` is asked after every step: then, and every `checkpoint_seconds`, a checkpoint is written, and the same call
    continues from it to the very weights of a training that was never stopped, on the same kind of processor and number
    of threads. `telling` hears of it: every line of metrics, and at each tenth of training what its `watch` measures.
    Raises UserError for a folder that is there, a checkpoint of other settings, a site that the source lacks, rows that
    are not finite or fewer than a batch, and a width that does not fit the memory.
    """
    plans, training = [saes] if isinstance(saes, SAEPlan) else list(saes), training or Training()
    ranks, telling, out, place = (
        ranks or Ranks(),
        telling or Telling(),
        Path(os.path.normpath(out)),
        pick_device(device),
    )
    targets = _targets(plans, out)
    sites = list(dict.fromkeys(site for plan in plans for site in plan.sites))
    source.check(sites)
    _check_counts(source.count(sites), training, ranks)
    precision = choose_precision(training.precision, place)
    lineages = [source.lineage(plan.site) for plan in plans]
    record = describe(plans, training, lineages, precision, ranks.count)
    if all(was_made_by(target, record) for target in targets):  # killed after the last step, or simply asked again
        telling.say("it is there already, made with these settings")
        if ranks.rank == 0:
            shutil.rmtree(folder_of(out), ignore_errors=True)
        return targets
    check_new(out)

    def learner(plan: SAEPlan, start: Start) -> Learner:
        return Learner(plan, training, start, place, precision, ranks)

    with training_folder(out, ranks) as folder:
        found = read_checkpoint(folder, record)
        batches = Batches(source, sites, training.batch, training.seed)
        if found is None:
            first = batches.pool()
            check_memory(plans, {site: rows.shape[1] for site, rows in first.items()}, training.batch, place)
            learners, done, last = [learner(plan, fresh(plan, first, training.seed)) for plan in plans], 0, {}
            if ranks.rank == 0:
                (folder / METRICS).unlink(missing_ok=True)
        else:
            tensors, note = found
            starts = [start_of(part_of(tensors, i), numbers) for i, numbers in enumerate(note["learners"])]
            learners = [learner(plan, start) for plan, start in zip(plans, starts, strict=True)]
            done, last = restore(folder, tensors, note, learners, batches), note["last"]
            telling.say(f"going on after step {done:,} of {training.steps:,}")
            if note["kernels"] != kernels(place):
                telling.say(
                    f"on {kernels(place)} instead of {note['kernels']}: the last bits of the weights will differ"
                )
        run = _Run(record, folder, learners, lineages, batches, telling, last)
        if not run.steps(done, training, checkpoint_seconds, stop):
            return None
        if ranks.rank == 0:
            _put(run, targets, out)
    return targets


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
    telling: Telling
    last: dict[str, Line]

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return self.learners[0].ranks

    def steps(self, done: int, training: Training, every: float, stop: Callable[[], bool]) -> bool:
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
            if self.telling.progress is not None:
                self.telling.progress("training", step + 1, training.steps)
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
        if is_tenth and self.telling.watch:
            line |= self.telling.watched(self.finished(index))
        self.telling.write(line, self.folder / METRICS)
        if is_tenth:
            self.telling.say(in_words(line, learner.training.steps, len(self.learners) > 1))

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
