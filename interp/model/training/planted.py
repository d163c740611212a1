"""Models whose mechanism is known, because it was put there by hand: what every method must find, and nothing else.

Both are GPT-2s whose residual stream is cut into blocks of one-hot codes: which token this is, where it stands, which
token stood before, which fact was looked up, and what comes next. All other weights are small noise.

- `plant_induction`: a head of one layer writes the previous token; a head of a later one looks for the place whose
  previous token is this one, and says what stands there (Elhage et al. 2021, Olsson et al. 2209.11895).
- `plant_lookup`: the neurons of one MLP turn a subject, wherever it stands, into its answer; a head of a later layer
  carries that to the prompt's last token (as Geva et al. 2304.14767 found for facts).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp.model.model import Model
from interp.model.provenance import describe_in_memory
from interp.model.training.small import word_tokenizer

WORDS = [f"w{i}" for i in range(21)]  # with <pad>, <bos> and <unk>, 24 tokens
SUBJECTS, ANSWERS, FILLERS, QUERY = WORDS[:6], WORDS[6:12], WORDS[12:20], WORDS[20]
LAYERS, HEADS, D_HEAD, POSITIONS = 4, 4, 32, 24
D_MODEL = HEADS * D_HEAD
CODE = 24  # length of a one-hot code
TOKEN, PLACE, PREVIOUS, FACT, NEXT = range(0, 5 * CODE, CODE)  # where each code begins in the residual stream
SHARP = 2.0  # query and key weights: a match scores some 45 above the rest, so that attention is all or nothing
NORM = 8.0  # what a layer norm multiplies by where the residual stream holds two ones: sqrt(128 / 2)
NOISE = 0.01


@dataclass(frozen=True)
class Planted:
    """A model and where its mechanism is: of the induction pair the layers and heads, of the lookup its MLP's layer."""

    model: Model
    writer: tuple[int, int | None]
    reader: tuple[int, int]


@dataclass(frozen=True)
class Contrast:
    """Prompts of one layout that differ in one token, with the answer of each; `at` is that token's position."""

    source: list[str]
    corrupt: list[str]
    right: list[int]
    wrong: list[int]
    at: int


def plant_induction(seed: int) -> Planted:
    """A previous-token head and an induction head, in layers and heads that `seed` draws."""
    rng = random.Random(seed)
    first, second = sorted(rng.sample(range(LAYERS), 2))
    writer, reader = (first, rng.randrange(HEADS)), (second, rng.randrange(HEADS))
    hf = _noise(seed)
    _attend(hf, *writer, query=(PLACE, -1), key=(PLACE, 0), value=TOKEN, out=PREVIOUS)
    _attend(hf, *reader, query=(TOKEN, 0), key=(PREVIOUS, 0), value=TOKEN, out=NEXT)
    return Planted(_wrap(hf, f"planted induction (seed={seed})"), writer, reader)


@torch.no_grad()
def plant_lookup(seed: int) -> Planted:
    """An MLP that knows six facts, and a head that carries the answer to the last token, drawn by `seed`."""
    rng = random.Random(seed)
    first, second = sorted(rng.sample(range(LAYERS), 2))
    reader = (second, rng.randrange(HEADS))
    hf = _noise(seed)
    ids = _ids()
    mlp: Any = hf.transformer.h[first].mlp
    for neuron, (subject, answer) in enumerate(zip(SUBJECTS, ANSWERS, strict=True)):
        mlp.c_fc.weight[:, neuron] = 0
        mlp.c_fc.weight[TOKEN + ids[subject], neuron] = 1.0
        mlp.c_fc.bias[neuron] = -NORM / 2
        mlp.c_proj.weight[neuron] = 0
        mlp.c_proj.weight[neuron, FACT + ids[answer]] = 2 / NORM
    _attend(hf, *reader, query=None, key=None, value=FACT, out=NEXT)
    attn: Any = hf.transformer.h[second].attn
    query, key = (part + reader[1] * D_HEAD for part in (0, D_MODEL))
    attn.c_attn.weight[TOKEN + ids[QUERY], query] = SHARP
    attn.c_attn.weight[FACT : FACT + CODE, key] = SHARP
    return Planted(_wrap(hf, f"planted lookup (seed={seed})"), (first, None), reader)


