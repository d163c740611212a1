"""The parts of the features: what fires where, what explains it, what it is made of, what it does, controls."""

EXPLAINED, MADE_OF, CAUSES, CONTROLS = (
    "Which tokens explain it",
    "How many neurons it is made of",
    "What is lost without it",
    "Controls of the method",
)
CORRELATION, ORDER, DOUBLINGS = "correlation", "AUC", "doublings"
FEATURES, NEURONS, RANDOM = "features", "neurons", "random directions"
