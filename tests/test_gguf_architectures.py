"""GGUF files beside Llama's plain one: parts that are fused or lacking, and what transformers' reader would drop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tiny import left_in, tiny_hf

from interp import Model, UserError, load_model
from interp.model.loading.gguf_header import Header, complete_config

PROMPT = "The capital of France is 42, and Mary likes John"
pytestmark = pytest.mark.usefixtures("own_cache")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def write(file: Path, arch: str, hf: Any, tokenizer: Any, header: dict[str, Any], **extra: np.ndarray) -> Path:
    """A file as llama.cpp's converter writes it: `header` are keys of the architecture, `extra` further tensors."""
    writer = gguf.GGUFWriter(file, arch)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
    for key, value in header.items():
        add[type(value)](f"{arch}.{key}", value)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(backend["vocab"], key=backend["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word == "<|endoftext|>" else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    (key,) = [key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch]
    names = gguf.get_tensor_name_map(key, hf.config.num_hidden_layers)
    tensors = {}
    for name, weight in hf.state_dict().items():
        if name == "lm_head.weight" and hf.config.tie_word_embeddings:
            continue
        data, stored = weight.float().numpy(), names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):  # llama.cpp rotates neighbours
            heads = hf.config.num_attention_heads if "q_proj" in name else hf.config.num_key_value_heads
            data = data.reshape(heads, 2, -1, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        if arch == "mamba":
            data = -np.exp(data) if name.endswith("A_log") else data.squeeze(1) if "conv1d.weight" in name else data
        tensors[stored] = data
    for name, data in (tensors | {key.replace("__", "."): value for key, value in extra.items()}).items():
        writer.add_tensor(name, np.ascontiguousarray(data, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def header_of(config: Any, **more: Any) -> dict[str, Any]:
    """The sizes that every decoder with attention has."""
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "vocab_size": config.vocab_size,
    } | more


def drawn(hf: Any) -> Any:
    """The model with weights wide enough that attention and its positions matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.25, generator=generator)
    return hf.eval()


def phi3(tokens: int, **more: Any) -> Any:
    settings: Any = SIZES | {"intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0} | more
    return drawn(transformers.Phi3ForCausalLM(transformers.Phi3Config(vocab_size=tokens, **settings)))


def llama(tokens: int, **more: Any) -> Any:
    settings: Any = SIZES | {"intermediate_size": 48, "max_position_embeddings": 64} | more
    return drawn(transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=tokens, **settings)))


def distance(file: Path, hf: Any) -> float:
    """How far the loaded file is from the model that was written, in logits."""
    model = load_model(file, "cpu")
    row = model.encode(PROMPT)
    assert len(row[0]) > 12
    with torch.no_grad():
        return float((model.hf(torch.tensor(row)).logits - hf(torch.tensor(row)).logits).abs().max())


# --- parts that are fused or lacking ---


def test_a_phi3_with_gate_and_up_in_one_matrix_is_the_model_that_was_written(tmp_path: Path, tiny_gpt2: Model):
    hf = phi3(len(tiny_gpt2.tokenizer))
    file = write(tmp_path / "phi3.gguf", "phi3", hf, tiny_gpt2.tokenizer, header_of(hf.config))
    assert distance(file, hf) < 1e-4
    assert distance(file, phi3(len(tiny_gpt2.tokenizer), rms_norm_eps=0.1)) > 1e-2, "negative control"


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ({"feed_forward_length": 96}, "is damaged: its header says feed_forward_length 96"),
        ({"feed_forward_length": 24}, "is damaged: its header says feed_forward_length 24"),
        ({"feed_forward_length": 0}, "is damaged: its header says feed_forward_length 0"),
        ({"embedding_length": 64}, "is damaged: its header says embedding_length 64"),
        ({"block_count": 3}, "is damaged: its header says block_count 3"),
        ({"attention.head_count": 0}, "is damaged: its header says attention.head_count 0"),
        ({"context_length": 1 << 30}, "is damaged: its header says context_length"),
    ],
)
@pytest.mark.parametrize("arch", ["phi3", "llama"])
def test_a_size_that_the_tensors_do_not_bear_out_is_still_damage(
    tmp_path: Path, tiny_gpt2: Model, own_cache: Path, arch: str, header: dict[str, int], line: str
):
    hf = {"phi3": phi3, "llama": llama}[arch](len(tiny_gpt2.tokenizer))
    file = write(tmp_path / "t.gguf", arch, hf, tiny_gpt2.tokenizer, header_of(hf.config, **header))
    with pytest.raises(UserError, match=line):
        load_model(file, "cpu")
    assert left_in(own_cache) == []


@pytest.mark.parametrize(("arch", "rows"), [("llama", 96), ("llama", 40), ("phi3", 48), ("phi3", 144)])
def test_an_mlp_of_another_width_is_damage(tmp_path: Path, tiny_gpt2: Model, arch: str, rows: int):
    """A gated MLP keeps no two matrices in one, and none keeps three."""
    hf = {"phi3": phi3, "llama": llama}[arch](len(tiny_gpt2.tokenizer))
    wrong = {"blk__0__ffn_up__weight": np.zeros((rows, 32))}
    file = write(tmp_path / "t.gguf", arch, hf, tiny_gpt2.tokenizer, header_of(hf.config), **wrong)
    with pytest.raises(UserError, match=r"is damaged|cannot be read as a decoder"):
        load_model(file, "cpu")


def test_a_mamba_whose_header_counts_no_heads_and_no_mlp_is_read(tmp_path: Path, tiny_gpt2: Model):
    """llama.cpp's converter writes a zero for both."""
    hf = tiny_hf("mamba", len(tiny_gpt2.tokenizer))
    config = hf.config
    header = {
        "block_count": config.num_hidden_layers,
        "context_length": 1 << 20,
        "embedding_length": config.hidden_size,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "ssm.conv_kernel": config.conv_kernel,
        "ssm.inner_size": config.intermediate_size,
        "ssm.state_size": config.state_size,
        "ssm.time_step_rank": config.time_step_rank,
        "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
        "vocab_size": config.vocab_size,
    }
    file = write(tmp_path / "mamba.gguf", "mamba", hf, tiny_gpt2.tokenizer, header)
    assert distance(file, hf) < 1e-3
    assert distance(file, tiny_hf("mamba", len(tiny_gpt2.tokenizer), 1)) > 1e-2, "negative control"


# --- what transformers' reader would drop ---


def test_a_long_phi3_keeps_its_two_rotary_tables(tmp_path: Path, tiny_gpt2: Model):
    factors = {"long_factor": [4.0, 5.0, 6.0, 8.0], "short_factor": [1.0, 1.1, 1.2, 1.3]}
    hf = phi3(
        len(tiny_gpt2.tokenizer),
        original_max_position_embeddings=8,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 8, **factors},
    )
    header = header_of(hf.config, **{"rope.scaling.original_context_length": 8})
    tensors = {f"rope_factors_{kind}__weight": np.array(factors[f"{kind}_factor"]) for kind in ("long", "short")}
    file = write(tmp_path / "long.gguf", "phi3", hf, tiny_gpt2.tokenizer, header, **tensors)
    assert distance(file, hf) < 1e-4
    assert load_model(file, "cpu").hf.config.original_max_position_embeddings == 8
    assert distance(file, phi3(len(tiny_gpt2.tokenizer))) > 1e-2, "negative control: what was read before"


def test_a_partly_rotary_phi3_with_a_window_keeps_both(tmp_path: Path, tiny_gpt2: Model):
    part = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    hf = phi3(len(tiny_gpt2.tokenizer), rope_parameters=part, sliding_window=4)
    header = header_of(hf.config, **{"rope.dimension_count": 4, "attention.sliding_window": 4})
    file = write(tmp_path / "part.gguf", "phi3", hf, tiny_gpt2.tokenizer, header)
    assert distance(file, hf) < 1e-4
    for wrong in (
        phi3(len(tiny_gpt2.tokenizer), sliding_window=4),
        phi3(len(tiny_gpt2.tokenizer), rope_parameters=part),
    ):
        assert distance(file, wrong) > 1e-2, "negative control"


def test_a_llama_31_keeps_its_rotary_scaling(tmp_path: Path, tiny_gpt2: Model):
    scaled = {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    hf = llama(len(tiny_gpt2.tokenizer), rope_parameters=scaled)
    plain = llama(len(tiny_gpt2.tokenizer))
    factors = (plain.model.rotary_emb.inv_freq / hf.model.rotary_emb.inv_freq).numpy()
    assert factors.max() > 2
    file = write(
        tmp_path / "l.gguf", "llama", hf, tiny_gpt2.tokenizer, header_of(hf.config), rope_freqs__weight=factors
    )
    assert distance(file, hf) < 1e-4
    assert distance(file, plain) > 1e-2, "negative control: what was read before"
    ones = write(
        tmp_path / "o.gguf", "llama", hf, tiny_gpt2.tokenizer, header_of(hf.config), rope_freqs__weight=np.ones(4)
    )
    assert distance(ones, plain) < 1e-4


def test_linear_scaling_is_kept_and_another_kind_refused(tmp_path: Path, tiny_gpt2: Model, own_cache: Path):
    hf = llama(len(tiny_gpt2.tokenizer), rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    kinds = {"linear": 4.0, "yarn": 4.0, "none": 1.0}
    files = {}
    for kind, factor in kinds.items():
        header = header_of(hf.config, **{"rope.scaling.type": kind, "rope.scaling.factor": factor})
        files[kind] = write(tmp_path / f"{kind}.gguf", "llama", hf, tiny_gpt2.tokenizer, header)
    assert distance(files["linear"], hf) < 1e-4
    assert distance(files["none"], hf) > 1e-2, "negative control"
    assert distance(files["none"], llama(len(tiny_gpt2.tokenizer))) < 1e-4
    with pytest.raises(UserError, match=r"scales its rotary angles \(yarn, factor 4\.0\), which transformers drops"):
        load_model(files["yarn"], "cpu")


def test_a_gemma_3_scales_the_angles_of_its_global_layers_alone(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "gemma.gguf", "gemma3")
    writer.add_string("gemma3.rope.scaling.type", "linear")
    writer.add_float32("gemma3.rope.scaling.factor", 8.0)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config: Any = transformers.Gemma3TextConfig()
    before = dict(config.rope_parameters)
    local = dict(before["sliding_attention"])
    complete_config(config, Header(gguf.GGUFReader(tmp_path / "gemma.gguf")), tmp_path / "gemma.gguf")
    scaled: Any = config.rope_parameters
    assert (scaled["full_attention"]["rope_type"], scaled["full_attention"]["factor"]) == ("linear", 8.0)
    assert scaled["sliding_attention"] == local


def test_a_tensor_that_transformers_would_leave_in_the_file_is_refused(tmp_path: Path, tiny_gpt2: Model):
    """The biases of a Llama: its model is built without them."""
    hf = llama(len(tiny_gpt2.tokenizer), attention_bias=True)
    file = write(tmp_path / "bias.gguf", "llama", hf, tiny_gpt2.tokenizer, header_of(hf.config))
    with pytest.raises(UserError, match=r"holds 8 tensors that transformers' LlamaForCausalLM does not read \(blk\.0"):
        load_model(file, "cpu")
