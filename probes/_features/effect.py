"""What a feature or a neuron does where it fires: it is taken away, and the next token's probabilities are compared.

Beside each change goes a random one of the same length in the residual stream: any change of an activation does
something.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.analysis.metrics import divergence
from interp.features.coder import Coder
from interp.lab.probe import Lab
from interp.model.choose import choose
from interp.model.hooks import Edit, Site
from probes._features.units import Text, Units

FIRINGS = 3  # of a unit
EARLY = 48  # tokens of a document: firings in these come first, for a short text is read faster
SMALLEST = 1e-9  # nats: below it, rounding


@dataclass(frozen=True)
class Change:
    """What is added at `site` to the last token of each prompt, and how long that is in the residual stream."""

    prompts: list[list[int]]
    site: str
    by: Float[Tensor, "prompt d"]
    length: Float[Tensor, " prompt"]


@dataclass(frozen=True)
class Lost:
    """KL in nats by [unit, firing]: without the unit, and with each of some random changes as long as it was."""

    without: NDArray[np.float64]
    random: tuple[NDArray[np.float64], ...]
    length: NDArray[np.float64]

    @property
    def doublings(self) -> NDArray[np.float64]:
        """How often the KL doubles from the random change to the unit's: [unit], the mean over its firings."""
        return doublings(self.without, self.random[0])


def doublings(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often `theirs` [unit, firing] must be doubled to give `ours`: [unit], the mean over firings."""
    return (np.log2(np.maximum(ours, SMALLEST)) - np.log2(np.maximum(theirs, SMALLEST))).mean(1)


def strongest(text: Text, units: Units) -> tuple[NDArray[np.int64], NDArray[np.float64], Tensor]:
    """Rows and activations of each unit's strongest firings, and whose they are: [unit × firing] each."""
    place = text.facts.place
    best = [
        np.lexsort((-values, place[rows] >= EARLY))[:FIRINGS]
        for rows, values in zip(units.rows, units.values, strict=True)
    ]
    rows = np.concatenate([rows[some] for rows, some in zip(units.rows, best, strict=True)])
    values = np.concatenate([values[some] for values, some in zip(units.values, best, strict=True)])
    return rows, values, torch.tensor(units.numbers).repeat_interleave(FIRINGS)


def without_features(text: Text, features: Units, coder: Coder) -> Change:
    """Less what the feature adds to the dictionary's sum."""
    rows, values, numbers = strongest(text, features)
    x = text.rows.values[rows].to(coder.directions)
    away = coder.contribution(x, numbers, torch.from_numpy(values).to(x)).float().cpu()
    return Change([text.up_to(int(row)) for row in rows], text.rows.site, -away, away.norm(dim=1))


def without_neurons(lab: Lab, text: Text, neurons: Units) -> Change:
    """The neuron at its mean, instead of what it is there."""
    rows, _, numbers = strongest(text, neurons)
    prompts, each = [text.up_to(int(row)) for row in rows], torch.arange(len(rows))
    by = torch.zeros(len(rows), text.neurons.shape[1])
    by[each, numbers] = text.neurons[text.kept].mean(0)[numbers] - text.neurons[rows][each, numbers]
    site, at = text.rows.site, f"blocks.{text.layer}.mlp.hook_post"
    before = lab.model.capture(prompts, site).last(site)
    with lab.model.edit({at: change_last(by)}):
        after = lab.model.capture(prompts, site).last(site)
    return Change(prompts, at, by, (after - before).float().norm(dim=1).cpu())


def without_everything(text: Text, features: Units) -> Change:
    """The mean instead of the whole activation, where these features fire."""
    rows = strongest(text, features)[0]
    by = text.rows.values[text.kept].mean(0) - text.rows.values[rows]
    return Change([text.up_to(int(row)) for row in rows], text.rows.site, by, by.norm(dim=1))


def random_changes(text: Text, like: Change, n: int, seed: int) -> list[Change]:
    """`n` times as many random directions at the dictionary's site, each as long as what it stands beside."""
    shape = (n, len(like.prompts), text.rows.values.shape[1])
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    drawn = drawn / drawn.norm(dim=-1, keepdim=True) * like.length[:, None]
    return [Change(like.prompts, text.rows.site, by, like.length) for by in drawn]


def make(lab: Lab, changes: list[Change], what: str) -> list[NDArray[np.float64]]:
    """The KL of each change, [unit, firing]; all of them are of the same prompts."""
    clean, found = lab.model.last_logits(changes[0].prompts), []
    for change in changes:
        with lab.model.edit({change.site: change_last(change.by)}):
            kl = lab.model.measure(change.prompts, divergence(clean)).double().cpu().numpy()
        found.append(kl.reshape(-1, FIRINGS))
        lab.progress(f"taking away {what}", len(found), len(changes))
    return found


def change_last(by: Float[Tensor, "prompt d"]) -> Edit:
    """Add to each prompt's last token its own row of `by`."""

    def changed(activation: Tensor, site: Site) -> Tensor:
        mine = by[site.prompts.to(by.device)].to(activation)[:, None]
        return torch.where(choose(activation, site, -1), activation + mine, activation)

    return changed
