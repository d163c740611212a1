"""The parts of anatomy: the count of the parameters, which neurons a token activates, what biases do."""

COUNTED = "(a) Layers and parameters"
NEURONS = "(b) Which neurons a token activates"
BIAS = "(c) What biases do"
CONTROLS = "Controls of the method"
NATS = "nats per token"
