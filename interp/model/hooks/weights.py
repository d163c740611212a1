"""Where a model keeps its weight matrices, asked of it: a module's matrix is what makes its output of its input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from interp.errors import UserError
from interp.model.hooks.asked import dummy_batch
from interp.model.hooks.bridge import attached, relative_gap
from interp.model.hooks.engines import run_hooked
from interp.model.hooks.quantized import describe_quantized
from interp.model.hooks.tolerance import of_values
from interp.model.hooks.tree import HookedTree
from interp.model.hooks.wide import widen


class Part(NamedTuple):
    """A component of the hooked tree that holds a matrix. `heads`: which side is parted into heads, "" for none."""

    component: str
    what: str  # in words, for errors
    heads: str = ""
    site: str = ""  # TransformerLens' site inside the block whose last axis, or last two, the heads are


PARTS = {
    "Q": Part("attn.q", "attention with a matrix of its own for each of q, k and v", "out", "attn.hook_q"),
    "K": Part("attn.k", "attention with a matrix of its own for each of q, k and v", "out", "attn.hook_k"),
    "V": Part("attn.v", "attention with a matrix of its own for each of q, k and v", "out", "attn.hook_v"),
    "O": Part("attn.o", "attention", "in", "attn.hook_z"),
    "in": Part("mlp.in", "MLP of one layer of neurons (experts have several)"),
    "gate": Part("mlp.gate", "gated MLP of one layer of neurons"),
    "out": Part("mlp.out", "MLP of one layer of neurons (experts have several)"),
}
NAMES = (*(f"W_{part}" for part in PARTS), *(f"b_{part}" for part in PARTS))
_OFF = "other"  # said of a matrix that does not give what its module gives


def matrix_of(tree: HookedTree, name: str, layer: int) -> Tensor:
    """One layer's matrix or bias, in TransformerLens' shape, on the model's first card.

    Raises UserError for one that the layer has not.
    """
    if _missing(tree, name, layer):
        refuse(tree, name, [layer])
    part = PARTS[name[2:]]
    module: Any = _linear(tree, f"blocks.{layer}.{part.component}")
    weight = _as_rows(module.weight, _answers(tree)[layer, part.component] == "transposed").to(tree.hf.device)
    heads = _answers(tree).get((layer, part.site), "")
    if name[0] == "b":
        bias = getattr(module, "bias", None)
        bias = weight.new_zeros(weight.shape[1]) if bias is None else bias.detach().to(weight.device)
        return bias.unflatten(0, (int(heads), -1)) if part.heads == "out" else bias
    if part.heads == "out":
        return weight.unflatten(1, (int(heads), -1)).movedim(1, 0)
    return weight.unflatten(0, (int(heads), -1)) if part.heads == "in" else weight


def missing_layers(tree: HookedTree, name: str) -> list[int]:
    """The layers that have no such matrix."""
    return [layer for layer in range(int(tree.config.num_hidden_layers)) if _missing(tree, name, layer)]


def _missing(tree: HookedTree, name: str, layer: int) -> bool:
    return _answers(tree).get((layer, PARTS[name[2:]].component), "") not in ("straight", "transposed")


def refuse(tree: HookedTree, name: str, layers: Sequence[int]) -> NoReturn:
    """Raise UserError: these layers have no such matrix, or it is not the whole of what its module does."""
    part = PARTS[name[2:]]
    model, where = type(tree.hf).__name__, f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers[:6]))}"
    where += ", …" if len(layers) > 6 else ""
    if any(_answers(tree).get((layer, part.component)) == _OFF for layer in layers):
        raise UserError(
            f"{name} of this {model} does not give what its module gives in {where}: more than one matrix is at work "
            "there (an adapter, which can be merged; gate and input in one; a quantised weight); capture activations"
        )
    if packed := describe_quantized(tree.hf):
        raise UserError(
            f"{name} of this {model} is stored quantised ({packed}), and only its own module can multiply by it; "
            "load the model without quantising it, or capture activations"
        )
    n_layers = int(tree.config.num_hidden_layers)
    held = [layer for layer in range(n_layers) if not _missing(tree, name, layer)]
    rest = f"; model.matrix({name!r}, {held[0]}) gives that of layer {held[0]}" if held else ""
    raise UserError(f"this {model} has no single matrix for {name} in {where}: there is no {part.what} there{rest}")


def _linear(tree: HookedTree, path: str) -> nn.Module | None:
    """The module with the matrix of a component of the hooked tree; None without one."""
    try:
        module: Any = tree.bridge.get_submodule(path)
    except AttributeError:
        return None
    module = getattr(module, "original_component", module)
    weight = getattr(module, "weight", None)
    is_matrix = isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point()
    return module if is_matrix else None


def _as_rows(weight: Tensor, transposed: bool) -> Tensor:
    return weight.detach().T if transposed else weight.detach()


def _answers(tree: HookedTree) -> dict[tuple[int, str], str]:
    """By layer and component how its matrix is stored, by layer and site how many heads it has; asked once."""
    tree.follow()
    return tree.once("matrices", lambda: _ask(tree))


@torch.no_grad()
def _ask(tree: HookedTree) -> dict[tuple[int, str], str]:
    layers = range(int(tree.config.num_hidden_layers))
    components = {(i, p.component): f"blocks.{i}.{p.component}" for i in layers for p in PARTS.values()}
    modules = {key: module for key, path in components.items() if (module := _linear(tree, path)) is not None}
    sites = {(i, p.site): f"blocks.{i}.{p.site}" for i in layers for p in PARTS.values() if p.site}
    ends = [f"{components[key]}.{end}" for key in modules for end in ("hook_in", "hook_out")]
    seen = _seen(tree, [*ends, *sites.values()])
    answers: dict[tuple[int, str], str] = {}
    for key, module in modules.items():
        came, went = (seen.get(f"{components[key]}.{end}") for end in ("hook_in", "hook_out"))
        if came is not None and went is not None:
            answers[key] = _layout(module, came, went, of_values(tree.hf.dtype))
    for key, site in sites.items():
        if site in seen and seen[site].ndim == 4:
            answers[key] = str(seen[site].shape[2])
    for layer in layers:
        inner, outer = (modules.get((layer, f"mlp.{end}")) for end in ("in", "out"))
        if (
            inner is not None
            and outer is not None
            and _width(inner, answers, layer, 1) != _width(outer, answers, layer, 0)
        ):
            answers[layer, "mlp.in"] = _OFF  # gate and input in one matrix
    for layer in layers:  # the "gate" of experts is their router, and heads that nobody shows cannot be parted
        if (layer, "mlp.in") not in answers:
            answers.pop((layer, "mlp.gate"), None)
        for part in PARTS.values():
            if part.heads and (layer, part.site) not in answers:
                answers.pop((layer, part.component), None)
    return answers


def _width(module: Any, answers: dict[tuple[int, str], str], layer: int, end: int) -> int:
    is_transposed = answers.get((layer, "mlp.in" if end else "mlp.out")) == "transposed"
    return int(_as_rows(module.weight, is_transposed).shape[end])


def _layout(module: Any, came: Tensor, went: Tensor, limit: float) -> str:
    """How the module stores its matrix, told by what it makes of its input."""
    came, went = (value.flatten(2) if value.ndim > 3 else value for value in (came, went))
    bias = getattr(module, "bias", None)
    for transposed, name in ((False, "straight"), (True, "transposed")):
        weight = _as_rows(module.weight, transposed)
        if weight.shape != (came.shape[-1], went.shape[-1]):
            continue
        made = came.to(weight) @ weight
        made = made if bias is None else made + bias
        if made.shape == went.shape and relative_gap(made, went) < limit:
            return name
    return _OFF


def _seen(tree: HookedTree, names: Sequence[str]) -> dict[str, Tensor]:
    """What the hooked tree has at hook points, in one forward of the dummy prompts; the last run of each."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            seen[name] = value.detach().clone()

    with tree.resting(), torch.no_grad():
        hooks = [attached(tree.points[name], partial(keep, name)) for name in names if name in tree.points]
        run_hooked(tree.bridge, dummy_batch(tree), hooks, masked=True)
    return seen


