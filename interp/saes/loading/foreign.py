"""Sparse autoencoders that other libraries wrote, as sae-lens' classes that compute the same.

EleutherAI's `sparsify` (1.3) writes `cfg.json` and `sae.safetensors` into a folder named after the module it read
(`layers.10`): TopK on the output of that module. saprmarks' `dictionary_learning` (0.1) writes `config.json` and
`ae.pt`, a pickle, which is read with `weights_only=True`: torch then builds tensors, and refuses what would run code.
BatchTopK and Matryoshka SAEs encode with their running threshold, as they do there: they become JumpReLU SAEs. The
decoder of a plain AutoEncoder is scaled to unit norm, as that library does when it loads one.

Weights come in float32 or wider. What cannot be converted exactly is refused by name. (The converter for sparsify in
sae-lens 6.54 transposes W_dec, so that nothing of sparsify 1.3 loads, and subtracts b_dec or not by normalize_decoder.)
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSIFY_WEIGHTS_FILENAME
from sae_lens.loading.pretrained_sae_loaders import load_safetensors_weights
from sae_lens.registry import get_sae_class
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from interp.errors import UserError, unknown
from interp.model.loading.quiet import first_line
from interp.model.model import Model

DICTIONARY_CFG, DICTIONARY_WEIGHTS = "config.json", "ae.pt"
ASSUMED = "its settings name a layer and no submodule"

# A tensor in another library's file: its name in sae-lens, and its shape there; D is d_in, F is d_sae.
Parts = Mapping[str, tuple[str, str]]
_OURS: Parts = {"W_enc": ("W_enc", "DF"), "b_enc": ("b_enc", "F"), "W_dec": ("W_dec", "FD"), "b_dec": ("b_dec", "D")}
_ENCODER: Parts = {"encoder.weight": ("W_enc", "FD"), "encoder.bias": ("b_enc", "F")}
_LINEAR: Parts = {**_ENCODER, "decoder.weight": ("W_dec", "DF")}
_TOPK: Parts = {**_LINEAR, "b_dec": ("b_dec", "D")}
_CUT: Parts = {"threshold": ("threshold", "")}  # one number for all features
_SPARSIFY: Parts = {**_ENCODER, "W_dec": ("W_dec", "FD"), "b_dec": ("b_dec", "D")}
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
    "JumpReluAutoEncoder": Dictionary("jumprelu", {**_OURS, "threshold": ("threshold", "F")}, subtracts_b_dec=False),
    "AutoEncoderTopK": Dictionary("topk", _TOPK, unread=("k", "threshold")),
    "BatchTopKSAE": Dictionary("jumprelu", {**_TOPK, **_CUT}, unread=("k",)),
    "MatryoshkaBatchTopKSAE": Dictionary("jumprelu", {**_OURS, **_CUT}, unread=("k", "group_sizes")),
}


@dataclass(frozen=True)
class Foreign:
    """An SAE as read, for sae-lens' architecture `kind`; `site` is None where the folder does not say it."""

    kind: str
    weights: dict[str, Tensor]
    settings: dict[str, Any]
    metadata: dict[str, Any]
    site: str | None
    said: str  # what says the site, or fails to


def reader_of(folder: Path) -> Callable[[Path, str], Foreign] | None:
    """What reads the SAE in `folder`, if another library wrote it; None for SAELens' format and for none at all."""
    if (folder / SAE_WEIGHTS_FILENAME).exists():
        return None
    for weights, settings, marks, reader in (
        (DICTIONARY_WEIGHTS, DICTIONARY_CFG, {"trainer"}, _read_dictionary),
        (SPARSIFY_WEIGHTS_FILENAME, SAE_CFG_FILENAME, {"k", "expansion_factor"}, _read_sparsify),
    ):
        if (folder / weights).is_file() or marks <= set(_peek(folder / settings)):
            return reader
    return None


