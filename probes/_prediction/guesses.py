"""Part (b): how often is the best guess right, and does more text before it help?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Figure, Finding, Lab, NotAsked, Row, measured, same_as
from interp.stats import estimate_mean

from . import NATS, OTHER, RIGHT
from .read import ONE, By, Read

PART = "(b) How often is it right?"
BETTER = 0.1  # share of tokens
EARLY, LATE = 8, 32  # tokens before it: up to, from
EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FEWEST = 4  # documents

BEST_GUESS = Claim(
    "Its best guess is right 10 points more often than always guessing the commonest token.",
    expects="greater",
    margin=BETTER,
    unit=RIGHT,
    part=PART,
    answers=True,
    measure="Share of tokens that are the model's most probable one, less the share that are the commonest token of "
    "the other documents.",
    caveat="Text is not written by picking the most probable token: nothing that is worth reading is that dull.",
)
MORE_CONTEXT = Claim(
    "The more text stands before it, the less a token surprises.",
    expects="less",
    unit=NATS,
    part=PART,
    measure=f"Minus the log-probability of the true token, with {LATE} tokens or more before it less with at most "
    f"{EARLY}, document by document, in text that the model did not write.",
    caveat="Beginnings differ from what follows: a title surprises more than a sentence.",
)
CLAIMS = [BEST_GUESS, MORE_CONTEXT]


def best_guess(lab: Lab, texts: By, source: str) -> Finding:
    """How often the most probable token is the true one, against always guessing the commonest.

    `source` names the text.
    """
    reads = texts[OTHER]
    right, common = np.array([read.right.mean() for read in reads]), commonest(reads)
    table: list[Row] = []
    for kind, of_kind in texts.items():
        ranks = np.concatenate([read.rank for read in of_kind])
        table += [
            {"text": kind, "among the best": top, "true token (share of tokens)": float((ranks <= top).mean())}
            for top in (1, 2, 5, 10, 100, 1000)
            if (ranks <= top).any()  # no logarithm of zero
        ]
    return BEST_GUESS.answer(
        estimate_mean(right - common, unit=RIGHT, over="document", bounds=(-1.0, 1.0), seed=lab.seed),
        same_as(RIGHT, "the commonest token of the other documents"),
        measure=f"Text: {source}. It is right for {right.mean():.0%} of the tokens, the commonest token for "
        f"{common.mean():.0%}. The median rank of the true token is "
        f"{np.median(np.concatenate([read.rank for read in reads])):.0f} of {lab.model.hf.config.vocab_size:,}.",
        table=table,
        figure=Figure(
            "log_lines",
            x="among the best",
            y="true token (share of tokens)",
            group="text",
            caption="How often the true token is among the model's best guesses. Both axes are logarithmic.",
        ),
    )


def commonest(reads: Sequence[Read]) -> NDArray[np.float64]:
    """Each document's accuracy of the token that is commonest in the other documents."""
    values = []
    for i, read in enumerate(reads):
        counts = Counter(np.concatenate([other.ids for j, other in enumerate(reads) if j != i]).tolist())
        values.append(float((read.ids == counts.most_common(1)[0][0]).mean()))
    return np.array(values)


def more_context(lab: Lab, texts: By) -> Finding | NotAsked:
    """The surprise of the true token, by how much text stands before it."""
    long = [read for read in texts[OTHER] if read.loss.shape[1] > LATE]
    if len(long) < FEWEST:
        return MORE_CONTEXT.not_asked(
            f"because only {len(long)} documents have more than {LATE} tokens; {FEWEST} are needed"
        )
    losses, entropies = {}, {}
    for kind, reads in texts.items():
        for low, high in pairwise(EDGES):
            of_part = [read for read in reads if read.loss.shape[1] >= low]
            if len(of_part) >= FEWEST:
                losses[kind, low] = [read.loss[ONE, low - 1 : high - 1].mean() for read in of_part]
                entropies[kind, low] = [read.entropy[ONE, low - 1 : high - 1].mean() for read in of_part]
    by_length = measured(
        losses,
        by=("text", "tokens before it"),
        value="surprise (nats per token)",
        unit=NATS,
        over="document",
        seed=lab.seed,
    )
    table = [
        {**row, "entropy (nats)": float(np.mean(entropy))}
        for row, entropy in zip(by_length.rows(), entropies.values(), strict=True)
    ]
    late, early = (
        np.array([read.loss[ONE, part].mean() for read in long]) for part in (slice(LATE, None), slice(0, EARLY))
    )
    return MORE_CONTEXT.answer(
        estimate_mean(late - early, unit=NATS, over="document", seed=lab.seed),
        same_as(NATS, f"tokens with at most {EARLY} before them"),
        measure=f"It is {late.mean():.3g} late and {early.mean():.3g} early.",
        table=table,
        figure=by_length.lines(
            x="tokens before it", caption="Surprise by how many tokens stand before it; bands over documents."
        ),
    )
