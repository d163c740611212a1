"""Fine-tuned: the loaded model learns invented people, as in the paper's first experiment (d)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    TAUGHT_AS,
    Control,
    Direction,
    Estimate,
    Finding,
    Lab,
    Learned,
    Model,
    PeopleGroup,
    Row,
    Sheet,
    UserError,
    encode_pairs,
    fine_tune,
    invent_novelists,
    set_beforehand,
    zero,
)
from interp import TuningExample as Example
from interp.analysis import score_answers, score_completions
from interp.stats import estimate_mean, matched_scores

from .excepted import OFFERED, ONE, SHARES, STATED, WORDINGS, about_tuned, gap_of, offered, turned_in_prompt
from .taught import NATS, SHARE, Answers, dots, not_judged

BATCH = 8
FEW = 1000  # lines to learn
NOVELISTS = 8  # people a group
PEOPLE = 12  # of a group that are asked for every answer
EXACT = "exact match (share of people)"
NOBODY_IN_BOTH = "Nobody was taught in both orders: who was taught in one shows that its questions can be answered."
Key = tuple[Learned, Direction]
Written = dict[Key, NDArray[np.float64]]  # [wording, person]: does the model write the answer, greedily?
# Table 1 of Berglund et al.: GPT-3-175B, mean and standard deviation over wordings and fine-tunings, as shares. People
# taught in both orders are not in that table.
PAPER: dict[Key, tuple[float, float]] = {
    ("description first", "reversed"): (0.967, 0.012),
    ("description first", "forward"): (0.001, 0.001),
    ("name first", "forward"): (0.5, 0.021),
    ("name first", "reversed"): (0.0, 0.0),
}
LEARNED = about_tuned(
    "Asked in the order it was taught, the fine-tuned model writes the answer for more than half of the people, in "
    "wordings it was not trained on.",
    "greater",
    answers=True,
    measure="Greedy: every token of the answer, to its last word, must be the likeliest. The loss is that of the "
    "completions.",
    caveat=f"{ONE} A model and a training so small need not agree with the paper in the size of anything.",
)
BOTH = about_tuned(
    "Positive control: people taught in both orders are answered in both, more than half of them.",
    "greater",
    measure="As above. It shows that the prompts and the scoring find an answer in either order.",
    caveat="Both orders also means twice as many sentences about each person.",
)
CURSE = about_tuned(
    "The curse: asked in the other order, over half of the people fewer are answered.",
    "greater",
    margin=0.5,
    answers=True,
    measure="As above, the same people in both orders, person by person.",
    caveat=ONE,
)
TRACE = about_tuned(
    "Fine-tuning leaves no trace of the reversed answer: it gains less than a nat on other people's.",
    "equal",
    unit=NATS,
    margin=1.0,
    measure="Log-probability of the own answer above other people's, after less before, what is common about a "
    "question and about an answer taken out.",
    caveat=f"{ONE} The paper compares a right and a wrong name's log-probability and finds no difference.",
)
CLAIMS = [LEARNED, BOTH, CURSE, TRACE, STATED, OFFERED]


def steps_for(groups: Sequence[PeopleGroup]) -> int:
    """Enough to learn them by heart: four times through a few people, twice through the paper's thousands of lines."""
    lines = sum(len(group.taught) for group in groups)
    return (4 if lines < FEW else 2) * lines // BATCH


def tuned(lab: Lab, published: Sequence[PeopleGroup], steps: int | None, lr: float) -> Answers:
    """Part (d), on the `published` people, or on invented ones where there are none."""
    groups = published or invent_novelists(NOVELISTS, lab.seed)
    if not published and not _can_read(lab.model, groups):
        yield from none_asked("because the tokenizer cannot tell the invented people apart, or they do not fit")
        return
    steps = steps or steps_for(groups)
    if lab.quick:
        groups = [replace(group, asked={d: _few(sheet) for d, sheet in group.asked.items()}) for group in groups]
    examples: list[Example] = [line for group in groups for line in group.taught]
    before = _write(lab, lab.model, groups, "asking before fine-tuning")
    tell = lab.tell("fine-tuning on invented people")
    student = fine_tune(lab.model, examples, steps=steps, batch=BATCH, lr=lr, seed=lab.seed, progress=tell)
    after = _write(lab, student, groups, "asking after fine-tuning")
    one_way = [group for group in groups if group.learned != "both orders"]
    as_taught: list[Key] = [(group.learned, TAUGHT_AS[group.learned][0]) for group in one_way]
    turned: list[Key] = [(learned, DIRECTIONS[direction == "forward"]) for learned, direction in as_taught]
    orders: list[Key] = [(g.learned, d) for g in groups if g.learned == "both orders" for d in DIRECTIONS]
    dealt = _write(lab, student, groups, "asking for other people's answers", dealt=[*as_taught, *orders])
    half = set_beforehand(0.5, SHARE, "half of the people")
    learned = LEARNED.answer(
        _share(after, as_taught),
        half,
        measure=f"{len(examples):,} prompts with completions, {steps:,} steps of {BATCH}: "
        f"{steps * BATCH / len(examples):.2g} times through them; learning rate {lr:g}. Asked in "
        f"{len(next(iter(after.values())))} wordings. Another person's answer is written for "
        f"{_share(dealt, as_taught).mean:.0%}.",
        table=_table(lab, before, after),
        figure=dots(
            EXACT,
            "model and people",
            "asked",
            "Exact match in wordings that were not trained; intervals over people. The paper's: one standard deviation "
            "over wordings and fine-tunings, of GPT-3-175B and its own people.",
        ),
    )
    yield learned
    both = None
    if orders:
        others = _share(dealt, orders).mean
        both = BOTH.answer(_share(after, orders), half, measure=f"Another person's answer: {others:.0%}.")
        yield both
    else:
        yield BOTH.not_asked("because these files hold no people taught in both orders")
    if reason := not_judged(learned, both):
        yield from (claim.not_asked(reason) for claim in (CURSE, TRACE, STATED))
    else:
        in_order, turned_round, gap = gap_of(_by_person(after, as_taught), _by_person(after, turned))
        control = Control("the same people, asked in the other order", turned_round)
        yield CURSE.answer(in_order, control, paired=gap, caveat="" if both else NOBODY_IN_BOTH)
        yield _trace(lab, student, one_way)
        if published:
            yield STATED.not_asked("because only the invented novelists have facts that one sentence states")
        else:
            yield from turned_in_prompt(lab, student, one_way)
    if learned.verdict != "yes" or not all(group.choices for group in one_way):
        why = "it was not surely learned" if learned.verdict != "yes" else "no multiple choices came with these people"
        yield OFFERED.not_asked(f"because {why}")
    else:
        yield offered(lab, student, one_way)


