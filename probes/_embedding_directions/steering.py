"""Does the plural direction make a singular noun plural, for the word that comes next?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Claim, Control, Edit, Estimate, Finding, Lab, Measured, Model, NotAsked, UserError, Where, zero
from interp.analysis import ReadAhead, encode_answers, logit_difference
from interp.stats import estimate_crossed, student_quantile

from . import CAUSES, CONTROLS
from .words import Vectors, Words

# Five wordings of few nouns: two of many nouns cost as much, and their interval reaches 13 errors instead of 3.
TEMPLATES = (
    "The {}",
    "In the end the {}",
    "Everybody says that the {}",
    "My friend told me that the {}",
    "On that day the {}",
)
NOUNS, FEW_NOUNS = 6, 4
FAMILY, VERBS = "plural", (" is", " are")
CLEAR = 0.5  # nats
UNIT = "nats"
Floats = NDArray[np.float64]

STEERS = Claim(
    'Added to a singular noun, the plural direction makes "are" likelier beside "is".',
    expects="greater",
    unit=UNIT,
    margin=CLEAR,
    part=CAUSES,
    answers=True,
    measure='Change of the lead of "are" over "is" when the direction is added to the residual stream at the noun, '
    "less that when random directions as long are, noun by noun. It is the mean offset, at its own length, of the "
    "other half of the nouns behind another text. The control says how far one more random direction may move it.",
    caveat="A direction from nouns may hold more than number. That it steers does not say that the model reads it "
    "there on its own.",
)
PLURAL = Claim(
    'Positive control: after the real plural, "are" is likelier.',
    expects="greater",
    unit=UNIT,
    margin=CLEAR,
    part=CONTROLS,
    measure='Lead of "are" over "is" after the plural, less that after the singular, in the same sentences.',
)
CLAIMS = [STEERS]


@dataclass(frozen=True)
class NounSentences:
    """Sentences that end in a singular noun, [template, noun] flattened, and the tokens of "is" and "are"."""

    model: Model
    nouns: list[tuple[str, str]]
    verbs: tuple[int, int]

    def lean(self, prompts: Sequence[str]) -> Floats:
        """How far "are" is ahead of "is" in nats: [1, template, noun]."""
        return self._shaped(self.model.measure(list(prompts), self._metric, batch_size=64))

    def prompts(self, which: int) -> list[str]:
        """With each noun's singular (0) or plural (1)."""
        return [template.format(pair[which]) for template in TEMPLATES for pair in self.nouns]

    def shift(self, layer: int, directions: Float[Tensor, "some noun d_model"], clean: Floats) -> Floats:
        """What adding each noun's own direction changes: [some, template, noun]; later nouns only made directions."""
        leans: list[Floats] = []
        for of_nouns in directions[:, : len(self.nouns)]:
            with self.model.edit({self.model.residual(layer): _push(of_nouns.repeat(len(TEMPLATES), 1))}):
                leans.append(self._shaped(self._singular.measure(self._metric)))
        return np.concatenate(leans) - clean

    @property
    def _metric(self) -> Any:
        return logit_difference(*([verb] * len(TEMPLATES) * len(self.nouns) for verb in self.verbs[::-1]))

    @cached_property
    def _singular(self) -> ReadAhead:
        return ReadAhead(self.model, self.prompts(0))

    def _shaped(self, values: Float[Tensor, " prompt"]) -> Floats:
        return values.double().cpu().numpy().reshape(-1, len(TEMPLATES), len(self.nouns))


def _push(added: Float[Tensor, "prompt d_model"]) -> Edit:
    def pushed(activation: Tensor, where: Where) -> Tensor:
        out = activation.clone()
        rows = torch.arange(len(out), device=out.device)
        out[rows, where.mask.sum(-1) - 1] += added[where.prompts.to(added.device)].to(out)
        return out

    return pushed


