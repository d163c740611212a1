"""Sums in the widest floating-point numbers that a device has: float64, on Apple's GPUs float32."""

from __future__ import annotations

import torch
from torch import Tensor


def widest(device: torch.device) -> torch.dtype:
    """The dtype that sums are made in on this device."""
    return torch.float32 if device.type == "mps" else torch.float64


def widen(values: Tensor) -> Tensor:
    """The same numbers in that dtype."""
    return values.to(widest(values.device))
