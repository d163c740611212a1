"""The parts of the indirect object: sentences, heads, places."""

UNIT = "nats"
