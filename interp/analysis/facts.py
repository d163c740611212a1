"""Ask a model a set of facts in one direction: the full matrix of prompts and answers, over every template.

And the bookkeeping that looking inside needs: which tokens of a prompt are the item it names.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp.analysis.answers import encode_answers, score_answers
from interp.errors import UserError
from interp.model.hooks.shown import Shown
from interp.model.model import Model
from interp.progress import Progress, silent
from interp.stats.estimators import matched_scores, top_choice
from interp.text.facts import Direction, FactSet, HeldOut


@dataclass(frozen=True, repr=False)
class Asked(Shown):
    """One direction of a fact set. `scores` [template, prompt, answer]: summed log-probability in nats.

    `exact` [template, prompt]: is the greedy completion a right answer? `lengths` [answer]: tokens of each answer.
    """

    direction: Direction
    scores: NDArray[np.float64]
    exact: NDArray[np.bool_]
    lengths: NDArray[np.int64]

    @property
    def matched(self) -> NDArray[np.float64]:
        """How far each fact's own answer scores above the others, priors taken out: [template, fact], in nats."""
        return matched_scores(self.scores)

    @property
    def matched_per_token(self) -> NDArray[np.float64]:
        """The same with log-probabilities per token of the answer."""
        return matched_scores(self.scores / self.lengths)

    @property
    def chosen(self) -> NDArray[np.float64]:
        """Does each fact's own answer score best of all, priors taken out? [template, fact]; 1, 0 or a tie's share."""
        return top_choice(self.scores)


def ask_facts(model: Model, facts: FactSet, direction: Direction, *, progress: Progress = silent) -> Asked:
    """Score every answer after every prompt, for each training template of `direction`."""
    templates = range(len(facts.templates(direction).training))
    answers, accepted = facts.answers(direction), facts.accepted(direction)
    scores, exact = [], []
    lengths = np.array([len(ids) for ids in encode_answers(model, facts.prompts(direction, 0), answers)])
    for t in templates:
        prompts = facts.prompts(direction, t)
        found = score_answers(model, prompts, answers)
        scores.append(found.summed.double().numpy())
        right = found.greedy.diagonal().numpy().copy()
        for i, more in enumerate(accepted):  # further right answers, such as a parent's other children
            if len(more) > 1:
                right[i] |= bool(score_answers(model, [prompts[i]], more[1:]).greedy.any())
        exact.append(right)
        progress("asking facts", t + 1, len(templates))
    return Asked(direction, np.stack(scores), np.stack(exact), lengths)


@dataclass(frozen=True)
class Aligned:
    """Prompts of one template whose items have the same number of tokens, so that positions mean the same in all.

    `labels`: what stands at each position ("·France" as "{country}" or "{country 2/2}"); `first_item`, `last_item`:
    positions of the item's first and last token; `answer_ids`: first token of each answer; `facts`: which facts.
    """

    prompts: list[str]
    labels: list[str]
    first_item: int
    last_item: int
    answer_ids: list[int]
    facts: list[int]


def align(model: Model, facts: FactSet, direction: Direction, template: int | HeldOut = 0) -> Aligned:
    """The largest group of prompts with equally long items and distinct first answer tokens.

    Raises UserError when fewer than four prompts are left.
    """
    prompts, given = facts.prompts(direction, template), facts.given(direction)
    firsts = [ids[0] for ids in encode_answers(model, prompts, facts.answers(direction))]
    texts = facts.templates(direction)
    at = (texts.held_out if template == "held_out" else texts.training[template]).index("{}")
    spans = [_item_span(model, prompt, at, item) for prompt, item in zip(prompts, given, strict=True)]
    common = Counter((start, stop) for start, stop in spans).most_common(1)[0][0]
    chosen: list[int] = []
    for i, span in enumerate(spans):
        if span == common and firsts[i] not in {firsts[j] for j in chosen}:
            chosen.append(i)
    if len(chosen) < 4:
        raise UserError(f"{facts.name}, {direction}: only {len(chosen)} prompts share a layout; expected 4 or more")
    start, stop = common
    item = facts.subject if direction == "forward" else facts.object
    labels = model.str_tokens(prompts[chosen[0]])
    for k in range(start, stop):
        labels[k] = f"{{{item}}}" if stop - start == 1 else f"{{{item} {k - start + 1}/{stop - start}}}"
    return Aligned(
        prompts=[prompts[i] for i in chosen],
        labels=[label.replace(" ", "·") for label in labels],
        first_item=start,
        last_item=stop - 1,
        answer_ids=[firsts[i] for i in chosen],
        facts=chosen,
    )


def _item_span(model: Model, prompt: str, at: int, item: str) -> tuple[int, int]:
    """First and past-last token position of `item`, which starts at character `at`: "He" also stands in "Here"."""
    before, upto = model.encode(prompt[:at].rstrip())[0], model.encode(prompt[: at + len(item)])[0]
    return len(before), len(upto)