def plant_nothing(seed: int) -> Model:
    """The same codes and noise without a mechanism: what a method must find nothing in."""
    return _wrap(_noise(seed), f"nothing planted (seed={seed})")


def induction_contrast(seed: int, pairs: int = 4) -> Contrast:
    """`a b c d … a b`: what stood behind b last time, c in the source and another word in the corrupt prompt."""
    rng = random.Random(seed)
    length = rng.randrange(5, 10)
    at = rng.randrange(2, length)
    source, corrupt, right, wrong = [], [], [], []
    for _ in range(pairs):
        words = rng.sample(WORDS, length + 1)
        once, other = words[:length], words[length]
        changed = [*once[:at], other, *once[at + 1 :]]
        source.append(" ".join([*once, *once[:at]]))
        corrupt.append(" ".join([*changed, *once[:at]]))
        right.append(_ids()[once[at]])
        wrong.append(_ids()[other])
    return Contrast(source, corrupt, right, wrong, at + 1)


def lookup_contrast(seed: int, pairs: int = 4) -> Contrast:
    """Fillers, a subject, fillers, and the word that asks: another subject in the corrupt prompt."""
    rng = random.Random(seed)
    before, after = rng.randrange(1, 5), rng.randrange(1, 5)
    source, corrupt, right, wrong = [], [], [], []
    for _ in range(pairs):
        one, two = rng.sample(range(len(SUBJECTS)), 2)
        left, behind = rng.choices(FILLERS, k=before), rng.choices(FILLERS, k=after)
        for prompts, who in ((source, one), (corrupt, two)):
            prompts.append(" ".join([*left, SUBJECTS[who], *behind, QUERY]))
        right.append(_ids()[ANSWERS[one]])
        wrong.append(_ids()[ANSWERS[two]])
    return Contrast(source, corrupt, right, wrong, before + 1)


def _ids() -> dict[str, int]:
    return word_tokenizer(WORDS).get_vocab()


@torch.no_grad()
def _noise(seed: int) -> GPT2LMHeadModel:
    """One-hot embeddings, an unembedding that reads the code of the next token, and noise everywhere else."""
    config = GPT2Config(
        vocab_size=CODE, n_positions=POSITIONS, n_embd=D_MODEL, n_layer=LAYERS, n_head=HEADS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in hf.named_parameters():
        if "ln_" in name:
            continue
        weight.copy_(NOISE * torch.randn(weight.shape, generator=generator))
    codes = torch.eye(CODE)
    hf.transformer.wte.weight[:, TOKEN : TOKEN + CODE] += codes
    hf.transformer.wpe.weight[:, PLACE : PLACE + CODE] += codes
    hf.lm_head.weight[:, NEXT : NEXT + CODE] += codes
    return hf


@torch.no_grad()
def _attend(
    hf: GPT2LMHeadModel, layer: int, head: int, *, query: tuple[int, int] | None, key: tuple[int, int] | None,
    value: int, out: int,
) -> None:  # fmt: skip
    """Make a head look where the `key` code equals the `query` code (moved by so many), and copy `value` to `out`."""
    attn: Any = hf.transformer.h[layer].attn
    codes = torch.eye(CODE, D_HEAD)
    span = slice(head * D_HEAD, (head + 1) * D_HEAD)
    for part, read in enumerate((query, key, (value, 0))):
        columns = slice(part * D_MODEL + span.start, part * D_MODEL + span.stop)
        attn.c_attn.weight[:, columns] = 0
        if read is None:
            continue
        begin, shift = read
        moved = torch.zeros_like(codes)
        moved[-shift:] = codes[: len(codes) + shift] if shift else codes
        attn.c_attn.weight[begin : begin + CODE, columns] = moved * (SHARP if part < 2 else 1 / NORM)
    attn.c_proj.weight[span] = 0
    attn.c_proj.weight[span, out : out + CODE] = codes.T * (1.0 if out != NEXT else 4.0)


def _wrap(hf: GPT2LMHeadModel, name: str) -> Model:
    tokenizer = word_tokenizer(WORDS)
    return Model(hf, tokenizer, describe_in_memory(hf, tokenizer, name, "made by hand"))
