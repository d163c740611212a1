"""What the loaded model knew beforehand, and what it knows afterwards: log-probabilities, whatever it would write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Control, Finding, Lab, Model, NotAsked, begin_alike, has_chat, measured, zero
from interp.analysis import score_answers
from interp.stats import estimate_mean, matched_scores, pooled_pairing_null, top_choice

from . import ANSWERS, DIFFERENCE, NATS, ONE_SEED, SHARE
from .questions import FEWEST, Exam, Question, by_task

HALF_A_NAT = 0.5
# As far ahead as in reversal-curse: 2.7 times as likely. Half a nat was too little: models that know nothing and copy
# a question's first letters or tokens led by 2.4 and 0.4 nats on all questions, by 0.2 each on those judged here.
AHEAD = 1.0
LEAD = (
    "Log-probability of a question's own answer above the other answers of its task, what is common about a question "
    "and about an answer taken out, in the same format, without the mark."
)
UNLIKE = (
    "Judged on questions whose answer begins like no word of what is asked about, among themselves: no plural is one."
)
SPELLING = "Spelling can give an answer away in other ways than by its first letter: in its endings or its language."

KNEW = Claim(
    "The answers were there before fine-tuning: in a base model, the right one was ahead of the others by 1 nat.",
    expects="greater",
    margin=AHEAD,
    unit=NATS,
    part=ANSWERS,
    answers=True,
    measure=f"{LEAD} {UNLIKE}",
    caveat=SPELLING,
)
KNEW_ALREADY = Claim(
    "The answers were there before this fine-tuning: in a model that was fine-tuned to chat before, the right one was "
    "ahead of the others by 1 nat.",
    expects="greater",
    margin=AHEAD,
    unit=NATS,
    part=ANSWERS,
    measure=f"{LEAD} {UNLIKE}",
    caveat=f"What pre-training made of it, and what the fine-tuning before, this cannot tell. {SPELLING}",
)
AS_MANY = Claim(
    "Fine-tuning adds no knowledge: as many right answers as before are the best of their task, within 10 points.",
    expects="equal",
    margin=0.1,
    unit=SHARE,
    part=ANSWERS,
    measure="How often a question's own answer has the best score of its task's answers, what is common about a "
    "question and about an answer taken out.",
    caveat=ONE_SEED,
)
NO_SURER = Claim(
    "Nor does it make the model surer of what was not trained: the lead stays within half a nat.",
    expects="equal",
    margin=HALF_A_NAT,
    unit=NATS,
    part=ANSWERS,
    measure=f"{LEAD} After less before.",
    caveat=f"{ONE_SEED} A model that is surer of everything has larger leads, without knowing more.",
)
CLAIMS = [KNEW, KNEW_ALREADY, AS_MANY, NO_SURER]


def known_answers(model: Model, questions: Sequence[Question]) -> list[NDArray[np.float64]]:
    """Log-probability of every answer of a task behind every question of it: one square a task."""
    out = []
    for places in by_task(questions).values():
        asked = [questions[i] for i in places]
        out.append(score_answers(model, [q.prompt for q in asked], [q.answer for q in asked]).summed.double().numpy())
    return out


def _unlike(questions: Sequence[Question], squares: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """The squares of those questions that a liking for letters cannot answer, of the tasks that have enough of them."""
    kept = [
        [place for place, i in enumerate(places) if not begin_alike(questions[i].item, questions[i].answer)]
        for places in by_task(questions).values()
    ]
    return [square[np.ix_(few, few)] for square, few in zip(squares, kept, strict=True) if len(few) >= FEWEST]


def knowledge(lab: Lab, exam: Exam, tuned: Model) -> Iterator[Finding | NotAsked]:
    """Was the answer there before the format was?"""
    lab.progress("what it knew before", 0, 2)
    before = known_answers(lab.model, exam.held_out)
    lab.progress("what it knows after", 1, 2)
    after = known_answers(tuned, exam.held_out)
    leads = measured(
        {
            (task, name): matched_scores(square)
            for name, squares in (("before", before), ("after", after))
            for task, square in zip(by_task(exam.held_out), squares, strict=True)
        },
        by=("task", "fine-tuning"),
        value="own answer above others (nats)",
        unit=NATS,
        over="question",
        seed=lab.seed,
    )
    shown = {
        "table": leads.rows(),
        "figure": leads.dots(
            y="task", chance=0.0, caption="Held-out questions; intervals over questions; 0 is chance."
        ),
    }
    judged = _unlike(exam.held_out, before)
    lead_before, lead_after = (np.concatenate([matched_scores(one) for one in squares]) for squares in (before, after))
    best_before, best_after = (np.concatenate([top_choice(one) for one in squares]) for squares in (before, after))
    name, tuned_already = lab.model.provenance.name, has_chat(lab.model)
    not_asked = {
        KNEW: f"because {name} was fine-tuned already, as its chat template says; --model of a base model asks it",
        KNEW_ALREADY: f"because {name} is taken for a base model: its tokenizer has no chat template",
    }
    for claim in (KNEW, KNEW_ALREADY):
        if tuned_already == (claim is KNEW):
            yield claim.not_asked(not_asked[claim])
            continue
        if not judged:
            yield claim.not_asked(f"because no task has {FEWEST} questions whose answers begin like no word of theirs")
            continue
        yield claim.answer(
            estimate_mean(
                np.concatenate([matched_scores(one) for one in judged]), unit=NATS, over="question", seed=lab.seed
            ),
            Control("answers dealt to the questions at random", pooled_pairing_null(judged, unit=NATS, seed=lab.seed)),
            **shown,
        )
    yield AS_MANY.answer(
        estimate_mean(best_after - best_before, unit=SHARE, over="question", bounds=DIFFERENCE, seed=lab.seed),
        zero(SHARE, "as before"),
        measure=f"{best_after.mean():.0%} after less {best_before.mean():.0%} before.",
        table=leads.rows(),
    )
    yield NO_SURER.answer(
        estimate_mean(lead_after - lead_before, unit=NATS, over="question", seed=lab.seed),
        zero(NATS, "as before"),
        **shown,
    )