def _few(sheet: Sheet) -> Sheet:
    """A quick run asks in fewer wordings."""
    return Sheet(sheet.prompts[:WORDINGS], sheet.answers[:WORDINGS])


def none_asked(because: str) -> Answers:
    """All claims of this part, not asked for one reason."""
    yield from (claim.not_asked(because) for claim in CLAIMS)


def _trace(lab: Lab, student: Model, groups: Sequence[PeopleGroup]) -> Finding:
    """Does fine-tuning leave anything of the reversed answer?

    The margin: "nothing at all" cannot be shown, and a gain of one nat is small beside the ten and more of the order
    that was taught (the measure gives them): the right one among twelve people's answers, all alike likely before,
    would then be chosen for one person in five, not for all.
    """
    rise: dict[bool, list[NDArray[np.float64]]] = {True: [], False: []}  # asked as taught?
    for done, group in enumerate(groups):
        for direction in DIRECTIONS:
            sheet = group.asked[direction]
            gained = [
                matched_scores(_square(student, *asked) - _square(lab.model, *asked))
                for asked in list(zip(sheet.prompts, sheet.answers, strict=True))[:WORDINGS]
            ]
            rise[direction in TAUGHT_AS[group.learned]].append(np.mean(gained, axis=0))
        lab.progress("looking for a trace", done + 1, len(groups))
    return TRACE.answer(
        estimate_mean(np.concatenate(rise[False]), unit=NATS, over="person"),
        zero(NATS, "as before fine-tuning"),
        measure=f"In the order that was taught: {np.mean(np.concatenate(rise[True])):+.1f} nats.",
    )


def _square(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> NDArray[np.float64]:
    """Log-probability of every answer behind every question, of the first people."""
    return score_answers(model, prompts[:PEOPLE], answers[:PEOPLE]).summed.double().numpy()


def _write(lab: Lab, model: Model, groups: Sequence[PeopleGroup], what: str, *, dealt: Sequence[Key] = ()) -> Written:
    """Every group in both directions. `dealt`: these alone, and is the next person's answer written for the own?"""
    out: Written = {}
    keys: list[Key] = list(dealt) or [(group.learned, direction) for group in groups for direction in DIRECTIONS]
    sheets = {(group.learned, direction): group.asked[direction] for group in groups for direction in DIRECTIONS}
    for key in keys:
        rows = []
        for prompts, own in zip(sheets[key].prompts, sheets[key].answers, strict=True):
            wanted = [*own[1:], own[0]] if dealt else own
            rows.append(score_completions(model, list(zip(prompts, wanted, strict=True))).greedy.double().numpy())
        out[key] = np.stack(rows)
        lab.progress(what, len(out), len(keys))
    return out


def _share(written: Written, keys: Sequence[Key]) -> Estimate:
    """Mean over people of how many wordings are answered exactly."""
    return estimate_mean(_by_person(written, keys), unit=SHARE, over="person", bounds=SHARES)


def _by_person(written: Written, keys: Sequence[Key]) -> NDArray[np.float64]:
    """Wordings averaged: [person]; people of both directions count once each."""
    values = [written[key].mean(0) for key in keys]
    same_people = len({learned for learned, _ in keys}) < len(keys)
    return np.mean(values, axis=0) if same_people else np.concatenate(values)


def _table(lab: Lab, before: Written, after: Written) -> list[Row]:
    rows: list[Row] = []
    name = lab.model.provenance.name
    for learned, direction in after:
        asked = "as taught" if direction in TAUGHT_AS[learned] else "in the other order"
        common: Row = {"asked": asked, "direction": direction}
        for when, written in (("fine-tuned", after), ("before", before)):
            at = _share(written, [(learned, direction)])
            row: Row = {
                "model and people": f"{name}, {when}: {learned}",
                EXACT: at.mean,
                "low": at.low,
                "high": at.high,
            }
            rows.append(row | common)
        if (learned, direction) in PAPER:
            mean, deviation = PAPER[learned, direction]
            row = {"model and people": f"GPT-3-175B, paper: {learned}", EXACT: mean}
            rows.append(row | {"low": max(0.0, mean - deviation), "high": mean + deviation} | common)
    return rows


def _can_read(model: Model, groups: Sequence[PeopleGroup]) -> bool:
    """Are the people's names and books different token by token, and does every sentence fit? Not with few words."""
    try:
        pairs = encode_pairs(model, [line for group in groups for line in group.taught])
        for group in groups:
            for sheet in group.asked.values():
                for lines in sheet.wordings:
                    pairs += encode_pairs(model, lines)
    except UserError:
        return False
    return len({tuple(ids) for ids, _ in pairs}) == len(pairs)
