"""A copy of a model to change, and the weights of one model put into another for a while."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from interp.errors import unknown
from interp.model.model import Model


def copy_model(model: Model, name: str) -> Model:
    """A model with weights of its own, called `name`, to be changed at will through its `hf`; it has no hooks yet.

    Its provenance keeps the hash of the weights that it was copied from.
    """
    provenance = replace(model.provenance, name=name, source="made by hand", location="memory")
    return Model(copy.deepcopy(model.hf), model.tokenizer, provenance, model.bos)


@contextmanager
def weights_from(model: Model, source: Model, names: Collection[str]) -> Iterator[None]:
    """Inside, the parameters `names` of `model.hf` hold what `source.hf`'s hold; then what they held before, exactly.

    Names are those of `named_parameters()`. Raises UserError for a name that either model lacks.
    """
    ours, theirs = (dict(some.hf.named_parameters()) for some in (model, source))
    for name in names:
        if name not in ours or name not in theirs:
            raise unknown("parameter", name, ours.keys() & theirs.keys())
    before = {name: ours[name].detach().clone() for name in names}
    with torch.no_grad():
        for name in names:
            ours[name].copy_(theirs[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                ours[name].copy_(value)
