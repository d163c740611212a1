"""Phrases that end in the same noun, with another adjective before it. Written down before anything was run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Lab, Model, UserError
from interp.analysis import single_tokens

SMALL = ("small", "tiny", "little", "miniature", "mini", "short", "compact", "narrow", "thin", "minor")
LARGE = ("large", "big", "huge", "giant", "enormous", "massive", "vast", "tall", "wide", "great")
NEUTRAL = ("red", "old", "wooden", "famous", "new", "white", "broken", "quiet", "local", "empty", "green", "French")
NOUNS = (
    "tower", "house", "car", "boat", "table", "garden", "box", "tree", "bridge", "stone", "room", "bottle", "church",
    "ship", "village", "engine", "ball", "book", "door", "ring",
)  # fmt: skip
TEMPLATES = (
    "Yesterday we talked about the {} {}",
    "In the middle of the picture is his {} {}",
    "She drew a map and showed us the {} {}",
    "Nobody could forget that {} {}",
)
LEAST = {"small adjectives": 5, "large adjectives": 5, "neutral adjectives": 10, "nouns": 4}  # of one token each;
# of fewer adjectives, more than one deal in forty is the real one, or its mirror image


@dataclass(frozen=True)
class Words:
    """What is one token in this model: half of the adjectives of a kind is held out, and half of the nouns."""

    small: tuple[str, ...]
    large: tuple[str, ...]
    neutral: tuple[str, ...]
    nouns: tuple[str, ...]

    @property
    def sized(self) -> tuple[str, ...]:
        """Small ones, then large ones."""
        return (*self.small, *self.large)


@dataclass(frozen=True)
class Vectors:
    """Residual vectors at the noun's token: `at` [template, adjective, noun, layer, d_model]."""

    adjectives: tuple[str, ...]
    layers: tuple[int, ...]
    at: Float[Tensor, "template adjective noun layer d_model"]

    def of(self, adjectives: tuple[str, ...]) -> Float[Tensor, "template adjective noun layer d_model"]:
        """Those of some adjectives."""
        return self.at[:, [self.adjectives.index(a) for a in adjectives]]


def choose_words(model: Model, quick: bool) -> Words:
    """Words of one token each: a longer adjective would move the noun, and the position alone would tell it.

    Raises UserError where too few are left.
    """
    found = [single_tokens(model, list(words), before="We saw the") for words in (SMALL, LARGE, NEUTRAL, NOUNS)]
    for (kind, least), some in zip(LEAST.items(), found, strict=True):
        if len(some) < least:
            raise UserError(
                f"{len(some)} {kind} are one token in this model; expected {least} or more; use a model with a larger "
                "vocabulary"
            )
    small, large, neutral, nouns = found
    n = min(len(small), len(large))
    if quick:
        n, nouns = min(n, 6), nouns[:10]
    return Words(tuple(small[:n]), tuple(large[:n]), tuple(neutral), tuple(nouns))


def prompts_of(adjectives: tuple[str, ...], nouns: tuple[str, ...], template: str) -> list[str]:
    """Every adjective with every noun."""
    return [template.format(adjective, noun) for adjective in adjectives for noun in nouns]


def read_vectors(
    lab: Lab, model: Model, adjectives: tuple[str, ...], nouns: tuple[str, ...], layers: tuple[int, ...], what: str
) -> Vectors:
    """The residual stream at the noun, in every phrase."""
    sites = [model.residual(layer) for layer in layers]
    rows = []
    for i, template in enumerate(TEMPLATES):
        acts = model.capture(prompts_of(adjectives, nouns, template), sites, batch_size=64)
        rows.append(torch.stack([acts.last(site).float().cpu() for site in sites], 1))
        lab.progress(what, i + 1, len(TEMPLATES))
    shape = (len(TEMPLATES), len(adjectives), len(nouns), len(layers), -1)
    return Vectors(adjectives, layers, torch.stack(rows).view(shape))
