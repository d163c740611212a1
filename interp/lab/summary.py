"""Multiple claims of a run: how many say yes, how many would by chance, and which stand when all are taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.lab.findings import Finding
from interp.stats.corrections import holm, mirrored, p_above, p_below

TAIL = 0.025  # of false yes that a claim's rule allows, by itself


@dataclass(frozen=True)
class Answer:
    """A claim that answers the probe's question, with its one-sided p-value, alone and among all that answer (Holm)."""

    finding: Finding
    p: float
    adjusted: float

    @property
    def stands(self) -> bool:
        """Is it a yes also where all answers are asked together?"""
        return self.finding.verdict == "yes" and self.adjusted <= TAIL

    @property
    def together(self) -> str:
        """What the correction makes of the verdict, in words; empty where there is no yes that it could take back."""
        if self.finding.verdict != "yes":
            return ""
        if self.stands:
            return "stands"
        null = self.finding.control.estimate
        few = null.is_null and self.p <= 1 / (null.n + 1)
        return f"does not stand, as {null.n:,} permutations are too few among so many" if few else "does not stand"


@dataclass(frozen=True)
class ClaimsSummary:
    """`asked` claims and what came of them. `answers`: those that answer the question, in the order of the findings."""

    asked: int
    yes: int
    no: int
    unclear: int
    answers: list[Answer]

    @property
    def by_chance(self) -> float:
        """How many would say yes if none of them held: each does so in 2.5 % of runs."""
        return TAIL * self.asked

    def __str__(self) -> str:
        claims = "claim says" if self.asked == 1 else "claims say"
        return f"{self.yes} of {self.asked} {claims} yes; if none of them held, about {self.by_chance:.2g} would"


def summarise_claims(findings: Sequence[Finding]) -> ClaimsSummary:
    """Count the claims of a run, or of several, and judge those that answer its question all together (Holm 1979).

    Whatever holds and whatever does not, the chance that one or more of the answers says yes falsely and stands is at
    most 2.5 %. A "no" is not corrected.
    """
    verdicts = [finding.verdict for finding in findings]
    answering = [finding for finding in findings if finding.answers]
    p_values = [p_of_yes(finding) for finding in answering]
    adjusted = holm(p_values).tolist()
    answers = [Answer(*one) for one in zip(answering, p_values, adjusted, strict=True)]
    yes, no, unclear = (verdicts.count(word) for word in ("yes", "no", "unclear"))
    return ClaimsSummary(len(findings), yes, no, unclear, answers)


def p_of_yes(finding: Finding) -> float:
    """One-sided p-value of a claim: 0.025 or less where its verdict is yes. `interp.stats.p_above` states its limits.

    Of `equal` it is the larger of the two tests' (Schuirmann 1987). Against a null it is no smaller than the share of
    permutations that reach the estimate, taken as normal, and than one in all of them and one more: `null_of` takes no
    fewer than 39. 1 where no verdict can be had.
    """
    if finding.undecided:
        return 1.0
    gap, null = finding.gap, finding.control.estimate
    if finding.expects == "equal":
        return max(p_above(gap, -finding.margin), p_below(gap, finding.margin))
    p, measured = p_above(gap, finding.margin), finding.estimate.mean
    if finding.expects == "less":
        p, measured, null = p_below(gap, -finding.margin), -measured, mirrored(null)
    if not null.is_null:
        return p
    reached = p_below(null, measured)  # how rarely the null goes as far
    return max(p, reached, 1 / (null.n + 1))
