"""Multiple choice: which of a few answers a model chooses. Its probabilities among them are read, not sampled.

An answer is a string, scored over all of its tokens, so that a tokenizer that writes " 4" in two pieces and one that
has it in one are asked the same question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.analysis.answers import encode_answers, score_answers
from interp.errors import UserError
from interp.model.hooks.shown import Shown
from interp.model.model import Model


@dataclass(frozen=True, repr=False)
class Choices(Shown):
    """`share` [prompt, answer]: probability of each answer given that it is one of them; a row sums to 1.

    `mass` [prompt]: how likely it is to be one of them at all. Little of it, and the shares say little.
    """

    answers: tuple[str, ...]
    share: NDArray[np.float64]
    mass: NDArray[np.float64]

    @property
    def entropy(self) -> NDArray[np.float64]:
        """Of each prompt's shares, in nats; ln of the number of answers where all are as likely."""
        return entropy_of(self.share)


def entropy_of(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy over the last axis, in nats."""
    return -(share * np.log(np.maximum(share, 1e-300))).sum(-1)


def choose_among(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> Choices:
    """Probabilities of `answers` (" 4", with the space that joins them) behind every prompt.

    Raises UserError for answers that the tokenizer cannot tell apart.
    """
    _check_apart(model, prompts, answers)
    return _of(answers, score_answers(model, prompts, answers).summed)


def choose_number(model: Model, prompts: Sequence[str], numbers: Sequence[int], before: str = " ") -> Choices:
    """As `choose_among`, of whole numbers: that 12 begins with 1 does not count for 1.

    Taken away is what the number's own tokens go on with; a tokenizer that has 12 as one token keeps them apart itself.
    """
    answers = [f"{before}{n}" for n in numbers]
    _check_apart(model, prompts, answers)
    longer = [f"{answer}{digit}" for answer in answers for digit in range(10)]
    ids, long_ids = (encode_answers(model, prompts, some) for some in (answers, longer))
    goes_on = torch.tensor([[b[: len(a)] == a for b in long_ids[10 * i : 10 * i + 10]] for i, a in enumerate(ids)])
    scores = score_answers(model, prompts, [*answers, *longer]).summed.double()
    whole, further = scores[:, : len(answers)], scores[:, len(answers) :].view(len(prompts), len(answers), 10)
    beyond = further.masked_fill(~goes_on, -torch.inf).logsumexp(-1)
    alone = whole + torch.log1p(-(beyond - whole).exp().clamp(max=1 - 1e-9))
    return _of(answers, alone)


def last_tokens(
    model: Model, prompts: Sequence[str], answers: Sequence[str]
) -> tuple[list[list[int]], list[int]] | None:
    """Prompts as token ids up to where the answers part, and the one token that each answer has there.

    A look inside needs them: what is written for " 4" stands behind the space where that is a token of its own. None
    where the answers do not part at their last token alone.
    """
    ids = encode_answers(model, prompts, answers)
    begun = ids[0][:-1]
    if any(one[:-1] != begun for one in ids) or len({one[-1] for one in ids}) < len(ids):
        return None
    return [[*row, *begun] for row in model.encode(list(prompts))], [one[-1] for one in ids]


def _of(answers: Sequence[str], logs: Float[Tensor, "prompt answer"]) -> Choices:
    logs = logs.double()
    return Choices(tuple(answers), logs.softmax(-1).numpy(), logs.logsumexp(-1).exp().numpy())


def _check_apart(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> None:
    ids = [tuple(one) for one in encode_answers(model, prompts, answers)]
    twice = [i for i, one in enumerate(ids) if ids.index(one) < i]
    if twice:
        raise UserError(
            f"this model's tokenizer writes {answers[twice[0]]!r} and {answers[ids.index(ids[twice[0]])]!r} with the "
            "same tokens; expected a vocabulary that can tell them apart; use another model"
        )
