"""Taught: small GPT-2s that learn invented people in one order (a), and what is said to lift the curse (e)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from interp import (
    TAUGHT_AS,
    Claim,
    Control,
    Figure,
    Finding,
    Lab,
    NameTokens,
    NotAsked,
    Row,
    SmallGPT2,
    set_beforehand,
    zero,
)
from interp.analysis import (
    PEOPLE_A_GROUP,
    Course,
    Groups,
    Student,
    examine_student,
    gap_over_seeds,
    over_seeds,
    teach_students,
)

Answers = Iterator[Finding | NotAsked]
SHARE, NATS = "share of people", "nats"
EXACT, CHOICE, LEAD = "exact match", "multiple choice", "correct minus others (nats)"
KINDS: tuple[tuple[str, str, NameTokens], ...] = (
    ("untied", "two-word", 2),
    ("untied", "one-word", 1),
    ("tied", "two-word", 2),
    ("tied", "one-word", 1),
)  # embeddings, names, words of a name
CLEAN, LEAKY = "untied embeddings, two-word names", "tied embeddings, one-word names"

# (a) Small GPT-2s, trained from scratch ------------------------------------------------------------------------------

TRAINED = "(a) Trained from scratch on invented people"
SEEDS = "The interval is the wider of that over seeds and that over all answers."
GREEDY = f"The greedy answer must agree in every word, in a wording never trained; mean over conditions. {SEEDS}"
BEST = (
    f"The own answer must score best of {PEOPLE_A_GROUP}, priors taken out (by centring over prompts and answers). "
    f"{SEEDS}"
)
_trained = partial(Claim, unit=SHARE, part=TRAINED, subject="trained here")
TAUGHT = _trained(
    "Asked in the order it was taught, a small GPT-2 gives the answer for more than half of the people.",
    "greater",
    margin=0.5,
    answers=True,
    measure=GREEDY,
    caveat="It shows that the facts were learned, not that they are stored as facts.",
)
ABLE = _trained(
    "Positive control: where training held both orders, both are answered for more than half of the people.",
    "greater",
    margin=0.5,
    answers=True,
    measure=GREEDY,
    caveat="Both orders also means twice as many sentences about each person.",
)
CURSE = _trained(
    "Asked in the other order, it gives no more right answers than wrong ones dealt at random.",
    "equal",
    margin=0.05,
    answers=True,
    measure=GREEDY,
    caveat="The positive control shows that a model this small has room for both orders. Were one seed in five "
    "unlike the others, five seeds would miss it in a third of all studies.",
)
AT_CHANCE = _trained(
    f"Choosing among {PEOPLE_A_GROUP} names, the reversed answer is at chance (untied embeddings, two-word names).",
    "equal",
    margin=0.05,
    measure=BEST,
    caveat=f"{PEOPLE_A_GROUP} people a seed: a leak of one person in {PEOPLE_A_GROUP} would not be seen.",
)
LEAK = _trained(
    "With one-word names, tied embeddings leak the pairing backwards in a multiple choice.",
    "greater",
    answers=True,
    measure=BEST,
    caveat="One length of name, one size of model: read it as an exception to know of, not as its size elsewhere.",
)
LEAK_OF_WORDS = _trained(
    "With tied embeddings, one-word names leak the pairing more than two-word names do.",
    "greater",
    measure=BEST,
    caveat="Two-word names need other invented people, as many of them, whose words are shared.",
)
HIDDEN = _trained(
    "The reversed answer's log-probability is that of a shuffled answer (untied embeddings, two-word names).",
    "equal",
    unit=NATS,
    margin=0.5,
    measure="Log-probability of the own answer above the others', summed over its words, priors taken out.",
    caveat="Probability may hide in wordings that nobody tried; the figure shows how large the taught order's is.",
)


def trained(lab: Lab, seeds: int, steps: int) -> Generator[Finding | NotAsked, None, list[Student]]:
    """Part (a). Returns the students for the parts that follow: none where they did not surely learn."""
    numbers = [lab.seed * 1000 + seed for seed in range(seeds)]
    courses = [
        Course(f"{tying} embeddings, {words} names", SmallGPT2(tied=tying == "tied", steps=steps), numbers, tokens)
        for tying, words, tokens in KINDS
    ]
    students = teach_students(courses, progress=lab.tell(f"training {len(numbers) * len(courses)} small GPT-2s"))
    rows = [row for student in students for row in examine_student(student)]
    figure = dots("exact match (share of people)", "condition", "asked", "Exact match by condition.")
    taught = _above_dealt(TAUGHT, one_way(rows, "as taught"), by_condition(rows, EXACT), figure)
    both = [row for row in rows if row["learned"] == "both orders"]
    able = _above_dealt(ABLE, both, both)
    yield from (taught, able)
    if reason := not_judged(taught, able):
        for claim in (CURSE, AT_CHANCE, LEAK, LEAK_OF_WORDS, HIDDEN):
            yield claim.not_asked(reason)
        return []
    yield _above_dealt(CURSE, one_way(rows, "reversed"), rows)
    yield from _graded(rows)
    return students


def not_judged(taught: Finding, able: Finding | None) -> str:
    """Why nothing is said of the other order; "" where it is: what was not surely learned cannot be missing in it."""
    if taught.verdict != "yes":
        return f"because it was not surely learned in the order it was taught: {taught.verdict}"
    if able is not None and able.verdict != "yes":
        return f"because the positive control is {able.verdict}: it is not judged"
    return ""


def _above_dealt(claim: Claim, rows: Sequence[Row], table: list[Row], figure: Figure | None = None) -> Finding:
    """Exact match, beside that of the same prompts with the answers dealt to the wrong people."""
    right, wrong, gap = gap_over_seeds(rows, EXACT, rows, "exact match, shuffled answers", SHARE)
    control = Control("the answers dealt to the wrong people", wrong)
    return claim.answer(right, control, paired=gap, table=table, figure=figure)


def _graded(rows: list[Row]) -> Answers:
    """Finer measures than exact match: do they see anything of the reversed fact?"""
    reversed_rows = one_way(rows, "reversed")
    of = {name: [row for row in reversed_rows if row["condition"] == name] for name in {r["condition"] for r in rows}}
    caption = f"Own answer best of {PEOPLE_A_GROUP}, priors taken out."
    yield AT_CHANCE.answer(
        over_seeds(of[CLEAN], CHOICE, SHARE),
        set_beforehand(1 / PEOPLE_A_GROUP, SHARE, f"1 of {PEOPLE_A_GROUP} answers"),
        table=by_condition(rows, CHOICE),
        figure=dots("multiple choice (share of people)", "condition", "asked", caption, 1 / PEOPLE_A_GROUP),
    )
    for claim, other in (
        (LEAK, "untied embeddings, one-word names"),
        (LEAK_OF_WORDS, "tied embeddings, two-word names"),
    ):
        leaked, without, gap = gap_over_seeds(of[LEAKY], CHOICE, of[other], CHOICE, SHARE)
        yield claim.answer(leaked, Control(other, without), paired=gap, table=[*of[LEAKY], *of[other]])
    yield HIDDEN.answer(
        over_seeds(of[CLEAN], LEAD, NATS),
        zero(NATS),
        table=by_condition(rows, LEAD),
        figure=dots(LEAD, "condition", "asked", "Summed over the answer's tokens, double-centred; 0 is chance.", 0.0),
    )


def one_way(rows: Sequence[Row], asked: str) -> list[Row]:
    """The rows of those who were taught in one order."""
    return [row for row in rows if row["learned"] != "both orders" and row["asked"] == asked]


def by_condition(rows: Sequence[Row], column: str) -> list[Row]:
    """One row a condition and question, with an interval over seeds, for the figure."""
    out: list[Row] = []
    name = column if "(" in column else f"{column} (share of people)"
    for condition in dict.fromkeys(row["condition"] for row in rows):
        of_condition = [row for row in rows if row["condition"] == condition]
        for kind, chosen in (
            ("as taught", one_way(of_condition, "as taught")),
            ("reversed", one_way(of_condition, "reversed")),
            ("taught both orders", [row for row in of_condition if row["learned"] == "both orders"]),
        ):
            at = over_seeds(chosen, column, name)
            out.append({"condition": condition, "asked": kind, name: at.mean, "low": at.low, "high": at.high})
    return out


def dots(x: str, y: str, group: str, caption: str, chance: float | None = None, prefix: str = "") -> Figure:
    """A dot with its interval a row, in a colour a group."""
    low, high = f"{prefix}low", f"{prefix}high"
    return Figure("interval_dots", x=x, y=y, group=group, low=low, high=high, chance=chance, caption=caption)


# (e) What is said to lift the curse ----------------------------------------------------------------------------------

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
REMEDIES = [BACKWARD, BRIDGE, DECAYS]
CLAIMS = [TAUGHT, ABLE, CURSE, AT_CHANCE, LEAK, LEAK_OF_WORDS, HIDDEN]


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
    """Those without weight decay, which takes longer, in a quick run. All have untied embeddings and two-word names."""
    numbers = [lab.seed * 1000 + seed for seed in range(seeds)]
    usual = SmallGPT2(tied=False, steps=steps)
    out: list[Remedy] = []
    more: tuple[tuple[Claim, str, Callable[[Groups], list[str]]], ...] = (
        (BACKWARD, "reversed sentences too", turned_round),
        (BRIDGE, "identity bridge", same_again),
    )
    out += [Remedy(claim, Course(name, usual, numbers, more=sentences)) for claim, name, sentences in more]
    if not lab.quick:
        decays = SmallGPT2(tied=False, steps=2 * steps, weight_decay=DECAY)
        out.append(Remedy(DECAYS, Course(DECAYED, decays, numbers[:DECAY_SEEDS], sizes=RELATIONAL), UNDECAYED))
    return out


def exceptions(lab: Lab, plain: Sequence[Student], remedies: Sequence[Remedy]) -> Answers:
    """Part (e). `plain`: part (a)'s students: without surely learned ones, nothing is asked."""
    if not (plain := [student for student in plain if student.course.name == CLEAN]):
        yield from (claim.not_asked("because part (a) did not surely show the curse's setting") for claim in REMEDIES)
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
    for claim in REMEDIES:
        if claim not in [remedy.claim for remedy in remedies]:
            yield claim.not_asked("because --quick leaves the long trainings out")


CAPTION = "People taught in one order. Small GPT-2s, untied embeddings, two-word names; intervals over seeds."
