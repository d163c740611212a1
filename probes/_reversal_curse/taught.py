"""Taught: small GPT-2s that learn invented people in one order, from scratch (a)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial

from interp import (
    PEOPLE_A_GROUP,
    Claim,
    Control,
    Course,
    Figure,
    Finding,
    Lab,
    NameTokens,
    NotAsked,
    Row,
    SmallGPT2,
    Student,
    set_beforehand,
    teach_students,
    zero,
)
from interp.analysis import examine_student, gap_over_seeds, over_seeds

Answers = Iterator[Finding | NotAsked]
SHARE, NATS = "share of people", "nats"
EXACT, CHOICE, LEAD = "exact match", "multiple choice", "correct minus others (nats)"
KINDS: tuple[tuple[str, str, NameTokens], ...] = (
    ("untied", "two-word", 2),
    ("untied", "one-word", 1),
    ("tied", "two-word", 2),
    ("tied", "one-word", 1),
)  # embeddings, names, words of a name
NOT_QUICK = "tied embeddings, two-word names"  # of the four, what a quick run has the least need of
CLEAN, LEAKY = "untied embeddings, two-word names", "tied embeddings, one-word names"

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
    "Negative control: where neither embeddings nor names give it away (untied, of two shared words), the reversed "
    "answer's log-probability is that of a shuffled answer.",
    "equal",
    unit=NATS,
    margin=0.5,
    measure="Log-probability of the own answer above the others', summed over its words, priors taken out.",
    caveat="Probability may hide in wordings that nobody tried; the figure shows how large the taught order's is.",
)
CLAIMS = [CURSE, TAUGHT, ABLE, AT_CHANCE, LEAK, LEAK_OF_WORDS, HIDDEN]  # the README shows the first


def trained(lab: Lab, seeds: int, steps: int) -> Generator[Finding | NotAsked, None, list[Student]]:
    """Part (a). Returns the students for the parts that follow: none where they did not surely learn."""
    numbers = [lab.seed * 1000 + seed for seed in range(seeds)]
    courses = [
        Course(
            f"{tying} embeddings, {words} names",
            small_gpt2(tied=tying == "tied", steps=steps),
            numbers,
            tokens,
        )
        for tying, words, tokens in KINDS
    ]
    courses = [course for course in courses if not (lab.quick and course.name == NOT_QUICK)]
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


def small_gpt2(*, tied: bool, steps: int) -> SmallGPT2:
    """How students learn. Untied embeddings learn as surely from half as many sentences a step."""
    return SmallGPT2(tied=tied, steps=steps, batch=64 if tied else 32)


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
    for claim, other in ((LEAK, "untied embeddings, one-word names"), (LEAK_OF_WORDS, NOT_QUICK)):
        if other not in of:
            yield claim.not_asked("because --quick teaches no students of two-word names with tied embeddings")
            continue
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
