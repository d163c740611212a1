"""The small GPT-2 trained here: it learns, it is reproducible, and it leaves the process as it found it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from transformers import GPT2LMHeadModel

from interp import Model, UserError
from interp.model.training.sentence_loss import IGNORED, next_token_loss
from interp.model.training.small import (
    SmallGPT2,
    TrainingJob,
    _schedule,
    pad_sentences,
    train_small_gpt2,
    train_small_gpt2s,
    word_tokenizer,
)

PAIRS = {"red": "apple", "yellow": "banana", "green": "pear", "orange": "carrot"}
SENTENCES = [f"the {colour} one is {thing}" for colour, thing in PAIRS.items()]
TINY = SmallGPT2(n_layers=1, d_model=32, n_heads=2, steps=150, batch=4, lr=1e-2, warmup=5)


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: w.detach() for name, w in model.hf.named_parameters()}


@pytest.fixture(scope="module")
def model() -> Model:
    return train_small_gpt2(SENTENCES, TINY, seed=3)


def test_it_learns_which_word_follows(model: Model):
    prompts = [f"the {colour} one is" for colour in PAIRS]
    best = model.last_logits(prompts).argmax(-1)
    assert [model.tokenizer.decode([int(i)]) for i in best] == list(PAIRS.values())
    untrained = train_small_gpt2(SENTENCES, replace(TINY, steps=0), seed=3)
    guesses = untrained.last_logits(prompts).argmax(-1)
    assert [untrained.tokenizer.decode([int(i)]) for i in guesses] != list(PAIRS.values())


def test_the_loss_is_the_cross_entropy_over_every_token():
    model = train_small_gpt2(SENTENCES, replace(TINY, steps=0), seed=5)
    ids = torch.tensor(model.encode(SENTENCES))
    assert ids[0, 0] == model.tokenizer.bos_token_id
    with torch.no_grad():
        logits = model.hf(ids).logits
    log_probs = logits[:, :-1].log_softmax(-1)
    mean = -log_probs.gather(-1, ids[:, 1:, None]).mean()
    hf, tokenizer = cast(GPT2LMHeadModel, model.hf), word_tokenizer(SENTENCES)
    assert next_token_loss(hf, *pad_sentences(tokenizer, SENTENCES)).item() == pytest.approx(float(mean), rel=1e-5)
    longer = [*SENTENCES, " ".join(SENTENCES)]  # so that the others are padded
    ids, labels = pad_sentences(tokenizer, longer)
    padded = next_token_loss(hf, ids[:-1], labels[:-1])
    assert padded.item() == pytest.approx(float(mean), rel=1e-5), "padding is not counted"
    assert next_token_loss(hf, ids[:-1], ids[:-1]).item() != pytest.approx(float(mean), rel=1e-3), "the planted fault"


def plain_loss(hf: GPT2LMHeadModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """By transformers, every token of the padded batch."""
    logits = hf(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shortest", [1, 3])
def test_what_is_left_out_of_a_batch_changes_no_gradient(tied: bool, shortest: int) -> None:
    """In 64 bits: padding, last tokens and all BOS but one are read by nobody."""
    words = list("abcdefghi")
    longer = [" ".join(words[:n]) for n in (shortest, 9, 4, shortest, 6)]
    hf = cast(GPT2LMHeadModel, train_small_gpt2(longer, replace(TINY, n_layers=2, steps=3, tied=tied)).hf).double()
    ids, labels = pad_sentences(word_tokenizer(longer), longer)
    labels[1, 2:5] = IGNORED  # what is not learned in the middle, as a prompt, is read all the same
    for chosen in (slice(None), slice(0, 4, 3)):
        losses, slopes = [], []
        for loss_of in (plain_loss, next_token_loss):
            hf.zero_grad()
            loss = loss_of(hf, ids[chosen], labels[chosen])
            loss.backward()
            losses.append(loss.item())
            slopes.append({name: p.grad for name, p in hf.named_parameters()})
        assert losses[0] == pytest.approx(losses[1], abs=1e-12)
        for name, slope in slopes[0].items():
            torch.testing.assert_close(slopes[1][name], slope, atol=1e-12, rtol=1e-9, msg=name)


def test_the_weights_are_those_of_a_plain_loop_over_transformers() -> None:
    longer = [*SENTENCES, " ".join(SENTENCES)]
    settings = replace(TINY, steps=4, batch=3)
    hf = cast(GPT2LMHeadModel, train_small_gpt2(longer, replace(settings, steps=0), seed=3).hf)
    ids, labels = pad_sentences(word_tokenizer(longer), longer)
    optimizer = torch.optim.AdamW(hf.parameters(), lr=settings.lr, weight_decay=0.0)
    generator, order = torch.Generator().manual_seed(3), list[int]()
    for step in range(settings.steps):
        if len(order) < settings.batch:
            order += torch.randperm(len(ids), generator=generator).tolist()
        chosen, order = order[: settings.batch], order[settings.batch :]
        optimizer.param_groups[0]["lr"] = settings.lr * _schedule(step, settings)
        optimizer.zero_grad()
        plain_loss(hf, ids[chosen], labels[chosen]).backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        optimizer.step()
    trained, begun = (weights(train_small_gpt2(longer, replace(settings, steps=n), seed=3)) for n in (4, 0))
    for name, weight in hf.named_parameters():
        # Adam makes a whole step of a gradient that is rounding alone, as that of a key's bias is
        few = (trained[name] - weight).abs() > 1e-4
        assert few.double().mean() < 0.05 or name.endswith("attn.c_attn.bias"), name
        assert not torch.allclose(begun[name], weight, atol=1e-3), "the planted fault: no training"


def test_training_counts_its_steps() -> None:
    seen: list[tuple[str, int, int]] = []
    train_small_gpt2(SENTENCES, replace(TINY, steps=3), progress=lambda *step: seen.append(step))
    assert seen == [("training a small GPT-2", step, 3) for step in (1, 2, 3)]


def test_padding_is_not_learnt():
    """Sentences of different lengths share batches; the pad token must never be a target."""
    model = train_small_gpt2(["a b", "a b c d e f g h"], replace(TINY, steps=40), seed=0)
    assert int(model.last_logits(["a b"]).argmax(-1)) != model.tokenizer.pad_token_id
    alone = train_small_gpt2(["a b c d e f g h"], replace(TINY, steps=40), seed=0)
    pad_prob = model.last_logits(["a b c d e f g h"]).softmax(-1)[0, 0]
    assert pad_prob < 2 * alone.last_logits(["a b c d e f g h"]).softmax(-1)[0, 0] + 0.01


def test_same_seed_same_weights_and_another_seed_others(model: Model):
    again, other = (train_small_gpt2(SENTENCES, TINY, seed=s) for s in (3, 4))
    assert all(torch.equal(w, weights(again)[name]) for name, w in weights(model).items())
    assert again.provenance == model.provenance
    moved = [name for name, w in weights(model).items() if not torch.equal(w, weights(other)[name])]
    assert len(moved) == len(weights(model))
    assert other.provenance.weights != model.provenance.weights
    assert other.provenance.name != model.provenance.name


def test_trained_side_by_side_they_are_the_models_trained_alone():
    jobs = [TrainingJob(SENTENCES[: 2 + s], replace(TINY, steps=30), s) for s in range(3)]
    seen: list[tuple[str, int, int]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # that many at once
    try:
        together = train_small_gpt2s(jobs, progress=lambda *at: seen.append(at))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [("training small GPT-2s", i + 1, 90) for i in range(90)]
    for model, (sentences, settings, seed) in zip(together, jobs, strict=True):
        alone = train_small_gpt2(sentences, settings, seed=seed)
        assert model.provenance == alone.provenance  # it holds the hash of the weights


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_a_fault_in_one_ends_the_others(fault: type[BaseException]):
    calls = 0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if done == 20:
            raise fault

    long = TrainingJob(SENTENCES, replace(TINY, steps=100_000), 0)
    with pytest.raises(fault):
        train_small_gpt2s([long] * 4, progress=progress)
    assert calls < 1000, "the others were trained to their end"


def test_tied_and_untied_embeddings():
    for tied in (True, False):
        hf = train_small_gpt2(SENTENCES, replace(TINY, steps=2, tied=tied)).hf
        unembedding = hf.get_output_embeddings().weight  # type: ignore[union-attr]
        assert (unembedding is hf.get_input_embeddings().weight) == tied


def test_the_model_is_in_eval_mode_without_dropout(model: Model):
    assert not model.hf.training
    assert {model.hf.config.resid_pdrop, model.hf.config.embd_pdrop, model.hf.config.attn_pdrop} == {0.0}
    model.hf.train()
    row = torch.tensor(model.encode(SENTENCES[:1]))
    assert torch.equal(model.hf(row).logits, model.hf(row).logits), "dropout is off even in training"
    model.hf.eval()


@pytest.mark.parametrize("interrupt", [None, ValueError, KeyboardInterrupt])
def test_threads_and_random_state_are_as_they_were(interrupt: type[BaseException] | None):
    def progress(what: str, step: int, steps: int) -> None:
        assert torch.get_num_threads() == 1
        if interrupt is not None and step == 3:
            raise interrupt

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    try:
        if interrupt is None:
            train_small_gpt2(SENTENCES, replace(TINY, steps=5), seed=1, progress=progress)
        else:
            with pytest.raises(interrupt):
                train_small_gpt2(SENTENCES, TINY, seed=1, progress=progress)
        assert torch.get_num_threads() == 3
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(before)


def test_a_long_sentence_gets_the_positions_it_needs():
    words = " ".join(f"w{i}" for i in range(80))
    model = train_small_gpt2([words], replace(TINY, steps=2))
    assert model.logits([words]).shape[1] == 81


def test_words_that_are_special_tokens_do_not_shift_the_vocabulary():
    model = train_small_gpt2(["a <pad> b <bos> c"], replace(TINY, steps=1))
    ids = list(model.tokenizer.get_vocab().values())
    assert sorted(ids) == list(range(len(ids)))


@pytest.mark.parametrize(
    ("sentences", "settings", "line"),
    [
        ([], TINY, "no sentences came"),
        ("a sentence", TINY, "no sentences came"),  # a string is a sequence of letters
        (["a b", "  "], TINY, "sentence 1 is empty; expected words in each"),
        (["a b"], replace(TINY, d_model=30, n_heads=4), "d_model=30 does not divide into n_heads=4"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(sentences: list[str], settings: SmallGPT2, line: str):
    with pytest.raises(UserError, match=line):
        train_small_gpt2(sentences, settings)


def test_a_word_it_never_saw_is_refused(model: Model):
    """It would become <unk>, whose row was never trained, and every answer would be noise."""
    with pytest.raises(UserError, match="does not know 'purple'"):
        model.last_logits(["the purple one is"])


def test_the_short_loss_is_not_taken_of_a_model_with_an_adapter_in_it() -> None:
    import copy

    from interp.model.training.sentence_loss import is_written_out

    class Adapted(torch.nn.Module):
        """What an adapter puts in a matrix's place."""

    hf: Any = copy.deepcopy(train_small_gpt2(["the cat sat", "a dog ran"], SmallGPT2(steps=1, d_model=16)).hf)
    assert is_written_out(hf)
    hf.transformer.h[0].attn.c_attn = Adapted()
    assert not is_written_out(hf)
