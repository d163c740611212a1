"""Stated: invented facts in the loaded model's prompt, asked for in the order that it has and in the other (b)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    Claim,
    Direction,
    Lab,
    Row,
    UserError,
    invent_groups,
    set_beforehand,
)
from interp.analysis import score_answers
from interp.stats import estimate_mean, top_choice

from .taught import Answers, dots

QUESTIONS = "share of questions"
PART = "(b) The loaded model on facts in its prompt"
CONTEXTS, QUICK_CONTEXTS = 12, 6  # prompts; a quick run asks each in one wording, in turn
PEOPLE = 4  # in each context, one fact a person
STATED = "{} is the painter of {}."
ASKED: dict[Direction, tuple[str, ...]] = {
    "forward": ("So {} is the painter of", "Question: What did {} paint? Answer:", "It follows that {} painted"),
    "reversed": ("So {} is the work of", "Question: Who painted {}? Answer:", "It follows that {} was painted by"),
}
PICKED = Claim(
    f"An invented fact that the prompt states, asked for in {{order}}, is picked out of {PEOPLE} in more than "
    f"{1 / PEOPLE + 0.1:.0%} of questions.",
    "greater",
    unit=QUESTIONS,
    margin=0.1,
    part=PART,
    measure=f"The own answer must score best of the {PEOPLE}, priors taken out. The interval is for other people, in "
    "these wordings.",
    caveat="Berglund et al. found no curse for facts in the prompt. A small model may fail at both orders, for want of "
    "skill: compare them.",
)
CLAIMS = [PICKED]


def in_context(lab: Lab) -> Answers:
    """Invented facts that the prompt states in one order, asked in both."""
    orders: dict[Direction, str] = {"forward": "the same order", "reversed": "the other order"}
    try:  # some tokenizers break an invented word into its letters: the longest prompt may not fit
        for direction in DIRECTIONS:
            for _, prompts, answers in _questions(lab, direction):
                lab.model.encode([prompt + answer for prompt in prompts for answer in answers])
    except UserError:
        for order in orders.values():
            yield PICKED.not_asked("because the model's context is too short for the facts", about={"order": order})
        return
    right = {direction: _pick(lab, direction) for direction in DIRECTIONS}
    rows: list[Row] = []
    for direction in DIRECTIONS:
        for t, template in enumerate(ASKED[direction]):
            at = estimate_mean(right[direction][t], unit=QUESTIONS, over="context", bounds=(0.0, 1.0))
            question = template.replace("{}", "…")
            rows.append({"question": question, "asked": direction, QUESTIONS: at.mean, "low": at.low, "high": at.high})
    caption = f"The right one of {PEOPLE} answers chosen; intervals over prompts."
    for direction, order in orders.items():
        first, in_wordings = direction == "forward", list(right[direction].values())
        # each prompt's wordings averaged: all of them, or in a quick run its own
        by_prompt = np.concatenate(in_wordings) if lab.quick else np.mean(in_wordings, axis=0)
        yield PICKED.answer(
            estimate_mean(by_prompt, unit=QUESTIONS, over="context", bounds=(0.0, 1.0)),
            set_beforehand(1 / PEOPLE, QUESTIONS, f"1 of {PEOPLE} facts in the prompt"),
            about={"order": order},
            measure=f"{len(by_prompt)} prompts of {PEOPLE} facts, each asked for in "
            f"{'one of ' if lab.quick else ''}{len(in_wordings)} wordings.",
            table=rows if first else [],
            figure=dots(QUESTIONS, "question", "asked", caption, 1 / PEOPLE) if first else None,
        )


def _questions(lab: Lab, direction: Direction) -> Iterator[tuple[Sequence[int], list[str], list[str]]]:
    """(wordings, prompts, answers) of each context: its wordings for every person, and the answers of the persons."""
    contexts, every = QUICK_CONTEXTS if lab.quick else CONTEXTS, range(len(ASKED[direction]))
    for number, people in enumerate(invent_groups([PEOPLE] * contexts, lab.seed, 1)):
        wordings = [number % len(every)] if lab.quick else every
        pairs = [(p.subject.capitalize(), p.object.capitalize()) for p in people]
        stated = "Here are some facts. " + " ".join(STATED.format(*pair) for pair in pairs)
        given, wanted = zip(*(pair if direction == "forward" else pair[::-1] for pair in pairs), strict=True)
        prompts = [f"{stated} {ASKED[direction][wording].format(item)}" for wording in wordings for item in given]
        yield wordings, prompts, [f" {answer}" for answer in wanted]


def _pick(lab: Lab, direction: Direction) -> dict[int, NDArray[np.float64]]:
    """What share of its people's right answers is chosen, by wording: [context]."""
    right: dict[int, list[float]] = {wording: [] for wording in range(len(ASKED[direction]))}
    for done, (wordings, prompts, answers) in enumerate(_questions(lab, direction)):
        scores = score_answers(lab.model, prompts, answers).summed.numpy()
        for wording, chosen in zip(wordings, top_choice(scores.reshape(-1, PEOPLE, PEOPLE)).mean(-1), strict=True):
            right[wording].append(float(chosen))
        lab.progress(f"facts in the prompt, {direction}", done + 1, QUICK_CONTEXTS if lab.quick else CONTEXTS)
    return {wording: np.array(values) for wording, values in right.items()}