def convert(foreign: Foreign, site: str, device: str) -> SAE[Any]:
    """The same SAE as an inference object of sae-lens that reads `site`."""
    d_in, d_sae = foreign.weights["W_enc"].shape
    dtype = str(foreign.weights["W_enc"].dtype).removeprefix("torch.")
    metadata = SAEMetadata(sae_lens_training_version=None, hook_name=site, **foreign.metadata)
    cls, config = get_sae_class(foreign.kind)
    sae = cls(config(d_in=d_in, d_sae=d_sae, dtype=dtype, device="meta", metadata=metadata, **foreign.settings))
    sae.load_state_dict(foreign.weights, assign=True)
    return sae.to(device=device)


def choose_site(foreign: Foreign, where: str, site: str | None, model: Model | None) -> str:
    """The site that was asked for, else the one the folder names. Raises UserError where that cannot be told."""
    if site is not None:
        return site
    if foreign.site is None:
        raise UserError(
            f"{where} does not say which site it reads ({foreign.said}); "
            "name it: load_sae(folder, model, site='blocks.8.hook_resid_post')"
        )
    if foreign.said == ASSUMED:
        print(f"{where}: {ASSUMED}; taken as {foreign.site}, else give site=", file=sys.stderr)
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(mlp|attn)_out", foreign.site)
    if found and model is not None:
        own = f"blocks.{found[1]}.{found[2]}.hook_out"
        if model.site_table.origin.get(foreign.site, own) != own:  # Gemma 2 has a norm between the two
            raise UserError(
                f"{where} reads what a module puts out ({foreign.said}), but on this model {foreign.site} comes after "
                f"a norm; say which it was trained on: site={own!r} or site={foreign.site!r}"
            )
    return foreign.site


# --- sparsify ---


def _read_sparsify(folder: Path, where: str) -> Foreign:
    cfg = _read_json(folder / SAE_CFG_FILENAME, where)
    if cfg.get("transcode"):
        raise UserError(f"{where} is a transcoder of sparsify; expected an SAE that reconstructs the site it reads")
    for key, plain in (("skip_connection", False), ("signed", False), ("activation", "topk")):
        if cfg.get(key, plain) != plain:
            raise UserError(f"{where} has {key}={cfg[key]!r}, which sae-lens has no SAE for; expected {key}={plain!r}")
    d_in = _whole(cfg, "d_in", where)
    d_sae = (
        _whole(cfg, "num_latents", where) if cfg.get("num_latents") else _whole(cfg, "expansion_factor", where) * d_in
    )
    k = _k(cfg, d_sae, where)
    path = folder / SPARSIFY_WEIGHTS_FILENAME
    _check_there(path, where)
    try:
        tensors = load_safetensors_weights(path)
    except Exception as error:  # safetensors has a kind of its own
        if not isinstance(error, (OSError, ValueError, RuntimeError)) and type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"{where}: {path.name} is no safetensors file ({first_line(error)}); fetch it again") from error
    weights = _take(tensors, _SPARSIFY, {"D": d_in, "F": d_sae}, f"{where}: {path.name}")
    above = list(folder.absolute().parents)[:2]
    runs = (_peek(parent / "config.json") for parent in above)  # the settings of the run that wrote the folder
    run = next((run for run in runs if isinstance(run.get("sae"), dict)), {})
    told = {"model_name": run.get("model"), "dataset_path": run.get("dataset"), "context_size": run.get("ctx_len")}
    module = folder.absolute().name
    if re.fullmatch(r"seed\d+", module):  # of several seeds, each has a folder in the module's
        module = above[0].name
    site, said = site_of_module(module), f"its folder is called {module!r}"
    return Foreign("topk", weights, {"k": k}, _metadata(told, "sparsify"), site, said)


def site_of_module(module: str) -> str | None:
    """The site where a module of a Hugging Face model puts its output: `layers.3` and `h.3` are blocks."""
    found = re.fullmatch(r"(?:.*\.)?(?:layers|h|blocks)[._](\d+)(?:\.(\w+))?", module)
    if not found:
        return None
    part = {None: "resid_post", "mlp": "mlp_out", "attn": "attn_out", "self_attn": "attn_out", "attention": "attn_out"}
    return f"blocks.{int(found[1])}.hook_{part[found[2]]}" if found[2] in part else None


# --- dictionary_learning ---


