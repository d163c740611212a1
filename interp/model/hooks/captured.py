"""What a capture gives: activations by site, with the tokens they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError, unknown


@dataclass(frozen=True)
class Activations(Mapping[str, Tensor]):
    """What `capture` returns: `acts[site]` is [prompt, pos, …], NaN on padding.

    `mask` [prompt, pos] is True at real tokens; `ids` are the token ids, -1 on padding; `axes` says what each axis of
    a site's tensor is.
    """

    tensors: dict[str, Tensor]
    mask: Bool[Tensor, "prompt pos"]
    ids: Int[Tensor, "prompt pos"]
    axes: Mapping[str, tuple[str, ...]]

    def __getitem__(self, site: str) -> Tensor:
        if site not in self.tensors:
            raise unknown("captured site", site, self.tensors)
        return self.tensors[site]

    def __repr__(self) -> str:
        shapes = [f"{site} {list(tensor.shape)}" for site, tensor in self.tensors.items()]
        more = [f"and {len(shapes) - 3} more"] if len(shapes) > 3 else []
        return f"Activations({len(self.mask)} prompts, {int(self.mask.sum()):,} tokens; {', '.join(shapes[:3] + more)})"

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def last(self, site: str) -> Float[Tensor, "prompt d"]:
        """The activation at each prompt's last real token."""
        count = torch.arange(self.mask.shape[1], device=self.mask.device).expand_as(self.mask)
        index = torch.where(self.mask, count, -1).max(-1).values
        return self._per_token(site)[torch.arange(len(index)), index]

    def rows(self, site: str) -> Float[Tensor, "row d"]:
        """Every real token's activation, prompt by prompt."""
        return self._per_token(site)[self.mask]

    def _per_token(self, site: str) -> Tensor:
        tensor = self[site]
        if self.axes[site][:2] != ("prompt", "pos"):
            raise UserError(
                f"{site} has axes {self.axes[site]}, not one activation per token; index acts[{site!r}] yourself"
            )
        return tensor
