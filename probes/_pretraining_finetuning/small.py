"""Small GPT-2s in an invented world: the same fine-tuning from pre-trained weights and from random ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np

from interp import (
    Claim,
    Control,
    Finding,
    Lab,
    Model,
    SmallGPT2,
    TrainingJob,
    fine_tune,
    measured,
    same_as,
    set_beforehand,
    train_small_gpt2s,
    with_random_weights,
)
from interp import TuningExample as Example
from interp.analysis import score_completions
from interp.stats import estimate_gap, estimate_mean

from . import CONTROLS, EXACT, SHARE, SMALL

PEOPLE, KINDS = 30, 6  # beings; values of an attribute
SIZE = SmallGPT2(n_layers=2, d_model=64, steps=400)
TUNING = {"steps": 100, "batch": 16, "lr": 1e-3}
VALUES = {
    "colour": ("red", "blue", "green", "black", "white", "yellow"),
    "home": ("hills", "woods", "coast", "city", "desert", "islands"),
    "food": ("bread", "fish", "rice", "fruit", "nuts", "soup"),
}
SENTENCES = {
    "colour": ("the colour of {} is", "{} wears the colour", "as we know the colour that {} likes is"),
    "home": ("the home of {} is the", "{} has a home in the", "as we know the home that {} likes is the"),
    "food": ("the food of {} is", "{} eats the food", "as we know the food that {} likes is"),
}
BEGIN = ("bli", "gro", "sna", "fle", "tru", "dwo", "kra", "pli")
FINISH = ("ck", "mp", "nd", "rt", "sk", "lf")
WORDS = "we ask and you tell until the end"  # so that the vocabulary has the words of the questions
CHANCE, CLOSE = 1 / KINDS, 0.1  # shares
SEEDS = 5  # fewer can show nothing, in a quick run neither: three that know all may know 29 %
STARTS = ("pre-trained weights", "random weights", "pre-trained weights, shuffled answers")

MAKES_IT = Claim(
    "Pre-training makes the difference: from random weights, the same fine-tuning answers 10 points less.",
    expects="greater",
    margin=0.1,
    unit=SHARE,
    part=SMALL,
    answers=True,
    measure=f"Exact answers to questions about {PEOPLE // 2} invented beings that fine-tuning never names, while "
    "pre-training names them in sentences: from pre-trained weights less from random ones, GPT-2s of two layers with "
    "a world each.",
    caveat="Made so that only pre-training can tell the answers; how much else it gives (words, grammar) is not asked. "
    "Longer fine-tuning lifts the trained questions from random weights, never the held-out ones. Before fine-tuning "
    "none is answered exactly, for the end word is new to such a question: that is format.",
    subject="trained here",
)
READ = Claim(
    "Positive control: the small models know what they read in pre-training.",
    expects="greater",
    margin=0.25,  # five seeds that know all can show no more than 0.31 above chance
    unit=SHARE,
    part=CONTROLS,
    measure="Sentences of pre-training, completed greedily, before fine-tuning.",
    subject="trained here",
)
SHUFFLED = Claim(
    "Negative control: fine-tuned on shuffled answers, small models answer 10 points fewer held-out questions.",
    expects="less",
    margin=CLOSE,
    unit=SHARE,
    part=CONTROLS,
    measure="The same prompts and the same answers, dealt to each other at random; chance is one in six.",
    subject="trained here",
)
CLAIMS = [MAKES_IT, READ, SHUFFLED]


@dataclass(frozen=True)
class World:
    """Invented beings, each with a colour, a home and a food. Every second being's questions are taught."""

    facts: dict[tuple[str, str], str]  # (being, attribute): value
    beings: tuple[str, ...]

    def statements(self) -> list[Example]:
        """What is read in pre-training, parted before the value."""
        return [
            (text.format(who), f" {value}") for (who, what), value in self.facts.items() for text in SENTENCES[what]
        ]

    def questions(self, *, taught: bool) -> list[Example]:
        """In a form that pre-training has not."""
        beings = self.beings[::2] if taught else self.beings[1::2]
        return [(f"ask {what} {who} tell", f" {self.facts[who, what]} end") for who in beings for what in VALUES]


