"""The grid: sizes, amounts of text and lengths of training, each with its own learning rate, more than one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from interp import Lab, Member, Population, Size, TrainingSchedule, train_population

from .text import Characters


@dataclass(frozen=True)
class Plan:
    """What is trained. `widths` of the residual stream; `durations` in steps, the last one for all sizes' law.

    `shorter` durations are for the joint law alone: two amounts of data decide no exponent.
    `shares` of the text, for the law of data, at `data_width`. Of the rates `lrs` each size takes the best, judged on
    text that it is not tested on. `heads` of attention: a narrow model is a quarter cheaper with half as many.
    """

    widths: tuple[int, ...]
    durations: tuple[int, ...]
    shares: tuple[float, ...]
    data_width: int
    shorter: tuple[int, ...] = ()
    lrs: tuple[float, ...] = (3e-3, 8e-3, 2e-2)
    seeds: int = 2
    batch: int = 16
    heads: int = 4


QUICK = Plan(
    (12, 16, 24, 32), (400, 800), (1 / 32, 1 / 16, 1 / 8, 1.0), 24, (100, 200), lrs=(6e-3, 1.5e-2), batch=8, heads=2
)
USUAL = Plan(
    (12, 16, 24, 32, 48, 64), (500, 1000), (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0), 32, (125, 250), batch=8, heads=2
)
EIGHT = tuple(2.0**-i for i in range(7, -1, -1))
FULL = Plan((16, 32, 64, 96, 128, 192, 256), (1000, 2000, 4000), EIGHT, 128, (500,), seeds=4, batch=64)


@dataclass(frozen=True)
class Point:
    """One size trained for some steps on some of the text, at its best learning rate. `losses`: one a seed."""

    size: Size
    vocabulary: int
    steps: int
    characters: int  # read in training, those read again included
    text: int  # different characters that there were to read
    lr: float
    at_edge: bool  # is the rate the smallest or largest that was tried?
    losses: NDArray[np.float64]

    @property
    def read_once(self) -> bool:
        """Did it read no more characters than there are? (At random places: some twice, as many not at all.)"""
        return self.characters <= self.text

    def parameters(self, *, embeddings: bool) -> int:
        return self.size.parameters(self.vocabulary, embeddings=embeddings)

    @property
    def compute(self) -> float:
        """Floating-point operations of training, 6 a weight and character (Kaplan et al.), embeddings left out."""
        return 6.0 * self.parameters(embeddings=False) * self.characters


def train_sizes(lab: Lab, text: Characters, plan: Plan, widths: tuple[int, ...], steps: int, what: str) -> list[Point]:
    """Every width for `steps`, with the learning rate that is best for it."""
    points = []
    for width in widths:
        size = _size(width, plan)
        members = [Member(lr, lab.seed + seed) for lr in plan.lrs for seed in range(plan.seeds)]
        trained = train_population(
            size,
            text.vocabulary,
            members,
            [text.train] * len(members),
            TrainingSchedule(steps, plan.batch),
            device=lab.model.device,
            progress=lab.tell(f"{what}: width {width}, {steps} steps"),
        )
        chosen = trained.losses(text.choose).double().mean(1).numpy().reshape(len(plan.lrs), plan.seeds)
        best = int(chosen.mean(1).argmin())
        of_best = trained.part(range(best * plan.seeds, (best + 1) * plan.seeds))
        losses = of_best.losses(text.test).double().mean(1).numpy()
        read = steps * plan.batch * size.context
        edge = best in (0, len(plan.lrs) - 1)
        points.append(Point(size, text.vocabulary, steps, read, len(text.train), plan.lrs[best], edge, losses))
    return points


def train_on_shares(lab: Lab, text: Characters, plan: Plan, lr: float) -> list[Point]:
    """One width on growing parts of the text, each stopped where the choosing text says that it is best."""
    size, steps = _size(plan.data_width, plan), plan.durations[-1]
    members = [Member(lr, lab.seed + seed) for _ in plan.shares for seed in range(plan.seeds)]
    parts = [text.train[: int(share * len(text.train))] for share in plan.shares for _ in range(plan.seeds)]
    best, at = np.full(len(members), np.inf), np.zeros(len(members), int)
    kept: dict[str, torch.Tensor] = {}

    def watch(step: int, models: Population) -> None:
        chosen = models.losses(text.choose).double().mean(1).numpy()
        better = chosen < best
        best[better], at[better] = chosen[better], step
        for name, value in models.parameters.items():
            kept.setdefault(name, value.clone())[torch.from_numpy(better)] = value[torch.from_numpy(better)]

    train_population(
        size, text.vocabulary, members, parts, TrainingSchedule(steps, plan.batch),
        device=lab.model.device, watch=watch,
        progress=lab.tell(f"training on parts of the text: width {plan.data_width}"),
    )  # fmt: skip
    stopped_at = Population(size, text.vocabulary, tuple(members), kept)
    tested = stopped_at.losses(text.test).double().mean(1).numpy()
    out = []
    for i, share in enumerate(plan.shares):
        mine = slice(i * plan.seeds, (i + 1) * plan.seeds)
        stopped = int(at[mine].mean())
        read = stopped * plan.batch * size.context
        out.append(
            Point(size, text.vocabulary, stopped, read, int(share * len(text.train)), lr, False, tested[mine].copy())
        )
    return out


def _size(width: int, plan: Plan) -> Size:
    return Size(width, n_layers=2, n_heads=plan.heads, context=32)
