"""What a model and its SAE say of a prompt, as plain data: what the explorer shows. Needs neither torch nor a model.

`interp.features.live.LiveModel` fills these in; a page that shows them asks for `Live` and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Active(NamedTuple):
    """A feature and how strongly it fires."""

    feature: int
    activation: float


class NextToken(NamedTuple):
    """A token that may come next: its id, its text, and the probability that the model gives it."""

    token: int
    text: str
    probability: float


class Part(NamedTuple):
    """What speaks for a next token: by how many nats its log-probability falls when this is taken away, everywhere.

    `feature` is None for what the SAE misses, and `name` says so then. `estimate` is the same to first order (gradient
    times activation), by which the parts were chosen.
    """

    feature: int | None
    name: str
    effect: float
    estimate: float = 0.0


@dataclass(frozen=True)
class PromptReading:
    """A prompt as the model reads it.

    `features[i]`: what fires at token i, strongest first; empty at attention sinks (`is_sink[i]`), which the SAE was
    not trained on. `error[i]`: norm of what the SAE misses there, as a share of the activation's norm. `next`: the
    likeliest next tokens after the whole prompt.
    """

    tokens: tuple[str, ...]
    is_sink: tuple[bool, ...]
    features: tuple[tuple[Active, ...], ...]
    error: tuple[float, ...]
    next: tuple[NextToken, ...]


@dataclass(frozen=True)
class Continuation:
    """What the model goes on with under one condition, and the likeliest next tokens at the prompt's end."""

    condition: str
    text: str
    next: tuple[NextToken, ...]


class Live(Protocol):
    """A loaded model with the SAE of an index. Every method raises UserError, in one line, for what it cannot do."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    def read(self, prompt: str) -> PromptReading:
        """What fires where."""
        ...

    def attribute(self, prompt: str, token: int, n: int = 20) -> tuple[Part, ...]:
        """What speaks for `token` (an id) as the next one, the `n` largest parts by size of effect, largest first."""
        ...

    def change(self, prompt: str, changes: Mapping[int, float], *, new_tokens: int = 20) -> tuple[Continuation, ...]:
        """Three conditions: as it is; with each feature's activation set to a number (0 ablates) where the SAE reads;
        and with random directions of the same length in place of the features.
        """
        ...

    def token_id(self, text: str) -> int:
        """The id of a text that is one token. Raises UserError for another."""
        ...
