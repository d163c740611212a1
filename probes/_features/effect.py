"""What a feature or a neuron does where it fires: it is taken away, and the next token's probabilities are compared.

Any change of an activation does something. So beside each goes a change of the same length in the residual stream:
along a direction that activations vary along (drawn with their covariance), along one drawn blindly, and along another
feature that is active at the same token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Edit, Lab, Where
from interp.analysis import ReadAhead, divergence, log_prob
from interp.edits import choose
from interp.features import Coder

from .units import Text, Units

Kl = NDArray[np.float64]
ALIKE, AGAIN = "random change, as activations vary", "another one, as activations vary"
BLIND, OTHER = "random change in any direction", "another feature active there"
STEEP = "down the slope of the likeliest token"
FIRINGS = 3  # of a unit
EARLY = 48  # tokens of a document: firings in these come first, for a short text is read faster
SMALLEST = 1e-9  # nats: below it, rounding


@dataclass(frozen=True)
class Change:
    """What is added at `site` to the last token of each prompt, and how long that is in the residual stream."""

    prompts: ReadAhead
    site: str
    by: Float[Tensor, "prompt d"]
    length: Float[Tensor, " prompt"]


@dataclass(frozen=True)
class Lost:
    """KL in nats by [unit, firing]: without the unit, and after each of the changes as long that stand beside it."""

    without: Kl
    beside: dict[str, Kl]
    length: NDArray[np.float64]

    def against(self, name: str) -> NDArray[np.float64]:
        """How often the KL doubles from that change to the unit's: [unit], the mean over its firings."""
        return doublings(self.without, self.beside[name])


def doublings(kl: Kl, beside: Kl) -> NDArray[np.float64]:
    """How often `beside` [unit, firing] must be doubled to give `kl`: the mean over firings, a number a unit.

    Firings beside which nothing could be put are NaN; units that have no others are left out.
    """
    times = np.log2(np.maximum(kl, SMALLEST)) - np.log2(np.maximum(beside, SMALLEST))
    return np.nanmean(times[~np.isnan(times).all(1)], axis=1)


def strongest(text: Text, units: Units) -> tuple[NDArray[np.int64], NDArray[np.float64], Tensor]:
    """Rows and activations of each unit's strongest firings, and whose they are: [unit × firing] each."""
    place = text.facts.place
    best = [
        np.lexsort((-values, place[rows] >= EARLY))[:FIRINGS]
        for rows, values in zip(units.rows, units.values, strict=True)
    ]
    rows = np.concatenate([rows[first] for rows, first in zip(units.rows, best, strict=True)])
    values = np.concatenate([values[first] for values, first in zip(units.values, best, strict=True)])
    return rows, values, torch.tensor(units.numbers).repeat_interleave(FIRINGS)


def without_features(lab: Lab, text: Text, features: Units, coder: Coder) -> Change:
    """Less what the feature adds to the dictionary's sum."""
    rows, values, numbers = strongest(text, features)
    x = text.rows.values[rows].to(coder.directions)
    away = coder.contribution(x, numbers, torch.from_numpy(values).to(x)).float().cpu()
    return Change(_prompts(lab, text, rows), text.rows.site, -away, away.norm(dim=1))


def without_neurons(lab: Lab, text: Text, neurons: Units) -> Change:
    """The neuron at its mean, instead of what it is there."""
    rows, _, numbers = strongest(text, neurons)
    prompts, each = _prompts(lab, text, rows), torch.arange(len(rows))
    by = torch.zeros(len(rows), text.neurons.shape[1])
    by[each, numbers] = text.neurons[text.kept].mean(0)[numbers] - text.neurons[rows][each, numbers]
    site, at = text.rows.site, f"blocks.{text.layer}.mlp.hook_post"
    before = prompts.capture([site])[site]
    with lab.model.edit({at: change_last(by)}):
        after = prompts.capture([site])[site]
    return Change(prompts, at, by, (after - before).float().norm(dim=1).cpu())


def _prompts(lab: Lab, text: Text, rows: NDArray[np.int64]) -> ReadAhead:
    """Each row's document up to it; all changes are made at its last token."""
    return ReadAhead(lab.model, [text.up_to(int(row)) for row in rows])


def as_long(change: Change, directions: Float[Tensor, "prompt d"], text: Text) -> Change:
    """Along these directions at the dictionary's site, as long as what it stands beside."""
    by = directions / directions.norm(dim=1, keepdim=True) * change.length[:, None]
    return Change(change.prompts, text.rows.site, by, change.length)


def as_activations_vary(change: Change, text: Text, seed: int) -> Change:
    """Drawn with the activations' covariance: a sum of them, centred, with random weights."""
    x = text.rows.values[text.kept]
    weights = torch.randn(len(change.prompts), len(x), generator=torch.Generator().manual_seed(seed))
    return as_long(change, weights @ (x - x.mean(0)), text)


def in_any_direction(change: Change, text: Text, seed: int) -> Change:
    """Every direction as likely as any other."""
    shape = (len(change.prompts), text.rows.values.shape[1])
    return as_long(change, torch.randn(shape, generator=torch.Generator().manual_seed(seed)), text)


def of_other_features(change: Change, text: Text, features: Units, coder: Coder, seed: int) -> Change:
    """Less another feature that is active at the same token, drawn among them; NaN where it is alone."""
    rows, _, numbers = strongest(text, features)
    pairs = coder(text.rows.values[rows]).pairs
    rng, directions = np.random.default_rng(seed), torch.full_like(change.by, torch.nan)
    for i in range(len(rows)):
        active = pairs.feature[int(pairs.starts[i]) : int(pairs.starts[i + 1])].numpy()
        if len(rest := active[active != numbers[i].item()]):
            directions[i] = -coder.directions[int(rng.choice(rest))].float().cpu()
    return as_long(change, directions, text)


def down_the_slope(change: Change, text: Text) -> Change:
    """Along the direction in which the likeliest next token loses most: a change that must do much for its length."""
    best = change.prompts.last_logits().argmax(-1).tolist()
    slopes = change.prompts.gradients(text.rows.site, log_prob(best))
    return as_long(change, -slopes.float().cpu(), text)


def make(lab: Lab, changes: list[Change], what: str) -> list[Kl]:
    """The KL of each change, [unit, firing]; all of them are of the same prompts."""
    prompts, kls = changes[0].prompts, list[Kl]()
    clean = prompts.last_logits()
    for change in changes:
        unknown = change.by.isnan().any(1)
        with lab.model.edit({change.site: change_last(change.by.nan_to_num())}):
            kl = prompts.measure(divergence(clean)).double().cpu()
        kls.append(kl.masked_fill(unknown, torch.nan).numpy().reshape(-1, FIRINGS))
        lab.progress(f"taking away {what}", len(kls), len(changes))
    return kls


def change_last(by: Float[Tensor, "prompt d"]) -> Edit:
    """Add to each prompt's last token its own row of `by`."""

    def changed(activation: Tensor, where: Where) -> Tensor:
        added = by[where.prompts.to(by.device)].to(activation)[:, None]
        return torch.where(choose(activation, where, -1), activation + added, activation)

    return changed
