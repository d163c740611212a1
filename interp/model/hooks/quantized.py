"""Is a model quantised, and how: its matrices are then packed integers, which only their own modules can multiply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def describe_quantized(config: Any) -> str:
    """How the weights of a model with this config are stored ("bitsandbytes 4bit nf4", "gptq"); "" for plain ones."""
    told: Any = getattr(config, "quantization_config", None)
    if told is None:
        return ""
    record: dict[str, Any] = told if isinstance(told, dict) else told.to_dict()
    method = record.get("quant_method", "unknown")
    name = str(getattr(method, "value", method))
    if record.get("load_in_8bit"):
        return f"{name} 8bit"
    return f"{name} 4bit {record.get('bnb_4bit_quant_type', '')}".strip() if record.get("load_in_4bit") else name


def packed_state(hf: nn.Module) -> Iterator[Any]:
    """What modules keep of packed weights beside their parameters: scales, or the weights once more by another name."""
    for module in hf.modules():
        for value in vars(module).values():
            if not isinstance(value, nn.Module | Tensor | dict) and _holds_tensors(value):
                yield value


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(part, Tensor) for part in getattr(value, "__dict__", {}).values())
