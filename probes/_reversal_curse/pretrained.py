"""Part (b): the loaded model on real facts, and on a user's children and parents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from interp.analysis.estimate import Estimate
from interp.analysis.facts import Asked, ask
from interp.analysis.statistics import bootstrap_mean, double_centre, sign_flip_null
from interp.lab.findings import Control, Figure, Finding, Row
from interp.lab.probe import Lab
from interp.text.facts import Direction, FactSet
from interp.text.pairs import ParentType, Surname
from probes._reversal_curse import DIRECTIONS

LEAST = 4  # pairs in a group: fewer have too few wrong answers to compare with
MATCHED = "Log-probability of the own answer above the others', priors taken out, averaged over templates."


def pretrained(lab: Lab, fact_sets: Sequence[FactSet], n_boot: int) -> Iterator[Finding]:
    """Part (b): real facts, both directions, every answer against every prompt."""
    part = "(b) The loaded model on real facts"
    asked = {
        (facts.name, direction): ask(lab.model, facts, direction, progress=lab.tell(f"{facts.name}, {direction}"))
        for facts in fact_sets
        for direction in DIRECTIONS
    }
    table = [
        _summary(name, asked[facts.name, direction], chosen, n_boot, lab.seed)
        for facts in fact_sets
        for name, chosen in _by_spelling(facts).items()
        for direction in DIRECTIONS
    ]
    known_at_all = False
    for direction in DIRECTIONS:
        found = [a for (_, d), a in asked.items() if d == direction]
        paired = Finding(
            claim=f"Asked {_in_words(direction)}, the model pairs the right answers with the questions.",
            estimate=bootstrap_mean(
                np.concatenate([a.matched for a in found]), unit="nats", over="fact", n_boot=n_boot, seed=lab.seed
            ),
            control=Control("answers dealt to the questions at random", _pooled_null(found, n_boot, lab.seed)),
            expects="greater",
            part=part,
            measure=MATCHED,
            caveat="Spelling can give an answer away: read facts whose two sides share a first letter apart.",
            table=[r for r in table if r["direction"] == direction],
            figure=_set_dots("own answer above others (nats)", "Mean over facts and templates; 0 is chance.", 0.0),
        )
        yield paired
        known_at_all |= paired.verdict == "yes"
    if not known_at_all:  # facts that a model knows in neither order say nothing of the orders
        return
    forward, backward = (
        np.concatenate([a.chosen for (_, d), a in asked.items() if d == direction]) for direction in DIRECTIONS
    )
    gap = forward - backward
    yield Finding(
        claim=f"On real facts, {lab.model.provenance.name} chooses the right answer more often forward than reversed.",
        estimate=bootstrap_mean(gap, unit="share of facts", over="fact", n_boot=n_boot, seed=lab.seed),
        control=Control(
            "the two directions swapped at random, fact by fact",
            sign_flip_null(gap, unit="share of facts", n_perm=n_boot, seed=lab.seed),
        ),
        expects="greater",
        margin=0.05,
        part=part,
        measure="Share of templates in which the own answer scores best of all, forward less reversed, fact by fact.",
        caveat=(
            "Pre-training text states most facts in both orders, so a gap here may be one of difficulty (a symbol has "
            "fewer rivals than a name) and its absence does not refute the curse; part (a) is the clean test."
        ),
        answers=True,
        table=table,
        figure=_set_dots(
            "right answer chosen (share of facts)",
            "Own answer best of all after centring; intervals over facts.",
            1 / len(fact_sets[0]),
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
            found = [ask(lab.model, f, direction, progress=lab.tell(f"{f.name}, {direction}")) for f in one.sets]
            yield Finding(
                claim=f"Children and their {who}, {one.surname} surname, asked {_in_words(direction)}: "
                "the pairs are matched.",
                estimate=bootstrap_mean(
                    np.concatenate([a.matched for a in found]), unit="nats", over="pair", n_boot=n_boot, seed=lab.seed
                ),
                control=Control("parents dealt to the children at random", _pooled_null(found, n_boot, lab.seed)),
                expects="greater",
                part="(b) The loaded model on your pairs",
                measure=f"{MATCHED} {one.left_out}",
                caveat="A shared surname gives the answer away: believe the pairs with different surnames."
                if one.surname != "different"
                else "Fame decides which pairs a model can know at all.",
                table=[
                    _summary(f.name, a, range(len(f)), n_boot, lab.seed) for f, a in zip(one.sets, found, strict=True)
                ],
                figure=_set_dots("own answer above others (nats)", "Mean over pairs and templates; 0 is chance.", 0.0),
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


def _pooled_null(found: Sequence[Asked], n_boot: int, seed: int) -> Estimate:
    """The null of a mean over several sets: within each, one permutation of the answers."""
    rng = np.random.default_rng(seed)
    centred = [double_centre(a.scores).mean(0) for a in found]
    draws = [
        np.concatenate([m[np.arange(len(m)), rng.permutation(len(m))] for m in centred]).mean() for _ in range(n_boot)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(np.mean(draws)), float(low), float(high), n_boot, "nats", "permutation")


def _summary(name: str, asked: Asked, facts: Sequence[int], n_boot: int, seed: int) -> Row:
    """One direction of a set, or of some of its `facts`; answers are weighed against those of the whole set."""
    some = list(facts)
    matched = bootstrap_mean(asked.matched[some], unit="nats", over="fact", n_boot=n_boot, seed=seed)
    chosen = bootstrap_mean(asked.chosen[some], unit="share", over="fact", n_boot=n_boot, seed=seed)
    by_template = np.diagonal(double_centre(asked.scores), axis1=1, axis2=2)[:, some].mean(1)
    return {
        "facts": name,
        "direction": asked.direction,
        "own answer above others (nats)": matched.mean,
        "low": matched.low,
        "high": matched.high,
        "per token (nats)": float(asked.matched_per_token[some].mean()),
        "spread over templates (nats)": float(by_template.std(ddof=1)),
        "right answer chosen (share of facts)": chosen.mean,
        "chosen low": chosen.low,
        "chosen high": chosen.high,
        "exact match (share of facts)": float(asked.exact[:, some].mean()),
        "exact match by template": ", ".join(f"{m:.2f}" for m in asked.exact[:, some].mean(1)),
        "n": len(some),
    }


def _set_dots(x: str, caption: str, chance: float) -> Figure:
    low, high = ("chosen low", "chosen high") if "chosen" in x else ("low", "high")
    return Figure(
        "interval_dots", x=x, y="facts", group="direction", low=low, high=high, chance=chance, caption=caption
    )
