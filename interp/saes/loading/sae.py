"""Load a sparse autoencoder or a transcoder, and refuse one that does not belong to the model.

An SAE at the wrong site, on other weights or under another BOS policy still gives numbers (SAELens #553, #410, #333),
and a misspelt key in `cfg.json` silently becomes a default or None. So what is read is checked first, and its lineage
is compared with the model's. Weights come from safetensors, or from a pickle that torch restricts to tensors: a pickle
can run code (`releases.py` and `foreign.py` say which formats have one).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.loading.pretrained_sae_loaders import LLM_METADATA_KEYS, sae_lens_disk_loader
from sae_lens.registry import SAE_CLASS_REGISTRY
from torch import Tensor

from interp.errors import UserError, unknown
from interp.model.loading.cache import MANIFEST, is_intact
from interp.model.model import Model
from interp.saes.lineage import LINEAGE, refuse_misfit
from interp.saes.loading.foreign import choose_site, convert, reader_of
from interp.saes.loading.releases import (
    EXAMPLE,
    OWN_FORMAT,
    Named,
    convert_release,
    fetch_folder,
    find_named,
    read_settings,
)

__all__ = ["SAE", "describe_sae", "encode_features", "load_sae", "load_transcoder", "site_of"]

EXPECTED = f"a folder in SAELens' format, with {SAE_CFG_FILENAME} and {SAE_WEIGHTS_FILENAME}"
BLOCK = 1024  # rows encoded at once: memory stays flat however many there are
# decode(encode(x)) of these is no reconstruction of x
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
SAES = tuple(name for name in SAE_CLASS_REGISTRY if name not in {*TRANSCODERS, "temporal"})


def load_sae(source: Path | str, model: Model | None = None, *, site: str | None = None) -> SAE[Any]:
    """The SAE at `source`, for inference, on the model's device (the CPU without a model).

    `source` is a folder that SAELens, EleutherAI's sparsify or saprmarks' dictionary_learning wrote; or the name of an
    SAE on the hub: `RELEASE:SAE_ID` of sae-lens' list (`gpt2-small-res-jb:blocks.8.hook_resid_pre`), or
    `OWNER/NAME:FOLDER`. A path that exists wins over a name. `site` names the site of an SAE that does not say its own.

    With `model`, refuses an SAE of another site, width, model, tokenizer, numerics or BOS policy. Of an SAE made
    elsewhere, what cannot be checked is said on stderr.
    Raises UserError, in one line, for anything that is not a whole, finite SAE.
    """
    sae = _load(source, model, SAES, site)
    if model is not None:
        refuse_misfit(sae.cfg, model, str(source))
    return sae


def load_transcoder(source: Path | str, model: Model | None = None) -> SAE[Any]:
    """The transcoder at `source`, in SAELens' format or of a release: it reads one site and writes another.

    Its sites are `cfg.metadata.hook_name` and `hook_name_out`, its widths `cfg.d_in` and `d_out`. The checks are those
    of `load_sae`, of both sites. Call it, `transcoder(x)`: decode(encode(x)) leaves out what a skip connection adds.
    """
    transcoder = _load(source, model, TRANSCODERS, None)
    if model is not None:
        refuse_misfit(transcoder.cfg, model, str(source))
        _check_output(transcoder, model, str(source))
    return transcoder


def site_of(sae: SAE[Any]) -> str:
    """The site whose activations this SAE reads, by TransformerLens hook name. Raises UserError when it names none."""
    site = sae.cfg.metadata.hook_name
    if not isinstance(site, str) or not site:
        raise UserError("this SAE does not say which site it reads; set sae.cfg.metadata.hook_name to the hook's name")
    return site


def describe_sae(sae: SAE[Any]) -> dict[str, Any]:
    """What identifies an SAE, ready for JSON: site, kind, sizes, its lineage, and the SHA-256 of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + raw.tobytes())
    names = ("d_in", "d_out", "d_sae", "k", "dtype")
    sizes = {name: getattr(sae.cfg, name) for name in names if hasattr(sae.cfg, name)}
    lineage = json.loads(json.dumps(sae.cfg.metadata.to_dict(), default=str))
    kind = sae.cfg.architecture()
    return {"site": site_of(sae), "kind": kind, **sizes, "tensors": f"sha256:{digest.hexdigest()}", "lineage": lineage}


