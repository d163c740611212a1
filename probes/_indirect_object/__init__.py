"""The parts of the indirect object: sentences, heads, places, controls."""

UNIT = "nats"
CONTROLS = "Controls of the method"
