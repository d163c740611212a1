"""SAELens' `cfg.json`: read, and refused where sae_lens would read it otherwise than it was meant.

There are two generations. Before 6 the file is flat: the runner's settings beside the SAE's, the activation function by
name (`activation_fn_str`, later `activation_fn`). Since 6 it is nested: what the SAE computes at the top, where it
belongs under `metadata`. sae_lens drops every key that it does not know, fills what is missing with a default, and
takes every activation function but "topk" for a ReLU. So each setting that decides a number is checked here, by name,
by type and by value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sae_lens.constants import DTYPE_MAP, SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.loading.pretrained_sae_loaders import LLM_METADATA_KEYS
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

from interp.errors import UserError, unknown
from interp.saes.lineage import FILES, LINEAGE
from interp.saes.loading.releases import EXAMPLE

EXPECTED = f"a folder in SAELens' format, with {SAE_CFG_FILENAME} and {SAE_WEIGHTS_FILENAME}"
# decode(encode(x)) of these is no reconstruction of x
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
SAES = tuple(name for name in SAE_CLASS_REGISTRY if name not in {*TRANSCODERS, "temporal"})
NESTED = 6  # the first version whose files sae_lens reads as nested
ACTIVATION_KEYS = ("activation_fn", "activation_fn_str")
RELU = {"standard", "gated", "jumprelu", *TRANSCODERS}  # before 6, a JumpReLU SAE says "relu" as well
SCALINGS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "covariance_whitening")
LATER = {"rescale_acts_by_decoder_norm"}  # a file from before it existed means what its default does
ELSEWHERE = {"device", "reshape_activations", "metadata"}  # checked by themselves, or of no effect

# What may stand in each setting that is read, and how that is said.
BOOLEAN = ("true or false", lambda value: isinstance(value, bool))
WHOLE = (
    "a whole number above 0",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
)
TEXT = ("a name", lambda value: isinstance(value, str) and bool(value))
TYPES = {
    **dict.fromkeys(("d_in", "d_sae", "d_out", "k"), WHOLE),
    **dict.fromkeys(("apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "stop_on_duplicate_support"), BOOLEAN),
    "dtype": (f"one of {', '.join(list(DTYPE_MAP)[:4])}", lambda value: isinstance(value, str) and value in DTYPE_MAP),
    "normalize_activations": (
        f"one of {', '.join(SCALINGS)}",
        lambda value: isinstance(value, str) and value in SCALINGS,
    ),
    "residual_threshold": (
        "a number",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value == value,
    ),
    "max_iterations": ("a whole number above 0, or null", lambda value: value is None or WHOLE[1](value)),
}
METADATA_TYPES = {
    "model_name": TEXT,
    "model_from_pretrained_kwargs": ("an object", lambda value: isinstance(value, dict)),
    "prepend_bos": BOOLEAN,
    "context_size": WHOLE,
}


def read_cfg(folder: Path) -> dict[str, Any]:
    """The settings in an SAE's folder, as they stand there. Raises UserError where there are none."""
    if not folder.exists():
        raise UserError(
            f"no folder {folder}; expected {EXPECTED}, or a name such as {EXAMPLE}; "
            "check it or train one with `interp sae train`"
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; expected {EXPECTED}; give the folder that holds it")
    path = folder / SAE_CFG_FILENAME
    if not path.is_file():
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise UserError(f"{folder} has no {SAE_CFG_FILENAME} (it holds {held}); expected {EXPECTED}")
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); expected SAELens' settings; fetch the SAE again") from error
    if not isinstance(cfg, dict):
        raise UserError(f"{path} is a JSON {type(cfg).__name__}; expected an object with d_in, d_sae and metadata")
    return cfg


def check_cfg(cfg: dict[str, Any], kinds: tuple[str, ...], where: str) -> None:
    """Raise UserError unless sae_lens makes of these settings what they mean, for an SAE of one of `kinds`."""
    file = f"{where}/{SAE_CFG_FILENAME}"
    refuse_misspelt(cfg, {"architecture", "metadata", *ACTIVATION_KEYS, "activation_fn_kwargs"}, file)
    metadata = cfg.get("metadata", cfg)
    if not isinstance(metadata, dict):
        raise UserError(f"{where}: metadata in cfg.json is a {type(metadata).__name__}; expected an object")
    flat = metadata is cfg
    _check_version(cfg, metadata, flat, file)
    architecture = cfg.get("architecture", "standard" if flat else None)
    refuse_kind(architecture, kinds, where)
    allowed = {field.name for field in fields(SAE_CLASS_REGISTRY[architecture][1])}
    refuse_misspelt(cfg, allowed, file)
    refuse_misspelt(metadata, LLM_METADATA_KEYS | {*LINEAGE, FILES}, f"{file}, metadata")
    effective = _check_activation(cfg, metadata, architecture, flat, file)
    if effective == "topk" and flat:
        allowed |= {field.name for field in fields(SAE_CLASS_REGISTRY[effective][1])}
    _refuse_unread(cfg, architecture, allowed, flat, file)
    _check_settings(cfg, allowed, flat, file)
    _check_metadata(metadata, flat, "d_out" in allowed, where)


