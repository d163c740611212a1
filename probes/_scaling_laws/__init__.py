"""The parts of the scaling laws: the text, the grid that is trained, what is fitted to it, a family from the hub."""

LOSS = "test loss (nats per character)"
NATS = "nats per character"
