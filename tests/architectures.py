"""Tiny random decoders of every kind that transformers builds without a network, one line of feature each.

Width 32, two layers or as many as the feature needs, windows of four tokens so that a short prompt leaves them.
`blocks` and `mlp` say by hand where transformers keeps the blocks and what a block's MLP adds to the residual stream:
a check needs nothing of `interp` to find them. `REFUSED` says what interp may decline, and why that is right.
"""

from __future__ import annotations

from typing import Any

import transformers as hf
from architecture_kinds import (
    FULL,
    GPT2,
    LINEAR,
    LLAMA,
    LOCAL,
    MOE,
    NORMED,
    Architecture,
    decoder,
    falcon,
    gpt_like,
    neox,
    opt,
    state_space,
)

Settings = dict[str, Any]


def _rope(kind: str, **more: Any) -> Settings:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


_LLAMA3: Settings = _rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
_SWITCH: Settings = {"original_max_position_embeddings": 8}
_LONG: Settings = _rope("longrope", short_factor=[1.0] * 4, long_factor=[4.0, 5.0, 6.0, 8.0], **_SWITCH)
_YARN: Settings = _rope(
    "yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=16
)
_GRANITE: Settings = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.0,
}
_MLA: Settings = {"kv_lora_rank": 16, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
_DEEP: Settings = _MLA | {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
}
_DEEP |= {"moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
_GLM_MOE: Settings = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
_G3: Settings = {
    "head_dim": 8,
    "sliding_window": 4,
    "query_pre_attn_scalar": 8,
    "layer_types": [LOCAL, LOCAL, FULL, LOCAL],
}
_G3 |= {"num_hidden_layers": 4}
_MIXED: Settings = {"sliding_window": 4, "layer_types": [LOCAL, FULL]}
_ERNIE: Settings = {"moe_intermediate_size": 16, "moe_k": 2, "moe_num_experts": 4, "moe_num_shared_experts": 1}
_NEXT: Settings = MOE | {
    "head_dim": 8,
    "shared_expert_intermediate_size": 16,
    "linear_key_head_dim": 8,
    "linear_num_key_heads": 2,
}
_NEXT |= {"linear_value_head_dim": 8, "linear_num_value_heads": 4, "layer_types": [LINEAR, FULL]}
_LITE: Settings = {name: value for name, value in _DEEP.items() if name != "first_k_dense_replace"}
_LITE |= {"mlp_layer_types": ["dense", "sparse"]}
# with few index heads the scores of many keys are exactly 0, and which of these ties are kept depends on the length
_DSA: Settings = _LITE | {"index_topk": 8, "index_head_dim": 8, "index_n_heads": 32}
_Q35: Settings = {"head_dim": 8, "linear_key_head_dim": 8, "linear_num_key_heads": 2, "linear_value_head_dim": 8}
_Q35 |= {"linear_num_value_heads": 4, "layer_types": [LINEAR, FULL]}
_H1: Settings = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4}
_MAMBA: Settings = {"state_size": 8, "num_hidden_layers": 2, "hidden_size": 32}
_MAMBA2: Settings = _MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4}
_JAMBA: Settings = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "mamba_d_state": 8,
}
_JAMBA |= {"mamba_dt_rank": 4, "use_mamba_kernels": False}
_BAMBA: Settings = {
    "attn_layer_indices": [1],
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 4,
}
_RWKV: Settings = {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}
_NEO: Settings = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4}
_XGLM: Settings = {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 64}
_MPT: Settings = {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}
_BLOOM: Settings = {"hidden_size": 32, "n_layer": 2, "n_head": 4}


