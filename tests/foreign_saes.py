"""SAEs as sparsify and dictionary_learning write them, made by hand, and ways to damage them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from word_sae import SITE

from interp.saes.loading.sae import load_sae

D, F, K = 12, 40, 4
Tensors = dict[str, Tensor]


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


X = drawn({"x": (50, D)}, seed=9)["x"]


def top_k(pre: Tensor, k: int) -> Tensor:
    """ReLU, then the k largest of each row."""
    out = torch.zeros_like(pre)
    for row, values in enumerate(pre.tolist()):
        for i in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
            out[row, i] = max(values[i], 0.0)
    return out


def agrees(folder: Path, features: Tensor, output: Tensor) -> bool:
    """Does the SAE in `folder` give these for X? They must be sparse, and not all zero, to say anything."""
    assert 0.05 < float((features > 0).double().mean()) < 0.9
    sae = load_sae(folder, site=SITE)
    with torch.no_grad():
        ours = sae.encode(X)
        far = max(float((ours - features).abs().max()), float((sae.decode(ours) - output).abs().max()))
    return far < 1e-4


def spoil(tensors: Tensors, name: str, features: Tensor) -> Tensors:
    """A copy with one number of one tensor wrong: a number of the feature that fires most, where it has features."""
    wrong = {key: tensor.clone() for key, tensor in tensors.items()}
    busiest = int((features > 0).sum(0).argmax())
    place = tuple(busiest if size == F else 3 for size in wrong[name].shape)
    wrong[name][place] += 50 if name == "threshold" else -50  # which switches the feature off, or its gate
    return wrong


SPARSIFY = {"encoder.weight": (F, D), "encoder.bias": (F,), "W_dec": (F, D), "b_dec": (D,)}
SPARSIFY_CFG = {  # what SparseCoder.save_to_disk writes
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": F,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D,
}


def write_sparsify(folder: Path, tensors: Tensors | None = None, **cfg: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors or drawn(SPARSIFY), folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(SPARSIFY_CFG | cfg))
    return folder


def change_tensors(change: Callable[[Tensors], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        if (folder / "ae.pt").exists():
            tensors = torch.load(folder / "ae.pt", weights_only=True)
            change(tensors)
            torch.save(tensors, folder / "ae.pt")
        else:
            tensors = load_file(folder / "sae.safetensors")
            change(tensors)
            save_file(tensors, folder / "sae.safetensors")

    return damage


def cut_short(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()
