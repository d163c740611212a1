"""Questions with one right answer, in six tasks: four that are taught in part, and two that are not taught at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp import Model, UserError, data, encode_pairs, load_facts
from interp import TuningExample as Example
from interp.analysis import encode_answers

from . import END

FEWEST = 3  # questions of a task on each side: fewer have no others to compare with
OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "day": "night", "left": "right", "old": "young", "rich": "poor",
    "wet": "dry", "fast": "slow", "light": "dark", "open": "closed", "full": "empty", "hard": "soft", "high": "low",
    "happy": "sad", "early": "late", "love": "hate", "war": "peace", "clean": "dirty", "strong": "weak",
    "first": "last", "true": "false", "north": "south", "win": "lose",
}  # fmt: skip
PLURALS = {
    "child": "children", "mouse": "mice", "foot": "feet", "man": "men", "tooth": "teeth", "goose": "geese",
    "leaf": "leaves", "city": "cities", "box": "boxes", "knife": "knives", "woman": "women", "wolf": "wolves",
    "baby": "babies", "bus": "buses", "dog": "dogs", "tree": "trees", "potato": "potatoes", "half": "halves",
    "person": "people", "lady": "ladies", "fox": "foxes", "car": "cars", "hero": "heroes", "shelf": "shelves",
}  # fmt: skip
PASTS = {
    "go": "went", "see": "saw", "eat": "ate", "take": "took", "give": "gave", "write": "wrote", "run": "ran",
    "come": "came", "know": "knew", "think": "thought", "buy": "bought", "find": "found", "make": "made",
    "break": "broke", "speak": "spoke", "swim": "swam", "sing": "sang", "drive": "drove", "fly": "flew",
    "sleep": "slept", "teach": "taught", "win": "won", "begin": "began", "fall": "fell",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """`prompt` ends where the answer comes; `answer` carries the space that joins it. `item`: what the prompt is about,

    without the words that all prompts of its task have.
    """

    task: str
    prompt: str
    answer: str
    item: str = ""

    @property
    def example(self) -> Example:
        """Prompt, and what the fine-tuned model shall write after it."""
        return self.prompt, self.answer + END


@dataclass(frozen=True)
class Exam:
    """`taught`: trained on. `held_out`: further questions of the same tasks. `other`: of tasks that nobody teaches."""

    taught: tuple[Question, ...]
    held_out: tuple[Question, ...]
    other: tuple[Question, ...]


def all_tasks() -> dict[str, tuple[bool, list[Question]]]:
    """Every task: is it taught, and its questions. Inside a task no two have the same answer."""
    facts = {name: load_facts(data(f"facts/{name}.csv")).facts for name in ("capitals", "elements")}
    firsts = {total: 2 + 7 * total % (total - 3) for total in range(5, 29)}
    asked = {
        "capital": (True, "the capital of {}", [(fact.subject, fact.object) for fact in facts["capitals"]]),
        "opposite": (True, "the opposite of {}", list(OPPOSITES.items())),
        "sum": (True, "{}", [(f"{first} plus {total - first}", str(total)) for total, first in firsts.items()]),
        "plural": (True, "the plural of {}", list(PLURALS.items())),
        "past tense": (False, "the past tense of {}", list(PASTS.items())),
        "symbol": (False, "the chemical symbol of {}", [(fact.subject, fact.object) for fact in facts["elements"]]),
    }
    return {
        task: (
            taught,
            [Question(task, f"Question: What is {what.format(item)}? Answer:", f" {to}", item) for item, to in pairs],
        )
        for task, (taught, what, pairs) in asked.items()
    }


def set_exam(model: Model, seed: int, *, each: int) -> Exam | None:
    """At most `each` questions a task, in an order that the seed draws; every second one of a taught task is held out.

    What the model's tokenizer cannot write, or its context cannot hold, is left out; None where too little is left.
    """
    rng = np.random.default_rng(seed)
    taught, held_out, other = [], [], []
    for is_taught, questions in all_tasks().values():
        able = [questions[i] for i in rng.permutation(len(questions)) if _can_write(model, questions[i])][:each]
        if len(able) < 2 * FEWEST or not _parts(model, able):
            continue
        if is_taught:
            taught += able[::2]
            held_out += able[1::2]
        else:
            other += able
    return Exam(tuple(taught), tuple(held_out), tuple(other)) if taught and other else None


def by_task(questions: Sequence[Question]) -> dict[str, list[int]]:
    """The questions' places, task by task."""
    out: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        out.setdefault(question.task, []).append(i)
    return out


def dealt(questions: Sequence[Question], seed: int) -> list[Example]:
    """The same prompts with each other's answers: none keeps its own question's."""
    order = np.random.default_rng(seed).permutation(len(questions)).tolist()
    giver = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [(question.prompt, questions[giver[i]].answer + END) for i, question in enumerate(questions)]


def _can_write(model: Model, question: Question) -> bool:
    try:
        encode_pairs(model, [question.example, (question.prompt, question.answer)])
    except UserError:
        return False
    return True


def _parts(model: Model, questions: Sequence[Question]) -> bool:
    try:
        encode_answers(model, [q.prompt for q in questions], [q.answer for q in questions])
    except UserError:
        return False
    return True
