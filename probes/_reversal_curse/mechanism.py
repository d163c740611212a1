"""Part (f): how the taught order works inside, and what is missing in the other one.

In the account of Geva et al. (2304.14767), a fact is written at the last token of the item that the prompt names, and
attention carries it to the prompt's last token. A fact that was learned in one order only should have nothing written
there when it is asked in the other order, and nothing to carry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from interp import Control, Direction, Figure, Finding, Lab, Model, Row
from interp.analysis import Aligned, align, answer_lead, logit_difference
from interp.edits import knock_out
from interp.stats import estimate_gap, estimate_mean, known

from . import DIRECTIONS
from .where import LEAD, ExaminedModel, layers_of

PART = "(f) How it works inside"
CARRIED = 0.5  # nats
WINDOWS = 6  # of layers that are cut one at a time


def mechanism(lab: Lab, examined_models: Sequence[ExaminedModel], n_boot: int) -> Iterator[Finding]:
    """Part (f), of the models that part (c) looked into."""
    for examined in examined_models:
        asked: dict[Direction, Aligned] = {
            direction: align(examined.model, examined.facts, direction, examined.template) for direction in DIRECTIONS
        }
        yield from _written(lab, examined, asked, n_boot)
        yield from _carried(lab, examined, asked, n_boot)


def _written(lab: Lab, examined: ExaminedModel, asked: dict[Direction, Aligned], n_boot: int) -> Iterator[Finding]:
    """Does the logit lens read the answer at the item's last token, in the layer where it reads it best?"""
    layers = layers_of(examined)[1:]
    rows: list[Row] = []
    found: dict[Direction, NDArray[np.float64]] = {}
    for direction, aligned in asked.items():
        told = lab.tell(f"what is written at the item, {examined.who}")
        lead = answer_lead(
            examined.model, aligned.prompts, aligned.answer_ids, layers=layers, priors_out=True, progress=told
        )
        at_item = lead[:, :, aligned.last_item].double().numpy()
        found[direction] = best_of_other_half(at_item)
        for i, layer in enumerate(layers):
            e = estimate_mean(at_item[:, i], unit="nats", over="prompt", n_boot=n_boot, seed=lab.seed)
            rows.append({"layer": layer, "lead (nats)": e.mean, "low": e.low, "high": e.high, "asked": direction})
    for direction, values in found.items():
        yield Finding(
            claim=f"In {examined.who}, asked {direction}, the answer is written at the last token of the item that the "
            "prompt names.",
            estimate=estimate_mean(values, unit="nats", over="prompt", n_boot=n_boot, seed=lab.seed),
            control=Control("chance", known(0.0, unit="nats", why="own answer no likelier than the others")),
            expects="greater",
            margin=LEAD,
            part=PART,
            measure="Logit lens at that token: the log-probability of the right answer's first token above the other "
            "answers' mean, less its lead in the other prompts (so that no answer's own likelihood counts), in the "
            "layer where the other half of the prompts has the most of it. "
            f"{len(values)} prompts.{examined.note}",
            caveat="What the lens does not read may still be there, in a form that a later layer turns into the "
            "answer. Words that are alike, such as a country and its capital, lead a little by themselves.",
            table=rows,
            figure=Figure(
                "lines", x="layer", y="lead (nats)", group="asked", low="low", high="high", chance=0.0,
                caption="Logit lens at the item's last token; layer l is block l's output; intervals over prompts.",
            ),
        )  # fmt: skip


def best_of_other_half(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[prompt, layer] to [prompt]: each half's values in the layer that is best on the other half.

    The largest of many layers is above 0 by chance; chosen on other prompts, it is not.
    """
    out = np.empty(len(values))
    halves = np.arange(len(values)) % 2 == 0
    for half in (halves, ~halves):
        out[half] = values[half, values[~half].mean(0).argmax()]
    return out


def _carried(lab: Lab, examined: ExaminedModel, asked: dict[Direction, Aligned], n_boot: int) -> Iterator[Finding]:
    """What is lost when the prompt's last token cannot attend to the item, against as many tokens before it."""
    rows: list[Row] = []
    lost: dict[Direction, dict[str, NDArray[np.float64]]] = {}
    everywhere = range(examined.model.n_layers)
    size = max(1, -(-examined.model.n_layers // WINDOWS))
    windows = [range(first, min(first + size, examined.model.n_layers)) for first in everywhere[::size]]
    for direction, aligned in asked.items():
        if aligned.last_item == len(aligned.labels) - 1 or aligned.first_item < 2:
            return  # the last token is the item's own, or there is none before it to compare with
        cuts = {"the item": slice(aligned.first_item, aligned.last_item + 1), "tokens before it": _before(aligned)}
        lost[direction] = {name: _lost(examined.model, aligned, keys, everywhere) for name, keys in cuts.items()}
        for w, window in enumerate(windows):
            for name, keys in cuts.items():
                values = _lost(examined.model, aligned, keys, window)
                e = estimate_mean(values, unit="nats", over="prompt", n_boot=n_boot, seed=lab.seed)
                rows.append({"layers": _named(window), "lost (nats)": e.mean, "low": e.low, "high": e.high})
                rows[-1] |= {"cut off from": name, "asked": direction}
            lab.progress(f"cutting attention, {examined.who}, {direction}", w + 1, len(windows))
    for direction, values in lost.items():
        item, other = values.values()
        pair = estimate_gap(item, other, unit="nats", over="prompt", n_boot=n_boot, seed=lab.seed)
        yield Finding(
            claim=f"In {examined.who}, asked {direction}, attention to the item carries the answer to the last token.",
            estimate=pair.estimate,
            control=Control("cut off from tokens before the item", pair.control),
            paired=pair.gap,
            expects="greater",
            margin=CARRIED,
            part=PART,
            measure="How much of the right answer's lead over the others is lost when the prompt's last token cannot "
            f"attend to the item's tokens, in any layer. {len(item)} prompts.{examined.note}",
            caveat="An answer that other tokens have taken over on the way is not lost. In an order that the model "
            "never learned there is no lead to lose.",
            table=rows,
            figure=Figure(
                "interval_dots", x="lost (nats)", y="layers", group="cut off from", low="low", high="high",
                facet="asked", chance=0.0,
                caption="Attention cut in a few layers at a time; intervals over prompts.",
            ),
        )  # fmt: skip


def _before(aligned: Aligned) -> slice:
    """As many tokens as the item has, or as there are, before it; not position 0, which all tokens attend to."""
    n = aligned.last_item + 1 - aligned.first_item
    return slice(max(1, aligned.first_item - n), aligned.first_item)


def _lost(model: Model, aligned: Aligned, keys: slice, layers: Sequence[int]) -> NDArray[np.float64]:
    """The fall of each prompt's lead, in nats, with the last token's attention to `keys` cut in `layers`."""
    answers = aligned.answer_ids
    lead = logit_difference(answers, [answers[:i] + answers[i + 1 :] for i in range(len(answers))])
    whole = model.measure(aligned.prompts, lead)
    with model.edit({f"blocks.{layer}.attn.hook_pattern": knock_out(keys, queries=-1) for layer in layers}):
        cut = model.measure(aligned.prompts, lead)
    return (whole - cut).double().cpu().numpy()


def _named(layers: range) -> str:
    return f"{layers[0]}" if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
