"""Runs SAEDashboard on given tokens and features, for `bench_features.py`; needs a venv with sae-dashboard, not ours.

The model's weights come from a local folder of Llama architecture, unprocessed. Its activations are cached on disk, as
SAEDashboard can: else it would run the model again for every batch of features. Time in the forward is what the cached
forwards took, reading the cache not counted.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_dashboard.data_writing_fns import save_feature_centric_vis
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_dashboard.transformer_lens_wrapper import TransformerLensWrapper
from sae_lens import SAE, HookedSAETransformer
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def load(folder: Path) -> HookedSAETransformer:
    """The model in TransformerLens, checked against plain transformers."""
    c = LlamaConfig.from_pretrained(folder)
    c.rope_theta = (getattr(c, "rope_parameters", None) or {}).get("rope_theta", c.rope_theta)  # newer files' name
    hf = LlamaForCausalLM.from_pretrained(folder, config=c, dtype=torch.float32).eval()
    cfg = HookedTransformerConfig(
        n_layers=c.num_hidden_layers, d_model=c.hidden_size, d_head=c.hidden_size // c.num_attention_heads,
        n_heads=c.num_attention_heads, n_key_value_heads=c.num_key_value_heads, d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size, n_ctx=256, eps=c.rms_norm_eps, act_fn="silu", normalization_type="RMS",
        positional_embedding_type="rotary", rotary_adjacent_pairs=False, final_rms=True, gated_mlp=True,
        rotary_dim=c.hidden_size // c.num_attention_heads, original_architecture="LlamaForCausalLM", device="cpu",
        rotary_base=int(c.rope_theta),
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|im_end|>")
    tokenizer.init_kwargs["name_or_path"], tokenizer.add_bos_token = str(folder), True  # or it is looked for on the hub
    model = HookedSAETransformer(cfg, tokenizer)
    model.load_and_process_state_dict(
        convert_llama_weights(hf, cfg), fold_ln=False, center_writing_weights=False, center_unembed=False
    )
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        ours = model.run_with_cache(ids, names_filter="blocks.14.hook_resid_post")[1]["blocks.14.hook_resid_post"]
        theirs = hf(ids, output_hidden_states=True).hidden_states[15]
    off = float((ours - theirs)[:, 1:].abs().max() / theirs[:, 1:].abs().max())
    print(f"residuals differ from plain transformers' by {off:.2%} of the largest")
    assert off < 0.01
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "sae", "tokens", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--features", type=int, required=True)
    parser.add_argument("--feature-batch", type=int, default=256)
    parser.add_argument("--token-batch", type=int, default=64)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model, sae = load(options.model), SAE.load_from_disk(str(options.sae), device="cpu", dtype="float32")
    sae.fold_W_dec_norm = lambda: None  # it refuses a TopK SAE, whose activations folding would change
    tokens = torch.from_numpy(np.load(options.tokens).astype(np.int64))
    spent = {"forward": 0.0}
    forward = TransformerLensWrapper.forward

    def timed(self: Any, *arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        out = forward(self, *arguments, **named)
        spent["forward"] += time.perf_counter() - start
        return out

    TransformerLensWrapper.forward = timed
    cfg = SaeVisConfig(
        hook_point=sae.cfg.metadata.hook_name, features=list(range(options.features)), device="cpu",
        minibatch_size_features=options.feature_batch, minibatch_size_tokens=options.token_batch,
        cache_dir=options.out / "cache", ignore_positions=[0],
    )  # fmt: skip
    start = time.perf_counter()
    data = SaeVisRunner(cfg).run(encoder=sae, model=model, tokens=tokens)
    measured = time.perf_counter() - start
    save_feature_centric_vis(data, options.out / "dashboard.html")
    seconds = time.perf_counter() - start
    rates = [
        float((d.acts_histogram_data.title or " = 0%").split(" = ")[1].rstrip("%")) / 100
        for d in data.feature_data_dict.values()
    ]
    tops = [max((max(s.feat_acts) for g in d.sequence_data.seq_group_data for s in g.seq_data), default=0.0)
            for d in data.feature_data_dict.values()]  # fmt: skip
    result = {
        "seconds": seconds, "computing": measured, "forward": spent["forward"], "rates": rates, "tops": tops,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bytes": (options.out / "dashboard.html").stat().st_size,
    }  # fmt: skip
    (options.out / "result.json").write_text(json.dumps(result))
    print({k: v for k, v in result.items() if k not in ("rates", "tops")})


if __name__ == "__main__":
    main()
