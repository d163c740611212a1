"""How many neurons a feature is made of: readouts of the best few, judged on other documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Control, Figure, Finding, Lab, Row
from interp.analysis import score_sparse_readouts as sparse_readouts
from interp.stats import estimate_mean, known, proportion

from . import FEATURES, MADE_OF, ORDER, RANDOM
from .units import FOLDS, Text, Units

SIZES = (1, 2, 4, 8, 16, 32, 64)
MORE, SEVERAL = 0.1, 8  # AUC; neurons
NEARLY, ROUGHLY = 0.9, 0.8  # of the way from chance to the most that is reached
CHANCE = 0.5
PLANTED, TOGETHER = 16, 4  # units, neurons that one is made of
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Readouts:
    """AUC by [size, unit]: of neurons, and of single numbers of the dictionary's site."""

    neurons: Floats
    numbers: Floats


def read_out(lab: Lab, text: Text, features: Units, random: Units) -> dict[str, Readouts]:
    """Readouts of features, of random directions, and of what is planted, or left to chance, among the neurons.

    Each fifth of the documents judges what the others fit, and the AUCs are averaged; in a quick run two fifths do.
    """
    seed = lab.seed
    fires = {FEATURES: features.fires(text), RANDOM: random.fires(text)}
    fires["planted"] = planted_sums(text, int(fires[FEATURES].sum(0).mean()), seed)
    fires["dealt at random"] = np.random.default_rng(seed).permutation(fires[FEATURES], axis=0)
    everything = np.concatenate(list(fires.values()), 1)
    ends = np.cumsum([one.shape[1] for one in fires.values()])[:-1]
    folds = range(2 if lab.quick else FOLDS)
    found: list[list[Floats]] = [[], []]
    for i in folds:
        for some, x in zip(found, (text.neurons, text.rows.values), strict=True):
            some.append(sparse_readouts(x.numpy()[text.kept], everything, text.fold(i), SIZES))
        lab.progress("reading features out of neurons", i + 1, len(folds))
    by_neurons, by_numbers = (np.split(_mean(np.stack(some)), ends, 1) for some in found)
    return {name: Readouts(*both) for name, both in zip(fires, zip(by_neurons, by_numbers, strict=True), strict=True)}


def _mean(found: Floats) -> Floats:
    """Over the folds [fold, size, unit] in which the unit fires; NaN where it fires in none."""
    seen = ~np.isnan(found)
    return np.where(seen.any(0), np.where(seen, found, 0).sum(0) / np.maximum(seen.sum(0), 1), np.nan)


def planted_sums(text: Text, firings: int, seed: int) -> NDArray[np.bool_]:
    """Units that fire where the sum of four neurons, each in units of its spread, is largest: [kept row, unit]."""
    values, rng = text.neurons.numpy()[text.kept].astype(np.float64), np.random.default_rng(seed)
    spread, able = values.std(0), text.able
    out = np.zeros((len(values), PLANTED), np.bool_)
    for i in range(PLANTED):
        some = rng.permutation(able)[:TOGETHER]
        out[np.argsort(-(values[:, some] / spread[some]).sum(1), kind="stable")[:firings], i] = True
    return out


def needed(found: Floats, way: float = NEARLY) -> NDArray[np.int64]:
    """The smallest size that goes so much of the way from chance to the most that any size reaches: [unit].

    A unit that no size tells above chance takes more than any.
    """
    above = np.maximum(found - CHANCE, 0)
    above[-1, above.max(0) == 0] = 1
    return np.array(SIZES)[(above >= way * above.max(0)).argmax(0)]


def judged(found: Floats) -> Floats:
    """Without the units that never fire where they are judged."""
    return found[:, ~np.isnan(found).any(0)]


def made_of(text: Text, readouts: dict[str, Readouts], lab: Lab) -> list[Finding]:
    """One neuron, or many? Beside random directions that fire as often."""
    ours, random = readouts[FEATURES], readouts[RANDOM]
    neurons, numbers = judged(ours.neurons), judged(ours.numbers)
    count, rough, several = needed(neurons), needed(neurons, ROUGHLY), SIZES.index(SEVERAL)
    paired = ours.neurons[several] - random.neurons[several]
    how = "The best are chosen and weighed on documents that do not judge; each fifth of them judges in turn."

    def more(found: Floats, claim: str, measure: str, **rest: object) -> Finding:
        return Finding(
            claim,
            estimate_mean(found[-1] - found[0], unit=ORDER, over="feature", seed=lab.seed),
            Control("no difference", known(0.0, unit=ORDER, why="one does as well")),
            "greater",
            MORE,
            MADE_OF,
            measure=f"{measure} AUC: how often a token where the feature fires is put above one where it does not; "
            f"chance is 0.5. {how}",
            **rest,  # type: ignore[arg-type]
        )

    return [
        more(
            neurons,
            "A feature is not one neuron: 64 of its layer tell where it fires better than the best one.",
            f"From the best neuron of layer {text.layer} to the best 64: {neurons[0].mean():.2f} and "
            f"{neurons[-1].mean():.2f} on average.",
            answers=True,
            caveat=f"{text.rows.site} holds what other layers wrote, too, so that this layer's neurons need not tell "
            "all; more than 64 may tell more.",
            table=_table(text, readouts, lab.seed),
            figure=Figure(
                "doubling_lines", x="how many", y=ORDER, group="what fires", low="low", high="high", facet="of",
                chance=CHANCE,
                caption="How well the best 1, 2, 4, … tell where it fires, on other documents. Bands: intervals over "
                "features and directions.",
            ),
        ),
        Finding(
            claim=f"Most features take more than {SEVERAL} neurons.",
            estimate=proportion(count > SEVERAL, unit="share of features", over="feature"),
            control=Control("half of them", known(0.5, unit="share of features", why="set beforehand")),
            expects="greater",
            part=MADE_OF,
            measure=f"The share of features for which {SEVERAL} neurons go less than nine tenths of the way from "
            f"chance to the most that up to 64 reach. Middle number: {np.median(count):.0f}.",
            caveat=f"It hangs on where the line is drawn: for {ROUGHLY:.0%} of the way, {np.mean(rough > SEVERAL):.0%} "
            f"of them take more than {SEVERAL}. And more than 64 neurons would reach more.",
        ),
        Finding(
            claim=f"Still, {SEVERAL} neurons tell where a feature fires better than where a random direction does.",
            estimate=estimate_mean(paired[~np.isnan(paired)], unit=ORDER, over="feature", seed=lab.seed),
            control=Control("no difference", known(0.0, unit=ORDER, why="equally well")),
            expects="greater",
            margin=MORE / 2,
            part=MADE_OF,
            measure="Each feature beside a random direction that fires as often.",
        ),
        more(
            numbers,
            "Nor is a feature one number of the residual stream.",
            f"From the best number of {text.rows.site} to the best 64: {numbers[0].mean():.2f} and "
            f"{numbers[-1].mean():.2f} on average.",
        ),
    ]  # fmt: skip


def _table(text: Text, readouts: dict[str, Readouts], seed: int) -> list[Row]:
    table: list[Row] = []
    for basis, of in (("neurons", f"neurons of layer {text.layer}"), ("numbers", "numbers of the residual stream")):
        for name in (FEATURES, RANDOM):
            for size, values in zip(SIZES, judged(getattr(readouts[name], basis)), strict=True):
                at = estimate_mean(values, unit=ORDER, over="unit", seed=seed)
                table.append({"of": of, "how many": size, "what fires": name, ORDER: at.mean})
                table[-1] |= {"low": at.low, "high": at.high}
    return table
