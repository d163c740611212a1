"""Does the model copy what it has seen before, and which heads do it?

Paper: Olsson et al. 2022, arXiv:2209.11895 (induction heads); Elhage et al. 2021, "A Mathematical Framework".

Question. After "… A B … A" a model can guess B without knowing anything about A: it looks for the last A and repeats
what came next. An attention head that does this is called an induction head. To see it alone, the text is random
tokens, shown twice: in the second copy nothing but the repetition can help.

What counts as yes:

- the second copy's tokens are more likely than the first's by 1 nat more than when the second copy is shuffled;
- the heads that look at "the token behind the last A" in some sequences do so in others, more than where the second
  copy is shuffled, by 0.2 of their attention;
- with these heads silenced the second copy loses 0.5 nats a token more than with as many others of the same layers.

What could fool us:

- Frequency. A token that was seen once may be likelier everywhere. The shuffled second copy has the same tokens.
- Position. A head may look a fixed number of tokens back, whatever stands there. The shuffled copy tells.
- Choice. The best of hundreds of heads looks good by chance: heads are chosen on some sequences and judged on others.
- Damage. Silencing any head hurts a little: as many others, drawn at random from the same layers, are silenced too.
  "Silenced" means held at what it reads on average, which keeps a head's constant part.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.analysis.estimate import Estimate
from interp.analysis.heads import (
    ablate_heads,
    attention_paid,
    mean_outputs,
    others_like,
    repeated_tokens,
    score_heads,
)
from interp.analysis.metrics import continuation
from interp.analysis.statistics import estimate_mean, known
from interp.errors import UserError
from interp.lab.findings import Control, Figure, Finding, Row
from interp.lab.probe import Lab, probe

NATS = "nats per token"
Heads = list[tuple[int, int]]


@probe(paper="arXiv:2209.11895")
def induction(
    lab: Lab, *, length: int = 25, sequences: int = 16, share: float = 0.05, random_sets: int = 12
) -> Iterator[Finding]:
    """Repeat random tokens, find the heads that look back, silence them.

    Args:
        length: tokens of one copy
        sequences: sequences in all; half of them choose the heads, the other half judge them
        share: which part of all heads is chosen, those of the highest score
        random_sets: sets of other heads to silence for comparison
    """
    if length < 5 or sequences < 4 or not 0 < share <= 0.4 or random_sets < 2:
        raise UserError(
            f"length={length}, sequences={sequences}, share={share}, random-sets={random_sets}; expected 5 tokens, 4 "
            "sequences and 2 sets or more, and a share of the heads up to 0.4"
        )
    model, sets = lab.model, min(random_sets, 5) if lab.quick else random_sets
    repeated = repeated_tokens(model, length=length, sequences=sequences, seed=lab.seed)
    choosing, judging = repeated[: sequences // 2], repeated[sequences // 2 :]
    shuffled = [_shuffle_second(ids, lab.seed + i) for i, ids in enumerate(judging)]
    lab.progress("reading repeated tokens", 0, 1)
    curves = {"repeated": _log_probs(lab, judging), "shuffled": _log_probs(lab, shuffled)}
    yield _copies(curves, length, lab.seed)

    lab.progress("scoring heads", 0, 1)
    found = score_heads(model, choosing)
    n_layers, n_heads = found.scores["induction"].shape[1:]
    heads: Heads = [head[:2] for head in found.top("induction", max(2, round(share * n_layers * n_heads)))]
    yield _look_back(lab, heads, judging, shuffled, found.scores)

    silence = mean_outputs(model, choosing)
    metric = continuation(judging, [length + 2] * len(judging), per="token")
    clean = model.measure(judging, metric)

    def lost(some: Heads) -> Float[Tensor, " sequence"]:
        with model.edit(ablate_heads(some, silence)):
            return (clean - model.measure(judging, metric)).cpu()

    chosen = lost(heads)
    others = []
    for i in range(sets):
        others.append(lost(others_like(heads, (n_layers, n_heads), seed=lab.seed * 1000 + i)))
        lab.progress("silencing other heads", i + 1, sets)
    yield from _silenced(heads, chosen, torch.stack(others), lab.seed)


def _shuffle_second(ids: list[int], seed: int) -> list[int]:
    """The same tokens, the second copy in another order."""
    half = (len(ids) - 1) // 2
    second = ids[half + 1 :]
    random.Random(seed).shuffle(second)
    return [*ids[: half + 1], *second]


def _log_probs(lab: Lab, sequences: Sequence[list[int]]) -> Float[Tensor, "sequence pos"]:
    """Log-probability of every token but the first, in nats."""
    out = []
    for ids in sequences:  # one by one: a vocabulary is wide
        logs = lab.model.logits([ids])[0, :-1].float().log_softmax(-1)
        out.append(logs.gather(1, torch.tensor(ids[1:], device=logs.device)[:, None])[:, 0].cpu())
    return torch.stack(out)


def _copies(curves: dict[str, Float[Tensor, "sequence pos"]], length: int, seed: int) -> Finding:
    """Is the second copy less of a surprise than the first? The token that opens a copy is left out in both."""
    rows: list[Row] = []
    gains: dict[str, Estimate] = {}
    for text, logs in curves.items():
        gain = logs[:, length + 1 :].mean(1) - logs[:, 1:length].mean(1)
        gains[text] = estimate_mean(gain.numpy(), unit=NATS, over="sequence", seed=seed)
        for i in range(logs.shape[1]):
            at = estimate_mean(logs[:, i].numpy(), unit="nats", over="sequence", seed=seed)
            rows.append(
                {
                    "second copy": text,
                    "position": i + 1,
                    "log-probability (nats)": at.mean,
                    "low": at.low,
                    "high": at.high,
                }
            )
    return Finding(
        claim="Random tokens are predicted the second time they come, in the order in which they came.",
        estimate=gains["repeated"],
        control=Control("the second copy in another order", gains["shuffled"]),
        expects="greater",
        margin=1.0,
        answers=True,
        measure="Mean log-probability of the second copy's tokens less that of the first copy's.",
        caveat="Random tokens are no text: a model may copy in text by other means as well.",
        table=rows,
        figure=Figure(
            "lines",
            x="position",
            y="log-probability (nats)",
            group="second copy",
            low="low",
            high="high",
            caption=f"Log-probability of each token; the second copy begins at position {length + 1}. Bands are over "
            "sequences.",
        ),
    )


def _look_back(
    lab: Lab,
    heads: Heads,
    judging: list[list[int]],
    shuffled: list[list[int]],
    scores: dict[str, Float[Tensor, "sequence layer head"]],
) -> Finding:
    """Do the chosen heads look behind the last time of the same token, in sequences that did not choose them?"""
    length = (len(judging[0]) - 1) // 2
    queries = torch.arange(length + 1, 2 * length + 1)
    keys = {"induction": queries - length + 1}
    layers, columns = (torch.tensor(part) for part in zip(*heads, strict=True))
    paid = {
        name: attention_paid(lab.model, some, queries, keys)["induction"][:, layers, columns].mean(1).numpy()
        for name, some in (("repeated", judging), ("shuffled", shuffled))
    }
    unit = "share of attention"
    ours, theirs = (
        estimate_mean(values, unit=unit, over="sequence", bounds=(0.0, 1.0), seed=lab.seed) for values in paid.values()
    )
    rows: list[Row] = [
        {"kind of head": kind, "layer": layer, "head": head, "score (share of attention)": float(mean[layer, head])}
        for kind, mean in ((kind, values.mean(0)) for kind, values in scores.items())
        for layer in range(mean.shape[0])
        for head in range(mean.shape[1])
    ]
    named = ", ".join(f"{layer}.{head}" for layer, head in heads)
    return Finding(
        claim="Some heads look at what came after the last time of the same token.",
        estimate=ours,
        control=Control("the same heads and places, the second copy in another order", theirs),
        expects="greater",
        margin=0.2,
        answers=True,
        measure=f"Mean attention paid there by the {len(heads)} heads that score highest in other sequences "
        f"(layer.head: {named}).",
        caveat="Attention shows where a head looks, and not what it does with it: the next finding asks that.",
        table=rows,
        figure=Figure(
            "head_grid",
            x="head",
            y="layer",
            z="score (share of attention)",
            facet="kind of head",
            caption="Mean attention, from each token of the second copy, to the token before it (previous), to the "
            "same token in the first copy (duplicate), and to the one behind that (induction).",
        ),
    )


def _silenced(
    heads: Heads, chosen: Float[Tensor, " sequence"], others: Float[Tensor, "set sequence"], seed: int
) -> Iterator[Finding]:
    """What silencing the chosen heads costs, beside as many others."""
    ours = estimate_mean(chosen.numpy(), unit=NATS, over="sequence", seed=seed)
    by_set = others.mean(1).numpy()
    theirs = estimate_mean(by_set, unit=NATS, over="set", seed=seed)
    column = "lost when silenced (nats per token)"
    rows: list[Row] = [
        {
            "silenced": f"{len(heads)} induction heads",
            "heads": "those that look back",
            column: ours.mean,
            "low": ours.low,
            "high": ours.high,
        },
        *(
            {"silenced": f"{len(heads)} others, set {i + 1}", "heads": "others of the same layers", column: float(v)}
            for i, v in enumerate(np.sort(by_set)[::-1])
        ),
    ]
    yield Finding(
        claim="The heads that look back are what predicts the second copy.",
        estimate=ours,
        control=Control("as many other heads of the same layers", theirs),
        expects="greater",
        margin=0.5,
        answers=True,
        measure="Log-probability of the second copy's tokens that is lost when the heads are held at their mean.",
        caveat="Later heads may step in for silenced ones, so that a loss is the least that they do.",
        table=rows,
        figure=Figure(
            "effect_bars",
            x=column,
            y="silenced",
            group="heads",
            low="low",
            high="high",
            caption="What the second copy loses. The interval is over sequences.",
        ),
    )
    yield Finding(
        claim="Silencing as many other heads leaves the ability alone.",
        estimate=theirs,
        control=Control("nothing lost", known(0.0, unit=NATS, why="no loss")),
        expects="equal",
        margin=0.5,
        measure="The same, for heads drawn at random from the same layers.",
    )


if __name__ == "__main__":
    from interp.cli import run_probe_file

    run_probe_file(__file__)
