"""Does the model copy what it has seen before, and which heads do it?

Paper: Olsson et al. 2022, arXiv:2209.11895 (induction heads); Elhage et al. 2021, "A Mathematical Framework".

Question. After "… A B … A" a model can guess B without knowing anything about A: it looks for the last A and repeats
what came next. An attention head that does this is called an induction head. To see it alone, the text is random
tokens, shown twice: in the second copy nothing but the repetition can help.

What counts as yes:

- the second copy's tokens are more likely than the first's by 1 nat more than when the second copy is shuffled;
- the heads that look at "the token behind the last A" in some sequences do so in others, more than where the second
  copy is shuffled, by 0.2 of their attention;
- with these heads silenced the second copy loses 0.5 nats a token more than with as many others.

What could fool us:

- Frequency. A token that was seen once may be likelier everywhere. The shuffled second copy has the same tokens.
- Position. A head may copy what stands a fixed number of tokens back, whatever it is. Copies have four lengths, so that
  one distance fits a quarter of the sequences.
- Choice. The best of hundreds of heads looks good by chance: heads are chosen on some sequences and judged on others.
- Damage. Silencing any head hurts a little: as many others, drawn at random from the same layers while there are any,
  are silenced too. "Silenced" means held at what it reads on average, which keeps a head's constant part.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import Control, Estimate, Figure, Finding, Lab, Row, UserError, probe
from interp.analysis import HEAD_KINDS as KINDS
from interp.analysis import attention_paid, continuation, mean_outputs, others_like, repeated_tokens, score_heads
from interp.edits import ablate_heads
from interp.stats import estimate_crossed, estimate_mean, known

NATS = "nats per token"
LENGTHS = 4  # of copies: the longest, and two, four and six tokens less
Heads = list[tuple[int, int]]
Ids = list[int]


@probe(paper="arXiv:2209.11895")
def induction(
    lab: Lab, *, length: int = 25, sequences: int = 16, share: float = 0.05, random_sets: int = 12
) -> Iterator[Finding]:
    """Repeat random tokens, find the heads that look back, silence them.

    Args:
        length: tokens of the longest copy, 10 or more
        sequences: sequences in all, a multiple of 8; half of them choose the heads, the other half judge them
        share: which part of all heads is chosen, those of the highest score; up to 0.4
        random_sets: sets of other heads to silence for comparison, 2 or more
    """
    for name, value, right, told in (
        ("length", length, length >= 10, "10 or more"),
        ("sequences", sequences, sequences >= 8 and sequences % 8 == 0, "a multiple of 8"),
        ("share", share, 0 < share <= 0.4, "more than 0, up to 0.4"),
        ("random-sets", random_sets, random_sets >= 2, "2 or more"),
    ):
        if not right:
            raise UserError(f"--{name} {value}; expected {told}")
    model = lab.model
    if lab.quick:
        sequences, random_sets = 8, min(random_sets, 4)
    choosing, judging = (_repeated(lab, length, sequences // 8, half) for half in (0, 1))
    shuffled = [_shuffle_second(ids, lab.seed + i) for i, ids in enumerate(judging)]
    lab.progress("reading repeated tokens", 0, 1)
    yield _copies(_log_probs(lab, judging), _log_probs(lab, shuffled), lab.seed)

    lab.progress("scoring heads", 0, 1)
    scores = _scores(lab, choosing)
    n_layers, n_heads = scores["induction"].shape
    best = scores["induction"].flatten().argsort(descending=True)[: max(2, round(share * n_layers * n_heads))]
    heads: Heads = [divmod(int(i), n_heads) for i in best]
    yield _look_back(lab, heads, judging, shuffled, scores)

    silence = mean_outputs(model, choosing)
    metric = continuation(judging, [len(ids) // 2 + 2 for ids in judging], per="token")
    clean = model.measure(judging, metric)

    def lost(some: Heads) -> Float[Tensor, " sequence"]:
        with model.edit(ablate_heads(some, silence)):
            return (clean - model.measure(judging, metric)).cpu()

    chosen = lost(heads)
    others = []
    for some in _other_sets(heads, (n_layers, n_heads), random_sets, lab.seed):
        others.append(lost(some))
        lab.progress("silencing other heads", len(others), random_sets)
    yield from _silenced(heads, chosen, torch.stack(others), lab.seed)


def _repeated(lab: Lab, length: int, each: int, half: int) -> list[Ids]:
    """Sequences of four lengths, `each` of every one."""
    return [
        ids
        for i in range(LENGTHS)
        for ids in repeated_tokens(
            lab.model, length=length - 2 * i, sequences=each, seed=lab.seed * 100 + half * LENGTHS + i
        )
    ]


def _shuffle_second(ids: Ids, seed: int) -> Ids:
    """The same tokens, the second copy in another order."""
    half = len(ids) // 2
    second = ids[half + 1 :]
    random.Random(seed).shuffle(second)
    return [*ids[: half + 1], *second]


def _log_probs(lab: Lab, sequences: Sequence[Ids]) -> list[Float[Tensor, "copy pos"]]:
    """Log-probability of every token but the opening one in nats, by copy, for each sequence."""
    out = []
    for ids in sequences:  # one by one: a vocabulary is wide
        logs = lab.model.logits([ids])[0, :-1].float().log_softmax(-1)
        own = logs.gather(1, torch.tensor(ids[1:], device=logs.device)[:, None])[:, 0]
        out.append(own.cpu().view(2, -1))
    return out


def _copies(repeated: list[Float[Tensor, "copy pos"]], shuffled: list[Float[Tensor, "copy pos"]], seed: int) -> Finding:
    """Is the second copy less of a surprise than the first? The token that opens a copy is left out in both."""
    gains = [
        estimate_mean(
            [float((logs[1, 1:] - logs[0, 1:]).mean()) for logs in some], unit=NATS, over="sequence", seed=seed
        )
        for some in (repeated, shuffled)
    ]
    rows: list[Row] = []
    for copy, some, which in (("first", repeated, 0), ("second", repeated, 1), ("second, shuffled", shuffled, 1)):
        for i in range(max(logs.shape[1] for logs in some)):
            values = [float(logs[which, i]) for logs in some if i < logs.shape[1]]
            at = estimate_mean(values, unit="nats", over="sequence", bounds=(-np.inf, 0.0), seed=seed)
            place: Row = {"copy": copy, "position in the copy": i + 1}
            rows.append(place | {"log-probability (nats)": at.mean, "low": at.low, "high": at.high})
    return Finding(
        claim="Random tokens are predicted the second time they come, in the order in which they came.",
        estimate=gains[0],
        control=Control("the second copy in another order", gains[1]),
        expects="greater",
        margin=1.0,
        answers=True,
        measure="Mean log-probability of the second copy's tokens less that of the first copy's, but for each copy's "
        "first token.",
        caveat="Random tokens are no text: a model may copy in text by other means as well.",
        table=rows,
        figure=Figure(
            "lines",
            x="position in the copy",
            y="log-probability (nats)",
            group="copy",
            low="low",
            high="high",
            caption="Log-probability of each token. Bands are over sequences; fewer of them are long.",
        ),
    )


def _scores(lab: Lab, sequences: Sequence[Ids]) -> dict[str, Float[Tensor, "layer head"]]:
    """Mean scores over sequences of all lengths."""
    found = [score_heads(lab.model, some).scores for some in _by_length(sequences)]
    return {kind: torch.cat([scores[kind] for scores in found]).mean(0) for kind in KINDS}


def _by_length(sequences: Sequence[Ids]) -> list[list[Ids]]:
    """Neighbours of one length together, in order."""
    out: list[list[Ids]] = []
    for ids in sequences:
        if out and len(out[-1][0]) == len(ids):
            out[-1].append(ids)
        else:
            out.append([ids])
    return out


def _paid(lab: Lab, heads: Heads, sequences: Sequence[Ids]) -> Float[Tensor, " sequence"]:
    """Mean attention of these heads to the place behind the one that is a copy back."""
    layers, columns = (torch.tensor(part) for part in zip(*heads, strict=True))
    out = []
    for some in _by_length(sequences):
        length = len(some[0]) // 2
        queries = torch.arange(length + 1, 2 * length + 1)
        paid = attention_paid(lab.model, some, queries, {"induction": queries - length + 1})["induction"]
        out.append(paid[:, layers, columns].mean(1))
    return torch.cat(out)


def _look_back(
    lab: Lab,
    heads: Heads,
    judging: list[Ids],
    shuffled: list[Ids],
    scores: dict[str, Float[Tensor, "layer head"]],
) -> Finding:
    """Do the chosen heads look behind the last time of the same token, in sequences that did not choose them?"""
    ours, theirs = (
        estimate_mean(
            _paid(lab, heads, some).numpy(),
            unit="share of attention",
            over="sequence",
            bounds=(0.0, 1.0),
            seed=lab.seed,
        )
        for some in (judging, shuffled)
    )
    rows: list[Row] = [
        {"kind of head": kind, "layer": layer, "head": head, "score (share of attention)": float(mean[layer, head])}
        for kind, mean in scores.items()
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


def _other_sets(heads: Heads, shape: tuple[int, int], n: int, seed: int) -> list[Heads]:
    """At most `n` sets of other heads, all different: one set twice would pass for two."""
    found: dict[frozenset[tuple[int, int]], Heads] = {}
    for i in range(20 * n):
        if len(found) == n:
            break
        some = others_like(heads, shape, seed=seed * 1000 + i)
        found.setdefault(frozenset(some), some)
    return list(found.values())


def _silenced(
    heads: Heads, chosen: Float[Tensor, " sequence"], others: Float[Tensor, "set sequence"], seed: int
) -> Iterator[Finding]:
    """What silencing the chosen heads costs, beside as many others."""
    ours = estimate_mean(chosen.numpy(), unit=NATS, over="sequence", seed=seed)
    if len(others) > 1:  # for other sets and other sequences
        theirs = estimate_crossed([others.numpy()], unit=NATS, over="sequence")
    else:
        theirs = Estimate(float(others.mean()), float(others.mean()), float(others.mean()), 1, NATS, "set")
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
            {"silenced": f"{len(heads)} others, set {i + 1}", "heads": "others", column: float(v)}
            for i, v in enumerate(np.sort(others.mean(1).numpy())[::-1])
        ),
    ]
    control = f"as many other heads, {len(others)} different sets"
    yield Finding(
        claim="The heads that look back do more for the second copy than others.",
        estimate=ours,
        control=Control(control, theirs),
        expects="greater",
        margin=0.5,
        answers=True,
        measure="Log-probability of the second copy's tokens that is lost when the heads are held at their mean.",
        caveat="Other heads of the mechanism, such as those that tell each token which one came before it, are among "
        "the others. Later heads may step in for silenced ones, so that a loss is the least that they do.",
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
        claim="Silencing as many other heads costs little.",
        estimate=theirs,
        control=Control("nothing lost", known(0.0, unit=NATS, why="nothing lost")),
        expects="equal",
        margin=0.5,
        measure="Log-probability of the second copy's tokens that is lost when as many other heads, drawn at random, "
        "are held at their mean.",
    )