def refuse_kind(architecture: Any, kinds: tuple[str, ...], where: str) -> None:
    """Raise UserError for an architecture that sae_lens does not have, or that is none of `kinds`."""
    if not isinstance(architecture, str) or architecture not in SAE_CLASS_REGISTRY:
        raise unknown("architecture", str(architecture), kinds, f"in {where}/cfg.json")
    if architecture not in kinds:
        wanted, hint = (
            ("an SAE that reconstructs the site it reads", "load_transcoder reads transcoders")
            if kinds is SAES
            else ("a transcoder, from one site to another", "load_sae reads SAEs")
        )
        raise UserError(f"{where} is a {architecture}; expected {wanted}; {hint}")


def refuse_heads(reshape: Any, where: str) -> None:
    """Raise UserError for an SAE of an attention head's own vectors, or of all heads' side by side."""
    if reshape not in (None, "none"):
        raise UserError(f"{where} reads heads ({reshape}); expected a site of one vector a token; use another SAE")


def refuse_misspelt(given: Mapping[str, Any], known: set[str], where: str) -> None:
    """Raise UserError for a key that is one slip away from a known one that is missing."""
    for key in sorted(set(given) - known):
        for meant in sorted(known - set(given)):
            if _one_slip(key.lower(), meant):
                raise UserError(f"{where} has the unknown key {key!r}; expected {meant!r}; rename it")


def _one_slip(a: str, b: str) -> bool:
    """Do the words differ by one letter added, dropped or changed, or only in the order of their letters?"""
    if sorted(a) == sorted(b):
        return True
    short, long = sorted((a, b), key=len)
    if len(long) - len(short) > 1:
        return False
    at = next((i for i, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), len(short))
    return short[at + (len(short) == len(long)) :] == long[at + 1 :]


def _check_version(cfg: dict[str, Any], metadata: dict[str, Any], flat: bool, file: str) -> None:
    """sae_lens tells the generations apart by the version alone: a file of the other one loses its site."""
    said = cfg.get("sae_lens_version") or metadata.get("sae_lens_version")
    if not said:
        if flat:
            return
        raise UserError(
            f"{file} has no sae_lens_version; expected it in metadata: without it sae_lens takes the file "
            "for one from before 6 and drops the metadata, the site with it"
        )
    numbers = re.fullmatch(r"(\d+)\.\d+.*", said) if isinstance(said, str) else None
    if numbers is None:
        raise UserError(f"{file} says sae_lens_version={said!r}; expected a version such as '6.54.12'")
    version = int(numbers[1])
    if flat and version >= NESTED:
        raise UserError(f"{file} says sae_lens_version={said!r} and has no metadata; expected it, with hook_name in it")
    if not flat and version < NESTED:
        raise UserError(
            f"{file} says sae_lens_version={said!r} and has metadata, which sae_lens drops in files from before 6, "
            "the site with it; expected 6 or later, or every key at the top"
        )


def _check_activation(
    cfg: dict[str, Any], metadata: dict[str, Any], architecture: str, flat: bool, file: str
) -> str | None:
    """The activation function that the file names, once it is one that sae_lens computes for this architecture."""
    given = [(key, part[key]) for part in (cfg, metadata) for key in ACTIVATION_KEYS if key in part]
    kwargs = cfg.get("activation_fn_kwargs", metadata.get("activation_fn_kwargs"))
    possible = [
        name
        for name, kinds in (
            ("relu", RELU),
            ("topk", {"topk", "standard"} if flat else {"topk"}),
            ("jumprelu", {a for a in RELU if a.startswith("jumprelu")}),
        )
        if architecture in kinds
    ]
    for key, value in given:
        if not isinstance(value, str) or value not in possible:
            wanted = " or ".join(repr(name) for name in possible) or "no such key"
            raise UserError(
                f"{file} says {key}={value!r}, which sae_lens does not compute for a {architecture} SAE (it would "
                f"compute another function without a word); expected {wanted}; use another SAE, or correct the name"
            )
    names = {value for _, value in given}
    if len(names) > 1:
        raise UserError(f"{file} names two activation functions, {' and '.join(sorted(names))}; expected one")
    name = names.pop() if names else None
    _check_activation_kwargs(cfg, kwargs, architecture, name, file)
    return name


