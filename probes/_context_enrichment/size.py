"""Does one direction tell two kinds of adjectives apart, for nouns, adjectives and a sentence it was not made from?"""

from __future__ import annotations

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
Made = Float[Tensor, "template made noun d_model"]
Floats = NDArray[np.float64]
Dots = Floats  # [template, adjective, noun, made]
ROUNDING = 1e-5


@dataclass(frozen=True)
class ToldApart:
    """How well held-out phrases are told apart at one layer: `right` [adjective, noun], the shares of pairs.

    A pair is the same noun, in the same sentence, after an adjective of each class; a tie is half right. `null`: the
    same with the adjectives dealt at random to two classes.
    """

    right: Floats
    null: Estimate

    @property
    def estimate(self) -> Estimate:
        return share_of_pairs(self.right)


def share_of_pairs(right: Floats) -> Estimate:
    """The mean of [adjective, noun] for other adjectives and other nouns."""
    return estimate_crossed([right], unit=RIGHT, over="noun", bounds=(0.0, 1.0), across="adjective")


def tell_apart(at: At, n_perm: int, seed: int) -> ToldApart:
    """The first half of the adjectives is of one class, the second of the other; half of each class is held out.

    Held out are half of the adjectives, half of the nouns and one template at once; each half takes its turn, and so
    does each template.
    """
    label = classes_of(at)
    dots = _projections(at, at)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(n_perm):
        dealt = rng.permutation(label)
        halves = _halves(dealt, rng)
        draws.append(_right(dots, dealt, halves, dealt, halves).mean())
    return ToldApart(told_by(at, at), null_of(draws, unit=RIGHT))


def told_by(asked: At, made: Made) -> Floats:
    """Shares of the pairs of `asked` that the direction of `made` tells rightly [adjective, noun], held out as above.

    Both may be the same.
    """
    labels = classes_of(asked), classes_of(made)
    return _right(_projections(asked, made), labels[0], _halves(labels[0]), labels[1], _halves(labels[1]))