def _read_dictionary(folder: Path, where: str) -> Foreign:
    cfg = _read_json(folder / DICTIONARY_CFG, where)
    trainer, buffer = cfg.get("trainer"), cfg.get("buffer", {})
    if not isinstance(trainer, dict) or not isinstance(buffer, dict):
        raise UserError(f"{where}/{DICTIONARY_CFG} has no trainer; expected the settings dictionary_learning writes")
    name = trainer.get("dict_class")
    if name not in _DICTIONARIES:
        raise unknown("dict_class", str(name), _DICTIONARIES, f"in {where}/{DICTIONARY_CFG}; no other can be converted")
    kind = _DICTIONARIES[name]
    d_in, d_sae = (_whole(trainer, key, where) for key in ("activation_dim", "dict_size"))
    k = _k(trainer, d_sae, where) if "k" in kind.unread else None
    tensors = _unpickle(folder / DICTIONARY_WEIGHTS, where)
    unread = {key: tensors.pop(key, None) for key in kind.unread}
    if (saved := unread.get("k")) is not None and saved.tolist() != k:
        raise UserError(
            f"{where}/{DICTIONARY_CFG} says k={k}, but {DICTIONARY_WEIGHTS} k={saved.tolist()}; fetch it again"
        )
    weights = _take(tensors, kind.tensors, {"D": d_in, "F": d_sae}, f"{where}: {DICTIONARY_WEIGHTS}")
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
        _metadata(told, "dictionary_learning"),
        *_dictionary_site(folder, trainer, buffer, where),
    )


def _unpickle(path: Path, where: str) -> dict[str, Tensor]:
    """The tensors in a file of torch. `weights_only` refuses whatever would run code, before any of it runs."""
    _check_there(path, where)
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


# --- both ---


def _peek(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_json(path: Path, where: str) -> dict[str, Any]:
    _check_there(path, where)
    if not (cfg := _peek(path)):
        raise UserError(f"{where}: {path.name} is no JSON object; expected the settings of an SAE; fetch it again")
    return cfg


def _check_there(path: Path, where: str) -> None:
    if not path.is_file():
        held = ", ".join(sorted(p.name for p in path.parent.iterdir())[:8])
        raise UserError(f"{where} has no {path.name} (it holds {held}); expected the whole folder; fetch the SAE again")


def _whole(cfg: dict[str, Any], name: str, where: str) -> int:
    value = cfg.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where} says {name}={value!r} in its settings; expected a whole number above 0")
    return value


def _k(cfg: dict[str, Any], d_sae: int, where: str) -> int:
    if (k := _whole(cfg, "k", where)) > d_sae:
        raise UserError(f"{where} says k={k} of {d_sae} features in its settings; expected k below that")
    return k


def _metadata(told: dict[str, Any], library: str) -> dict[str, Any]:
    return {name: value for name, value in told.items() if value} | {"converted_from": library}


def _take(tensors: dict[str, Tensor], parts: Parts, sizes: dict[str, int], where: str) -> dict[str, Tensor]:
    """The tensors under sae-lens' names, turned its way. Raises UserError for one that is missing, odd or misshapen."""
    if missing := sorted(set(parts) - set(tensors)):
        raise UserError(f"{where} has no {', '.join(missing)} (it holds {', '.join(sorted(tensors))}); fetch it again")
    if odd := sorted(set(tensors) - set(parts)):
        raise UserError(f"{where} holds {', '.join(odd)}, which no SAE of its settings has; it cannot be converted")
    out: dict[str, Tensor] = {}
    for theirs, (name, letters) in parts.items():
        tensor, shape = tensors[theirs], [sizes[letter] for letter in letters]
        if list(tensor.shape) != shape or tensor.layout != torch.strided or not tensor.is_floating_point():
            came = f"{list(tensor.shape)} of {tensor.dtype}, {tensor.layout}"
            raise UserError(
                f"{where}: {theirs} is {came}; expected {shape} of floating-point numbers, as its settings say"
            )
        turned = tensor.T if name in _OURS and letters != _OURS[name][1] else tensor
        out[name] = turned.to(torch.promote_types(tensor.dtype, torch.float32)).contiguous()
    return out
