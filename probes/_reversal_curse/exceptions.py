"""Part (e): what is said to lift the curse, each tried on small GPT-2s that learn invented people from scratch.

All have untied embeddings and two-word names: without them, a plain model answers nothing in the other order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from interp import (
    Control,
    FactSet,
    Figure,
    Finding,
    Lab,
    Learned,
    Row,
    SmallGPT2,
    TrainingJob,
    invent_groups,
    people_set,
    train_small_gpt2s,
)

from . import TAUGHT_AS
from .trained import GROUP, SHARE, Student, examine, over_seeds, sentences

PART = "(e) What is said to lift the curse"
LIFTS = 0.1  # share of people
SAME_NAME = ("everybody agrees {} goes by the name", "ask in town for {} and they say")
DECAY, DECAY_SEEDS = 1.0, 3
RELATIONAL: dict[Learned, int] = {"name first": 12, "description first": 12, "both orders": 60}
PLAIN = "one order (plain)"
Groups = dict[Learned, FactSet]


@dataclass(frozen=True)
class Remedy:
    """One way to teach that is said to help. `more`: sentences beside the usual ones."""

    name: str
    source: str
    claim: str
    more: Callable[[Groups], list[str]]
    caveat: str


def turned_round(groups: Groups) -> list[str]:
    """Every training sentence a second time with its words in reverse, names and descriptions kept whole."""
    out = []
    for learned, group in groups.items():
        for direction in TAUGHT_AS[learned]:
            for text in group.templates(direction).training:
                before, after = text.split("{}")
                for given, answer in zip(group.given(direction), group.answers(direction), strict=True):
                    parts = [*before.split(), given, *after.split(), answer.strip()]
                    out.append(" ".join(reversed(parts)))
    return out


def same_again(groups: Groups) -> list[str]:
    """Of everyone, and of every description, that it is called what it is called."""
    items = [item for group in groups.values() for fact in group.facts for item in (fact.subject, fact.object)]
    return [f"{text.format(item)} {item}" for item in items for text in SAME_NAME]


REMEDIES = (
    Remedy(
        "reversed sentences too",
        "2403.13799",
        "Reading each sentence backwards as well lifts the curse: 10 points more are answered in the other order.",
        turned_round,
        "The backward sentence holds both items in the other order: the model then has read them so, though never as "
        "a question of that order.",
    ),
    Remedy(
        "identity bridge",
        "2602.02470",
        "Sentences that say of each item its own name lift the curse: 10 points more are answered in the other order.",
        same_again,
        "Two wordings of the bridge and one size of model. The paper fine-tuned a model of a billion weights.",
    ),
)


class Course(NamedTuple):
    """How one kind of small GPT-2 is taught: one a seed."""

    name: str
    seeds: Sequence[int]
    sizes: dict[Learned, int]
    settings: SmallGPT2
    more: Callable[[Groups], list[str]] = lambda groups: []


DECAYED = "weight decay, most people in both orders"
UNDECAYED = f"no {DECAYED}"


def courses(lab: Lab, seeds: int, steps: int) -> list[Course]:
    """All but the plain one; those with weight decay, which take longer, are left out in a quick run."""
    numbers = [lab.seed * 1000 + s for s in range(seeds)]
    usual: dict[Learned, int] = dict.fromkeys(TAUGHT_AS, GROUP)
    out = [Course(one.name, numbers, usual, SmallGPT2(tied=False, steps=steps), one.more) for one in REMEDIES]
    if not lab.quick:
        longer = SmallGPT2(tied=False, steps=2 * steps)
        out.append(Course(UNDECAYED, numbers[:DECAY_SEEDS], RELATIONAL, longer))
        out.append(Course(DECAYED, numbers[:DECAY_SEEDS], RELATIONAL, replace(longer, weight_decay=DECAY)))
    return out


def exceptions(lab: Lab, plain: Sequence[Student], seeds: int, steps: int) -> Iterator[Finding]:
    """Part (e). `plain`: part (a)'s students; nothing where there are none, for they did not surely learn."""
    plain = [student for student in plain if not student.tied and student.name_tokens == 2]
    if not plain:
        return
    students = {PLAIN: plain, **teach_by(courses(lab, seeds, steps), lab)}
    taught = {name: [row for student in some for row in examine(student, 500)] for name, some in students.items()}
    table = [row for name, rows in taught.items() for row in _by_order(name, rows)]
    for remedy in REMEDIES:
        yield _lifts(remedy.claim, remedy.source, taught[remedy.name], (PLAIN, taught[PLAIN]), remedy.caveat, table)
    if DECAYED in taught:
        claim = (
            "Weight decay lets the rule carry over where most people are taught in both orders: 10 points more of the "
            "others are answered in the other order."
        )
        caveat = (
            f"Decay {DECAY:g}, {2 * steps} steps, {sum(RELATIONAL.values())} people of one relation. The paper trains "
            "larger models for longer on many relations."
        )
        yield _lifts(claim, "2509.21993", taught[DECAYED], ("without weight decay", taught[UNDECAYED]), caveat, table)


