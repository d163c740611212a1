"""Families: the loaded model on a user's children and parents, and on the pair that the paper opens with (b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from interp import (
    DIRECTIONS,
    Claim,
    Direction,
    FactSet,
    Family,
    Finding,
    Lab,
    Row,
    rivals_of,
    zero,
)
from interp.analysis import Asked
from interp.stats import estimate_mean

from .asked import (
    AHEAD,
    INTERVAL,
    LEAST,
    MATCHED,
    OWN,
    SHARES,
    UNLIKE,
    among_scores,
    ask,
    paired_ahead,
    right_share,
    unlike,
)
from .taught import NATS, Answers, dots

YOURS = "(b) The loaded model on your pairs"
PAIRS_FAMILY = Claim(
    f"Children and their {{parents}}, different surname, asked {{how}}: the pairs are matched, {AHEAD:g} nat ahead.",
    "greater",
    unit=NATS,
    margin=AHEAD,
    part=YOURS,
    measure=f"{MATCHED} {UNLIKE} {INTERVAL}",
    caveat="Fame decides which pairs a model can know at all.",
)
BY_NAME = Claim(
    "Children and their {parents}, {names}, asked {how}: the pairs are matched, for which the shared name is enough.",
    "greater",
    unit=NATS,
    part=YOURS,
    measure=f"{MATCHED} {INTERVAL}",
    caveat="A shared name gives the answer away: believe the pairs with different surnames.",
)
HOW: dict[Direction, str] = {
    "forward": "forward (the child is given)",
    "reversed": "reversed (the parent is given)",
}
CHILD, PARENT = "Tom Cruise", "Mary Lee Pfeiffer"
EXAMPLE = Claim(
    f"The paper's example, {CHILD} and his mother {PARENT}, asked {{how}}: the right name is {AHEAD:g} nat ahead.",
    "greater",
    unit=NATS,
    margin=AHEAD,
    part=YOURS,
    measure="Log-probability of the right name above those of other pairs' names, priors taken out.",
    caveat="One pair: the interval is over wordings, and says nothing of other people.",
)
CLAIMS = [PAIRS_FAMILY, BY_NAME, EXAMPLE]


def families(lab: Lab, kinds: Sequence[Family], n_boot: int) -> Answers:
    """Part (b) on a user's children and parents; a shared surname leaks the answer, so it is told apart."""
    if not kinds:
        no_pairs = "because no pairs came with --pairs"
        yield from (claim.not_asked(no_pairs) for claim in CLAIMS)
        return
    not_judged: list[Row] = []  # the rows of pairs that no finding has a table for
    for kind in kinds:
        names = "same surname" if kind.surname == "same" else "another name in common"
        for direction in DIRECTIONS:
            asked = [ask(lab, facts, direction) for facts in kind.sets]
            about: dict[str, object] = {"parents": kind.parents, "how": HOW[direction]}
            claim, chosen = PAIRS_FAMILY, [unlike(facts) for facts in kind.sets]
            if kind.surname != "different":
                claim, chosen, about = BY_NAME, [list(range(len(f))) for f in kind.sets], about | {"names": names}
            scores = [among_scores(one, few) for one, few in zip(asked, chosen, strict=True) if len(few) >= LEAST]
            table = [row for facts, one in zip(kind.sets, asked, strict=True) for row in _pair_rows(facts, one)]
            if not scores:
                not_judged += table
                yield claim.not_asked(f"because fewer than {LEAST} pairs share no first letter", about=about)
                continue
            null = "parents dealt to the children at random"
            paired = paired_ahead(claim, scores, about, n_boot, lab.seed, null, "pairs")
            whole = " ".join(_by_set(f, one) for f, one in zip(kind.sets, asked, strict=True))
            all_of_them = f"{kind.left_out} {whole}"
            figure = dots(OWN, "pair", "direction", "Each pair; intervals over wordings; 0 is chance.", 0.0)
            yield replace(paired, measure=f"{paired.measure} {all_of_them}", table=table, figure=figure)
    for claim, wanted in ((PAIRS_FAMILY, {"different"}), (BY_NAME, {"same", "shared_word"})):
        if not wanted & {kind.surname for kind in kinds}:
            yield claim.not_asked(f"because the file holds fewer than {LEAST} such pairs of one kind")
    facts = rivals_of(CHILD, PARENT, kinds)
    for direction in DIRECTIONS:
        rows = [row for row in not_judged if row["direction"] == direction]
        yield _example(lab, facts, direction, rows)


def _example(lab: Lab, facts: FactSet, direction: Direction, more: list[Row]) -> Finding:
    """The pair that the paper opens with, wording by wording, and what the model writes by itself.

    `more`: rows of pairs that were too few to judge.
    """
    asked = ask(lab, facts, direction)
    leads, prompts = asked.matched[:, 0], [facts.prompts(direction, t)[0] for t in range(len(asked.scores))]
    texts = [lab.model.generate(prompt, max_new_tokens=8).texts[0] for prompt in prompts]
    written = [" ".join(text.split()) for text in texts]  # in a line of its own
    table: list[Row] = [
        {
            "pair": f"{CHILD}, {PARENT}",
            "direction": direction,
            "asked": prompt,
            "the model writes": text,
            OWN: lead,
        }
        for prompt, text, lead in zip(prompts, written, leads.tolist(), strict=True)
    ]
    return EXAMPLE.answer(
        estimate_mean(leads, unit=NATS, over="wording", seed=lab.seed),
        zero(NATS, "no further ahead than of the other names"),
        about={"how": HOW[direction]},
        measure=f"Among {len(facts)} names. Asked “{prompts[0]}”, {lab.model.provenance.name} writes "
        f"“{written[0]}”; the right name in {int(asked.exact[:, 0].sum())} of {len(prompts)} wordings.",
        table=[*table, *more],
    )


def _by_set(facts: FactSet, asked: Asked) -> str:
    chosen, written = (right_share(asked, what).mean() for what in SHARES)
    return f"All {len(facts)} {facts.object}s: right name chosen {chosen:.0%}, written {written:.0%}."


def _pair_rows(facts: FactSet, asked: Asked) -> list[Row]:
    """One row a pair."""
    apart, rows = unlike(facts), []
    for i, fact in enumerate(facts.facts):
        at = estimate_mean(asked.matched[:, i], unit=NATS, over="wording")
        row: Row = {"pair": f"{fact.subject}, {fact.object}", "direction": asked.direction, OWN: at.mean}
        row |= {"low": at.low, "high": at.high, "no first letter in common": i in apart}
        rows.append(
            row | {f"{what} (share of wordings)": float(right_share(asked, what)[:, i].mean()) for what in SHARES}
        )
    return rows
