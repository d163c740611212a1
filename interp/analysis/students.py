"""Students asked: small GPT-2s that learned invented people answer in both orders, and what that is over seeds.

students = teach_students([Course("plain", SmallGPT2(tied=False), seeds=range(5))])
rows = [row for student in students for row in examine_student(student)]
over_seeds(rows, "exact match", "share of people")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import hypot

import numpy as np

from interp.analysis.answers import score_answers
from interp.model.training.students import Student
from interp.stats.estimate import Estimate
from interp.stats.estimators import (
    PairedEstimates,
    estimate_mean,
    matched_scores,
    pairing_null,
    proportion,
    top_choice,
)
from interp.text.facts import DIRECTIONS
from interp.text.people import TAUGHT_AS

Cell = str | int | float | bool | None


def examine_student(student: Student, n_boot: int = 500) -> list[dict[str, Cell]]:
    """Ask every group in both directions, in a wording that was never trained: a row a group and direction."""
    rows: list[dict[str, Cell]] = []
    for learned, group in student.groups.items():
        for direction in DIRECTIONS:
            answered = score_answers(student.model, group.prompts(direction, "held_out"), group.answers(direction))
            scores, greedy = answered.summed.numpy(), answered.greedy.double()
            null = pairing_null(scores, unit="nats", n_perm=n_boot, seed=student.seed)
            rows.append(
                {
                    "condition": student.course.name,
                    "words of a name": student.course.name_tokens,
                    "seed": student.seed,
                    "learned": learned,
                    "people": len(group),
                    "asked": "as taught" if direction in TAUGHT_AS[learned] else "reversed",
                    "direction": direction,
                    "exact match": float(greedy.diagonal().mean()),
                    "exact match, shuffled answers": float(greedy.roll(-1, 1).diagonal().mean()),
                    "multiple choice": float(top_choice(scores).mean()),
                    "correct minus others (nats)": float(matched_scores(scores).mean()),
                    "upper end of chance (nats)": null.high,
                }
            )
    return rows


def over_seeds(rows: Sequence[dict[str, Cell]], column: str, unit: str) -> Estimate:
    """Mean over seeds; for a share, the wider of the interval over seeds and Clopper and Pearson's over people."""
    means = _by_seed(rows, column)
    mean = estimate_mean(means, unit=unit, over="training seed")
    if len(means) == 1 or "nats" in column:
        return mean
    people = _of_people(rows, mean.mean, unit)
    low, high = min(mean.low, people.low), max(mean.high, people.high)
    # seeds that are all alike show no spread, but people do
    return replace(mean, low=max(0.0, low), high=min(1.0, high), alike=False)


def gap_over_seeds(
    rows: Sequence[dict[str, Cell]], column: str, less: Sequence[dict[str, Cell]], less_column: str, unit: str
) -> PairedEstimates:
    """Two shares of the seeds that both have, and the one less the other, seed by seed: a paired gap for a finding.

    The gap's interval is the wider of that over the differences and of Newcombe's (1998, method 10) over people.
    """
    seeds = {row["seed"] for row in rows} & {row["seed"] for row in less}
    rows, less = ([row for row in side if row["seed"] in seeds] for side in (rows, less))
    share, other = over_seeds(rows, column, unit), over_seeds(less, less_column, unit)
    apart = np.subtract(_by_seed(rows, column), _by_seed(less, less_column))
    gap = estimate_mean(apart, unit=unit, over="training seed")
    if len(seeds) == 1:
        return PairedEstimates(share, other, gap)
    one, two = _of_people(rows, share.mean, unit), _of_people(less, other.mean, unit)
    below = hypot(one.mean - one.low, two.high - two.mean)
    above = hypot(one.high - one.mean, two.mean - two.low)
    low, high = max(-1.0, min(gap.low, gap.mean - below)), min(1.0, max(gap.high, gap.mean + above))
    return PairedEstimates(share, other, replace(gap, low=low, high=high, alike=False))


def _by_seed(rows: Sequence[dict[str, Cell]], column: str) -> list[float]:
    seeds = sorted({int(row["seed"] or 0) for row in rows})
    return [float(np.mean([float(row[column] or 0) for row in rows if row["seed"] == seed])) for seed in seeds]


def _of_people(rows: Sequence[dict[str, Cell]], share: float, unit: str) -> Estimate:
    """Clopper and Pearson's interval of a share of all people asked.

    Seeds that agree to the last person would give an interval too narrow for so few people. Tied and untied models of
    a seed learn the same people: these count once.
    """
    asked = {(r["seed"], r["learned"], r["direction"], r["words of a name"]): int(r["people"] or 0) for r in rows}
    people = sum(asked.values())
    return proportion([i < round(share * people) for i in range(people)], unit=unit, over="person")
