"""What a probe yielded, as tests read it: the findings among its answers, and the one that answers a claim."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from interp import Claim, Finding, Lab, NotAsked
from interp.lab.claims import check_declared, not_reached
from interp.lab.probe import Probe
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


def all_answered(probe: Probe, lab: Lab, **flags: Any) -> list[Finding | NotAsked]:
    """What the probe yields, after every claim was declared, and answered or said not to be asked; pictures drawn."""
    answers = list(probe(lab, **flags))
    for answer in answers:
        check_declared(answer, probe.claims, probe.name)
    assert not_reached(probe.claims, answers) == []
    drawn(answers)
    return answers


def not_asked(answers: Iterable[Finding | NotAsked]) -> list[NotAsked]:
    """The claims among them that were not put to the model, in their order."""
    return [answer for answer in answers if isinstance(answer, NotAsked)]
