"""Part (d): the loaded model, fine-tuned on invented people as in the paper's first experiment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from interp import (
    Control,
    Direction,
    Estimate,
    Figure,
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
)
from interp import TuningExample as Example
from interp.analysis import score_answers, score_completions
from interp.stats import estimate_gap, estimate_mean, known, matched_scores, top_choice

from . import DIRECTIONS, TAUGHT_AS
from .novelists import MOST, novelists, stated

PART = "(d) The loaded model, fine-tuned on invented people"
SHARE = "share of people"
BATCH = 8
FEW = 1000  # lines to learn
LEARNED, GAP, TRACE = 0.5, 0.5, 1.0  # share, share, nats
IN_PROMPT = 4  # people whose facts stand in one prompt
PEOPLE, WORDINGS = 12, 2  # of a group that are asked for every answer
EXACT = "exact match (share of people)"
ONE = "One fine-tuning of one model: the interval is for other people, not for other fine-tunings."
PAPER: dict[
    tuple[Learned, Direction], float
] = {  # table 1 of Berglund et al.: GPT-3-175B, shares; both orders are not in that table
    ("description first", "reversed"): 0.967,
    ("description first", "forward"): 0.001,
    ("name first", "forward"): 0.5,
    ("name first", "reversed"): 0.0,
}


Key = tuple[Learned, Direction]
Answers = dict[Key, NDArray[np.float64]]  # [wording, person]: does the model write the answer, greedily?
ONE_WAY: list[Key] = [("name first", "forward"), ("description first", "reversed")]
BACKWARDS: list[Key] = [("name first", "reversed"), ("description first", "forward")]
BOTH: list[Key] = [("both orders", "forward"), ("both orders", "reversed")]


def steps_for(groups: Sequence[PeopleGroup]) -> int:
    """Enough to learn them by heart: four times through a few people, twice through the paper's thousands of lines."""
    lines = sum(len(group.taught) for group in groups)
    return (4 if lines < FEW else 2) * lines // BATCH


def tuned(lab: Lab, published: Sequence[PeopleGroup], steps: int | None, lr: float) -> Iterator[Finding]:
    """Part (d), on the `published` people, or on invented ones where there are none.

    Ends after two findings where the model has not learned; nothing where its tokenizer cannot tell invented people
    apart.
    """
    groups = published or novelists(MOST, lab.seed)
    if not published and not _can_read(lab.model, groups):
        return
    steps = steps or steps_for(groups)
    examples: list[Example] = [line for group in groups for line in group.taught]
    before = _answer(lab, lab.model, groups, "asking before fine-tuning")
    told = lab.tell("fine-tuning on invented people")
    student = fine_tune(lab.model, examples, steps=steps, batch=BATCH, lr=lr, seed=lab.seed, progress=told)
    after = _answer(lab, student, groups, "asking after fine-tuning")
    dealt = _answer(lab, student, groups, "asking for other people's answers", dealt=True)
    plan = f"{len(examples)} prompts with completions, {steps} steps of {BATCH}, learning rate {lr:g}"
    learned = list(_learned(after, dealt, plan, _table(lab, before, after)))
    yield from learned
    if {finding.verdict for finding in learned} != {"yes"}:
        return
    yield Finding(
        claim="The curse: asked in the other order, over half of the people fewer are answered.",
        estimate=_share(after, ONE_WAY),
        control=Control("asked in the other order", _share(after, BACKWARDS)),
        expects="greater",
        margin=GAP,
        part=PART,
        answers=True,
        measure="As above, the same people in both orders.",
        caveat=ONE,
    )
    taught_one_way = [group for group in groups if len(TAUGHT_AS[group.learned]) == 1]
    yield _trace(lab, student, taught_one_way)
    if not published:
        yield from _stated(lab, student, taught_one_way)


