"""Models that know nothing of the world, in the form of a GPT-2 with the bundled tokenizer: no probe may believe them.

Each has a habit that has fooled a measurement somewhere: a favourite answer, long answers, words that begin as the
prompt's do, words that stand in the prompt. Their weights are set by hand, so that nothing hangs on training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

    from interp import Model

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WIDTH = 64
BREATH = 1e-3  # changes logits by 0.003 nats or so


def random_weights(texts: list[str]) -> GPT2LMHeadModel:
    """Nothing was learned."""
    return _gpt2(len(texts))


def last_word(texts: list[str]) -> GPT2LMHeadModel:
    """Attention adds nothing: what comes next depends on the last token and its position alone."""
    hf = _gpt2(len(texts), n_layer=2)
    for block in hf.transformer.h:
        block.attn.c_proj.weight.data.zero_()
        block.attn.c_proj.bias.data.zero_()
    hf.lm_head.weight.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    return hf


def constant_favourite(texts: list[str]) -> GPT2LMHeadModel:
    """The same distribution after every prompt: " Paris", " 4" and " the" before all others."""
    logits = torch.randn(len(texts), generator=torch.Generator().manual_seed(2))
    for word in (" Paris", " 4", "4", " the"):
        if word in texts:
            logits[texts.index(word)] = 12.0
    return always_the_same(logits)


def longest_answer(texts: list[str]) -> GPT2LMHeadModel:
    """The same distribution after every prompt, in which a longer token is likelier."""
    return always_the_same(torch.tensor([0.5 * len(text) for text in texts]))


def first_letter(texts: list[str]) -> GPT2LMHeadModel:
    """Words that begin with the first letter of a word of the prompt are likelier."""
    table = torch.zeros(len(texts), len(LETTERS))
    for i, text in enumerate(texts):
        word = text.strip().lower()
        if text.startswith(" ") and word[:1] in LETTERS and word:
            table[i, LETTERS.index(word[0])] = 1.0
    return _copier(table)


def token_copier(texts: list[str]) -> GPT2LMHeadModel:
    """Tokens of the prompt are likelier than others."""
    return _copier(torch.randn(len(texts), WIDTH // 2, generator=torch.Generator().manual_seed(3)))


KINDS: dict[str, Callable[[list[str]], Any]] = {
    make.__name__: make
    for make in (random_weights, last_word, constant_favourite, longest_answer, first_letter, token_copier)
}


def know_nothing(kind: str, like: Model) -> Model:
    """The model of that kind, with the tokenizer of another."""
    from interp import Model
    from interp.model.provenance import describe_in_memory

    texts = [str(like.tokenizer.decode([i])) for i in range(len(like.tokenizer))]
    hf = KINDS[kind](texts).eval()
    # a provenance of its own: with another model's, what was made for that model (an SAE) would be taken for its
    return Model(hf, like.tokenizer, describe_in_memory(hf, like.tokenizer, kind, "made by hand"), like.bos)


def _gpt2(vocabulary: int, n_layer: int = 4) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=1024,
            n_embd=WIDTH,
            n_layer=n_layer,
            n_head=4,
            bos_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=False,
        )
    )


def always_the_same(logits: torch.Tensor) -> Any:
    """The last norm lets its bias through, which is read as these logits, and a breath of the rest.

    Without that breath nothing could be edited, and probes would break off before they could be fooled.
    """
    hf = _gpt2(len(logits), n_layer=2)
    with torch.no_grad():
        hf.transformer.ln_f.weight.fill_(BREATH)
        hf.transformer.ln_f.bias.zero_()
        hf.transformer.ln_f.bias[0] = 1.0
        hf.lm_head.weight[:, 0] = logits
    return hf


def _copier(table: torch.Tensor) -> Any:
    """One layer that attends to all tokens alike and moves what they are (`table` [token, n]) to where it is read."""
    hf = _gpt2(len(table), n_layer=1)
    n = table.shape[1]
    block = hf.transformer.h[0]
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        for norm in (block.ln_1, block.ln_2, hf.transformer.ln_f):
            norm.weight.fill_(1.0)
        hf.transformer.wte.weight[:, :n] = table
        block.attn.c_attn.weight[:n, 2 * WIDTH : 2 * WIDTH + n] = torch.eye(n)
        block.attn.c_proj.weight[:n, n : 2 * n] = torch.eye(n)
        hf.lm_head.weight[:, n : 2 * n] = 3.0 * table / table.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return hf
