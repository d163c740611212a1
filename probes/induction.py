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

As a control, models in which an induction head was planted by hand are asked the same, and this model's own shape with
random weights.

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
from numpy.typing import NDArray
from torch import Tensor

from interp import (
    Claim,
    Figure,
    Finding,
    Lab,
    Model,
    NotAsked,
    Row,
    UserError,
    measured,
    plant_induction,
    probe,
    with_random_weights,
    zero,
)
from interp.analysis import HEAD_KINDS as KINDS
from interp.analysis import attention_paid, continuation, mean_outputs, repeated_tokens, score_heads, sets_like
from interp.edits import ablate_heads
from interp.stats import estimate_crossed, estimate_mean

NATS, PAID = "nats per token", "share of attention"
LENGTHS = 4  # of copies: the longest, and two, four and six tokens less
PLANTED, PLANTED_LENGTH = 6, 10  # models made by hand, and the longest copy that fits them
GAIN, LOOKS = 1.0, 0.2  # nats, share of attention
AT_ONCE = 4  # sequences: a vocabulary is wide
CONTROLS = "Controls of the method"
Heads = list[tuple[int, int]]
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
LOOK_BACK = Claim(
    "Some heads look at what came after the last time of the same token.",
    expects="greater",
    unit=PAID,
    margin=LOOKS,
    answers=True,
    measure="Mean attention paid there by the heads that score highest in other sequences, less that of the same heads "
    "to the same places where the second copy is in another order.",
    caveat="Attention shows where a head looks, and not what it does with it: the next finding asks that.",
)
SILENCED = Claim(
    "The heads that look back do more for the second copy than others.",
    expects="greater",
    unit=NATS,
    margin=0.5,
    answers=True,
    measure="Log-probability of the second copy's tokens that is lost when the heads are held at their mean, less that "
    "when as many others are.",
    caveat="Other heads of the mechanism, such as those that tell each token which one came before it, are among the "
    "others. Later heads may step in for silenced ones, so that a loss is the least that they do.",
)
OTHERS = Claim(
    "Silencing as many other heads costs little.",
    expects="equal",
    unit=NATS,
    margin=0.5,
    measure="Log-probability of the second copy's tokens that is lost when as many other heads, drawn at random, are "
    "held at their mean.",
)
PLANTED_COPIES = Claim(
    "Positive control: where an induction head was planted, the second copy is predicted.",
    expects="greater",
    unit=NATS,
    margin=GAIN,
    part=CONTROLS,
    measure="As of this model, over models made by hand.",
    subject="trained here",
)
PLANTED_LOOKS = Claim(
    "Positive control: where an induction head was planted, it is among the chosen ones and looks back.",
    expects="greater",
    unit=PAID,
    margin=LOOKS,
    part=CONTROLS,
    measure="As of this model, over models made by hand.",
    subject="trained here",
)
RANDOM_COPIES = Claim(
    "Negative control: random weights predict the second copy no better.",
    expects="equal",
    unit=NATS,
    margin=GAIN,
    part=CONTROLS,
    measure="As of this model.",
)
RANDOM_LOOKS = Claim(
    "Negative control: the heads of random weights do not look back.",
    expects="equal",
    unit=PAID,
    margin=LOOKS,
    part=CONTROLS,
    measure="As of this model.",
)


