"""A decoder as plain transformers runs it, eager and unpadded, one prompt at a time: what `interp` is held against.

Written with forward hooks on the modules that `tests/architectures.py` names, and nothing of `interp`. No padding, no
mask and no cache ever come in, so none of them can be wrong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from architecture_kinds import Architecture, build
from architectures import ARCHITECTURES
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]


class Step(NamedTuple):
    """One step of greedy decoding: the likeliest token, the next one, and how far its logit is below."""

    best: int
    second: int
    gap: float


class Plain:
    """The reference model of one architecture."""

    def __init__(self, name: str, vocab_size: int) -> None:
        self.made: Architecture = ARCHITECTURES[name]
        self.hf: Any = build(self.made, vocab_size, eager=True)
        self.blocks: list[nn.Module] = list(self.hf.get_submodule(self.made.blocks))
        self.heads = tuple(range(len(self.blocks))) if self.made.heads is None else self.made.heads

    def mlp(self, layer: int) -> nn.Module:
        """The module whose output is what the layer's MLP adds; the whole block where it has no MLP."""
        return self.blocks[layer].get_submodule(self.made.mlp) if self.made.mlp else self.blocks[layer]

    @torch.no_grad()
    def logits(self, row: list[int]) -> Tensor:
        """Logits [pos, d_vocab] of one prompt."""
        return self.hf(torch.tensor([row]), use_cache=False).logits[0]

    @torch.no_grad()
    def streams(self, row: list[int]) -> list[tuple[Tensor, Tensor]]:
        """What goes into each block and what comes out: [pos, d_model] twice."""
        pairs: list[tuple[Tensor, Tensor]] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            came = args[0] if args else kwargs["hidden_states"]
            went = output[0] if isinstance(output, tuple | list) else output
            pairs.append((came[0].clone(), went[0].clone()))

        with ExitStack() as stack:
            for block in self.blocks:
                stack.callback(block.register_forward_hook(keep, with_kwargs=True).remove)
            self.logits(row)
        return pairs

    @torch.no_grad()
    def patterns(self, row: list[int]) -> dict[int, Tensor]:
        """Attention patterns [head, query, key] of the layers that have them."""
        out = self.hf(torch.tensor([row]), use_cache=False, output_attentions=True)
        given = [pattern for pattern in getattr(out, "attentions", None) or () if pattern is not None]
        if len(given) == len(self.blocks):
            given = [given[layer] for layer in self.heads]
        assert len(given) == len(self.heads), "the layers with attention are named wrongly"
        return {layer: pattern[0] for layer, pattern in zip(self.heads, given, strict=True)}

    def mixed_heads(self) -> dict[int, nn.Module]:
        """Of each layer with a pattern, the matrix whose input is every head's mix of values, side by side."""
        last = ("o_proj", "out_proj", "dense", "c_proj", "wo")
        found = {}
        for layer in self.heads:
            named = self.blocks[layer].named_modules()
            outputs = [m for n, m in named if "att" in n.partition(".")[0] and n.rpartition(".")[2] in last]
            found |= {layer: outputs[0]} if len(outputs) == 1 else {}
        return found

    @contextmanager
    def muted_heads(self, mixed: dict[int, nn.Module], head: int) -> Iterator[None]:
        """While it lasts, `head` of each of these layers says nothing."""

        def mute(count: int) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> Any:
                parted = args[0].unflatten(-1, (count, -1)).clone()
                parted[..., head, :] = 0
                return (parted.flatten(-2), *args[1:])

            return hook

        counts = {layer: pattern.shape[0] for layer, pattern in self.patterns([1, 2]).items()}
        with ExitStack() as stack:
            for layer, module in mixed.items():
                stack.callback(module.register_forward_pre_hook(mute(counts[layer])).remove)
            yield

    def steps(self, row: list[int], count: int, chosen: list[int]) -> Iterator[Step]:
        """Greedy decoding, the whole text read again at every step; `chosen` grows by what the caller goes on with."""
        for _ in range(count):
            two = self.logits([*row, *chosen])[-1].topk(2)
            yield Step(int(two.indices[0]), int(two.indices[1]), float(two.values[0] - two.values[1]))

    def slope(self, row: list[int], layer: int, metric: Callable[[Tensor], Tensor]) -> Tensor:
        """The gradient [pos, d_model] of `metric(last logits)` with respect to what comes out of a block."""
        leaves: list[Tensor] = []

        def cut(tensor: Tensor) -> Tensor:
            leaves.append(tensor.detach().requires_grad_(True))
            return leaves[-1]

        with torch.enable_grad(), changed(self.blocks[layer], cut):
            value = metric(self.hf(torch.tensor([row]), use_cache=False).logits[0, -1])
            (gradient,) = torch.autograd.grad(value, leaves)
        return gradient[0]


@contextmanager
def changed(module: nn.Module, change: Change) -> Iterator[None]:
    """While it lasts, what comes out of a module is `change` of it."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        return type(output)([change(output[0]), *output[1:]]) if isinstance(output, tuple | list) else change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def steered(plain: Plain, layer: int, direction: Tensor, up_to: int | None = None) -> AbstractContextManager[None]:
    """A direction is added to what comes out of a block, at every token or at the first `up_to`."""

    def add(tensor: Tensor) -> Tensor:
        where = torch.arange(tensor.shape[1]) < (tensor.shape[1] if up_to is None else up_to)
        return tensor + where[:, None] * direction

    return changed(plain.blocks[layer], add)
