"""Answer scores: the log-probability of an answer after a prompt, over all of its tokens, never of the first alone.

Runs the model with its key-value cache: every prompt once, then only the answers' tokens but the last, which nothing
needs to be read after. What all prompts begin with, where it is long, is read once for all of them. Edits see the
prompt, then each token of the answer, as they do while the model generates. Scoring N prompts against N answers costs
little more than the N prompts, where the obvious loop costs N x N of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.asked import length_kind
from interp.model.hooks.caches import cache_repeats, repeated
from interp.model.hooks.forward import check_fits, forward, keeps_a_cache
from interp.model.hooks.shown import Shown
from interp.model.hooks.tokens import Kept, Tokens, pad
from interp.model.hooks.tree import looks_once
from interp.model.model import Model
from interp.progress import Progress, silent

MAX_PROMPTS, MAX_ROWS = 64, 256  # prompts, and beginnings of answers behind them, read in one forward
SHARED = 4  # tokens that all prompts begin with: from here on it pays to read them once
SEAM = 64  # characters of a text without blanks that can decide the tokens at its end


@dataclass(frozen=True, repr=False)
class AnswerScores(Shown):
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


@looks_once
def score_answers(
    model: Model, prompts: Sequence[str], answers: Sequence[str], *, progress: Progress = silent
) -> AnswerScores:
    """Log-probability of every answer after every prompt, and whether the model would write it.

    Answers carry the space that joins them (" Paris"). Raises UserError where joining changes the prompt's tokens, and
    where prompt and answer exceed the context.
    """
    prompts, answers = ([some] if isinstance(some, str) else list(some) for some in (prompts, answers))
    answer_ids = encode_answers(model, prompts, answers)
    prompt_ids = model.encode(list(prompts))
    check_fits(model.tree, prompt_ids, max(map(len, answer_ids)) - 1)
    summed = torch.empty(len(prompts), len(answers))
    greedy = torch.empty(len(prompts), len(answers), dtype=torch.bool)
    begun = _read_once(model, prompt_ids, max(map(len, answer_ids)) - 1)
    order = sorted(range(len(prompts)), key=lambda i: len(prompt_ids[i]))
    step = max(1, min(MAX_PROMPTS, MAX_ROWS // len(_beginnings(answer_ids))))
    done = 0
    for _, group in groupby(order, key=lambda i: len(prompt_ids[i])):
        same_length = list(group)
        for start in range(0, len(same_length), step):
            chosen = same_length[start : start + step]
            block = _score_block(model, [prompt_ids[i] for i in chosen], answer_ids, begun)
            summed[chosen], greedy[chosen] = (part.cpu() for part in block)
            done += len(chosen)
            progress("scoring answers", done, len(prompts))
    return AnswerScores(summed, greedy, torch.tensor([len(a) for a in answer_ids]))


def encode_answers(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> list[list[int]]:
    """Token ids of each answer as it follows a prompt. Raises UserError where prompt and answer do not part cleanly.

    An answer's tokens are those that it adds to a prompt, and must be the same behind every prompt. What happens at the
    seam depends on how a prompt ends and how an answer starts: every such pair is tried.
    """
    for answer in answers:
        if not isinstance(answer, str) or not answer:
            raise UserError("an answer is empty; expected text that starts with the space joining it to the prompt")
    before = model.encode(list(prompts))
    tails, heads = [_tail(prompt) for prompt in prompts], [_head(answer) for answer in answers]
    pairs = {(tails[i], heads[j]): (i, j) for i in reversed(range(len(prompts))) for j in reversed(range(len(answers)))}
    wanted = dict.fromkeys([(0, j) for j in range(len(answers))] + list(pairs.values()))
    joined = model.encode([prompts[i] + answers[j] for i, j in wanted])
    ids: dict[int, list[int]] = {}
    for (i, j), whole in zip(wanted, joined, strict=True):
        start = len(before[i])
        if whole[:start] != before[i] or len(whole) == start or whole[start:] != ids.setdefault(j, whole[start:]):
            raise UserError(
                f"the answer {answers[j]!r} melts into the tokens of the prompt {prompts[i]!r}; "
                "expected a prompt that ends in a word and an answer that starts with a space"
            )
    return [ids[j] for j in range(len(answers))]


def _tail(prompt: str) -> str:
    """What of a prompt can decide the tokens at its end: its last two words."""
    return "".join(re.split(r"(\s+)", prompt)[-3:])[-SEAM:]


def _head(answer: str) -> str:
    """What of an answer can decide the tokens at its start: its first two words."""
    return "".join(re.split(r"(\s+)", answer)[:5])[:SEAM]


@dataclass(frozen=True)
class _Begun:
    """What all prompts begin with: so many tokens, in the model's cache."""

    length: int
    cache: Any

    def rest_of(self, prompts: Tokens) -> tuple[Tokens, Any]:
        """The tokens of prompts that come behind it, and the cache to read them on."""
        ids, mask = prompts.ids[:, self.length :], prompts.mask[:, self.length :]
        rest = Tokens(ids, mask, prompts.index, prompts.total, past=prompts.mask[:, : self.length])
        return rest, repeated(self.cache, len(ids))


