"""How many neurons a feature is made of: readouts of the best few, judged on other documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Figure, Finding, Lab, NotAsked, Row, measured, set_beforehand, zero
from interp.analysis import score_sparse_readouts as sparse_readouts
from interp.stats import estimate_mean, proportion

from . import FEATURE_SHARE, FEATURES, MADE_OF, ORDER, ORDER_GAP, RANDOM
from .units import FOLDS, Text, Units

SIZES = (1, 2, 4, 8, 16, 32, 64)
SEVERAL = 8  # neurons
WAYS = {"eight tenths": 0.8, "nine tenths": 0.9}  # of the way from chance to the most that is reached
CHANCE = 0.5
PLANTED, TOGETHER = 16, 4  # units, neurons that one is made of
Floats = NDArray[np.float64]
HOW = (
    "AUC: how often a token where the feature fires is put above one where it does not; chance is 0.5. The best are "
    "chosen and weighed on documents that do not judge; each fifth of them judges in turn."
)

NOT_ONE = Claim(
    "A feature is not one neuron: 64 of its layer tell where it fires better than the best one.",
    expects="greater",
    margin=0.1,
    unit=ORDER,
    part=MADE_OF,
    answers=True,
    measure=HOW,
    caveat="More than 64 may tell more.",
    subject="SAE",
)
MORE_THAN_SEVERAL = Claim(
    f"Most features take more than {SEVERAL} neurons to be told {{way}} as well as 64 tell them.",
    expects="greater",
    unit=FEATURE_SHARE,
    part=MADE_OF,
    measure=f"The share of features for which {SEVERAL} neurons go less than so much of the way from chance to the "
    "most that up to 64 reach.",
    caveat="It hangs on where the line is drawn, so that two lines are asked; the table has others. More than 64 "
    "neurons would reach more.",
    subject="SAE",
)
THAN_RANDOM = Claim(
    f"Still, {SEVERAL} neurons tell where a feature fires better than where a random direction does.",
    expects="greater",
    margin=0.05,
    unit=ORDER,
    part=MADE_OF,
    measure="Each feature beside a random direction that fires as often.",
    subject="SAE",
)
NOT_ONE_NUMBER = Claim(
    "Nor is a feature one number of the residual stream.",
    expects="greater",
    margin=0.1,
    unit=ORDER,
    part=MADE_OF,
    measure=HOW,
    subject="SAE",
)
CLAIMS = [NOT_ONE, MORE_THAN_SEVERAL, THAN_RANDOM, NOT_ONE_NUMBER]


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
    by_basis: tuple[list[Floats], list[Floats]] = ([], [])
    for i in folds:
        for scores, x in zip(by_basis, (text.neurons, text.rows.values), strict=True):
            scores.append(sparse_readouts(x.numpy()[text.kept], everything, text.fold(i), SIZES))
        lab.progress("reading features out of neurons", i + 1, len(folds))
    by_neurons, by_numbers = (np.split(_mean(np.stack(scores)), ends, 1) for scores in by_basis)
    return {name: Readouts(*both) for name, both in zip(fires, zip(by_neurons, by_numbers, strict=True), strict=True)}


def _mean(scores: Floats) -> Floats:
    """Over the folds [fold, size, unit] in which the unit fires; NaN where it fires in none."""
    seen = ~np.isnan(scores)
    return np.where(seen.any(0), np.where(seen, scores, 0).sum(0) / np.maximum(seen.sum(0), 1), np.nan)


def planted_sums(text: Text, firings: int, seed: int) -> NDArray[np.bool_]:
    """Units that fire where the sum of four neurons, each in units of its spread, is largest: [kept row, unit]."""
    values, rng = text.neurons.numpy()[text.kept].astype(np.float64), np.random.default_rng(seed)
    spread, able = values.std(0), text.able
    out = np.zeros((len(values), PLANTED), np.bool_)
    for i in range(PLANTED):
        four = rng.permutation(able)[:TOGETHER]
        out[np.argsort(-(values[:, four] / spread[four]).sum(1), kind="stable")[:firings], i] = True
    return out


def needed(scores: Floats, way: float) -> NDArray[np.int64]:
    """The smallest size that goes so much of the way from chance to the most that any size reaches: [unit].

    A unit that no size tells above chance takes more than any.
    """
    above = np.maximum(scores - CHANCE, 0)
    above[-1, above.max(0) == 0] = 1
    return np.array(SIZES)[(above >= way * above.max(0)).argmax(0)]


def judged(scores: Floats) -> Floats:
    """Without the units that never fire where they are judged."""
    return scores[:, ~np.isnan(scores).any(0)]


def made_of(text: Text, readouts: dict[str, Readouts], lab: Lab) -> Iterator[Finding | NotAsked]:
    """One neuron, or many? Beside random directions that fire as often."""
    features, random = readouts[FEATURES], readouts[RANDOM]
    neurons, numbers = judged(features.neurons), judged(features.numbers)
    if not neurons.shape[1]:
        for claim in CLAIMS:
            yield claim.not_asked(f"because none of the {FEATURES} fires in the documents that judge")
        return

    def gained(scores: Floats) -> tuple[Floats, str]:
        return scores[-1] - scores[0], f"{scores[0].mean():.2f} and {scores[-1].mean():.2f} on average."

    gaps, averages = gained(neurons)
    yield NOT_ONE.answer(
        estimate_mean(gaps, unit=ORDER, over="feature", bounds=ORDER_GAP, seed=lab.seed),
        zero(ORDER),
        measure=f"From the best neuron of layer {text.layer} to the best 64: {averages} {text.told}",
        caveat=f"{text.rows.site} holds what other layers wrote, too, so that this layer's neurons need not tell all.",
        table=_by_size(text, readouts, lab.seed),
        figure=Figure(
            "doubling_lines",
            x="how many",
            y=ORDER,
            group="what fires",
            low="low",
            high="high",
            facet="of",
            chance=CHANCE,
            caption="How well the best 1, 2, 4, … tell where it fires, on other documents. Bands: intervals over "
            "features and directions.",
        ),
    )
    shares = _by_line(neurons)
    for name, way in WAYS.items():
        sizes = needed(neurons, way)
        yield MORE_THAN_SEVERAL.answer(
            proportion(sizes > SEVERAL, unit=FEATURE_SHARE, over="feature"),
            set_beforehand(0.5, FEATURE_SHARE, "half of them"),
            about={"way": name},
            measure=f"Middle number: {np.median(sizes):.0f}.",
            table=shares,
        )
    paired = features.neurons[SIZES.index(SEVERAL)] - random.neurons[SIZES.index(SEVERAL)]
    if len(paired := paired[~np.isnan(paired)]):
        estimate = estimate_mean(paired, unit=ORDER, over="feature", bounds=ORDER_GAP, seed=lab.seed)
        yield THAN_RANDOM.answer(estimate, zero(ORDER))
    else:
        yield THAN_RANDOM.not_asked("because no feature and its random direction both fire in the documents that judge")
    gaps, averages = gained(numbers)
    yield NOT_ONE_NUMBER.answer(
        estimate_mean(gaps, unit=ORDER, over="feature", bounds=ORDER_GAP, seed=lab.seed),
        zero(ORDER),
        measure=f"From the best number of {text.rows.site} to the best 64: {averages}",
    )


def _by_line(neurons: Floats) -> list[Row]:
    """The share of features that take more than so many neurons, wherever the line is drawn."""
    return [
        {"of the way": way, "more than (neurons)": size, FEATURE_SHARE: float(np.mean(needed(neurons, way) > size))}
        for way in (0.6, 0.7, 0.8, 0.9, 0.95)
        for size in SIZES[:-1]
    ]


def _by_size(text: Text, readouts: dict[str, Readouts], seed: int) -> list[Row]:
    """How well so many neurons, or numbers of the residual stream, tell where something fires."""
    scores = {
        (of, size, name): values
        for basis, of in (("neurons", f"neurons of layer {text.layer}"), ("numbers", "numbers of the residual stream"))
        for name in (FEATURES, RANDOM)
        for size, values in zip(SIZES, judged(getattr(readouts[name], basis)), strict=True)
        if len(values)
    }
    return measured(scores, by=("of", "how many", "what fires"), value=ORDER, over="unit", seed=seed).rows()
