"""The parts of prediction: the text, what is read at every token, the findings."""

RIGHT = "share of tokens"
NATS = "nats per token"
OWN, OTHER = "text that the model wrote", "text that it did not write"
CONTROLS = "Controls of the method"
WITHIN = 0.05  # share of tokens: what counts as honest