def admit(model: Model, words: Words, quick: bool = False) -> NounSentences | None:
    """The plural family in sentences; None where the model cannot be asked."""
    nouns = words.families.get(FAMILY, [])
    try:
        found = NounSentences(model, nouns, (0, 0))
        ids = encode_answers(model, [*found.prompts(0), *found.prompts(1)], list(VERBS))
    except UserError:  # a vocabulary of whole words that lacks some of these
        return None
    if any(len(one) > 1 for one in ids) or not nouns:
        return None
    return NounSentences(model, nouns[: FEW_NOUNS if quick else NOUNS], (ids[0][0], ids[1][0]))


def steering(
    lab: Lab, words: Words, vectors: Vectors, middle: int, noun_sentences: NounSentences | None
) -> tuple[Finding | NotAsked, Finding | NotAsked]:
    """Add the direction that the other half of the nouns gave, and random ones as long; then the positive control."""
    if noun_sentences is None:
        split = 'because the nouns, or "is" and "are", are not one token each in this model'
        return STEERS.not_asked(split), PLURAL.not_asked(split)
    clean = noun_sentences.lean(noun_sentences.prompts(0))[0]
    real = noun_sentences.lean(noun_sentences.prompts(1))[0] - clean
    shifts: dict[int, Floats] = {}
    for done, layer in enumerate(vectors.layers):
        n_random = (6 if lab.quick else 12) if layer == middle else 3
        shifts[layer] = noun_sentences.shift(layer, _directions(words, vectors, layer, n_random, lab.seed), clean)
        lab.progress("steering", done + 1, len(vectors.layers))
    plural, random = shifts[middle][0], shifts[middle][1:]
    by_layer = Measured(("layer", "what changes"), 'change of the lead of "are" (nats)', _by_layer(shifts, real))
    steered = STEERS.answer(
        _crossed(plural - random.mean(0)),
        Control("one more random direction as long", another(random)),
        measure=f"{len(noun_sentences.nouns)} nouns in {len(TEMPLATES)} wordings, after {middle} "
        f"blocks. The plural direction changes the lead by {plural.mean():.1f}, random ones by {random.mean():.1f}, "
        f"the real plural by {real.mean():.1f}.",
        table=by_layer.rows(),
        figure=by_layer.lines(
            x="layer",
            caption="By the layer where it is added; 0 is the embedding. The real plural has no layer: its sentences "
            "are others. Bands over wordings and nouns.",
        ),
    )
    return steered, PLURAL.answer(_crossed(real), zero(UNIT, "no change"))


def another(shifts: Floats) -> Estimate:
    """What one more random direction would do beyond the mean of these [direction, template, noun]: 0 and its reach.

    A direction moves all nouns alike, so that an interval over nouns knows nothing of it.
    """
    each = shifts.mean((1, 2))
    reach = student_quantile(len(each) - 1) * float(each.std(ddof=1)) * (1 + 1 / len(each)) ** 0.5
    return Estimate(0.0, -reach, reach, len(each), UNIT, "random direction")


def _crossed(table: Floats) -> Estimate:
    return estimate_crossed([table], unit=UNIT, over="noun", across="template")


def _directions(
    words: Words, vectors: Vectors, layer: int, n_random: int, seed: int
) -> Float[Tensor, "some noun d_model"]:
    """For each noun the mean offset of the half of the nouns that it is not in, then random ones of that length."""
    places = np.array(words.places(FAMILY))
    at = vectors.of(layer)
    offsets = at[places[:, 1]] - at[places[:, 0]]
    half = torch.arange(len(places)) % 2
    means = torch.stack([offsets[half != own].mean(0) for own in half])
    generator = torch.Generator().manual_seed(seed * 1000 + layer)
    random = torch.randn(n_random, means.shape[1], generator=generator)
    random = random / random.norm(dim=1, keepdim=True)
    return torch.cat([means[None], random[:, None] * means.norm(dim=1)[None, :, None]])


def _by_layer(shifts: dict[int, Floats], real: Floats) -> dict[Any, Estimate]:
    return {
        (layer, name): _crossed(table)
        for layer, values in shifts.items()
        for name, table in (
            ("plural direction", values[0]),
            ("random directions", values[1:].mean(0)),
            ("real plural", real),
        )
    }
