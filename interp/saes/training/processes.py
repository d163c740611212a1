"""The processes that train one SAE together: each takes its share of every batch, and sums go over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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

    def share(
        self, parts: Sequence[Sequence[int]], sizes: Sequence[int], read: Callable[[int], Float[Tensor, "row d"]]
    ) -> Float[Tensor, "row d"]:
        """Blocks of rows, one after the other, of which each process reads its own: `parts` [rank] are their numbers.

        `sizes` [block]: its rows.
        """
        own = {i: read(i) for i in parts[self.rank]}
        if self.count == 1:
            return torch.cat([own[i] for i in range(len(sizes))])
        return self._exchange(parts, sizes, own)

    def _exchange(
        self, parts: Sequence[Sequence[int]], sizes: Sequence[int], own: Mapping[int, Tensor]
    ) -> Float[Tensor, "row d"]:
        raise NotImplementedError

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

    def share(
        self, parts: Sequence[Sequence[int]], sizes: Sequence[int], read: Callable[[int], Float[Tensor, "row d"]]
    ) -> Float[Tensor, "row d"]:
        """All blocks, read here: the others train on other sites."""
        return torch.cat([read(i) for i in range(len(sizes))])


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

    def _exchange(
        self, parts: Sequence[Sequence[int]], sizes: Sequence[int], own: Mapping[int, Tensor]
    ) -> Float[Tensor, "row d"]:
        """What each process read, put in order: every block travels once to each."""
        width = self._width(own)
        here = torch.cat([own[i] for i in parts[self.rank]]) if own else torch.zeros(0, width)
        every = self.gather(here.to(self.device).flatten()).view(-1, width)
        order = [i for part in parts for i in part]
        blocks = dict(zip(order, every.split([sizes[i] for i in order]), strict=True))
        return torch.cat([blocks[i] for i in range(len(sizes))]).to(here.device)

    def _width(self, own: Mapping[int, Tensor]) -> int:
        """The width of the rows; one who reads none is told by the others."""
        return int(self.largest(float(next(iter(own.values())).shape[1] if own else 0)))

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


ALONE = Ranks()
