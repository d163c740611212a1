"""The parts of temperature 0: the prompts, the ways to compute the same thing, where they part, and why."""

PARTED = "share of prompts"
CHANGES = "(a) What changes and what does not"
CAUSE = "(c) The cause"
CONTROLS = "Controls of the method"
SAME = 0.6  # of prompts: eight of eight can show that many (Clopper and Pearson: 63 %)
