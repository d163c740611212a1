"""Prompts to ids: the BOS policy, padding, and every kind of prompt that must be refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from interp import Model, UserError
from interp.model.hooks import tokens
from interp.model.hooks.tokens import adds_bos, batches_of, encode, pad

WORDS = {"<s>": 0, "</s>": 1, "<unk>": 2, "one": 3, "two": 4, "three": 5}


def tokenizer(adds: bool, bos: str | None = "<s>", end: bool = False) -> PreTrainedTokenizerFast:
    """One token a word; with or without a BOS that it adds itself."""
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds:
        single = "<s> $A </s>" if end else "<s> $A"
        backend.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)] if end else [("<s>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, unk_token="<unk>")


ADDS, DOES_NOT, HAS_NONE = tokenizer(True), tokenizer(False), tokenizer(False, bos=None)


@pytest.mark.parametrize(
    ("text", "bos", "adding", "not_adding"),
    [
        ("one two", "tokenizer", [0, 3, 4], [3, 4]),
        ("one two", "always", [0, 3, 4], [0, 3, 4]),
        ("one two", "never", [3, 4], [3, 4]),
        ("<s> one", "tokenizer", [0, 3], [0, 3]),  # typed and added are two: one is kept
        ("<s> one", "always", [0, 3], [0, 3]),
        ("<s> one", "never", [0, 3], [0, 3]),  # what the user typed stays
        ("<s> <s> one", "tokenizer", [0, 0, 3], [0, 0, 3]),  # two typed stay two, whoever adds
        ("<s> <s> one", "always", [0, 0, 3], [0, 0, 3]),
    ],
)
def test_the_bos_policy(text: str, bos: Any, adding: list[int], not_adding: list[int]):
    assert encode(ADDS, text, bos) == [adding]
    assert encode(DOES_NOT, text, bos) == [not_adding]


def test_ids_are_taken_as_they_are_whatever_the_policy():
    rows = [[3, 4], [0, 0, 5]]
    for prompts in (rows, [torch.tensor(r) for r in rows], [np.array(r) for r in rows], (tuple(r) for r in rows)):
        assert encode(ADDS, prompts, "always") == rows  # type: ignore[arg-type]
    assert encode(ADDS, torch.tensor([[3, 4], [5, 3]]), "always") == [[3, 4], [5, 3]]
    assert encode(ADDS, ["one", [4]], "always") == [[0, 3], [4]]  # type: ignore[list-item]


def test_a_tokenizer_without_bos():
    assert encode(HAS_NONE, "one", "tokenizer") == encode(HAS_NONE, "one", "never") == [[3]]
    with pytest.raises(UserError, match="bos='always', but this tokenizer has no BOS token; use bos='never'"):
        encode(HAS_NONE, "one", "always")
    assert [adds_bos(t) for t in (ADDS, DOES_NOT, HAS_NONE)] == [True, False, False]


@pytest.mark.parametrize(
    ("prompts", "line"),
    [
        ([], "no prompts came; expected at least one"),
        ("", "prompt 0 is empty: it has no tokens"),
        (["one", ""], "prompt 1 is empty"),
        ([[3], []], "prompt 1 is empty"),
        ([3, 4], "prompts is a flat list of token ids; expected one list per prompt; wrap it"),
        (torch.tensor([3, 4]), "prompts is a flat list of token ids"),
        (np.array([3, 4]), "prompts is a flat list of token ids"),
        (torch.tensor(3), "prompts is 3; expected a string"),
        (None, "prompts is None; expected a string, a list of strings or a list of lists of token ids"),
        (5, "prompts is 5"),
        ({"input_ids": [[3]], "attention_mask": [[1]]}, "prompts is {'input_ids'"),  # its keys would pass as prompts
        ({"one", "two"}, "expected a string, a list of strings"),  # no order
        ([[3], 4], "prompt 1 is 4; expected a string or a list of whole-number token ids"),
        ([None], "prompt 0 is None"),
        ([["one"]], "prompt 0 is ['one']"),
        ([["3"]], "prompt 0 is ['3']"),
        ([[3.7]], "prompt 0 is [3.7]"),  # int() would make it 3
        (torch.tensor([[3.0]]), "prompt 0 is [3.0]"),
        ([[[3]]], "prompt 0 is [[3]]"),
        ([[3, 6]], "prompt 0 holds token id 6; expected 0 to 5"),
        ([[3], [5, -1]], "prompt 1 holds token id -1; expected 0 to 5"),
        ([[-100, 3]], "prompt 0 holds token id -100"),
        ("one \udce9", "no UTF-8 text at character 4"),
        ("one four five", "does not know 'four', 'five'"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_one_line(prompts: Any, line: str):
    with pytest.raises(UserError) as refused:
        encode(DOES_NOT, prompts, "never")
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_policy_is_refused():
    with pytest.raises(UserError, match="bos='yes'; expected one of tokenizer, always, never"):
        encode(ADDS, "one", "yes")  # type: ignore[arg-type]


def test_an_unknown_token_that_the_user_typed_is_kept(smol: Model):
    assert encode(DOES_NOT, "one <unk>", "never") == [[3, 2]]
    assert smol.encode("<|endoftext|>") == [[0]], "this tokenizer's unknown token is a control token too"


def test_an_empty_prompt_is_a_prompt_once_bos_stands_before_it():
    assert encode(ADDS, "", "tokenizer") == [[0]]
    assert encode(DOES_NOT, "", "always") == [[0]]


def test_a_stored_truncation_or_padding_is_not_applied():
    """tokenizer.json may carry both; a prompt cut or filled in silence would be another prompt."""
    shortened = tokenizer(False)
    shortened.backend_tokenizer.enable_truncation(max_length=2)
    shortened.backend_tokenizer.enable_padding(length=9, pad_id=1)
    assert encode(shortened, ["one two three"], "tokenizer") == [[3, 4, 5]]


def test_the_bundled_tokenizer_adds_nothing_and_gives_back_every_text(smol: Model):
    assert smol.provenance.bos == {"policy": "tokenizer", "tokenizer_adds": False, "token": "<|im_start|>"}
    start = smol.tokenizer.bos_token_id
    assert smol.with_bos("always").encode("<|im_start|>user")[0][0] == start
    assert smol.with_bos("always").encode("user")[0][0] == start
    assert smol.encode("user")[0][0] != start
    assert smol.str_tokens("Paris is 42") == ["Paris", " is", " ", "4", "2"]


# SmolLM2's own vocabulary lacks six control bytes and those of the planes without characters: it drops them
KNOWN = st.characters(exclude_categories=["Cs"], exclude_characters="\x04\x06\x13\x14\x16\x1d", max_codepoint=0x3FFFF)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(KNOWN, min_size=1))
def test_no_text_is_lost(smol: Model, text: str):
    assert smol.tokenizer.decode(smol.encode(text)[0], clean_up_tokenization_spaces=False) == text


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=1, max_size=9),
    st.sampled_from(["left", "right"]),
)
def test_padding_keeps_every_prompt_and_counts_its_positions_from_zero(rows: list[list[int]], side: Any):
    tokens = pad(rows, range(len(rows)), len(rows), side, 7, torch.device("cpu"))
    for row, ids, mask, positions in zip(rows, tokens.ids, tokens.mask, tokens.position_ids, strict=True):
        assert ids[mask].tolist() == row
        assert positions[mask].tolist() == list(range(len(row)))
        assert bool(mask[0 if side == "right" else -1])
        assert ids[~mask].tolist() == [7] * (len(mask) - len(row))


@given(st.lists(st.lists(st.just(1), min_size=1, max_size=30), min_size=1, max_size=30), st.integers(1, 40))
def test_batches_hold_every_prompt_once(rows: list[list[int]], size: int):
    split = batches_of(rows, size, lambda i: 0)
    assert sorted(i for batch in split for i in batch) == list(range(len(rows)))
    assert all(len(batch) == size for batch in split[:-1])
    lengths = [len(rows[i]) for batch in split for i in batch]
    assert lengths == sorted(lengths), "prompts of like length go together, so that little is padded"


def test_a_prompt_longer_than_the_context_is_refused(make_tiny: Callable[..., Model]):
    """GPT-2 would crash in its position table; a rotary model would run on and be wrong."""
    for architecture in ("gpt2", "llama"):
        model = make_tiny(architecture)
        assert model.logits([[1] * 64]).shape[1] == 64
        with pytest.raises(UserError, match="prompt 1 has 65 tokens; this model takes 64 at most"):
            model.logits([[1], [1] * 65])


def test_a_tokenizer_of_another_model_is_noticed(smol: Model, tiny_gpt2: Model):
    mixed = Model(tiny_gpt2.hf, smol.tokenizer, tiny_gpt2.provenance)
    with pytest.raises(UserError, match="embeds ids 0 to 299 only; its tokenizer belongs to another model"):
        mixed.logits("The capital of France")


def test_many_texts_are_those_of_one_at_a_time(tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a call of the tokenizer takes fewer than came, and where ids stand between the texts."""
    monkeypatch.setattr(tokens, "AT_ONCE", 3)
    prompts: list[Any] = [f"{i} men went to the {'big ' * i}house" for i in range(8)]
    prompts[4] = [5, 6, 7]
    assert tiny_gpt2.encode(prompts) == [tiny_gpt2.encode([prompt])[0] for prompt in prompts]
