"""Modules of the hooked tree that are parts of one module of the model: q, k and v of one matrix, gate and up of one.

TransformerLens splits such a matrix. Where the parts lie row beside row they are views; where heads lie interleaved
(GPT-NeoX, Bloom, Falcon, CodeGen, MPT) it copies them, and a quantised matrix cannot be split at all. There the parts
here take their columns out of what the whole module gives, which is computed once: the weights are there once, in
whatever form they are stored, and the hooks can never be of older ones.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Split = Callable[[Any], tuple[nn.Module, ...]]


class Fused:
    """What the whole module gave for an input, kept until each part has taken its columns of it, or told to `forget`.

    Whoever runs the parts tells it before and after: what was kept of an earlier forward may be stale by then.
    """

    def __init__(self, module: nn.Module, sizes: tuple[int, int], parts: int) -> None:
        self.module, self.sizes, self._parts = module, sizes, parts
        self._given: tuple[Any, ...] | None = None
        self._made: Tensor | None = None
        self._taken = 0

    def forget(self, *_: Any) -> None:
        """Keep nothing."""
        self._given = self._made = None

    def __call__(self, x: Tensor) -> Tensor:
        """The whole output [..., out] for an input [..., in]."""
        given = (x, 0 if x.is_inference() else x._version, torch.is_grad_enabled())
        if self._given is None or self._given[0] is not x or self._given[1:] != given[1:]:
            self._given, self._made, self._taken = given, self.module(x), 0
        made, self._taken = self._made, self._taken + 1
        if self._taken == self._parts:
            self.forget()
        assert made is not None
        return made


class Part(nn.Module):
    """Some columns of what a module gives. `weight` and `bias` are made on demand, as nn.Linear has them."""

    def __init__(self, whole: Fused, columns: Int[Tensor, " out"]) -> None:
        super().__init__()
        self._whole = [whole]  # in a list: the module has its place in the tree already
        self._columns = columns
        self.in_features, self.out_features = whole.sizes[0], len(columns)
        first, last = int(columns[0]), int(columns[-1])
        self._span = slice(first, last + 1) if columns.tolist() == list(range(first, last + 1)) else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to this part's [..., out]."""
        made = self.whole(x)
        return made[..., self._span] if self._span else made[..., self._there(made)]

    @property
    def whole(self) -> Fused:
        """What it is a part of."""
        return self._whole[0]

    @property
    def weight(self) -> Tensor:
        """[out, in], a copy. Packed bytes of the whole where it is quantised."""
        weight: Any = self.whole.module.weight
        n_in, n_out = self.whole.sizes
        if sorted(weight.shape) != sorted((n_in, n_out)) or not weight.is_floating_point():
            return weight
        transposed = isinstance(self.whole.module, Conv1D) or weight.shape != (n_out, n_in)
        rows = weight.T if transposed else weight
        return rows[self._there(rows)]

    @property
    def bias(self) -> Tensor | None:
        """[out], a copy; None where the whole has none."""
        bias: Any = getattr(self.whole.module, "bias", None)
        return None if bias is None else bias[self._there(bias)]

    def _there(self, beside: Tensor) -> Tensor:
        if self._columns.device != beside.device:
            self._columns = self._columns.to(beside.device)
        return self._columns


class SplitWithoutCopies:
    """Splits the matrix of one block after another: as `split` does where that copies nothing, else into `Part`s.

    A matrix with more to it than its numbers (quantised, adapted, hooked by a user) is left whole, too. Blocks that are
    built alike are split alike: the first of them is asked.
    """

    def __init__(self) -> None:
        self._columns: dict[Hashable, list[Tensor]] = {}

    def __call__(self, split: Split, owner: nn.Module) -> tuple[nn.Module, ...]:
        """The parts of the one fused matrix in `owner`, in the order in which `split` gives them."""
        matrices = [(name, child, sizes) for name, child in owner.named_children() if (sizes := _sizes(child))]
        kind = (type(owner), *((name, type(child), sizes) for name, child, sizes in matrices))
        made: tuple[nn.Module, ...] = ()
        if kind not in self._columns:
            if all(_is_bare(child) for _, child, _ in matrices):
                made = split(owner)
                shared = {p.untyped_storage().data_ptr() for p in owner.parameters()}
                if all(p.untyped_storage().data_ptr() in shared for part in made for p in part.parameters()):
                    return made
            self._columns[kind] = _columns_by(split, owner)
        columns = self._columns[kind]
        whole = [(child, sizes) for _, child, sizes in matrices if sizes[1] == sum(map(len, columns))]
        if not columns or len(whole) != 1:
            return made or split(owner)
        ((module, sizes),) = whole
        fused = Fused(module, sizes, len(columns))
        return tuple(Part(fused, one) for one in columns)


def _columns_by(split: Split, owner: nn.Module) -> list[Tensor]:
    """Which outputs of the one matrix each part takes; none where that cannot be told."""
    for transposed in (False, True):
        try:
            columns = [_columns_of(part) for part in split(_Numbered(owner, transposed))]
        except (RuntimeError, ValueError):
            continue
        found = [one for one in columns if one is not None]
        if len(found) == len(columns) and torch.cat(found).sort().values.equal(torch.arange(sum(map(len, found)))):
            return found
    return []


class _Numbered:
    """Stands for a module; the matrix in it has its own output's number in every entry, which tells where it goes."""

    def __init__(self, owner: nn.Module, transposed: bool) -> None:
        self._owner, self._transposed = owner, transposed

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._owner, name)
        sizes = _sizes(value) if isinstance(value, nn.Module) else None
        if sizes is None:
            return value
        n_in, n_out = sizes
        stand_in = nn.Linear(1, 1)
        count = torch.arange(n_out, dtype=torch.float32)
        weight = count.expand(n_in, n_out) if self._transposed else count[:, None].expand(n_out, n_in)
        stand_in.weight = nn.Parameter(weight, requires_grad=False)
        has_bias = isinstance(getattr(value, "bias", None), Tensor)
        stand_in.bias = nn.Parameter(count, requires_grad=False) if has_bias else None  # type: ignore[assignment]
        return stand_in


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a module that holds a matrix, in whatever form."""
    if not hasattr(module, "weight"):
        return None
    for names in (("in_features", "out_features"), ("nx", "nf")):
        if all(isinstance(getattr(module, name, None), int) for name in names):
            return int(getattr(module, names[0])), int(getattr(module, names[1]))
    return None


def _is_bare(module: nn.Module) -> bool:
    """Is the module its matrix and bias, and nothing else?"""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) in (nn.Linear, Conv1D) and not hooked


def _columns_of(part: nn.Module) -> Tensor | None:
    """Which outputs of the whole a part is, by the numbers in its matrix; None where rows were mixed."""
    weight: Any = part.weight
    numbers = weight[:, 0].detach()
    return numbers.long() if bool((weight == numbers[:, None]).all()) else None
