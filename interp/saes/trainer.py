"""Train sparse autoencoders: several from one pass over the rows, with a checkpoint from which not a bit changes.

    train([plan_sae(site, "topk", 9216, k=32)], StoreRows(open_store("store")), Path("sae"), Training(steps=5000))

While it trains, `OUT.training/` holds the checkpoint and `metrics.jsonl`; then `OUT/` appears, in SAELens' format, and
that goes. With several SAEs, `OUT/` holds a folder for each.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_lens import SAE
from torch import Tensor

from interp.errors import UserError
from interp.model.cache import check_place, new_folder
from interp.model.load import pick_device
from interp.model.provenance import library_versions
from interp.saes.architectures.base import Batch, Step
from interp.saes.checkpoint import (
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
from interp.saes.convert import as_sae_lens
from interp.saes.encoder import choose_precision
from interp.saes.learner import Learner, Start, Told, fresh, start_of
from interp.saes.log import Sink
from interp.saes.memory import check_memory
from interp.saes.plan import SAEPlan, Training
from interp.saes.ranks import Ranks
from interp.saes.sources import Batches, SiteRows, Source

REPORTS = 200  # lines of metrics over the whole training
CHECKPOINT_SECONDS = 300.0
Progress = Callable[[str, int, int], None]  # what, step, steps
Say = Callable[[str], None]
Watch = Callable[[SAE[Any]], Mapping[str, float]]


def train(
    saes: SAEPlan | Sequence[SAEPlan],
    source: Source,
    out: Path,
    training: Training | None = None,
    *,
    device: str | torch.device | None = "cpu",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    watch: Watch | None = None,
    sinks: Sequence[Sink] = (),
    progress: Progress | None = None,
    say: Say = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> list[Path] | None:
    """Train `saes` on rows of `source` and write each to its folder; None if `stop()` ended it before.

    `stop` is asked after every step: then, and every `checkpoint_seconds`, a checkpoint is written, and the same call
    continues from it to the very weights of a training that was never stopped, on the same kind of processor and number
    of threads. `watch` measures an SAE for the metrics (a loss in the model, say) at each tenth of training; `sinks`
    get every line of metrics besides the file.
    Raises UserError for a folder that is there, a checkpoint of other settings, a site that the source lacks, rows that
    are not finite or fewer than a batch, and a width that does not fit the memory.
    """
    plans, training = [saes] if isinstance(saes, SAEPlan) else list(saes), training or Training()
    ranks, out, place = ranks or Ranks(), Path(os.path.normpath(out)), pick_device(device)
    targets = _targets(plans, out)
    sites = list(dict.fromkeys(site for plan in plans for site in plan.sites))
    source.check(sites)
    _check_counts(source.count(sites), training, ranks)
    precision = choose_precision(training.precision, place)
    lineages = [source.lineage(plan.site) for plan in plans]
    record = describe(plans, training, lineages, precision, ranks.count)
    if all(was_made_by(target, record) for target in targets):  # killed after the last step, or simply asked again
        say("it is there already, made with these settings")
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
            say(f"going on after step {done:,} of {training.steps:,}")
            if note["kernels"] != kernels(place):
                say(f"on {kernels(place)} instead of {note['kernels']}: the last bits of the weights will differ")
        run = _Run(record, folder, learners, batches, _Telling(watch, sinks, progress, say), lineages, last)
        if not run.steps(done, training, checkpoint_seconds, stop):
            return None
        if ranks.rank == 0:
            _put(run, targets, out)
    return targets


def _put(run: _Run, targets: Sequence[Path], out: Path) -> None:
    """Write every SAE, whole, and then let all appear at once."""
    made = run.folder / "finished"
    shutil.rmtree(made, ignore_errors=True)
    for learner, target, lineage in zip(run.learners, targets, run.lineages, strict=True):
        folder = made / target.relative_to(out)
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_sae(finished(learner, run.metadata(learner, lineage)), folder, metrics=run.folder / METRICS)
    made.rename(out)
    shutil.rmtree(run.folder)


class _Telling(NamedTuple):
    """Whom a training tells how it goes."""

    watch: Watch | None
    sinks: Sequence[Sink]
    progress: Progress | None
    say: Say


class _Run:
    """A training under way."""

    def __init__(
        self,
        record: dict[str, Any],
        folder: Path,
        learners: list[Learner],
        batches: Batches,
        telling: _Telling,
        lineages: list[dict[str, Any]],
        last: dict[str, dict[str, Any]],
    ) -> None:
        self.record, self.folder, self.learners, self.batches = record, folder, learners, batches
        self.telling, self.lineages = telling, lineages
        self.ranks = learners[0].ranks
        self.last = dict(last)

    def steps(self, done: int, training: Training, every: float, stop: Callable[[], bool]) -> bool:
        """Train from step `done` on. True at the end, False where `stop` ended it."""
        report = max(1, training.steps // REPORTS)
        tenth = max(1, training.steps // 10)
        saved = began = time.monotonic()
        for step in range(done, training.steps):
            rows = self._share(self.batches.next())
            is_last = step + 1 == training.steps
            is_tenth = (step + 1) % tenth == 0 or is_last
            is_report = (step + 1) % report == 0 or is_tenth
            for index, learner in enumerate(self.learners):
                outcome, batch, told = learner.learn(rows, step)
                if is_report:
                    speed = (step + 1 - done) * training.batch / max(1e-9, time.monotonic() - began)
                    self._report(index, step + 1, outcome, batch, told, speed, is_tenth)
            if self.telling.progress is not None:
                self.telling.progress("training", step + 1, training.steps)
            stopping = bool(self.ranks.largest(float(stop())))
            # at the end too: a full disk must not cost the training
            if stopping or is_last or self.ranks.largest(float(time.monotonic() - saved >= every)):
                if self.ranks.rank == 0:
                    save_checkpoint(self.folder, self.record, self.learners, self.batches, step + 1, self.last)
                saved = time.monotonic()
            if stopping and step + 1 < training.steps:
                return False
        return True

    def _share(self, rows: SiteRows) -> SiteRows:
        """The part of a batch that is for this rank."""
        return {site: values[self.ranks.rank :: self.ranks.count] for site, values in rows.items()}

    def _report(
        self, index: int, step: int, outcome: Step, batch: Batch, told: Told, speed: float, is_tenth: bool
    ) -> None:
        """One line of metrics of one SAE."""
        learner = self.learners[index]
        error, variance = outcome.error.double().square().sum(), _variance(batch, self.ranks)
        if not isfinite(sum(told.losses.values())):
            raise UserError(
                f"training diverged: the loss is {sum(told.losses.values())} at step {step}; choose a lower --lr or a "
                "smaller penalty; the last checkpoint is kept"
            )
        line: dict[str, Any] = {
            "step": step,
            "rows": step * batch.rows,
            "sae": learner.plan.name,
            "loss": sum(told.losses.values()),
            **told.losses,
            "explained_variance": 1 - _total(error, self.ranks) / variance if variance else None,
            "l0": told.l0,
            "lr": learner.training.lr_at(step - 1),
            "gradient_norm": told.gradient_norm,
            **learner.report(),
            "rows_per_second": round(speed, 1),
        }
        self.last[learner.plan.name] = line
        if self.ranks.rank:
            return
        if is_tenth and self.telling.watch is not None:
            line |= self._watched(learner, index)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for sink in self.telling.sinks:
            sink(line)
        if is_tenth:
            self.telling.say(_in_words(line, learner.training.steps, len(self.learners) > 1))

    def _watched(self, learner: Learner, index: int) -> Mapping[str, float]:
        """What `watch` measures; what it refuses is said, and training goes on."""
        try:
            assert self.telling.watch is not None
            return self.telling.watch(finished(learner, self.metadata(learner, self.lineages[index])))
        except UserError as error:
            self.telling.say(f"not measured: {error}")
            return {}

    def metadata(self, learner: Learner, lineage: dict[str, Any]) -> dict[str, Any]:
        """What the SAE's cfg.json says of its making, with what an SAE is checked against when it is attached."""
        plan, line = learner.plan, self.last.get(learner.plan.name, {})
        return {
            **lineage,
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


def _in_words(line: Mapping[str, Any], steps: int, several: bool) -> str:
    """A line of metrics for a person."""
    recovered = f", loss recovered {line['ce_recovered']:.3f}" if "ce_recovered" in line else ""
    return (
        f"step {line['step']:,} of {steps:,}{' of ' + line['sae'] if several else ''}: explained variance "
        f"{'none' if line['explained_variance'] is None else format(line['explained_variance'], '.3f')}, "
        f"{line['l0']:.1f} features a token, {line['dead_share']:.1%} dead{recovered}"
        f", {line['rows_per_second']:,.0f} rows/s"
    )


def finished(learner: Learner, metadata: dict[str, Any]) -> SAE[Any]:
    """A learner's SAE as it is now, for inference."""
    return as_sae_lens(learner.plan, learner.weights, learner.buffers, (learner.scale, learner.scale_out), metadata)


def save_sae(sae: SAE[Any], folder: Path, *, metrics: Path | None = None) -> Path:
    """Write the SAE in SAELens' format (`cfg.json`, `sae_weights.safetensors`), whole or not at all."""
    check_new(folder)
    with new_folder(folder, needs_bytes=4 * sum(p.numel() for p in sae.parameters())) as temporary:
        sae.save_model(temporary)
        if metrics is not None:
            shutil.copy(metrics, temporary / METRICS)
    return folder


def check_new(folder: Path) -> None:
    """Refuse a folder that is there already or cannot be made; ask before training for hours."""
    try:
        there = folder.exists() or folder.is_symlink()
    except OSError as error:
        raise UserError(f"--out {str(folder)[:80]}…: {error.strerror}; choose another path") from error
    if there:
        raise UserError(f"{folder} exists already; expected a new folder for the SAE; choose another or remove it")
    check_place(folder, "--out")


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


def _total(value: Tensor, ranks: Ranks) -> float:
    summed = value.clone()
    ranks.add(summed)
    return float(summed)


def _variance(batch: Batch, ranks: Ranks) -> float:
    """Sum of squared distances from the mean of the whole batch."""
    y = batch.y.double()
    parts = torch.cat([y.sum(0), y.square().sum()[None]])
    ranks.add(parts)
    return float(parts[-1] - parts[:-1].square().sum() / batch.rows)
