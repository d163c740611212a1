"""The parts of the die: what is asked, what is answered, what goes on inside."""

SIDES = 6
UNIFORM = 1 / SIDES
SHARE = "share of the six answers"
DIGITS = tuple(f" {n}" for n in range(1, SIDES + 1))
WORDS = (" one", " two", " three", " four", " five", " six")
