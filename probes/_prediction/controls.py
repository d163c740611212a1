"""A model that is surely too sure, a truth that is surely honest, and random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from interp import Control, Finding, Lab, with_random_weights
from interp.stats import known

from . import CONTROLS, RIGHT, WITHIN
from .guesses import commonest
from .honest import too_sure
from .read import TEMPERATURES, Read, over_documents, read_documents


def controls(lab: Lab, some: Sequence[Read], documents: Sequence[str], tokens: int) -> Iterator[Finding]:
    """Doubled logits must be found too sure; drawn truths honest; random weights must guess nothing."""
    honest = over_documents(some, too_sure, RIGHT, lab.seed, bounds=(-1.0, 1.0))
    yield Finding(
        claim="Positive control: with all logits doubled, the model is found to be too sure.",
        estimate=over_documents(
            some, lambda one: too_sure(one, TEMPERATURES.index(0.5)), RIGHT, lab.seed, bounds=(-1.0, 1.0)
        ),
        control=Control("the logits as they are", honest),
        expects="greater",
        margin=WITHIN,
        part=CONTROLS,
        measure="As in part (a): doubling the logits is a temperature of one half.",
    )
    yield Finding(
        claim="Negative control: where the truth is drawn from the model itself, its probabilities are honest.",
        estimate=over_documents(
            some, lambda one: float((one.sure - one.drawn_right).mean()), RIGHT, lab.seed, bounds=(-1.0, 1.0)
        ),
        control=Control("honest", known(0.0, unit=RIGHT, why="as often as it says")),
        expects="equal",
        margin=WITHIN,
        part=CONTROLS,
        measure="As in part (a), with a token drawn by the model's probabilities in place of the true one.",
    )
    random_weights = read_documents(
        lab, with_random_weights(lab.model, lab.seed), documents, tokens, 8, "reading with random weights"
    )
    yield Finding(
        claim="Negative control: random weights guess no better than the commonest token.",
        estimate=over_documents(random_weights, lambda one: float(one.right.mean()), RIGHT, lab.seed),
        control=Control("the commonest token", commonest(random_weights, lab.seed)),
        expects="less",
        part=CONTROLS,
        measure="Share of tokens that the same architecture, with random weights, finds most probable.",
    )
