"""What the model does with pieces: how much each surprises it, and where the last one is read as the whole word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Lab, Model, UserError
from interp.analysis import last_activations

CONTEXTS = (
    "They were talking about the",
    "Nobody had an answer to the question of",
    "On the last page there is a note on",
)
AT_ONCE = 4  # texts: a vocabulary is wide
KINDS = ("words of one piece", "first pieces", "second pieces", "later pieces")


@dataclass(frozen=True)
class Surprises:
    """A text's token ids, and how much each surprises a model, in nats; NaN at the first."""

    ids: list[int]
    loss: NDArray[np.float64]


def read_surprises(lab: Lab, model: Model, rows: Sequence[list[int]], what: str) -> list[Surprises]:
    """Each text, given as token ids, read by `model`."""
    out = []
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        losses = model.loss(some, batch_size=AT_ONCE).double().cpu().numpy()
        out += [Surprises(list(row), loss[: len(row)]) for row, loss in zip(some, losses, strict=True)]
        lab.progress(what, start + len(some), len(rows))
    return out


def surprise_by_piece(model: Model, texts_read: Sequence[Surprises]) -> dict[str, list[float]]:
    """Mean surprise of each document's tokens, in nats, by what piece of a word they are. Documents have all kinds."""
    texts = model.vocabulary
    starts = np.array([not t[:1].isalpha() or t[:1] == " " for t in texts])
    letters = np.array([t.strip().isalpha() and t.strip().isascii() for t in texts])
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for text in texts_read:
        place = _places(np.array(text.ids), starts, letters)
        means = [text.loss[1:][place[1:] == k] for k in range(len(KINDS))]
        if all(len(part) for part in means[:3]):
            for kind, part in zip(KINDS, means, strict=True):
                if len(part):
                    found[kind].append(float(part.mean()))
    return found


def _places(ids: NDArray[np.int64], starts: NDArray[np.bool_], letters: NDArray[np.bool_]) -> NDArray[np.int64]:
    """0: a word of one piece, 1: a first piece, 2: a second, 3: a later one, -1: no letters."""
    out = np.full(len(ids), -1)
    for i, token in enumerate(ids):
        if not letters[token]:
            continue
        if starts[token] or i == 0 or out[i - 1] == -1:
            follows = i + 1 < len(ids) and letters[ids[i + 1]] and not starts[ids[i + 1]]
            out[i] = 1 if follows else 0
        else:
            out[i] = min(3, max(2, int(out[i - 1]) + 1))
    return out


@dataclass(frozen=True)
class Halves:
    """Words that are one token, and the same words forced into two parts; all but `words` are token ids.

    `instead`: the first part of another word that begins with the same letter.
    """

    words: list[str]
    whole: list[list[int]]
    parts: list[tuple[list[int], list[int]]]
    instead: list[list[int]]


def halve(model: Model, words: Sequence[str], most: int) -> Halves:
    """Words of six letters or more that are one token, cut in the middle; each ends otherwise than the others.

    The half that stands instead of a word's own begins with the same letter, and where it can with the same two, in as
    many tokens: a model that only copies the first letter must read both alike. Raises UserError where there are too
    few.
    """
    start = model.tokenizer("a", add_special_tokens=False).input_ids
    long = [word for word in words if len(word) >= 6]
    halves = list(dict.fromkeys(word[: len(word) // 2] for word in long))
    firsts = {half: ids[len(start) :] for half, ids in zip(halves, _tokens_behind_a(model, halves), strict=True)}
    chosen: dict[int, tuple[str, list[int], tuple[list[int], list[int]], list[int]]] = {}
    for word, ids in zip(long, _tokens_behind_a(model, long), strict=True):
        if len(ids) != len(start) + 1:
            continue
        if len(chosen) == most:
            break
        half = word[: len(word) // 2]
        second = model.tokenizer(word[len(half) :], add_special_tokens=False).input_ids
        instead = _begins_alike(half, firsts)
        if firsts[half] and second and second[-1] != ids[-1] and instead:
            chosen.setdefault(second[-1], (word, ids[-1:], (firsts[half], second), instead))
    if len(chosen) < 20:
        raise UserError(
            f"{len(chosen)} words of the list are one token of six letters or more in this model; expected 20 or more"
        )
    return Halves(*map(list, zip(*chosen.values(), strict=True)))


def _tokens_behind_a(model: Model, words: Sequence[str]) -> list[list[int]]:
    """The ids of "a word", for each; in one call, for the list is long."""
    texts = [f"a {word}" for word in words]
    return model.tokenizer(texts, add_special_tokens=False).input_ids if texts else []


def _begins_alike(half: str, firsts: Mapping[str, list[int]]) -> list[int]:
    """The tokens of another half that begins as this one does; none where no other has its first letter."""
    others = [one for one, ids in firsts.items() if one[0] == half[0] and not one.startswith(half[:3]) and ids]
    alike = sorted(others, key=lambda one: (len(firsts[one]) != len(firsts[half]), one[:2] != half[:2]))
    return firsts[alike[0]] if alike else []


def read_as_whole(
    lab: Lab, model: Model, halves: Halves, layers: Sequence[int], what: str
) -> dict[str, NDArray[np.float64]]:
    """Is each forced word's last piece nearest, of all words, to its own whole word's vector? [word, layer], by how it

    is written: "cut in two", and "behind another word's half", where the last piece and the word's first letter are
    all that there is to know.
    Shares over contexts; centred cosines; the vectors of whole words stand in the same contexts.
    """
    sites = [model.residual(layer) for layer in layers]
    n = len(halves.words)
    right = {name: np.zeros((n, len(layers))) for name in ("cut in two", "behind another word's half")}
    for done, context in enumerate(CONTEXTS):
        start = model.encode(context)[0]
        rows = [[*start, *ids] for ids in halves.whole]
        rows += [[*start, *a, *b] for a, b in halves.parts]
        rows += [[*start, *a, *b] for a, (_, b) in zip(halves.instead, halves.parts, strict=True)]
        acts = last_activations(model, rows, sites)
        for k, site in enumerate(sites):
            whole, cut, other = acts[site].float().cpu().split(n)
            right["cut in two"][:, k] += _nearest(cut, whole) / len(CONTEXTS)
            right["behind another word's half"][:, k] += _nearest(other, whole) / len(CONTEXTS)
        lab.progress(what, done + 1, len(CONTEXTS))
    return right


def _nearest(vectors: Float[Tensor, "word d_model"], whole: Float[Tensor, "word d_model"]) -> NDArray[np.float64]:
    a, b = (torch.nn.functional.normalize(x - x.mean(0), dim=1) for x in (vectors, whole))
    return ((a @ b.T).argmax(1) == torch.arange(len(a))).double().numpy()


def best_layer(right: dict[str, NDArray[np.float64]]) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """The layer that is best for every second word, and (cut, other) of the other words there."""
    gap = right["cut in two"] - right["behind another word's half"]
    layer = int(gap[::2].mean(0).argmax())
    return layer, right["cut in two"][1::2, layer], right["behind another word's half"][1::2, layer]
