"""The parts of tokenization: word lists, how words are cut, what the model does with the pieces."""

SPLIT = "share of words"
NATS = "nats"
CUT = "(a) How words are cut"
MET = "(b) What the model does at the pieces"
CONTROLS = "Controls of the method"
