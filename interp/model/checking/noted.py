"""What plain transformers showed of one prompt, and the hooks on its modules that note it, for `parity`.

Attention is asked in two ways: what its modules give out, and what they hand to `eager_attention_forward`, the function
of transformers that mixes values by patterns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from interp.model.hooks.bridge import relative_gap
from interp.model.hooks.plain import find_tap, plain_module
from interp.model.hooks.taps import Tap, tapped
from interp.model.hooks.unchanged import mark_own
from interp.model.hooks.wide import widen
from interp.model.model import Model

EAGER = "eager_attention_forward"
ALWAYS = ("attn.q.hook_out", "attn.hook_out", "mlp.hook_out")  # read in every layer, whatever the sites are


@dataclass(frozen=True)
class AttentionCall:
    """What a layer handed to attention, [prompt, head, pos, d_head], and the pattern that came of it."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    cap: float | None
    weights: Tensor

    def scores(self) -> Tensor:
        """Queries times keys, scaled and capped, before any mask."""
        key = self.key.repeat_interleave(self.query.shape[1] // self.key.shape[1], dim=1)
        product = self.query @ key.transpose(2, 3) * self.scaling
        return product if self.cap is None else self.cap * torch.tanh(product / self.cap)


@dataclass
class PlainRun:
    """What plain transformers showed of one prompt; positions stand before heads.

    `seen`: by the bridge's own name of the place. `patterns`: the attention that it reports, by layer. `calls`: what
    its layers hand to attention. `tables`: the rotary table (cos, sin) that each layer gets; `made`: all that are made.
    `unplaced`: how many reported patterns belong to no layer that could be told.
    """

    seen: dict[str, Tensor] = field(default_factory=dict)
    patterns: dict[int, Tensor] = field(default_factory=dict)
    calls: dict[int, AttentionCall] = field(default_factory=dict)
    tables: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    made: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    unplaced: int = 0

    def on(self, device: torch.device) -> PlainRun:
        """All of it on one device: a model may lie on several cards."""
        parts = {name: value for name, value in vars(self).items() if name != "calls"}
        calls = {layer: AttentionCall(**_moved(vars(call), device)) for layer, call in self.calls.items()}
        return PlainRun(**_moved(parts, device), calls=calls)

    def residual_factors(self, layer: int) -> tuple[float, float] | None:
        """How much of attention's and the MLP's output the block adds; None where its output is no such sum."""
        names = ("hook_in", "hook_out", "attn.hook_out", "mlp.hook_out")
        values = [self.seen.get(f"blocks.{layer}.{name}") for name in names]
        before, after, attn, mlp = (None if v is None else widen(v).flatten() for v in values)
        if (
            before is None
            or after is None
            or attn is None
            or mlp is None
            or len({len(before), len(attn), len(mlp)}) > 1
        ):
            return None
        parts = torch.stack([attn, mlp], dim=-1)
        factors = torch.linalg.lstsq(parts.cpu(), (after - before).cpu()[:, None]).solution[:, 0]
        if relative_gap(before.cpu() + parts.cpu() @ factors, after.cpu()) > 1e-5:
            return None
        return float(factors[0]), float(factors[1])


def _moved(parts: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), parts)


def positions_first(tensor: Tensor, axes: tuple[str, ...]) -> Tensor:
    """[prompt, pos, head, feature] of a tensor whose heads stand before its positions."""
    return tensor.transpose(1, 2) if len(axes) == 4 and axes[2] == "pos" and axes.count("pos") == 1 else tensor


@contextmanager
def watched(model: Model, run: PlainRun) -> Iterator[dict[int, int]]:
    """Hooks on every plain module that a site names; yields the layer that gave out a tensor, by the tensor's id."""
    tree, origins = model.tree, set(model.tree.site_table.origin.values())
    origins |= {f"blocks.{layer}.{name}" for layer in range(model.n_layers) for name in ALWAYS}
    layer_of: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no id is given twice
    with ExitStack() as stack:
        for origin in origins:
            if (tap := find_tap(tree, origin) or find_nested_tap(model, origin)) is not None:
                stack.enter_context(tapped(tap, partial(_keep, run.seen, origin)))
                if not tap.is_input:
                    _watch_list(stack, tap.module, run.seen, origin)
            elif origin.endswith(".hook_gate"):
                _watch_gate(stack, plain_module(tree, origin.removesuffix(".hook_gate")), run.seen, origin)
        modules: dict[int, int] = {}
        for layer in range(model.n_layers):
            block = plain_module(tree, f"blocks.{layer}")
            for module in block.modules() if block is not None else ():
                modules[id(module)] = layer
                stack.callback(module.register_forward_hook(mark_own(_note(layer, layer_of, alive))).remove)
            _watch_fused(model, stack, f"blocks.{layer}.attn", ("q", "k", "v"), run.seen)
            _watch_fused(model, stack, f"blocks.{layer}.mlp", ("gate", "in"), run.seen)
            _watch_table(stack, plain_module(tree, f"blocks.{layer}.attn"), run, layer)
        _watch_made_tables(stack, plain_module(tree, "rotary_emb"), run)
        stack.enter_context(_watched_calls(model, modules, run))
        yield layer_of


