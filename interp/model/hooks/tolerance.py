"""How far two computations of one number may lie apart, by what they compute in: rounding, and nothing else."""

from __future__ import annotations

import torch

_VALUES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}
_LOGITS = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.1}


def of_values(dtype: torch.dtype) -> float:
    """Of an activation, over the site's largest value. fp64 is as fp32: positions and norms are often fp32 in it."""
    return _VALUES.get(dtype, max(_VALUES.values()))


def of_logits(dtype: torch.dtype) -> float:
    """Of logits, behind all layers, over the largest of them."""
    return _LOGITS.get(dtype, max(_LOGITS.values()))
