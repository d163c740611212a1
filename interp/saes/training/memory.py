"""Memory estimate of a training: whether it fits. Reckoned before the first step, for a killed process says nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from interp.errors import UserError
from interp.model.loading.device import card_memory
from interp.saes.training.plan import SAEPlan
from interp.saes.training.sources import CHUNK


def bytes_needed(plan: SAEPlan, d_in: int, d_out: int, batch: int) -> int:
    """Bytes that training takes at its peak: weights, their gradients, Adam's two moments and what a step makes.

    fp32 throughout: a copy of the encoder, the batch with a few others of its size, rows that wait to be mixed, and the
    matrices [row, d_sae] of a step in which many latents fire or are dead.
    """
    weights = plan.d_sae * (d_in + d_out + 4)
    rows = (6 * batch + 3 * CHUNK) * (d_in + d_out)
    return 4 * (4 * weights + plan.d_sae * d_in + rows + plan.kind.matrices * batch * plan.d_sae)


def check_memory(plans: Sequence[SAEPlan], sizes: Mapping[str, int], batch: int, device: torch.device) -> None:
    """Refuse SAEs that will not fit; `sizes`: the width of each site."""
    needed = sum(bytes_needed(plan, sizes[plan.site], sizes[plan.sites[-1]], batch) for plan in plans)
    free = free_bytes(device)
    if needed > free:
        widths = ", ".join(str(plan.d_sae) for plan in plans)
        raise UserError(
            f"width {widths}: training takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free on {device}; "
            "choose a smaller width or batch, or fewer SAEs at once"
        )


def free_bytes(device: torch.device) -> int:
    """Memory that is free: of the GPU, or of the machine and the control group that this process is in."""
    if device.type == "cuda":
        return card_memory(device)[0]
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found = [int(lines["MemAvailable"].split()[0]) * 1024]
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        found += [] if limit == "max" else [int(limit) - int(used)]
    except (OSError, KeyError, ValueError, IndexError):
        pass
    return min(found)
