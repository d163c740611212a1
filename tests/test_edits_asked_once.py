"""Edits while a model reads on: asked once for every token, by each prompt's own tokens, with the right batch mates.

Where a model keeps no cache that can be gone on from, everything is read again at every step; an edit is not asked
again, and what it made of a token stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from architecture_checks import Trial, gap
from compare import far
from plain import Plain, changed
from torch import Tensor

from interp import Model, UserError
from interp.analysis import score_answers, score_completions
from interp.edits import freeze, patch
from interp.model.hooks import forward as forward_module
from interp.model.hooks import tokens as tokens_module
from interp.model.hooks.where import Where

RESID, PATTERN = "blocks.0.hook_resid_post", "blocks.0.attn.hook_pattern"
PROMPTS, ANSWERS = ["ab cd", "ab cd gh ij"], [" ef gh", " ef", " ef gh ij"]
RAGGED = [[68, 5, 9, 12], [7, 8, 33, 21, 40, 41]]


@pytest.fixture(scope="module")
def trial(tiny_gpt2: Model) -> Callable[[str], Trial]:
    """One of each architecture."""
    trials: dict[str, Trial] = {}
    return lambda name: trials.setdefault(name, Trial(name, tiny_gpt2.tokenizer))


def one_by_one(plain: Plain, model: Model, prompt: str, answer: str) -> float:
    """The answer's log-probability in plain transformers, the whole text read at once."""
    start, ids = len(model.encode(prompt)[0]), model.encode(prompt + answer)[0]
    scores = plain.logits(ids).log_softmax(-1)
    return sum(float(scores[i - 1, ids[i]]) for i in range(start, len(ids)))


SHARED_STATE = ["qwen3_next", "qwen3_5", "qwen3_5_moe", "olmo_hybrid", "bamba", "lfm2", "lfm2_moe", "falcon_h1"]


@pytest.mark.parametrize("name", [*SHARED_STATE, "jamba", "mamba2", "gemma3", "llama"])
def test_answers_are_scored_where_a_cache_cannot_be_shared(trial: Callable[[str], Trial], name: str) -> None:
    made = trial(name)
    came = score_answers(made.model, PROMPTS, ANSWERS).summed
    right = torch.tensor([[one_by_one(made.plain, made.model, p, a) for a in ANSWERS] for p in PROMPTS])
    assert gap([(came, right)]) < 1e-4
    assert gap([(came, right.roll(1, 1))]) > 1e-2


class Drawn:
    """An edit that is never the same twice: new noise at every token that it is shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []  # how many tokens in each call
        self.noise: list[Tensor] = []

    def __call__(self, activation: Tensor, where: Where) -> Tensor:
        drawn = torch.randn(activation.shape, generator=torch.Generator().manual_seed(len(self.shown)))
        self.shown.append(int(where.mask.sum()))
        self.noise.append(drawn[0])
        return activation + drawn


@pytest.mark.parametrize("name", ["mamba", "jamba", "mamba2", "llama"])
def test_an_edit_sees_the_prompt_once_and_then_each_new_token(trial: Callable[[str], Trial], name: str) -> None:
    """Four tokens and five new ones, of which the last is never read: eight."""
    made, drawn = trial(name), Drawn()
    with made.model.edit({RESID: drawn}) as receipts:
        (new,) = made.model.generate([RAGGED[0]], max_new_tokens=5).ids
    assert drawn.shown == [4, 1, 1, 1, 1]
    assert (receipts[RESID].seen, receipts[RESID].fired) == (8, 5)
    _reads_what_was_drawn(made, torch.cat(drawn.noise), new, agrees=True)
    _reads_what_was_drawn(made, torch.cat(drawn.noise).flip(0), new, agrees=False)


def _reads_what_was_drawn(made: Trial, noise: Tensor, new: list[int], *, agrees: bool) -> None:
    """Plain transformers, with one token's noise on that token for good, writes the same."""
    written: list[int] = []
    for _ in new:
        row = [*RAGGED[0], *written]
        with changed(made.plain.blocks[0], lambda t: t + noise[: t.shape[1]]):
            written.append(int(made.plain.logits(row)[-1].argmax()))
    assert (written == new) == agrees


def test_the_hooked_tree_without_a_usable_cache_asks_once_too(trial: Callable[[str], Trial]) -> None:
    drawn = Drawn()
    model = trial("mpt").model
    with model.tree.hooked_only(), model.edit({RESID: drawn}) as receipts:
        model.generate([RAGGED[0]], max_new_tokens=5)
    assert drawn.shown == [4, 1, 1, 1, 1]
    assert receipts[RESID].seen == 8


