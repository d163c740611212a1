"""A pattern means a place, and a name means one thing in all layers; lengths that change positions are kept apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from compare import far

from interp import Model, UserError, ablate
from interp.model.hooks.asked import has_length_switch, length_kind, padding_is_harmless
from interp.model.hooks.forward import batches
from interp.model.provenance import describe_in_memory

SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


@pytest.fixture
def wrap(tiny_gpt2: Model) -> Callable[..., Model]:
    """`wrap(class, config class, settings…)`: a seeded tiny model with the shared tokenizer."""

    def make(build: Any, config: Any, **settings: Any) -> Model:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = build(config(vocab_size=len(tiny_gpt2.tokenizer), **settings)).eval()
            for weight in made.parameters():
                if weight.ndim > 1:
                    torch.nn.init.normal_(weight, 0, 0.25)
        return Model(made, tiny_gpt2.tokenizer, describe_in_memory(made, tiny_gpt2.tokenizer, "x", "made by hand"))

    return make


@pytest.fixture
def mixed(wrap: Callable[..., Model]) -> Model:
    """A dense block, then two of several experts."""
    settings = SIZES | {"intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 3}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [0]}
    return wrap(hf.Qwen3MoeForCausalLM, hf.Qwen3MoeConfig, **settings, **experts)


@pytest.fixture
def longrope(wrap: Callable[..., Model]) -> Model:
    """Phi-3 whose positions stretch from nine tokens on."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0, 5.0, 6.0, 8.0],
        "original_max_position_embeddings": 8,
    }
    settings = {k: v for k, v in SIZES.items() if k != "head_dim"} | {"intermediate_size": 48, "num_hidden_layers": 2}
    limits = {"max_position_embeddings": 64, "original_max_position_embeddings": 8, "pad_token_id": 0}
    return wrap(hf.Phi3ForCausalLM, hf.Phi3Config, rope_parameters=rope, **settings, **limits)


def test_a_pattern_reaches_every_layers_mlp(mixed: Model) -> None:
    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    assert mixed.sites("blocks.*.hook_mlp_out") == names
    assert [*mixed.capture(["a b"], "blocks.*.hook_mlp_out")] == names
    with mixed.edit({"blocks.*.hook_mlp_out": ablate()}) as receipts:
        mixed.logits(["a b"])
    assert [*receipts] == names
    assert all(receipt.norm_after == 0 for receipt in receipts.values())


def test_neurons_are_named_only_where_there_are_neurons(mixed: Model) -> None:
    assert mixed.sites("blocks.*.mlp.hook_post") == ["blocks.0.mlp.hook_post"]
    assert mixed.capture(["a b"], "blocks.*.mlp.hook_pre")["blocks.0.mlp.hook_pre"].shape[-1] == 48
    for name in ("blocks.1.mlp.hook_post", "blocks.2.mlp.hook_pre"):
        with pytest.raises(UserError, match=r"an MLP of several experts, blocks.*no layer of neurons"):
            mixed.capture(["a b"], name)


def test_a_place_is_found_by_any_of_its_names_and_listed_once(tiny_gpt2: Model) -> None:
    found = tiny_gpt2.sites("blocks.*.hook_out")
    assert "blocks.0.hook_out" in found
    assert tiny_gpt2.sites("blocks.0.hook_out") == ["blocks.0.hook_out"]
    everything = tiny_gpt2.sites()
    places = [tiny_gpt2.site_table.origin[site] for site in everything]
    assert len(places) == len(set(places))
    assert "blocks.0.hook_resid_post" in everything, "the traditional name stands for its place"
    assert tiny_gpt2.sites("blocks.0.*resid_post") == ["blocks.0.hook_resid_post"]


def test_patterns_give_sites_in_the_order_of_the_model(wrap: Callable[..., Model]) -> None:
    """Layer 2 comes before layer 10, whatever the alphabet says."""
    model = wrap(hf.GPT2LMHeadModel, hf.GPT2Config, n_layer=11, n_embd=32, n_head=4, n_positions=64)
    expected = [f"blocks.{layer}.hook_resid_post" for layer in range(11)]
    assert model.sites("blocks.*.hook_resid_post") == expected
    assert [*model.capture(["a b"], "blocks.*.hook_resid_post")] == expected
    with model.edit({"blocks.*.hook_mlp_out": ablate()}) as receipts:
        model.logits(["a b"])
    assert [*receipts] == [f"blocks.{layer}.hook_mlp_out" for layer in range(11)]
    layers = [int(site.split(".")[1]) for site in model.sites() if site.startswith("blocks.")]
    assert layers == sorted(layers)


def test_batch_mates_of_another_kind_of_length_change_nothing(longrope: Model) -> None:
    short, long = [5, 6, 7], [*range(3, 17)]
    assert has_length_switch(longrope.tree)
    assert [length_kind(longrope.tree, n) for n in (1, 8, 9, 64)] == [0, 0, 1, 1]
    alone, beside = longrope.last_logits([short]), longrope.last_logits([short, long])
    assert far(beside[:1], alone) < 1e-5
    site = "blocks.*.hook_resid_post"
    acts, by_itself = longrope.capture([long, short], site), longrope.capture([short], site)
    assert far(acts["blocks.1.hook_resid_post"][1, :3], by_itself["blocks.1.hook_resid_post"][0]) < 1e-5
    with torch.no_grad():  # negative control: padded together, plain transformers gives the short one other numbers
        padded = longrope.hf(torch.tensor([[*short, *[0] * 11], long])).logits[0, 2]
    assert far(padded, alone[0]) > 0.1
    for batch in batches(longrope.tree, [short, long, short], 8, "right"):
        assert len({length_kind(longrope.tree, int(n)) for n in batch.mask.sum(1)}) == 1


@pytest.mark.parametrize("lengths", [(6,), (6, 3), (3, 12)])
def test_generation_across_the_switch_is_a_cache_free_loop(longrope: Model, lengths: tuple[int, ...]) -> None:
    rows = [[(7 * i) % 90 + 3 for i in range(n)] for n in lengths]
    written = longrope.generate(rows, max_new_tokens=6).ids
    for row, new in zip(rows, written, strict=True):
        expected, whole = [], list(row)
        for _ in range(len(new)):
            with torch.no_grad():
                whole.append(int(longrope.hf(torch.tensor([whole]), use_cache=False).logits[0, -1].argmax()))
            expected.append(whole[-1])
        assert new == expected


def test_most_models_have_one_kind_of_length(tiny_of: Callable[[str], Model]) -> None:
    for architecture in ("gpt2", "llama", "gemma3", "mpt"):
        assert not has_length_switch(tiny_of(architecture).tree), architecture


def test_padding_that_reaches_real_tokens_is_found_and_kept_away(make_tiny: Callable[..., Model]) -> None:
    """As in an attention that chooses among all tokens of the batch: here every token sees the batch's length."""
    model = make_tiny("llama")
    plain = model.hf.forward

    def by_width(ids: torch.Tensor, **how: Any) -> Any:
        out = plain(ids, **how)
        out.logits = out.logits * (1 + 0.05 * ids.shape[1])
        return out

    model.hf.forward = by_width  # type: ignore[method-assign]
    assert not padding_is_harmless(model.tree, "plain", "right")
    assert padding_is_harmless(make_tiny("llama").tree, "plain", "right")
    rows = [[5, 6, 7], [*range(3, 17)], [8, 9, 10]]
    alone = torch.cat([model.last_logits([row]) for row in rows])
    assert far(model.last_logits(rows), alone) < 1e-5
