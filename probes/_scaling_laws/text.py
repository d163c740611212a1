"""The text that the small models learn: characters, in small letters, so that a tiny model is not all vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from interp import UserError, load_corpus, split_corpus

RARE = 100  # a character that is met less often is one of "other"
ENOUGH = 10_000  # characters to choose by; twice as many to test on
TENTH = 10  # every so many-th document is not trained on
LEAST = 200_000  # characters to train on


@dataclass(frozen=True)
class Characters:
    """A text as numbers, whole documents apart: `train`; `choose`, by which learning rates are chosen; `test`."""

    train: Int[Tensor, " token"]
    choose: Int[Tensor, " token"]
    test: Int[Tensor, " token"]
    vocabulary: int

    def shuffled(self, seed: int) -> Characters:
        """The same characters in random order: nothing is left to learn but how often each comes."""
        generator = torch.Generator().manual_seed(seed)

        def dealt(part: Tensor) -> Tensor:
            return part[torch.randperm(len(part), generator=generator)]

        return Characters(dealt(self.train), dealt(self.choose), dealt(self.test), self.vocabulary)


def read_characters(corpus: Path | None) -> Characters:
    """The bundled sample, or a corpus of the user's; every tenth document is for testing, every tenth for choosing."""
    if corpus is None:
        training, held_out = split_corpus()
        test, choose = held_out[::2], held_out[1::2]
    else:
        documents = list(load_corpus(corpus))
        if len(documents) < 2 * TENTH:
            raise UserError(
                f"--corpus {corpus} holds {len(documents)} documents; expected {2 * TENTH} or more, for some are kept "
                "for testing; part it at empty lines, or write one a line (.jsonl)"
            )
        test, choose = documents[:: 2 * TENTH], documents[TENTH :: 2 * TENTH]
        training = [document for i, document in enumerate(documents) if i % TENTH]
    length = sum(map(len, training))
    if length < LEAST:
        raise UserError(f"--corpus {corpus} has {length:,} characters to train on; expected {LEAST:,} or more")
    counts = Counter("".join(training).lower())
    numbers = {c: i + 1 for i, c in enumerate(sorted(c for c, n in counts.items() if n >= RARE))}
    chosen, tested = _ids(choose, numbers)[:ENOUGH], _ids(test, numbers)[: 2 * ENOUGH]
    return Characters(_ids(training, numbers), chosen, tested, len(numbers) + 1)


def _ids(documents: Sequence[str], numbers: dict[str, int]) -> Int[Tensor, " token"]:
    return torch.tensor([numbers.get(c, 0) for c in "\n".join(documents).lower()], dtype=torch.int16)
