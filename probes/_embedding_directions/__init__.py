"""The parts of the directions: words, analogies, readouts, steering, controls."""

SHARE = "share of questions"
COSINE = "cosine"
ANALOGIES, OFFSETS, HOLDS, CAUSES, CONTROLS = (
    "Analogies: does the offset find the fourth word?",
    "Is it one direction for all pairs?",
    "What is held, and in how many directions",
    "Does the direction do anything?",
    "Controls of the method",
)
MARGIN = 0.1  # of the questions
