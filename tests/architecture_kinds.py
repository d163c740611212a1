"""What a row of `tests/architectures.py` says, and how a model is built from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf

LLAMA, GPT2 = "model.layers", "transformer.h"
NORMED = "post_feedforward_layernorm"  # what a block adds is normed first, and the norm's output is what it adds
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SIMPLE = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}  # who does not know the name
MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"


@dataclass(frozen=True)
class Architecture:
    """`settings` go to the config class of `build`, over `base` (the sizes as most configs name them).

    `mlp`: the module, inside a block, whose output is added to the residual stream; "" where a block has none.
    `heads`: the layers that have attention patterns, None for all.
    `eager_is_wrong`: transformers' eager code computes it wrongly, and its default code is the reference.
    """

    feature: str
    build: type[Any]
    settings: dict[str, Any] = field(default_factory=dict)
    blocks: str = LLAMA
    mlp: str = "mlp"
    heads: tuple[int, ...] | None = None
    base: dict[str, Any] = field(default_factory=lambda: SIZES)
    wrapped: bool = False  # does a config of text and images wrap the one of the text?
    eager_is_wrong: bool = False


def gpt_like(feature: str, build: type[Any], mlp: str = "mlp", **more: Any) -> Architecture:
    """A relative of GPT-2."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return Architecture(feature, build, more, GPT2, mlp, base=sizes)


def decoder(feature: str, build: type[Any], blocks: str = LLAMA, mlp: str = "mlp", **more: Any) -> Architecture:
    """A decoder whose config has the usual names."""
    return Architecture(feature, build, more, blocks, mlp)


def neox(feature: str, **more: Any) -> Architecture:
    """GPT-NeoX."""
    return Architecture(feature, hf.GPTNeoXForCausalLM, more, "gpt_neox.layers", base=SIMPLE)


def opt(feature: str, **more: Any) -> Architecture:
    """OPT."""
    return Architecture(feature, hf.OPTForCausalLM, more | {"ffn_dim": 64}, "model.decoder.layers", "fc2", base=SIMPLE)


def falcon(feature: str, *, alibi: bool = False, **more: Any) -> Architecture:
    """Falcon. Its eager code adds ALiBi twice (transformers 5.23): once in the mask, once to the scores."""
    more |= {"alibi": alibi}
    return Architecture(feature, hf.FalconForCausalLM, more, GPT2, base=SIMPLE, eager_is_wrong=alibi)


def state_space(feature: str, build: type[Any], base: dict[str, Any], **more: Any) -> Architecture:
    """A relative of Mamba."""
    return Architecture(feature, build, more, "backbone.layers", "", (), base)


def _multimodal(config: Any) -> Any:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    return {"text_config": config, "vision_config": vision, "mm_tokens_per_image": 4}


def build(made: Architecture, vocab_size: int, *, eager: bool, seed: int = 0) -> Any:
    """A seeded model in eval mode; with `eager` its attention and its experts run their plainest code.

    Weights are wide: attention matters, and two logits are rarely near.
    """
    tokens = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    config_class: Any = made.build.config_class
    settings = made.base | tokens | made.settings
    if made.wrapped:
        text: Any = hf.Gemma3TextConfig
        settings = _multimodal(text(**settings)) | {"eos_token_id": 0}
    config = config_class(**settings)
    if eager and not made.eager_is_wrong:
        config._attn_implementation = config._experts_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = made.build(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, 0.25)
                else:
                    weight.add_(torch.randn_like(weight), alpha=0.1)
    model.tie_weights()
    return model.eval()
