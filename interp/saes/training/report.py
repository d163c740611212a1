"""What training tells of itself: a line of metrics a report, in a file, to whoever else wants it, and in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from interp.errors import UserError
from interp.progress import Progress, silent
from interp.saes.training.learner import Learner, Outcome
from interp.saes.training.log import Sink

Line = dict[str, Any]  # of metrics, ready for JSON
Log = Callable[[str], None]
Watch = Callable[[SAE[Any]], Mapping[str, float]]


@dataclass(frozen=True)
class TrainingCallbacks:
    """What a training calls as it goes: `sinks` with every line of metrics, `log` with a line for a person.

    `watch` measures an SAE ten times on the way, inside its model for example.
    """

    watch: Watch | None = None
    sinks: Sequence[Sink] = ()
    progress: Progress = silent
    log: Log = lambda line: None

    def write(self, line: Line, file: Path) -> None:
        """Add a line to the file, and hand it on."""
        with file.open("a", encoding="utf-8") as metrics:
            metrics.write(json.dumps(line) + "\n")
        for sink in self.sinks:
            sink(line)

    def watched(self, sae: SAE[Any]) -> Mapping[str, float]:
        """What `watch` measures; what it refuses is said, and training goes on."""
        try:
            return self.watch(sae) if self.watch else {}
        except UserError as error:
            self.log(f"not measured: {error}")
            return {}


def measure_step(learner: Learner, outcome: Outcome, step: int, rows_per_second: float) -> Line:
    """A line of metrics after `step` steps, over all ranks; every one of them has to ask for it.

    Explained variance is 1 - sum ||y - ŷ||² / sum ||y - mean||² over the batch, all dimensions together. Raises
    UserError when the loss is no longer finite.
    """
    loss = sum(outcome.losses.values())
    if not isfinite(loss):
        raise UserError(
            f"training diverged: the loss is {loss} at step {step}; choose a lower --lr or a smaller penalty; the last "
            "checkpoint is kept"
        )
    return {
        "step": step,
        "rows": step * outcome.batch.rows,
        "sae": learner.plan.name,
        "loss": loss,
        **outcome.losses,
        "explained_variance": _explained_variance(outcome),
        "l0": outcome.l0,
        "lr": learner.training.lr_at(step - 1),
        "gradient_norm": outcome.gradient_norm,
        **learner.report(),
        "rows_per_second": round(rows_per_second, 1),
    }


def in_words(line: Line, steps: int, several: bool) -> str:
    """A line of metrics for a person."""
    variance = line["explained_variance"]
    recovered = f", loss recovered {line['ce_recovered']:.3f}" if "ce_recovered" in line else ""
    return (
        f"step {line['step']:,} of {steps:,}{' of ' + line['sae'] if several else ''}: explained variance "
        f"{'none' if variance is None else format(variance, '.3f')}, {line['l0']:.1f} features a token, "
        f"{line['dead_share']:.1%} dead{recovered}, {line['rows_per_second']:,.0f} rows/s"
    )


def _explained_variance(outcome: Outcome) -> float | None:
    """Of the whole batch; None where all its rows are the same."""
    y, error = outcome.batch.y.double(), outcome.step.error.double()
    sums = torch.cat([error.square().sum()[None], y.square().sum()[None], y.sum(0)])
    outcome.batch.ranks.add(sums)
    variance = float(sums[1] - sums[2:].square().sum() / outcome.batch.rows)
    return 1 - float(sums[0]) / variance if variance else None
