"""Tiny random models of many architectures: two layers, width 32, weights wide enough that attention matters.

`PLACES` says by hand where transformers keeps each part, so that a test needs nothing of ours to find it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
import transformers as hf
from transformers import PreTrainedModel


class Places(NamedTuple):
    """Module paths in the plain model: the list of blocks, then inside a block, then the final norm."""

    blocks: str
    attn_out: str
    mlp_out: str
    final_norm: str


_LLAMA = Places("model.layers", "self_attn", "mlp", "model.norm")
_GPT2 = Places("transformer.h", "attn", "mlp", "transformer.ln_f")
_POST_NORM = _LLAMA._replace(attn_out="post_attention_layernorm", mlp_out="post_feedforward_layernorm")

PLACES = {
    "gpt2": _GPT2,
    "gpt_neo": _GPT2,
    "gptj": _GPT2,
    "codegen": _GPT2,
    "gpt_bigcode": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma": _LLAMA,
    "stablelm": _LLAMA,
    "gemma2": _POST_NORM,
    "gemma3": _POST_NORM,
    "olmo2": _POST_NORM,
    "phi": _LLAMA._replace(final_norm="model.final_layernorm"),
    "gpt_neox": Places("gpt_neox.layers", "attention", "mlp", "gpt_neox.final_layer_norm"),
    "falcon": _GPT2._replace(attn_out="self_attention"),
    # these three add the residual stream inside the module, so the part itself is its last matrix
    "bloom": _GPT2._replace(attn_out="self_attention.dense", mlp_out="mlp.dense_4h_to_h"),
    "mpt": Places("transformer.blocks", "attn", "ffn.down_proj", "transformer.norm_f"),
    "opt": Places("model.decoder.layers", "self_attn", "fc2", "model.decoder.final_layer_norm"),
    "xglm": Places("model.layers", "self_attn", "fc2", "model.layer_norm"),
}


Builder = Callable[[dict[str, int]], Any]


def _sized(config: type[Any], **sizes: Any) -> Builder:
    return lambda tokens: config(**(tokens | sizes))


def _wide(config: type[Any], **more: Any) -> Builder:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    return _sized(config, **(size | more))


def _llama(config: type[Any], **more: Any) -> Builder:
    return _wide(config, **({"intermediate_size": 48, "num_key_value_heads": 2} | more))


def _gpt(config: type[Any], **more: Any) -> Builder:
    return _sized(config, n_embd=32, n_layer=2, n_head=4, n_positions=64, **more)


_NEO = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4}
_XGLM = {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 64}

CONFIGS: dict[str, tuple[type[PreTrainedModel], Builder]] = {
    "gpt2": (hf.GPT2LMHeadModel, _gpt(hf.GPT2Config)),
    "gpt_neo": (hf.GPTNeoForCausalLM, _sized(hf.GPTNeoConfig, hidden_size=32, max_position_embeddings=64, **_NEO)),
    "gptj": (hf.GPTJForCausalLM, _gpt(hf.GPTJConfig, rotary_dim=4)),
    "codegen": (hf.CodeGenForCausalLM, _gpt(hf.CodeGenConfig, rotary_dim=4)),
    "gpt_bigcode": (hf.GPTBigCodeForCausalLM, _gpt(hf.GPTBigCodeConfig)),
    "llama": (hf.LlamaForCausalLM, _llama(hf.LlamaConfig)),
    "mistral": (hf.MistralForCausalLM, _llama(hf.MistralConfig, sliding_window=4)),
    "mixtral": (hf.MixtralForCausalLM, _llama(hf.MixtralConfig, num_local_experts=2)),
    "qwen2": (hf.Qwen2ForCausalLM, _llama(hf.Qwen2Config)),
    "qwen3": (hf.Qwen3ForCausalLM, _llama(hf.Qwen3Config, head_dim=8)),
    "phi3": (hf.Phi3ForCausalLM, _llama(hf.Phi3Config)),
    "gemma": (hf.GemmaForCausalLM, _llama(hf.GemmaConfig, head_dim=8)),
    "gemma2": (hf.Gemma2ForCausalLM, _llama(hf.Gemma2Config, head_dim=8, sliding_window=4)),
    "gemma3": (hf.Gemma3ForCausalLM, _llama(hf.Gemma3TextConfig, head_dim=8, sliding_window=4)),
    "olmo2": (hf.Olmo2ForCausalLM, _llama(hf.Olmo2Config)),
    "granite": (hf.GraniteForCausalLM, _llama(hf.GraniteConfig, logits_scaling=4.0)),
    "stablelm": (hf.StableLmForCausalLM, _llama(hf.StableLmConfig)),
    "phi": (hf.PhiForCausalLM, _wide(hf.PhiConfig, intermediate_size=64)),
    "gpt_neox": (hf.GPTNeoXForCausalLM, _wide(hf.GPTNeoXConfig, intermediate_size=64)),
    "falcon": (hf.FalconForCausalLM, _wide(hf.FalconConfig)),
    "bloom": (hf.BloomForCausalLM, _sized(hf.BloomConfig, hidden_size=32, n_layer=2, n_head=4)),
    "mpt": (hf.MptForCausalLM, _sized(hf.MptConfig, d_model=32, n_layers=2, n_heads=4)),
    "opt": (hf.OPTForCausalLM, _wide(hf.OPTConfig, ffn_dim=64, word_embed_proj_dim=32)),
    "xglm": (hf.XGLMForCausalLM, _sized(hf.XGLMConfig, **_XGLM)),
    "mamba": (hf.MambaForCausalLM, _sized(hf.MambaConfig, hidden_size=32, num_hidden_layers=2)),
    # what cannot work, or not wholly, each for another reason
    "falcon_alibi": (hf.FalconForCausalLM, _wide(hf.FalconConfig, alibi=True)),
    "bert": (hf.BertLMHeadModel, _wide(hf.BertConfig, intermediate_size=48)),
    "t5": (hf.T5ForConditionalGeneration, _sized(hf.T5Config, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)),
    "ctrl": (hf.CTRLLMHeadModel, _sized(hf.CTRLConfig, n_embd=32, n_layer=2, n_head=4, dff=48)),
    "rwkv": (hf.RwkvForCausalLM, _sized(hf.RwkvConfig, hidden_size=32, num_hidden_layers=2)),
}


def tiny_hf(architecture: str, vocab_size: int, seed: int = 0) -> Any:
    """A seeded model of an architecture, in eval mode."""
    build, config = CONFIGS[architecture]
    tokens = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = build(config(tokens))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, 0.25)
                else:
                    weight.add_(torch.randn_like(weight), alpha=0.1)
    model.tie_weights()
    return model.eval()


def write_gguf(
    file: Path,
    model: Any,
    tokenizer: Any,
    *,
    pre: str = "gpt-2",
    quantized: str = "F32",
    without: str = "",
) -> Path:
    """Write a tiny Llama as llama.cpp's converter would; `without` leaves one tensor out."""
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(backend["vocab"], key=backend["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([3 if word == "<|endoftext|>" else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    for name, weight in model.state_dict().items():
        ours = _gguf_name(name)
        if ours == without:
            continue
        data = weight.float().numpy()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp rotates neighbours, transformers halves
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            data = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        kind = gguf.GGMLQuantizationType[quantized if data.ndim == 2 and data.shape[1] % 32 == 0 else "F32"]
        data = np.ascontiguousarray(data)
        writer.add_tensor(ours, gguf.quants.quantize(data, kind) if quantized != "F32" else data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _gguf_name(name: str) -> str:
    parts = {
        "model.embed_tokens.": "token_embd.",
        "model.norm.": "output_norm.",
        "lm_head.": "output.",
        "model.layers.": "blk.",
        "self_attn.o_proj": "attn_output",
        "self_attn.": "attn_",
        "mlp.": "ffn_",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "_proj": "",
    }
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name


def left_in(folder: Path) -> list[str]:
    """Every file under a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
