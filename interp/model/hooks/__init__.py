"""Sites, the hooked module tree, the plain model's taps, tokens, and the one forward that reads and edits them."""
