"""Where the tensors of a model lie."""

from __future__ import annotations

from typing import Any

import torch


def memory_of(tree: torch.nn.Module) -> set[int]:
    """Where the tensors lie that a tree of modules keeps: parameters, and what hangs on the modules beside them."""
    kept: list[Any] = [p for p in tree.parameters() if bool(p.any())]  # a bias of zeros that the bridge adds is nothing
    for module in tree.modules():
        for value in vars(module).values():
            kept += [part for part in getattr(value, "__dict__", {}).values() if not isinstance(value, torch.nn.Module)]
    return {t.untyped_storage().data_ptr() for t in kept if isinstance(t, torch.Tensor) and t.numel() > 8}
