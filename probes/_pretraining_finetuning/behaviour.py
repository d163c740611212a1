"""What the loaded model answers before and after, what it knew beforehand, and what it forgot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Control, Figure, Finding, Lab, Model, Row, encode_pairs, split_corpus
from interp.analysis import score_answers, score_completions
from interp.stats import estimate_mean, known, matched_scores, pooled_pairing_null, proportion, top_choice

from . import ANSWERS, EXACT, FORGOTTEN, NATS, SHARE
from .questions import Exam, Question, by_task

MORE, AHEAD, SAME, AS_MANY, FORGETS = 0.2, 0.5, 0.5, 0.1, 0.05  # share, nats, nats, share, nats a token
LOSS = "loss (nats per token)"
ONE_SEED = "One fine-tuning of one model: the interval is over questions, not over other fine-tunings."


@dataclass(frozen=True)
class Sitting:
    """One model's answers: [question]. `exact`: the right answer and the end mark, written greedily. `word`: the right

    answer, whatever follows. `ends`: the end mark, once the right answer stands there. `summed`: nats of both.
    """

    exact: NDArray[np.bool_]
    word: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    summed: NDArray[np.float64]


def sit(model: Model, questions: Sequence[Question]) -> Sitting:
    """Read off the likeliest token at every place of each question's own answer."""
    scores = score_completions(model, [question.example for question in questions])
    bare = [len(ids) - start for ids, start in encode_pairs(model, [(q.prompt, q.answer) for q in questions])]
    agrees = scores.agrees.numpy()
    word = np.array([row[:n].all() for row, n in zip(agrees, bare, strict=True)])
    ends = np.array([row[n:].all() for row, n in zip(agrees, bare, strict=True)])
    return Sitting(word & ends, word, ends, scores.summed.double().numpy())


def known_answers(model: Model, questions: Sequence[Question]) -> list[NDArray[np.float64]]:
    """Log-probability of every answer of a task behind every question of it: one square a task."""
    out = []
    for places in by_task(questions).values():
        some = [questions[i] for i in places]
        out.append(score_answers(model, [q.prompt for q in some], [q.answer for q in some]).summed.double().numpy())
    return out


def answers(lab: Lab, exam: Exam, tuned: Model) -> Iterator[Finding]:
    """Part (a)."""
    sides = {"trained": exam.taught, "held out": exam.held_out, "tasks not trained": exam.other}
    sat: dict[tuple[str, str], Sitting] = {}
    table: list[Row] = []
    for name, model in (("before", lab.model), ("after", tuned)):
        for side, questions in sides.items():
            sat[side, name] = sit(model, questions)
            table += _rows(side, name, questions, sat[side, name])
            lab.progress("asking, before and after", len(sat), 6)
    figure = Figure(
        "interval_dots", x=EXACT, y="questions", group="fine-tuning", low="low", high="high",
        caption="The right answer and the end mark, written greedily. Intervals over questions.",
    )  # fmt: skip
    for side, what in (
        ("held out", "It learns the format: questions of the trained tasks that it has not seen are answered exactly"),
        ("tasks not trained", "The format carries over: questions of tasks that were not trained are answered exactly"),
    ):
        after, before = sat[side, "after"], sat[side, "before"]
        yield Finding(
            claim=f"{what}, 20 points more often than before.",
            estimate=proportion(after.exact, unit=SHARE, over="question"),
            control=Control("before", proportion(before.exact, unit=SHARE, over="question")),
            expects="greater",
            margin=MORE,
            part=ANSWERS,
            answers=side == "held out",
            measure=f"The right answer and “{exam.taught[0].example[1].split()[-1]}” behind it, as the model's "
            f"likeliest text. The answer alone, whatever follows: {before.word.mean():.0%} before, "
            f"{after.word.mean():.0%} after. The mark, once the right answer stands there: {before.ends.mean():.0%} "
            f"and {after.ends.mean():.0%}. {_shown(lab.model, tuned, sides[side][0])}",
            caveat=f"{ONE_SEED} The mark is new, so before it no answer can be exact: read the answer alone beside it.",
            table=[row for row in table if str(row["questions"]).startswith((side, "trained"))],
            figure=figure,
        )
    yield from _knowledge(lab, exam, tuned)


def _rows(side: str, name: str, questions: Sequence[Question], sitting: Sitting) -> list[Row]:
    """All questions of a side; and task by task, where they are not the trained ones."""
    groups = {side: list(range(len(questions)))}
    if side != "trained":
        groups |= {f"{side} · {task}": places for task, places in by_task(questions).items()}
    out: list[Row] = []
    for label, places in groups.items():
        at = proportion(sitting.exact[places], unit=SHARE, over="question")
        out.append({"questions": label, "fine-tuning": name, EXACT: at.mean, "low": at.low, "high": at.high})
        out[-1] |= {"right answer, whatever follows (share)": float(sitting.word[places].mean())}
        out[-1] |= {"log-probability of answer and mark (nats)": float(sitting.summed[places].mean())}
        out[-1] |= {"n": len(places)}
    return out


def _shown(before: Model, after: Model, question: Question) -> str:
    """One question with what both models write."""
    texts = []
    for model in (before, after):
        ids = model.encode([question.prompt])
        room = _room(model, len(ids[0]) + 7) - len(ids[0])
        texts.append(" ".join(model.generate(ids, max_new_tokens=room).texts[0].split()) if room > 0 else "")
    return f"“{question.prompt}” is continued by “{texts[0]} …” before and by “{texts[1]} …” after."


