"""saprmarks' `dictionary_learning` (0.1): `config.json` and `ae.pt`, a pickle.

The pickle is read with `weights_only=True`: torch then builds tensors, and refuses what would run code. BatchTopK and
Matryoshka SAEs encode with their running threshold, as they do there: they become JumpReLU SAEs. The decoder of a plain
AutoEncoder is scaled to unit norm, as that library does when it loads one.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import UserError, unknown
from interp.model.loading.quiet import first_line
from interp.saes.loading.foreign import (
    ASSUMED,
    ENCODER,
    SAE_LENS,
    Foreign,
    Parts,
    check_there,
    metadata_of,
    peek,
    read_json,
    read_k,
    take,
    whole,
)

DICTIONARY_CFG, DICTIONARY_WEIGHTS = "config.json", "ae.pt"

# A tensor in its file: its name in sae-lens, and its shape there; D is d_in, F is d_sae.
_LINEAR: Parts = {**ENCODER, "decoder.weight": ("W_dec", "DF")}
_TOPK: Parts = {**_LINEAR, "b_dec": ("b_dec", "D")}
_CUT: Parts = {"threshold": ("threshold", "")}  # one number for all features
_GATED: Parts = {
    "encoder.weight": ("W_enc", "FD"),
    "decoder.weight": ("W_dec", "DF"),
    "decoder_bias": ("b_dec", "D"),
    "gate_bias": ("b_gate", "F"),
    "mag_bias": ("b_mag", "F"),
    "r_mag": ("r_mag", "F"),
}


@dataclass(frozen=True)
class Dictionary:
    """A class of `dictionary_learning`: sae-lens' architecture, its tensors, and buffers that encode does not read."""

    kind: str
    tensors: Parts
    unread: tuple[str, ...] = ()
    subtracts_b_dec: bool = True


_DICTIONARIES = {
    "AutoEncoder": Dictionary("standard", {**_LINEAR, "bias": ("b_dec", "D")}),
    "AutoEncoderNew": Dictionary("standard", {**_LINEAR, "decoder.bias": ("b_dec", "D")}, subtracts_b_dec=False),
    "GatedAutoEncoder": Dictionary("gated", _GATED),
    "JumpReluAutoEncoder": Dictionary("jumprelu", {**SAE_LENS, "threshold": ("threshold", "F")}, subtracts_b_dec=False),
    "AutoEncoderTopK": Dictionary("topk", _TOPK, unread=("k", "threshold")),
    "BatchTopKSAE": Dictionary("jumprelu", {**_TOPK, **_CUT}, unread=("k",)),
    "MatryoshkaBatchTopKSAE": Dictionary("jumprelu", {**SAE_LENS, **_CUT}, unread=("k", "group_sizes")),
}


def is_dictionary(folder: Path) -> bool:
    """Did dictionary_learning write this folder? Its settings alone say so as well: then it lacks its weights."""
    return (folder / DICTIONARY_WEIGHTS).is_file() or "trainer" in peek(folder / DICTIONARY_CFG)


