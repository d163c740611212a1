"""Weight identity: which weights a model has, whatever it is called. Hashes decide; names and places inform.

A model on the hub is known by its commit, the same files in a folder by the SHA-256 of their bytes. A record that holds
both fits either.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from interp.model.loading.load import locate
from interp.model.provenance import ModelProvenance


def hash_of_files(provenance: ModelProvenance) -> str | None:
    """The SHA-256 of the weights' files for a model that a commit of the hub names; None for every other model.

    One with an adapter merged into it is another model than those files hold.
    """
    if provenance.source != "hub" or provenance.adapter is not None or not Path(provenance.location).is_dir():
        return None
    return _hash_folder(provenance.location, provenance.weights)


def has_weights(provenance: ModelProvenance, weights: str | None, files: str | None = None) -> bool:
    """Has the model the weights that a record names, by commit or hash and, where it holds it, by its files' hash?"""
    recorded = {weights, files} - {None}
    if provenance.weights in recorded:
        return True
    # only now are gigabytes read: most records hold the loaded model's own name for its weights
    hashes = {value for value in recorded if str(value).startswith("sha256:")}
    return bool(hashes) and hash_of_files(provenance) in hashes


@lru_cache
def _hash_folder(folder: str, commit: str) -> str:  # `commit` is there for the cache: it says when files are others
    return locate(folder).weights
