"""The parts of enrichment: phrases, the direction of size, who carries it, word senses, planted directions."""

RIGHT = "share of pairs told rightly"
COSINE = "cosine"
SIZE = "(a) The direction of size"
CARRIED = "(b) Who carries it"
SENSES = "(c) Words of two senses"
CONTROLS = "Controls of the method"
