"""Does one direction tell large from small, for nouns, adjectives and a sentence that it was not made from?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Estimate
from interp.stats import estimate_crossed, null_of

from . import RIGHT

At = Float[Tensor, "template adjective noun d_model"]


@dataclass(frozen=True)
class Told:
    """How well held-out phrases are told apart at one layer: `right` [adjective, noun], the shares of pairs.

    A pair is the same noun, in the same sentence, after a small adjective and after a large one; a tie is half right.
    `null`: the same with the adjectives dealt at random to two classes.
    """

    right: NDArray[np.float64]
    null: Estimate

    @property
    def estimate(self) -> Estimate:
        return estimate_crossed([self.right], unit=RIGHT, over="noun", bounds=(0.0, 1.0))


def tell_apart(at: At, n_perm: int, seed: int) -> Told:
    """The first half of the adjectives is of one class, the second of the other; half of each class is held out.

    Held out are half of the adjectives, half of the nouns and one template at once; each half takes its turn, and so
    does each template.
    """
    n = at.shape[1] // 2
    real = np.repeat([0, 1], n)
    dots = _projections(at)
    rng = np.random.default_rng(seed)
    draws = [_right(dots, rng.permutation(real), rng).mean() for _ in range(n_perm)]
    return Told(_right(dots, real, None), null_of(draws, unit=RIGHT))


def _projections(at: At) -> Float[Tensor, "template adjective noun template adjective half"]:
    """Every vector on every training cell's mean: a direction is a difference of such means, so that all labellings

    share these products. The last three: the mean over a half of the nouns for one template and adjective.
    """
    half = at.shape[2] // 2
    means = torch.stack([at[:, :, :half].mean(2), at[:, :, half:].mean(2)], 2)  # [template, adjective, half, d]
    return torch.einsum("tand,ubhd->tanubh", at, means)


def _right(
    dots: Float[Tensor, "template adjective noun template adjective half"],
    label: NDArray[np.int64],
    rng: np.random.Generator | None,
) -> NDArray[np.float64]:
    """Shares of pairs told rightly [adjective, noun], for adjectives of these two classes."""
    templates, adjectives, nouns = dots.shape[:3]
    halves = _halves(label, rng)
    cut = nouns // 2
    told = np.full((templates, adjectives, nouns), np.nan)
    for t in range(templates):
        others = [u for u in range(templates) if u != t]
        for k, asked in enumerate(halves):
            seen = halves[1 - k]
            sign = torch.tensor([1.0 if label[b] else -1.0 for b in seen])
            for half, columns in enumerate((slice(0, cut), slice(cut, nouns))):
                along = dots[t, asked][:, columns][:, :, others][..., seen, 1 - half].sum(2) @ sign
                told[t, asked, columns] = _pairs(along.numpy(), label[asked])
    return told.mean(0)


def _halves(label: NDArray[np.int64], rng: np.random.Generator | None) -> list[list[int]]:
    """Two halves of the adjectives, as many of each class in both."""
    out: list[list[int]] = [[], []]
    for k in (0, 1):
        members = np.flatnonzero(label == k)
        members = members if rng is None else rng.permutation(members)
        for i, adjective in enumerate(members.tolist()):
            out[i % 2].append(adjective)
    return out


def _pairs(along: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each adjective and noun, the share of the other class's adjectives that lie on the right side of it."""
    out = np.empty_like(along, dtype=np.float64)
    for k in (0, 1):
        mine, theirs = along[label == k], along[label != k]
        ahead = mine[:, None] - theirs[None] if k else theirs[None] - mine[:, None]
        tie = np.abs(ahead) <= 1e-6 * np.abs(along).max()
        out[label == k] = np.where(tie, 0.5, ahead > 0).mean(1)
    return out


def size_direction(at: At) -> Float[Tensor, " d_model"]:
    """Mean of the second half of the adjectives less that of the first, over everything given."""
    n = at.shape[1] // 2
    return at[:, n:].mean((0, 1, 2)) - at[:, :n].mean((0, 1, 2))


def place_between(at: At, between: At, direction: Float[Tensor, " d_model"]) -> NDArray[np.float64]:
    """Where other adjectives lie on the way from small (0) to large (1), noun by noun."""
    n = at.shape[1] // 2
    along = at @ direction
    small, large = along[:, :n].mean((0, 1)), along[:, n:].mean((0, 1))
    middle = (between @ direction).mean((0, 1))
    return ((middle - small) / (large - small)).numpy()


def cosines(a: Float[Tensor, "... d_model"], b: Float[Tensor, "... d_model"]) -> NDArray[np.float64]:
    """Cosines along the last axis."""
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).clamp(-1, 1).numpy()


def depths(n_layers: int, quick: bool) -> tuple[int, ...]:
    """Layers to look at: 0 (the embedding), the middle and the last are always among them."""
    step = max(1, n_layers // (6 if quick else 15))
    return tuple(sorted({*range(0, n_layers, step), n_layers // 2, n_layers}))


def share_right(told: Sequence[Told]) -> list[float]:
    """Means, layer by layer."""
    return [float(one.right.mean()) for one in told]
