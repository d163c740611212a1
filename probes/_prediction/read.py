"""What a model says of every token of a text, at several temperatures, without keeping a vocabulary a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp import Estimate, Lab, Model, UserError
from interp.stats import estimate_mean

TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 2.0)
ONE = TEMPERATURES.index(1.0)
LEAST = 12  # tokens of a document, at least
AT_ONCE = 32  # positions whose vocabularies are in memory together


@dataclass(frozen=True)
class Read:
    """One document. All [token], the first token left out: there is nothing before it.

    `sure`: probability of the best token; `right`: was it the true one? `rank` of the true one, 1 is best. `loss`
    [temperature, token] in nats; `entropy` [temperature, token]; `sure_at` [temperature, token]; `drawn_right`: was the
    best one drawn, where the truth is drawn from the model itself?
    """

    ids: NDArray[np.int64]
    sure: NDArray[np.float64]
    right: NDArray[np.bool_]
    rank: NDArray[np.int64]
    loss: NDArray[np.float64]
    entropy: NDArray[np.float64]
    sure_at: NDArray[np.float64]
    drawn_right: NDArray[np.bool_]


def read_documents(lab: Lab, model: Model, documents: Sequence[str], tokens: int, n: int, what: str) -> list[Read]:
    """The first `tokens` of `n` documents. Raises UserError where too few are long enough."""
    rows = [row for row in model.encode(list(documents), cut=tokens) if len(row) >= LEAST][:n]
    if len(rows) < 4:
        raise UserError(f"{what}: {len(rows)} documents of {LEAST} tokens or more; expected 4 or more")
    reads = []
    for i, row in enumerate(rows):
        reads.append(_read(model, row, lab.seed * 1000 + i))
        lab.progress(what, i + 1, len(rows))
    return reads


@torch.no_grad()
def _read(model: Model, row: list[int], seed: int) -> Read:
    logits = model.logits([row])[0, :-1].float()
    true = torch.tensor(row[1:], device=model.device)
    generator = torch.Generator(logits.device).manual_seed(seed)
    parts = [_at(few, ids, generator) for few, ids in zip(logits.split(AT_ONCE), true.split(AT_ONCE), strict=True)]
    best, right, rank, drawn = (torch.cat([part[i] for part in parts]).cpu().numpy() for i in range(4))
    loss, entropy, sure = (torch.cat([part[i] for part in parts], 1).double().cpu().numpy() for i in range(4, 7))
    return Read(np.array(row[1:]), best.astype(np.float64), right, rank, loss, entropy, sure, drawn)


def _at(logits: Tensor, true: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Of some positions: what `Read` holds."""
    one = logits.log_softmax(-1)
    best, at = one.max(-1)
    own = logits.gather(1, true[:, None])
    rank = (logits > own).sum(1) + 1
    drawn = torch.multinomial(one.exp(), 1, generator=generator)[:, 0] == at
    top = logits.max(-1, keepdim=True).values
    below, own = logits - top, (own - top)[:, 0]  # the best token's is 0, and its exponential 1
    losses, entropies, sure = [], [], []
    for temperature in TEMPERATURES:
        scaled = (below / temperature).clamp_(min=-1e4)  # 0 · -inf is no number
        weights = scaled.exp()
        total = weights.sum(-1)
        losses.append(total.log() - own / temperature)
        entropies.append(total.log() - torch.linalg.vecdot(weights, scaled) / total)
        sure.append(1 / total)
    return best.exp(), at == true, rank, drawn, torch.stack(losses), torch.stack(entropies), torch.stack(sure)


By = dict[str, list[Read]]  # by the kind of text


def over_documents(
    reads: Sequence[Read],
    value: Callable[[Read], float],
    unit: str,
    seed: int,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """The mean of a value of each document, with its interval."""
    return estimate_mean([value(read) for read in reads], unit=unit, over="document", bounds=bounds, seed=seed)
