"""The parts of the features: what fires where, what explains it, what it is made of, what it does, controls."""

EXPLAINED, MADE_OF, CAUSES, CONTROLS = (
    "Which tokens explain it",
    "How many neurons it is made of",
    "What is lost without it",
    "Controls of the method",
)
CORRELATION, ORDER, DOUBLINGS, FEATURE_SHARE = "correlation", "AUC", "doublings", "share of features"
APART, ORDER_GAP = (-2.0, 2.0), (-1.0, 1.0)  # the most by which two correlations, and two AUCs, can differ
FEATURES, NEURONS, RANDOM = "features", "neurons", "random directions"
