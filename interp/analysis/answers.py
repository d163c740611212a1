"""How likely is an answer after a prompt? Scores of whole strings over their tokens, never of a first token alone.

Runs the plain model with its key-value cache: every prompt once, then only the answers' tokens but the last, which
nothing needs to be read after. Scoring N prompts against N answers costs little more than the N prompts, where the
obvious loop costs N x N of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.model import Model

MAX_ROWS = 256  # answers scored in one forward


@dataclass(frozen=True)
class AnswerScores:
    """Log-probabilities in nats. `summed` [prompt, answer]; `lengths` [answer] is the number of tokens of each.

    `greedy` [prompt, answer]: would greedy decoding begin with this answer? The argmax at every answer token, read off
    the same forwards, no generation; what comes after is not looked at (" Vulcan" is met by " Vulcano").
    """

    summed: Float[Tensor, "prompt answer"]
    greedy: Bool[Tensor, "prompt answer"]
    lengths: Int[Tensor, " answer"]

    @property
    def per_token(self) -> Float[Tensor, "prompt answer"]:
        """Mean over the answer's tokens: takes out that longer answers score lower."""
        return self.summed / self.lengths


def score_answers(
    model: Model, prompts: Sequence[str], answers: Sequence[str], *, progress: Callable[[int, int], None] | None = None
) -> AnswerScores:
    """Log-probability of every answer after every prompt, and whether the model would write it.

    Answers carry the space that joins them (" Paris"). Raises UserError where joining changes the prompt's tokens,
    while an edit is active, and for a model in training mode.
    """
    model.check_plain("score_answers")
    prompts, answers = ([some] if isinstance(some, str) else list(some) for some in (prompts, answers))
    answer_ids = encode_answers(model, prompts, answers)
    prompt_ids = model.encode(list(prompts))
    summed = torch.empty(len(prompts), len(answers))
    greedy = torch.empty(len(prompts), len(answers), dtype=torch.bool)
    order = sorted(range(len(prompts)), key=lambda i: len(prompt_ids[i]))
    step = max(1, MAX_ROWS // len(answers))
    done = 0
    for _, group in groupby(order, key=lambda i: len(prompt_ids[i])):
        same_length = list(group)
        for start in range(0, len(same_length), step):
            chosen = same_length[start : start + step]
            block = _score_block(model, [prompt_ids[i] for i in chosen], answer_ids)
            summed[chosen], greedy[chosen] = (part.cpu() for part in block)
            done += len(chosen)
            if progress is not None:
                progress(done, len(prompts))
    return AnswerScores(summed, greedy, torch.tensor([len(a) for a in answer_ids]))


def encode_answers(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> list[list[int]]:
    """Token ids of each answer as it follows a prompt. Raises UserError where prompt and answer do not part cleanly."""
    ids = [model.tokenizer(a, add_special_tokens=False).input_ids for a in answers]
    if not all(ids):
        raise UserError("an answer is empty; expected text that starts with the space joining it to the prompt")
    before = model.encode(list(prompts))
    # The seam depends on how a prompt ends and how an answer starts: every prompt and every answer once is enough.
    pairs = [(0, j) for j in range(len(answers))] + [(i, 0) for i in range(1, len(prompts))]
    joined = model.encode([prompts[i] + answers[j] for i, j in pairs])
    for (i, j), whole in zip(pairs, joined, strict=True):
        if whole != [*before[i], *ids[j]]:
            raise UserError(
                f"the answer {answers[j]!r} melts into the tokens of the prompt {prompts[i]!r}; "
                "expected a prompt that ends in a word and an answer that starts with a space"
            )
    return ids


def _score_block(
    model: Model, prompts: list[list[int]], answers: list[list[int]]
) -> tuple[Float[Tensor, "prompt answer"], Bool[Tensor, "prompt answer"]]:
    """`summed` and `greedy` for prompts of one length: a forward over them, then one for each length of answer.

    These go on top of the first one's cache; a recurrent model, which has none, reads the prompts again.
    """
    with torch.no_grad():
        first = model.hf(torch.tensor(prompts, device=model.device), use_cache=True, logits_to_keep=1)
        start = first.logits[:, -1].float().log_softmax(-1)
        firsts = torch.tensor([ids[0] for ids in answers], device=model.device)
        summed, greedy = start[:, firsts], start.argmax(-1)[:, None] == firsts
        for length in sorted({len(ids) for ids in answers} - {1}):
            chosen = [i for i, ids in enumerate(answers) if len(ids) == length]
            # rows: every chosen answer under prompt 0, then under prompt 1, …
            rows = torch.tensor([answers[i] for i in chosen], device=model.device).repeat(len(prompts), 1)
            cache = copy.deepcopy(getattr(first, "past_key_values", None))  # a forward adds to the one it is given
            if cache is None:
                before = torch.tensor(prompts, device=model.device).repeat_interleave(len(chosen), 0)
                whole = torch.cat([before, rows[:, :-1]], dim=1)
                logits = model.hf(whole, use_cache=False, logits_to_keep=length - 1).logits.float()
            else:
                cache.batch_repeat_interleave(len(chosen))
                logits = model.hf(rows[:, :-1], past_key_values=cache, use_cache=True).logits.float()
            later = logits.gather(-1, rows[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
            best = (logits.argmax(-1) == rows[:, 1:]).all(-1)
            summed[:, chosen] += later.sum(-1).view(len(prompts), len(chosen))
            greedy[:, chosen] &= best.view(len(prompts), len(chosen))
    return summed, greedy
