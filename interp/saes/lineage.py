"""Where an SAE comes from: what training writes into its metadata, and what must agree with a model to use it there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sae_lens import SAEConfig

from interp.errors import UserError
from interp.model.loading.identity import has_weights, hash_of_files
from interp.model.model import Model

# Keys of ours in SAELens' metadata, and what each is called in a message. All or none are there.
LINEAGE = {
    "weights_hash": "model weights",
    "tokenizer_hash": "tokenizer",
    "numerics": "numerics",
    "bos_policy": "BOS policy",
}
FILES = "weights_files_hash"  # of a model that the hub names by a commit: the same files in a folder fit as well
_ALIASES = {"gpt2-small": "gpt2"}  # TransformerLens' name and the hub's, in the oldest public SAEs


def lineage_of(model: Model, site: str) -> dict[str, Any]:
    """What ties an SAE to `model`, under SAELens' keys where it has them (`model_name`, `hook_name`, `prepend_bos`)."""
    files = hash_of_files(model.provenance)
    return _bare_lineage(model, site) | ({} if files is None else {FILES: files})


def _bare_lineage(model: Model, site: str) -> dict[str, Any]:
    """The same without the hash of a hub model's files, for which these are read."""
    p = model.provenance
    return {
        "model_name": p.name,
        "hook_name": site,
        "prepend_bos": puts_bos(model),
        "weights_hash": p.weights,
        "tokenizer_hash": p.tokenizer,
        "numerics": p.numerics,
        "bos_policy": p.bos["policy"],
    }


def puts_bos(model: Model) -> bool:
    """Does a BOS token open every text prompt under this model's policy?"""
    return puts_bos_by(model.provenance.bos)


def puts_bos_by(bos: Mapping[str, Any]) -> bool:
    """The same of a policy as it was written down."""
    return bos["policy"] == "always" or (bos["policy"] == "tokenizer" and bool(bos["tokenizer_adds"]))


def refuse_misfit(cfg: SAEConfig, model: Model, where: str, *, force: bool = False) -> None:
    """Raise UserError unless an SAE with these settings belongs to `model`; `where` opens the message.

    Of an SAE without our lineage keys, checks site, width, model name, weight processing and BOS, and says on stderr
    what could not be checked. `force`: what is only recorded otherwise is said on stderr; site and width must fit.
    """
    _check_site(cfg, model, where)
    try:
        _check_record(cfg, model, where)
    except UserError as error:
        if not force:
            raise
        print(f"forced: {error}", file=sys.stderr)


def _chosen_positions(metadata: Mapping[str, Any]) -> str:
    """How training chose its tokens, where it left some out (SAELens' settings); empty where it took them all.

    Evaluation and feature indexes here read every position but the sinks, so their numbers are of other tokens.
    """
    cut, special = metadata.get("seqpos_slice"), metadata.get("exclude_special_tokens")
    chosen = []
    if cut is not None and not (isinstance(cut, list | tuple) and all(end is None for end in cut)):
        chosen.append(f"seqpos_slice={_short(list(cut) if isinstance(cut, tuple) else cut)}")
    if special is not None and special is not False and special != []:
        chosen.append(f"exclude_special_tokens={_short(special)}")
    return f"the positions it was trained on ({', '.join(chosen)}; here every position is read)" if chosen else ""


def _check_record(cfg: SAEConfig, model: Model, where: str) -> None:
    metadata = cfg.metadata.to_dict()
    if not any(key in metadata for key in LINEAGE):
        _check_foreign(metadata, model, where)
        return
    loaded = _bare_lineage(model, metadata["hook_name"])
    for key, word in LINEAGE.items():
        if metadata.get(key) != loaded[key] and not (key == "weights_hash" and _has_weights_of(metadata, model)):
            raise UserError(
                f"{where}: its {word} ({_short(metadata.get(key))}) is not the loaded model's ({_short(loaded[key])}); "
                "load the model that it was trained on, or train an SAE for this one"
            )
    if chosen := _chosen_positions(metadata):
        print(
            f"{where}: not checked: the positions it was trained on ({chosen}; here every position is read)",
            file=sys.stderr,
        )


def _has_weights_of(metadata: Mapping[str, Any], model: Model) -> bool:
    return has_weights(model.provenance, metadata.get("weights_hash"), metadata.get(FILES))


def _check_site(cfg: SAEConfig, model: Model, where: str) -> None:
    site = str(cfg.metadata.hook_name)
    try:
        names = model.tree.match(site)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    axes = model.site_table.axes[names[0]]
    if names != [site] or axes != ("prompt", "pos", "feature"):
        raise UserError(f"{where} reads {site!r}; expected one site with one vector a token ({', '.join(axes)} here)")
    width = model.capture([[0]], site)[site].shape[-1]
    if width != cfg.d_in:
        raise UserError(
            f"{where} has d_in={cfg.d_in}, but {site} of {model.provenance.name} is {width} wide; "
            "load the model that it was trained on"
        )


def _check_foreign(metadata: dict[str, Any], model: Model, where: str) -> None:
    unchecked = list(LINEAGE.values())
    name = metadata.get("model_name")
    if not name or model.provenance.source not in ("hub", "bundled"):
        unchecked.insert(0, f"model name ({name!r} against {model.provenance.name!r})")
    elif _bare(name) != _bare(model.provenance.name):
        raise UserError(
            f"{where} was trained on {name!r}, but the loaded model is {model.provenance.name!r}; load that one, or, "
            "if both names mean the same weights, write this one as model_name into cfg.json"
        )
    processed = metadata.get("model_from_pretrained_kwargs") or {}
    changed = sorted(key for key, value in processed.items() if key.startswith(("fold_", "center_")) and value)
    if changed:
        raise UserError(
            f"{where} was trained on processed weights ({', '.join(changed)}), but the model has the "
            f"{model.provenance.numerics}; use an SAE trained without processing"
        )
    bos = metadata.get("prepend_bos")
    if isinstance(bos, bool):
        unchecked.remove(LINEAGE["bos_policy"])
        if bos != puts_bos(model):
            raise UserError(
                f"{where} was trained with prepend_bos={bos}, but the model's prompts get {'no' if bos else 'a'} BOS "
                f"token (policy {model.provenance.bos['policy']!r}); load it with bos={'always' if bos else 'never'!r}"
            )
    if chosen := _chosen_positions(metadata):
        unchecked.append(chosen)
    print(f"{where}: made elsewhere; site and width fit; not checked: {', '.join(unchecked)}", file=sys.stderr)


def _bare(name: str) -> str:
    last = str(name).rsplit("/", 1)[-1].partition("@")[0].casefold()
    return _ALIASES.get(last, last)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 60 or not text.startswith("sha256:") else text[:23] + "…"
