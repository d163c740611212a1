"""The parts of attention to the whole context: windows, contexts, heads, at once."""

NATS = "nats per token"
MATTERS = "(a) How much context matters"
AT_ONCE = "(b) All at once"
HEADS = "(c) Which layers and heads look how far"
CONTROLS = "Controls of the method"
Rows = list[list[int]]
