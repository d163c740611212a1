"""Does pre-training make the weights, and fine-tuning only make the model answer?

Question. A beginner's course says: pre-training reads billions of words and makes the weights; fine-tuning makes a
model out of it that answers. If so, a short fine-tuning changes how answers are given, not what is known; it moves the
weights little; and without pre-training it makes nothing.

(a) A copy of the loaded model is fine-tuned on questions of four tasks (capitals, opposites, sums, plurals), "Question:
What is the capital of Kenya? Answer:", to answer in a word and close with a mark that it does not use by itself, " ##".
Asked are the trained questions, others of these tasks, and two tasks that were not trained (past tenses, chemical
symbols). An answer is exact if word and mark are the model's likeliest text.

(b) What it forgets: the loss on ordinary text.

(c) How far weights and activations moved, in how many directions, and which features of a sparse autoencoder moved.

(d) Which layers carry the new behaviour: blocks of layers are given their old weights back, one at a time, then more
and more of them.

(e) Small GPT-2s read sentences about an invented world and are then fine-tuned to answer questions about half of its
beings. The same fine-tuning from random weights shows what it can do by itself.

What counts as yes (set before anything ran; the two with a star were added after a first, short run, which showed what
the rule before them cannot tell):

- exact answers rise by 20 points, on held-out questions and on tasks that were not trained;
- before fine-tuning the right answer is ahead of others by 0.5 nats; after it, this lead is the same within 0.5 nats;
- *the right answer is as often the best of its task as before, within 10 points (a surer model has larger leads);
- from random weights, held-out questions are answered exactly 10 points less often;
- weights: each layer changes by less than 5 % (length of the change over length of the weights);
- directions: the 8 largest hold 10 points more of the change than of random numbers;
- activations: they move more before an answer than in text, by a tenth of the spread;
- one block of layers carries more than the others do, by 0.5 nats; none alone gives half of the gain;
- *with the lower half of the layers as they were, more than half of the gain is left (blocks stand in for each other);
- forgetting: the loss on ordinary text rises by 0.05 nats.

What could fool us:

- The mark is new, so that no answer is exact before. The answer alone is told beside it, and part (a) also asks,
  without the mark, whether the right answer was ahead of others.
- Learning by heart. Trained and held-out questions are different ones, and two tasks are not trained at all.
- AdamW moves every weight, learn or not: answers of other questions are trained, too, and their change is shown.
- Where weights moved is not where the behaviour is: hence the swaps, chosen on half of the questions and judged on the
  other half. A planted change must be found; swapping none or all must be exact.
- One fine-tuning is one: in (a) to (d) intervals are over questions or documents. In (e) they are over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator

from interp import Finding, Lab, UserError, fine_tune, probe
from interp.saes import shipped_sae

from ._pretraining_finetuning.behaviour import answers, forgotten, ordinary_text
from ._pretraining_finetuning.controls import other_answers, planted
from ._pretraining_finetuning.features import features_moved
from ._pretraining_finetuning.inside import (
    activations_moved,
    directions_moved,
    layers_that_carry,
    weights_moved,
)
from ._pretraining_finetuning.questions import Exam, Question, dealt, set_exam
from ._pretraining_finetuning.small import small_models

QUICK_STEPS = 16
BATCH = 4
SWAPPED = 16  # questions that weights are swapped under


@probe()
def pretraining_finetuning(lab: Lab, *, steps: int = 30, lr: float = 5e-5) -> Iterator[Finding]:
    """Fine-tune a copy of the loaded model, look at what changed, and train small models with and without a past.

    Args:
        steps: of fine-tuning the loaded model, four questions each; 16 with --quick, unless fewer are asked for
        lr: largest learning rate of it
    """
    if steps < 1:
        raise UserError(f"--steps {steps}; expected 1 or more")
    if not 0 < lr < 1:
        raise UserError(f"--lr {lr}; expected above 0 and below 1")
    exam = set_exam(lab.model, lab.seed, each=8 if lab.quick else 24)
    if exam is not None:
        yield from _loaded(lab, exam, min(steps, QUICK_STEPS) if lab.quick else steps, lr)
    yield from small_models(lab)
    yield planted(lab)


def spread(questions: tuple[Question, ...], n: int) -> list[Question]:
    """About `n` of them, of all tasks."""
    return list(questions[:: max(1, len(questions) // n)])


def _loaded(lab: Lab, exam: Exam, steps: int, lr: float) -> Iterator[Finding]:
    """Parts (a) to (d)."""
    examples = [question.example for question in exam.taught]
    tuned = fine_tune(
        lab.model, examples, steps=steps, batch=BATCH, lr=lr, seed=lab.seed, progress=lab.tell("fine-tuning")
    )
    yield from answers(lab, exam, tuned)
    shuffled = None
    if not lab.quick:
        told = lab.tell("fine-tuning on answers of other questions")
        dealt_out = dealt(exam.taught, lab.seed)
        shuffled = fine_tune(lab.model, dealt_out, steps=steps, batch=BATCH, lr=lr, seed=lab.seed, progress=told)
    rows = ordinary_text(lab)
    yield forgotten(lab, tuned, rows, shuffled)
    yield weights_moved(lab, tuned, shuffled)
    yield directions_moved(lab, tuned)
    yield activations_moved(lab, exam, tuned, rows)
    folder = lab.sae_folder or shipped_sae(lab.model)
    if folder is not None and (moved := features_moved(lab, exam, tuned, folder)) is not None:
        yield moved
    yield from layers_that_carry(lab, spread(exam.held_out, 12 if lab.quick else SWAPPED), tuned)
    if shuffled is not None:
        yield other_answers(lab, exam, shuffled)