@torch.no_grad()
def encode_features(sae: SAE[Any], activations: Float[Tensor, "row d_model"]) -> NDArray[np.float64]:
    """Feature activations [row, d_sae] of activation vectors, as numpy for statistics.

    Dense: for more than some thousand rows use `interp.features.read.examples`, which never holds them all.
    """
    blocks = [sae.encode(block.to(sae.device, sae.dtype)).cpu() for block in activations.split(BLOCK)]
    return torch.cat(blocks).double().numpy()


def _load(source: Path | str, model: Model | None, kinds: tuple[str, ...], site: str | None) -> SAE[Any]:
    """The SAE of one of these kinds, whole and finite, with its site in its metadata."""
    where, device = str(source), "cpu" if model is None else str(model.device)
    named = find_named(source)
    if named is not None and named.loader != OWN_FORMAT:
        cfg = read_settings(named)
        _refuse_kind(cfg.get("architecture"), kinds, where)
        _refuse_heads(cfg.get("reshape_activations"), where)
        sae = convert_release(named, device)
    elif (read := reader_of(folder := Path(source) if named is None else fetch_folder(named))) is not None:
        if kinds is not SAES:
            raise UserError(f"{where} was not written by SAELens; expected a transcoder in its format")
        foreign = read(folder, where)
        site = choose_site(foreign, where, site, model)
        sae = convert(foreign, site, device)
    else:
        cfg = {**_read_cfg(folder), **(named.overrides if named else {})}
        _check_cfg(cfg, kinds, where)
        _check_files(folder)
        sae = _read_weights(folder, cfg, device, named)
    _check_weights(sae, where)
    if site is not None and site_of(sae) != site:
        raise UserError(f"{where} reads {site_of(sae)}, as it says itself, not site={site!r}; leave site out")
    return sae.eval()


def _check_output(transcoder: SAE[Any], model: Model, where: str) -> None:
    site = str(transcoder.cfg.metadata.hook_name_out)
    try:
        width = model.capture([[0]], model.tree.match(site)[0])[site].shape[-1]
    except UserError as error:
        raise UserError(f"{where} writes to {site!r}: {error}") from error
    if width != transcoder.cfg.d_out:
        raise UserError(
            f"{where} has d_out={transcoder.cfg.d_out}, but {site} of {model.provenance.name} is {width} wide; "
            "load the model that it was trained on"
        )


def _read_cfg(folder: Path) -> dict[str, Any]:
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


def _refuse_kind(architecture: Any, kinds: tuple[str, ...], where: str) -> None:
    if not isinstance(architecture, str) or architecture not in SAE_CLASS_REGISTRY:
        raise unknown("architecture", str(architecture), kinds, f"in {where}/cfg.json")
    if architecture not in kinds:
        wanted, hint = (
            ("an SAE that reconstructs the site it reads", "load_transcoder reads transcoders")
            if kinds is SAES
            else ("a transcoder, from one site to another", "load_sae reads SAEs")
        )
        raise UserError(f"{where} is a {architecture}; expected {wanted}; {hint}")


def _refuse_heads(reshape: Any, where: str) -> None:
    if reshape not in (None, "none"):
        raise UserError(f"{where} reads heads ({reshape}); expected a site of one vector a token; use another SAE")


