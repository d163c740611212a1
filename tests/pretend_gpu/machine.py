"""The machine with its cards: from `install` on, torch in this process says that they are there."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
import torch.utils._device
from torch import library as dispatcher
from torch.utils.backend_registration import _DummyBackendModule, rename_privateuse1_backend

from .cards import CARDS, HERE, SPARE, Kind, current, place
from .operators import call, new_empty
from .rules import Generator, default_generator
from .streams import Event, Stream, current_stream, default_stream, is_pinned, on_stream, pin, synchronize
from .tensors import Pretend

_kept: list[Any] = []  # what C++ holds by a bare pointer
_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"  # c10's table of device guards, by type of device
_PLACES, _SPARE_PLACE, _PLACE = 21, 20, {"cuda": 1, "mps": 13}


def install(count: int = 1, *, kind: Kind = "cuda", major: int = 9) -> None:
    """Pretend so many cards from here on, in this process. There is no way back.

    `kind`: "mps" pretends an Apple GPU, which has no float64. `major`: the compute capability; below 8 without bf16.
    """
    if _kept:
        raise RuntimeError("cards are pretended already")
    CARDS.kind, CARDS.count, CARDS.major = kind, count, major
    _register_backend()
    for key in ("PrivateUse1", kind.upper()):
        kernels = dispatcher.Library("_", "IMPL")
        kernels.fallback(lambda func, *args, **kwargs: call(func, args, kwargs), key)
        _kept.append(kernels)
    torch.utils._device._device_constructors()  # kept from here on: `with torch.device("meta")` must know the true ones
    for name in ("tensor", "as_tensor", "scalar_tensor"):
        setattr(torch, name, _made_on_the_cpu_first(getattr(torch, name)))
    torch.empty = _may_pin(torch.empty)  # type: ignore[assignment]
    torch.Tensor.pin_memory = lambda self, *_: pin(new_empty(self.shape, dtype=self.dtype).copy_(self))  # type: ignore
    torch.Tensor.is_pinned = lambda self, *_: is_pinned(self)  # type: ignore[assignment]
    torch.Tensor.to = _to_a_named_card(torch.Tensor.to)  # type: ignore[assignment]
    torch.Tensor.cpu = lambda self: self.to("cpu")  # type: ignore[assignment]
    torch._C._group_tensors_by_device_and_dtype = _grouped  # type: ignore[attr-defined]
    torch.Generator = Generator  # type: ignore[misc]
    torch.nn.Module._apply = _apply  # type: ignore[assignment]
    if kind == "cuda":
        for name, value in _cuda().items():
            setattr(torch.cuda, name, value)
        torch._C._cuda_getCurrentRawStream = lambda index: 0  # type: ignore[attr-defined]  # bitsandbytes asks for it
    else:
        torch.backends.mps.is_available = lambda: True
    torch.accelerator.is_available = lambda: True
    torch.accelerator.current_accelerator = lambda check_available=False: torch.device(kind)  # type: ignore


def is_installed() -> bool:
    return bool(_kept)


def _register_backend() -> None:
    """A device guard for the spare backend, and the same one for the cards': PyTorch's CPU build has none."""
    acc: Any = torch._C._acc  # type: ignore[attr-defined]

    class Guard(acc.DeviceGuard):
        def type_(self) -> Any:
            return torch._C._autograd.DeviceType.PrivateUse1  # type: ignore[attr-defined]

    class Hooks(acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return True

        def is_built(self) -> bool:
            return True

        def has_primary_context(self, index: int) -> bool:
            return True

    rename_privateuse1_backend(SPARE)
    torch._register_device_module(SPARE, _DummyBackendModule())
    guard, hooks = Guard(), Hooks()
    acc.register_python_privateuseone_hook(hooks)
    acc.register_python_privateuseone_device_guard(guard)
    _kept.extend((guard, hooks))
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libc10.so"))
    guards = (ctypes.c_void_p * _PLACES).in_dll(library, _REGISTRY)
    guards[_PLACE[CARDS.kind]] = guards[_SPARE_PLACE]


def _made_on_the_cpu_first(make: Any) -> Any:
    """`torch.tensor` and its like, which would fill memory of the card in C++."""

    def made(data: Any, *args: Any, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> Any:
        ours = isinstance(data, Pretend) and make.__name__ == "as_tensor"
        there = data.device if ours and device is None else place("cpu" if device is None else device)
        if ours:
            out = data.to(device=there, dtype=kwargs.get("dtype") or data.dtype)
        elif device is None or there.type != CARDS.kind:
            out = make(data, *args, **({} if device is None else {"device": device}), **kwargs)
        else:
            out = make(data, *args, **kwargs).to(there)
        return out.requires_grad_() if requires_grad else out

    return made


class _Moved(torch.autograd.Function):
    """A move from a card, whose gradient goes back to that one: C++ would send it to the card seen last."""

    @staticmethod
    def forward(ctx: Any, there: Any, move: Any) -> Any:
        ctx.card, ctx.dtype = there.card, there.dtype
        return move(there)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].to(ctx.card).to(ctx.dtype), None


def _to_a_named_card(to: Any) -> Any:
    """`x.to("cuda")`: C++ would take it for a wish to be beside whatever came last."""

    def named(what: Any) -> Any:
        if type(what) is int:  # a card by its number alone
            return place(what)
        is_device = isinstance(what, str | torch.device) and torch.device(what).type == CARDS.kind
        return place(what) if is_device else what

    def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
        like = kwargs.pop("other", args[0] if args else None)
        if isinstance(like, Pretend):  # `x.to(y)`: beside y, of its dtype
            args = (like.card, like.dtype, *args[1:])
        args, kwargs = tuple(map(named, args)), {key: named(value) for key, value in kwargs.items()}
        wanted = {*args, *kwargs.values()} - {False, True}
        if isinstance(self, Pretend) and wanted <= {self.card, self.dtype} and not kwargs.get("copy"):
            return self  # it is there: C++ knows of one card only, and would copy
        if isinstance(self, Pretend) and self.requires_grad and torch.is_grad_enabled():
            return _Moved.apply(self, lambda it: to(it, *args, **kwargs))
        return to(self, *args, **kwargs)

    return moved


def _grouped(lists: Any, with_indices: bool = False) -> dict[Any, Any]:
    """Lists of tensors, parted by the card of the first list's: C++ sees one card only."""
    parts: dict[Any, Any] = {}
    for i, first in enumerate(lists[0]):
        part, numbers = parts.setdefault((first.device, first.dtype), ([[] for _ in lists], []))
        for into, each in zip(part, lists, strict=True):
            into += each[i : i + 1]  # some lists are empty
        numbers.append(i)
    return {key: (part, numbers if with_indices else []) for key, (part, numbers) in parts.items()}


