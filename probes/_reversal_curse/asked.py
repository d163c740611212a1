"""Asked: the loaded model on real facts, in both directions (b)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    Claim,
    Control,
    Direction,
    FactSet,
    Finding,
    Lab,
    Row,
    begin_alike,
)
from interp.analysis import Asked, ask_facts
from interp.stats import (
    estimate_crossed,
    matched_scores,
    null_of,
    pairing_draws,
    permutation_p,
    sign_flip_draws,
)

from .taught import NATS, Answers, dots

FACTS = "share of facts"
REAL = "(b) The loaded model on real facts"
LEAST = 5  # facts: four can be dealt in 24 ways only, and one in 24 is no evidence
AHEAD = 1.0  # nats
MATCHED = "Log-probability of the own answer above the others', priors taken out, averaged over wordings."
INTERVAL = "The interval is for other facts and other wordings of the same kinds, not for other kinds of fact."
UNLIKE = "Judged on those whose answer has no word that begins like a word of what the question names."
GAP_CAVEAT = (
    "Pre-training text states most facts in both orders, so a gap here may be one of difficulty (a symbol has fewer "
    "rivals than a name) and its absence does not refute the curse; part (a) is the clean test."
)
PAIRS_FACTS = Claim(
    f"Asked {{how}}, the model pairs the right answers with the questions, {AHEAD:g} nat ahead of the others.",
    "greater",
    unit=NATS,
    margin=AHEAD,
    part=REAL,
    measure=f"{MATCHED} {UNLIKE} {INTERVAL}",
    caveat="Spelling can give an answer away in other ways than by its first letter: in its endings or its language.",
)
_gap = partial(Claim, expects="greater", margin=0.05, unit=FACTS, part=REAL, caveat=GAP_CAVEAT)
CHOOSES = _gap(
    "{model} chooses the right answer over 5 points more often forward than reversed ({facts}).",
    answers=True,
    measure=f"How often the own answer scores best of theirs, forward less reversed. {UNLIKE} {INTERVAL}",
)
WRITES = _gap(
    "Left to write, {model} gives the right answer over 5 points more often forward than reversed.",
    measure="How often the model's most likely text begins with a right answer, token by token, forward less "
    f"reversed. {UNLIKE} {INTERVAL}",
)
HOW: dict[Direction, str] = {
    "forward": "forward (the subject is given)",
    "reversed": "reversed (the object is given)",
}
SHARES = {"chosen": "right answer chosen (share of facts)", "exact": "right answer written (share of facts)"}
OWN = "own answer above others (nats)"
DOTS = "Mean over facts and wordings; intervals over both; 0 is chance."
CLAIMS = [PAIRS_FACTS, CHOOSES, WRITES]


def pretrained(lab: Lab, fact_sets: Sequence[FactSet], n_boot: int) -> Answers:
    """Part (b): real facts, both directions, every answer against every prompt."""
    asked = {(facts.name, direction): ask(lab, facts, direction) for facts in fact_sets for direction in DIRECTIONS}
    table = [
        _summary(name, asked[facts.name, direction], chosen)
        for facts in fact_sets
        for name, chosen in by_spelling(facts).items()
        for direction in DIRECTIONS
    ]
    judged = [facts for facts in fact_sets if len(unlike(facts)) >= LEAST]
    verdicts: list[str] = []
    for direction in DIRECTIONS:
        about = {"how": HOW[direction]}
        if not judged:
            yield PAIRS_FACTS.not_asked(
                f"because fewer than {LEAST} facts have answers that begin like no word of their question", about=about
            )
            continue
        scores = [among_scores(asked[facts.name, direction], unlike(facts)) for facts in judged]
        paired = paired_ahead(PAIRS_FACTS, scores, about, n_boot, lab.seed, "answers dealt to the questions at random")
        figure = dots(OWN, "facts", "direction", DOTS, 0.0)
        paired = replace(paired, table=[row for row in table if row["direction"] == direction], figure=figure)
        verdicts.append(paired.verdict)
        yield paired
    model, names = lab.model.provenance.name, ", ".join(facts.name for facts in judged)
    # on the same facts as the verdicts that open the gate: letters may give the others away in one direction only
    sides = [[among(asked[facts.name, d], unlike(facts)) for facts in judged] for d in DIRECTIONS]
    for claim, what, about in (
        (CHOOSES, "chosen", {"model": model, "facts": names}),
        (WRITES, "exact", {"model": model}),
    ):
        if "yes" not in verdicts:
            because = "because the model surely pairs these facts in neither direction, and that says nothing of either"
            yield claim.not_asked(because, about=about)
            continue
        chance = 1 / len(fact_sets[0]) if what == "chosen" else None
        figure = dots(SHARES[what], "facts", "direction", "Intervals over facts and wordings.", chance, f"{what} ")
        yield replace(_more_forward(claim, sides, what, about, lab, n_boot), table=table, figure=figure)


def _more_forward(
    claim: Claim, sides: Sequence[Sequence[Asked]], what: str, about: Mapping[str, object], lab: Lab, n_boot: int
) -> Finding:
    """How much more often forward than reversed: shares of each set, [template, fact], less the same facts' others."""
    forward, backward = ([right_share(asked, what) for asked in side] for side in sides)
    by_fact = np.concatenate([a.mean(0) - b.mean(0) for a, b in zip(forward, backward, strict=True)])
    draws = sign_flip_draws(by_fact, n_perm=n_boot, seed=lab.seed)
    chance = 1 / forward[0].shape[1] if what == "chosen" else 0.0
    over = _over([*sides[0], *sides[1]])
    return claim.answer(
        estimate_crossed(
            forward, less=backward, unit=FACTS, over=over, bounds=(-1.0, 1.0), nothing=chance, across="wording"
        ),
        Control("the two directions swapped at random, fact by fact", null_of(draws, unit=FACTS)),
        about=about,
        measure=_p(draws, float(by_fact.mean())),
    )


