"""Part (b), the control: does the loaded model reverse a fact that stands in its prompt?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp import Control, Direction, Figure, Finding, Lab, Row, UserError, invent_groups
from interp.analysis import score_answers
from interp.stats import estimate_mean, known, top_choice

from . import DIRECTIONS

CONTEXTS = 12  # a third of them in a quick run
PEOPLE = 4  # in each context, one fact a person; chance is 1 in 4
UNIT = "share of questions"
MARGIN = 0.1
STATED = "{} is the painter of {}."
ASKED: dict[Direction, tuple[str, ...]] = {
    "forward": ("So {} is the painter of", "Question: What did {} paint? Answer:", "It follows that {} painted"),
    "reversed": ("So {} is the work of", "Question: Who painted {}? Answer:", "It follows that {} was painted by"),
}


def in_context(lab: Lab) -> Iterator[Finding]:
    """Invented facts that the prompt states in one order, asked in both. Nothing where the context is too short."""
    if not _fits(lab):
        return
    chosen: dict[Direction, np.ndarray] = {direction: _ask(lab, direction) for direction in DIRECTIONS}
    rows: list[Row] = []
    for direction, right in chosen.items():
        for t, template in enumerate(ASKED[direction]):
            e = estimate_mean(right[:, t], unit=UNIT, over="context", bounds=(0.0, 1.0))
            question = template.replace("{}", "…")
            rows.append({"question": question, "asked": direction, UNIT: e.mean, "low": e.low, "high": e.high})
    for direction, right in chosen.items():
        order = "the same order" if direction == "forward" else "the other order"
        yield Finding(
            claim=f"An invented fact that the prompt states, asked for in {order}, is picked out of {PEOPLE} in more "
            f"than {1 / PEOPLE + MARGIN:.0%} of questions.",
            estimate=estimate_mean(right, unit=UNIT, over="context", bounds=(0.0, 1.0)),
            control=Control("chance", known(1 / PEOPLE, unit=UNIT, why=f"1 of {PEOPLE} facts in the prompt")),
            expects="greater",
            margin=MARGIN,
            part="(b) The loaded model on facts in its prompt",
            measure=f"{len(right)} prompts of {PEOPLE} facts, each fact asked for in {len(ASKED[direction])} wordings. "
            f"The own answer must score best of the {PEOPLE}, priors taken out. The interval is for other people, in "
            "these wordings.",
            caveat="Berglund et al. found no curse for facts in the prompt. A small model may fail at both orders, for "
            "want of skill: compare them.",
            table=rows if direction == "forward" else [],
            figure=_dots() if direction == "forward" else None,
        )


def _fits(lab: Lab) -> bool:
    """Does the model take the longest prompt? Some tokenizers break an invented word into its letters."""
    try:
        for direction in DIRECTIONS:
            for prompts, answers in _questions(lab, direction):
                lab.model.encode([prompt + answer for prompt in prompts for answer in answers])
    except UserError:
        return False
    return True


def _contexts(lab: Lab) -> int:
    return CONTEXTS // 3 if lab.quick else CONTEXTS


def _questions(lab: Lab, direction: Direction) -> Iterator[tuple[list[str], list[str]]]:
    """(prompts, answers) of each context: every template for every person, and the answers of the persons."""
    for people in invent_groups([PEOPLE] * _contexts(lab), lab.seed, 1):
        pairs = [(p.subject.capitalize(), p.object.capitalize()) for p in people]
        stated = "Here are some facts. " + " ".join(STATED.format(*pair) for pair in pairs)
        given, wanted = zip(*(pair if direction == "forward" else pair[::-1] for pair in pairs), strict=True)
        prompts = [f"{stated} {template.format(item)}" for template in ASKED[direction] for item in given]
        yield prompts, [f" {answer}" for answer in wanted]


def _ask(lab: Lab, direction: Direction) -> np.ndarray:
    """Is the right answer chosen? [context, template, person]."""
    out = np.zeros((_contexts(lab), len(ASKED[direction]), PEOPLE))
    for i, (prompts, answers) in enumerate(_questions(lab, direction)):
        scores = score_answers(lab.model, prompts, answers).summed.numpy()
        out[i] = top_choice(scores.reshape(-1, PEOPLE, PEOPLE))
        lab.progress(f"facts in the prompt, {direction}", i + 1, len(out))
    return out


def _dots() -> Figure:
    return Figure(
        "interval_dots",
        x=UNIT,
        y="question",
        group="asked",
        low="low",
        high="high",
        chance=1 / PEOPLE,
        caption=f"The right one of {PEOPLE} answers chosen; intervals over prompts.",
    )
