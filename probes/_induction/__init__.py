"""The parts of induction: repeated tokens, the heads that look back, what silencing them costs, controls."""

NATS, PAID = "nats per token", "share of attention"
GAIN, LOOKS = 1.0, 0.2  # nats, share of attention
CONTROLS = "Controls of the method"
Heads = list[tuple[int, int]]
