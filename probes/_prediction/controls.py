"""A model that is surely too sure, a truth that is surely honest, and random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from interp import Claim, Finding, Lab, measured, same_as, with_random_weights, zero
from interp.stats import estimate_mean

from . import CONTROLS, RIGHT, WITHIN
from .guesses import commonest
from .honest import misses
from .read import TEMPERATURES, Read, read_documents

DOUBLED = Claim(
    "Positive control: with all logits doubled, its probabilities are found to miss.",
    expects="greater",
    margin=WITHIN,
    unit=RIGHT,
    part=CONTROLS,
    measure="As in part (a), less what the logits as they are miss by, document by document: doubling the logits is a "
    "temperature of one half.",
)
DRAWN = Claim(
    "Negative control: where the truth is drawn from the model itself, its probabilities are honest.",
    expects="equal",
    margin=WITHIN,
    unit=RIGHT,
    part=CONTROLS,
    measure="As in part (a), with a token drawn by the model's probabilities in place of the true one.",
)
KNOWS_NOTHING = Claim(
    "Negative control: random weights guess no better than the commonest token.",
    expects="less",
    unit=RIGHT,
    part=CONTROLS,
    measure="Share of tokens that the same architecture, with random weights, finds most probable, less the share that "
    "are the commonest token of the other documents.",
)
CLAIMS = [DOUBLED, DRAWN, KNOWS_NOTHING]


def controls(lab: Lab, reads: Sequence[Read], documents: Sequence[str], tokens: int) -> Iterator[Finding]:
    """Doubled logits must be found too sure; drawn truths honest; random weights must guess nothing."""
    right = [read.right for read in reads]
    plain = misses([read.sure for read in reads], right)
    doubled = misses([read.sure_at[TEMPERATURES.index(0.5)] for read in reads], right)
    both = measured(
        {"as they are": plain, "doubled": doubled},
        by=("logits",),
        value=RIGHT,
        over="document",
        bounds=(-1.0, 1.0),
        seed=lab.seed,
    )
    yield DOUBLED.answer(
        estimate_mean(doubled - plain, unit=RIGHT, over="document", bounds=(-1.0, 1.0), seed=lab.seed),
        same_as(RIGHT, "of the logits as they are"),
        table=both.rows(),
    )
    drawn = misses([read.sure for read in reads], [read.drawn_right for read in reads])
    yield DRAWN.answer(
        estimate_mean(drawn, unit=RIGHT, over="document", bounds=(-1.0, 1.0), seed=lab.seed), zero(RIGHT, "honest")
    )
    random_weights = with_random_weights(lab.model, lab.seed)
    blind = read_documents(lab, random_weights, documents, tokens, 8, "reading with random weights")
    gained = np.array([read.right.mean() for read in blind]) - commonest(blind)
    yield KNOWS_NOTHING.answer(
        estimate_mean(gained, unit=RIGHT, over="document", bounds=(-1.0, 1.0), seed=lab.seed),
        same_as(RIGHT, "the commonest token"),
    )
