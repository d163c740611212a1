"""Part (a): how much context the prediction needs, and whether it is this context in this order."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from jaxtyping import Float

from interp import Claim, Estimate, Finding, Lab, Model, NotAsked, measured, zero
from interp.analysis import last_log_probs, windowed_losses
from interp.stats import estimate_mean

from . import MATTERS, NATS, Rows

WINDOWS = (2, 4, 8, 16, 32, 64)
NEAR, FAR = 2, 16  # tokens in sight
QUICK_WINDOWS = (NEAR, 8, FAR)
ALONE = (NEAR, FAR, 64)  # windows that are tried without the first token as well
CLEAR, SOME, SINK = 1.0, 0.05, 0.5  # nats
PLACES = 4  # tokens of a text that are read behind another document's context
WITH_FIRST, WITHOUT = "and the first token", "nothing else"
SURPRISE = "surprise (nats per token)"
Losses = Float[torch.Tensor, "sequence pos"]

HARDER = (  # a copier is surer, and more wrong, the fewer tokens it sees: more of any text helps it
    f"What lies further back is cut off or, for {PLACES} tokens of each text, another document's: the smaller gap "
    "decides."
)
WHOLE = Claim(
    "With the whole context a token surprises less than with one token before it, by 1 nat.",
    expects="less",
    margin=CLEAR,
    unit=NATS,
    part=MATTERS,
    answers=True,
    measure="Surprise (minus the log-probability) of the second half of a text with the whole context, less that with "
    f"every layer seeing two tokens and the first one, document by document. {HARDER}",
)
FAR_BACK = Claim(
    f"What lies more than {FAR} tokens back matters as well, by {SOME:g} nats.",
    expects="less",
    margin=SOME,
    unit=NATS,
    part=MATTERS,
    answers=True,
    measure=f"The same, less that with {FAR} tokens and the first one in sight. {HARDER}",
)
ATTENTION_SINK = Claim(
    f"Without the first token in sight the same window surprises more, by {SINK:g} nats: an attention sink.",
    expects="greater",
    margin=SINK,
    unit=NATS,
    part=MATTERS,
    measure=f"Surprise with {FAR} tokens in sight, less that with the same and the first token.",
    caveat="The first token says nothing of the text's end; it is a place to keep attention that is not needed.",
)
THIS_CONTEXT = Claim(
    "It is this context that helps, and not any context.",
    expects="less",
    unit=NATS,
    part=MATTERS,
    answers=True,
    measure="Surprise of the second half of a text behind its own first half, less that behind another document's, "
    "document by document.",
)
ORDER = Claim(
    "The order of the context matters.",
    expects="less",
    unit=NATS,
    part=MATTERS,
    measure="The same, less that behind the same tokens shuffled, the first one left in its place.",
    caveat="Shuffled text is like nothing that the model has read.",
)
CLAIMS = [WHOLE, FAR_BACK, ATTENTION_SINK, THIS_CONTEXT, ORDER]


def over_documents(values: torch.Tensor, lab: Lab, unit: str = NATS) -> Estimate:
    """The mean with its interval over documents."""
    return estimate_mean(values.double().numpy(), unit=unit, over="document", seed=lab.seed)


def mean_surprise(model: Model, rows: Rows, window: int | None, start: int, *, first: bool = True) -> torch.Tensor:
    """Each row's mean loss from `start` on, with a window."""
    return windowed_losses(model, rows, window, first=first, start=start).mean(1)


def gap_beside(
    lab: Lab, rows: Rows, losses: torch.Tensor, window: int, cut: torch.Tensor, half: int
) -> tuple[Estimate, str]:
    """The whole context beside what has only `window` tokens of it: the lesser of two gaps, and both in words.

    Behind those tokens there is nothing (`cut`), or another document, so that as many tokens are in sight. The first
    alone would believe a model that more of any text makes less sure; the second one that another text misleads.
    `losses` [document, token from `half` on] have the whole context.
    """
    places = sorted({half + round(i * (losses.shape[1] - 1) / (PLACES - 1)) for i in range(PLACES)})
    pairs = zip(rows, [rows[-1], *rows], strict=False)  # a text and the one before it
    others = [[*row[:1], *other[1 : at - window], *row[at - window : at + 1]] for row, other in pairs for at in places]
    lab.progress(f"{window} tokens behind another document", 0, 1)
    behind = -last_log_probs(lab.model, others).view(len(rows), len(places))
    gap = losses[:, [at - half for at in places]] - behind
    nothing, other = (over_documents(gap, lab) for gap in (losses.mean(1) - cut, gap.mean(1)))
    told = f"Less nothing: {nothing.mean:.2f}; less another document: {other.mean:.2f}."
    return max(nothing, other, key=lambda gap: gap.high), told