def read_dictionary(folder: Path, where: str) -> Foreign:
    """The SAE in a folder of dictionary_learning, and what its settings say of it."""
    cfg = read_json(folder / DICTIONARY_CFG, where)
    trainer, buffer = cfg.get("trainer"), cfg.get("buffer", {})
    if not isinstance(trainer, dict) or not isinstance(buffer, dict):
        raise UserError(f"{where}/{DICTIONARY_CFG} has no trainer; expected the settings dictionary_learning writes")
    name = trainer.get("dict_class")
    if name not in _DICTIONARIES:
        raise unknown("dict_class", str(name), _DICTIONARIES, f"in {where}/{DICTIONARY_CFG}; no other can be converted")
    kind = _DICTIONARIES[name]
    d_in, d_sae = (whole(trainer, key, where) for key in ("activation_dim", "dict_size"))
    k = read_k(trainer, d_sae, where) if "k" in kind.unread else None
    tensors = _unpickle(folder / DICTIONARY_WEIGHTS, where)
    unread = {key: tensors.pop(key, None) for key in kind.unread}
    if (saved := unread.get("k")) is not None and saved.tolist() != k:
        raise UserError(
            f"{where}/{DICTIONARY_CFG} says k={k}, but {DICTIONARY_WEIGHTS} k={saved.tolist()}; fetch it again"
        )
    weights = take(tensors, kind.tensors, {"D": d_in, "F": d_sae}, f"{where}: {DICTIONARY_WEIGHTS}")
    if "threshold" in weights:
        if weights["threshold"].ndim == 0 and weights["threshold"] < 0:
            print(f"{where}: saved before it had a threshold, so nothing cuts its features off", file=sys.stderr)
        weights["threshold"] = weights["threshold"].expand(d_sae).contiguous()
    if name == "AutoEncoder":
        _scale_to_unit_norm(weights)
    settings: dict[str, Any] = {"k": k} if kind.kind == "topk" else {}
    told = {"model_name": trainer.get("lm_name"), "context_size": buffer.get("ctx_len")}
    return Foreign(
        kind.kind,
        weights,
        settings | {"apply_b_dec_to_input": kind.subtracts_b_dec},
        metadata_of(told, "dictionary_learning"),
        *_dictionary_site(folder, trainer, buffer, where),
    )


def _unpickle(path: Path, where: str) -> dict[str, Tensor]:
    """The tensors in a file of torch. `weights_only` refuses whatever would run code, before any of it runs."""
    check_there(path, where)
    try:
        with warnings.catch_warnings(
            action="ignore", category=UserWarning
        ):  # of an odd version of pickle, before it fails
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes provoke
        raise UserError(
            f"{where}: {path.name} cannot be read as tensors ({unpickling_error(error)}); "
            "expected the state_dict of a dictionary alone"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(
            f"{where}: {path.name} holds a {type(loaded).__name__}; expected a state_dict, names and tensors"
        )
    return {str(name): tensor for name, tensor in loaded.items()}


def unpickling_error(error: Exception) -> str:
    """Why torch could not read a file, in a few words. Torch's own say how to let a pickle run its code."""
    if asked := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it asks for {asked[1]}, which is code; none of it ran"
    if "weights_only" in str(error):
        return "it is no file of tensors alone; none of it ran"
    return first_line(error)


def _scale_to_unit_norm(weights: dict[str, Tensor]) -> None:
    norms = weights["W_dec"].norm(dim=1)
    if torch.allclose(norms, torch.ones_like(norms)):
        return
    norms[norms == 0] = 1  # a feature that writes nothing
    weights["W_dec"] = weights["W_dec"] / norms[:, None]
    weights["W_enc"] = weights["W_enc"] * norms
    weights["b_enc"] = weights["b_enc"] * norms


def _dictionary_site(
    folder: Path, trainer: dict[str, Any], buffer: dict[str, Any], where: str
) -> tuple[str | None, str]:
    """The site, by the submodule's name, the folder's, or the layer alone; and what says it.

    `resid_post_layer_8` is what that library's own scripts call a submodule, and the folder of its trainers.
    """
    name, layer, io = trainer.get("submodule_name"), trainer.get("layer"), buffer.get("io", "out")
    said = f"submodule_name={name!r}, layer={layer!r}, io={io!r} in {DICTIONARY_CFG}"
    if io != "out":
        return None, said
    for label in (name, *(above.name for above in list(folder.absolute().parents)[:2])):
        found = re.fullmatch(r"(resid_pre|resid_mid|resid_post|attn_out|mlp_out)_layer_(\d+)", str(label))
        if found and layer not in (None, int(found[2])):
            return None, f"{said}, but it is called {label!r}"
        if found:
            return f"blocks.{int(found[2])}.hook_{found[1]}", f"it is called {label!r}"
    if name is not None or isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        return None, said
    return f"blocks.{layer}.hook_resid_post", ASSUMED
