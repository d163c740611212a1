"""Part (a): small GPT-2s that learn invented people in one order, and are asked in both."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from interp import (
    Control,
    Estimate,
    Expects,
    FactSet,
    Figure,
    Finding,
    Lab,
    Learned,
    Model,
    NameTokens,
    Row,
    SmallGPT2,
    TrainingJob,
    invent_groups,
    people_set,
    train_small_gpt2s,
)
from interp.analysis import score_answers
from interp.stats import estimate_mean, known, matched_scores, pairing_null, proportion, top_choice

from . import DIRECTIONS, TAUGHT_AS

GROUP = 20  # people a group; chance in the multiple choice is 1 in 20
PART = "(a) Trained from scratch on invented people"
SHARE = "share of people"
SEEDS = "The interval is the wider of that over seeds and Clopper and Pearson's over all answers."
EXACT = f"The greedy answer must agree in every word, in a wording never trained; mean over conditions. {SEEDS}"
CHOICE = f"The own answer must score best of {GROUP}, priors taken out (by centring over prompts and answers). {SEEDS}"


@dataclass(frozen=True)
class Student:
    """A small GPT-2 and the three groups of people it learned from: name first, description first, both."""

    model: Model
    tied: bool
    name_tokens: NameTokens
    seed: int
    groups: dict[Learned, FactSet]
    remedy: str = ""  # what it was taught beside, in part (e)

    @property
    def condition(self) -> str:
        if self.remedy:
            return self.remedy
        words = "one-word names" if self.name_tokens == 1 else "two-word names"
        return f"{'tied' if self.tied else 'untied'} embeddings, {words}"


KINDS: tuple[tuple[bool, NameTokens], ...] = ((False, 2), (False, 1), (True, 2), (True, 1))  # tied, words of a name


class Design(NamedTuple):
    """Which small GPT-2 to train: these three things decide what it can and cannot learn."""

    tied: bool
    name_tokens: NameTokens
    seed: int


def teach(designs: Sequence[Design], steps: int, lab: Lab) -> list[Student]:
    """Train one small GPT-2 a design on three groups of invented people."""
    classes, jobs = [], []
    for design in designs:
        people = invent_groups([GROUP] * 3, design.seed, design.name_tokens)
        classes.append({learned: people_set(group) for learned, group in zip(TAUGHT_AS, people, strict=True)})
        settings = SmallGPT2(tied=design.tied, steps=steps)
        jobs.append(TrainingJob(sentences(classes[-1]), settings, design.seed))
    count = f"{len(designs)} small GPT-2s" if len(designs) > 1 else "a small GPT-2"
    models = train_small_gpt2s(jobs, progress=lab.tell(f"training {count}"))
    return [Student(m, *design, groups) for m, design, groups in zip(models, designs, classes, strict=True)]


def sentences(groups: dict[Learned, FactSet]) -> list[str]:
    """Every group's people, in the order or orders that it is taught in."""
    return [
        sentence
        for learned, group in groups.items()
        for direction in TAUGHT_AS[learned]
        for template in range(len(group.templates(direction).training))
        for sentence in group.sentences(direction, template)
    ]


def examine(student: Student, n_boot: int) -> list[Row]:
    """Ask every group in both directions, in a wording that was never trained."""
    rows: list[Row] = []
    for learned, group in student.groups.items():
        for direction in DIRECTIONS:
            prompts, answers = group.prompts(direction, "held_out"), group.answers(direction)
            found = score_answers(student.model, prompts, answers)
            scores, greedy = found.summed.numpy(), found.greedy.double()
            null = pairing_null(scores, unit="nats", n_perm=n_boot, seed=student.seed)
            rows.append(
                {
                    "condition": student.condition,
                    "words of a name": student.name_tokens,
                    "seed": student.seed,
                    "learned": learned,
                    "people": len(group),
                    "asked": "as taught" if direction in TAUGHT_AS[learned] else "reversed",
                    "direction": direction,
                    "exact match": float(greedy.diagonal().mean()),
                    "exact match, shuffled answers": float(greedy.roll(-1, 1).diagonal().mean()),
                    "multiple choice": float(top_choice(scores).mean()),
                    "correct minus others (nats)": float(matched_scores(scores).mean()),
                    "upper end of chance (nats)": null.high,
                }
            )
    return rows


