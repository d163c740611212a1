"""Train a small GPT-2 from scratch: transformers' own architecture, a word-level vocabulary, seconds on a laptop.

For claims about training (what is learned from which order of words), where a pretrained model proves nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.errors import UserError
from interp.model.model import Model
from interp.model.provenance import describe_in_memory
from interp.model.training.sentence_loss import next_token_loss
from interp.progress import Progress, silent

_SEEDING = threading.Lock()  # torch's global random state is one for all threads


@dataclass(frozen=True)
class SmallGPT2:
    """Size and training of a small GPT-2. `tied`: are input and output embeddings one matrix, as in GPT-2?"""

    n_layers: int = 2
    d_model: int = 64
    n_heads: int = 4
    tied: bool = True
    steps: int = 500
    batch: int = 64
    lr: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.0


def train_small_gpt2(
    sentences: Sequence[str], settings: SmallGPT2 = SmallGPT2(), *, seed: int = 0, progress: Progress = silent
) -> Model:
    """Train on `sentences` (words parted by spaces) in shuffled batches and return a `Model` on the CPU.

    A BOS token opens each sentence, so that no word stands at position 0. AdamW, linear warm-up then linear decay; the
    loss is the mean cross-entropy in nats over every token. Same seed, same weights on the same machine.
    """
    if not sentences or isinstance(sentences, str):
        raise UserError("no sentences came; expected at least one to train on")
    tokenizer = word_tokenizer(sentences)
    ids, labels = pad_sentences(tokenizer, sentences)
    hf = _new_model(tokenizer, settings, seed, max(64, ids.shape[1]))
    hf.train()
    with one_thread():
        _train(hf, ids, labels, settings, seed, progress)
    hf.eval()
    name = f"small GPT-2 ({', '.join(f'{k}={v}' for k, v in asdict(settings).items())}, seed={seed})"
    return Model(hf, tokenizer, describe_in_memory(hf, tokenizer, name, "trained here"))


class TrainingJob(NamedTuple):
    """What one small GPT-2 is trained on, and how."""

    sentences: Sequence[str]
    settings: SmallGPT2
    seed: int


class _Stopped(Exception):  # noqa: N818 - control flow, not a fault
    """Ends the other trainings when one has failed or the user interrupts."""


def train_small_gpt2s(jobs: Sequence[TrainingJob], *, progress: Progress = silent) -> list[Model]:
    """Train one model a job, as many at once as torch has threads: the models of `train_small_gpt2`, sooner.

    Each is too small for two cores. `progress` counts the steps of all together and is called by one thread at a time.
    """
    total = sum(job.settings.steps for job in jobs)
    done, turn, stop = 0, threading.Lock(), threading.Event()

    def stepped(*_: object) -> None:
        nonlocal done
        if stop.is_set():
            raise _Stopped
        with turn:
            done += 1
            progress("training small GPT-2s", done, total)

    workers = max(1, min(len(jobs), torch.get_num_threads()))
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(train_small_gpt2, *job[:2], seed=job.seed, progress=stepped) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(
    hf: GPT2LMHeadModel, ids: Tensor, labels: Tensor, settings: SmallGPT2, seed: int, progress: Progress
) -> None:
    flat, parameters = _in_one(list(hf.parameters()))
    optimizer = torch.optim.AdamW([flat], lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for step in range(settings.steps):
        if len(order) < settings.batch:
            order += torch.randperm(len(ids), generator=generator).tolist()
        chosen, order = order[: settings.batch], order[settings.batch :]
        optimizer.param_groups[0]["lr"] = settings.lr * _schedule(step, settings)
        next_token_loss(hf, ids[chosen], labels[chosen]).backward()
        torch.nn.utils.clip_grad_norm_(flat, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        progress("training a small GPT-2", step + 1, settings.steps)
    for parameter in parameters:  # each in memory of its own again
        parameter.data, parameter.grad = parameter.data.clone(), None


def _in_one(parameters: list[torch.nn.Parameter]) -> tuple[Tensor, list[torch.nn.Parameter]]:
    """All parameters, and their gradients, as parts of one long row: a step calls a few kernels, not some for each."""
    flat = torch.cat([parameter.data.flatten() for parameter in parameters]).requires_grad_(True)
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, value, slope in zip(parameters, flat.data.split(sizes), flat.grad.split(sizes), strict=True):
        parameter.data, parameter.grad = value.view_as(parameter), slope.view_as(parameter)
    return flat, parameters


def pad_sentences(
    tokenizer: PreTrainedTokenizerFast, sentences: Sequence[str]
) -> tuple[Int[Tensor, "sentence pos"], Int[Tensor, "sentence pos"]]:
    """Token ids, padded on the right, and labels: the same with -100 at the padding. Raises UserError for no words."""
    rows = [tokenizer(s).input_ids for s in sentences]
    width = max(map(len, rows))
    if min(map(len, rows)) < 2:  # BOS alone: nothing to predict, and the mean loss of such a batch is NaN
        raise UserError(
            f"sentence {min(range(len(rows)), key=lambda i: len(rows[i]))} is empty; expected words in each"
        )
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    return ids, torch.tensor([row + [-100] * (width - len(row)) for row in rows])


def word_tokenizer(sentences: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word, in order of first appearance, with a BOS token that it adds by itself."""
    words = dict.fromkeys(["<pad>", "<bos>", "<unk>", *(word for s in sentences for word in s.split())])
    vocabulary = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    )


def _new_model(tokenizer: PreTrainedTokenizerFast, settings: SmallGPT2, seed: int, n_positions: int) -> GPT2LMHeadModel:
    if settings.d_model % settings.n_heads:
        raise UserError(f"d_model={settings.d_model} does not divide into n_heads={settings.n_heads}; pick a multiple")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=n_positions,
        n_embd=settings.d_model,
        n_layer=settings.n_layers,
        n_head=settings.n_heads,
        activation_function="gelu_pytorch_tanh",  # GPT-2's gelu_new in one kernel instead of seven
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=settings.tied,
        bos_token_id=tokenizer.get_vocab()["<bos>"],
        eos_token_id=tokenizer.get_vocab()["<bos>"],
    )
    with _SEEDING, torch.random.fork_rng(devices=[]):  # the caller's random state is none of our business
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def _schedule(step: int, settings: SmallGPT2) -> float:
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    return max(0.05, (settings.steps - step) / max(1, settings.steps - settings.warmup))
