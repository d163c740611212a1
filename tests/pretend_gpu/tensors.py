"""A tensor on a pretended card: a wrapper without storage, around the CPU tensor that holds its numbers."""

from __future__ import annotations

from typing import Any

import torch

from .cards import CARDS, SPARE
from .streams import Memory, Stream, memory_of


class Pretend(torch.Tensor):
    """`held`: the numbers, on the CPU. `card`: where it says that it is. `memory`: the allocation it lies in."""

    held: torch.Tensor
    card: torch.device
    memory: Memory
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: torch.Tensor, card: torch.device | None = None, *, requires_grad: bool = False) -> Any:
        if card is None:  # `type(parameter)(tensor, requires_grad=…)`: a parameter on a card is of this class
            return torch.nn.Parameter(held, requires_grad)
        if CARDS.kind == "mps" and held.dtype in (torch.float64, torch.complex128):
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
                "float32 instead."
            )
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(SPARE, 0),
        )
        made.held, made.card, made.memory = held, card, memory_of(held, card)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from .operators import call

        return call(func, args, kwargs or {})

    device = property(lambda self: self.card)  # type: ignore[assignment]
    is_cuda = property(lambda self: CARDS.kind == "cuda")  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {self.card}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied: Any = Pretend(self.held.clone(), self.card)
            if getattr(self, "_is_param", False):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_of_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_of_tensors(index), value)

    def get_device(self) -> int:
        return self.card.index

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(
            f"can't convert {self.card} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        self.memory.kept_for.add(stream)

    def is_pinned(self, *_: Any) -> bool:  # type: ignore[override]
        return False


def resize(t: Pretend, held: torch.Tensor) -> None:
    """Give a wrapper the sizes that an operator gave what it holds: `out=` of an empty tensor, `unsqueeze_`."""
    before = torch._C._meta_in_tls_dispatch_include()
    torch._C._set_meta_in_tls_dispatch_include(True)
    try:
        with torch._C._DisableTorchDispatch():
            storage = torch.Tensor.untyped_storage(t)
            place = (held.storage_offset(), held.shape, held.stride())
            torch.ops.aten.set_.source_Storage_storage_offset(t, storage, *place)
    finally:
        torch._C._set_meta_in_tls_dispatch_include(before)


def _of_tensors(index: Any) -> Any:
    """Lists and arrays as tensors on the CPU: PyTorch would make them on the card in C++, out of our sight."""
    if isinstance(index, tuple):
        return tuple(map(_of_tensors, index))
    if isinstance(index, list):
        return torch.as_tensor(index, dtype=None if index else torch.long)
    return torch.as_tensor(index) if hasattr(index, "__array__") and not isinstance(index, torch.Tensor) else index
