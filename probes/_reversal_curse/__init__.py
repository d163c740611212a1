"""What the parts of the reversal curse share."""

from __future__ import annotations

from interp import Direction, Learned

DIRECTIONS: tuple[Direction, Direction] = ("forward", "reversed")
TAUGHT_AS: dict[Learned, tuple[Direction, ...]] = {
    "name first": ("forward",),
    "description first": ("reversed",),
    "both orders": ("forward", "reversed"),
}