def _keep(seen: dict[str, Tensor], origin: str, value: Tensor) -> None:
    seen[origin] = value.detach().clone()


def _note(layer: int, layer_of: dict[int, int], alive: list[Tensor]) -> Callable[..., None]:
    def note(_: nn.Module, __: Any, output: Any) -> None:
        for value in output if isinstance(output, tuple) else ():
            if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-1] == value.shape[-2]:
                layer_of[id(value)] = layer
                alive.append(value)

    return note


def find_nested_tap(model: Model, origin: str) -> Tap | None:
    """A module whose name the adapter cannot translate, as a child of the one around it (Jamba's b_layernorm)."""
    component, _, end = origin.rpartition(".")
    outer = component.rpartition(".")[0]
    if end not in ("hook_in", "hook_out") or not outer:
        return None
    with suppress(AttributeError):
        name = model.bridge.get_submodule(component).name
        module = plain_module(model.tree, outer, str(name)) if name else None
        return None if module is None else Tap(module, end == "hook_in")
    return None


def _watch_list(stack: ExitStack, module: nn.Module, seen: dict[str, Tensor], origin: str) -> None:
    """The first tensor of a module that gives out a list, as GPT-1's attention does."""

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, list) and output and isinstance(output[0], Tensor):
            _keep(seen, origin, output[0])

    stack.callback(module.register_forward_hook(mark_own(hook)).remove)


def _watch_gate(stack: ExitStack, module: nn.Module | None, seen: dict[str, Tensor], origin: str) -> None:
    """The second thing that a gated norm is given (Mamba 2)."""
    if module is None:
        return

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        gate = args[1] if len(args) > 1 else kwargs.get("gate")
        if isinstance(gate, Tensor):
            _keep(seen, origin, gate)

    stack.callback(module.register_forward_pre_hook(mark_own(hook), with_kwargs=True).remove)


def _watch_table(stack: ExitStack, module: nn.Module | None, run: PlainRun, layer: int) -> None:
    """The rotary table that this layer is given: models with two kinds of layer have two tables."""
    if module is None:
        return

    def hook(_: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        if (table := _as_table(kwargs.get("position_embeddings"))) is not None:
            run.tables[layer] = table

    stack.callback(module.register_forward_pre_hook(mark_own(hook), with_kwargs=True).remove)


def _watch_made_tables(stack: ExitStack, module: nn.Module | None, run: PlainRun) -> None:
    if module is None:
        return

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        if (table := _as_table(output)) is not None:
            run.made.append(table)

    stack.callback(module.register_forward_hook(mark_own(hook)).remove)


def _as_table(value: Any) -> tuple[Tensor, Tensor] | None:
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(v, Tensor) for v in value):
        return value[0].detach().clone(), value[1].detach().clone()
    return None


def _watch_fused(
    model: Model, stack: ExitStack, component: str, parts: tuple[str, ...], seen: dict[str, Tensor]
) -> None:
    """Some models compute q, k and v, or gate and in, by one matrix; the bridge gives each a hook of its own."""
    fused = plain_module(
        model.tree, f"{component}.qkv" if parts[0] == "q" else component, "" if parts[0] == "q" else "gate_up_proj"
    )
    if fused is None:
        return

    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        for part in parts:
            seen[f"{component}.{part}.hook_in"] = args[0]
        if parts[0] == "gate":
            for part, tensor in zip(parts, output.chunk(len(parts), dim=-1), strict=True):
                seen[f"{component}.{part}.hook_out"] = tensor
        else:
            seen[f"{component}.qkv"] = output

    stack.callback(fused.register_forward_hook(mark_own(hook)).remove)


@contextmanager
def _watched_calls(model: Model, modules: dict[int, int], run: PlainRun) -> Iterator[None]:
    """Note what the layers hand to `eager_attention_forward`, which each file of transformers has for itself."""
    files = {sys.modules[type(module).__module__] for module in model.hf.modules()}
    originals = {file: vars(file)[EAGER] for file in files if EAGER in vars(file)}

    def noting(original: Callable[..., Any]) -> Callable[..., Any]:
        def attend(*args: Any, **kwargs: Any) -> Any:
            given = signature(original).bind(*args, **kwargs).arguments
            given |= given.pop("kwargs", {})
            q, k, v = (given[name].detach().clone() for name in ("query", "key", "value"))
            out = original(*args, **kwargs)
            layer = modules.get(id(given["module"]))
            if layer is not None and isinstance(out[1], Tensor):
                scaling, mask = given.get("scaling"), given.get("attention_mask")
                run.calls[layer] = AttentionCall(
                    q,
                    k,
                    v,
                    mask if isinstance(mask, Tensor) else None,
                    q.shape[-1] ** -0.5 if scaling is None else float(scaling),
                    given.get("softcap"),
                    out[1].detach().clone(),
                )
            return out

        return attend

    try:
        for file, original in originals.items():
            setattr(file, EAGER, noting(original))
        yield
    finally:
        for file, original in originals.items():
            setattr(file, EAGER, original)
