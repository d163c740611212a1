"""Part (d): what is random, and what happens when two tokens tie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from interp import Claim, Finding, Lab, same_as, set_beforehand
from interp.stats import estimate_mean, proportion

from . import CONTROLS, PARTED, SAME

TIES = Claim(
    "Where two tokens tie exactly, greedy decoding takes the one of the smaller number.",
    expects="greater",
    unit=PARTED,
    part="(d) What is random, and ties",
    arithmetic=True,
    measure="The second best token's logit is set to the best one's, and PyTorch's argmax is asked.",
    caveat="A rule and no chance, and of this library and device alone: another may take the other one.",
    subject="machine",
)
OTHER_SEED = Claim(
    "Positive control: at temperature 1, another seed gives another text.",
    expects="greater",
    unit=PARTED,
    part=CONTROLS,
    measure="Share of prompts whose sampled text differs, less that with the same seed again, prompt by prompt.",
)


def other_seed(lab: Lab, prompts: Sequence[str], n: int) -> Finding:
    """Sampling, with two seeds and with one."""

    def sample(seed: int) -> list[list[int]]:
        return lab.model.generate(prompts[:8], max_new_tokens=min(n, 8), temperature=1.0, seed=seed).ids

    first, again, other = sample(lab.seed), sample(lab.seed), sample(lab.seed + 1)
    changed, changed_again = (
        np.array([float(a != b) for a, b in zip(first, texts, strict=True)]) for texts in (other, again)
    )
    return OTHER_SEED.answer(
        estimate_mean(changed - changed_again, unit=PARTED, over="prompt", bounds=(-1.0, 1.0), seed=lab.seed),
        same_as(PARTED, "with one seed twice"),
        measure=f"Another seed changes {changed.sum():.0f} of {len(changed)} texts, the same one "
        f"{changed_again.sum():.0f}.",
    )


def ties(hf: Any, prompts: Sequence[str], lab: Lab) -> Finding:
    """Two tokens with exactly equal logits."""
    smaller = []
    for row in lab.model.encode(list(prompts)):
        with torch.no_grad():
            logits = hf(torch.tensor([row], device=lab.model.device)).logits[0, -1].clone()
        best, second = logits.topk(2).indices.tolist()
        logits[second] = logits[best]
        smaller.append(int(logits.argmax()) == min(best, second))
    return TIES.answer(
        proportion(smaller, unit=PARTED, over="prompt"), set_beforehand(SAME, PARTED, "what so many prompts can show")
    )