def make_world(seed: int) -> World:
    """Names and facts that the seed draws."""
    rng = Random(seed)
    beings = tuple(rng.sample([first + last for first in BEGIN for last in FINISH], PEOPLE))
    return World({(who, what): rng.choice(values) for who in beings for what, values in VALUES.items()}, beings)


def exact(model: Model, questions: list[Example]) -> float:
    """Share of questions whose answer and end are written greedily."""
    return float(score_completions(model, questions, batch_size=128).greedy.double().mean())


def fine_tuned(pretrained: Model, world: World, seed: int) -> dict[str, Model]:
    """The same fine-tuning three times: from pre-trained weights, from random ones, and on shuffled answers."""
    lessons = world.questions(taught=True)
    given = [answer for _, answer in lessons]
    Random(seed).shuffle(given)
    wrong = [(prompt, answer) for (prompt, _), answer in zip(lessons, given, strict=True)]
    models = (pretrained, with_random_weights(pretrained, seed), pretrained)
    return {
        start: fine_tune(model, taught, seed=seed, **TUNING)
        for start, model, taught in zip(STARTS, models, (lessons, lessons, wrong), strict=True)
    }


def small_models(lab: Lab) -> Iterator[Finding]:
    """Part (e), and two controls of the method."""
    seeds = [lab.seed + i for i in range(SEEDS)]
    worlds = [make_world(seed) for seed in seeds]
    jobs = [
        TrainingJob([*map("".join, world.statements()), WORDS], SIZE, seed)
        for world, seed in zip(worlds, seeds, strict=True)
    ]
    pretrained = train_small_gpt2s(jobs, progress=lab.tell("pre-training small GPT-2s"))
    shares: dict[tuple[str, str], list[float]] = {}
    knows = []
    for i, (model, world, seed) in enumerate(zip(pretrained, worlds, seeds, strict=True)):
        knows.append(exact(model, world.statements()))
        for start, tuned in {"not fine-tuned": model, **fine_tuned(model, world, seed)}.items():
            for taught in (True, False):
                side = "trained questions" if taught else "held-out questions"
                shares.setdefault((start, side), []).append(exact(tuned, world.questions(taught=taught)))
        lab.progress("fine-tuning small GPT-2s", i + 1, len(seeds))
    yield from _judged(lab, shares, knows)


def _judged(lab: Lab, shares: dict[tuple[str, str], list[float]], knows: list[float]) -> Iterator[Finding]:
    exactly = measured(
        shares, by=("begun from", "questions"), value=EXACT, unit=SHARE, over="seed", bounds=(0, 1), seed=lab.seed
    )
    pretrained, random, shuffled = (np.array(shares[start, "held-out questions"]) for start in STARTS)
    trained = [float(np.mean(shares[start, "trained questions"])) for start in STARTS]
    yield MAKES_IT.answer(
        estimate_mean(pretrained - random, unit=SHARE, over="seed", bounds=(-1, 1), seed=lab.seed),
        same_as(SHARE, "from random weights"),
        measure=f"{pretrained.mean():.0%} against {random.mean():.0%}. To trained questions: {trained[0]:.0%} from "
        f"pre-trained weights, {trained[1]:.0%} from random ones.",
        table=exactly.rows(),
        figure=exactly.dots(
            y="questions", chance=CHANCE, caption="Intervals over seeds; dashed: one of six values at random."
        ),
    )
    yield READ.answer(
        estimate_mean(knows, unit=SHARE, over="seed", bounds=(0, 1), seed=lab.seed),
        set_beforehand(CHANCE, SHARE, "one of six"),
    )
    pair = estimate_gap(shuffled, pretrained, unit=SHARE, over="seed", bounds=(0, 1), seed=lab.seed)
    yield SHUFFLED.answer(
        pair.estimate, Control("on the right answers", pair.control), paired=pair.gap, table=exactly.rows()
    )
