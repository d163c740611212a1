"""EleutherAI's `sparsify` (1.3): `cfg.json` and `sae.safetensors` in a folder named after the module that was read.

`layers.10` is TopK on the output of that module. (The converter for sparsify in sae-lens 6.54 transposes W_dec, so that
nothing of sparsify 1.3 loads, and subtracts b_dec or not by normalize_decoder.)
"""

from __future__ import annotations

import re
from pathlib import Path

from sae_lens.constants import SAE_CFG_FILENAME, SPARSIFY_WEIGHTS_FILENAME
from sae_lens.loading.pretrained_sae_loaders import load_safetensors_weights

from interp.errors import UserError
from interp.model.loading.quiet import first_line
from interp.saes.loading.foreign import (
    ENCODER,
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

TENSORS: Parts = {**ENCODER, "W_dec": ("W_dec", "FD"), "b_dec": ("b_dec", "D")}


def is_sparsify(folder: Path) -> bool:
    """Did sparsify write this folder? Its settings alone say so as well: then it lacks its weights."""
    there = (folder / SPARSIFY_WEIGHTS_FILENAME).is_file()
    return there or {"k", "expansion_factor"} <= set(peek(folder / SAE_CFG_FILENAME))


def read_sparsify(folder: Path, where: str) -> Foreign:
    """The SAE in a folder of sparsify, and what the run that wrote it says."""
    cfg = read_json(folder / SAE_CFG_FILENAME, where)
    if cfg.get("transcode"):
        raise UserError(f"{where} is a transcoder of sparsify; expected an SAE that reconstructs the site it reads")
    for key, plain in (("skip_connection", False), ("signed", False), ("activation", "topk")):
        if cfg.get(key, plain) != plain:
            raise UserError(f"{where} has {key}={cfg[key]!r}, which sae-lens has no SAE for; expected {key}={plain!r}")
    d_in = whole(cfg, "d_in", where)
    d_sae = whole(cfg, "num_latents", where) if cfg.get("num_latents") else whole(cfg, "expansion_factor", where) * d_in
    k = read_k(cfg, d_sae, where)
    path = folder / SPARSIFY_WEIGHTS_FILENAME
    check_there(path, where)
    try:
        tensors = load_safetensors_weights(path)
    except Exception as error:  # safetensors has a kind of its own
        if not isinstance(error, (OSError, ValueError, RuntimeError)) and type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"{where}: {path.name} is no safetensors file ({first_line(error)}); fetch it again") from error
    weights = take(tensors, TENSORS, {"D": d_in, "F": d_sae}, f"{where}: {path.name}")
    above = list(folder.absolute().parents)[:2]
    runs = (peek(parent / "config.json") for parent in above)  # the settings of the run that wrote the folder
    run = next((run for run in runs if isinstance(run.get("sae"), dict)), {})
    told = {"model_name": run.get("model"), "dataset_path": run.get("dataset"), "context_size": run.get("ctx_len")}
    module = folder.absolute().name
    if re.fullmatch(r"seed\d+", module):  # of several seeds, each has a folder in the module's
        module = above[0].name
    site, said = site_of_module(module), f"its folder is called {module!r}"
    return Foreign("topk", weights, {"k": k}, metadata_of(told, "sparsify"), site, said)


def site_of_module(module: str) -> str | None:
    """The site where a module of a Hugging Face model puts its output: `layers.3` and `h.3` are blocks."""
    found = re.fullmatch(r"(?:.*\.)?(?:layers|h|blocks)[._](\d+)(?:\.(\w+))?", module)
    if not found:
        return None
    part = {None: "resid_post", "mlp": "mlp_out", "attn": "attn_out", "self_attn": "attn_out", "attention": "attn_out"}
    return f"blocks.{int(found[1])}.hook_{part[found[2]]}" if found[2] in part else None
