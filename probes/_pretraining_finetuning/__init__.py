"""The parts of pretraining_finetuning: questions, behaviour, what moved inside, features, small models, controls."""

ANSWERS = "(a) Answers before and after"
FORGOTTEN = "(b) What is forgotten"
MOVED = "(c) Which weights and activations moved"
CARRIES = "(d) Which layers carry it"
SMALL = "(e) Small models, with pre-training and without"
CONTROLS = "Controls of the method"
NATS = "nats"
SHARE = "share of questions"
EXACT = "exact answers (share of questions)"
END = " ##"  # closes an answer: a mark that the model does not write by itself
DIFFERENCE = (-1.0, 1.0)  # of two shares
ONE_SEED = "One fine-tuning of one model: the interval is over questions, not over other fine-tunings."
