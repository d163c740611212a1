"""Features: do SAE features tell the two directions apart, in more than their wording (c)?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    Claim,
    Control,
    Direction,
    FactSet,
    HeldOut,
    Lab,
    Model,
    capture_rows,
    measured,
    split_corpus,
)
from interp.features import top_examples
from interp.saes import SAE, encode_features, load_sae, site_of
from interp.stats import estimate_gap

from .taught import Answers
from .where import WHERE

TOP_FEATURES, EXAMPLE_TOKENS = 12, 4000
WORDINGS: tuple[int | HeldOut, ...] = (0, "held_out")  # of the real facts' templates: they end in one word
ACTIVATION = "mean difference in activation"
MOVES_FEATURES = Claim(
    "Asking in the other direction changes SAE features more than asking in other words ({facts}).",
    "greater",
    unit=ACTIVATION,
    part=WHERE,
    measure=f"Two directions, each in two wordings; all four prompts end in one word. The {TOP_FEATURES} features that "
    "differ most on one half of the facts, measured on the other half, with the sign they had there; beside the same "
    "of two wordings of one direction.",
    caveat="Any change of words moves some features. One pair of wordings: another may move more or less.",
)
CLAIMS = [MOVES_FEATURES]


def features(lab: Lab, facts: FactSet, n_boot: int) -> Answers:
    """Do the two directions differ in more than wording? SAE features in two directions, each in two wordings.

    Not where the first training template and the held-out one do not end in one token in both directions: the last
    word alone would tell the directions apart.
    """
    about = {"facts": facts.name}
    if lab.sae_folder is None:
        yield MOVES_FEATURES.not_asked("because no SAE came with --sae", about=about)
        return
    if not _end_alike(lab.model, facts):
        yield MOVES_FEATURES.not_asked("because the prompts do not end in one token in both directions", about=about)
        return
    sae = load_sae(lab.sae_folder, lab.model)
    acts = {direction: _feature_activations(lab.model, sae, facts, direction) for direction in DIRECTIONS}
    added = acts["forward"] + acts["reversed"]
    chosen, by_direction = _contrast((acts["forward"] - acts["reversed"]).mean(1))
    _, by_wording = _contrast((added[:, 0] - added[:, 1]) / 2)
    strongest = _strongest_words(lab, sae, chosen)
    half = len(facts) // 2
    means = measured(
        {(f"{f}: {strongest[f]}", direction): acts[direction][half:, :, f] for f in chosen for direction in DIRECTIONS},
        by=("feature", "direction"),
        value="mean activation",
        over="fact",
        seed=lab.seed,
    )
    pair = estimate_gap(by_direction, by_wording, unit=ACTIVATION, over="fact", n_boot=n_boot, seed=lab.seed)
    yield MOVES_FEATURES.answer(
        pair.estimate,
        Control("two wordings of one direction", pair.control),
        paired=pair.gap,
        about=about,
        table=means.rows(),
        figure=means.dots(
            "feature",
            f"Features of the SAE at {site_of(sae)}, at the prompt's last token; held-out half of the facts. Behind "
            "each number, the tokens of other text on which the feature is strongest.",
        ),
    )


def _contrast(difference: NDArray[np.float64]) -> tuple[list[int], NDArray[np.float64]]:
    """From [fact, feature]: the features that differ most on the first half, and their mean on the second, [fact].

    Chosen and measured on other facts, and with the sign they had there: features that differ by chance average to 0.
    """
    half = len(difference) // 2
    first = difference[:half].mean(0)
    chosen = np.argsort(-np.abs(first))[:TOP_FEATURES]
    return chosen.tolist(), (difference[half:, chosen] * np.sign(first[chosen])).mean(1)


def _strongest_words(lab: Lab, sae: SAE[Any], chosen: Sequence[int]) -> dict[int, str]:
    """What a feature's number stands for: the tokens of held-out text on which it fires most, each once."""
    tell = lab.tell("what the features fire on")
    rows = capture_rows(lab.model, split_corpus()[1], site_of(sae), max_tokens=EXAMPLE_TOKENS, progress=tell)
    words = {}
    for feature in top_examples(sae, rows, chosen, lab.model, n=8):
        tokens = dict.fromkeys(repr(e.tokens[e.peak].strip()) for e in feature.examples)
        words[feature.feature] = ", ".join(list(tokens)[:3]) or "never fires there"
    return words


def _end_alike(model: Model, facts: FactSet) -> bool:
    ends = {model.encode(facts.prompts(direction, t)[0])[0][-1] for direction in DIRECTIONS for t in WORDINGS}
    return len(ends) == 1


def _feature_activations(model: Model, sae: SAE[Any], facts: FactSet, direction: Direction) -> NDArray[np.float64]:
    """[fact, wording, feature] at the last token of each prompt."""
    site = site_of(sae)
    per_wording = [encode_features(sae, model.capture(facts.prompts(direction, t), site).last(site)) for t in WORDINGS]
    return np.stack(per_wording, axis=1)
