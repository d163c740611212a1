"""How likely is an answer after a prompt? Scores of whole strings over their tokens, never of a first token alone.

Runs the plain model with its key-value cache: every prompt once, then only the answers' tokens. Scoring N prompts
against N answers costs little more than the N prompts, where the obvious loop costs N x N of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.model import Model

MAX_ROWS = 128  # answers scored in one forward


@dataclass(frozen=True)
class AnswerScores:
    """Log-probabilities in nats. `summed` [prompt, answer]; `lengths` [answer] is the number of tokens of each."""

    summed: Float[Tensor, "prompt answer"]
    lengths: Int[Tensor, " answer"]

    @property
    def per_token(self) -> Float[Tensor, "prompt answer"]:
        """Mean over the answer's tokens: takes out that longer answers score lower."""
        return self.summed / self.lengths


def score_answers(
    model: Model, prompts: Sequence[str], answers: Sequence[str], *, progress: Callable[[int, int], None] | None = None
) -> AnswerScores:
    """Log-probability of every answer after every prompt.

    Answers carry the space that joins them (" Paris"). Raises UserError where joining changes the prompt's tokens.
    """
    answer_ids = encode_answers(model, prompts, answers)
    prompt_ids = model.encode(list(prompts))
    lengths = torch.tensor([len(a) for a in answer_ids])
    padded = torch.zeros(len(answers), int(lengths.max()), dtype=torch.long)
    for i, ids in enumerate(answer_ids):
        padded[i, : len(ids)] = torch.tensor(ids)
    out = torch.empty(len(prompts), len(answers))
    order = sorted(range(len(prompts)), key=lambda i: len(prompt_ids[i]))
    step = max(1, MAX_ROWS // len(answers))
    done = 0
    for _, group in groupby(order, key=lambda i: len(prompt_ids[i])):
        same_length = list(group)
        for start in range(0, len(same_length), step):
            chosen = same_length[start : start + step]
            out[chosen] = _score_block(model, [prompt_ids[i] for i in chosen], padded, lengths).cpu()
            done += len(chosen)
            if progress is not None:
                progress(done, len(prompts))
    return AnswerScores(out, lengths)


def exact_match(model: Model, prompts: Sequence[str], answers: Sequence[str], *, batch_size: int = 32) -> list[bool]:
    """Would greedy decoding give each prompt's answer? Teacher-forced argmax at every answer token, no generation."""
    answer_ids = [encode_answers(model, [p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
    prompt_ids = model.encode(list(prompts))
    out: list[bool] = []
    for start in range(0, len(prompts), batch_size):
        rows = [p + a for p, a in zip(prompt_ids, answer_ids, strict=True)][start : start + batch_size]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
        with torch.no_grad():
            best = model.hf(ids, attention_mask=mask, use_cache=False).logits.argmax(-1).cpu()
        for i, row in enumerate(rows):
            want = answer_ids[start + i]
            got = best[i, len(row) - len(want) - 1 : len(row) - 1].tolist()
            out.append(got == want)
    return out


def encode_answers(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> list[list[int]]:
    """Token ids of each answer as it follows a prompt. Raises UserError where prompt and answer do not part cleanly."""
    ids = [model.tokenizer(a, add_special_tokens=False).input_ids for a in answers]
    for answer, tokens in zip(answers, ids, strict=True):
        if not tokens:
            raise UserError("an answer is empty; expected text that starts with the space joining it to the prompt")
        prompt = prompts[0]
        if model.encode(prompt + answer)[0] != [*model.encode(prompt)[0], *tokens]:
            raise UserError(
                f"the answer {answer!r} melts into the tokens of the prompt {prompt!r}; "
                "expected a prompt that ends in a word and an answer that starts with a space"
            )
    return ids


def _score_block(model: Model, prompts: list[list[int]], answers: Tensor, lengths: Tensor) -> Tensor:
    """[prompt, answer] for prompts of one length: one forward over them, one over all answers on top of the cache."""
    n_prompts, n_answers = len(prompts), len(answers)
    ids = torch.tensor(prompts, device=model.device)
    answers, lengths = answers.to(model.device), lengths.to(model.device)
    with torch.no_grad():
        first = model.hf(ids, use_cache=True, logits_to_keep=1)
        start = first.logits[:, -1].float().log_softmax(-1)
        total = start[:, answers[:, 0]]
        if int(lengths.max()) == 1:
            return total
        cache = first.past_key_values
        cache.batch_repeat_interleave(n_answers)
        # rows: every answer under prompt 0, then under prompt 1, …; padded tokens come last and are masked below
        rows = answers[:, :-1].repeat(n_prompts, 1)
        logits = model.hf(rows, past_key_values=cache, use_cache=True).logits.float().log_softmax(-1)
    targets = answers[:, 1:].repeat(n_prompts, 1).unsqueeze(-1)
    later = logits.gather(-1, targets).squeeze(-1)
    counted = torch.arange(1, answers.shape[1], device=model.device) < lengths[:, None]
    return total + (later.view(n_prompts, n_answers, -1) * counted).sum(-1)
