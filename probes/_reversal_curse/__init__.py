"""The parts of the reversal curse: taught (a, e), asked (b), inside (c, f), fine-tuned (d)."""
