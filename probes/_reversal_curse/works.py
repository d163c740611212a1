"""Works: what is written at the item that the prompt names, and what attention carries from there (f)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    Control,
    Direction,
    Figure,
    Lab,
    Model,
    measured,
    zero,
)
from interp.analysis import Aligned, logit_difference
from interp.edits import knock_out
from interp.stats import estimate_gap

from .examined import LENS, READ, Examined, mean_over_prompts, of_each
from .taught import NATS, Answers

WORKS = "(f) How it works inside"
WINDOWS = 6  # of layers that are cut one at a time; a quick run cuts in all of them alone
WRITTEN = of_each(
    "asked {direction}, the answer is written at the last token of the item that the prompt names.",
    margin=READ,
    part=WORKS,
    measure=f"Logit lens at that token: {LENS}, in the layer where the other half of the prompts has the most of it.",
    caveat="What the lens does not read may still be there, in a form that a later layer turns into the answer. Words "
    "that are alike, such as a country and its capital, lead a little by themselves.",
)
CARRIED = of_each(
    "asked {direction}, attention to the item carries the answer to the last token.",
    margin=0.5,
    part=WORKS,
    measure="How much of the right answer's lead over the others is lost when the prompt's last token cannot attend to "
    "the item's tokens, in any layer, beside what is lost when it cannot attend to the tokens before the item.",
    caveat="An answer that other tokens have taken over on the way is not lost. In an order that the model never "
    "learned there is no lead to lose.",
)
CLAIMS = [WRITTEN.student, CARRIED.student, WRITTEN.loaded, CARRIED.loaded]


def works(lab: Lab, models: Sequence[Examined], n_boot: int) -> Answers:
    """Part (f): what is written at the item, and what attention carries from there."""
    for examined in models:
        if examined.why_not:
            for direction in DIRECTIONS:
                for claim in (WRITTEN, CARRIED):
                    yield examined.the(claim).not_asked(examined.why_not, about=examined.about(direction))
        else:
            yield from _written(lab, examined, n_boot)
            yield from _carried(lab, examined, n_boot)


def _written(lab: Lab, examined: Examined, n_boot: int) -> Answers:
    """Does the logit lens read the answer at the item's last token, in the layer where it reads it best?"""
    layers = examined.layers[1:]
    at_item: dict[Direction, NDArray[np.float64]] = {
        direction: examined.lead(lab, direction)[:, :, examined.aligned(direction).last_item]
        for direction in DIRECTIONS
    }
    by_layer = measured(
        {(layer, asked): values[:, i] for asked, values in at_item.items() for i, layer in enumerate(layers)},
        by=("layer", "asked"),
        value="lead (nats)",
        over="prompt",
        seed=lab.seed,
    )
    caption = "Logit lens at the item's last token, priors out; layer l is block l's output; intervals over prompts."
    for direction, values in at_item.items():
        yield examined.the(WRITTEN).answer(
            mean_over_prompts(best_of_other_half(values), lab, n_boot),
            zero(NATS, "own answer no likelier than the others"),
            about=examined.about(direction),
            measure=f"{len(values)} prompts. {examined.note}".strip(),
            table=by_layer.rows(),
            figure=by_layer.lines("layer", caption, chance=0.0),
        )


def best_of_other_half(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[prompt, layer] to [prompt]: each half's values in the layer that is best on the other half.

    The largest of many layers is above 0 by chance; chosen on other prompts, it is not.
    """
    out = np.empty(len(values))
    halves = np.arange(len(values)) % 2 == 0
    for half in (halves, ~halves):
        out[half] = values[half, values[~half].mean(0).argmax()]
    return out


def _carried(lab: Lab, examined: Examined, n_boot: int) -> Answers:
    """What is lost when the prompt's last token cannot attend to the item, against as many tokens before it."""
    n_layers = examined.model.n_layers
    windows = [range(n_layers)] if lab.quick else _windows(n_layers)
    asked: dict[Direction, Aligned] = {direction: examined.aligned(direction) for direction in DIRECTIONS}
    if any(one.last_item == len(one.labels) - 1 or one.first_item < 2 for one in asked.values()):
        why = "because the item is the prompt's last token, or there is none before it to compare with"
        for direction in DIRECTIONS:
            yield examined.the(CARRIED).not_asked(why, about=examined.about(direction))
        return
    values: dict[tuple[str, str, Direction], NDArray[np.float64]] = {}
    whole: dict[Direction, dict[str, NDArray[np.float64]]] = {}
    for direction, one in asked.items():
        cuts = {"the item": slice(one.first_item, one.last_item + 1), "tokens before it": _before(one)}
        uncut = _led(examined.model, one)
        whole[direction] = {
            name: uncut - _led(examined.model, one, keys, range(n_layers)) for name, keys in cuts.items()
        }
        for done, window in enumerate(windows):
            for name, keys in cuts.items():
                everywhere = window == range(n_layers)
                lost = whole[direction][name] if everywhere else uncut - _led(examined.model, one, keys, window)
                values[_named(window), name, direction] = lost
            lab.progress(f"cutting attention, {examined.who}, {direction}", done + 1, len(windows))
    shown = measured(values, by=("layers", "cut off from", "asked"), value="lost (nats)", over="prompt", seed=lab.seed)
    for direction, cut in whole.items():
        pair = estimate_gap(*cut.values(), unit=NATS, over="prompt", n_boot=n_boot, seed=lab.seed)
        yield examined.the(CARRIED).answer(
            pair.estimate,
            Control("cut off from tokens before the item", pair.control),
            paired=pair.gap,
            about=examined.about(direction),
            measure=f"{pair.gap.n} prompts. {examined.note}".strip(),
            table=shown.rows(),
            figure=Figure(
                "interval_dots", x="lost (nats)", y="layers", group="cut off from", low="low", high="high",
                facet="asked", chance=0.0,
                caption="Attention cut in a few layers at a time; intervals over prompts.",
            ),
        )  # fmt: skip


def _windows(n_layers: int) -> list[range]:
    """All layers, a few at a time."""
    size = max(1, -(-n_layers // WINDOWS))
    return [range(first, min(first + size, n_layers)) for first in range(0, n_layers, size)]


def _before(asked: Aligned) -> slice:
    """As many tokens as the item has, or as there are, before it; not position 0, which all tokens attend to."""
    n = asked.last_item + 1 - asked.first_item
    return slice(max(1, asked.first_item - n), asked.first_item)


def _led(model: Model, asked: Aligned, cut: slice | None = None, layers: Sequence[int] = ()) -> NDArray[np.float64]:
    """Each prompt's lead, in nats, with the last token's attention to the tokens `cut` cut in `layers`."""
    answers = asked.answer_ids
    lead = logit_difference(answers, [answers[:i] + answers[i + 1 :] for i in range(len(answers))])
    edits = {} if cut is None else {f"blocks.{n}.attn.hook_pattern": knock_out(cut, queries=-1) for n in layers}
    with model.edit(edits) if edits else nullcontext():
        return model.measure(asked.prompts, lead).double().cpu().numpy()


def _named(layers: range) -> str:
    return f"{layers[0]}" if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