def test_who_forgets_what_an_edit_made_asks_again(
    trial: Callable[[str], Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: 4 + 5 + 6 + 7 + 8 tokens are shown."""
    monkeypatch.setattr(tokens_module.Kept, "of", lambda *_, **__: [])
    drawn = Drawn()
    model = trial("mamba").model
    with model.edit({RESID: drawn}):
        model.generate([RAGGED[0]], max_new_tokens=5)
    assert sum(drawn.shown) == 30


def test_moved_positions_are_said_and_shown_again(
    trial: Callable[[str], Trial], capsys: pytest.CaptureFixture[str]
) -> None:
    """LongRoPE gives all tokens other positions from nine tokens on, and so what was made of them is void."""
    drawn = Drawn()
    model = Trial("phi3_longrope", trial("llama").tokenizer).model
    with model.edit({RESID: drawn}):
        model.generate([RAGGED[1]], max_new_tokens=6)
        model.generate([RAGGED[1]], max_new_tokens=6)
    first = drawn.shown[: len(drawn.shown) // 2]
    assert first == [6, 1, 1, 6, 1, 1, 1, 1, 1]
    assert capsys.readouterr().err.count("at 9 tokens the positions of this model change") == 1


@pytest.mark.parametrize("name", ["mamba", "qwen3_next", "llama"])
def test_an_edit_sees_a_scored_prompt_once(trial: Callable[[str], Trial], name: str) -> None:
    """The prompt, and the answers' tokens but the last one, of answers of three lengths."""
    model, drawn = trial(name).model, Drawn()
    lengths = [len(model.encode(PROMPTS[0] + a)[0]) - len(model.encode(PROMPTS[0])[0]) for a in ANSWERS]
    with model.edit({RESID: drawn}) as receipts:
        score_answers(model, PROMPTS[:1], ANSWERS)
    assert receipts[RESID].seen == len(model.encode(PROMPTS[0])[0]) + sum(lengths) - len(lengths)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mamba"])
def test_patch_and_freeze_follow_each_prompts_own_tokens(trial: Callable[[str], Trial], name: str) -> None:
    model = trial(name).model
    donors = [[t + 20 for t in row] for row in RAGGED]
    sources = [model.capture(donors, RESID, padding=side) for side in ("left", "right") if model.pads(side)]
    alone = []
    for donor, row in zip(donors, RAGGED, strict=True):
        with model.edit({RESID: patch(model.capture([donor], RESID)[RESID])}):
            alone += model.generate([row], max_new_tokens=6).ids
    for source in sources:
        with model.edit({RESID: patch(source[RESID])}):
            assert model.generate(RAGGED, max_new_tokens=6).ids == alone
        with model.edit(freeze(source)):
            assert model.generate(RAGGED, max_new_tokens=6).ids == alone
    with model.edit({RESID: patch(sources[-1][RESID].roll(1, -1))}):
        assert model.generate(RAGGED, max_new_tokens=6).ids != alone


@pytest.mark.parametrize("side", ["left", "right"])
def test_frozen_patterns_are_those_of_each_prompt_on_either_side(tiny_llama: Model, side: Any) -> None:
    patterns = tiny_llama.capture(RAGGED, PATTERN, padding=side)
    others = [[t + 20 for t in row] for row in RAGGED]
    for padding in ("left", "right"):
        with tiny_llama.edit(freeze(patterns)):
            logits = tiny_llama.logits(others, padding=padding)  # type: ignore[arg-type]
        for i, row in enumerate(others):
            with tiny_llama.edit(freeze(tiny_llama.capture([RAGGED[i]], PATTERN))):
                alone = tiny_llama.logits([row])[0]
            real = slice(-len(row), None) if padding == "left" else slice(len(row))
            assert far(logits[i][real], alone) < 1e-4
            assert far(logits[i][real], tiny_llama.logits([row])[0]) > 1e-2
    with pytest.raises(UserError, match="prompts of other lengths"), tiny_llama.edit(freeze(patterns)):
        tiny_llama.logits(others[::-1], padding=side)


EXAMPLES = [("ab cd", " ef gh ij"), ("ab cd gh ij kl mn op qr", " ef"), ("ab", " gh")]


def test_completions_are_kept_apart_where_padding_reaches_them(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that sees how long the batch is stands for attention that chooses among all of its tokens."""
    model = make_tiny("llama")
    layer: Any = model.hf.get_submodule("model.layers.0.mlp")
    layer.register_forward_hook(lambda _, __, output: output * output.shape[1] / 8)
    together = score_completions(model, EXAMPLES).summed
    alone = torch.cat([score_completions(model, [one]).summed for one in EXAMPLES])
    assert gap([(together, alone)]) < 1e-4
    monkeypatch.setattr(forward_module, "padding_is_harmless", lambda *_, **__: True)
    assert gap([(score_completions(model, EXAMPLES).summed, alone)]) > 1e-3
