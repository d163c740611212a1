"""A second case: one word, two senses. Can the sense be read at the word itself, in sentences not seen before?"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Claim, Control, Finding, Lab, Model, measured
from interp.stats import estimate_gap, null_of

from . import SENSES

UNIT = "share of sentences"
TOLD = Claim(
    "At the word itself the model tells which of its two senses is meant, 10 points oftener than random weights do.",
    expects="greater",
    margin=0.1,
    unit=UNIT,
    part=SENSES,
    answers=True,
    measure="Each sentence ends in the word; its vector is nearer to the mean of the other sentences of the same "
    "sense, or of the other one. Chance is one half. Random weights mix the same sentences, so that what words the "
    "sentences share is in the control. The sentences were written for this probe.",
    caveat="Sentences of one sense share more than a sense: a topic, for one. That the word's own vector knows the "
    "topic is what is claimed.",
)
CLAIMS = [TOLD]
WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bank": (
        (
            "They sat fishing on the muddy bank",
            "The river had flooded its left bank",
            "Reeds grew thick along the bank",
            "The boat ran into the sandy bank",
        ),
        (
            "She deposited her savings at the bank",
            "The loan was approved by the bank",
            "He works as a clerk in a bank",
            "Robbers stole the cash from the bank",
        ),
    ),
    "bat": (
        (
            "From the dark cave flew a bat",
            "Hanging upside down, asleep, was a bat",
            "The owl hunted a moth and a bat",
            "Insects at night are eaten by the bat",
        ),
        (
            "He hit the ball with his bat",
            "The player swung the wooden bat",
            "She bought a glove and a bat",
            "The pitcher stared at the man with the bat",
        ),
    ),
    "spring": (
        (
            "The flowers bloom early in spring",
            "After the cold winter came the spring",
            "Birds return to us every spring",
            "Lambs are born on the farm in spring",
        ),
        (
            "The mattress has a broken spring",
            "The clock is driven by a coiled spring",
            "The lid is held by a metal spring",
            "The engineer replaced the rusty spring",
        ),
    ),
    "pitcher": (
        (
            "She filled the glasses from the pitcher",
            "There was lemonade in the pitcher",
            "He dropped the pottery pitcher",
            "On the table stood a glass pitcher",
        ),
        (
            "The batter faced a left-handed pitcher",
            "The team signed a new pitcher",
            "A fastball was thrown by the pitcher",
            "In the ninth inning they changed the pitcher",
        ),
    ),
    "match": (
        (
            "He lit the candle with a match",
            "The fire was started by a single match",
            "She struck the last match",
            "In the box there was one match",
        ),
        (
            "The home team won the match",
            "Tickets are sold out for the match",
            "The referee stopped the match",
            "They scored twice in the match",
        ),
    ),
    "seal": (
        (
            "On the ice lay a grey seal",
            "The polar bear hunted a seal",
            "In the zoo we fed fish to a seal",
            "Out of the cold sea came a seal",
        ),
        (
            "The letter was closed with a wax seal",
            "The document bears the royal seal",
            "The king pressed his ring into the seal",
            "The envelope had an unbroken seal",
        ),
    ),
    "palm": (
        (
            "On the beach they rested under a palm",
            "Coconuts fell from the tall palm",
            "The island had a single palm",
            "A warm wind moved the leaves of the palm",
        ),
        (
            "He held the coin in his palm",
            "The fortune teller read her palm",
            "She had a cut across her palm",
            "The child put a shell in my palm",
        ),
    ),
    "crane": (
        (
            "By the lake stood a white crane",
            "With long legs walks the crane",
            "The bird in the marsh was a crane",
            "Over the rice field flew a crane",
        ),
        (
            "The steel beam was lifted by a crane",
            "On the building site stood a tall crane",
            "The driver climbed into the crane",
            "Containers are moved in the port by a crane",
        ),
    ),
}


def read_senses(lab: Lab, layers: tuple[int, ...], middle: int, random_weights: Model, n_perm: int) -> Finding:
    """Each sentence by the nearer mean of the other sentences of its word, at every layer."""
    each = len(next(iter(WORDS.values()))[0])
    sense = np.repeat([0, 1], each)
    trained = _vectors(lab.model, layers, 2 * each)
    values = {(layer, "trained"): _told(vectors, sense) for layer, vectors in trained.items()}
    values[middle, "random weights"] = _told(_vectors(random_weights, (middle,), 2 * each)[middle], sense)
    by_layer = measured(values, by=("layer", "model"), value=UNIT, over="word", bounds=(0, 1), seed=lab.seed)
    rng = np.random.default_rng(lab.seed)
    dealt = null_of(
        [np.mean([left_out(word, rng.permutation(sense)) for word in trained[middle]]) for _ in range(n_perm)],
        unit=UNIT,
    )
    gap = estimate_gap(
        values[middle, "trained"],
        values[middle, "random weights"],
        unit=UNIT,
        over="word",
        bounds=(0, 1),
        seed=lab.seed,
    )
    return TOLD.answer(
        gap.estimate,
        Control("random weights", gap.control),
        paired=gap.gap,
        measure=f"Layer {middle}; {len(WORDS)} words, {2 * each} sentences each. With senses dealt to the sentences at "
        f"random the trained model tells {dealt.mean:.0%} [{dealt.low:.0%}, {dealt.high:.0%}].",
        table=by_layer.rows(),
        figure=by_layer.lines(
            x="layer",
            chance=0.5,
            caption="How often the sense of a left-out sentence is told at the word, by layer; 0 is the embedding. "
            "Bands over words.",
        ),
    )


def _vectors(
    model: Model, layers: tuple[int, ...], sentences: int
) -> dict[int, Float[Tensor, "word sentence d_model"]]:
    """The residual stream at the word, by layer."""
    sites = {layer: model.residual(layer) for layer in layers}
    acts = model.capture([s for senses in WORDS.values() for sense in senses for s in sense], sites.values())
    return {layer: acts.last(site).float().cpu().view(len(WORDS), sentences, -1) for layer, site in sites.items()}


def _told(vectors: Float[Tensor, "word sentence d_model"], sense: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([left_out(of_word, sense) for of_word in vectors])


def left_out(vectors: Float[Tensor, "sentence d_model"], sense: NDArray[np.int64]) -> float:
    """Share of sentences that are nearer to their own sense's other sentences; a tie is half."""
    scale = float(vectors.norm(dim=1).max())
    right = []
    for i in range(len(vectors)):
        others = np.arange(len(vectors)) != i
        means = [vectors[torch.from_numpy(others & (sense == k))].mean(0) for k in (0, 1)]
        gaps = [float((vectors[i] - mean).norm()) for mean in means]
        own, other = gaps[sense[i]], gaps[1 - sense[i]]
        right.append(0.5 if abs(own - other) <= 1e-5 * scale else float(own < other))
    return float(np.mean(right))
