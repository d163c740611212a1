"""Tiny repos in the layout of real SAE releases, and a hub on 127.0.0.1 that serves them.

huggingface_hub reads its environment when it is imported; here its constants are set instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import LocalHub
from huggingface_hub import constants
from refusals import the_line
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import UserError
from interp.saes.loading.sae import load_sae

NAME = "gpt2-small-res-jb:blocks.0.hook_resid_pre"
JB, V5, TM, LM_SAE = (
    "jbloom/GPT2-Small-SAEs-Reformatted",
    "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs",
    "tommmcgrath/gpt2-small-mlp-out-saes",
    "canrager/lm_sae",
)
D, F = 32, 64
CFG = {  # what the real ones hold that matters, and a part of the rest
    "model_name": "gpt2-small",
    "hook_point": "blocks.0.hook_resid_pre",
    "hook_point_layer": 0,
    "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext",
    "is_dataset_tokenized": False,
    "context_size": 128,
    "d_in": D,
    "d_sae": F,
    "device": "mps",
    "dtype": "torch.float32",
    "b_dec_init_method": "geometric_median",
    "expansion_factor": 2,
    "l1_coefficient": 8e-05,
    "lr": 0.0004,
    "lr_scheduler_name": None,
    "use_ghost_grads": False,
}


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


WEIGHTS = drawn({"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)})
X = drawn({"x": (20, D)})["x"]


def expected(w: dict[str, Tensor] = WEIGHTS, scale: float = 1.0) -> Tensor:
    """What a standard SAE makes of X, which its training multiplied by `scale`."""
    features = ((X * scale - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    return (features @ w["W_dec"] + w["b_dec"]) / scale


def far(source: str | Path, expected: Tensor) -> float:
    sae = load_sae(source)
    with torch.no_grad():
        return float((sae.decode(sae.encode(X)) - expected).abs().max())


def write_sae(folder: Path, weights: dict[str, Tensor] = WEIGHTS, **cfg: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(CFG | cfg))
    return folder


def write_repos(root: Path) -> Path:
    """Tiny repos in the layout of the real ones."""
    ones = {"scaling_factor": torch.ones(D)}  # in the old files, and without effect
    write_sae(root / JB / "blocks.0.hook_resid_pre", WEIGHTS | ones)
    write_sae(root / JB / "blocks.1.hook_resid_pre", WEIGHTS | {"b_enc": WEIGHTS["b_enc"] * float("nan")})
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "normalize_activations": "layer_norm"}
    write_sae(root / V5 / "v5_32k_layer_0.pt", hook_point=None, hook_name="blocks.0.hook_resid_post", **topk)
    folder = get_pretrained_saes_directory()["gpt2-small-mlp-tm"].saes_map["blocks.0.hook_mlp_out"]
    write_sae(root / TM / folder, hook_point="blocks.0.hook_mlp_out", normalize_activations="expected_average_only_in")
    write_sae(root / "someone" / "saes" / "deep" / "er")
    write_sae(root / "someone" / "top")
    sparsify = root / "someone" / "saes" / "layers.0"
    sparsify.mkdir()
    (sparsify / "cfg.json").write_text(json.dumps({"d_in": D, "num_latents": F, "expansion_factor": 2, "k": F}))
    theirs = {"encoder.weight": WEIGHTS["W_enc"].T.contiguous(), "encoder.bias": WEIGHTS["b_enc"]}
    save_file(theirs | {name: WEIGHTS[name] for name in ("W_dec", "b_dec")}, sparsify / "sae.safetensors")
    (root / "someone" / "saes" / "config.json").write_text(json.dumps({"sae": {}, "model": "a/b"}))
    trainer = {"activation_dim": D, "dict_size": F, "layer": 3, "lm_name": "EleutherAI/pythia-70m", "k": F}
    for i, extra in enumerate([{}, {"k": Bomb()}]):
        one = root / LM_SAE / "pythia70m_sweep_topk_ctx128_0730" / "resid_post_layer_3" / f"trainer_{i}"
        one.mkdir(parents=True)
        settings = {"trainer": trainer | {"dict_class": "AutoEncoderTopK"}, "buffer": {"ctx_len": 128}}
        (one / "config.json").write_text(json.dumps(settings))
        dictionary = {**theirs, "decoder.weight": WEIGHTS["W_dec"].T.contiguous(), "b_dec": WEIGHTS["b_dec"]}
        torch.save(dictionary | extra, one / "ae.pt")
    return root


class Bomb:
    """A pickle that sets a variable in the environment where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.putenv, ("INTERP_TEST_BOMB", "1")


def serve(hub: LocalHub, repos: Path) -> LocalHub:
    for owner in sorted(repos.iterdir()):
        for repo in sorted(owner.iterdir()):
            hub.add(f"{owner.name}/{repo.name}", repo)
    return hub


def connect(monkeypatch: pytest.MonkeyPatch, endpoint: str, home: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def refused(load: Callable[[Any], object], source: str) -> str:
    with pytest.raises(UserError) as raised:
        load(source)
    assert len(str(raised.value)) < 400, "one line that a person reads"
    return the_line(raised)
