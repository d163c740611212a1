"""Lifted: what is said to lift the curse, tried on small GPT-2s (e)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from interp import TAUGHT_AS, Claim, Control, Course, Groups, Lab, Student, teach_students
from interp.analysis import examine_student, gap_over_seeds, over_seeds

from .taught import CHOICE, CLEAN, EXACT, SHARE, Answers, by_condition, dots, one_way, small_gpt2

LIFTS = "(e) What is said to lift the curse"
SAME_NAME = ("everybody agrees {} goes by the name", "ask in town for {} and they say")
DECAY, DECAY_SEEDS, RELATIONAL = 1.0, 3, (12, 12, 60)
PLAIN = "one order (plain)"
UNDECAYED, DECAYED = (f"{no}weight decay, most people in both orders" for no in ("no ", ""))
OTHER_ORDER = "Greedy answers of people taught in one order, asked in the other"
_lifting = partial(Claim, expects="greater", unit=SHARE, margin=0.1, part=LIFTS, subject="trained here")
BACKWARD = _lifting(
    "Reading each sentence backwards as well lifts the curse: 10 points more are answered in the other order.",
    measure=f"{OTHER_ORDER} (arXiv:2403.13799).",
    caveat="The backward sentence holds both items in the other order: the model then has read them so, though never "
    "as a question of that order.",
)
BRIDGE = _lifting(
    "Sentences that say of each item its own name lift the curse: 10 points more are answered in the other order.",
    measure=f"{OTHER_ORDER} (arXiv:2602.02470).",
    caveat="Two wordings of the bridge and one size of model. The paper fine-tuned a model of a billion weights.",
)
DECAYS = _lifting(
    "Weight decay lets the rule carry over where most people are taught in both orders: 10 points more of the others "
    "are answered in the other order.",
    measure=f"{OTHER_ORDER} (arXiv:2509.21993).",
    caveat=f"Decay {DECAY:g}, {sum(RELATIONAL)} people of one relation. The paper trains larger models for longer on "
    "many relations.",
)
CAPTION = "People taught in one order. Small GPT-2s, untied embeddings, two-word names; intervals over seeds."
CLAIMS = [BACKWARD, BRIDGE, DECAYS]


def turned_round(groups: Groups) -> list[str]:
    """Every training sentence a second time with its words in reverse, names and descriptions kept whole."""
    out = []
    for learned, group in groups.items():
        for direction in TAUGHT_AS[learned]:
            for text in group.templates(direction).training:
                before, after = text.split("{}")
                for given, answer in zip(group.given(direction), group.answers(direction), strict=True):
                    out.append(" ".join(reversed([*before.split(), given, *after.split(), answer.strip()])))
    return out


def same_again(groups: Groups) -> list[str]:
    """Of everyone, and of every description, that it is called what it is called."""
    items = [item for group in groups.values() for fact in group.facts for item in (fact.subject, fact.object)]
    return [f"{text.format(item)} {item}" for item in items for text in SAME_NAME]


@dataclass(frozen=True)
class Remedy:
    """A way to teach that is said to help: the claim, the course that has it, and what it is compared with."""

    claim: Claim
    course: Course
    without: str = PLAIN


def remedies(lab: Lab, seeds: int, steps: int) -> list[Remedy]:
    """Those that do not take long, in a quick run. All have untied embeddings and two-word names."""
    numbers = [lab.seed * 1000 + seed for seed in range(seeds)]
    usual = small_gpt2(tied=False, steps=steps)
    out = [Remedy(BACKWARD, Course("reversed sentences too", usual, numbers, more=turned_round))]
    if not lab.quick:
        out.append(Remedy(BRIDGE, Course("identity bridge", usual, numbers, more=same_again)))
        decays = replace(usual, steps=2 * steps, weight_decay=DECAY)
        out.append(Remedy(DECAYS, Course(DECAYED, decays, numbers[:DECAY_SEEDS], sizes=RELATIONAL), UNDECAYED))
    return out


def exceptions(lab: Lab, plain: Sequence[Student], remedies: Sequence[Remedy]) -> Answers:
    """Part (e). `plain`: part (a)'s students: without surely learned ones, nothing is asked."""
    if not (plain := [student for student in plain if student.course.name == CLEAN]):
        yield from (claim.not_asked("because part (a) did not surely show the curse's setting") for claim in CLAIMS)
        return
    courses = [remedy.course for remedy in remedies]
    if any(remedy.without == UNDECAYED for remedy in remedies):
        decays = next(remedy.course for remedy in remedies if remedy.without == UNDECAYED)
        courses.insert(-1, replace(decays, name=UNDECAYED, settings=replace(decays.settings, weight_decay=0.0)))
    jobs = sum(len(course.seeds) for course in courses)
    taught = teach_students(courses, progress=lab.tell(f"training {jobs} small GPT-2s by other rules"))
    plain = [replace(student, course=replace(student.course, name=PLAIN)) for student in plain]
    rows = [row for student in (*plain, *taught) for row in examine_student(student)]
    of = {
        name: [row for row in rows if row["condition"] == name] for name in dict.fromkeys(r["condition"] for r in rows)
    }
    table = [row for row in by_condition(rows, EXACT) if row["asked"] != "taught both orders"]
    for remedy in remedies:
        taught_so, taught_plainly = (one_way(of[name], "reversed") for name in (remedy.course.name, remedy.without))
        helped, plainly, gap = gap_over_seeds(taught_so, EXACT, taught_plainly, EXACT, SHARE)
        as_taught = over_seeds(one_way(of[remedy.course.name], "as taught"), EXACT, SHARE).mean
        yield remedy.claim.answer(
            helped,
            Control(remedy.without, plainly),
            paired=gap,
            measure=f"Asked as taught: {as_taught:.0%}. Multiple choice in the other order: "
            f"{over_seeds(taught_so, CHOICE, SHARE).mean:.0%}.",
            table=table,
            figure=dots("exact match (share of people)", "condition", "asked", CAPTION),
        )
    for claim in CLAIMS:
        if claim not in [remedy.claim for remedy in remedies]:
            yield claim.not_asked("because --quick tries one remedy alone")
