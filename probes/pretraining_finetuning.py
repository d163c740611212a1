"""Does pre-training make the weights, and fine-tuning only make the model answer?

Question. A beginner's course says: pre-training reads billions of words and makes the weights; fine-tuning makes a
model out of it that answers. If so, a short fine-tuning changes how answers are given, not what is known; it moves the
weights little; and without pre-training it makes nothing.

What is loaded decides what parts (a) to (d) tell. The bundled model, SmolLM2-135M-Instruct, was fine-tuned to chat
before it came here: what it knew before the fine-tuning below was made by both. Of such a model (its tokenizer has a
chat template) one claim is not asked, and another one stands in its place. Load a base model (--model) for the whole.

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

What counts as yes (set before anything ran, but for those with a star: two were added after a first, short run, which
showed what the rule before them cannot tell; the others were made harder when models that know nothing, or numbers made
up to fool them, had got a yes):

- exact answers rise by 20 points, on held-out questions and on tasks that were not trained;
- *before fine-tuning the right answer is ahead of others by 1 nat, in a base model, among questions whose answer begins
  like no word of what is asked about;
- after it, the lead on all questions is the same within 0.5 nats;
- *the right answer is as often the best of its task as before, within 10 points (a surer model has larger leads);
- from random weights, held-out questions are answered exactly 10 points less often;
- *weights: each layer changes by less than 5 % (length of the change over length of the weights), the one that changes
  most as well;
- directions: the 8 largest hold 10 points more of the change than of random numbers;
- activations: they move more before an answer than in text, by a tenth of the spread;
- *one block of layers carries more than the other blocks do, by 0.5 nats (embeddings and last norm, which carry next to
  nothing, are not among them); none alone gives half of the gain;
- *with the lower half of the layers as they were, more than half of the gain is left (blocks stand in for each other);
- forgetting: the loss on ordinary text rises by 0.05 nats.

What could fool us:

- The mark is new, so that no answer is exact before; nor is the bare word of a model that begins with a sentence. That
  rise from none is format. Part (a) also asks, without the mark, whether the right answer was ahead of others: this
  alone is about knowledge. In (e), too, no answer is exact before fine-tuning.
- A past. An Instruct model has answered questions before; that its answers were there is no deed of pre-training alone.
- Learning by heart. Trained and held-out questions are different ones, and two tasks are not trained at all.
- AdamW moves every weight, learn or not: answers of other questions are trained, too, and their change is shown.
- Where weights moved is not where the behaviour is: hence the swaps, chosen on half of the questions and judged on the
  other half. A planted change must be found; swapping none or all must be exact.
- One fine-tuning is one: in (a) to (d) intervals are over questions or documents. In (e) they are over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from interp import Finding, Lab, Least, NotAsked, UserError, fine_tune, probe

from ._pretraining_finetuning import behaviour, controls, features, inside, knowledge, layers, small
from ._pretraining_finetuning.questions import Exam, Question, dealt, set_exam

QUICK_STEPS = 16
BATCH = 4
SWAPPED = 16  # questions that weights are swapped under
OF_THE_LOADED = [
    *behaviour.CLAIMS,
    *knowledge.CLAIMS,
    behaviour.FORGETS,
    *inside.CLAIMS,
    features.COME_UP,
    *layers.CLAIMS,
    controls.OTHER_ANSWERS,
]


@probe(claims=[*OF_THE_LOADED, *small.CLAIMS, controls.PLANTED], long=True)
def pretraining_finetuning(
    lab: Lab, *, steps: Annotated[int, Least(1)] = 30, lr: float = 5e-5
) -> Iterator[Finding | NotAsked]:
    """Fine-tune a copy of the loaded model, look at what changed, and train small models with and without a past.

    Args:
        steps: of fine-tuning the loaded model, four questions each; 16 with --quick, unless fewer are asked for
        lr: largest learning rate of it
    """
    if not 0 < lr < 1:
        raise UserError(f"--lr {lr}; expected above 0 and below 1")
    exam = set_exam(lab.model, lab.seed, each=8 if lab.quick else 24)
    if exam is not None:
        yield from _loaded(lab, exam, min(steps, QUICK_STEPS) if lab.quick else steps, lr)
    else:
        for claim in OF_THE_LOADED:
            yield claim.not_asked(f"because {lab.model.provenance.name} cannot write enough of the questions")
    yield from small.small_models(lab)
    yield controls.planted(lab)


def spread(questions: tuple[Question, ...], n: int) -> list[Question]:
    """About `n` of them, of all tasks."""
    return list(questions[:: max(1, len(questions) // n)])


def _loaded(lab: Lab, exam: Exam, steps: int, lr: float) -> Iterator[Finding | NotAsked]:
    """Parts (a) to (d)."""
    examples = [question.example for question in exam.taught]
    tuned = fine_tune(
        lab.model, examples, steps=steps, batch=BATCH, lr=lr, seed=lab.seed, progress=lab.tell("fine-tuning")
    )
    yield from behaviour.answers(lab, exam, tuned)
    yield from knowledge.knowledge(lab, exam, tuned)
    shuffled = None
    if not lab.quick:
        told = lab.tell("fine-tuning on answers of other questions")
        dealt_out = dealt(exam.taught, lab.seed)
        shuffled = fine_tune(lab.model, dealt_out, steps=steps, batch=BATCH, lr=lr, seed=lab.seed, progress=told)
    rows = behaviour.ordinary_text(lab)
    yield behaviour.forgotten(lab, tuned, rows, shuffled)
    yield inside.weights_moved(lab, tuned, shuffled)
    yield inside.directions_moved(lab, tuned)
    yield inside.activations_moved(lab, exam, tuned, rows)
    yield features.features_moved(lab, exam, tuned)
    yield from layers.layers_that_carry(lab, spread(exam.held_out, 12 if lab.quick else SWAPPED), tuned)
    if shuffled is not None:
        yield controls.other_answers(lab, exam, shuffled)
    else:
        yield controls.OTHER_ANSWERS.not_asked("because a quick run fine-tunes the loaded model once")
