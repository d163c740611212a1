"""What is known of one feature, as plain data: examples, label, neighbours, effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Example:
    """A token on which a feature is strong, with its neighbours: `tokens[peak]`, at `position` of `document`.

    `activations` are the feature's, one per token.
    """

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    peak: int
    document: int
    position: int


class Label(NamedTuple):
    """A feature's name and how well it predicts the feature's firing on text that it was not made from.

    `score`: correlation of prediction and firing, 0 by chance, 1 always right; NaN where that text has no firing.
    `precision`: share of predicted tokens on which it fires; `recall`: share of its firings that are predicted.
    `by`: who named it.
    """

    text: str
    score: float
    precision: float
    recall: float
    by: str


@dataclass(frozen=True)
class Neighbour:
    """Another feature and how close it is; `count` is the number of tokens on which both fire."""

    feature: int
    closeness: float
    count: int = 0


class Effect(NamedTuple):
    """What ablating at a firing does to the loss there, in nats: mean and 95 % interval over `n` firings.

    `random`: the mean for a random direction of the same length at the same tokens.
    """

    mean: float
    low: float
    high: float
    n: int
    random: float


@dataclass(frozen=True)
class Feature:
    """All that an index holds of one feature; see `interp.features.read.layout` for what each number is."""

    number: int
    label: Label
    rate: float
    mean: float
    maximum: float
    firings: int
    histogram: NDArray[np.int32]
    by_token: float
    by_position: float
    by_word: float
    typical: tuple[tuple[str, float], ...]
    fires_with: tuple[Neighbour, ...]
    near: tuple[Neighbour, ...]
    raises: tuple[tuple[str, float], ...]
    lowers: tuple[tuple[str, float], ...]
    effect: Effect
    top: tuple[Example, ...]
    bands: tuple[tuple[Example, ...], ...]
    """Examples drawn from equal parts of the firings, strongest part first."""