def embedding(tree: HookedTree) -> Tensor:
    """The table of token embeddings. Raises UserError where the model scales it on the way."""
    tree.follow()
    table: Any = tree.hf.get_input_embeddings()
    weight: Any = getattr(table, "weight", None)

    def ask() -> float:
        seen = _seen(tree, ["embed.hook_out"]).get("embed.hook_out")
        made = weight.detach()[dummy_batch(tree).ids]
        if seen is None or seen.shape != made.shape:
            return float("nan")
        if relative_gap(made, seen) < of_values(tree.hf.dtype):
            return 1.0
        factor = float((widen(made) * seen).sum() / widen(made).square().sum())
        return factor if relative_gap(made * factor, seen) < 2 * of_values(tree.hf.dtype) else float("nan")

    factor = tree.once("matrix W_E", ask)
    if factor != 1.0:
        by = f"times {factor:.5g}" if factor == factor else "changed in another way"
        raise UserError(
            f"W_E of this {type(tree.hf).__name__} is not what its embedding gives, which comes {by}; "
            "take model.hf.get_input_embeddings().weight and do the same to it"
        )
    return weight.detach().to(tree.hf.device)


def positions(tree: HookedTree) -> Tensor:
    """The table of positions, its row p that of position p. Raises UserError for a model that learned none."""
    tree.follow()
    module: Any = _linear(tree, "pos_embed")

    def ask() -> int | None:
        seen = _seen(tree, ["pos_embed.hook_out"]).get("pos_embed.hook_out")
        if seen is None or module is None:
            return None
        seen = seen.reshape(-1, *seen.shape[-2:])[0]
        for first in (0, 2):  # OPT's table begins with two rows that stand for no position
            rows = module.weight.detach()[first : first + len(seen)]
            if rows.shape == seen.shape and relative_gap(rows, seen) < of_values(tree.hf.dtype):
                return first
        return None

    first = tree.once("matrix W_pos", ask)
    if first is None:
        raise UserError(
            f"this {type(tree.hf).__name__} has no W_pos: it adds no learned embedding of positions to that of tokens"
        )
    weight: Tensor = module.weight  # type: ignore[union-attr]
    return weight.detach()[first:].to(tree.hf.device)


def unembedding(tree: HookedTree) -> tuple[Tensor, Tensor]:
    """The unembedding [d_model, d_vocab] and its bias. Raises UserError where they do not give the logits."""
    tree.follow()
    head: Any = tree.hf.get_output_embeddings()
    weight: Any = getattr(head, "weight", None)

    def ask() -> str:
        seen = _seen(tree, ["ln_final.hook_out", "unembed.hook_out"])
        if len(seen) < 2 or not isinstance(weight, Tensor) or weight.ndim != 2:
            return _OFF
        return _layout(head, seen["ln_final.hook_out"], seen["unembed.hook_out"], of_values(tree.hf.dtype))

    layout = tree.once("matrix W_U", ask)
    if layout == _OFF:
        raise UserError(
            f"W_U of this {type(tree.hf).__name__} does not give its logits from the final norm's output: something "
            "else lies between them; model.hf.get_output_embeddings() is the last module"
        )
    matrix = _as_rows(head.weight, layout == "transposed").to(tree.hf.device)
    bias = getattr(head, "bias", None)
    return matrix, matrix.new_zeros(matrix.shape[1]) if bias is None else bias.detach().to(matrix.device)
