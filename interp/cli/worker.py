"""Which share of the work is this process's: from --shard, or from what torchrun and Slurm say."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from interp.errors import UserError

if TYPE_CHECKING:
    from interp.activations.capture import Worker


def choose_worker(shard: str | None) -> Worker:
    """From --shard, else from what torchrun or SLURM say."""
    from interp.activations.capture import Worker

    if shard is not None:
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
        if not found:
            raise UserError(f"--shard {shard}; expected I/N with I from 0 to N - 1, such as 0/8")
        return Worker(int(found[1]), int(found[2]))
    if (torchrun := _told("RANK", "WORLD_SIZE")) and torchrun[1] > 1:
        return Worker(*torchrun)
    if slurm := _told("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"):
        task, count, first, step = slurm
        return Worker((task - first) // max(step, 1), count)
    return Worker()


def _told(index: str, count: str, *more: str) -> tuple[int, ...] | None:
    """What the environment says, `more` counting as 0 where it is silent; None without `index` or `count`."""
    if index not in os.environ or count not in os.environ:
        return None
    told = {name: os.environ.get(name, "0") for name in (index, count, *more)}
    if wrong := [f"{name}={value!r}" for name, value in told.items() if not re.fullmatch(r"\d{1,9}", value)]:
        raise UserError(f"{', '.join(wrong)} in the environment; expected numbers; use --shard I/N")
    return tuple(map(int, told.values()))
