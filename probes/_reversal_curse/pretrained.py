"""Part (b): the loaded model on real facts, and on a user's children and parents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from interp import Control, Direction, Estimate, FactSet, Figure, Finding, Lab, ParentType, Row, Surname
from interp.analysis import Asked, ask_facts
from interp.stats import estimate_crossed, pooled_pairing_null, sign_flip_null, silence_told

from . import DIRECTIONS

LEAST = 5  # pairs in a group: four can be dealt in 24 ways only, and one in 24 is no evidence
MATCHED = "Log-probability of the own answer above the others', priors taken out, averaged over wordings."
SHARES = {"chosen": "right answer chosen (share of facts)", "exact": "right answer written (share of facts)"}
SURNAMES: dict[Surname, str] = {
    "same": "same surname",
    "shared_word": "another name in common",
    "different": "different surname",
}
MEAN_OVER = "Mean over facts and wordings; intervals over both; 0 is chance."
INTERVAL = "The interval is for other facts and other wordings of the same kinds, not for other kinds of fact."


def pretrained(lab: Lab, fact_sets: Sequence[FactSet], n_boot: int) -> Iterator[Finding]:
    """Part (b): real facts, both directions, every answer against every prompt."""
    part = "(b) The loaded model on real facts"
    asked = {
        (facts.name, direction): ask_facts(lab.model, facts, direction, progress=lab.tell(f"{facts.name}, {direction}"))
        for facts in fact_sets
        for direction in DIRECTIONS
    }
    table = [
        _summary(name, asked[facts.name, direction], chosen)
        for facts in fact_sets
        for name, chosen in _by_spelling(facts).items()
        for direction in DIRECTIONS
    ]
    known_at_all = False
    for direction in DIRECTIONS:
        found = [a for (_, d), a in asked.items() if d == direction]
        paired = Finding(
            claim=f"Asked {_in_words(direction)}, the model pairs the right answers with the questions.",
            estimate=estimate_crossed([a.matched for a in found], unit="nats", over=_over(found)),
            control=Control("answers dealt to the questions at random", _null(found, n_boot, lab.seed)),
            expects="greater",
            part=part,
            measure=f"{MATCHED} {INTERVAL}",
            caveat="Spelling can give an answer away: read facts whose two sides share a first letter apart. "
            + silence_told([a.matched for a in found]),
            table=[r for r in table if r["direction"] == direction],
            figure=_set_dots("own answer above others (nats)", MEAN_OVER, 0.0),
        )
        yield paired
        known_at_all |= paired.verdict == "yes"
    if not known_at_all:  # facts that a model knows in neither order say nothing of the orders
        return
    who, names = lab.model.provenance.name, ", ".join(facts.name for facts in fact_sets)
    for what, claim, measure, chance in (
        (
            "chosen",
            f"{who} chooses the right answer over 5 points more often forward than reversed ({names}).",
            "How often the own answer scores best of all",
            1 / len(fact_sets[0]),
        ),
        (
            "exact",
            f"Left to write, {who} gives the right answer over 5 points more often forward than reversed.",
            "How often the model's most likely text begins with a right answer, token by token",
            None,
        ),
    ):
        forward, backward = ([_share(asked[f.name, direction], what) for f in fact_sets] for direction in DIRECTIONS)
        by_fact = np.concatenate([a.mean(0) - b.mean(0) for a, b in zip(forward, backward, strict=True)])
        yield Finding(
            claim=claim,
            estimate=estimate_crossed(
                forward, less=backward, unit="share of facts", over=_over(asked.values()), bounds=(-1.0, 1.0)
            ),
            control=Control(
                "the two directions swapped at random, fact by fact",
                sign_flip_null(by_fact, unit="share of facts", n_perm=n_boot, seed=lab.seed),
            ),
            expects="greater",
            margin=0.05,
            part=part,
            measure=f"{measure}, forward less reversed. {INTERVAL}",
            caveat=(
                "Pre-training text states most facts in both orders, so a gap here may be one of difficulty (a symbol "
                "has fewer rivals than a name) and its absence does not refute the curse; part (a) is the clean test."
                + _silent_wordings(asked.values(), what)
            ),
            answers=what == "chosen",
            table=table,
            figure=_set_dots(
                SHARES[what], "Each set in each direction; intervals over facts and wordings.", chance, f"{what} "
            ),
        )


@dataclass(frozen=True)
class Family:
    """Pairs of one surname kind, mothers and fathers apart, and `left_out` in words: what of the file is not asked."""

    surname: Surname
    sets: tuple[FactSet, ...]
    left_out: str


def family(lab: Lab, families: Sequence[Family], n_boot: int) -> Iterator[Finding]:
    """Part (b) on a user's children and parents; a shared surname leaks the answer, so it is told apart."""
    for one in families:
        who = " and ".join(sorted({kind for facts in one.sets for kind in ("mother", "father") if kind in facts.name}))
        for direction in DIRECTIONS:
            found = [ask_facts(lab.model, f, direction, progress=lab.tell(f"{f.name}, {direction}")) for f in one.sets]
            yield Finding(
                claim=f"Children and their {who}, {SURNAMES[one.surname]}, asked {_in_words(direction)}: "
                "the pairs are matched.",
                estimate=estimate_crossed([a.matched for a in found], unit="nats", over=_over(found, "pairs")),
                control=Control("parents dealt to the children at random", _null(found, n_boot, lab.seed)),
                expects="greater",
                part="(b) The loaded model on your pairs",
                measure=f"{MATCHED} {INTERVAL} {one.left_out}".rstrip(),
                caveat=(
                    "A shared surname gives the answer away: believe the pairs with different surnames. "
                    if one.surname != "different"
                    else "Fame decides which pairs a model can know at all. "
                )
                + silence_told([a.matched for a in found]),
                table=[_summary(f.name, a, range(len(f))) for f, a in zip(one.sets, found, strict=True)],
                figure=_set_dots(
                    "own answer above others (nats)",
                    MEAN_OVER,
                    0.0,
                ),
            )


