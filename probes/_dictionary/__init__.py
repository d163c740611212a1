"""The parts of the dictionary: how well it rewrites, whether its features are its own, controls."""

REWRITES = "The sparse autoencoder on held-out text"
BESIDE = "Beside other SAEs"
OWN = "Its features: do all fire, and is any there twice?"
CONTROLS = "Controls of the method"
VARIANCE, RECOVERED, FEATURE_SHARE = "share of variance", "share of loss recovered", "share of features"
FIRING_SHARE, TOKEN_SHARE = "share of firings", "share of tokens"
RANDOM = "random directions"
