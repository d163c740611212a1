"""Generation: transformers' own tokens, and the activations that a second forward over them would give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import far

from interp import Model, UserError

PROMPTS = ["The capital of France is", "Mary", "John gave a drink to the lazy dog; Rome is"]
SITES = ["blocks.*.hook_resid_post", "blocks.0.hook_mlp_out"]


def recaptured(model: Model, ids: list[list[int]], new: list[list[int]], site: str) -> list[torch.Tensor]:
    rows = [[*a, *b[:-1]] for a, b in zip(ids, new, strict=True)]
    acts = model.capture(rows, site)
    return [acts[site][i, : len(row)] for i, row in enumerate(rows)]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_greedy_text_is_transformers_and_activations_are_a_second_forwards(
    make_tiny: Callable[..., Model], architecture: str
) -> None:
    model = make_tiny(architecture)
    hf: Any = model.hf
    made = model.generate(PROMPTS, max_new_tokens=7, capture=SITES)
    encoded = model.encode(PROMPTS)
    for row, new in zip(encoded, made.ids, strict=True):
        theirs = hf.generate(
            torch.tensor([row]),
            attention_mask=torch.ones(1, len(row)),
            max_new_tokens=7,
            do_sample=False,
            pad_token_id=0,
        )
        assert new == theirs[0, len(row) :].tolist()
    assert made.activations is not None
    assert set(made.activations) == {"blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.0.hook_mlp_out"}
    for site in made.activations:
        expected = recaptured(model, encoded, made.ids, site)
        for i, rows in enumerate(expected):
            ours = made.activations[site][i][made.activations.mask[i]]
            assert torch.allclose(ours, rows, atol=1e-4), site
        assert bool(made.activations[site].isnan()[~made.activations.mask].all())


def test_batch_mates_change_nothing_and_the_bundled_model_ends_where_it_ends(smol: Model) -> None:
    prompts = ["Here is a fact. The capital of France is", "One, two, three, four,"]
    together = smol.generate(prompts, max_new_tokens=6, capture="blocks.14.hook_resid_post")
    alone = [smol.generate(p, max_new_tokens=6, capture="blocks.14.hook_resid_post") for p in prompts]
    assert together.ids == [a.ids[0] for a in alone]
    assert together.texts[0].startswith(" Paris")
    ours, theirs = (g.activations for g in (together, alone[1]))
    assert ours is not None
    assert theirs is not None
    last = ours["blocks.14.hook_resid_post"][1][ours.mask[1]][-3:]
    assert torch.allclose(last, theirs["blocks.14.hook_resid_post"][0, -3:], atol=1e-2, rtol=1e-4)


def test_a_prompt_ends_at_the_end_of_text(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    free = model.generate(PROMPTS, max_new_tokens=6)
    end = free.ids[1][2]
    model.tokenizer = copy.deepcopy(model.tokenizer)  # the session's is shared
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(end)
    assert model.tokenizer.eos_token_id == end
    made = model.generate(PROMPTS, max_new_tokens=6, capture="blocks.1.hook_resid_post")
    for ids, whole in zip(made.ids, free.ids, strict=True):
        cut = whole.index(end) + 1 if end in whole else 6
        assert ids == whole[:cut]
    assert made.activations is not None
    lengths = [len(row) + len(new) - 1 for row, new in zip(model.encode(PROMPTS), made.ids, strict=True)]
    assert made.activations.mask.sum(-1).tolist() == lengths


def test_drawing_follows_the_seed_and_the_distribution(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    draws = [model.generate(PROMPTS, max_new_tokens=5, temperature=1.0, seed=s).ids for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert (
        model.generate(PROMPTS, max_new_tokens=5, temperature=1.0, top_k=1).ids
        == model.generate(PROMPTS, max_new_tokens=5).ids
    )
    cold = model.generate(PROMPTS, max_new_tokens=5, temperature=1e-39).ids
    assert cold == model.generate(PROMPTS, max_new_tokens=5).ids
    many = model.generate([PROMPTS[0]] * 4000, max_new_tokens=1, temperature=1.5, seed=3).ids
    found = torch.bincount(torch.tensor(many).flatten(), minlength=model.hf.config.vocab_size) / 4000
    true = (model.last_logits(PROMPTS[0])[0] / 1.5).softmax(-1)
    assert float((found - true).abs().sum()) < 0.35  # 300 tokens, 4,000 draws: .22 on average


def test_a_drawn_text_follows_its_prompt_and_not_its_place_in_the_batch(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    how: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.0, "seed": 4}
    alone = model.generate([PROMPTS[1]], **how).ids[0]
    assert model.generate([PROMPTS[0], PROMPTS[1], PROMPTS[0]], **how).ids[1] == alone
    twice = model.generate([PROMPTS[1], PROMPTS[1]], **how).ids
    assert twice[0] == alone
    assert twice[1] != alone, "a prompt that came before draws another text"


def test_a_model_without_a_cache_reads_again(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("mamba")
    made = model.generate(["Rome is"], max_new_tokens=4, capture="blocks.0.hook_resid_post")
    assert made.activations is not None
    (expected,) = recaptured(model, model.encode(["Rome is"]), made.ids, "blocks.0.hook_resid_post")
    assert torch.allclose(made.activations["blocks.0.hook_resid_post"][0], expected, atol=1e-4)


def test_misuse_is_one_line(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    misuse: list[tuple[dict[str, Any], str]] = [
        ({"max_new_tokens": 0}, "expected 1 or more"),
        ({"temperature": -1.0}, "temperature=-1.0; expected 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0, "temperature": 1.0}, "top_k=0"),
        ({"top_k": 5}, "top_k=5 came without a temperature"),
        ({"seed": 2**70}, "seed=1180591620717411303424"),
        ({"capture": "blocks.0.hook_resid_pst"}, "nearest"),
        ({"max_new_tokens": 500}, "this model takes 64"),
    ]
    for settings, told in misuse:
        with pytest.raises(UserError) as refused:
            model.generate(PROMPTS, **settings)
        assert told in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_patterns_of_generated_tokens_are_those_of_one_forward(
    make_tiny: Callable[..., Model], architecture: str
) -> None:
    """Mistral's cache keeps the last tokens alone: their keys stand where they stand in the whole text."""
    model = make_tiny(architecture)
    rows = [[5, 6, 7, 4, 9, 8, 3], [9, 8, 7]]
    site = "blocks.1.attn.hook_pattern"
    made = model.generate(rows, max_new_tokens=6, capture=[site, "blocks.1.attn.hook_v"])
    assert made.activations is not None
    for i, (row, new) in enumerate(zip(rows, made.ids, strict=True)):
        whole = [*row, *new[:-1]]
        expected = model.capture([whole], [site, "blocks.1.attn.hook_v"])
        real = made.activations.mask[i]
        pattern = made.activations[site][i][:, real][:, :, real]
        assert far(pattern, expected[site][0]) < 1e-4
        assert far(made.activations["blocks.1.attn.hook_v"][i][real], expected["blocks.1.attn.hook_v"][0]) < 1e-4
