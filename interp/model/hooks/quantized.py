"""Is a model quantised, and how: its matrices are then packed integers, which only their own modules can multiply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def describe_quantized(hf: Any) -> str:
    """How the weights of a model are stored ("bitsandbytes 4bit nf4", "gptq"); "" for plain ones.

    A config may tell of it where the weights are plain: of a model that was made from it anew, or unpacked.
    """
    told: Any = getattr(hf.config, "quantization_config", None)
    if told is None or not any(_is_packed(tensor) for tensor in (*hf.parameters(), *hf.buffers())):
        return ""
    record: dict[str, Any] = told if isinstance(told, dict) else told.to_dict()
    method = record.get("quant_method", "unknown")
    name = str(getattr(method, "value", method))
    if record.get("load_in_8bit"):
        return f"{name} 8bit"
    return f"{name} 4bit {record.get('bnb_4bit_quant_type', '')}".strip() if record.get("load_in_4bit") else name


def _is_packed(tensor: Tensor) -> bool:
    if tensor.is_floating_point():
        return tensor.dtype.itemsize < 2
    return tensor.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32)


def packed_state(hf: nn.Module) -> Iterator[Any]:
    """What modules keep of packed weights beside their parameters: scales, or the weights once more by another name."""
    for module in hf.modules():
        for value in vars(module).values():
            if not isinstance(value, nn.Module | Tensor | dict) and _holds_tensors(value):
                yield value


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(part, Tensor) for part in getattr(value, "__dict__", {}).values())
