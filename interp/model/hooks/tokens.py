"""Prompts to token ids: padding side and beginning-of-sequence policy, explicit and recorded.

The three ways a toolkit gets this wrong silently: padding that shifts positions, a second BOS token in front of one
the user typed, and no BOS where the model was trained with one (TransformerLens #1772; GPT-2 left-padded without
position ids is off by 0.38).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from operator import index
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.errors import UserError
from interp.model.hooks.host import known, upload

AT_ONCE = 1024  # texts that the tokenizer gets in one call
BosPolicy = Literal["tokenizer", "always", "never"]
Side = Literal["right", "left"]
Prompts = str | Sequence[str] | Sequence[Sequence[int]] | Int[Tensor, "prompt pos"]


@dataclass
class Kept:
    """What edits made of turns that the model reads again, having no cache to go on from: nobody asks them twice.

    `pieces`: for each edit (its identity), its how manieth run in a forward (a module may run twice), and whether the
    first axis holds prompts, the results of one turn after the other.
    """

    pieces: dict[tuple[int, int, bool], list[Tensor]] = field(default_factory=dict)

    def of(self, edit: object, run: int, *, per_prompt: bool) -> list[Tensor]:
        """The results of an edit so far; who runs it adds to them."""
        return self.pieces.setdefault((id(edit), run, per_prompt), [])

    def repeated(self, copies: int) -> Kept:
        """The same for a batch that holds every prompt `copies` times in a row."""
        return Kept(
            {
                key: [piece.repeat_interleave(copies, 0) if key[2] else piece for piece in pieces]
                for key, pieces in self.pieces.items()
            }
        )


@dataclass(frozen=True)
class Tokens:
    """A padded batch. `mask` is True at real tokens; `index` says which of the caller's `total` prompts each row is.

    `past`: the mask of the tokens that stand before these and were read in an earlier forward (a cache holds them).
    `turns`: how many columns were read at once, where several forwards are done in one: an edit is asked for each by
    itself, as it would have been. `kept`: what edits made of those of them that were read before.
    `sees`, `places`: which keys each token may attend to, and at which position it stands, where that is not what
    follows from the masks.
    """

    ids: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]
    index: Int[Tensor, " prompt"]
    total: int
    past: Bool[Tensor, "prompt past"] | None = None
    turns: tuple[int, ...] = ()
    kept: Kept | None = None
    sees: Bool[Tensor, "pos key"] | None = None
    places: Int[Tensor, "prompt pos"] | None = None

    @cached_property
    def whole_mask(self) -> Bool[Tensor, "prompt key"]:
        """True at real tokens, those of earlier forwards included."""
        return self.mask if self.past is None else torch.cat([self.past, self.mask], dim=1)

    @cached_property
    def before(self) -> Int[Tensor, " prompt"] | None:
        """How many tokens of each prompt were read in earlier forwards; None in the first one."""
        return None if self.past is None else self.past.sum(-1)

    @cached_property
    def is_full(self) -> bool:
        """Is every token real?"""
        return bool(known(self.mask).all())

    @cached_property
    def sees_padding(self) -> bool:
        """Is any token padding, here or among those of earlier forwards?"""
        return not self.is_full or (self.past is not None and not bool(known(self.past).all()))

    @cached_property
    def pads_right_only(self) -> bool:
        """Do all real tokens stand at the left, so that padding cannot reach them in a causal model?"""
        if self.past is not None:
            return False
        mask = known(self.mask)
        return not bool((mask[:, 1:] & ~mask[:, :-1]).any())

    @property
    def position_ids(self) -> Int[Tensor, "prompt pos"]:
        """0 at the first real token of each row, whichever side is padded."""
        if self.places is not None:
            return self.places
        return (self.whole_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]

    @classmethod
    def full(cls, ids: Int[Tensor, "prompt pos"]) -> Tokens:
        """A batch of prompts of one length, which are all that there are."""
        return cls(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(len(ids)), len(ids))

    @property
    def last(self) -> Int[Tensor, " prompt"]:
        """The column of each row's last real token."""
        columns = torch.arange(self.mask.shape[1], device=self.mask.device).expand_as(self.mask)
        return torch.where(self.mask, columns, -1).max(-1).values


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Prompts, bos: BosPolicy) -> list[list[int]]:
    """Token ids per prompt. Text follows `bos`; ids are taken as they are (the caller has decided already).

    What a tokenizer appends by itself (an EOS, as with `add_eos_token=True`) is left out: a prompt goes on behind it.
    Raises UserError for no prompts, an empty prompt, ids outside the vocabulary, or `bos="always"` without a BOS token.
    """
    if bos not in get_args(BosPolicy):
        raise UserError(f"bos={bos!r}; expected one of {', '.join(get_args(BosPolicy))}")
    if isinstance(prompts, Tensor):
        prompts = prompts.tolist()
    if isinstance(prompts, bytes | bytearray):
        raise UserError(f"prompts is {bytes(prompts)!r:.80}, bytes; expected text; decode it: prompt.decode()")
    if not isinstance(prompts, Iterable) or isinstance(prompts, Mapping | Set):  # keys are no prompts; sets no order
        raise UserError(
            f"prompts is {prompts!r:.80}; expected a string, a list of strings or a list of lists of token ids"
        )
    rows: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
    if rows and all(isinstance(row, Integral) for row in rows):
        raise UserError("prompts is a flat list of token ids; expected one list per prompt; wrap it: [[1, 2, 3]]")
    if not rows:
        raise UserError("no prompts came; expected at least one")
    from_text = iter(_encode_texts(tokenizer, [row for row in rows if isinstance(row, str)], bos))
    ids = [next(from_text) if isinstance(row, str) else _as_ids(row, i) for i, row in enumerate(rows)]
    size = len(tokenizer)
    for i, row in enumerate(ids):
        if not row:
            raise UserError(f"prompt {i} is empty: it has no tokens; give it some text or set bos='always'")
        wrong = [t for t in row if not 0 <= t < size]
        if wrong:
            raise UserError(f"prompt {i} holds token id {wrong[0]}; expected 0 to {size - 1} for this tokenizer")
    return ids