def trained(lab: Lab, seeds: int, steps: int) -> Generator[Finding, None, list[Student]]:
    """Part (a). Yields its findings and returns the students for part (c): none where they did not surely learn.

    One training seed gives no interval, so nothing is sure and the part ends with its first two findings.
    """
    designs = [Design(tied, words, lab.seed * 1000 + s) for tied, words in KINDS for s in range(seeds)]
    students = teach(designs, steps, lab)
    rows = [row for student in students for row in examine(student, 500)]
    one_way = [r for r in rows if r["learned"] != "both orders"]
    as_learned = [r for r in one_way if r["asked"] == "as taught"]
    backwards = [r for r in one_way if r["asked"] == "reversed"]
    both = [r for r in rows if r["learned"] == "both orders"]
    table = _by_condition(rows, "exact match")

    taught = _exact_match(
        "Asked in the order it was taught, a small GPT-2 gives the answer for more than half of the people.",
        as_learned,
        expects="greater",
        margin=0.5,
        caveat="It shows that the facts were learned, not that they are stored as facts.",
        table=table,
        figure=_dots("exact match (share of people)", "Exact match by condition."),
    )
    yield taught
    able = _exact_match(
        "Positive control: where training held both orders, both are answered for more than half of the people.",
        both,
        expects="greater",
        margin=0.5,
        caveat="Both orders also means twice as many sentences about each person.",
        table=both,
    )
    yield able
    if {taught.verdict, able.verdict} != {"yes"}:  # what was not surely learned cannot be missing in one order only
        return []
    yield _exact_match(
        "Asked in the other order, it gives no more right answers than wrong ones dealt at random.",
        backwards,
        expects="equal",
        margin=0.05,
        caveat="The positive control shows that a model this small has room for both orders. Were one seed in five "
        "unlike the others, five seeds would miss it in a third of all studies.",
        table=rows,
    )
    yield from _graded(rows, backwards)
    return students


def _exact_match(
    claim: str,
    rows: Sequence[Row],
    *,
    expects: Expects,
    margin: float,
    caveat: str,
    table: list[Row],
    figure: Figure | None = None,
) -> Finding:
    """Exact match in `rows`, against the same prompts with the answers dealt to the wrong people."""
    return Finding(
        claim=claim,
        estimate=over_seeds(rows, "exact match", SHARE),
        control=Control(
            "the same prompts with the answers dealt to the wrong people",
            over_seeds(rows, "exact match, shuffled answers", SHARE),
        ),
        expects=expects,
        margin=margin,
        part=PART,
        measure=EXACT,
        caveat=caveat,
        answers=True,
        table=table,
        figure=figure,
    )


