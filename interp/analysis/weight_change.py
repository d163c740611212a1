"""Weight differences: how far weights moved from one model to another, where, and in how many directions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import UserError
from interp.model.model import Model
from interp.model.parameter_count import part_by_name


@dataclass(frozen=True)
class WeightChange:
    """One parameter's change. `layer`: None outside the blocks. `part`: as `count_parameters` names it.

    `moved` and `norm`: lengths (Frobenius) of the change and of the parameter before. `size`: how many numbers it has.
    """

    name: str
    layer: int | None
    part: str
    moved: float
    norm: float
    size: int


@torch.no_grad()
def weight_changes(before: Model, after: Model) -> list[WeightChange]:
    """Every parameter of two models of one shape. Raises UserError where their parameters differ in name or shape."""
    old, new = dict(before.hf.named_parameters()), dict(after.hf.named_parameters())
    if {name: p.shape for name, p in old.items()} != {name: p.shape for name, p in new.items()}:
        raise UserError("the two models' parameters differ in name or shape; expected one model before and after")
    parts = part_by_name(before.hf)
    return [
        WeightChange(name, layer_of_parameter(name), parts[name], float((new[name].float() - p.float()).norm()),
                     float(p.float().norm()), p.numel())
        for name, p in old.items()
    ]  # fmt: skip


def relative_change(changes: Iterable[WeightChange]) -> float:
    """Length of several parameters' change together over their length before; 0 for none that is not zero."""
    some = list(changes)
    norm = sum(one.norm**2 for one in some) ** 0.5
    return sum(one.moved**2 for one in some) ** 0.5 / norm if norm else 0.0


def layer_of_parameter(name: str) -> int | None:
    """The block that a parameter belongs to: `model.layers.3.mlp.up_proj.weight` is of layer 3."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


@torch.no_grad()
def energies(matrix: Float[Tensor, "row column"]) -> NDArray[np.float64]:
    """Squared singular values, largest first, in double precision. Their sum is the squared length of the matrix.

    From the smaller of the two products with its transpose, which is many times as fast as a decomposition. Values
    below a hundred-millionth of the largest are rounding.
    """
    x = matrix.detach().to("cpu", torch.float64)
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(gram).clamp(min=0).flip(0).numpy()


def effective_rank(squares: NDArray[np.float64]) -> float:
    """In how many directions? The exponential of the entropy of the singular values' shares (Roy and Vetterli 2007).

    k equal singular values give k. `squares` are what `energies` gives; a matrix of zeros has rank 0.
    """
    if not squares.sum():
        return 0.0
    values = np.sqrt(np.where(squares > 1e-12 * squares.max(), squares, 0.0))
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def share_in_top(squares: NDArray[np.float64], n: int) -> float:
    """Share of the squared length in the `n` largest singular values; 0 for a matrix of zeros."""
    return float(squares[:n].sum() / squares.sum()) if squares.sum() else 0.0
