"""Did somebody change the weights after the hooks were built?

The hooked tree shares the parameters that were there when it was built, and some architectures copy a few: numbers of
the old weights under the new ones' name are the worst that a toolkit can give, so they are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from interp.errors import UserError


@dataclass(frozen=True)
class BuiltFrom:
    """The parameters that the hooks share, and where some were copied, the state of all at that moment."""

    parameters: tuple[torch.nn.Parameter, ...]
    copied_at: int | None

    def check(self, hf: PreTrainedModel) -> None:
        """Raise UserError where a parameter was replaced, or changed in place after it was copied."""
        replaced = any(a is not b for a, b in zip(self.parameters, hf.parameters(), strict=False))
        if replaced or (self.copied_at is not None and self.copied_at != _state(hf)):
            raise UserError(
                "the weights of model.hf were changed after its hooks were built, and these hold the old ones; "
                "build a new one: Model(model.hf, model.tokenizer, model.provenance)"
            )


def remember_weights(hf: PreTrainedModel, *, copied: bool) -> BuiltFrom:
    """What hooks that are built now rest on; `copied` says whether they hold copies of some weights."""
    return BuiltFrom(tuple(hf.parameters()), _state(hf) if copied else None)


def _state(hf: PreTrainedModel) -> int:
    """A number that every in-place change of a weight raises."""
    return sum(p._version for p in hf.parameters())