def unlike(facts: FactSet) -> list[int]:
    """The facts whose two sides have no words that begin alike, so that a liking for letters cannot match them."""
    return [i for i, fact in enumerate(facts.facts) if not begin_alike(fact.subject, fact.object)]


def by_spelling(facts: FactSet) -> dict[str, Sequence[int]]:
    """The set, and where both kinds are common, its facts whose two sides share a first letter apart from the others.

    Zinc and Zn can be matched by their letters alone; sodium and Na cannot.
    """
    apart = unlike(facts)
    parts = {
        f"{facts.name}, same first letter": [i for i in range(len(facts)) if i not in apart],
        f"{facts.name}, another first letter": apart,
    }
    whole: dict[str, Sequence[int]] = {facts.name: range(len(facts))}
    return whole | parts if min(map(len, parts.values())) >= 4 else whole


def ask(lab: Lab, facts: FactSet, direction: Direction) -> Asked:
    """Every answer behind every question of one direction."""
    return ask_facts(lab.model, facts, direction, progress=lab.tell(f"{facts.name}, {direction}"))


def among_scores(asked: Asked, chosen: Sequence[int]) -> NDArray[np.float64]:
    """The scores of some facts among themselves: [template, fact, fact]."""
    return asked.scores[:, chosen][:, :, chosen]


def among(asked: Asked, chosen: list[int]) -> Asked:
    """Some facts, their answers weighed against each other alone."""
    few = {"exact": asked.exact[:, chosen], "lengths": asked.lengths[chosen]}
    return replace(asked, scores=among_scores(asked, chosen), **few)


def paired_ahead(
    claim: Claim,
    scores: Sequence[NDArray[np.float64]],
    about: Mapping[str, object],
    n_boot: int,
    seed: int,
    null: str,
    what: str = "facts",
) -> Finding:
    """How far own answers are ahead, against answers dealt within each set; one deal serves all wordings."""
    draws = pairing_draws(scores, n_perm=n_boot, seed=seed)
    over = f"{what}, each in {max(len(matrix) for matrix in scores)} wordings"
    estimate = estimate_crossed([matched_scores(matrix) for matrix in scores], unit=NATS, over=over, across="wording")
    return claim.answer(
        estimate,
        Control(null, null_of(draws, unit=NATS)),
        about=about,
        measure=_p(draws, estimate.mean),
    )


def _p(draws: NDArray[np.float64], mean: float) -> str:
    """How often chance alone gives as much, which wordings that differ do not widen as they do the interval."""
    return f"Permutation p = {permutation_p(draws, mean):.2g}, for these wordings."


def _over(asked: Iterable[Asked]) -> str:
    """What n counts."""
    return f"facts, each in {max(len(one.scores) for one in asked)} wordings"


def right_share(asked: Asked, what: str) -> NDArray[np.float64]:
    """What share of answers is right, [template, fact]: `chosen` from all, or written (`exact`)."""
    return asked.chosen if what == "chosen" else asked.exact.astype(np.float64)


def _summary(name: str, asked: Asked, facts: Sequence[int]) -> Row:
    """One direction of a set, or of some of its `facts`; answers are weighed against those of the whole set."""
    chosen = list(facts)
    matched = estimate_crossed([asked.matched[:, chosen]], unit=NATS, over=_over([asked]))
    row: Row = {
        "facts": name,
        "direction": asked.direction,
        OWN: matched.mean,
        "low": matched.low,
        "high": matched.high,
    }
    row |= {
        "per token (nats)": float(asked.matched_per_token[:, chosen].mean()),
        "spread over templates (nats)": float(asked.matched[:, chosen].mean(1).std(ddof=1)),
    }
    for what, column in SHARES.items():
        share = right_share(asked, what)[:, chosen]
        at = estimate_crossed([share], unit="share", over=_over([asked]), bounds=(0.0, 1.0))
        row |= {column: at.mean, f"{what} low": at.low, f"{what} high": at.high}
        row |= {f"{what}, by template": ", ".join(f"{mean:.2f}" for mean in share.mean(1))}
    return row | {"n": len(chosen)}
