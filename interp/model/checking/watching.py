"""One forward of plain transformers with forward hooks, for `parity`: what it shows where a site is.

Nothing here comes from the hooked tree but the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from interp.model.checking.noted import PlainRun, watched
from interp.model.hooks.bridge import relative_gap
from interp.model.model import Model


def find_layouts(model: Model) -> dict[str, int]:
    """Where the plain model's own tensors have their positions, by two prompts of different length."""
    small, large = (_plain_run(model, [1] * length).seen for length in (5, 7))
    shapes = {name: (tensor.shape, large[name].shape) for name, tensor in small.items() if name in large}
    return {
        name: axis
        for name, (a, b) in shapes.items()
        if len(a) == len(b) == 4
        for axis in (1, 2)
        if (a[axis], b[axis]) == (5, 7)
    }


def watch_plain(model: Model, row: list[int], layouts: dict[str, int]) -> PlainRun:
    """One forward of the plain model on one prompt, with eager attention where that gives the same logits."""
    run = _plain_run(model, row).on(model.device)
    for name, axis in layouts.items():
        if axis == 2 and name in run.seen and run.seen[name].ndim == 4:
            run.seen[name] = run.seen[name].transpose(1, 2)
    return run


@torch.no_grad()
def _plain_run(model: Model, row: list[int]) -> PlainRun:
    ids = torch.tensor([row], device=model.device)
    usual = model.hf(ids, use_cache=False).logits
    run, settings = PlainRun(), {"output_hidden_states": True, "use_cache": False}
    with _as_before(model), _eager(model), watched(model, run) as layer_of:
        out = model.hf(ids, output_attentions=True, **settings)
    if relative_gap(out.logits, usual) > 1e-3:  # Falcon cannot switch, and computes nonsense when told to
        run = PlainRun()
        with _as_before(model), watched(model, run) as layer_of:
            out = model.hf(ids, **settings)
    reported = [a for a in getattr(out, "attentions", None) or () if a is not None]
    square = (len(row), len(row))  # RWKV reports something else under that name
    attentions = [a for a in reported if a.ndim == 4 and a.shape[-2:] == square]
    _place_patterns(model, run, attentions, layer_of)
    hidden = getattr(out, "hidden_states", None) or ()
    if attentions and len(hidden) == model.n_layers + 1:  # recurrent models count their hidden states in other ways
        for layer, resid in enumerate(hidden[:-1]):  # the last one is after the final norm
            run.seen[f"blocks.{layer}.hook_in"] = resid
    return run


def _place_patterns(model: Model, run: PlainRun, attentions: list[Tensor], layer_of: dict[int, int]) -> None:
    """Which layer does each reported pattern belong to? Hybrids report those of attention layers only.

    The layer that gave out this very tensor; else, where there are as many as layers, the layer of its number.
    """
    for i, pattern in enumerate(attentions):
        layer = layer_of.get(id(pattern), i if len(attentions) == model.n_layers else None)
        if layer is None:
            run.unplaced += 1
        else:
            run.patterns[layer] = pattern


@contextmanager
def _as_before(model: Model) -> Iterator[None]:
    """Take away the hooks that transformers leaves behind when its attentions are asked for: a changed model is one
    whose hooked tree is made anew, without whatever is wrong with it."""
    installed = "_output_capturing_hooks_installed"
    before = [(m, set(m._forward_hooks), installed in vars(m)) for m in model.hf.modules()]
    try:
        yield
    finally:
        for module, hooks, was_installed in before:
            for key in set(module._forward_hooks) - hooks:
                del module._forward_hooks[key]
            if not was_installed:
                vars(module).pop(installed, None)


@contextmanager
def _eager(model: Model) -> Iterator[None]:
    before = model.hf.config._attn_implementation or "eager"
    model.hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)
