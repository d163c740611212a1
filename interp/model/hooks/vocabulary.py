"""Tokens as people read them, and the ids that end a text."""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

BLANK = "▁"  # SentencePiece writes a blank before a word as this mark
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


def token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of every id, its blank included; a byte that is a part of a character is written as ‹E6›.

    Decoding ids one by one would lose the blank of a SentencePiece token ("▁of" and "of" alike), and write every part
    of a split character as the same sign.
    """
    size = len(tokenizer)
    pieces: list[Any] = tokenizer.convert_ids_to_tokens(list(range(size)))  # type: ignore[assignment]
    decoded = [str(text) for text in tokenizer.batch_decode([[i] for i in range(size)])]
    bytes_of = _byte_alphabet() if _is_byte_level(tokenizer) else {}
    special = set(tokenizer.all_special_tokens)
    return [_text(p, d, bytes_of, p in special) for p, d in zip(pieces, decoded, strict=True)]


def _text(piece: Any, decoded: str, bytes_of: dict[str, int], is_special: bool) -> str:
    if not isinstance(piece, str):  # an id that stands for nothing
        return decoded
    if is_special:
        return piece
    if byte := _BYTE.fullmatch(piece):
        return decoded if decoded.isprintable() and "�" not in decoded else f"‹{byte[1].upper()}›"
    if bytes_of and "�" in decoded and all(c in bytes_of for c in piece):
        return _with_bytes(bytes(bytes_of[c] for c in piece))
    if BLANK in piece:
        text = piece.replace(BLANK, " ")
        return text if text.strip() == decoded.strip() else decoded
    return decoded


def _with_bytes(raw: bytes) -> str:
    """Whole characters as they are, the bytes of a part of one as ‹E6›."""
    out, start = [], 0
    while start < len(raw):
        for stop in range(min(len(raw), start + 4), start, -1):
            try:
                out.append(raw[start:stop].decode())
            except UnicodeDecodeError:
                continue
            start = stop
            break
        else:
            out.append(f"‹{raw[start]:02X}›")
            start += 1
    return "".join(out)


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Does it write bytes as letters, as GPT-2's does? Asked with a character of four bytes."""
    ids = tokenizer("\U0001f389", add_special_tokens=False).input_ids
    pieces: list[Any] = tokenizer.convert_ids_to_tokens(ids)  # type: ignore[assignment]
    letters = "".join(p for p in pieces if isinstance(p, str)).removeprefix("Ġ")
    alphabet = _byte_alphabet()
    return bytes(alphabet.get(c, 0) for c in letters) == "\U0001f389".encode()


def _byte_alphabet() -> dict[str, int]:
    """The letter that stands for each byte in GPT-2's byte-level vocabulary (Radford et al. 2019), the other way."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def end_ids(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that end a text: the tokenizer's, and every one that the model's generation settings name.

    A chat model ends its turn at another token than its text (Gemma, Llama 3).
    """
    named = getattr(getattr(hf, "generation_config", None), "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])]
    return frozenset(i for i in ids if isinstance(i, int))