def _knowledge(lab: Lab, exam: Exam, tuned: Model) -> Iterator[Finding]:
    """Was the answer there before the format was?"""
    lab.progress("what it knew before", 0, 2)
    before = known_answers(lab.model, exam.held_out)
    lab.progress("what it knows after", 1, 2)
    after = known_answers(tuned, exam.held_out)
    ours, theirs = (np.concatenate([matched_scores(square) for square in some]) for some in (before, after))
    table: list[Row] = []
    for (task, _), squares in zip(by_task(exam.held_out).items(), zip(before, after, strict=True), strict=True):
        for name, square in zip(("before", "after"), squares, strict=True):
            at = estimate_mean(matched_scores(square), unit=NATS, over="question", seed=lab.seed)
            table.append({"task": task, "fine-tuning": name, "own answer above others (nats)": at.mean})
            table[-1] |= {"low": at.low, "high": at.high}
    measure = (
        "Log-probability of a question's own answer above the other answers of its task, what is common about a "
        "question and about an answer taken out, in the same format, without the mark."
    )
    figure = Figure(
        "interval_dots", x="own answer above others (nats)", y="task", group="fine-tuning", low="low", high="high",
        chance=0.0, caption="Held-out questions; intervals over questions; 0 is chance.",
    )  # fmt: skip
    yield Finding(
        claim="The answers were there before fine-tuning: the right one was ahead of the others by half a nat.",
        estimate=estimate_mean(ours, unit=NATS, over="question", seed=lab.seed),
        control=Control(
            "answers dealt to the questions at random", pooled_pairing_null(before, unit=NATS, seed=lab.seed)
        ),
        expects="greater",
        margin=AHEAD,
        part=ANSWERS,
        answers=True,
        measure=measure,
        caveat="Spelling helps where an answer resembles its question, as plurals do.",
        table=table,
        figure=figure,
    )
    chosen = [np.concatenate([top_choice(square) for square in some]) for some in (before, after)]
    yield Finding(
        claim="Fine-tuning adds no knowledge: as many right answers as before are the best of their task, within 10 "
        "points.",
        estimate=estimate_mean(chosen[1] - chosen[0], unit=SHARE, over="question", bounds=(-1.0, 1.0), seed=lab.seed),
        control=Control("as before", known(0.0, unit=SHARE, why="no difference")),
        expects="equal",
        margin=AS_MANY,
        part=ANSWERS,
        measure="How often a question's own answer has the best score of its task's answers, what is common about a "
        f"question and about an answer taken out: {chosen[1].mean():.0%} after less {chosen[0].mean():.0%} before.",
        caveat=ONE_SEED,
        table=table,
    )
    yield Finding(
        claim="Nor does it make the model surer of what was not trained: the lead stays within half a nat.",
        estimate=estimate_mean(theirs - ours, unit=NATS, over="question", seed=lab.seed),
        control=Control("as before", known(0.0, unit=NATS, why="no difference")),
        expects="equal",
        margin=SAME,
        part=ANSWERS,
        measure=f"{measure} After less before.",
        caveat=f"{ONE_SEED} A model that is surer of everything has larger leads, without knowing more.",
        table=table,
        figure=figure,
    )


def ordinary_text(lab: Lab) -> list[list[int]]:
    """Held-out documents as token ids."""
    n, tokens = (8, 48) if lab.quick else (16, 64)
    rows = [ids for ids in lab.model.encode(split_corpus()[1], cut=_room(lab.model, tokens)) if len(ids) > 2]
    return rows[:n]


def _room(model: Model, tokens: int) -> int:
    context = model.context_length
    return min(tokens, context) if context else tokens


def text_losses(model: Model, rows: Sequence[list[int]]) -> NDArray[np.float64]:
    """Mean surprise of each document's tokens but the first, in nats."""
    return model.loss(rows, batch_size=4).double().nanmean(1).cpu().numpy()


def forgotten(lab: Lab, tuned: Model, rows: Sequence[list[int]], shuffled: Model | None) -> Finding:
    """Part (b)."""
    lab.progress("reading ordinary text", 0, 1)
    before, after = text_losses(lab.model, rows), text_losses(tuned, rows)
    told = {"before": before, "after": after}
    if shuffled is not None:
        told["after, on answers of other questions"] = text_losses(shuffled, rows)
    table: list[Row] = []
    for i in np.argsort(after - before)[::-1].tolist():
        table += [{"document": f"document {i + 1}", "fine-tuning": name, LOSS: float(v[i])} for name, v in told.items()]
    also = "" if shuffled is None else f" On answers of other questions: {(told[list(told)[-1]] - before).mean():+.2f}."
    return Finding(
        claim="Fine-tuning forgets: the loss on ordinary text rises by more than 0.05 nats a token.",
        estimate=estimate_mean(after - before, unit="nats per token", over="document", seed=lab.seed),
        control=Control("as before", known(0.0, unit="nats per token", why="no difference")),
        expects="greater",
        margin=FORGETS,
        part=FORGOTTEN,
        answers=True,
        measure=f"Loss on {len(rows)} held-out documents, after less before ({before.mean():.2f} nats).{also}",
        caveat=f"{ONE_SEED.replace('questions', 'documents')} More steps or a larger rate forget more. The bundled "
        "model wrote the documents itself.",
        table=table,
        figure=Figure(
            "interval_dots", x=LOSS, y="document", group="fine-tuning",
            caption="Every document, before and after; those that lost most on top.",
        ),
    )  # fmt: skip
