"""Phrases that end in the same noun, with another adjective before it. Written down before anything was run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Lab, Model, UserError
from interp.analysis import last_activations, single_tokens

SMALL = ("small", "tiny", "little", "miniature", "mini", "short", "compact", "narrow", "thin", "minor")
LARGE = ("large", "big", "huge", "giant", "enormous", "massive", "vast", "tall", "wide", "great")
NEW = ("new", "modern", "young", "recent", "fresh", "contemporary", "current", "latest", "updated", "future")
OLD = ("old", "ancient", "aged", "elderly", "antique", "vintage", "historic", "medieval", "traditional", "classic")
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
PHRASE = "The {} {}"
SAID = f"{PHRASE} was so"  # and the next word may be one of size, or of age
LEAST = {"small adjectives": 5, "large adjectives": 5, "neutral adjectives": 10, "nouns": 4}  # of one token each;
# of fewer adjectives, more than one deal in forty is the real one, or its mirror image
LEAST_AGE = 5
TOO_FEW_OF_AGE = f"because fewer than {LEAST_AGE} adjectives of new things, or of old ones, are one token in this model"
BEFORE = "We saw the"


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

    def of(self, adjectives: tuple[str, ...], layer: int) -> Float[Tensor, "template adjective noun d_model"]:
        """Those of these adjectives at one layer."""
        return self.at[:, [self.adjectives.index(a) for a in adjectives], :, self.layers.index(layer)]


def choose_words(model: Model, quick: bool) -> Words:
    """Words of one token each: a longer adjective would move the noun, and the position alone would tell it.

    Raises UserError where too few are left.
    """
    whole = [single_tokens(model, list(words), before=BEFORE) for words in (SMALL, LARGE, NEUTRAL, NOUNS)]
    for (kind, least), words in zip(LEAST.items(), whole, strict=True):
        if len(words) < least:
            raise UserError(
                f"{len(words)} {kind} are one token in this model; expected {least} or more; use a model with a larger "
                "vocabulary"
            )
    small, large, neutral, nouns = whole
    n = min(len(small), len(large), 6 if quick else len(SMALL))
    return Words(tuple(small[:n]), tuple(large[:n]), tuple(neutral), tuple(nouns[:10] if quick else nouns))


def choose_age(model: Model, quick: bool) -> tuple[str, ...]:
    """As many adjectives of new things as of old ones, in this order; fewer than `LEAST_AGE` of a kind are too few."""
    new, old = (single_tokens(model, list(words), before=BEFORE) for words in (NEW, OLD))
    n = min(len(new), len(old), 6 if quick else len(NEW))
    return (*new[:n], *old[:n])


def prompts_of(adjectives: tuple[str, ...], nouns: tuple[str, ...], template: str) -> list[str]:
    """Every adjective with every noun."""
    return [template.format(adjective, noun) for adjective in adjectives for noun in nouns]


def read_vectors(
    lab: Lab,
    model: Model,
    adjectives: tuple[str, ...],
    nouns: tuple[str, ...],
    layers: tuple[int, ...],
    what: str,
    templates: tuple[str, ...] = TEMPLATES,
) -> Vectors:
    """The residual stream at the noun, in every phrase."""
    sites = [model.residual(layer) for layer in layers]
    rows = []
    for i, template in enumerate(templates):
        acts = last_activations(model, prompts_of(adjectives, nouns, template), sites)
        rows.append(torch.stack([acts[site].float().cpu() for site in sites], 1))
        lab.progress(what, i + 1, len(templates))
    shape = (len(templates), len(adjectives), len(nouns), len(layers), -1)
    return Vectors(adjectives, layers, torch.stack(rows).view(shape))
