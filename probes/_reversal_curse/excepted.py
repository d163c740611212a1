"""Excepted: what the fine-tuned model can do all the same, read a fact off its prompt and choose among options (d)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    TAUGHT_AS,
    Claim,
    Control,
    Direction,
    Finding,
    Lab,
    Model,
    PeopleGroup,
    Sheet,
    UserError,
    measured,
    state_facts,
)
from interp.analysis import choose_among, score_answers
from interp.stats import PairedEstimates, estimate_gap, top_choice

from .taught import SHARE, Answers

PART = "(d) The loaded model, fine-tuned on invented people"
ONE = "One fine-tuning of one model: the interval is for other people, not for other fine-tunings."
SHARES = (0.0, 1.0)
IN_PROMPT = 4  # people whose facts stand in one prompt
WORDINGS = 2  # of a question, where every answer or every option is asked for
CHOOSE = "\nI choose option"  # what follows a multiple choice
about_tuned = partial(Claim, unit=SHARE, part=PART)
STATED = about_tuned(
    "An exception: what the fine-tuned model cannot turn round from its weights, it turns round where it stands in the "
    "prompt, for 20 points more of the people.",
    "greater",
    margin=0.2,
    measure=f"The facts of {IN_PROMPT} people, in the order that was taught, then a question in the other order, "
    "worded as other people's were in training; beside the same questions alone. The right one of their "
    f"{IN_PROMPT} answers must score best, priors taken out (by centring over prompts and answers).",
    caveat="Picking what stands beside the item is enough.",
)
OFFERED = about_tuned(
    "An exception: where name and description both stand in a multiple choice, fine-tuning helps it choose in the "
    "other order too, for 10 points more of the people.",
    "greater",
    margin=0.1,
    measure="The right letter must be the likeliest of those offered, after fine-tuning and before, the same "
    "questions (Lin et al., arXiv:2410.18808).",
    caveat=f"{ONE} They find it for people taught name first, not for the others: see the table for the two apart.",
)


def turned_in_prompt(lab: Lab, student: Model, groups: Sequence[PeopleGroup]) -> Answers:
    """What fine-tuning did not turn round, stated in the prompt."""
    right: dict[str, NDArray[np.float64]] = {}
    sheets = [state_facts(group) for group in groups]
    for done, (when, model) in enumerate((("before", lab.model), ("after", student))):
        lab.progress("facts in the prompt", done, 2)
        for where, stated in (("in the prompt", True), ("not in the prompt", False)):
            try:
                parts = [_choose(model, sheet, facts if stated else None) for facts, sheet in sheets]
            except UserError:
                yield STATED.not_asked("because the facts do not fit into the model's context")
                return
            right[f"{when} fine-tuning, {where}"] = np.concatenate(parts)
    shown = measured(
        right, by=("the fact",), value="right answer chosen (share of people)", over="person", bounds=SHARES
    )
    # the same people, in the same order
    inside, outside = (right[f"after fine-tuning, {where}in the prompt"] for where in ("", "not "))
    pair = gap_of(inside, outside)
    yield STATED.answer(
        pair.estimate,
        Control("the same questions alone", pair.control),
        paired=pair.gap,
        table=shown.rows(),
        figure=shown.dots(
            "the fact", f"The right one of {IN_PROMPT} answers; intervals over people.", chance=1 / IN_PROMPT
        ),
    )


def _choose(model: Model, sheet: Sheet, facts: Sequence[str] | None) -> NDArray[np.float64]:
    """Is each person's name the best of the few that are asked together? [person, wording]"""
    n = len(sheet.prompts[0]) // IN_PROMPT * IN_PROMPT
    out = np.zeros((n, len(sheet.prompts)))
    for w, (prompts, answers) in enumerate(zip(sheet.prompts, sheet.answers, strict=True)):
        for start in range(0, n, IN_PROMPT):
            few = slice(start, start + IN_PROMPT)
            stated = "" if facts is None else " ".join(facts[few]) + " "
            scores = score_answers(model, [stated + prompt for prompt in prompts[few]], answers[few])
            out[few, w] = top_choice(scores.summed.double().numpy())
    return out


def offered(lab: Lab, student: Model, groups: Sequence[PeopleGroup]) -> Finding:
    """The right letter of a multiple choice, before and after, in the order that was not taught."""
    right = {
        (when, "as taught" if direction in TAUGHT_AS[group.learned] else "in the other order", group.learned): _letters(
            model, group, direction
        )
        for when, model in (("before", lab.model), ("after", student))
        for group in groups
        for direction in DIRECTIONS
    }
    shown = measured(
        {(f"{learned}, {when} fine-tuning", asked): values for (when, asked, learned), values in right.items()},
        by=("people", "asked"),
        value="right letter (share of people)",
        over="person",
        bounds=SHARES,
    )
    other = {
        when: np.concatenate([right[when, "in the other order", group.learned] for group in groups])
        for when in ("before", "after")
    }
    pair = gap_of(other["after"], other["before"])
    return OFFERED.answer(
        pair.estimate,
        Control("before fine-tuning", pair.control),
        paired=pair.gap,
        table=shown.rows(),
        figure=shown.dots("people", "Intervals over people.", chance=1 / len(groups[0].letters)),
    )


def _letters(model: Model, group: PeopleGroup, direction: Direction) -> NDArray[np.float64]:
    """How often each person's right letter is the likeliest, over wordings: [person]."""
    out = []
    for asked in group.choices[direction].wordings[:WORDINGS]:
        share = choose_among(model, [line.prompt + CHOOSE for line in asked], group.letters).share
        out.append(share.argmax(1) == [group.letters.index(line.completion) for line in asked])
    return np.mean(out, axis=0)


def gap_of(values: NDArray[np.float64], control: NDArray[np.float64]) -> PairedEstimates:
    """Two shares of the same people, and the one less the other, person by person."""
    return estimate_gap(values, control, unit=SHARE, over="person", bounds=SHARES)
