"""Text from a corpus or a prompt as a page may show it: nothing in it can hide, reorder its neighbours or run.

Escaping is the page's business (React, textContent, jinja); what is left are characters that show as nothing, or that
turn the direction of all that follows.
"""

from __future__ import annotations

import unicodedata

LONGEST = 400  # characters of a token; the rest is counted
_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "␍"}
# Hidden on purpose: of the category Cf these shape words of some scripts, and stay
_JOINERS = {"\u200c", "\u200d"}


def visible(text: str) -> str:
    """`text` with control and direction characters spelled out, cut where it is huge."""
    shown = "".join(map(_character, text[:LONGEST]))
    return shown if len(text) <= LONGEST else f"{shown}… ({len(text):,} characters)"


def _character(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return character
    return f"‹U+{ord(character):04X}›"