def _learned(after: Answers, dealt: Answers, plan: str, table: list[Row]) -> Iterator[Finding]:
    """Was it learned, in the order or orders that were taught?"""
    yield Finding(
        claim="Asked in the order it was taught, the fine-tuned model writes the answer for more than half of the "
        "people, in wordings it was not trained on.",
        estimate=_share(after, ONE_WAY),
        control=Control("another person's answer", _share(dealt, ONE_WAY)),
        expects="greater",
        margin=LEARNED,
        part=PART,
        answers=True,
        measure=f"Greedy: every token of the answer, to its last word, must be the likeliest. {plan}; the loss is that "
        "of the completions. The table has the paper's figures beside ours: GPT-3-175B, its own people.",
        caveat=f"{ONE} A model and a training so small need not agree with the paper in the size of anything.",
        table=table,
        figure=Figure(
            "interval_dots", x=EXACT, y="model and people", group="asked", low="low", high="high",
            caption="Exact match in wordings that were not trained; intervals over people; the paper gives none.",
        ),
    )  # fmt: skip
    yield Finding(
        claim="Positive control: people taught in both orders are answered in both, more than half of them.",
        estimate=_share(after, BOTH),
        control=Control("another person's answer", _share(dealt, BOTH)),
        expects="greater",
        margin=LEARNED,
        part=PART,
        measure="As above. It shows that the prompts and the scoring find an answer in either order.",
        caveat="Both orders also means twice as many sentences about each person.",
    )


def _trace(lab: Lab, student: Model, groups: Sequence[PeopleGroup]) -> Finding:
    """Does fine-tuning leave anything of the reversed answer?"""
    risen: dict[bool, list[NDArray[np.float64]]] = {True: [], False: []}  # asked as taught?
    for done, group in enumerate(groups):
        for direction in DIRECTIONS:
            sheet = group.asked[direction]
            rise = [
                matched_scores(_square(student, *asked) - _square(lab.model, *asked))
                for asked in list(zip(sheet.prompts, sheet.answers, strict=True))[:WORDINGS]
            ]
            risen[direction in TAUGHT_AS[group.learned]].append(np.mean(rise, axis=0))
        lab.progress("looking for a trace", done + 1, len(groups))
    return Finding(
        claim="Fine-tuning leaves no trace of the reversed answer: it gains less than a nat on other people's.",
        estimate=estimate_mean(np.concatenate(risen[False]), unit="nats", over="person"),
        control=Control("before fine-tuning", known(0.0, unit="nats", why="no difference")),
        expects="equal",
        margin=TRACE,
        part=PART,
        measure="Log-probability of the own answer above other people's, after less before, what is common about a "
        f"question and about an answer taken out. In the order that was taught: {np.mean(risen[True]):+.1f} nats.",
        caveat=f"{ONE} The paper compares a right and a wrong name's log-probability and finds no difference.",
    )


