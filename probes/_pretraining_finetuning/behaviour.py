"""What the loaded model writes before and after, and what it forgot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Control, Figure, Finding, Lab, Model, Row, bundled_corpus, encode_pairs, split_corpus, zero
from interp.analysis import score_completions
from interp.stats import estimate_mean, proportion

from . import ANSWERS, EXACT, FORGOTTEN, ONE_SEED, SHARE
from .questions import Exam, Question, by_task

PER_TOKEN = "nats per token"
LOSS = "loss (nats per token)"
FORMAT_ALONE = (
    "Before it no answer can be exact, for the mark is new; nor is the bare word of a model that begins with a "
    "sentence. So this is about the format: of knowledge only the log-probabilities tell, in the claims below."
)

LEARNS_FORMAT = Claim(
    "It learns the format: questions of the trained tasks that it has not seen are answered exactly, 20 points more "
    "often than before.",
    expects="greater",
    margin=0.2,
    unit=SHARE,
    part=ANSWERS,
    answers=True,
    measure="The right answer and the mark behind it, as the model's likeliest text.",
    caveat=f"{ONE_SEED} {FORMAT_ALONE}",
)
CARRIES_OVER = Claim(
    "The format carries over: questions of tasks that were not trained are answered exactly, 20 points more often than "
    "before.",
    expects="greater",
    margin=0.2,
    unit=SHARE,
    part=ANSWERS,
    measure="The right answer and the mark behind it, as the model's likeliest text.",
    caveat=f"{ONE_SEED} {FORMAT_ALONE}",
)
FORGETS = Claim(
    "Fine-tuning forgets: the loss on ordinary text rises by more than 0.05 nats a token.",
    expects="greater",
    margin=0.05,
    unit=PER_TOKEN,
    part=FORGOTTEN,
    answers=True,
    caveat=f"{ONE_SEED.replace('questions', 'documents')} More steps or a larger rate forget more.",
)
CLAIMS = [LEARNS_FORMAT, CARRIES_OVER]


@dataclass(frozen=True)
class Sitting:
    """One model's answers: [question].

    `exact`: the right answer and the end mark, written greedily. `word`: the right answer, whatever follows. `ends`:
    the end mark, once the right answer stands there. `summed`: nats of both.
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


def answers(lab: Lab, exam: Exam, tuned: Model) -> Iterator[Finding]:
    """Part (a)."""
    sides = {"trained": exam.taught, "held out": exam.held_out, "tasks not trained": exam.other}
    sat: dict[tuple[str, str], Sitting] = {}
    for name, model in (("before", lab.model), ("after", tuned)):
        for side, questions in sides.items():
            sat[side, name] = sit(model, questions)
            lab.progress("asking, before and after", len(sat), 6)
    for claim, side in ((LEARNS_FORMAT, "held out"), (CARRIES_OVER, "tasks not trained")):
        after, before = sat[side, "after"], sat[side, "before"]
        table = [row for one in ("trained", side) for row in _rows(one, sides[one], sat)]
        # Not question by question: before, none is exact, and Clopper and Pearson's interval knows that a share has an
        # end.
        yield claim.answer(
            proportion(after.exact, unit=SHARE, over="question"),
            Control("before", proportion(before.exact, unit=SHARE, over="question")),
            measure=f"The answer alone, whatever follows: {before.word.mean():.0%} before, "
            f"{after.word.mean():.0%} after. The mark, once the right answer stands there: {before.ends.mean():.0%} "
            f"and {after.ends.mean():.0%}. "
            f"{_shown(lab.model, tuned, sides[side][0])}",
            table=table,
            figure=Figure(
                "interval_dots",
                x=EXACT,
                y="questions",
                group="fine-tuning",
                low="low",
                high="high",
                caption="The right answer and the end mark, written greedily. Intervals over questions.",
            ),
        )


def _rows(side: str, questions: Sequence[Question], sat: dict[tuple[str, str], Sitting]) -> list[Row]:
    """All questions of a side; and task by task, where they are not the trained ones."""
    groups = {side: list(range(len(questions)))}
    if side != "trained":
        groups |= {f"{side} · {task}": places for task, places in by_task(questions).items()}
    out: list[Row] = []
    for name in ("before", "after"):
        sitting = sat[side, name]
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


def ordinary_name() -> str:
    """What text `ordinary_text` is of, in words."""
    return f"held-out documents of {bundled_corpus('sample').name}"


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
    losses = {"before": before, "after": after}
    also = ""
    if shuffled is not None:
        wrong = losses["after, on answers of other questions"] = text_losses(shuffled, rows)
        also = f" On answers of other questions: {(wrong - before).mean():+.2f}."
    table: list[Row] = [
        {"document": f"document {i + 1}", "fine-tuning": name, LOSS: float(values[i])}
        for i in np.argsort(after - before)[::-1].tolist()
        for name, values in losses.items()
    ]
    return FORGETS.answer(
        estimate_mean(after - before, unit=PER_TOKEN, over="document", seed=lab.seed),
        zero(PER_TOKEN, "as before"),
        measure=f"Loss on {len(rows)} {ordinary_name()}, after less before ({before.mean():.2f} nats).{also}",
        table=table,
        figure=Figure(
            "interval_dots",
            x=LOSS,
            y="document",
            group="fine-tuning",
            caption="Every document, before and after; those that lost most on top.",
        ),
    )