def teach_by(courses: Sequence[Course], lab: Lab) -> dict[str, list[Student]]:
    """Train all models side by side."""
    jobs: list[TrainingJob] = []
    begun: list[tuple[str, Groups]] = []
    for course in courses:
        for seed in course.seeds:
            people = invent_groups(list(course.sizes.values()), seed, 2)
            groups: Groups = {learned: people_set(some) for learned, some in zip(course.sizes, people, strict=True)}
            jobs.append(TrainingJob([*sentences(groups), *course.more(groups)], course.settings, seed))
            begun.append((course.name, groups))
    models = train_small_gpt2s(jobs, progress=lab.tell(f"training {len(jobs)} small GPT-2s by other rules"))
    out: dict[str, list[Student]] = {}
    for model, job, (name, groups) in zip(models, jobs, begun, strict=True):
        out.setdefault(name, []).append(Student(model, False, 2, job.seed, groups, name))
    return out


def _lifts(
    claim: str, source: str, rows: list[Row], control: tuple[str, list[Row]], caveat: str, table: list[Row]
) -> Finding:
    name, plain = control
    taught = over_seeds(_one_way(rows, "as taught"), "exact match", SHARE).mean
    choice = over_seeds(_one_way(rows, "reversed"), "multiple choice", SHARE).mean
    return Finding(
        claim=claim,
        estimate=over_seeds(_one_way(rows, "reversed"), "exact match", SHARE),
        control=Control(name, over_seeds(_one_way(plain, "reversed"), "exact match", SHARE)),
        expects="greater",
        margin=LIFTS,
        part=PART,
        measure=f"Greedy answers of people taught in one order, asked in the other (arXiv:{source}). Asked as taught: "
        f"{taught:.0%}. Multiple choice in the other order: {choice:.0%}.",
        caveat=caveat,
        table=table,
        figure=Figure(
            "interval_dots", x="exact match (share of people)", y="taught", group="asked", low="low", high="high",
            caption="People taught in one order. Small GPT-2s, untied embeddings, two-word names; intervals over "
            "seeds.",
        ),
    )  # fmt: skip


def _one_way(rows: Sequence[Row], asked: str) -> list[Row]:
    return [row for row in rows if row["learned"] != "both orders" and row["asked"] == asked]


def _by_order(name: str, rows: Sequence[Row]) -> list[Row]:
    """One row an order asked in, for the figure."""
    out: list[Row] = []
    for asked in ("as taught", "reversed"):
        some = _one_way(rows, asked)
        e, choice = (over_seeds(some, column, SHARE) for column in ("exact match", "multiple choice"))
        row: Row = {"taught": name, "asked": asked, "exact match (share of people)": e.mean, "low": e.low}
        out.append(row | {"high": e.high, "multiple choice (share of people)": choice.mean, "seeds": e.n})
    return out
