"""What a probe yielded, as tests read it: the findings among its answers, and the one that answers a claim."""

from __future__ import annotations

from collections.abc import Iterable

from interp import Claim, Finding, NotAsked
from interp.views.figures import draw


def findings(answers: Iterable[Finding | NotAsked]) -> list[Finding]:
    """Those that have a number, in their order."""
    return [answer for answer in answers if isinstance(answer, Finding)]


def drawn(answers: Iterable[Finding | NotAsked]) -> list[Finding]:
    """The findings, after each of their pictures could be drawn."""
    measured = findings(answers)
    for finding in measured:
        if finding.figure:
            draw(finding)
    return measured


def answer_of(answers: Iterable[Finding | NotAsked], claim: Claim) -> Finding:
    """The one finding that answers this claim. AssertionError says why there is none."""
    given = [answer for answer in answers if answer.declared == claim.text]
    assert len(given) == 1, f"{len(given)} answers to {claim.text!r}"
    (answer,) = given
    assert isinstance(answer, Finding), f"{claim.text!r} was not asked, {answer.because}"
    return answer


def not_asked(answers: Iterable[Finding | NotAsked]) -> list[NotAsked]:
    """Those that were not put to the model, in their order."""
    return [answer for answer in answers if isinstance(answer, NotAsked)]
