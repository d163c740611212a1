"""The processes that train one SAE together: each takes its share of every batch, and sums go over all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


class Ranks:
    """One process alone, which has nobody to ask. `Together` is for several."""

    rank: int = 0
    count: int = 1

    def add(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes, in place."""

    def gather(self, values: Float[Tensor, " n"]) -> Float[Tensor, " all"]:
        """The values of all processes, in the order of their ranks."""
        return values

    def largest(self, value: float) -> float:
        """The largest of all processes' values."""
        return value

    def highest(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The same, of numbers that lie on the device."""
        return value


class Apart(Ranks):
    """One of several processes of which each trains SAEs of its own: they are counted, and nothing is added up."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count


class Together(Ranks):
    """The processes of a `torch.distributed` group that is up."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.device = "cuda" if dist.get_backend() == "nccl" else "cpu"

    def add(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes, in place."""
        for tensor in tensors:
            dist.all_reduce(tensor)

    def gather(self, values: Float[Tensor, " n"]) -> Float[Tensor, " all"]:
        """The values of all processes, in the order of their ranks."""
        counts = [torch.zeros(1, dtype=torch.long, device=values.device) for _ in range(self.count)]
        dist.all_gather(counts, torch.tensor([len(values)], device=values.device))
        longest = int(torch.cat(counts).max())
        padded = torch.cat([values, values.new_zeros(longest - len(values))])
        found = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(found, padded)
        return torch.cat([some[: int(n)] for some, n in zip(found, counts, strict=True)])

    def largest(self, value: float) -> float:
        """The largest of all processes' values."""
        told = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return float(told)

    def highest(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The same, of numbers that lie on the device."""
        told = value.clone()
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return told
