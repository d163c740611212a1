"""Weight matrices against transformers' own parameters, cut by hand, and against what the sites carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from refusals import the_line
from torch import Tensor

from interp import Model, UserError

PROMPTS = ["The capital of France is Paris, and", "Mary had"]
HEADS, KV, D, D_HEAD = 4, 2, 32, 8
Cut = dict[str, Tensor]


def _heads(weight: Tensor, heads: int) -> Tensor:
    """[d_out, d_in] as nn.Linear keeps it to [head, d_in, d_head]."""
    return weight.T.reshape(weight.shape[1], heads, -1).movedim(1, 0)


def _gpt2(block: Any) -> Cut:
    q, k, v = block.attn.c_attn.weight.split(D, dim=1)  # Conv1D keeps [d_in, d_out]
    bq, bk, bv = block.attn.c_attn.bias.split(D)
    return {
        **{f"W_{n}": w.reshape(D, HEADS, D_HEAD).movedim(1, 0) for n, w in zip("QKV", (q, k, v), strict=True)},
        **{f"b_{n}": b.reshape(HEADS, D_HEAD) for n, b in zip("QKV", (bq, bk, bv), strict=True)},
        "W_O": block.attn.c_proj.weight.reshape(HEADS, D_HEAD, D),
        "b_O": block.attn.c_proj.bias,
        "W_in": block.mlp.c_fc.weight,
        "b_in": block.mlp.c_fc.bias,
        "W_out": block.mlp.c_proj.weight,
        "b_out": block.mlp.c_proj.bias,
    }


def _llama(block: Any) -> Cut:
    attn, mlp = block.self_attn, block.mlp
    return {
        "W_Q": _heads(attn.q_proj.weight, HEADS),
        "W_K": _heads(attn.k_proj.weight, KV),
        "W_V": _heads(attn.v_proj.weight, KV),
        "W_O": attn.o_proj.weight.T.reshape(HEADS, D_HEAD, D),
        "W_in": mlp.up_proj.weight.T,
        "W_gate": mlp.gate_proj.weight.T,
        "W_out": mlp.down_proj.weight.T,
        "b_Q": torch.zeros(HEADS, D_HEAD),
        "b_out": torch.zeros(D),
    }


def _phi3(block: Any) -> Cut:
    q, k, v = block.self_attn.qkv_proj.weight.split([D, KV * D_HEAD, KV * D_HEAD])
    gate, up = block.mlp.gate_up_proj.weight.chunk(2)
    names = ("W_Q", "W_K", "W_V")
    return {
        **{n: _heads(w, h) for n, w, h in zip(names, (q, k, v), (HEADS, KV, KV), strict=True)},
        "W_O": block.self_attn.o_proj.weight.T.reshape(HEADS, D_HEAD, D),
        "W_in": up.T,
        "W_gate": gate.T,
        "W_out": block.mlp.down_proj.weight.T,
    }


def _interleaved(attn: Any, mlp: Any) -> Cut:
    """GPT-NeoX and BLOOM: the rows go head by head, in each q, k, v."""
    weight = attn.query_key_value.weight.reshape(HEADS, 3, D_HEAD, D)
    bias = attn.query_key_value.bias.reshape(HEADS, 3, D_HEAD)
    return {
        **{f"W_{n}": weight[:, i].movedim(-1, 1) for i, n in enumerate("QKV")},
        **{f"b_{n}": bias[:, i] for i, n in enumerate("QKV")},
        "W_O": attn.dense.weight.T.reshape(HEADS, D_HEAD, D),
        "b_O": attn.dense.bias,
        "W_in": mlp.dense_h_to_4h.weight.T,
        "b_in": mlp.dense_h_to_4h.bias,
        "W_out": mlp.dense_4h_to_h.weight.T,
        "b_out": mlp.dense_4h_to_h.bias,
    }


BY_HAND: dict[str, tuple[str, Callable[[Any], Cut]]] = {
    "gpt2": ("transformer.h", _gpt2),
    "llama": ("model.layers", _llama),
    "phi3": ("model.layers", _phi3),
    "gpt_neox": ("gpt_neox.layers", lambda block: _interleaved(block.attention, block.mlp)),
    "bloom": ("transformer.h", lambda block: _interleaved(block.self_attention, block.mlp)),
}


@pytest.mark.parametrize("architecture", BY_HAND)
def test_every_matrix_is_the_parameter_cut_by_hand(tiny_of: Callable[[str], Model], architecture: str) -> None:
    model = tiny_of(architecture)
    blocks, cut = BY_HAND[architecture]
    cuts = [cut(block) for block in model.hf.get_submodule(blocks)]  # type: ignore[union-attr]
    for name in cuts[0]:
        expected = torch.stack([layer[name].detach() for layer in cuts])
        if name[2:] in ("K", "V"):  # a copy for each query head
            expected = expected.repeat_interleave(HEADS // expected.shape[1], 1)
        assert torch.equal(getattr(model, name), expected), name
        assert torch.equal(model.matrix(name, 1), expected[1]), name
    assert torch.equal(model.W_U, model.hf.get_output_embeddings().weight.detach().T)  # type: ignore[union-attr]
    assert torch.equal(model.W_E, model.hf.get_input_embeddings().weight.detach())  # type: ignore[arg-type,union-attr]


@pytest.mark.parametrize(
    "architecture", ["gpt2", "llama", "phi3", "gpt_neox", "bloom", "qwen2", "opt", "falcon", "olmo2"]
)
def test_every_matrix_takes_one_site_to_the_next(tiny_of: Callable[[str], Model], architecture: str) -> None:
    model = tiny_of(architecture)
    gated = architecture in ("llama", "phi3", "qwen2", "olmo2")
    normed_behind = architecture == "olmo2"
    acts = model.capture(PROMPTS, ["blocks.*", "ln_final.hook_out"])
    real = acts.mask

    def close(made: Tensor, site: str) -> None:
        shown = acts[site][real]
        if shown.ndim == 3 and made.shape[2] > shown.shape[1]:  # keys and values that several query heads share
            shown = shown.repeat_interleave(made.shape[2] // shown.shape[1], 1)
        torch.testing.assert_close(made[real], shown, atol=1e-4, rtol=1e-4, msg=site)

    for layer in range(model.n_layers):
        at = f"blocks.{layer}."
        x = acts[f"{at}hook_resid_pre" if normed_behind else f"{at}ln1.hook_out"]
        for n in "QKV":
            weight, bias = getattr(model, f"W_{n}")[layer], getattr(model, f"b_{n}")[layer]
            close(torch.einsum("bpm,hmd->bphd", x, weight) + bias, f"{at}attn.hook_{n.lower()}")
        written = torch.einsum("bphd,hdm->bpm", acts[f"{at}attn.hook_z"], model.W_O[layer]) + model.b_O[layer]
        close(written, f"{at}attn.o.hook_out" if normed_behind else f"{at}hook_attn_out")
        x = acts[f"{at}mlp.in.hook_in"]
        pre = f"{at}mlp.hook_pre_linear" if gated else f"{at}mlp.hook_pre"
        close(x @ model.W_in[layer] + model.b_in[layer], pre)
        if gated:
            close(x @ model.W_gate[layer], f"{at}mlp.hook_pre")
        written = acts[f"{at}mlp.hook_post"] @ model.W_out[layer] + model.b_out[layer]
        close(written, f"{at}mlp.out.hook_out" if normed_behind else f"{at}hook_mlp_out")
    logits = acts["ln_final.hook_out"] @ model.W_U + model.b_U
    torch.testing.assert_close(logits[real], model.logits(PROMPTS)[real], atol=1e-4, rtol=1e-4)
    embedded = model.capture(PROMPTS[:1], "embed.hook_out")["embed.hook_out"][0]  # BLOOM has a norm before hook_embed
    assert torch.equal(model.W_E[model.encode(PROMPTS)[0]], embedded)


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_a_learned_position_is_the_row_of_its_number(tiny_of: Callable[[str], Model], architecture: str) -> None:
    model = tiny_of(architecture)
    acts = model.capture(PROMPTS[:1], ["blocks.0.hook_resid_pre", "hook_embed"])
    moved = acts["blocks.0.hook_resid_pre"] - acts["hook_embed"]
    torch.testing.assert_close(model.W_pos[: moved.shape[1]], moved[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_products_of_a_head_are_what_it_moves_and_what_it_scores(
    tiny_of: Callable[[str], Model], architecture: str
) -> None:
    model = tiny_of(architecture)
    for head in range(HEADS):
        moved, scored = model.OV(1, head), model.QK(1, head)
        assert moved.shape == scored.shape == (D, D)
        expected = model.W_V[1, head] @ model.W_O[1, head]
        torch.testing.assert_close(moved.product, expected)
        torch.testing.assert_close(scored.product, model.W_Q[1, head] @ model.W_K[1, head].T)
        u, values, v = moved.svd()
        assert values.shape == (D_HEAD,)
        torch.testing.assert_close(u @ values.diag() @ v, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(values, torch.linalg.svdvals(expected)[:D_HEAD], atol=1e-4, rtol=1e-4)
        assert moved.norm == pytest.approx(float(expected.norm()), rel=1e-4)
        torch.testing.assert_close((moved @ scored.T).product, expected @ scored.product.T, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close((model.W_E @ moved @ model.W_U).product, model.W_E @ expected @ model.W_U)
    # the score of a head without rotary positions is what QK says; GPT-2 has biases, which are left at zero here
    if architecture == "gpt2":
        x = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
        by_hand = (x @ model.W_Q[1, 2]) @ (x @ model.W_K[1, 2]).T
        torch.testing.assert_close(x @ model.QK(1, 2).product @ x.T, by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "name", "words"),
    [
        ("mixtral", "W_in", "MixtralForCausalLM has no single matrix for W_in in layers 0, 1: .*experts"),
        ("mixtral", "W_gate", "no single matrix for W_gate in layers 0, 1"),  # not the router, which is called gate too
        ("mamba", "W_Q", "MambaForCausalLM has no single matrix for W_Q in layers 0, 1"),
        ("gpt2", "W_gate", "no single matrix for W_gate in layers 0, 1: there is no gated MLP"),
        ("llama", "W_pos", "has no W_pos: it adds no learned embedding"),
        ("gemma2", "W_E", r"W_E of this Gemma2ForCausalLM is not .* comes times 5\.6569"),
    ],
)
def test_what_a_model_has_not_is_one_line(
    tiny_of: Callable[[str], Model], architecture: str, name: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as raised:
        getattr(tiny_of(architecture), name)
    the_line(raised)


def test_names_layers_and_heads_that_are_none_are_refused(tiny_llama: Model) -> None:
    for call, words in (
        (lambda: tiny_llama.matrix("W_q", 0), "unknown matrix 'W_q'; nearest: .*'W_Q'"),
        (lambda: tiny_llama.matrix("W_Q", 2), "layer 2 came; expected 0 to 1"),
        (lambda: tiny_llama.OV(0, 4), "head 4 came; expected 0 to 3"),
        (lambda: tiny_llama.QK(-1, 0), "layer -1 came"),
    ):
        with pytest.raises(UserError, match=words):
            call()


def _doubled(_: Any, __: Any, out: Tensor) -> Tensor:
    return 2 * out


def test_a_module_that_does_more_than_its_matrix_is_found_out(make_tiny: Callable[..., Model]) -> None:
    """The control: a query module that doubles what its matrix gives, and an unembedding that adds something."""
    model = make_tiny("llama")
    assert model.W_Q.shape == (2, HEADS, D, D_HEAD)
    model.hf.get_submodule("model.layers.1.self_attn.q_proj").register_forward_hook(_doubled)
    model.hf.get_output_embeddings().register_forward_hook(lambda _, __, out: out + 1)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="W_Q of this LlamaForCausalLM does not give what its module gives in layer 1"):
        _ = model.W_Q
    assert model.matrix("W_Q", 0).shape == (HEADS, D, D_HEAD)
    with pytest.raises(UserError, match="W_U of this LlamaForCausalLM does not give its logits"):
        _ = model.W_U


def test_a_matrix_follows_the_weights(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt_neox")  # whose q, k and v the hooked modules copy
    before = model.W_Q
    with torch.no_grad():
        model.hf.get_submodule("gpt_neox.layers.0.attention").query_key_value.weight.mul_(2)  # type: ignore[operator,union-attr]
    torch.testing.assert_close(model.W_Q[0], 2 * before[0])
    assert torch.equal(model.W_Q[1], before[1])