def _check_cfg(cfg: dict[str, Any], kinds: tuple[str, ...], where: str) -> None:
    """Refuse settings that sae_lens would fill with a default or None. Files of SAELens before 6 are flat."""
    _refuse_misspelt(cfg, {"architecture", "metadata"}, f"{where}/cfg.json")
    metadata = cfg.get("metadata", cfg)
    if not isinstance(metadata, dict):
        raise UserError(f"{where}: metadata in cfg.json is a {type(metadata).__name__}; expected an object")
    if metadata is not cfg and not (cfg.get("sae_lens_version") or metadata.get("sae_lens_version")):
        raise UserError(
            f"{where}/cfg.json has no sae_lens_version; expected it in metadata: without it sae_lens takes the file "
            "for one from before 6 and drops the metadata, the site with it"
        )
    architecture = cfg.get("architecture", "standard" if metadata is cfg else None)
    _refuse_kind(architecture, kinds, where)
    allowed = {field.name for field in fields(SAE_CLASS_REGISTRY[str(architecture)][1])}
    _refuse_misspelt(cfg, allowed, f"{where}/cfg.json")
    _refuse_misspelt(metadata, LLM_METADATA_KEYS | set(LINEAGE), f"{where}/cfg.json, metadata")
    wanted = ["d_in", "d_sae", *(["d_out"] if "d_out" in allowed else [])]
    wanted += ["k"] if "k" in allowed and "activation_fn_kwargs" not in cfg else []
    for name in wanted:
        if isinstance(cfg.get(name), bool) or not isinstance(cfg.get(name), int) or cfg[name] < 1:
            raise UserError(f"{where}/cfg.json says {name}={cfg.get(name)!r}; expected a whole number above 0")
    if "k" in wanted and cfg["k"] > cfg["d_sae"]:
        raise UserError(f"{where}/cfg.json says k={cfg['k']} of d_sae={cfg['d_sae']} features; expected k below d_sae")
    sites = {"hook_name": metadata.get("hook_name", cfg.get("hook_point"))}
    sites |= {"hook_name_out": metadata.get("hook_name_out")} if "d_out" in allowed else {}
    for key, hook in sites.items():
        if not isinstance(hook, str) or not hook:
            raise UserError(f"{where}/cfg.json says {key}={hook!r}; expected a site's name there, in metadata")


def _refuse_misspelt(found: dict[str, Any], known: set[str], where: str) -> None:
    for key in sorted(set(found) - known):
        for meant in sorted(known - set(found)):
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


def _check_files(folder: Path) -> None:
    path = folder / SAE_WEIGHTS_FILENAME
    if not path.is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in {".pt", ".pth", ".bin", ".pkl", ".ckpt"})
        if pickles:
            raise UserError(f"{folder} holds {pickles[0]}, a pickle, which can run code; expected {EXPECTED}")
        raise UserError(f"{folder} has no {SAE_WEIGHTS_FILENAME}; expected {EXPECTED}")
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith((b"PK\x03\x04", b"\x80")) and head[8:] != b"{":  # a safetensors header is JSON from byte 8 on
        raise UserError(f"{path} is a pickle under another name, which can run code; expected safetensors")
    if (folder / MANIFEST).exists() and not is_intact(folder):
        raise UserError(f"{folder} is damaged: its files no longer match {MANIFEST}; train or fetch the SAE again")


def _read_weights(folder: Path, cfg: dict[str, Any], device: str, named: Named | None) -> SAE[Any]:
    known = dict(named.overrides) if named else {}
    try:
        sae = SAE.load_from_disk(folder, device=device, converter=partial(_read_disk, overrides=known))
    except Exception as error:  # sae_lens and safetensors raise many kinds, safetensors one of its own
        kinds = (KeyError, ValueError, TypeError, RuntimeError, OSError, AttributeError)
        if not isinstance(error, kinds) and type(error).__name__ != "SafetensorError":
            raise
        lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
        detail = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0]
        raise UserError(
            f"{folder}: the weights cannot be read as cfg.json says, d_in={cfg['d_in']} and d_sae={cfg['d_sae']} "
            f"({type(error).__name__}: {detail[:200]}); fetch or train the SAE again"
        ) from error
    if named and named.scaling and sae.cfg.normalize_activations == "expected_average_only_in":
        sae.fold_activation_norm_scaling_factor(named.scaling)
    return sae


def _read_disk(path: Path | str, device: str, cfg_overrides: Any, overrides: Mapping[str, Any]) -> Any:
    """sae-lens' own reader, with what its list of releases says of the SAE in place of its cfg.json."""
    return sae_lens_disk_loader(path, device, {**overrides, **(cfg_overrides or {})})


def _check_weights(sae: SAE[Any], where: str) -> None:
    for name, tensor in sae.state_dict().items():
        if bad := int((~torch.isfinite(tensor)).sum()):
            raise UserError(f"{where}: {name} holds {bad} numbers that are NaN or infinite; train or fetch it again")
    if sae.cfg.normalize_activations in ("expected_average_only_in", "covariance_whitening"):
        raise UserError(
            f"{where} wants activations scaled ({sae.cfg.normalize_activations}) by numbers that it does not hold; "
            "expected them folded into the weights; save it again after fold_activation_norm_scaling_factor"
        )
    _refuse_heads(sae.cfg.reshape_activations, where)
