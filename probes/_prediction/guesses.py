"""Part (b): how often is the best guess right, and does more text before it help?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from interp import Control, Estimate, Figure, Finding, Lab, Row
from interp.stats import estimate_mean

from . import NATS, OTHER, RIGHT
from .read import ONE, By, Read, over_documents

BETTER = 0.1  # share of tokens
EARLY, LATE = 8, 32  # tokens before it: up to, from


def best_guess(lab: Lab, texts: By) -> Finding:
    """How often the most probable token is the true one, against always guessing the commonest."""
    some = texts[OTHER]
    rows: list[Row] = []
    for kind, part in texts.items():
        ranks = np.concatenate([one.rank for one in part])
        rows += [
            {"text": kind, "among the best": top, "true token (share of tokens)": float((ranks <= top).mean())}
            for top in (1, 2, 5, 10, 100, 1000)
        ]
    return Finding(
        claim="Its best guess is right 10 points more often than always guessing the commonest token.",
        estimate=over_documents(some, lambda one: float(one.right.mean()), RIGHT, lab.seed, bounds=(0.0, 1.0)),
        control=Control("the commonest token of the other documents", commonest(some, lab.seed)),
        expects="greater",
        margin=BETTER,
        part="(b) How often is it right?",
        answers=True,
        measure="Share of tokens that are the model's most probable one. The median rank of the true token is "
        f"{np.median(np.concatenate([one.rank for one in some])):.0f} of {lab.model.hf.config.vocab_size:,}.",
        caveat="Text is not written by picking the most probable token: nothing that is worth reading is that dull.",
        table=rows,
        figure=Figure(
            "log_lines",
            x="among the best",
            y="true token (share of tokens)",
            group="text",
            caption="How often the true token is among the model's best guesses. Both axes are logarithmic.",
        ),
    )


def commonest(some: Sequence[Read], seed: int) -> Estimate:
    """Accuracy of the token that is commonest in the other documents."""
    values = []
    for i, one in enumerate(some):
        counts = Counter(np.concatenate([other.ids for j, other in enumerate(some) if j != i]).tolist())
        values.append(float((one.ids == counts.most_common(1)[0][0]).mean()))
    return estimate_mean(values, unit=RIGHT, over="document", bounds=(0.0, 1.0), seed=seed)


def more_context(lab: Lab, texts: By) -> Finding:
    """The surprise of the true token, by how much text stands before it."""
    rows: list[Row] = []
    edges = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    for kind, some in texts.items():
        for low, high in pairwise(edges):
            loss = [one.loss[ONE, low - 1 : high - 1].mean() for one in some if one.loss.shape[1] >= low]
            entropy = [one.entropy[ONE, low - 1 : high - 1].mean() for one in some if one.loss.shape[1] >= low]
            if len(loss) < 4:
                continue
            at = estimate_mean(loss, unit=NATS, over="document", seed=lab.seed)
            rows.append({"tokens before it": low, "surprise (nats per token)": at.mean, "low": at.low, "high": at.high})
            rows[-1] |= {"text": kind, "entropy (nats)": float(np.mean(entropy))}
    some = [one for one in texts[OTHER] if one.loss.shape[1] > LATE]
    late, early = (
        over_documents(some, lambda one, part=part: float(one.loss[ONE, part].mean()), NATS, lab.seed)
        for part in (slice(LATE, None), slice(0, EARLY))
    )
    return Finding(
        claim="The more text stands before it, the less a token surprises.",
        estimate=late,
        control=Control(f"tokens with at most {EARLY} before them", early),
        expects="less",
        part="(b) How often is it right?",
        measure=f"Minus the log-probability of the true token, with {LATE} tokens or more before it, in text that the "
        "model did not write.",
        caveat="Beginnings differ from what follows: a title surprises more than a sentence.",
        table=rows,
        figure=Figure(
            "lines",
            x="tokens before it",
            y="surprise (nats per token)",
            group="text",
            low="low",
            high="high",
            caption="Surprise by how many tokens stand before it; bands over documents.",
        ),
    )
