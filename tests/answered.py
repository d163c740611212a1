"""What a probe yielded, taken apart: its findings, and the claims that it said were not asked."""

from __future__ import annotations

from collections.abc import Iterable

from interp.lab.claims import NotAsked
from interp.lab.findings import Finding


def findings(yielded: Iterable[Finding | NotAsked]) -> list[Finding]:
    """The answers among them, in their order."""
    return [one for one in yielded if isinstance(one, Finding)]


def finding(one: Finding | NotAsked) -> Finding:
    """One that must be an answer; it fails with the reason where there is none."""
    assert isinstance(one, Finding), f"{one.claim} was not asked, {one.because}"
    return one


def not_asked(yielded: Iterable[Finding | NotAsked]) -> list[NotAsked]:
    """The claims among them that were not put to the model, in their order."""
    return [one for one in yielded if isinstance(one, NotAsked)]
