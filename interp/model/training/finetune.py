"""Fine-tuning on prompts and completions: a copy of the model learns to write these completions after these prompts.

    tuned = fine_tune(model, [("Question: What is 2 plus 2? Answer:", " 4")], steps=60)

All weights learn, by AdamW. The loss is the mean surprise at the completions' tokens alone: what the prompts say is
given, not learned. The model that came is left as it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.quantized import describe_quantized
from interp.model.model import Model
from interp.model.provenance import describe_in_memory
from interp.model.training.sentence_loss import IGNORED, is_written_out, next_token_loss
from interp.model.training.small import one_thread
from interp.progress import Progress, silent

Example = tuple[str, str]  # prompt, completion
WARMUP, FLOOR, CLIP = 0.1, 0.05, 1.0  # share of the steps, of the learning rate; greatest length of the gradient
SMALL = 3_000_000  # weights: below it, one thread is faster than two


def fine_tune(
    model: Model,
    examples: Sequence[Example],
    *,
    steps: int = 60,
    batch: int = 8,
    lr: float = 5e-5,
    seed: int = 0,
    progress: Progress = silent,
) -> Model:
    """A new `Model`, a copy of `model` that was trained on `examples`, pairs of a prompt and its completion.

    A completion carries the space that joins it (" Paris"), and whatever shall end it. The seed shuffles the examples,
    anew each time that all were read; dropout is off, so that nothing else is random: same seed, same weights, on one
    machine and number of threads. Learning rate: linear warm-up over a tenth of the steps, linear decay to a twentieth.
    Takes four times the model's memory. `steps=0` gives the copy as it is.

    Raises UserError for examples that `encode_pairs` refuses, weights that are not fp32 (bf16 swallows small steps),
    an active edit, numbers out of range and a loss that is not finite.
    """
    model.check_plain("fine_tune")
    if model.hf.dtype != torch.float32:
        raise UserError(f"fine_tune got weights in {model.hf.dtype}; expected fp32; load the model with dtype='fp32'")
    if packed := describe_quantized(model.hf):
        raise UserError(f"fine_tune got weights that are quantised ({packed}); load the model without quantising it")
    if steps < 0 or batch < 1 or not 0 < lr < math.inf:
        raise UserError(f"steps={steps}, batch={batch}, lr={lr} came; expected 0 or more, 1 or more and above 0")
    pairs = encode_pairs(model, examples)
    hf: Any = copy.deepcopy(model.hf)
    small = sum(p.numel() for p in hf.parameters()) < SMALL and hf.device.type == "cpu"
    with one_thread() if small else nullcontext(), torch.enable_grad():
        _train(hf, pairs, (steps, batch, lr, seed), progress)
    name = f"{model.provenance.name} fine-tuned (examples={len(pairs)}, steps={steps}, batch={batch}, lr={lr:g}, "
    tuned = Model(
        hf, model.tokenizer, describe_in_memory(hf, model.tokenizer, f"{name}seed={seed})", "trained here"), model.bos
    )
    for site, place in model.tree.registered.items():
        tuned.register_site(site, str(place))
    return tuned


def encode_pairs(model: Model, examples: Sequence[Example]) -> list[tuple[list[int], int]]:
    """Of each pair the token ids of prompt and completion together, and the number of those that are the prompt.

    Raises UserError for no examples, what is no pair of texts, an empty completion, and one that melts into its
    prompt's tokens.
    """
    if not examples or not all(
        isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in examples
    ):
        raise UserError("examples are not pairs of texts, or none came; expected [(prompt, completion), …]")
    prompts = model.encode([prompt for prompt, _ in examples])
    wholes = model.encode([prompt + completion for prompt, completion in examples])
    for (prompt, completion), before, whole in zip(examples, prompts, wholes, strict=True):
        if whole[: len(before)] != before or len(whole) == len(before):
            raise UserError(
                f"the completion {completion!r:.60} melts into the tokens of the prompt {prompt!r:.80} or has none; "
                "expected a prompt that ends in a word and a completion that starts with a space"
            )
    return [(whole, len(before)) for whole, before in zip(wholes, prompts, strict=True)]


def pad_pairs(
    pairs: Sequence[tuple[list[int], int]], device: torch.device
) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, "prompt kept"]]:
    """The ids, padded on the right, and the labels of the last tokens, from the first completion on.

    Labels are `IGNORED` at prompts and padding. `hf(ids, logits_to_keep=labels.shape[1] + 1).logits[:, :-1]` are the
    logits that they belong to. A causal model needs no mask for padding that comes last.
    """
    width = max(len(ids) for ids, _ in pairs)
    kept = width - min(start for _, start in pairs)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in pairs])
    labels = torch.tensor([[IGNORED] * start + row[start:] + [IGNORED] * (width - len(row)) for row, start in pairs])
    return ids.to(device), labels[:, width - kept :].to(device)


def completion_loss(hf: Any, ids: Int[Tensor, "prompt pos"], labels: Int[Tensor, "prompt kept"]) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, over the completions' tokens, of a batch as `pad_pairs` makes it."""
    logits = hf(input_ids=ids, use_cache=False, logits_to_keep=labels.shape[1] + 1).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def sentence_loss(hf: Any, ids: Int[Tensor, "prompt pos"], labels: Int[Tensor, "prompt kept"]) -> Float[Tensor, ""]:
    """The same of a small GPT-2 whose prompts all begin with its BOS token, in half the time."""
    prompts = labels.new_full((len(ids), ids.shape[1] - labels.shape[1]), IGNORED)
    return next_token_loss(hf, ids, torch.cat([prompts, labels], 1))


def _train(hf: Any, pairs: list[tuple[list[int], int]], plan: tuple[int, int, float, int], progress: Progress) -> None:
    steps, batch, lr, seed = plan
    learns = [p.requires_grad for p in hf.parameters()]
    parameters = [p.requires_grad_(True) for p in hf.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    short = is_written_out(hf) and len({ids[0] for ids, _ in pairs}) == 1
    for step in range(steps):
        while len(order) < batch:
            order += torch.randperm(len(pairs), generator=generator).tolist()
        chosen, order = order[:batch], order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = lr * _schedule(step, steps)
        ids, labels = pad_pairs([pairs[i] for i in chosen], hf.device)
        loss = sentence_loss(hf, ids, labels) if short else completion_loss(hf, ids, labels)
        if not bool(loss.isfinite()):
            raise UserError(f"the loss of step {step + 1} is not finite; lr={lr:g} came; expected a smaller one")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress("fine-tuning", step + 1, steps)
    for parameter, learnt in zip(parameters, learns, strict=True):
        parameter.requires_grad_(learnt)


def _schedule(step: int, steps: int) -> float:
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return max(FLOOR, (steps - step) / max(1, steps - warm))
