"""What the host wants to know of a step: numbers that lie on a GPU, fetched together, for each fetch is a wait."""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor, stack


class Asked:
    """Numbers by name. The first that is read makes the program wait for the device, and brings all others along."""

    def __init__(self) -> None:
        self._wanted: dict[str, Shaped[Tensor, ""]] = {}
        self._known: dict[str, float] = {}

    def want(self, **numbers: Shaped[Tensor, ""]) -> None:
        """Fetch these too, whenever something is fetched."""
        for name, number in numbers.items():
            self._wanted[name] = number
            self._known.pop(name, None)

    def __getitem__(self, name: str) -> float:
        """A number that was wanted."""
        if name not in self._known:
            wanted = {key: value for key, value in self._wanted.items() if key not in self._known}
            fetched = stack([number.detach().double() for number in wanted.values()]).tolist()
            self._known |= dict(zip(wanted, fetched, strict=True))
        return self._known[name]