def _may_pin(make: Any) -> Any:
    def made(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
        return pin(make(*args, **kwargs)) if pin_memory else make(*args, **kwargs)

    return made


def _apply(self: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
    """nn.Module._apply: each parameter once, so that tied weights stay tied, and the same Python object after it."""
    moved: dict[int, Any] = {}
    for module in self.modules() if recurse else [self]:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in moved:
                    moved[id(parameter)] = _moved(parameter, fn)
                module._parameters[name] = moved[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return self


def _moved(parameter: Any, fn: Any) -> Any:
    gradient = None if parameter.grad is None else fn(parameter.grad)
    with torch.no_grad():
        moved = fn(parameter)
    if moved is parameter:
        return parameter
    new = torch.nn.Parameter(moved.detach(), parameter.requires_grad)
    del moved
    parameter.grad = None
    try:
        torch.utils.swap_tensors(parameter, new)
    except RuntimeError:  # something in C++ holds it
        parameter = new
    parameter.grad = gradient
    return parameter


class _on_card:  # noqa: N801 - it stands in torch.cuda.device's place
    def __init__(self, device: Any) -> None:
        self.index = place(device).index

    def __enter__(self) -> None:
        self.before, HERE.index = current(), self.index

    def __exit__(self, *_: object) -> None:
        HERE.index = self.before


def _set_device(device: Any) -> None:
    HERE.index = place(device).index


def _bf16_is_supported(including_emulation: bool = True) -> bool:
    return including_emulation or CARDS.major >= 8  # as torch has it: emulated, every card can


def _cuda() -> dict[str, Any]:
    """What stands in the place of torch.cuda's own."""

    def free(device: Any = None) -> tuple[int, int]:
        place(device)
        return CARDS.total_memory - CARDS.in_use - CARDS.cached, CARDS.total_memory

    def each(value: Any) -> Any:
        def of_card(device: Any = None) -> Any:
            place(device)
            return value()

        return of_card

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: CARDS.count,
        "current_device": current,
        "set_device": _set_device,
        "device": _on_card,
        "synchronize": synchronize,
        "get_device_name": each(lambda: CARDS.name),
        "get_device_properties": each(lambda: CARDS),
        "get_device_capability": each(lambda: (CARDS.major, CARDS.minor)),
        "is_bf16_supported": _bf16_is_supported,
        "mem_get_info": free,
        "memory_reserved": each(lambda: CARDS.cached),
        "memory_allocated": each(lambda: 0),
        "max_memory_allocated": each(lambda: 0),
        "reset_peak_memory_stats": each(lambda: None),
        "empty_cache": lambda: None,
        "manual_seed": lambda seed: default_generator(current()).manual_seed(seed),
        "manual_seed_all": lambda seed: [default_generator(i).manual_seed(seed) for i in range(CARDS.count)],
        "get_rng_state": lambda device="cuda": default_generator(place(device).index).get_state(),
        "set_rng_state": lambda state, device="cuda": default_generator(place(device).index).set_state(state),
        "Stream": Stream,
        "Event": Event,
        "stream": on_stream,
        "current_stream": current_stream,
        "default_stream": default_stream,
        "is_current_stream_capturing": lambda: False,
        "_check_bf16_tensor_supported": lambda device: True,
    }
