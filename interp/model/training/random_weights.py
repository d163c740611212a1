"""Random weights in the same architecture: the control of everything that training is supposed to have made."""

from __future__ import annotations

import copy
from typing import Any

import torch

from interp.model.hooks.spread import devices_of, place_like
from interp.model.model import Model
from interp.model.provenance import describe_in_memory


def with_random_weights(model: Model, seed: int = 0) -> Model:
    """A model of `model`'s class, sizes and tokenizer, its weights random: as they are before training.

    Made by the architecture's own initialisation (transformers), with the sites that were registered. It takes as much
    memory as the model itself, of packed weights as the unpacked ones, and lies on the same cards.
    """
    config = copy.deepcopy(model.hf.config)
    devices = [device for device in devices_of(model.hf) if device.type == "cuda"]  # manual_seed sets theirs too
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        hf: Any = type(model.hf)(config)  # transformers wraps `to` so that no type checker knows it
    hf = place_like(hf.to(dtype=model.hf.dtype), model.hf).eval()
    name = f"{model.provenance.name} with random weights (seed={seed})"
    untrained = Model(hf, model.tokenizer, describe_in_memory(hf, model.tokenizer, name, "made by hand"), model.bos)
    for site, place in model.tree.registered.items():
        untrained.register_site(site, str(place))
    return untrained