def _read_once(model: Model, prompts: list[list[int]], behind: int) -> _Begun | None:
    """Read what all prompts begin with; None where that is short, or where a cache cannot serve several prompts.

    Not where the model is edited: an edit sees each prompt as a whole. Not a prompt's last token, whose logits count.
    """
    first, last = min(prompts), max(prompts)  # in the order of their ids: all others begin with what these two share
    longest = min(map(len, prompts)) - 1
    length = next((i for i in range(longest) if first[i] != last[i]), longest)
    tree, begin = model.tree, [first[:length]]
    if len(prompts) < 2 or length < SHARED or model.is_edited:
        return None
    if not (keeps_a_cache(tree, (), begin, max(map(len, prompts)) + behind - length) and cache_repeats(tree)):
        return None
    return _Begun(length, forward(tree, pad(begin, [0], 1, "right", 0, model.device), keep=1, use_cache=True).cache)


def _score_block(
    model: Model, prompts: list[list[int]], answers: list[list[int]], begun: _Begun | None
) -> tuple[Float[Tensor, "prompt answer"], Bool[Tensor, "prompt answer"]]:
    """`summed` and `greedy` for prompts of one length: a forward over them, then one for each length of answer.

    These go on top of the first one's cache; where there is none to go on from, or none that can be shared by several
    answers, the prompts are read again. `begun`: what the prompts begin with, where it was read before.
    """
    tree, n = model.tree, len(prompts)
    longest = max(map(len, answers)) - 1
    cached = longest > 0 and keeps_a_cache(tree, (), prompts, longest) and cache_repeats(tree)
    first_batch = pad(prompts, range(n), n, "right", 0, model.device)
    # an edit is asked once about a prompt that is read again, unless its tokens have other positions then (LongRoPE)
    kinds = {length_kind(tree, len(prompts[0]) + more) for more in (0, longest)}
    kept = Kept() if len(kinds) == 1 else None
    first_batch = replace(first_batch, turns=(first_batch.ids.shape[1],), kept=kept)
    if begun is None:
        first = forward(tree, first_batch, keep="last", use_cache=cached)
    else:
        rest, cache = begun.rest_of(first_batch)
        first = forward(tree, rest, keep="last", cache=cache, use_cache=cached)
    start = first.logits[:, 0].float().log_softmax(-1)
    firsts = torch.tensor([ids[0] for ids in answers], device=model.device)
    summed, greedy = start[:, firsts], start.argmax(-1)[:, None] == firsts
    for length in sorted({len(ids) for ids in answers} - {1}):
        chosen = [i for i, ids in enumerate(answers) if len(ids) == length]
        # what answers have in common before their last token (a space before each digit, say) is read once
        stems = _beginnings([answers[i] for i in chosen])
        of = torch.tensor([stems[tuple(answers[i][:-1])] for i in chosen], device=model.device)
        # rows: every beginning under prompt 0, then under prompt 1, …
        rows = torch.tensor(list(stems), device=model.device).repeat(n, 1)
        logits = _behind(model, first_batch, rows, first.cache if cached else None).unflatten(0, (n, len(stems)))
        told = torch.tensor([answers[i][1:] for i in chosen], device=model.device)
        own = logits[:, of[:, None], torch.arange(length - 1, device=model.device), told]
        summed[:, chosen] += (own - logits.logsumexp(-1)[:, of]).sum(-1)
        greedy[:, chosen] &= (logits.argmax(-1)[:, of] == told).all(-1)
    return summed, greedy


def _beginnings(answers: Sequence[list[int]]) -> dict[tuple[int, ...], int]:
    """The tokens of each answer but its last, numbered; answers that begin alike have one."""
    return {begun: i for i, begun in enumerate(dict.fromkeys(tuple(ids[:-1]) for ids in answers))}


def _behind(
    model: Model, prompts: Tokens, rows: Int[Tensor, "row pos"], cache: Any
) -> Float[Tensor, "row pos d_vocab"]:
    """Logits at the tokens of `rows`, as many rows behind each prompt; an edit sees token after token."""
    copies = len(rows) // len(prompts.ids)
    real = torch.ones_like(rows, dtype=torch.bool)
    index = prompts.index.repeat_interleave(copies)
    before = prompts.ids.repeat_interleave(copies, 0)
    width = rows.shape[1]
    if cache is not None:
        past = torch.ones_like(before, dtype=torch.bool)
        batch = Tokens(rows, real, index, prompts.total, past=past, turns=(1,) * width)
        return forward(model.tree, batch, cache=repeated(cache, copies)).logits.float()
    whole = torch.cat([before, rows], dim=1)
    turns = (before.shape[1], *[1] * width)
    mask = torch.ones_like(whole, dtype=torch.bool)
    kept = prompts.kept and prompts.kept.repeated(copies)
    batch = Tokens(whole, mask, index, prompts.total, turns=turns, kept=kept)
    return forward(model.tree, batch, keep=width).logits.float()
