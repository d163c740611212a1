"""Answer scores where all prompts begin alike: the page that they share is read once, and no score changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp.analysis import answers as answers_module
from interp.analysis.answers import SHARED, AnswerScores, score_answers
from interp.model.hooks.engines import Ran
from interp.model.hooks.forward import forward
from interp.model.hooks.tokens import Tokens
from interp.model.hooks.tree import HookedTree
from interp.model.model import Model

PAGE = "The river is the Isar. The town is by the river Isar."
PROMPTS = [PAGE + end for end in (" It is the", " So what is it? It is the", " The")]
ANSWERS = [" Isar", " Inn", " old"]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward was given."""
    counted: list[int] = []

    def counting(tree: HookedTree, batch: Tokens, **how: Any) -> Ran:
        counted.append(batch.ids.numel())
        return forward(tree, batch, **how)

    monkeypatch.setattr(answers_module, "forward", counting)
    return counted


def alone(model: Model) -> AnswerScores:
    """Each prompt by itself, which has nobody to share with."""
    ones = [score_answers(model, [prompt], ANSWERS) for prompt in PROMPTS]
    return AnswerScores(
        torch.cat([one.summed for one in ones]), torch.cat([one.greedy for one in ones]), ones[0].lengths
    )


def agree(one: AnswerScores, other: AnswerScores) -> bool:
    return torch.allclose(one.summed, other.summed, atol=1e-3) and torch.equal(one.greedy, other.greedy)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_page_that_all_prompts_share_is_read_once(
    tiny_of: Callable[[str], Model], read: list[int], architecture: str
) -> None:
    model = tiny_of(architecture)
    page = len(model.encode(PAGE)[0])
    assert page > SHARED
    together = score_answers(model, PROMPTS, ANSWERS)
    at_once = sum(read)
    read.clear()
    assert agree(together, alone(model))
    assert sum(read) - at_once >= 2 * page
    assert not agree(together, AnswerScores(together.summed.roll(1, 0), together.greedy, together.lengths))


def test_a_model_without_a_cache_and_an_edited_one_read_each_prompt_whole(
    tiny_of: Callable[[str], Model], read: list[int]
) -> None:
    mamba = tiny_of("mamba")
    assert agree(score_answers(mamba, PROMPTS, ANSWERS), alone(mamba))
    llama = tiny_of("llama")
    read.clear()
    with llama.edit({"blocks.0.hook_resid_post": lambda activation, where: activation * 0.5}):
        together = score_answers(llama, PROMPTS, ANSWERS)
        assert sum(read) >= sum(len(ids) for ids in llama.encode(PROMPTS))
        assert agree(together, alone(llama))
    assert not agree(together, score_answers(llama, PROMPTS, ANSWERS))
