"""CUDA's rules: which tensors and which generators an operator takes together."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch

from .cards import CARDS, place
from .ledger import note
from .tensors import Pretend

ACROSS = {"copy_", "_copy_from", "_to_copy", "set_", "_local_scalar_dense"}  # these take tensors of several devices
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
# Not elementwise by PyTorch's own tag, and yet a number without dimensions may come from the CPU.
TAKE_NUMBERS = {
    "fill_", "fill", "masked_fill", "masked_fill_", "index_fill", "index_fill_", "where", "result_type", "lerp",
}  # fmt: skip
OWN = 0x9E3779B9  # a card and the CPU draw different numbers from one seed


def refuse_mixed(func: Any, name: str, args: Any, tensors: Sequence[torch.Tensor]) -> None:
    """Raise as CUDA would where tensors of several devices come together."""
    ours = [t for t in tensors if isinstance(t, Pretend)]
    cards = {t.card for t in ours}
    if name in ACROSS:
        return
    if len(cards) > 1:
        first, second, *_ = sorted(map(str, cards))
        raise RuntimeError(f"{_MIXED}, {first} and {second}! (in {func})")
    others = [t for t in tensors if not isinstance(t, Pretend) and t.device.type == "cpu"]
    if not ours or not others:
        return
    if name in INDEXED:
        if not isinstance(args[0], Pretend):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        indices = [i for i in args[1] if i is not None]
        for index in indices:
            if not isinstance(index, Pretend):
                note("upload", f"{name}: index")
        others = [t for t in others if t.ndim and not any(t is i for i in indices)]
    elif name in TAKE_NUMBERS or (torch.Tag.pointwise in func.tags and not _clamps_by_tensor(func, name)):
        others = [t for t in others if t.ndim]
    if others:
        shapes = [tuple(t.shape) for t in tensors]
        raise RuntimeError(f"{_MIXED}, {ours[0].card} and cpu! (in {func}, shapes {shapes})")


_MIXED = "Expected all tensors to be on the same device, but found at least two devices"


def _clamps_by_tensor(func: Any, name: str) -> bool:
    return name.startswith("clamp") and func._overloadname == "Tensor"


class Generator(torch.Generator):
    """torch.Generator("cuda"): a CPU's generator that says that it is the card's, and draws other numbers."""

    card: torch.device

    def __new__(cls, device: Any = "cpu") -> Any:
        there = place(torch.device(device))
        if there.type != CARDS.kind:
            return torch._C.Generator(device)
        made: Any = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made.card = there
        _of_cards[made._cdata] = made  # PyTorch hands operators another Python object of the same generator
        return made

    def __init__(self, device: Any = "cpu") -> None: ...

    def manual_seed(self, seed: int) -> Generator:
        super().manual_seed(seed ^ OWN)
        return self

    device = property(lambda self: self.card)  # type: ignore[assignment]


_of_cards: weakref.WeakValueDictionary[int, Generator] = weakref.WeakValueDictionary()
_defaults: dict[int, Generator] = {}


def default_generator(index: int) -> Generator:
    """A card's own, from which it draws where no generator came: not the CPU's numbers."""
    if index not in _defaults:
        _defaults[index] = Generator(torch.device(CARDS.kind, index))
        _defaults[index].manual_seed(torch.initial_seed())
    return _defaults[index]


def with_generator(func: Any, args: Any, kwargs: dict[str, Any], card: torch.device) -> dict[str, Any]:
    """The keywords with the card's generator, for an operator that draws there. Raises for a CPU's."""
    if card.type != CARDS.kind:
        return kwargs
    given = kwargs.get("generator") or next((a for a in args if isinstance(a, torch.Generator)), None)
    if given is not None:
        if getattr(given, "_cdata", None) not in _of_cards:
            raise RuntimeError(f"Expected a '{CARDS.kind}' device type for generator but found 'cpu' (in {func})")
        return kwargs
    takes = any(a.name == "generator" for a in func._schema.arguments)
    if takes and torch.Tag.nondeterministic_seeded in func.tags:
        return kwargs | {"generator": default_generator(card.index)}
    return kwargs
