"""A batch-invariant product: each text is multiplied by itself, so that no other decides in which order it adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from interp import forwards_replaced


def linear_layers(hf: Any) -> list[Any]:
    """The modules that multiply by a matrix: linear layers, and GPT-2's, which are of a class of their own."""
    return [
        module for module in hf.modules() if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    ]


@contextmanager
def one_order(hf: Any) -> Iterator[None]:
    """Inside, every linear layer of `hf` takes one text at a time, always from a fresh copy.

    A kernel chooses by the shape of its input, and where it lies in memory, in which order it adds up. Here both are
    the same whatever else is in the batch. Attention, norms and activation functions are left as they are: they work on
    each text by itself, but a vector kernel may round the rest behind its last whole vector otherwise (SiLU does, on
    some processors).
    """
    with forwards_replaced(linear_layers(hf), _text_by_text):
        yield


def _text_by_text(plain: Any) -> Any:
    def forward(x: Tensor) -> Tensor:
        return torch.cat([plain(text[None].clone()) for text in x])

    return forward
