"""What an edit really did: a receipt for each site."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp.model.hooks.wide import widest


@dataclass(repr=False)
class Receipt:
    """What an edit really did: how often it ran, how many of the vectors it saw it changed, and their mean norms.

    `seen` and `changed` count activation vectors of real tokens, every head's by itself. The norms are over those that
    changed: an edit of one token would drown in all the others, and any edit in an attention sink's norm of thousands.
    """

    site: str
    fired: int = 0
    seen: int = 0
    _sums: Tensor | None = None  # of all calls: how many changed, and their three norms, summed

    @property
    def changed(self) -> int:
        """How many vectors it changed."""
        return round(self._total(0))

    @property
    def norm_before(self) -> float:
        """Mean L2 norm of the vectors that it changed, as they came in; 0 where it changed none."""
        return self._mean(1)

    @property
    def norm_after(self) -> float:
        """Mean L2 norm of the same vectors as they went out."""
        return self._mean(2)

    @property
    def norm_change(self) -> float:
        """Mean L2 norm of out minus in: 0 means that the edit ran and changed nothing."""
        return self._mean(3)

    def _total(self, i: int) -> float:
        return 0.0 if self._sums is None else float(self._sums[i])  # read when somebody looks: no forward waits for it

    def _mean(self, i: int) -> float:
        return self._total(i) / self.changed if self.changed else 0.0

    def record(self, before: Tensor, after: Tensor, *, is_finite: bool = False) -> None:
        """Add one call; `before` and `after` are [row, feature] at real tokens. `is_finite`: is all of `after`?"""
        before, after = before.detach(), after.detach()
        if before.dtype in (torch.float16, torch.bfloat16):  # the square of an attention sink's norm is infinite there
            before, after = before.float(), after.float()
        change = after - before
        # The first takes a quarter of the time; the second also knows of an infinite number that it stayed as it was.
        differs = change.abs().amax(-1) != 0 if is_finite else torch.count_nonzero(before != after, -1) > 0
        norms = torch.stack([torch.linalg.vector_norm(rows, dim=-1) for rows in (before, after, change)])
        sums = torch.where(differs, norms, 0.0).sum(-1, dtype=widest(norms.device))
        sums = torch.cat([differs.sum(dtype=sums.dtype)[None], sums])
        self._sums = sums if self._sums is None else self._sums.to(sums.device) + sums
        self.fired += 1
        self.seen += len(before)

    def __repr__(self) -> str:
        return f"Receipt({self})"

    def __str__(self) -> str:
        norms = f": mean norm {self.norm_before:.4g} -> {self.norm_after:.4g}, change {self.norm_change:.4g}"
        counted = f"changed {self.changed:,} of {self.seen:,} vectors"
        return f"{self.site}: fired {self.fired}x, {counted}{norms if self.changed else ''}"


class Receipts(dict[str, Receipt]):
    """Receipts by site; printing them shows one line a site."""

    def __repr__(self) -> str:
        return str(self) or "Receipts()"

    def __str__(self) -> str:
        return "\n".join(str(receipt) for receipt in self.values())