def _square(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> NDArray[np.float64]:
    """Log-probability of every answer behind every question, of the first people."""
    return score_answers(model, prompts[:PEOPLE], answers[:PEOPLE]).summed.double().numpy()


def _stated(lab: Lab, student: Model, groups: Sequence[PeopleGroup]) -> Iterator[Finding]:
    """What fine-tuning did not turn round, stated in the prompt. Nothing where the prompts do not fit."""
    right: dict[str, NDArray[np.float64]] = {}
    sheets = [stated(group) for group in groups]
    for done, (when, model) in enumerate((("before", lab.model), ("after", student))):
        lab.progress("facts in the prompt", done, 2)
        for where, told in (("in the prompt", True), ("not in the prompt", False)):
            try:
                parts = [_choose(model, sheet, facts if told else None) for facts, sheet in sheets]
            except UserError:  # the context is too short
                return
            right[f"{when} fine-tuning, {where}"] = np.concatenate(parts)
    rows: list[Row] = []
    for name, values in right.items():
        e = estimate_mean(values, unit=SHARE, over="person", bounds=(0.0, 1.0))
        rows.append({"the fact": name, "right answer chosen (share of people)": e.mean, "low": e.low, "high": e.high})
    # the same people, in the same order
    inside, outside = (right[f"after fine-tuning, {where}in the prompt"] for where in ("", "not "))
    pair = estimate_gap(inside, outside, unit=SHARE, over="person", bounds=(0.0, 1.0))
    yield Finding(
        claim="An exception: what the fine-tuned model cannot turn round from its weights, it turns round where it "
        "stands in the prompt, for 20 points more of the people.",
        estimate=pair.estimate,
        control=Control("the same questions alone", pair.control),
        paired=pair.gap,
        expects="greater",
        margin=0.2,
        part=PART,
        measure=f"The facts of {IN_PROMPT} people, in the order that was taught, then a question in the other order, "
        f"worded as other people's were in training. The right one of their {IN_PROMPT} answers must score best, "
        "priors taken out (by centring over prompts and answers).",
        caveat=f"{len(inside)} people. Picking what stands beside the item is enough.",
        table=rows,
        figure=Figure(
            "interval_dots", x="right answer chosen (share of people)", y="the fact", low="low", high="high",
            chance=1 / IN_PROMPT, caption=f"The right one of {IN_PROMPT} answers; intervals over people.",
        ),
    )  # fmt: skip


def _choose(model: Model, sheet: Sheet, facts: Sequence[str] | None) -> NDArray[np.float64]:
    """Is each person's name the best of the few that are asked together? [person, wording]"""
    n = len(sheet.prompts[0]) // IN_PROMPT * IN_PROMPT
    out = np.zeros((n, len(sheet.prompts)))
    for w, (prompts, answers) in enumerate(zip(sheet.prompts, sheet.answers, strict=True)):
        for start in range(0, n, IN_PROMPT):
            some = slice(start, start + IN_PROMPT)
            stated = "" if facts is None else " ".join(facts[some]) + " "
            scores = score_answers(model, [stated + prompt for prompt in prompts[some]], answers[some])
            out[some, w] = top_choice(scores.summed.double().numpy())
    return out


def _answer(lab: Lab, model: Model, groups: Sequence[PeopleGroup], what: str, *, dealt: bool = False) -> Answers:
    """Every group in both directions. `dealt`: is the next person's answer written, in place of the own?"""
    out: Answers = {}
    for group in groups:
        for direction in DIRECTIONS:
            sheet = group.asked[direction]
            rows = []
            for prompts, own in zip(sheet.prompts, sheet.answers, strict=True):
                wanted = [*own[1:], own[0]] if dealt else own
                rows.append(score_completions(model, list(zip(prompts, wanted, strict=True))).greedy.double().numpy())
            out[group.learned, direction] = np.stack(rows)
            lab.progress(what, len(out), len(groups) * len(DIRECTIONS))
    return out


def _share(answers: Answers, keys: Sequence[Key]) -> Estimate:
    """Mean over people of how many wordings are answered exactly; people of both directions count once each."""
    values = [answers[key].mean(0) for key in keys]
    same_people = len({learned for learned, _ in keys}) == 1
    people = np.mean(values, axis=0) if same_people else np.concatenate(values)
    return estimate_mean(people, unit=SHARE, over="person", bounds=(0.0, 1.0))


def _table(lab: Lab, before: Answers, after: Answers) -> list[Row]:
    rows: list[Row] = []
    name = lab.model.provenance.name
    for learned, directions in TAUGHT_AS.items():
        for direction in DIRECTIONS:
            asked = "as taught" if direction in directions else "in the other order"
            for when, answers in (("fine-tuned", after), ("before", before)):
                e = _share(answers, [(learned, direction)])
                row: Row = {"model and people": f"{name}, {when}: {learned}", "asked": asked, "direction": direction}
                rows.append(row | {EXACT: e.mean, "low": e.low, "high": e.high})
            if (paper := PAPER.get((learned, direction))) is not None:
                row = {"model and people": f"GPT-3-175B, paper: {learned}", "asked": asked, "direction": direction}
                rows.append(row | {EXACT: paper, "low": paper, "high": paper})
    return rows


def _can_read(model: Model, groups: Sequence[PeopleGroup]) -> bool:
    """Are the people's names and books different token by token, and does every sentence fit? Not with few words."""
    try:
        pairs = encode_pairs(model, [line for group in groups for line in group.taught])
        for group in groups:
            for sheet in group.asked.values():
                for prompts, answers in zip(sheet.prompts, sheet.answers, strict=True):
                    pairs += encode_pairs(model, list(zip(prompts, answers, strict=True)))
    except UserError:
        return False
    return len({tuple(ids) for ids, _ in pairs}) == len(pairs)
