"""Models that know nothing of the world, in the form of a GPT-2 with the bundled tokenizer: no probe may believe them.

Each has a habit that has fooled a measurement somewhere: a favourite answer, long answers, words that begin as the
prompt's do, words that stand in the prompt, words as often as they are used. Their weights are set by hand, so that
nothing hangs on training. Their tokenizer has no chat template: else what a base model is asked would not be asked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

    from interp import Model

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WIDTH = 64
BREATH = 1e-3  # what does nothing in a model does this share of something: else it could not be edited, or asked


def random_weights(tokenizer: Any, seed: int) -> GPT2LMHeadModel:
    """Nothing was learned."""
    return _gpt2(len(tokenizer), 4, seed)


def last_word(tokenizer: Any, seed: int) -> GPT2LMHeadModel:
    """Attention adds next to nothing: what comes next depends on the last token and its position."""
    hf = _gpt2(len(tokenizer), 2, seed)
    for block in hf.transformer.h:
        block.attn.c_proj.weight.data.mul_(BREATH)
    hf.lm_head.weight.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(10 * seed + 1))
    return hf


def constant_favourite(tokenizer: Any, seed: int) -> GPT2LMHeadModel:
    """The same distribution after every prompt: " Paris", " 4" and " the" before all others."""
    texts = _texts(tokenizer)
    logits = torch.randn(len(texts), generator=torch.Generator().manual_seed(10 * seed + 2))
    for word in (" Paris", " 4", "4", " the"):
        if word in texts:
            logits[texts.index(word)] = 12.0
    return always_the_same(logits, seed)


def longest_answer(tokenizer: Any, seed: int) -> GPT2LMHeadModel:
    """The same distribution after every prompt, in which a longer token is likelier."""
    return always_the_same(torch.tensor([0.5 * len(text) for text in _texts(tokenizer)]), seed)


def honest_on_average(tokenizer: Any, seed: int) -> GPT2LMHeadModel:
    """The same distribution after every prompt: each token as often as people write it."""
    from interp.text.corpus import prose

    written = torch.tensor([token for text in prose() for token in tokenizer(text).input_ids])
    return always_the_same(torch.log(torch.bincount(written, minlength=len(tokenizer)) + 0.1), seed)


def first_letter(tokenizer: Any, seed: int) -> GPT2LMHeadModel:
    """Words that begin with the first letter of a word of the prompt are likelier."""
    texts = _texts(tokenizer)
    table = torch.zeros(len(texts), len(LETTERS))
    for i, text in enumerate(texts):
        word = text.strip().lower()
        if text.startswith(" ") and word[:1] in LETTERS and word:
            table[i, LETTERS.index(word[0])] = 1.0
    return _copier(table)


def token_copier(tokenizer: Any, seed: int) -> GPT2LMHeadModel:
    """Tokens of the prompt are likelier than others."""
    return _copier(_identities(tokenizer, seed))


def diffuse(tokenizer: Any, seed: int) -> GPT2LMHeadModel:
    """The same, and every head of four layers helps a little: none of them is the one that does it."""
    return _copier(
        torch.randn(len(tokenizer), WIDTH // 2, generator=torch.Generator().manual_seed(10 * seed + 3)), n_layer=4
    )


def never_twice(tokenizer: Any, seed: int) -> GPT2LMHeadModel:
    """Tokens of the prompt are less likely than others, the more often they stand there."""
    return _copier(_identities(tokenizer, seed), sign=-1.0)


HABITS = (
    last_word,
    constant_favourite,
    longest_answer,
    honest_on_average,
    first_letter,
    token_copier,
    never_twice,
    diffuse,
)
KINDS: dict[str, Callable[[Any, int], GPT2LMHeadModel]] = {make.__name__: make for make in (random_weights, *HABITS)}


def know_nothing(kind: str, like: Model, seed: int = 0) -> Model:
    """The model of that kind, with the tokenizer of another; `seed` draws what is random in its weights."""
    from interp import Model
    from interp.model.provenance import describe_in_memory

    tokenizer = copy.deepcopy(like.tokenizer)
    tokenizer.chat_template = None
    hf = KINDS[kind](tokenizer, seed).eval()
    # a provenance of its own: with another model's, what was made for that model (an SAE) would be taken for its
    return Model(hf, tokenizer, describe_in_memory(hf, tokenizer, kind, "made by hand"), like.bos)


def _identities(tokenizer: Any, seed: int) -> torch.Tensor:
    """A vector of its own for each token."""
    return torch.randn(len(tokenizer), WIDTH // 2, generator=torch.Generator().manual_seed(10 * seed + 3))


def _texts(tokenizer: Any) -> list[str]:
    return [str(tokenizer.decode([i])) for i in range(len(tokenizer))]


def _gpt2(vocabulary: int, n_layer: int, seed: int = 0) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
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


def always_the_same(logits: torch.Tensor, seed: int = 0) -> Any:
    """The last norm lets its bias through, which is read as these logits, and a breath of the rest."""
    hf = _gpt2(len(logits), 2, seed)
    with torch.no_grad():
        hf.transformer.ln_f.weight.fill_(BREATH)
        hf.transformer.ln_f.bias.zero_()
        hf.transformer.ln_f.bias[0] = 1.0
        hf.lm_head.weight[:, 0] = logits
    return hf


def _copier(table: torch.Tensor, n_layer: int = 1, sign: float = 1.0) -> Any:
    """Layers that attend to all tokens alike and move what they are (`table` [token, n]) to where it is read."""
    hf = _gpt2(len(table), n_layer)
    n = table.shape[1]
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "mlp" not in name:
                parameter.fill_(float("ln_" in name and name.endswith("weight")))
        hf.transformer.wte.weight[:, :n] = table
        for block in hf.transformer.h:
            block.mlp.c_proj.weight.mul_(BREATH)
            block.attn.c_attn.weight[:n, 2 * WIDTH : 2 * WIDTH + n] = torch.eye(n)
            block.attn.c_proj.weight[:n, n : 2 * n] = torch.eye(n) / n_layer
        hf.lm_head.weight[:, n : 2 * n] = sign * 3.0 * table / table.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return hf
