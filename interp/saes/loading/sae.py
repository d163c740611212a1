"""Load a sparse autoencoder or a transcoder, and refuse one that does not belong to the model.

An SAE at the wrong site, on other weights or under another BOS policy still gives numbers (SAELens #553, #410, #333),
and a misspelt key in `cfg.json` silently becomes a default or None. So what is read is checked first, and its lineage
is compared with the model's. Weights come from safetensors, or from a pickle that torch restricts to tensors: a pickle
can run code (`releases.py` and `dictionary_learning.py` say which formats have one).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sae_lens import SAE
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from sae_lens.loading.pretrained_sae_loaders import sae_lens_disk_loader
from torch import Tensor

from interp.errors import UserError
from interp.model.loading.cache import MANIFEST, is_intact
from interp.model.model import Model
from interp.paths import expand
from interp.saes.lineage import refuse_misfit
from interp.saes.loading.dictionary_learning import is_dictionary, read_dictionary
from interp.saes.loading.foreign import Foreign, choose_site, convert
from interp.saes.loading.releases import (
    OWN_FORMAT,
    Named,
    convert_release,
    fetch_folder,
    find_named,
    read_settings,
)
from interp.saes.loading.settings import EXPECTED, SAES, TRANSCODERS, check_cfg, read_cfg, refuse_heads, refuse_kind
from interp.saes.loading.sparsify import is_sparsify, read_sparsify

__all__ = ["SAE", "describe_sae", "encode_features", "load_sae", "load_transcoder", "site_of"]

BLOCK = 1024  # rows encoded at once: memory stays flat however many there are


def load_sae(source: Path | str, model: Model | None = None, *, site: str | None = None) -> SAE[Any]:
    """The SAE at `source`, for inference, on the model's device (the CPU without a model).

    `source` is a folder that SAELens, EleutherAI's sparsify or saprmarks' dictionary_learning wrote; or the name of an
    SAE on the hub: `RELEASE:SAE_ID` of sae-lens' list (`gpt2-small-res-jb:blocks.8.hook_resid_pre`), or
    `OWNER/NAME:FOLDER`. A path that exists wins over a name. `site` names the site of an SAE that does not say its own.

    With `model`, refuses an SAE of another site, width, model, tokenizer, numerics or BOS policy. Of an SAE made
    elsewhere, what cannot be checked is said on stderr.
    Raises UserError, in one line, for anything that is not a whole, finite SAE.
    """
    source = _at_home(source)
    sae = _load(source, model, SAES, site)
    if model is not None:
        refuse_misfit(sae.cfg, model, str(source))
    return sae


def load_transcoder(source: Path | str, model: Model | None = None) -> SAE[Any]:
    """The transcoder at `source`, in SAELens' format or of a release: it reads one site and writes another.

    Its sites are `cfg.metadata.hook_name` and `hook_name_out`, its widths `cfg.d_in` and `d_out`. The checks are those
    of `load_sae`, of both sites. Call it, `transcoder(x)`: decode(encode(x)) leaves out what a skip connection adds.
    """
    source = _at_home(source)
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


def _at_home(source: Path | str) -> Path | str:
    """A path with its `~` replaced; the name of an SAE on the hub, which is no path, as it is."""
    return expand(source) if str(source).startswith("~") else source


def _load(source: Path | str, model: Model | None, kinds: tuple[str, ...], site: str | None) -> SAE[Any]:
    """The SAE of one of these kinds, whole and finite, with its site in its metadata."""
    where, device = str(source), "cpu" if model is None else str(model.device)
    named = find_named(source)
    if named is not None and named.loader != OWN_FORMAT:
        cfg = read_settings(named)
        refuse_kind(cfg.get("architecture"), kinds, where)
        refuse_heads(cfg.get("reshape_activations"), where)
        sae = convert_release(named, device)
    elif (read := _foreign_reader(folder := Path(source) if named is None else fetch_folder(named))) is not None:
        if kinds is not SAES:
            raise UserError(f"{where} was not written by SAELens; expected a transcoder in its format")
        foreign = read(folder, where)
        site = choose_site(foreign, where, site, model)
        sae = convert(foreign, site, device)
    else:
        cfg = {**read_cfg(folder), **(named.overrides if named else {})}
        check_cfg(cfg, kinds, where)
        _check_files(folder)
        sae = _read_weights(folder, cfg, device, named)
    _check_weights(sae, where)
    if site is not None and site_of(sae) != site:
        raise UserError(f"{where} reads {site_of(sae)}, as it says itself, not site={site!r}; leave site out")
    return sae.eval()


def _foreign_reader(folder: Path) -> Callable[[Path, str], Foreign] | None:
    """What reads the SAE in `folder`, if another library wrote it; None for SAELens' format and for none at all."""
    if (folder / SAE_WEIGHTS_FILENAME).exists():
        return None
    if is_dictionary(folder):
        return read_dictionary
    return read_sparsify if is_sparsify(folder) else None


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
    refuse_heads(sae.cfg.reshape_activations, where)