def split_by_surname(
    sets: dict[tuple[Surname, ParentType], FactSet], max_pairs: int, seed: int
) -> tuple[list[Family], str]:
    """At most `max_pairs` pairs of each kind, one-to-one, so that every answer is wrong for every other prompt.

    And what is left out of all of them, in a sentence; "" when nothing is.
    """
    kept: dict[Surname, list[FactSet]] = {}
    dropped: list[str] = []
    for (surname, kind), facts in sets.items():
        seen: set[str] = set()
        one_to_one = [
            f for f in facts.facts if not {f.subject, f.object} & seen and not seen.update((f.subject, f.object))
        ]
        chosen = sorted(np.random.default_rng(seed).permutation(len(one_to_one))[:max_pairs].tolist())
        if len(chosen) < LEAST:
            dropped.append(f"{len(facts)} with a {kind} of {surname} surname (a group needs {LEAST})")
            continue
        kept.setdefault(surname, []).append(replace(facts, facts=tuple(one_to_one[i] for i in chosen)))
        if len(one_to_one) < len(facts):
            dropped.append(f"{len(facts) - len(one_to_one)} with a {kind} of {surname} surname whose names come again")
        if len(chosen) < len(one_to_one):
            dropped.append(f"{len(one_to_one) - len(chosen)} with a {kind} of {surname} surname, by --max-pairs")
    left_out = f"Left out: {', '.join(dropped)}." if dropped else ""
    return [Family(surname, tuple(some), left_out) for surname, some in kept.items()], left_out


def _by_spelling(facts: FactSet) -> dict[str, Sequence[int]]:
    """The set, and where both kinds are common, its facts whose two sides share a first letter apart from the others.

    Zinc and Zn can be matched by their letters alone; sodium and Na cannot.
    """
    alike = [f.subject[:1].casefold() == f.object[:1].casefold() for f in facts.facts]
    parts = {
        f"{facts.name}, {word} first letter": [i for i, a in enumerate(alike) if a == shared]
        for word, shared in (("same", True), ("another", False))
    }
    whole: dict[str, Sequence[int]] = {facts.name: range(len(facts))}
    return whole | parts if min(map(len, parts.values())) >= 4 else whole


def _in_words(direction: Direction) -> str:
    return "forward (the subject is given)" if direction == "forward" else "reversed (the object is given)"


def _null(found: Sequence[Asked], n_boot: int, seed: int) -> Estimate:
    return pooled_pairing_null([a.scores for a in found], unit="nats", n_perm=n_boot, seed=seed)


def _over(found: Iterable[Asked], items: str = "facts") -> str:
    """What n counts."""
    return f"{items}, each in {max(len(a.scores) for a in found)} wordings"


def _silent_wordings(found: Iterable[Asked], what: str) -> str:
    """A sentence on wordings that got no right answer in any set and direction; the interval is wide for them."""
    by_wording = np.array([_share(a, what).mean(1)[:3] for a in found]).sum(0)
    silent = [str(i + 1) for i, right in enumerate(by_wording) if right == 0]
    return f" Wording {' and '.join(silent)} got no right answer anywhere, which widens the interval." if silent else ""


def _share(asked: Asked, what: str) -> NDArray[np.float64]:
    """What share of answers is right, [template, fact]: `chosen` from all, or written (`exact`)."""
    return asked.chosen if what == "chosen" else asked.exact.astype(np.float64)


def _summary(name: str, asked: Asked, facts: Sequence[int]) -> Row:
    """One direction of a set, or of some of its `facts`; answers are weighed against those of the whole set."""
    some = list(facts)
    matched = estimate_crossed([asked.matched[:, some]], unit="nats", over=_over([asked]))
    row: Row = {
        "facts": name,
        "direction": asked.direction,
        "own answer above others (nats)": matched.mean,
        "low": matched.low,
        "high": matched.high,
        "per token (nats)": float(asked.matched_per_token[:, some].mean()),
        "spread over templates (nats)": float(asked.matched[:, some].mean(1).std(ddof=1)),
    }
    for what, column in SHARES.items():
        share = _share(asked, what)[:, some]
        e = estimate_crossed([share], unit="share", over=_over([asked]), bounds=(0.0, 1.0))
        row |= {column: e.mean, f"{what} low": e.low, f"{what} high": e.high}
        row |= {f"{what}, by template": ", ".join(f"{m:.2f}" for m in share.mean(1))}
    return row | {"n": len(some)}


def _set_dots(x: str, caption: str, chance: float | None, prefix: str = "") -> Figure:
    return Figure(
        "interval_dots",
        x=x,
        y="facts",
        group="direction",
        low=f"{prefix}low",
        high=f"{prefix}high",
        chance=chance,
        caption=caption,
    )
