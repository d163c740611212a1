"""One operator on a pretended card: its rules are kept, its work is noted, its numbers are computed on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from .cards import CARDS, HERE, is_ours, place
from .ledger import note, note_operator
from .rules import refuse_mixed, with_generator
from .streams import LOCK, LateCopy, Stream, current_stream, is_pinned, pin, unwritten
from .tensors import Pretend, resize

FRESH = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
MATH = 0  # scaled_dot_product_attention's way of plain operators
new_empty = torch.empty  # `machine` puts another in its place


def call(func: Any, args: Any, kwargs: Any) -> Any:
    """An operator of which some argument, or the result, is on a card."""
    name = func._schema.name.removeprefix("aten::")
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, Pretend)]
    asked = kwargs.get("device")
    if asked is not None:
        asked, kwargs["device"] = place(asked), torch.device("cpu")
    card = asked or (ours[0].card if ours else place())
    if ours:
        HERE.seen = ours[0].card.index
    if name == "_fused_sdp_choice":
        return MATH
    if name in ("_pin_memory", "is_pinned"):
        raise RuntimeError("cannot pin a tensor that is on a GPU: only dense CPU tensors can be pinned")
    refuse_mixed(func, name, args, tensors)
    kwargs = with_generator(func, args, kwargs, card)
    if name == "copy_":
        return _copy(args[0], args[1], late=bool(args[2] if len(args) > 2 else kwargs.get("non_blocking")))
    if name == "_to_copy" and ours and card.type != CARDS.kind:
        return _to_host(args[0], kwargs)
    if not _is_view(func) and name not in FRESH and name != "detach":
        note_operator(name, args, kwargs)
        if ours or card.type == CARDS.kind:
            _take_turn(current_stream(ours[0].card if ours else card), ours, _written(func, args, kwargs))
    return _computed(func, args, kwargs, name, card)


def _computed(func: Any, args: Any, kwargs: Any, name: str, card: torch.device) -> Any:
    """The operator on what the wrappers hold; its results wrapped, those that came as arguments in the same wrapper."""
    wrappers: dict[int, Pretend] = {}

    def bare(x: Any) -> Any:
        if isinstance(x, Pretend):
            wrappers[id(x.held)] = x
            return x.held
        return torch.device("cpu") if isinstance(x, torch.device) and is_ours(x) else x

    def dressed(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        wrapper = wrappers.get(id(x))
        if wrapper is not None:
            if wrapper.shape != x.shape or wrapper.stride() != x.stride():
                resize(wrapper, x)
            return wrapper
        if card.type != CARDS.kind:
            return x
        if name in FRESH and x.is_floating_point() and x.numel():
            unwritten(x)
        return Pretend(x.resolve_conj().resolve_neg(), card)  # C++ does not see these bits through the wrapper

    if name == "histc" and isinstance(args[0], Pretend) and not args[0].is_floating_point():
        # CUDA counts whole numbers too
        return _computed(func, (args[0].double(), *args[1:]), kwargs, name, card).to(args[0].dtype)
    with torch._C._DisableTorchDispatch():
        out = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    return tree_map(dressed, out)


def _is_view(func: Any) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _written(func: Any, args: Any, kwargs: Any) -> set[int]:
    """Ids of the arguments that the operator writes into."""
    out: list[Any] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            out += tree_flatten(args[i] if i < len(args) else kwargs.get(argument.name))[0]
    return {id(t) for t in out}


def _take_turn(stream: Stream, tensors: list[Pretend], written: set[int]) -> None:
    """The operator goes into a stream's queue, and what it reads and writes is looked at."""
    with LOCK:
        stream.clock += 1
        for t in tensors:
            t.memory.touched(stream, writes=id(t) in written)


def _copy(to: torch.Tensor, source: torch.Tensor, *, late: bool) -> torch.Tensor:
    if not isinstance(to, Pretend):
        assert isinstance(source, Pretend)
        return _download(to, source, late=late)
    touched = [source, to] if isinstance(source, Pretend) else [to]
    stream = current_stream(to.card)
    if isinstance(source, Pretend) and source.card != to.card:  # the streams of both cards wait for each other
        stream.wait_stream(current_stream(source.card))
        _take_turn(stream, touched, {id(to)})
        current_stream(source.card).wait_stream(stream)
    else:
        _take_turn(stream, touched, {id(to)})
    if isinstance(source, Pretend):
        note("kernel", "copy_")
    elif late and is_pinned(source):
        note("late", "from pinned memory")
    elif source.numel():
        note("upload", "copy_")
    to.held.copy_(source.held if isinstance(source, Pretend) else source)
    return to


def _download(to: torch.Tensor, source: Pretend, *, late: bool) -> torch.Tensor:
    stream = current_stream(source.card)
    _take_turn(stream, [source], set())
    if late and is_pinned(to):
        with LOCK:
            unwritten(to)
            stream.late.append(LateCopy(stream, to, source.held, source.memory))
        note("late", "to pinned memory")
    else:
        note("wait", "copy to the CPU")
        stream.synchronize()
        to.copy_(source.held)
    return to


def _to_host(source: Pretend, kwargs: dict[str, Any]) -> torch.Tensor:
    """`.to("cpu")`; without blocking it lands in pinned memory, later."""
    if kwargs.get("non_blocking"):
        dtype = kwargs.get("dtype") or source.dtype
        cast: Any = source.to(dtype)
        return _download(pin(new_empty(source.shape, dtype=dtype)), cast, late=True)
    stream = current_stream(source.card)
    _take_turn(stream, [source], set())
    note("wait", "copy to the CPU")
    stream.synchronize()
    return torch.ops.aten._to_copy(source.held, **{key: value for key, value in kwargs.items() if key != "device"})