ARCHITECTURES: dict[str, Architecture] = {
    # GPT-2 and what came of it: learned positions, or rotary ones of neighbouring columns
    "gpt2": gpt_like("learned positions, tied, one matrix for q, k and v", hf.GPT2LMHeadModel),
    "gpt2_inverse_layer": gpt_like(
        "scores divided by the layer's number", hf.GPT2LMHeadModel, scale_attn_by_inverse_layer_idx=True
    ),
    "gpt2_unscaled": gpt_like("scores not divided at all", hf.GPT2LMHeadModel, scale_attn_weights=False),
    "gpt2_untied": gpt_like("an unembedding of its own", hf.GPT2LMHeadModel, tie_word_embeddings=False),
    "gpt1": gpt_like("norms after each part, no final norm", hf.OpenAIGPTLMHeadModel),
    "gptj": gpt_like("attention and MLP in parallel, rotary on some columns", hf.GPTJForCausalLM, rotary_dim=4),
    "codegen": gpt_like("q, v and k in four groups of one matrix", hf.CodeGenForCausalLM, rotary_dim=4),
    "bigcode": gpt_like("one key-value head for all queries", hf.GPTBigCodeForCausalLM),
    "bigcode_heads": gpt_like("as many key-value heads as queries", hf.GPTBigCodeForCausalLM, multi_query=False),
    "gpt_neo": Architecture(
        "unscaled scores, a local layer",
        hf.GPTNeoForCausalLM,
        {"hidden_size": 32, "max_position_embeddings": 64},
        GPT2,
        base=_NEO,
    ),
    "neox": neox("parallel residual, q, k and v interleaved by head"),
    "neox_sequential": neox("the MLP reads what attention wrote", use_parallel_residual=False),
    "neox_no_bias": neox("no bias in attention", attention_bias=False),
    "pythia": neox("rotary on a quarter, untied", rotary_pct=0.25, tie_word_embeddings=False),
    # OPT, BLOOM, Falcon, MPT: offsets of positions, ALiBi, shared heads
    "opt": opt("positions from 2 on, ReLU", word_embed_proj_dim=32),
    "opt_350m": opt(
        "norm after each part, embedding of another width", do_layer_norm_before=False, word_embed_proj_dim=16
    ),
    "bloom": Architecture(
        "ALiBi; the MLP adds the residual stream itself",
        hf.BloomForCausalLM,
        _BLOOM,
        GPT2,
        "mlp.dense_4h_to_h",
        base={},
    ),
    "bloom_post_norm": Architecture(
        "the residual stream starts behind the norm",
        hf.BloomForCausalLM,
        {"apply_residual_connection_post_layernorm": True},
        GPT2,
        "mlp.dense_4h_to_h",
        base=_BLOOM,
    ),
    "falcon": falcon("one key-value head, parallel"),
    "falcon_rw": falcon("ALiBi, sequential, biases", alibi=True, multi_query=False, parallel_attn=False, bias=True),
    "falcon_alibi": falcon("ALiBi with one key-value head", alibi=True),
    "falcon_new": falcon("groups of key-value heads, two norms", new_decoder_architecture=True, num_kv_heads=2),
    "mpt": Architecture(
        "ALiBi without biases", hf.MptForCausalLM, _MPT, "transformer.blocks", "ffn.down_proj", base={}
    ),
    "mpt_clip": Architecture(
        "q, k and v clipped",
        hf.MptForCausalLM,
        {"attn_config": {"clip_qkv": 0.3}},
        "transformer.blocks",
        "ffn.down_proj",
        base=_MPT,
    ),
    "xglm": Architecture("sine positions from 2 on", hf.XGLMForCausalLM, {}, LLAMA, "fc2", base=_XGLM),
    # Llama and near relatives
    "llama": decoder("grouped-query attention", hf.LlamaForCausalLM),
    "llama_mha": decoder("as many key-value heads as queries", hf.LlamaForCausalLM, num_key_value_heads=4),
    "llama_mqa_wide": decoder("one wide key-value head", hf.LlamaForCausalLM, num_key_value_heads=1, head_dim=16),
    "llama_biases": decoder(
        "biases, tied", hf.LlamaForCausalLM, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama3_rope": decoder("Llama 3's rotary frequencies", hf.LlamaForCausalLM, **_LLAMA3),
    "llama_dynamic": decoder("dynamic NTK", hf.LlamaForCausalLM, **_rope("dynamic", factor=2.0)),
    "llama_linear": decoder("rotary positions divided", hf.LlamaForCausalLM, **_rope("linear", factor=4.0)),
    "llama_yarn": decoder("YaRN scales the rotary table", hf.LlamaForCausalLM, **_YARN),
    "mistral": decoder("a window in every layer", hf.MistralForCausalLM, sliding_window=4),
    "mistral_no_window": decoder("no window", hf.MistralForCausalLM, sliding_window=None),
    "mixtral": decoder("a mixture of experts in every layer", hf.MixtralForCausalLM, num_local_experts=4),
    "qwen2": decoder("biases of q, k and v", hf.Qwen2ForCausalLM),
    "qwen2_window": decoder(
        "a window from layer 1 on", hf.Qwen2ForCausalLM, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen2_moe": decoder(
        "dense and MoE layers, a shared expert",
        hf.Qwen2MoeForCausalLM,
        num_hidden_layers=3,
        mlp_only_layers=[0],
        shared_expert_intermediate_size=16,
        **MOE,
    ),
    "qwen3": decoder("norms of q and k", hf.Qwen3ForCausalLM, head_dim=8),
    "qwen3_moe": decoder(
        "a dense layer after MoE ones",
        hf.Qwen3MoeForCausalLM,
        num_hidden_layers=3,
        head_dim=8,
        mlp_only_layers=[1],
        **MOE,
    ),
    "qwen3_next": Architecture("a linear layer, a gate behind attention", hf.Qwen3NextForCausalLM, _NEXT, heads=(1,)),
    "phi": decoder("one norm for both parts, a bias of the unembedding", hf.PhiForCausalLM),
    "phi_qk_norm": decoder("norms of q and k", hf.PhiForCausalLM, qk_layernorm=True, num_key_value_heads=4),
    "phi3": decoder("one matrix for q, k and v, one for gate and in", hf.Phi3ForCausalLM, pad_token_id=1),
    "phi3_longrope": decoder(
        "another rotary table from 9 tokens on", hf.Phi3ForCausalLM, pad_token_id=1, **_SWITCH, **_LONG
    ),
    "phimoe": decoder("experts chosen with jitter, biases", hf.PhimoeForCausalLM, num_local_experts=4),
    "stablelm": decoder("LayerNorm, rotary on a quarter", hf.StableLmForCausalLM),
    "stablelm_parallel": decoder(
        "parallel residual, norms of q and k", hf.StableLmForCausalLM, use_parallel_residual=True, qk_layernorm=True
    ),
    "starcoder2": decoder("biases, LayerNorm", hf.Starcoder2ForCausalLM),
    "nemotron": decoder("squared ReLU, norm weights plus one", hf.NemotronForCausalLM, head_dim=8),
    "smollm3": decoder("a layer without positions", hf.SmolLM3ForCausalLM, pad_token_id=1, no_rope_layers=[1, 0]),
    "arcee": decoder("squared ReLU", hf.ArceeForCausalLM, head_dim=8),
    "apertus": decoder("xIELU, norms of q and k", hf.ApertusForCausalLM, **_LLAMA3),
    "seed_oss": decoder("biases of q, k and v, head width of its own", hf.SeedOssForCausalLM, head_dim=8),
    "helium": decoder("neighbouring columns rotated", hf.HeliumForCausalLM, head_dim=8),
    "bitnet": decoder("norms inside attention and MLP", hf.BitNetForCausalLM),
    "ernie4_5": decoder("neighbouring columns rotated", hf.Ernie4_5ForCausalLM, head_dim=8),
    "ernie4_5_moe": decoder(
        "dense first, then MoE with shared experts", hf.Ernie4_5_MoeForCausalLM, num_hidden_layers=3, **_ERNIE
    ),
    "nanochat": decoder("norms without weights, capped logits", hf.NanoChatForCausalLM, num_key_value_heads=4),
    "hunyuan": decoder("norms of q and k behind the rotation", hf.HunYuanDenseV1ForCausalLM, head_dim=8),
    # Gemma
    "gemma": decoder("embedding scaled, norm weights plus one", hf.GemmaForCausalLM, head_dim=8),
    "gemma2": decoder(
        "caps, norms behind each part, both layer types", hf.Gemma2ForCausalLM, mlp=NORMED, head_dim=8, **_MIXED
    ),
    "gemma3": decoder("two rotary tables, both layer types", hf.Gemma3ForCausalLM, mlp=NORMED, **_G3),
    "gemma3_multimodal": Architecture(
        "a wrapper of text and images, given text",
        hf.Gemma3ForConditionalGeneration,
        _G3,
        "model.language_model.layers",
        NORMED,
        wrapped=True,
    ),
    "vaultgemma": decoder(
        "caps, no norms behind", hf.VaultGemmaForCausalLM, head_dim=8, query_pre_attn_scalar=8, **_MIXED
    ),
    "recurrent_gemma": Architecture(
        "recurrent layers, then attention",
        hf.RecurrentGemmaForCausalLM,
        {"num_hidden_layers": 3, "head_dim": 8, "lru_width": 32, "attention_window_size": 4, "intermediate_size": 96},
        mlp="mlp_block",
        heads=(2,),
    ),
    # OLMo, Granite, Cohere, GLM, EXAONE, gpt-oss: what is scaled, clipped, normed behind or sunk
    "olmo": decoder("LayerNorm without weights", hf.OlmoForCausalLM),
    "olmo_clip": decoder("q, k and v clipped", hf.OlmoForCausalLM, clip_qkv=0.3),
    "olmo2": decoder("norms behind each part only", hf.Olmo2ForCausalLM, mlp=NORMED),
    "olmo3": decoder("the same with windows", hf.Olmo3ForCausalLM, mlp=NORMED, **_MIXED),
    "olmoe": decoder("MoE, norms of q and k over all heads", hf.OlmoeForCausalLM, num_experts=4, num_experts_per_tok=2),
    "granite": decoder("all four multipliers", hf.GraniteForCausalLM, **_GRANITE),
    "granite_moe": decoder(
        "multipliers and MoE",
        hf.GraniteMoeForCausalLM,
        mlp="block_sparse_moe",
        num_local_experts=4,
        num_experts_per_tok=2,
        **_GRANITE,
    ),
    "cohere": decoder("logits scaled, parallel, neighbouring columns rotated", hf.CohereForCausalLM, logit_scale=0.5),
    "cohere2": decoder("no positions in full layers", hf.Cohere2ForCausalLM, head_dim=8, logit_scale=0.5, **_MIXED),
    "glm": decoder("rotary on half, neighbouring columns", hf.GlmForCausalLM, head_dim=8),
    "glm4": decoder("norms before and behind", hf.Glm4ForCausalLM, mlp="post_mlp_layernorm", head_dim=8),
    "glm4_moe": decoder("dense first, then MoE", hf.Glm4MoeForCausalLM, num_hidden_layers=3, head_dim=8, **_GLM_MOE),
    "exaone4": decoder(
        "norms behind, no positions in full layers", hf.Exaone4ForCausalLM, mlp=NORMED, head_dim=8, **_MIXED
    ),
    "gpt_oss": decoder(
        "sinks, YaRN, both layer types",
        hf.GptOssForCausalLM,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        **_MIXED,
        **_YARN,
    ),
    "deepseek_v2": decoder("latent attention; dense first, then MoE", hf.DeepseekV2ForCausalLM, **_DEEP),
    "deepseek_v3": decoder("the same with a gate per expert", hf.DeepseekV3ForCausalLM, **_DEEP),
    "jetmoe": decoder(
        "experts inside attention too", hf.JetMoeForCausalLM, kv_channels=8, num_local_experts=4, num_experts_per_tok=2
    ),
    "modernbert_decoder": decoder(
        "LayerNorm, both layer types, none before the first attention",
        hf.ModernBertDecoderForCausalLM,
        local_attention=8,
        layer_types=[LOCAL, FULL],
    ),
    # state spaces, convolutions, and those mixed with attention
    "mamba": state_space("a state space, no attention", hf.MambaForCausalLM, _MAMBA),
    "falcon_mamba": state_space("norms of B, C and dt", hf.FalconMambaForCausalLM, _MAMBA),
    "mamba2": state_space("several heads of state", hf.Mamba2ForCausalLM, _MAMBA2),
    "lfm2": Architecture(
        "a short convolution, then attention",
        hf.Lfm2ForCausalLM,
        {"layer_types": ["conv", FULL], "block_multiple_of": 8},
        mlp="feed_forward",
        heads=(1,),
    ),
    "jamba": Architecture(
        "Mamba, then attention with MoE", hf.JambaForCausalLM, _JAMBA, mlp="feed_forward", heads=(1,)
    ),
    "bamba": Architecture("Mamba 2, then attention", hf.BambaForCausalLM, _BAMBA, mlp="feed_forward", heads=(1,)),
    "minimax": Architecture(
        "lightning attention, then softmax; residual factors",
        hf.MiniMaxForCausalLM,
        {"layer_types": [LINEAR, FULL], "num_local_experts": 4, "head_dim": 8, "block_size": 4},
        heads=(1,),
    ),
    # newer ones
    "glm4_moe_lite": decoder("latent attention; dense, then MoE", hf.Glm4MoeLiteForCausalLM, **_LITE),
    "glm_moe_dsa": decoder("attention to the eight best keys only", hf.GlmMoeDsaForCausalLM, **_DSA),
    "youtu": decoder("latent attention, no experts", hf.YoutuForCausalLM, num_key_value_heads=4, **_MLA),
    "jais2": decoder("squared ReLU, LayerNorm, biases", hf.Jais2ForCausalLM, head_dim=8),
    "flex_olmo": decoder("norms behind, MoE", hf.FlexOlmoForCausalLM, mlp=NORMED, num_experts=4, num_experts_per_tok=2),
    "lfm2_moe": Architecture(
        "convolution and dense, then attention and MoE",
        hf.Lfm2MoeForCausalLM,
        MOE | {"layer_types": ["conv", FULL], "num_dense_layers": 1},
        mlp="feed_forward",
        heads=(1,),
    ),
    "llama4_text": decoder(
        "chunks of attention, a layer without positions",
        hf.Llama4ForCausalLM,
        mlp="feed_forward",
        head_dim=8,
        num_local_experts=4,
        intermediate_size_mlp=48,
        attention_chunk_size=4,
        no_rope_layers=[1, 0],
        interleave_moe_layer_step=2,
    ),
    "minimax_m2": decoder(
        "norms of q and k, MoE", hf.MiniMaxM2ForCausalLM, head_dim=8, num_local_experts=4, num_experts_per_tok=2
    ),
    "ministral3": decoder("YaRN, queries scaled by position", hf.Ministral3ForCausalLM, head_dim=8),
    "afmoe": decoder(
        "gated attention, norms behind, dense then MoE",
        hf.AfmoeForCausalLM,
        mlp="post_mlp_layernorm",
        head_dim=8,
        num_dense_layers=1,
        num_shared_experts=1,
        **MOE,
        **_MIXED,
    ),
    "falcon_h1": Architecture("Mamba 2 and attention side by side", hf.FalconH1ForCausalLM, _H1, mlp="feed_forward"),
    "olmo_hybrid": Architecture(
        "a linear layer, then attention", hf.OlmoHybridForCausalLM, _Q35 | {"num_key_value_heads": 4}, heads=(1,)
    ),
    "qwen3_5": Architecture("a linear layer, a gate behind attention", hf.Qwen3_5ForCausalLM, _Q35, heads=(1,)),
    "qwen3_5_moe": Architecture(
        "the same with MoE",
        hf.Qwen3_5MoeForCausalLM,
        _Q35 | MOE | {"shared_expert_intermediate_size": 16},
        heads=(1,),
    ),
    "gemma4": decoder(
        "embeddings for each layer, wider heads in full layers",
        hf.Gemma4ForCausalLM,
        mlp=NORMED,
        head_dim=8,
        vocab_size_per_layer_input=300,
        hidden_size_per_layer_input=8,
        **_MIXED,
    ),
    "rwkv": Architecture(
        "no attention, a recurrence that reads its padding",
        hf.RwkvForCausalLM,
        {},
        "rwkv.blocks",
        "feed_forward",
        (),
        _RWKV,
    ),
}

# What the error says, and why it is right to decline: a row that interp does take is checked like any other.
_NO, _OFF = "has no hooks for architecture", "its logits differ from plain transformers'"
REFUSED: dict[str, tuple[str, str]] = {
    "gpt2_unscaled": (_OFF, "TransformerLens gives other logits by itself"),
    "bigcode_heads": (_NO, "TransformerLens knows one key-value head only"),
    "neox_no_bias": (_NO, "its adapter asserts that there is a bias"),
    "falcon_rw": (_OFF, "its hooks need eager attention, which adds ALiBi twice in transformers"),
    "falcon_alibi": (_OFF, "its hooks need eager attention, which adds ALiBi twice in transformers"),
    "falcon_new": (_NO, "TransformerLens splits the matrix of q, k and v in other sizes"),
    "phi_qk_norm": (_NO, "TransformerLens would leave out the norms of q and k"),
    "phimoe": (_NO, "TransformerLens has no adapter"),
    "helium": (_NO, "TransformerLens has no adapter"),
    "minimax": (_NO, "TransformerLens has no adapter"),
    "cohere": (_OFF, "TransformerLens gives other logits by itself"),
    "cohere2": (_OFF, "TransformerLens gives other logits by itself"),
    "hunyuan": (_OFF, "TransformerLens gives other logits by itself"),
    "recurrent_gemma": ("unknown site 'blocks.*.attn.hook_pattern'", "TransformerLens shows nothing inside its blocks"),
}
