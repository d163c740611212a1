"""What the three parts of the reversal curse share."""

from __future__ import annotations

from interp.text.facts import Direction

DIRECTIONS: tuple[Direction, Direction] = ("forward", "reversed")
