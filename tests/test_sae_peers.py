"""sparsify and dictionary_learning themselves write SAEs, and what is loaded computes what they do. Needs PyPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interp.saes.loading.sae import load_sae

PEERS = '''
"""Write SAEs with sparsify and dictionary_learning, and what those compute for some rows."""
import json, sys, types
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=object)  # dictionary_learning's capture; not needed here
from sparsify import SparseCoder, SparseCoderConfig
from dictionary_learning import dictionary, trainers
from dictionary_learning.trainers import matryoshka_batch_top_k as matryoshka
from dictionary_learning.trainers import batch_top_k, top_k

out = Path(sys.argv[1])
torch.manual_seed(0)
x, told = torch.randn(50, 12), {}


def stir(module):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.3)


sizes = {"layers.10": {"num_latents": 48}, "layers.2.mlp": {"expansion_factor": 3, "multi_topk": True}}
for name, cfg in sizes.items():
    stir(sae := SparseCoder(12, SparseCoderConfig(k=4, **cfg)))
    sae.save_to_disk(out / name)
    with torch.no_grad():
        values, places, _ = SparseCoder.load_from_disk(out / name).encode(x)
        told[name] = torch.zeros(50, sae.num_latents).scatter_(1, places, values), sae.decode(values, places)

common = {"steps": 5000, "activation_dim": 12, "dict_size": 40, "layer": 8, "lm_name": "gpt2", "device": "cpu"}
made = {
    "standard": (trainers.StandardTrainer, {}, dictionary.AutoEncoder.from_pretrained),
    "gated": (trainers.GatedSAETrainer, {}, dictionary.GatedAutoEncoder.from_pretrained),
    "jumprelu": (trainers.JumpReluTrainer, {}, dictionary.JumpReluAutoEncoder.from_pretrained),
    "topk": (trainers.TopKTrainer, {"k": 4}, top_k.AutoEncoderTopK.from_pretrained),
    "batchtopk": (trainers.BatchTopKTrainer, {"k": 4}, batch_top_k.BatchTopKSAE.from_pretrained),
    "matryoshka": (
        matryoshka.MatryoshkaBatchTopKTrainer,
        {"k": 4, "group_fractions": [0.25, 0.75]},
        matryoshka.MatryoshkaBatchTopKSAE.from_pretrained,
    ),
}
for name, (trainer, more, load) in made.items():
    trainer = trainer(**common, **more, submodule_name="resid_post_layer_8")
    stir(trainer.ae)
    if "threshold" in dict(trainer.ae.named_buffers()):
        trainer.ae.threshold.fill_(0.7)
    (out / name).mkdir()
    (out / name / "config.json").write_text(json.dumps({"trainer": trainer.config, "buffer": {"io": "out"}}))
    torch.save({k: v.cpu() for k, v in trainer.ae.state_dict().items()}, out / name / "ae.pt")  # as in training.py
    sae = load(str(out / name / "ae.pt"))
    with torch.no_grad():
        told[name] = sae.encode(x), sae(x)
flat = {f"{name} {part}": t.contiguous() for name, pair in told.items() for part, t in zip(("f", "y"), pair)}
save_file(flat | {"x": x}, out / "told.safetensors")
'''


@pytest.mark.slow
def test_the_libraries_themselves_compute_the_same(tmp_path: Path):
    """Asks the package index for the two libraries; what only their training needs is left out."""
    peers = tmp_path / "peers"
    names = ["eai-sparsify==1.3.3", "dictionary-learning==0.1.0", "natsort", "schedulefree", "simple-parsing", "einops"]
    names += ["docstring-parser"]
    for command, environment in (
        ([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(peers), *names], {}),
        ([sys.executable, "-c", PEERS, str(tmp_path)], {"PYTHONPATH": str(peers)}),
    ):
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    told = load_file(tmp_path / "told.safetensors")
    seen = {name.removesuffix(" f") for name in told if name.endswith(" f")}
    assert len(seen) == 8
    for name in seen:
        sae = load_sae(tmp_path / name)
        with torch.no_grad():
            features = sae.encode(told["x"])
            torch.testing.assert_close(features, told[f"{name} f"], atol=1e-5, rtol=1e-5, msg=name)
            torch.testing.assert_close(sae.decode(features), told[f"{name} y"], atol=1e-5, rtol=1e-5, msg=name)
    shutil.rmtree(peers)