def _check_activation_kwargs(cfg: dict[str, Any], kwargs: Any, architecture: str, name: str | None, file: str) -> None:
    topk = name == "topk" or (name is None and architecture == "topk")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise UserError(f"{file} says activation_fn_kwargs={kwargs!r}; expected an object, {{}} or {{'k': 32}}")
    if odd := sorted(set(kwargs or {}) - ({"k"} if topk else set())):
        raise UserError(
            f"{file} gives activation_fn_kwargs {', '.join(odd)}, which sae_lens does not read for "
            f"activation_fn={name!r}; expected {'k alone' if topk else 'none'}"
        )
    if not topk:
        return
    inner, outer = (kwargs or {}).get("k", cfg.get("k")), cfg.get("k", (kwargs or {}).get("k"))
    if inner != outer:
        raise UserError(f"{file} says k={outer!r}, and k={inner!r} in activation_fn_kwargs; expected the same")
    if not WHOLE[1](inner):
        raise UserError(f"{file} says activation_fn={name!r} and k={inner!r}; expected k, a {WHOLE[0][2:]}")
    if WHOLE[1](cfg.get("d_sae")) and inner > cfg["d_sae"]:
        raise UserError(f"{file} says k={inner} of d_sae={cfg['d_sae']} features; expected k below d_sae")


def _refuse_unread(cfg: dict[str, Any], architecture: str, allowed: set[str], flat: bool, file: str) -> None:
    """Raise UserError for a setting that sae_lens would drop. A flat file holds the runner's settings as well."""
    trained = SAE_TRAINING_CLASS_REGISTRY.get(architecture)
    of_training = {field.name for field in fields(trained[1])} - set(TYPES) if trained else set()
    known = {*allowed, *of_training, *ACTIVATION_KEYS, "architecture", "sae_lens_version", "activation_fn_kwargs"}
    known |= LLM_METADATA_KEYS  # they decide no number, and sae-lens' own list of releases puts them there
    suspects = {key for key in cfg if not flat or key in TYPES or key.lower().startswith("activation")}
    for key in sorted(suspects - known):
        if not (flat and cfg[key] in (None, False)):
            raise unknown(
                "setting", key, allowed, f"in {file}: sae_lens does not read it for a {architecture}; remove it"
            )
    if cfg.get("finetuning_scaling_factor") not in (None, False):
        raise UserError(
            f"{file} says finetuning_scaling_factor={cfg['finetuning_scaling_factor']!r}, which sae_lens 6 does not "
            "apply; expected false; use another SAE"
        )


def _check_settings(cfg: dict[str, Any], allowed: set[str], flat: bool, file: str) -> None:
    """Each setting that decides a number: is it there, and of its type?"""
    optional = ELSEWHERE | LATER
    if flat:  # the defaults that sae_lens fills in are what the versions without these keys computed
        optional |= {"apply_b_dec_to_input", "normalize_activations"}
        if "activation_fn_kwargs" in cfg:
            optional |= {"k"}  # it stands there, where it was checked
    for key in sorted(allowed - ELSEWHERE):
        told, fits = TYPES.get(key, ("", None))
        if fits is None or (key not in cfg and key in optional):
            continue
        value = cfg.get(key)
        if flat and key == "normalize_activations" and (value is None or isinstance(value, bool)):
            continue  # so the oldest files say it
        if not fits(value):
            raise UserError(f"{file} says {key}={value!r}; expected {told}")
    if "k" in allowed and "k" in cfg and cfg["k"] > cfg["d_sae"]:
        raise UserError(f"{file} says k={cfg['k']} of d_sae={cfg['d_sae']} features; expected k below d_sae")
    refuse_heads(cfg.get("reshape_activations"), file.removesuffix(f"/{SAE_CFG_FILENAME}"))


def _check_metadata(metadata: dict[str, Any], flat: bool, writes: bool, where: str) -> None:
    """The site or sites, and the types of what is compared with a model."""
    names = {key: value for key, value in metadata.items() if key == "hook_name" or (flat and key == "hook_point")}
    if len(set(map(str, filter(None, names.values())))) > 1:
        raise UserError(
            f"{where}/cfg.json says hook_point and hook_name, {' and '.join(map(str, names.values()))}; expected one"
        )
    sites = {"hook_name": list(names.values())[-1] if names else None}  # as sae_lens: the last one counts
    sites |= {"hook_name_out": metadata.get("hook_name_out")} if writes else {}
    for key, hook in sites.items():
        if not isinstance(hook, str) or not hook:
            raise UserError(f"{where}/cfg.json says {key}={hook!r}; expected a site's name there, in metadata")
    for key, (told, fits) in METADATA_TYPES.items():
        if metadata.get(key) is not None and not fits(metadata[key]):
            raise UserError(f"{where}/cfg.json, metadata, says {key}={metadata[key]!r}; expected {told}, or null")
    for key in ("hook_head_index", "hook_head_index_out", "hook_point_head_index"):
        if metadata.get(key) is not None:
            refuse_heads(f"{key}={metadata[key]!r}", where)
