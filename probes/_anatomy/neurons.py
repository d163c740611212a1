"""Which neurons of an MLP a token activates, how few they are, and whether the same token activates the same ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Lab, Model
from interp.analysis import part_by_name

TOP = 0.01  # of the neurons


@dataclass(frozen=True)
class Activated:
    """At some layers of some documents, what the strongest neurons hold, and which they are.

    `held` [document, layer]: the share of a token's squared activation that its strongest hundredth of neurons holds;
    `tokens` [row] and `strongest` [layer][row, n]: which neurons these are.
    """

    layers: tuple[int, ...]
    held: NDArray[np.float64]
    tokens: NDArray[np.int64]
    document: NDArray[np.int64]
    strongest: tuple[NDArray[np.int64], ...]


def read_neurons(lab: Lab, model: Model, rows: Sequence[list[int]], layers: tuple[int, ...], what: str) -> Activated:
    """What goes into each MLP's output matrix (of a gated MLP the product), the first token left out."""
    held, strongest, tokens, document = [], [[] for _ in layers], [], []
    for i, row in enumerate(rows):
        acts = model.capture([row], [f"blocks.{layer}.mlp.hook_post" for layer in layers])
        shares = []
        for k, layer in enumerate(layers):
            x = acts[f"blocks.{layer}.mlp.hook_post"][0, 1:].float().cpu()
            n = max(1, round(TOP * x.shape[1]))
            best = x.abs().topk(n, dim=1)
            shares.append(float((best.values.square().sum(1) / x.square().sum(1).clamp_min(1e-12)).mean()))
            strongest[k].append(best.indices.numpy())
        held.append(shares)
        tokens += row[1:]
        document += [i] * (len(row) - 1)
        lab.progress(what, i + 1, len(rows))
    return Activated(
        layers, np.array(held), np.array(tokens), np.array(document), tuple(np.concatenate(s) for s in strongest)
    )


def overlaps(found: Activated, layer: int, most: int, seed: int) -> tuple[list[float], list[float]]:
    """Shared strongest neurons, as a share of them, of the same token in two documents, and of another token beside it.

    A number a kind of token; the other token is drawn from the second one's document.
    """
    rng = np.random.default_rng(seed)
    strongest = found.strongest[found.layers.index(layer)]
    same, other = [], []
    kinds, counts = np.unique(found.tokens, return_counts=True)
    for token in kinds[np.argsort(-counts, kind="stable")]:
        places = np.flatnonzero(found.tokens == token)
        first = places[0]
        later = places[found.document[places] != found.document[first]]
        if not len(later):
            continue
        second = int(rng.choice(later))
        rest = np.flatnonzero((found.document == found.document[second]) & (found.tokens != token))
        third = int(rng.choice(rest))
        same.append(len(np.intersect1d(strongest[first], strongest[second])) / strongest.shape[1])
        other.append(len(np.intersect1d(strongest[first], strongest[third])) / strongest.shape[1])
        if len(same) == most:
            break
    return same, other


def mlp_parameters(model: Model, layer: int) -> list[str]:
    """Names of the weights and biases of one layer's MLP; the first number in a name is the layer's."""
    parts = part_by_name(model.hf)
    of_layer = [name for name in parts if (number := re.search(r"\.(\d+)\.", name)) and int(number[1]) == layer]
    return [name for name in of_layer if parts[name].startswith("MLP")]


def neuron_inputs(model: Model, rows: Sequence[list[int]], layer: int) -> Float[Tensor, "token neuron"]:
    """What each neuron of a layer adds up, its bias included, at every token but the first."""
    site = f"blocks.{layer}.mlp.hook_pre"
    acts = model.capture(list(rows), site, batch_size=64)
    return acts[site][:, 1:][acts.mask[:, 1:]].float().cpu()


def share_above(inputs: Float[Tensor, "token neuron"], shift: float) -> NDArray[np.float64]:
    """Share of tokens at which each neuron's input is positive, `shift` standard deviations added to it: [neuron]."""
    return ((inputs + shift * inputs.std(0)) > 0).double().mean(0).numpy()
