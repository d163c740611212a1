"""What a run is measured by: numbers of the logits, one a prompt, for `model.measure`, sweeps and gradients.

A metric is a function `(logits [prompt, pos, d_vocab], where) -> [prompt]`, so that one of your own works the same.
`where.prompts` numbers the rows among the caller's prompts. A metric of your own gets prompts of one length at a time;
one that asks `where.mask` for the padding, on the right, may be marked `told_padding` and gets any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.given import makes
from interp.model.hooks.metrics import Metric, at_last, told_padding
from interp.model.hooks.where import Where

Ids = Sequence[int] | Sequence[Sequence[int]] | Int[Tensor, "prompt ..."]


def last(logits: Float[Tensor, "prompt pos d_vocab"], where: Where) -> Float[Tensor, "prompt d_vocab"]:
    """The logits at each prompt's last token."""
    return logits[torch.arange(len(logits), device=logits.device), where.mask.sum(-1) - 1]


@makes("logit_difference([paris], [rome])")
def logit_difference(right: Ids, wrong: Ids) -> Metric:
    """Logit of each prompt's right token less that of its wrong one, at the last token, in nats.

    `right` [prompt] and `wrong` [prompt], or [prompt, some] for the mean over several. Raises UserError where a
    prompt's two answers are the same: their difference is 0 whatever the model does.
    """
    right_ids, wrong_ids = token_table("right", right), token_table("wrong", wrong)
    if len(right_ids) != len(wrong_ids):
        raise UserError(f"{len(right_ids)} right answers and {len(wrong_ids)} wrong ones came; expected one a prompt")
    check_differ(right_ids, wrong_ids)

    def difference(logits: Tensor, where: Where) -> Tensor:
        final = last(logits, where).float()
        means = [final.gather(1, _mine(ids, where, final)).mean(1) for ids in (right_ids, wrong_ids)]
        return means[0] - means[1]

    return at_last(difference)


@makes("log_prob([paris])")
def log_prob(ids: Ids) -> Metric:
    """Log-probability of each prompt's token [prompt] after its last one, in nats."""
    wanted = token_table("ids", ids)

    def of(logits: Tensor, where: Where) -> Tensor:
        logs = last(logits, where).float().log_softmax(-1)
        return logs.gather(1, _mine(wanted, where, logs)).mean(1)

    return at_last(of)


@makes("continuation(ids, starts)")
def continuation(
    ids: Sequence[Sequence[int]], starts: Sequence[int], *, per: Literal["string", "token"] = "string"
) -> Metric:
    """Log-probability of each prompt's own tokens from `starts[prompt]` on, given what stands before them, in nats.

    The prompts hold the string that is asked for; summed, or the mean of its tokens. `ids`: the prompts, encoded.
    """
    if len(ids) != len(starts) or any(not 0 < start < len(row) for row, start in zip(ids, starts, strict=False)):
        raise UserError(
            f"{len(starts)} starts came for {len(ids)} prompts; expected one each, from 1 to its last token"
        )

    def of(logits: Tensor, where: Where) -> Tensor:
        if where.total != len(ids):
            raise UserError(f"the metric has {len(ids)} prompts, and {where.total} came; expected the same")
        out = []
        for n, (row, prompt) in enumerate(zip(logits, where.prompts.tolist(), strict=True)):
            own, start = ids[prompt], starts[prompt]
            if int(where.mask[n].sum()) != len(own):
                raise UserError(f"prompt {prompt} has {int(where.mask[n].sum())} tokens; the metric's has {len(own)}")
            logs = row[start - 1 : len(own) - 1].float().log_softmax(-1)
            picked = logs.gather(1, torch.tensor(own[start:], device=logs.device)[:, None])
            out.append(picked.sum() if per == "string" else picked.mean())
        return torch.stack(out)

    return told_padding(of)


@makes("rank([paris])")
def rank(ids: Ids) -> Metric:
    """Rank of each prompt's token [prompt] after its last one: 1 is the likeliest; tokens as likely share the best."""
    wanted = token_table("ids", ids)
    if wanted.shape[1] != 1:
        raise UserError(f"rank: {wanted.shape[1]} tokens a prompt came; expected one")

    def of(logits: Tensor, where: Where) -> Tensor:
        final = last(logits, where)
        own = final.gather(1, _mine(wanted, where, final)[:, :1])
        return (final > own).sum(1).float() + 1

    return at_last(of)


@makes("divergence(reference)")
def divergence(reference: Float[Tensor, "prompt d_vocab"]) -> Metric:
    """KL(reference || this run) of the next-token distributions after the last token, in nats.

    `reference`: the last logits of another run of the same prompts.
    """

    def kl(logits: Tensor, where: Where) -> Tensor:
        if where.total != len(reference):
            raise UserError(f"the reference has {len(reference)} prompts, and {where.total} came; expected the same")
        ours = last(logits, where).float().log_softmax(-1)
        theirs = reference[where.prompts.to(reference.device)].to(ours).log_softmax(-1)
        return (theirs.exp() * (theirs - ours)).sum(-1)

    return at_last(kl)


@makes("entropy()")
def entropy() -> Metric:
    """Entropy of the next-token distribution after the last token, in nats."""

    def of(logits: Tensor, where: Where) -> Tensor:
        logs = last(logits, where).float().log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)

    return at_last(of)


def check_differ(right: Int[Tensor, "prompt right"], wrong: Int[Tensor, "prompt wrong"]) -> None:
    """Raise UserError where the right and the wrong answers of a prompt are the same tokens."""
    for i, (a, b) in enumerate(zip(right.tolist(), wrong.tolist(), strict=True)):
        if sorted(set(a)) == sorted(set(b)):
            raise UserError(
                f"prompt {i}: the right and the wrong answer are the same token, {a[0]}; expected two that differ; a "
                "tokenizer that puts a BOS token in front gives it for every word: take model.token_id(' Paris')"
            )


def token_table(word: str, ids: Ids) -> Int[Tensor, "prompt some"]:
    """Answers as token ids, a row a prompt. Raises UserError for words and for rows of unequal length."""
    try:
        table = torch.as_tensor(ids)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{word}={ids!r:.80}; expected token ids, as many a prompt: model.token_id(text)") from error
    if table.ndim not in (1, 2) or not table.numel() or table.is_floating_point():
        raise UserError(f"{word}: shape {tuple(table.shape)} came; expected token ids, one a prompt or several")
    return table.view(len(table), -1).long()


def _mine(
    table: Int[Tensor, "prompt some"], where: Where, logits: Float[Tensor, "row d_vocab"]
) -> Int[Tensor, "row some"]:
    if where.total != len(table):
        raise UserError(
            f"the metric has answers for {len(table)} prompts, and {where.total} came; expected one a prompt"
        )
    wrong = table[(table < 0) | (table >= logits.shape[-1])]
    if len(wrong):
        raise UserError(f"token id {int(wrong[0])} came as an answer, and the model has {logits.shape[-1]} tokens")
    return table[where.prompts].to(logits.device)