def classes_of(at: At) -> NDArray[np.int64]:
    """0 for the first half of the adjectives, 1 for the second."""
    return np.repeat([0, 1], at.shape[1] // 2)


def _projections(asked: At, made: Made) -> Dots:
    """Every vector on every training adjective's mean over the other templates and the other half of the nouns.

    A direction is a difference of such means, so that all labellings share these products. What all adjectives share in
    a sentence and at a noun cancels in pairs and in directions: it is taken out, and with it what only rounding moves.
    """
    asked, made = _without_shared(asked), _without_shared(made)
    half = made.shape[2] // 2
    sums = torch.stack([made[:, :, :half].sum(2), made[:, :, half:].sum(2)], 2)
    elsewhere = sums.sum(0) - sums  # [template, made, half, d]: of the other templates
    parts = zip((asked[:, :, :half], asked[:, :, half:]), (1, 0), strict=True)
    return torch.cat([torch.einsum("tand,tbd->tanb", part, elsewhere[:, :, held]) for part, held in parts], 2).numpy()


def _without_shared(at: At) -> At:
    """Less the mean over adjectives; zero where no more than rounding is left."""
    apart = at.double() - at.double().mean(1, keepdim=True)
    return apart.masked_fill(apart.norm(dim=-1, keepdim=True) <= ROUNDING * at.norm(dim=-1, keepdim=True), 0.0)


def _right(
    dots: Dots,
    label: NDArray[np.int64],
    halves: list[list[int]],
    made_label: NDArray[np.int64],
    made_halves: list[list[int]],
) -> Floats:
    """Shares of pairs told rightly [adjective, noun], for adjectives of these two classes."""
    right = np.full(dots.shape[1:3], np.nan)
    for asked, seen in zip(halves, reversed(made_halves), strict=True):
        along = dots[:, asked][..., seen] @ np.where(made_label[seen], 1.0, -1.0)  # [template, adjective, noun]
        right[asked] = _pairs(along.transpose(1, 0, 2), label[asked]).mean(1)
    return right


def _halves(label: NDArray[np.int64], rng: np.random.Generator | None = None) -> list[list[int]]:
    """Two halves of the adjectives, as many of each class in both."""
    out: list[list[int]] = [[], []]
    for k in (0, 1):
        members = np.flatnonzero(label == k)
        members = members if rng is None else rng.permutation(members)
        for i, adjective in enumerate(members.tolist()):
            out[i % 2].append(adjective)
    return out


def _pairs(along: Floats, label: NDArray[np.int64]) -> Floats:
    """For each adjective [adjective, …], the share of the other class's that lie on the right side of it."""
    right = np.empty_like(along)
    for k in (0, 1):
        own, other = along[label == k], along[label != k]
        ahead = own[:, None] - other[None] if k else other[None] - own[:, None]
        tie = np.abs(ahead) <= 1e-9 * np.abs(along).max()
        right[label == k] = np.where(tie, 0.5, ahead > 0).mean(1)
    return right


def direction_of(at: At) -> Float[Tensor, " d_model"]:
    """Mean of the second half of the adjectives less that of the first, over everything given."""
    n = at.shape[1] // 2
    return at[:, n:].mean((0, 1, 2)) - at[:, :n].mean((0, 1, 2))


def half_of(at: At, which: int) -> Float[Tensor, "template fewer noun d_model"]:
    """Every second adjective of each class, from the first (0) or the second (1) on."""
    n = at.shape[1] // 2
    return torch.cat([at[:, which:n:2], at[:, n + which :: 2]], 1)


def length_between(at: At) -> float:
    """How far apart the two classes lie, as far as other adjectives and nouns confirm it.

    The root of the product of two halves' directions, with its sign: 0 on average where there is nothing but vectors of
    their own.
    """
    first, second = direction_of(half_of(at, 0)[:, :, ::2]), direction_of(half_of(at, 1)[:, :, 1::2])
    product = float(first.double() @ second.double())
    return float(np.sign(product) * np.sqrt(abs(product)))


def apart_along(asked: At, made: Made) -> Floats:
    """How far apart the classes of `asked` lie along the direction of `made`, of length 1: [noun, adjective].

    What each adjective adds; the mean is the whole. Held out as in `tell_apart`: adjectives, nouns and a template.
    """
    half = asked.shape[2] // 2
    by_noun = []
    for seen, nouns in ((slice(half, None), slice(0, half)), (slice(0, half), slice(half, None))):
        by_adjective = []
        for k in (0, 1):
            along = []
            for t in range(len(asked)):
                others = [u for u in range(len(asked)) if u != t]
                direction = direction_of(half_of(made, 1 - k)[others][:, :, seen])
                along.append(half_of(asked, k)[t, :, nouns] @ (direction / direction.norm().clamp_min(1e-12)))
            by_adjective.append(added(torch.stack(along).mean(0)))
        by_noun.append(torch.cat(by_adjective))
    return torch.cat(by_noun, 1).T.double().numpy()


def added(along: Float[Tensor, "adjective noun"]) -> Float[Tensor, "adjective noun"]:
    """What each adjective adds to the difference of the two classes: twice its way from half-way between them."""
    first, second = along.chunk(2)
    middle = (first.mean(0) + second.mean(0)) / 2
    return 2 * torch.cat([middle - first, along[len(first) :] - middle])


def place_between(at: At, between: Made) -> Floats:
    """Where other adjectives lie on the way from the first class (0) to the second (1): [noun, adjective].

    The direction is made from half of the adjectives, and its ends are where the others lie: ends that the direction
    was made from would lie apart even if they were noise, and everything else between them.
    """
    places = []
    for k in (0, 1):
        made, held = half_of(at, k), half_of(at, 1 - k)
        along, ends = between @ direction_of(made), held @ direction_of(made)
        half = ends.shape[1] // 2
        low, high = ends[:, :half].mean((0, 1)), ends[:, half:].mean((0, 1))  # [noun]
        places.append(0.5 + (along.mean(0) - (low + high) / 2) / (high - low).mean())
    return torch.stack(places).mean(0).T.double().numpy()


def likeness(at: At) -> tuple[Floats, Floats]:
    """Mean cosine of each phrase with those of its own class and of the other one: two of [adjective, noun]."""
    cosine = _cosines(at)
    label = classes_of(at)
    same = label[:, None] == label
    others = same & ~np.eye(len(label), dtype=bool)
    return (cosine * others).sum(2).T / others.sum(1)[:, None], (cosine * ~same).sum(2).T / (~same).sum(1)[:, None]


def dealt_likeness(at: At, n_perm: int, seed: int, unit: str) -> Estimate:
    """Own class less the other one, for adjectives that are dealt at random to two classes."""
    cosine = _cosines(at).mean(0)
    label, rng = classes_of(at), np.random.default_rng(seed)
    draws = []
    for _ in range(n_perm):
        dealt = rng.permutation(label)
        same = dealt[:, None] == dealt
        draws.append(cosine[same & ~np.eye(len(label), dtype=bool)].mean() - cosine[~same].mean())
    return null_of(draws, unit=unit)


def _cosines(at: At) -> Float[np.ndarray, "noun adjective adjective"]:
    """Cosines of every two adjectives' vectors at the same noun in the same sentence, mean of the sentences."""
    unit = torch.nn.functional.normalize(at.double(), dim=-1)
    return torch.einsum("tajd,tbjd->tjab", unit, unit).mean(0).clamp(-1, 1).numpy()


def noun_cosines(at: At) -> Floats:
    """Cosines of each noun with the next one after the same adjective [noun]."""
    return torch.nn.functional.cosine_similarity(at.double(), at.roll(1, 2).double(), dim=-1).mean((0, 1)).numpy()


def depths(n_layers: int, quick: bool) -> tuple[int, ...]:
    """Layers to look at: 0 (the embedding), the middle and the last are always among them."""
    step = max(1, n_layers // (6 if quick else 15))
    return tuple(sorted({*range(0, n_layers, step), middle_of(n_layers), n_layers}))


def middle_of(n_layers: int) -> int:
    """The layer that was named beforehand; never the embedding, which knows no context."""
    return max(1, n_layers // 2)
