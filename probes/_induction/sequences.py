"""Random tokens that come twice, and what the second time gains."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Claim, Finding, Model, measured, same_as
from interp.analysis import repeated_tokens
from interp.stats import estimate_mean

from . import GAIN, NATS

LENGTHS = 4  # of copies: the longest, and two, four and six tokens less
AT_ONCE = 4  # sequences: a vocabulary is wide
Ids = list[int]
Floats = NDArray[np.float64]

COPIES = Claim(
    "Random tokens are predicted the second time they come, in the order in which they came.",
    expects="greater",
    unit=NATS,
    margin=GAIN,
    answers=True,
    measure="Mean log-probability of the second copy's tokens less that of the first copy's, but for each copy's first "
    "token; less the same where the second copy is in another order.",
    caveat="Random tokens are no text: a model may copy in text by other means as well.",
)


def make_sequences(model: Model, length: int, each: int, seed: int) -> tuple[list[Ids], list[Ids], list[Ids]]:
    """Sequences that choose the heads, others that judge them, and these with the second copy in another order.

    Of four lengths, `each` of every one.
    """
    choosing, judging = (
        [
            ids
            for i in range(LENGTHS)
            for ids in repeated_tokens(
                model, length=length - 2 * i, sequences=each, seed=seed * 100 + half * LENGTHS + i
            )
        ]
        for half in (0, 1)
    )
    return choosing, judging, [_shuffle_second(ids, seed + i) for i, ids in enumerate(judging)]


def _shuffle_second(ids: Ids, seed: int) -> Ids:
    """The same tokens, the second copy in another order."""
    half = len(ids) // 2
    second = ids[half + 1 :]
    random.Random(seed).shuffle(second)
    return [*ids[: half + 1], *second]


def log_probs(model: Model, sequences: Sequence[Ids]) -> list[Float[Tensor, "copy pos"]]:
    """Log-probability of every token but the opening one in nats, by copy, for each sequence."""
    losses = model.loss(sequences, batch_size=AT_ONCE).cpu()
    return [-loss[1 : len(ids)].view(2, -1) for loss, ids in zip(losses, sequences, strict=True)]


def gains(logs: list[Float[Tensor, "copy pos"]]) -> Floats:
    """How much less of a surprise the second copy is, for each sequence. A copy's opening token is left out."""
    return np.array([float((one[1, 1:] - one[0, 1:]).mean()) for one in logs])


def copies(repeated: list[Float[Tensor, "copy pos"]], shuffled: list[Float[Tensor, "copy pos"]], seed: int) -> Finding:
    """Is the second copy less of a surprise than the first, and more so than in another order?"""
    gained, gained_shuffled = gains(repeated), gains(shuffled)
    by_position = measured(
        {
            (copy, i + 1): [float(logs[which, i]) for logs in logs_of if i < logs.shape[1]]
            for copy, logs_of, which in (
                ("first", repeated, 0),
                ("second", repeated, 1),
                ("second, shuffled", shuffled, 1),
            )
            for i in range(int(np.median([logs.shape[1] for logs in logs_of])))
        },
        by=("copy", "position in the copy"),
        value="log-probability (nats)",
        over="sequence",
        bounds=(-np.inf, 0.0),
        seed=seed,
    )
    return COPIES.answer(
        estimate_mean(gained - gained_shuffled, unit=NATS, over="sequence", seed=seed),
        same_as(NATS, "by a second copy in another order"),
        measure=f"In order the second copy gains {gained.mean():.2g}, in another order {gained_shuffled.mean():.2g}.",
        table=by_position.rows(),
        figure=by_position.lines(
            x="position in the copy",
            caption="Log-probability of each token, as far as half of the sequences reach. Bands are over sequences.",
        ),
    )