@probe(
    paper="arXiv:2209.11895",
    claims=[COPIES, LOOK_BACK, SILENCED, OTHERS, PLANTED_COPIES, PLANTED_LOOKS, RANDOM_COPIES, RANDOM_LOOKS],
)
def induction(
    lab: Lab, *, length: int = 25, sequences: int = 16, share: float = 0.05, random_sets: int = 12
) -> Iterator[Finding | NotAsked]:
    """Repeat random tokens, find the heads that look back, silence them.

    Args:
        length: tokens of the longest copy, 10 or more
        sequences: sequences in all, a multiple of 8 from 16 on; half of them choose the heads, the others judge them
        share: which part of all heads is chosen, those of the highest score; up to 0.4
        random_sets: sets of other heads to silence for comparison, 2 or more
    """
    for name, value, right, told in (
        ("length", length, length >= 10, "10 or more"),
        ("sequences", sequences, sequences >= 16 and sequences % 8 == 0, "a multiple of 8, 16 or more"),
        ("share", share, 0 < share <= 0.4, "more than 0, up to 0.4"),
        ("random-sets", random_sets, random_sets >= 2, "2 or more"),
    ):
        if not right:
            raise UserError(f"--{name} {value}; expected {told}")
    model = lab.model
    if lab.quick:
        sequences, random_sets = 16, min(random_sets, 4)  # four sequences that judge would be too few to say
    choosing, judging, shuffled = make_sequences(model, length, sequences // 8, lab.seed)
    lab.progress("reading repeated tokens", 0, 1)
    judged = _log_probs(model, judging)
    yield _copies(judged, _log_probs(model, shuffled), lab.seed)

    lab.progress("scoring heads", 0, 1)
    scores = _scores(model, choosing)
    heads = choose_heads(scores, share)
    yield _look_back(lab, heads, judging, shuffled, scores)
    clean = torch.stack([logs[1, 1:].mean() for logs in judged])
    yield from _silenced(lab, heads, scores, choosing, judging, clean, random_sets)
    yield from _controls(lab, length, share)


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


def _log_probs(model: Model, sequences: Sequence[Ids]) -> list[Float[Tensor, "copy pos"]]:
    """Log-probability of every token but the opening one in nats, by copy, for each sequence."""
    losses = model.loss(sequences, batch_size=AT_ONCE).cpu()
    return [-loss[1 : len(ids)].view(2, -1) for loss, ids in zip(losses, sequences, strict=True)]


def _gains(logs: list[Float[Tensor, "copy pos"]]) -> Floats:
    """How much less of a surprise the second copy is, for each sequence. A copy's opening token is left out."""
    return np.array([float((one[1, 1:] - one[0, 1:]).mean()) for one in logs])


def _copies(repeated: list[Float[Tensor, "copy pos"]], shuffled: list[Float[Tensor, "copy pos"]], seed: int) -> Finding:
    """Is the second copy less of a surprise than the first, and more so than in another order?"""
    gains, gains_shuffled = _gains(repeated), _gains(shuffled)
    by_position = measured(
        {
            (copy, i + 1): [float(logs[which, i]) for logs in some if i < logs.shape[1]]
            for copy, some, which in (
                ("first", repeated, 0),
                ("second", repeated, 1),
                ("second, shuffled", shuffled, 1),
            )
            for i in range(max(logs.shape[1] for logs in some))
        },
        by=("copy", "position in the copy"),
        value="log-probability (nats)",
        over="sequence",
        bounds=(-np.inf, 0.0),
        seed=seed,
    )
    return COPIES.answer(
        estimate_mean(gains - gains_shuffled, unit=NATS, over="sequence", seed=seed),
        zero(NATS, "the second copy in another order"),
        measure=f"In order the second copy gains {gains.mean():.2g}, in another order {gains_shuffled.mean():.2g}.",
        table=by_position.rows(),
        figure=by_position.lines(
            x="position in the copy",
            caption="Log-probability of each token. Bands are over sequences; fewer of them are long.",
        ),
    )


def _scores(model: Model, sequences: Sequence[Ids]) -> dict[str, Float[Tensor, "layer head"]]:
    """Mean scores over sequences of all lengths."""
    found = [score_heads(model, some).scores for some in _by_length(sequences)]
    return {kind: torch.cat([scores[kind] for scores in found]).mean(0) for kind in KINDS}


def choose_heads(scores: dict[str, Float[Tensor, "layer head"]], share: float) -> Heads:
    """The heads of the highest induction score."""
    score = scores["induction"]
    best = score.flatten().argsort(descending=True)[: max(2, round(share * score.numel()))]
    return [divmod(int(i), score.shape[1]) for i in best]


def _by_length(sequences: Sequence[Ids]) -> list[list[Ids]]:
    """Neighbours of one length together, in order."""
    out: list[list[Ids]] = []
    for ids in sequences:
        if out and len(out[-1][0]) == len(ids):
            out[-1].append(ids)
        else:
            out.append([ids])
    return out


def _paid(model: Model, heads: Heads, sequences: Sequence[Ids]) -> Floats:
    """Mean attention of these heads to the place behind the one that is a copy back, for each sequence."""
    layers, columns = (torch.tensor(part) for part in zip(*heads, strict=True))
    out = []
    for some in _by_length(sequences):
        length = len(some[0]) // 2
        queries = torch.arange(length + 1, 2 * length + 1)
        paid = attention_paid(model, some, queries, {"induction": queries - length + 1})["induction"]
        out.append(paid[:, layers, columns].mean(1))
    return torch.cat(out).double().numpy()


def _look_back(
    lab: Lab,
    heads: Heads,
    judging: list[Ids],
    shuffled: list[Ids],
    scores: dict[str, Float[Tensor, "layer head"]],
) -> Finding:
    """Do the chosen heads look behind the last time of the same token, in sequences that did not choose them?"""
    paid, paid_shuffled = (_paid(lab.model, heads, some) for some in (judging, shuffled))
    rows: list[Row] = [
        {"kind of head": kind, "layer": layer, "head": head, "score (share of attention)": float(mean[layer, head])}
        for kind, mean in scores.items()
        for layer in range(mean.shape[0])
        for head in range(mean.shape[1])
    ]
    named = ", ".join(f"{layer}.{head}" for layer, head in heads)
    return LOOK_BACK.answer(
        estimate_mean(paid - paid_shuffled, unit=PAID, over="sequence", bounds=(-1.0, 1.0), seed=lab.seed),
        zero(PAID, "the second copy in another order"),
        measure=f"In order they pay {paid.mean():.2g}, in another order {paid_shuffled.mean():.2g}. The {len(heads)} "
        f"heads are (layer.head): {named}.",
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
    lab: Lab,
    heads: Heads,
    scores: dict[str, Float[Tensor, "layer head"]],
    choosing: list[Ids],
    judging: list[Ids],
    clean: Float[Tensor, " sequence"],
    random_sets: int,
) -> Iterator[Finding | NotAsked]:
    """What silencing the chosen heads costs, beside as many others; `clean`: each second copy's log-probability."""
    n_layers, n_heads = scores["induction"].shape
    sets = sets_like(heads, (n_layers, n_heads), random_sets, seed=lab.seed * 1000)
    if len(sets) < 2:
        for claim in (SILENCED, OTHERS):
            yield claim.not_asked(f"because {len(sets)} other sets of {len(heads)} heads can be drawn; 2 are needed")
        return
    silence = mean_outputs(lab.model, choosing)
    metric = continuation(judging, [len(ids) // 2 + 2 for ids in judging], per="token")
    lost: list[Floats] = []
    for some in (heads, *sets):
        with lab.model.edit(ablate_heads(some, silence)):
            lost.append((clean - lab.model.measure(judging, metric, batch_size=AT_ONCE).cpu()).double().numpy())
        lab.progress("silencing heads", len(lost), len(sets) + 1)
    chosen, others = lost[0], np.stack(lost[1:])  # [set, sequence]
    shown = measured(
        {
            (f"{len(heads)} induction heads", "those that look back"): chosen,
            **{
                (f"{len(heads)} others, set {i + 1}", "others"): values
                for i, values in enumerate(sorted(others, key=lambda one: -one.mean()))
            },
        },
        by=("silenced", "heads"),
        value="lost when silenced (nats per token)",
        over="sequence",
        seed=lab.seed,
    )
    yield SILENCED.answer(
        estimate_crossed([chosen[None] - others], unit=NATS, over="sequence"),
        zero(NATS, f"as many other heads, {len(sets)} different sets"),
        measure=f"The chosen ones lose {chosen.mean():.2g}, others {others.mean():.2g}.",
        table=shown.rows(),
        figure=shown.bars(y="silenced", caption="What the second copy loses. Intervals over sequences."),
    )
    yield OTHERS.answer(estimate_crossed([others], unit=NATS, over="sequence"), zero(NATS, "nothing lost"))


def _controls(lab: Lab, length: int, share: float) -> Iterator[Finding]:
    """Planted heads are found, over models; random weights do nothing of it, over sequences."""
    planted = [_asked(plant_induction(lab.seed * PLANTED + i).model, PLANTED_LENGTH, 1, 0.1, i) for i in range(PLANTED)]
    random_weights = _asked(with_random_weights(lab.model, lab.seed), length, 2, share, lab.seed)
    for copies, looks, over, (gained, paid) in (
        (PLANTED_COPIES, PLANTED_LOOKS, "model", np.array([[one.mean() for one in pair] for pair in planted]).T),
        (RANDOM_COPIES, RANDOM_LOOKS, "sequence", random_weights),
    ):
        yield copies.answer(estimate_mean(gained, unit=NATS, over=over, seed=lab.seed), zero(NATS))
        yield looks.answer(estimate_mean(paid, unit=PAID, over=over, bounds=(-1.0, 1.0), seed=lab.seed), zero(PAID))


def _asked(model: Model, length: int, each: int, share: float, seed: int) -> tuple[Floats, Floats]:
    """What the second copy gains, and what chosen heads pay, beyond the shuffled copy, for each sequence."""
    choosing, judging, shuffled = make_sequences(model, length, each, seed)
    gained = _gains(_log_probs(model, judging)) - _gains(_log_probs(model, shuffled))
    heads = choose_heads(_scores(model, choosing), share)
    return gained, _paid(model, heads, judging) - _paid(model, heads, shuffled)
