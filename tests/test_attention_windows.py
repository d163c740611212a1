"""Edits that look at keys, and windows of attention: against plain transformers, on models with windows of their own.

A prompt's first token is not column 0 of a pattern where padding stands on the left, or where a sliding cache has let
the first keys go; and a mask of the whole text takes the place of a model's own window.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from architecture_checks import Trial, gap
from compare import far, rows_of
from plain import Plain
from torch import Tensor

from interp import Model, UserError
from interp.analysis import score_answers
from interp.edits import compose, freeze, knock_out, windowed
from interp.model import attention_window as windows_module
from interp.model.attention_window import windowed_losses
from interp.model.edits import without_keys
from interp.model.hooks import generation as generation_module
from interp.model.hooks.editing import Edit
from interp.model.hooks.where import Where

PATTERN, RESID = "blocks.*.attn.hook_pattern", "blocks.*.hook_resid_post"
SLIDING = ["gemma3", "mistral", "gpt_oss", "qwen2_window"]
NO_WINDOW = [
    "gpt2",
    "mistral",
    "gemma2",
    "gemma3_multimodal",
    "gpt_oss",
    "exaone4",
    "llama4_text",
    "qwen2_window",
    "cohere2",
    "modernbert_decoder",
    "afmoe",
    "vaultgemma",
    "gemma4",
    "recurrent_gemma",
    "bloom",
    "falcon_rw",
    "xglm",
    "mamba",
    "falcon_mamba",
    "mamba2",
    "rwkv",
    "jamba",
    "qwen3_next",
]
RAGGED = [[68, 5, 9, 12], [7, 8, 33, 21, 40, 41, 9, 6, 3]]
ROWS = torch.randint(2, 250, (3, 12), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def made(tiny_gpt2: Model) -> Callable[[str], Model]:
    """One model of each architecture."""
    trials: dict[str, Trial] = {}
    return lambda name: trials.setdefault(name, Trial(name, tiny_gpt2.tokenizer)).model


def column_zero_is_first(window: int) -> Edit:
    """The fault: which key is the first token is read off the columns."""

    def cut(activation: Tensor, where: Where) -> Tensor:
        n, k = activation.shape[-2:]
        back = torch.arange(k)[k - n :, None] - torch.arange(k)[None]
        hidden = (back >= window) & (torch.arange(k) > 0)
        return without_keys("fault", activation, hidden[None, None].expand(len(activation), 1, -1, -1), where)

    return cut


EDITS: dict[str, Edit] = {
    "windowed": windowed(2),
    "windowed without the first": windowed(2, first=False),
    "first key": knock_out(0),
    "second key": knock_out(1, slice(2, None)),
    "all but the first": knock_out(slice(1, None)),  # beyond a sliding window, nothing is left
    "newest key": compose(knock_out(-1, -1), windowed(3)),
}


def texts(model: Model, edit: Edit, rows: list[list[int]]) -> tuple[list[list[int]], dict[str, list[Tensor]]]:
    """What is written, and what was read on the way, under an edit of the patterns."""
    with model.edit({PATTERN: edit}):
        out = model.generate(rows, max_new_tokens=6, capture=RESID)
    assert out.activations is not None
    return out.ids, {s: [rows_of(out.activations, s, i) for i in range(len(rows))] for s in out.activations}


def batch_gap(model: Model, edit: Edit) -> float:
    """How far the activations of prompts side by side are from those of each alone."""
    _, together = texts(model, edit, RAGGED)
    alone = [texts(model, edit, [row])[1] for row in RAGGED]
    ends = [len(row) for row in RAGGED]  # the prompts' own tokens: two near logits may part what is behind
    return max(far(t[: ends[i]], alone[i][s][0][: ends[i]]) for s, ts in together.items() for i, t in enumerate(ts))


@pytest.mark.parametrize("name", ["llama", "gpt2", *SLIDING])
def test_an_edit_of_keys_is_the_same_for_a_prompt_alone_and_beside_a_longer_one(
    made: Callable[[str], Model], name: str
) -> None:
    model = made(name)
    for edit in EDITS.values():
        assert batch_gap(model, edit) < 1e-3  # a small sink is what is left of 1, and rounds
        with model.edit({PATTERN: edit}):
            left, right = (model.capture(RAGGED, RESID, padding=side) for side in ("left", "right"))
        for site in left:
            assert max(far(rows_of(left, site, i), rows_of(right, site, i)) for i in (0, 1)) < 1e-3
    assert batch_gap(model, column_zero_is_first(2)) > 1e-2


@pytest.mark.parametrize("name", SLIDING)
def test_an_edit_of_keys_is_the_same_on_a_sliding_cache_and_without_one(
    made: Callable[[str], Model], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, row = made(name), RAGGED[1]

    def cache_gap(edit: Edit) -> float:
        _, cached = texts(model, edit, [row])
        with monkeypatch.context() as patch:
            patch.setattr(generation_module, "keeps_a_cache", lambda *_: False)
            _, again = texts(model, edit, [row])
        n = len(row) + 1  # the first token that is read on top of the cache
        return max(far(cached[s][0][:n], again[s][0][:n]) for s in cached)

    assert all(cache_gap(edit) < 1e-3 for edit in EDITS.values())
    assert cache_gap(column_zero_is_first(2)) > 1e-2


@pytest.mark.parametrize("edit", ["windowed", "second key", "newest key"])
@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_answers_of_several_tokens_are_scored_on_a_cache_that_let_go_of_the_first_keys(
    made: Callable[[str], Model], name: str, edit: str
) -> None:
    """Each token of the answer sees the edit that it would see at the end of a text read whole."""
    model, answer = made(name), " ef gh ij"
    before, ids = model.encode("ab cd")[0], model.encode("ab cd" + answer)[0]
    for chosen, same in ((EDITS[edit], True), (windowed(1, first=False), False)):
        with model.edit({PATTERN: EDITS[edit]}):
            came = float(score_answers(model, ["ab cd"], [answer]).summed)
        with model.edit({PATTERN: chosen}):  # token by token, each time everything again, as `turns` is meant
            new = ids[len(before) :]
            wanted = sum(
                float(model.last_logits([before])[0].log_softmax(-1)[token])
                if i == 0
                else _next_log_probability(model, before, new[:i], token)
                for i, token in enumerate(new)
            )
        assert (abs(came - wanted) < 1e-3) == same


def _next_log_probability(model: Model, prompt: list[int], written: list[int], token: int) -> float:
    """Of a token behind what was written behind the prompt, with an edit as generation shows it to it."""
    from interp.model.hooks.forward import forward
    from interp.model.hooks.tokens import Kept, Tokens

    whole = torch.tensor([[*prompt, *written]])
    turns = (len(prompt), *[1] * len(written))
    batch = Tokens(whole, torch.ones_like(whole, dtype=torch.bool), torch.tensor([0]), 1, turns=turns, kept=Kept())
    return float(forward(model.tree, batch, keep=1).logits[0, -1].log_softmax(-1)[token])


def reference_losses(name: str, vocab: int, window: int, *, first: bool, replaces: bool = False) -> Tensor:
    """Losses of plain transformers with keys hidden in the masks that it hands to its own attention modules.

    `replaces`: the fault, that the window takes the place of the mask instead of narrowing it.
    """
    plain, length = Plain(name, vocab), len(ROWS[0])
    back = torch.arange(length)[:, None] - torch.arange(length)[None]
    seen = (back >= 0) & (back < window) | ((torch.arange(length) == 0) & (back >= 0) & first)
    hidden = []

    def narrow(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 4:
            hidden.append(True)
            mask = torch.zeros_like(mask) if replaces else mask
            return args, {**kwargs, "attention_mask": mask.masked_fill(~seen, torch.finfo(mask.dtype).min)}
        return None

    with ExitStack() as stack:
        for module in plain.hf.modules():
            if "att" in type(module).__name__.lower():
                stack.callback(module.register_forward_pre_hook(narrow, with_kwargs=True).remove)
        losses = [-plain.logits(row)[:-1].log_softmax(-1)[range(11), row[1:]] for row in ROWS]
    assert hidden
    return torch.stack(losses)


@pytest.mark.parametrize("name", ["llama", "bloom", "falcon", "mistral", "gemma2", "gemma3", "olmo3", "gpt_oss"])
def test_a_window_hides_keys_and_leaves_a_models_own_window_in_place(made: Callable[[str], Model], name: str) -> None:
    model = made(name)
    size = len(model.tokenizer)
    for window, first in ((2, True), (3, False), (8, False), (12, True)):
        came = windowed_losses(model, ROWS, window, first=first, batch_size=2)
        assert gap([(came, reference_losses(name, size, window, first=first))]) < 1e-4
        assert gap([(came, reference_losses(name, size, window - 1, first=first))]) > 1e-3 or window > 4
    if name in ("mistral", "gemma2", "gemma3", "olmo3", "gpt_oss"):
        wide = windowed_losses(model, ROWS, 8, first=False)
        assert gap([(wide, reference_losses(name, size, 8, first=False, replaces=True))]) > 1e-2


@pytest.mark.parametrize(
    "name",
    NO_WINDOW,
)
def test_no_window_is_the_models_own_loss(made: Callable[[str], Model], name: str) -> None:
    model = made(name)
    whole = model.loss(ROWS)[:, 1:]
    assert gap([(windowed_losses(model, ROWS, None), whole)]) < 1e-5
    assert gap([(windowed_losses(model, ROWS, None), whole.flip(0))]) > 1e-2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("jamba", "window"),
        ("qwen3_next", "another way than attention"),
        ("lfm2", "another way than attention"),
        ("falcon_h1", "another way than attention"),
        *((name, "no attention patterns that an edit reaches") for name in ("mamba", "mamba2", "rwkv", "xglm")),
        *((name, "no attention patterns that an edit reaches") for name in ("falcon_rw", "cohere2", "recurrent_gemma")),
    ],
)
def test_a_window_that_would_not_hide_is_refused_in_one_line(made: Callable[[str], Model], name: str, why: str) -> None:
    with pytest.raises(UserError) as refused:
        windowed_losses(made(name), ROWS, 3)
    assert why in str(refused.value)
    assert "a window of 3 cannot be put on" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_mask_that_takes_the_place_of_a_window_is_found_out(
    made: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: who believes every mask gets the losses of a model without its windows."""
    right = windowed_losses(made("gemma2"), ROWS, 8, first=False)
    monkeypatch.setattr(windows_module, "_takes_masks", lambda *_: True)
    assert gap([(windowed_losses(made("gemma2"), ROWS, 8, first=False), right)]) > 1e-2


def test_edits_of_patterns_see_what_the_window_leaves(made: Callable[[str], Model]) -> None:
    """By mask (llama) and by edit (gemma2): a frozen pattern stays as it was captured, outside the window too."""
    for name in ("llama", "gemma2"):
        model = made(name)
        with model.edit(freeze(model.capture(ROWS, PATTERN))):
            frozen = windowed_losses(model, ROWS, 2)
        assert gap([(frozen, model.loss(ROWS)[:, 1:])]) < 1e-4
        assert gap([(windowed_losses(model, ROWS, 2), model.loss(ROWS)[:, 1:])]) > 1e-2


def test_odd_windows_are_refused_where_they_are_given(tiny_gpt2: Model) -> None:
    for odd in (0, -1, 2.5, "3", True):
        with pytest.raises(UserError, match="expected 1"):
            windowed(odd)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="expected 1"):
            windowed_losses(tiny_gpt2, ROWS, odd)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="start=13"):
        windowed_losses(tiny_gpt2, ROWS, 3, start=13)