def windows(lab: Lab, rows: Rows, half: int, all_seen: Losses, source: str) -> Iterator[Finding | NotAsked]:
    """Loss over the second half of each text, by how much of it every layer sees. `source` names the text.

    `all_seen`: the losses from `half` on where every layer sees everything.
    """
    losses: dict[tuple[str, int], torch.Tensor] = {}
    tried = [window for window in (QUICK_WINDOWS if lab.quick else WINDOWS) if window < half]
    for i, window in enumerate(tried):
        losses[WITH_FIRST, window] = mean_surprise(lab.model, rows, window, half)
        if window in ALONE:
            losses[WITHOUT, window] = mean_surprise(lab.model, rows, window, half, first=False)
        lab.progress("cutting the context", i + 1, len(tried))
    whole = all_seen.mean(1)
    by_window = measured(
        losses | {(name, len(rows[0])): whole for name in (WITH_FIRST, WITHOUT)},
        by=("beside the window", "tokens in sight"),
        value=SURPRISE,
        unit=NATS,
        over="document",
        seed=lab.seed,
    )
    gap, told = gap_beside(lab, rows, all_seen, NEAR, losses[WITH_FIRST, NEAR], half)
    yield WHOLE.answer(
        gap,
        zero(NATS),
        measure=f"{told} Text: {source}. The second half is tokens {half} to {len(rows[0])}.",
        table=by_window.rows(),
        figure=by_window.lines(
            x="tokens in sight",
            caption="Surprise of the second half of each text by how many tokens every layer sees, the current one "
            "included. Bands over documents.",
        ),
    )
    if half <= FAR:
        for claim in (FAR_BACK, ATTENTION_SINK):
            yield claim.not_asked(f"because a text of {len(rows[0])} tokens has no half of more than {FAR}")
        return
    layers = lab.model.n_layers
    gap, told = gap_beside(lab, rows, all_seen, FAR, losses[WITH_FIRST, FAR], half)
    yield FAR_BACK.answer(
        gap,
        zero(NATS),
        measure=told,
        caveat=f"Windows add up over layers: through a middleman, {layers} layers of {FAR} tokens reach "
        f"{layers * (FAR - 1)} tokens back.",
    )
    yield ATTENTION_SINK.answer(over_documents(losses[WITHOUT, FAR] - losses[WITH_FIRST, FAR], lab), zero(NATS))


def contexts(lab: Lab, rows: Rows, half: int, all_seen: Losses, source: str) -> Iterator[Finding]:
    """The same second halves behind their own first half, the same shuffled, and another document's."""
    rng = random.Random(lab.seed)
    shuffled = []
    for row in rows:
        middle = row[1:half]
        rng.shuffle(middle)
        shuffled.append([row[0], *middle, *row[half:]])
    others = [[*rows[(i + 1) % len(rows)][:half], *row[half:]] for i, row in enumerate(rows)]
    mixed, other = (mean_surprise(lab.model, texts, None, half + 1) for texts in (shuffled, others))
    own = all_seen[:, 1:].mean(1)
    by_context = measured(
        {"its own": own, "its own, shuffled": mixed, "another document's": other},
        by=("context",),
        value=SURPRISE,
        unit=NATS,
        over="document",
        seed=lab.seed,
    )
    yield THIS_CONTEXT.answer(
        over_documents(own - other, lab),
        zero(NATS),
        measure=f"Text: {source}. Behind its own it is {float(own.mean()):.3g}.",
        table=by_context.rows(),
        figure=by_context.dots(
            y="context", caption="Surprise of the second halves by what stands before them; over documents."
        ),
    )
    yield ORDER.answer(over_documents(own - mixed, lab), zero(NATS))
