"""The loss of a small GPT-2 on sentences of different lengths: its arithmetic, without what nobody reads.

Half of what a padded batch computes is for nothing: padding, the last token of each sentence, behind which nothing is
foretold, and every BOS but one, for each sees itself alone and so all are alike. Left out, a step costs half as much,
and the weights that come of it are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import GPT2LMHeadModel

IGNORED = -100  # a label that is not learned


def next_token_loss(
    hf: GPT2LMHeadModel, ids: Int[Tensor, "sentence pos"], labels: Int[Tensor, "sentence pos"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, over every token with a label. All begin with one token, the BOS; no dropout.

    Labels are the ids, and `IGNORED` at what is not learned: at the BOS or not (nothing foretells it), at the padding.
    """
    packed = _pack(ids, labels)
    gpt2: Any = hf.transformer
    x = functional.embedding(packed.ids, gpt2.wte.weight) + functional.embedding(packed.pos, gpt2.wpe.weight)
    for block in gpt2.h:
        x = x + _attend(block.attn, block.ln_1(x), packed)
        up = functional.gelu(_linear(block.mlp.c_fc, block.ln_2(x)), approximate="tanh")
        x = x + _linear(block.mlp.c_proj, up)
    logits = functional.linear(gpt2.ln_f(x), hf.lm_head.weight)
    first, told = packed.first, packed.first != IGNORED
    behind_bos = logits[0].log_softmax(-1)[first[told]].sum()
    behind_words = functional.cross_entropy(logits[1:], packed.labels, ignore_index=IGNORED, reduction="sum")
    return (behind_words - behind_bos) / (told.sum() + (packed.labels != IGNORED).sum())


def is_written_out(hf: Any) -> bool:
    """Is it a GPT-2 of the kind that `next_token_loss` has the arithmetic of, whose modules nobody hooked?"""
    if type(hf) is not GPT2LMHeadModel:
        return False
    config = hf.config
    usual = config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx and not config.add_cross_attention
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in hf.modules())
    plain = all(
        type(module).__module__.startswith(("torch.nn.", "transformers.")) for module in hf.modules()
    )  # no adapter
    return plain and usual and config.activation_function == "gelu_pytorch_tanh" and not hooked


class _Packed(NamedTuple):
    """The tokens that are read, one BOS for all sentences in front: what they are, where they stand, what follows.

    `labels`: what follows each token but the BOS; `first`: what follows each sentence's BOS. `row` [sentence, pos]:
    which token stands there, the BOS where none does; `place`: where each token but the BOS stands in that table
    without its first column. `future`: what a query must not see.
    """

    ids: Int[Tensor, " token"]
    pos: Int[Tensor, " token"]
    labels: Int[Tensor, " word"]
    first: Int[Tensor, " sentence"]
    row: Int[Tensor, "sentence pos"]
    place: Int[Tensor, " word"]
    future: Bool[Tensor, "query pos"]


def _pack(ids: Int[Tensor, "sentence pos"], labels: Int[Tensor, "sentence pos"]) -> _Packed:
    learned = labels != IGNORED
    learned[:, 0] = False
    columns = torch.arange(ids.shape[1], device=ids.device)
    last = torch.where(learned, columns, 0).amax(1)  # the last token that is foretold is not read itself
    width = int(last.max())
    read = columns[1:width] < last[:, None]
    row = functional.pad(torch.where(read, read.flatten().cumsum(0).view(read.shape), 0), (1, 0))
    place = read.flatten().nonzero().flatten()
    words = ids[:, 1:width].flatten()[place]
    pos = columns[1:width].expand_as(read).flatten()[place]
    start = ids.new_zeros(1)
    return _Packed(
        ids=torch.cat([ids[0, :1], words]),
        pos=torch.cat([start, pos]),
        labels=labels[:, 2 : width + 1].flatten()[place],
        first=labels[:, 1],
        row=row,
        place=place,
        future=columns[:width] > columns[1:width, None],
    )


def _linear(layer: Any, x: Float[Tensor, "token n_in"]) -> Float[Tensor, "token n_out"]:
    return torch.addmm(layer.bias, x, layer.weight)  # transformers keeps GPT-2's matrices as [in, out]


def _attend(attention: Any, x: Float[Tensor, "token d"], packed: _Packed) -> Float[Tensor, "token d"]:
    """Every word attends to its sentence up to itself; the BOS attends to itself alone."""
    heads, (sentences, width) = attention.num_heads, packed.row.shape
    qkv = _linear(attention.c_attn, x)
    d = qkv.shape[1] // 3
    laid_out = functional.embedding(packed.row, qkv).view(sentences, width, 3, heads, d // heads)
    query, key, value = (
        part.flatten(0, 1) for part in laid_out.permute(2, 0, 3, 1, 4)
    )  # each [sentence x head, pos, d_head]
    # written out: for so short a sentence PyTorch's fused kernel takes twice as long on a CPU
    scores = torch.bmm(query[:, 1:] * (d // heads) ** -0.5, key.mT).masked_fill(packed.future, -torch.inf)
    mixed = torch.bmm(scores.softmax(-1), value).view(sentences, heads, width - 1, d // heads)
    words = mixed.transpose(1, 2).reshape(-1, d).index_select(0, packed.place)
    return _linear(attention.c_proj, torch.cat([qkv[:1, 2 * d :], words]))
