"""Where: in which layer the answer becomes readable, and which token carries it (c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    Control,
    Direction,
    Estimate,
    Figure,
    Lab,
    Row,
    zero,
)
from interp.analysis import logit_difference, patch_sweep
from interp.stats import PairedEstimates, estimate_gap

from .examined import LENS, READ, Examined, mean_over_prompts, of_each
from .taught import NATS, Answers

WHERE = "(c) Where in the model"
T = TypeVar("T")
READABLE = of_each(
    "asked {direction}, the answer is readable at the last token of the last layer.",
    margin=READ,
    part=WHERE,
    measure=f"Logit lens: {LENS}.",
    caveat="Early layers may hold the answer in a form that the final unembedding cannot read. The two directions have "
    "different answers, so their numbers are not to be compared with each other.",
)
READ_FROM = of_each(
    "asked {direction}, the answer is read from {place}.",
    margin=0.5,
    part=WHERE,
    measure="How far that token, copied from a prompt with another item, moves the model towards that item's answer, "
    "beside how far the same token of a third, unrelated prompt does. The item is what the prompt names.",
    caveat="It shows that the answer depends on what stands there, which may be the item alone and not yet the answer. "
    "Each prompt is in two pairs, and the interval is widened for it.",
)
CLAIMS = [READABLE.student, READ_FROM.student, READABLE.loaded, READ_FROM.loaded]


def where(lab: Lab, models: Sequence[Examined], n_boot: int) -> Answers:
    """Part (c): lens and patching, on a trained GPT-2 and on the loaded model."""
    for examined in models:
        if examined.why_not:
            for direction in DIRECTIONS:
                yield examined.the(READABLE).not_asked(examined.why_not, about=examined.about(direction))
                about = examined.about(direction, place="the item")
                yield examined.the(READ_FROM).not_asked(examined.why_not, about=about)
        else:
            yield from _readable(lab, examined, n_boot)
            yield from _read_from(lab, examined, n_boot)


def _readable(lab: Lab, examined: Examined, n_boot: int) -> Answers:
    """Where the logit lens reads the answer."""
    layers = examined.layers[1:]
    rows: list[Row] = []
    last: dict[Direction, Estimate] = {}
    since: dict[Direction, str] = {}
    for direction in DIRECTIONS:
        lead = examined.lead(lab, direction)
        rows += _map_rows(lead.mean(0), layers, examined.aligned(direction).labels, direction, "lead (nats)")
        last[direction] = mean_over_prompts(lead[:, -1, -1], lab, n_boot)
        since[direction] = _from_layer(layers, lead.mean(0)[:, -1] > READ)
    for direction, estimate in last.items():
        yield examined.the(READABLE).answer(
            estimate,
            zero(NATS, "own answer no likelier than the others"),
            about=examined.about(direction),
            measure=f"{estimate.n} of {len(examined.facts)} prompts: those of one layout, with answers that start "
            f"differently. {examined.note}".strip(),
            table=rows if direction == "forward" else [],
            figure=_map(
                "lead (nats)",
                "Logit lens: the right answer's first token above the other answers', priors taken out. Layer l is "
                "block l's output. At "
                f"the last token the mean stays above {READ:g} nat: forward {since['forward']}, reversed "
                f"{since['reversed']}.",
            )
            if direction == "forward"
            else None,
        )


def _from_layer(layers: Sequence[int], above: NDArray[np.bool_]) -> str:
    """From which layer on, without a break to the last one."""
    first = next((i for i in range(len(layers)) if above[i:].all()), None)
    return "at no layer" if first is None else f"from layer {layers[first]} on"


def _read_from(lab: Lab, examined: Examined, n_boot: int) -> Answers:
    """What patching the item's tokens moves, against patching from an unrelated prompt."""
    model, layers = examined.model, examined.layers
    # Not the embedding: patched there, the prompt is the other prompt, and all moves whatever the model does.
    early = [layer for layer in layers if 0 < layer <= max(1, model.n_layers // 2)]
    deep = len(early) > 1  # in a model of two blocks the answer has left the item by the end of the first
    rows: list[Row] = []
    gaps: dict[Direction, PairedEstimates] = {}
    for direction in DIRECTIONS:
        asked = examined.aligned(direction)
        n = min(examined.pairs, len(asked.prompts))
        prompts, answers = asked.prompts[:n], asked.answer_ids[:n]
        # Clean prompt i is paired with corrupt prompt i + 1; prompt i + 2 has to do with neither answer. The clean
        # answer is weighed against those of all further prompts.
        lead = logit_difference(answers, [_rolled(answers, i)[3:] for i in range(n)])
        corrupt, unrelated = _rolled(prompts, 1), _rolled(prompts, 2)
        everywhere, at_early = ([model.residual(layer) for layer in some] for some in (layers, early))
        positions = range(asked.first_item, len(asked.labels))  # before the item, the two runs are the same
        tell = lab.tell(f"patching, {examined.who}, {direction}")
        moved = patch_sweep(
            model, prompts, corrupt, lead, everywhere, positions=positions, progress=tell
        ).effect.numpy()
        place = asked.last_item if deep else len(asked.labels) - 1
        stray = (
            patch_sweep(model, unrelated, corrupt, lead, at_early, positions=[place]).effect.numpy()[:, :, 0].mean(1)
        )
        rows += _map_rows(moved.mean(0), layers, asked.labels[asked.first_item :], direction, "moved (nats)")
        at_place = moved[:, [layers.index(layer) for layer in early], place - asked.first_item].mean(1)
        gaps[direction] = _over_pairs(at_place, stray, lab, n_boot)
    token = "the item's last token" if deep else "the prompt's last token"
    place = f"{token} in layer{f's {early[0]} to {early[-1]}' if deep else f' {early[0]}'}"
    for direction, pair in gaps.items():
        yield examined.the(READ_FROM).answer(
            pair.estimate,
            Control("copied from an unrelated prompt", pair.control),
            paired=pair.gap,
            about=examined.about(direction, place=place),
            measure=examined.note,
            table=rows if direction == "forward" else [],
            figure=_map(
                "moved (nats)",
                "How far copying one place from the prompt with the right item moves the answer. Layer l is the output "
                "of block l; layer 0 is the embedding, where an item of one token is all that there is to copy.",
            )
            if direction == "forward"
            else None,
        )


def _over_pairs(values: NDArray[np.float64], control: NDArray[np.float64], lab: Lab, n_boot: int) -> PairedEstimates:
    """Means over pairs in a ring: neighbours share a prompt, which at most doubles the variance of their mean."""
    pair = estimate_gap(values, control, unit=NATS, over="pair", n_boot=n_boot, seed=lab.seed)
    return PairedEstimates(
        *(replace(e, low=e.mean - (e.mean - e.low) * 2**0.5, high=e.mean + (e.high - e.mean) * 2**0.5) for e in pair)
    )


def _rolled(items: Sequence[T], k: int) -> list[T]:
    return [*items[k:], *items[:k]]


def _map_rows(
    values: NDArray[np.float64], layers: Sequence[int], labels: Sequence[str], direction: str, name: str
) -> list[Row]:
    return [
        {"direction": direction, "layer": layer, "token": label, name: float(values[i, p])}
        for i, layer in enumerate(layers)
        for p, label in enumerate(labels)
    ]


def _map(z: str, caption: str) -> Figure:
    return Figure("layer_position_map", x="token", y="layer", z=z, facet="direction", caption=caption)