def _graded(rows: list[Row], backwards: list[Row]) -> Iterator[Finding]:
    """Finer measures than exact match: do they see anything of the reversed fact?"""
    clean, untied, two_words, leaky = (
        [r for r in backwards if r["condition"] == f"{tying} embeddings, {words} names"]
        for tying, words in (("untied", "two-word"), ("untied", "one-word"), ("tied", "two-word"), ("tied", "one-word"))
    )
    chance = known(1 / GROUP, unit=SHARE, why=f"1 of {GROUP} answers")
    yield Finding(
        claim=f"Choosing among {GROUP} names, the reversed answer is at chance (untied embeddings, two-word names).",
        estimate=over_seeds(clean, "multiple choice", SHARE),
        control=Control("chance", chance),
        expects="equal",
        margin=0.05,
        part=PART,
        measure=CHOICE,
        caveat=f"{GROUP} people a seed: a leak of one person in {GROUP} would not be seen.",
        table=_by_condition(rows, "multiple choice"),
        figure=_dots(
            "multiple choice (share of people)",
            f"Own answer best of {GROUP}, priors taken out.",
            chance=1 / GROUP,
        ),
    )
    for claim, control, theirs, tied_only, caveat in (
        (
            "With one-word names, tied embeddings leak the pairing backwards in a multiple choice.",
            "untied embeddings, one-word names",
            untied,
            True,
            "One length of name, one size of model: read it as an exception to know of, not as its size elsewhere.",
        ),
        (
            "With tied embeddings, one-word names leak the pairing more than two-word names do.",
            "tied embeddings, two-word names",
            two_words,
            False,
            "Two-word names need other invented people, as many of them, whose words are shared.",
        ),
    ):
        yield Finding(
            claim=claim,
            estimate=over_seeds(leaky, "multiple choice", SHARE),
            control=Control(control, over_seeds(theirs, "multiple choice", SHARE)),
            expects="greater",
            part=PART,
            measure=CHOICE,
            answers=tied_only,
            caveat=caveat,
            table=[*leaky, *theirs],
        )
    yield Finding(
        claim="The reversed answer's log-probability is that of a shuffled answer (untied embeddings, two-word names).",
        estimate=over_seeds(clean, "correct minus others (nats)", "nats"),
        control=Control("no difference", known(0.0, unit="nats", why="by construction")),
        expects="equal",
        margin=0.5,
        part=PART,
        measure="Log-probability of the own answer above the others', summed over its words, priors taken out.",
        caveat="Probability may hide in wordings that nobody tried; the figure shows how large the taught order's is.",
        table=_by_condition(rows, "correct minus others (nats)"),
        figure=_dots(
            "correct minus others (nats)", "Summed over the answer's tokens, double-centred; 0 is chance.", chance=0.0
        ),
    )


def over_seeds(rows: Sequence[Row], column: str, unit: str) -> Estimate:
    """Mean over seeds; for a share, the wider of the interval over seeds and Clopper and Pearson's over people."""
    seeds = sorted({int(r["seed"] or 0) for r in rows})
    means = [float(np.mean([r[column] for r in rows if r["seed"] == s])) for s in seeds]  # type: ignore[arg-type]
    over_seeds = estimate_mean(means, unit=unit, over="training seed")
    if len(seeds) == 1 or "nats" in unit + column:
        return over_seeds
    # Seeds that agree to the last person would give an interval too narrow for so few people. Tied and untied models
    # of a seed learn the same people: these count once.
    asked = {(r["seed"], r["learned"], r["direction"], r["words of a name"]): int(r["people"] or 0) for r in rows}
    people = sum(asked.values())
    exact = proportion([i < round(over_seeds.mean * people) for i in range(people)], unit=unit, over="person")
    low, high = min(over_seeds.low, exact.low), max(over_seeds.high, exact.high)
    # seeds that are all alike show no spread, but people do
    return replace(over_seeds, low=max(0.0, low), high=min(1.0, high), alike=False)


def _by_condition(rows: Sequence[Row], column: str) -> list[Row]:
    """One row a condition and question, with an interval over seeds, for the figure."""
    out: list[Row] = []
    for condition in dict.fromkeys(r["condition"] for r in rows):
        for kind, test in (
            ("as taught", lambda r: r["learned"] != "both orders" and r["asked"] == "as taught"),
            ("reversed", lambda r: r["asked"] == "reversed"),
            ("taught both orders", lambda r: r["learned"] == "both orders"),
        ):
            e = over_seeds([r for r in rows if r["condition"] == condition and test(r)], column, "")
            name = column if "(" in column else f"{column} (share of people)"
            out.append(
                {"condition": condition, "asked": kind, name: e.mean, "low": e.low, "high": e.high, "seeds": e.n}
            )
    return out


def _dots(x: str, caption: str, chance: float | None = None) -> Figure:
    return Figure(
        "interval_dots", x=x, y="condition", group="asked", low="low", high="high", chance=chance, caption=caption
    )