def _as_ids(row: Any, i: int) -> list[int]:
    if isinstance(row, bytes | bytearray):
        raise UserError(f"prompt {i} is {bytes(row)!r:.80}, bytes; expected text; decode it: prompt.decode()")
    try:
        return [index(t) for t in row]  # unlike int(), this refuses 1.7 and "1"
    except TypeError as error:
        raise UserError(f"prompt {i} is {row!r:.80}; expected a string or a list of whole-number token ids") from error


def _encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], bos: BosPolicy) -> list[list[int]]:
    """Many in one call, for a call takes longer than a short text in it; not a whole corpus, for it keeps them all."""
    if not texts:
        return []
    for text in texts:
        if not text.isascii() and (lone := re.search("[\ud800-\udfff]", text)):
            raise UserError(f"a prompt is no UTF-8 text at character {lone.start()}; expected text; save it as UTF-8")
    parts = [_encode_under(tokenizer, texts[i : i + AT_ONCE], bos) for i in range(0, len(texts), AT_ONCE)]
    rows = [ids for part in parts for ids in part]
    for text, ids in zip(texts, rows, strict=True):
        own = ids[1:] if ids[:1] == [tokenizer.bos_token_id] else ids  # GPT-2's BOS and its unknown token are one
        if tokenizer.unk_token_id in own and str(tokenizer.unk_token) not in text:  # as in a vocabulary of whole words
            known = tokenizer.get_vocab()
            words = ", ".join(repr(w) for w in text.split() if w not in known) or repr(text)
            raise UserError(f"this tokenizer does not know {words:.200}; expected words of its vocabulary")
    return rows


def _encode_under(tokenizer: PreTrainedTokenizerBase, texts: list[str], bos: BosPolicy) -> list[list[int]]:
    bos_id = tokenizer.bos_token_id
    if bos == "tokenizer":
        behind = len(appended(tokenizer))
        rows = [ids[: len(ids) - behind] for ids in tokenizer(texts).input_ids]
        # A BOS token typed into the prompt and one added by the tokenizer are two: keep one.
        doubled = [len(ids) > 1 and ids[0] == ids[1] == bos_id for ids in rows]
        one_is_added = any(doubled) and adds_bos(tokenizer)
        return [ids[1:] if twice and one_is_added else ids for ids, twice in zip(rows, doubled, strict=True)]
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    if bos == "never":
        return rows
    if not isinstance(bos_id, int):
        raise UserError("bos='always', but this tokenizer has no BOS token; use bos='never' or 'tokenizer'")
    return [ids if ids[:1] == [bos_id] else [bos_id, *ids] for ids in rows]


def appended(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that this tokenizer puts behind every text by itself; mostly none, or one EOS."""
    bare, whole = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[start + len(bare) :]
    return []


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Does this tokenizer put a BOS token in front by itself?"""
    bare, ids = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    return len(ids) > len(bare) and ids[0] == tokenizer.bos_token_id


def pad(
    rows: Sequence[Sequence[int]], index: Sequence[int], total: int, side: Side, pad_id: int, device: torch.device
) -> Tokens:
    """Pad `rows`, which are the prompts `index` of `total`, to one length. `pad_id` is never seen by attention."""
    if side not in get_args(Side):
        raise UserError(f"padding={side!r}; expected one of {', '.join(get_args(Side))}")
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        span = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, span] = torch.tensor(row, dtype=torch.long)
        mask[i, span] = True
    return Tokens(upload(ids, device), upload(mask, device), torch.tensor(list(index), dtype=torch.long), total)


def batches_of(rows: Sequence[Sequence[int]], batch_size: int, kind: Callable[[int], Hashable]) -> list[list[int]]:
    """Split prompt indices into batches of similar length, so that little is padded; each of one `kind` of prompt."""
    if not hasattr(batch_size, "__index__") or batch_size < 1:
        raise UserError(f"batch_size={batch_size!r}; expected 1 or more")
    groups: dict[Hashable, list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        groups.setdefault(kind(i), []).append(i)
    return [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]
