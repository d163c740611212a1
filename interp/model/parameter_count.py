"""Where a model's parameters are: by part, each matrix counted once, and what the sizes in its config add up to."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

PARTS = ("embedding", "positions", "attention", "MLP", "norms", "attention biases", "MLP biases", "norm biases",
         "unembedding", "other")  # fmt: skip
BIASES = ("attention biases", "MLP biases", "norm biases")


def count_parameters(hf: PreTrainedModel) -> dict[str, int]:
    """Numbers of parameters by part, in the order of `PARTS`; parts without any are left out.

    A matrix that is used twice (tied embeddings) is counted where it is met first.
    """
    found: dict[str, int] = dict.fromkeys(PARTS, 0)
    seen: set[int] = set()
    inner, outer = hf.get_input_embeddings(), hf.get_output_embeddings()
    for name, parameter in hf.named_parameters():
        if parameter.data_ptr() not in seen:
            seen.add(parameter.data_ptr())
            found[_part(name, parameter, inner, outer)] += parameter.numel()
    return {part: n for part, n in found.items() if n}


def part_by_name(hf: PreTrainedModel) -> dict[str, str]:
    """The part that each parameter belongs to, one of `PARTS`."""
    inner, outer = hf.get_input_embeddings(), hf.get_output_embeddings()
    return {name: _part(name, parameter, inner, outer) for name, parameter in hf.named_parameters()}


def biases_of(hf: PreTrainedModel) -> dict[str, list[torch.nn.Parameter]]:
    """The biases themselves, by part."""
    found: dict[str, list[torch.nn.Parameter]] = {part: [] for part in BIASES}
    inner, outer = hf.get_input_embeddings(), hf.get_output_embeddings()
    for name, parameter in hf.named_parameters():
        part = _part(name, parameter, inner, outer)
        if part in found:
            found[part].append(parameter)
    return {part: some for part, some in found.items() if some}


def _part(name: str, parameter: torch.nn.Parameter, inner: Any, outer: Any) -> str:
    if inner is not None and any(parameter is p for p in inner.parameters()):
        return "embedding"
    if outer is not None and any(parameter is p for p in outer.parameters()):
        return "unembedding"
    path = name.lower()
    bias = path.endswith("bias")
    if "wpe" in path or "embed_positions" in path or "position_embedding" in path:
        return "positions"
    if "norm" in path or ".ln_" in path or path.startswith("ln_") or ".ln" in path:
        return "norm biases" if bias else "norms"
    if "attn" in path or "attention" in path:
        return "attention biases" if bias else "attention"
    if "mlp" in path or "fc" in path or "ffn" in path or "feed_forward" in path:
        return "MLP biases" if bias else "MLP"
    return "other"


def count_by_formula(config: Any) -> dict[str, int] | None:
    """The same from the sizes in a config, for GPT-2 and for models of Llama's type; None for others."""
    kind = getattr(config, "model_type", "")
    if kind == "gpt2":
        d, layers = config.n_embd, config.n_layer
        inner = config.n_inner or 4 * d
        out = {
            "embedding": config.vocab_size * d,
            "positions": config.n_positions * d,
            "attention": layers * 4 * d * d,
            "MLP": layers * 2 * d * inner,
            "norms": (2 * layers + 1) * d,
            "attention biases": layers * 4 * d,
            "MLP biases": layers * (inner + d),
            "norm biases": (2 * layers + 1) * d,
        }
    elif kind == "llama" and not getattr(config, "attention_bias", False) and not getattr(config, "mlp_bias", False):
        d, layers = config.hidden_size, config.num_hidden_layers
        head = getattr(config, "head_dim", None) or d // config.num_attention_heads
        out = {
            "embedding": config.vocab_size * d,
            "attention": layers * 2 * d * head * (config.num_attention_heads + config.num_key_value_heads),
            "MLP": layers * 3 * d * config.intermediate_size,
            "norms": (2 * layers + 1) * d,
        }
    else:
        return None
    if not config.tie_word_embeddings:
        out["unembedding"] = config.vocab_size * d
    return out
