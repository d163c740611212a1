"""Examined: which models parts (c) and (f) look into, and their prompts of one layout.

In the account of Geva et al. (2304.14767), a fact is written at the last token of the item that the prompt names, and
attention carries it to the prompt's last token. A fact that was learned in one order only should have nothing written
there when it is asked in the other order, and nothing to carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    Claim,
    Direction,
    Estimate,
    FactSet,
    HeldOut,
    Lab,
    Model,
    Student,
    UserError,
)
from interp.analysis import Aligned, align, answer_lead
from interp.stats import estimate_mean

from .taught import NATS

SMALL = "one small GPT-2 trained here, on people taught name first"
READ = 1.0  # nats: what counts as readable
LENS = (
    "the log-probability of the right answer's first token above the other answers' mean, less its lead in the other "
    "prompts (so that no answer's own likelihood counts)"
)


class OfEach(NamedTuple):
    """A claim of the loaded model, and the same of a model that is trained here."""

    loaded: Claim
    student: Claim


def of_each(text: str, **rule: Any) -> OfEach:
    """Both claims from one sentence and one rule."""
    nats = partial(Claim, expects="greater", unit=NATS, **rule)
    return OfEach(nats(f"In {{model}}, {text}"), nats(f"In {SMALL}, {text}", subject="trained here"))


@dataclass(frozen=True)
class Examined:
    """A model to look into, with the facts to ask it: `stride` between layers, at most `pairs` prompt pairs.

    `trained_here`: is it a student? `note`: what a reader must know of it. `why_not`: why it cannot be looked into, ""
    where it can.
    """

    who: str
    model: Model
    facts: FactSet
    trained_here: bool = False
    template: int | HeldOut = 0
    stride: int = 1
    pairs: int = 8
    note: str = ""
    why_not: str = ""
    _read: dict[Direction, NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def layers(self) -> list[int]:
        """Layer l is the residual stream after l blocks: 0 is the embedding, where only the item can matter."""
        return sorted({*range(0, self.model.n_layers, self.stride), self.model.n_layers})

    def the(self, claim: OfEach) -> Claim:
        """The one of the two that is about this model."""
        return claim.student if self.trained_here else claim.loaded

    def about(self, direction: Direction, **more: str) -> dict[str, str]:
        """What its claims have places for."""
        return {"direction": direction, **more} | ({} if self.trained_here else {"model": self.who})

    def lead(self, lab: Lab, direction: Direction) -> NDArray[np.float64]:
        """What the logit lens reads, [prompt, layer, pos], in `layers` but the embedding: read once for (c) and (f).

        The embedding can hold no answer yet: there the lens shows which words are alike.
        """
        if direction not in self._read:
            asked, tell = self.aligned(direction), lab.tell(f"lens, {self.who}, {direction}")
            lead = answer_lead(
                self.model, asked.prompts, asked.answer_ids, layers=self.layers[1:], priors_out=True, progress=tell
            )
            self._read[direction] = lead.double().numpy()
        return self._read[direction]

    def aligned(self, direction: Direction) -> Aligned:
        """Its prompts of one layout."""
        return align(self.model, self.facts, direction, self.template)


def models_to_examine(lab: Lab, students: Sequence[Student], fact_sets: Sequence[FactSet]) -> list[Examined]:
    """A small GPT-2 taught name first, and the loaded model on the first facts whose prompts align."""
    # Names of one word, so that every answer has a first token of its own; untied, so that no leak helps.
    student = next((s for s in students if s.course.name == "untied embeddings, one-word names"), None)
    if student is None:
        why_not = "because the small GPT-2s did not surely learn"
        first = Examined(SMALL, lab.model, fact_sets[0], trained_here=True, why_not=why_not)
    else:
        taught, note = student.groups["name first"], f"One model: {student.course.name}, seed {student.seed}."
        first = Examined(SMALL, student.model, taught, True, "held_out", pairs=len(taught), note=note)
    facts = next((facts for facts in fact_sets if _aligns(lab.model, facts)), None)
    why_not = "" if facts else "because its tokenizer gives no four prompts of the facts one layout"
    stride = max(1, min(7 if lab.quick else 3, lab.model.n_layers // 4))
    facts = facts or fact_sets[0]
    who = f"{lab.model.provenance.name} on {facts.name}"
    return [first, Examined(who, lab.model, facts, stride=stride, why_not=why_not)]


def _aligns(model: Model, facts: FactSet) -> bool:
    """Are there four prompts of one layout in both directions?"""
    try:
        return all(align(model, facts, direction) for direction in DIRECTIONS)
    except UserError:
        return False


def mean_over_prompts(values: NDArray[np.float64], lab: Lab, n_boot: int) -> Estimate:
    """Mean of one value a prompt, in nats."""
    return estimate_mean(values, unit=NATS, over="prompt", n_boot=n_boot, seed=lab.seed)
