"""What prompts begin with alike is read once, and blocks before an edit are run once: the numbers are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from refusals import the_line

from interp import Model, UserError
from interp.analysis import ReadAhead, last_activations, last_log_probs, logit_difference, patch_sweep
from interp.edits import ablate, knock_out, only, steer
from interp.model.hooks import beginnings, forward, late
from interp.model.hooks.late import Late, starts_late
from interp.progress import silent
from interp.saes.losses import Passes, losses_under

ARCHITECTURES = ["gpt2", "llama", "gpt_neox", "gemma2", "falcon"]
TEMPLATE = [5, 6, 7, 4]
ROWS = [
    *([*TEMPLATE, a, b] for a in (9, 10, 11) for b in (12, 13)),
    [*TEMPLATE, 9],  # a beginning of others
    [*TEMPLATE, 9, 12],  # one of them again
    [*TEMPLATE, 9, 12, 14, 15],
    [8, 6],
]
SITES = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"]


def far(one: Any, other: Any) -> float:
    return float((torch.as_tensor(one) - torch.as_tensor(other)).abs().max())


@pytest.fixture
def tokens_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward reads, from here on."""
    read: list[int] = []
    for name in ("run_plain", "run_hooked"):
        run = getattr(forward, name)

        def counted(model: Any, batch: Any, *rest: Any, run: Any = run, **how: Any) -> Any:
            read.append(batch.ids.numel())
            return run(model, batch, *rest, **how)

        monkeypatch.setattr(forward, name, counted)
    return read


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [2, 64])
def test_last_tokens_are_those_of_whole_prompts(
    tiny_of: Callable[[str], Model], architecture: str, batch_size: int
) -> None:
    model = tiny_of(architecture)
    whole = model.capture(ROWS, SITES)
    for site, vectors in last_activations(model, ROWS, SITES, batch_size=batch_size).items():
        assert far(vectors, whole.last(site)) < 1e-4, site
    losses = -model.loss(ROWS)
    expected = [float(losses[i, len(row) - 1]) for i, row in enumerate(ROWS)]
    assert far(last_log_probs(model, ROWS, batch_size=batch_size), expected) < 1e-4


def test_what_is_alike_is_read_once(tiny_gpt2: Model, tokens_read: list[int]) -> None:
    phrases = [[*TEMPLATE, a, b] for a in (9, 10, 11) for b in (12, 13)]
    last_activations(tiny_gpt2, phrases, SITES)  # asks the model once what it can
    tokens_read.clear()
    last_activations(tiny_gpt2, phrases, SITES)
    assert sum(tokens_read) == len(TEMPLATE) + 3 + 6
    tokens_read.clear()
    tiny_gpt2.capture(phrases, SITES)
    assert sum(tokens_read) == 36


def test_a_cache_that_is_dealt_wrongly_is_seen(
    tiny_of: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: every prompt goes on from the first one's beginning."""
    model = tiny_of("llama")
    expected = model.capture(ROWS, SITES[1]).last(SITES[1])
    last_activations(model, ROWS, SITES[1])
    dealt = beginnings.dealt
    monkeypatch.setattr(beginnings, "dealt", lambda cache, places: dealt(cache, [0] * len(places)))
    assert far(last_activations(model, ROWS, SITES[1])[SITES[1]], expected) > 1e-2


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_edits_of_last_tokens_do_what_they_do_in_whole_prompts(
    tiny_of: Callable[[str], Model], architecture: str
) -> None:
    model = tiny_of(architecture)
    direction = torch.linspace(-2, 2, model.d_model)
    several = [
        {"blocks.*.attn.hook_pattern": knock_out(keys=-2, queries=-1)},
        {"blocks.0.attn.hook_pattern": only(knock_out(keys=1, queries=-1), heads=[1])},
        {"blocks.0.hook_resid_post": only(steer(direction), pos=-1, prompts=[0, 7])},
    ]
    plain = model.capture(ROWS, SITES[1]).last(SITES[1])
    ahead = ReadAhead(model, ROWS)
    assert far(ahead.capture([SITES[1]])[SITES[1]], plain) < 1e-4, "without edits"
    for edits in several:
        with model.edit(edits):
            whole = model.capture(ROWS, SITES[1]).last(SITES[1])
            vectors = ahead.capture([SITES[1]])[SITES[1]]
        assert far(vectors, whole) < 1e-4
        assert far(whole, plain) > 1e-3, "the edit does something"
    with model.edit({"blocks.0.hook_resid_post": steer(direction)}):
        log_probs, losses = last_log_probs(model, ROWS), -model.loss(ROWS)
    assert far(log_probs, [float(losses[i, len(row) - 1]) for i, row in enumerate(ROWS)]) < 1e-4


def test_a_model_without_a_cache_reads_prompts_whole(
    tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch, tokens_read: list[int]
) -> None:
    monkeypatch.setattr(beginnings, "keeps_a_cache", lambda *_: False)
    whole = tiny_gpt2.capture(ROWS[:6], SITES[1]).last(SITES[1])
    tokens_read.clear()
    assert far(last_activations(tiny_gpt2, ROWS[:6], SITES[1])[SITES[1]], whole) < 1e-5
    assert sum(tokens_read) == 36


def test_a_sequence_of_one_token_and_a_site_without_tokens_are_refused(tiny_gpt2: Model) -> None:
    for call in (
        lambda: last_log_probs(tiny_gpt2, [[1, 2], [3]]),
        lambda: last_activations(tiny_gpt2, ROWS, "blocks.0.attn.hook_pattern"),
        lambda: last_activations(tiny_gpt2, ROWS, "blocks.0.hook_resid_past"),
    ):
        with pytest.raises(UserError) as refused:
            call()
        the_line(refused)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_patching_late_tokens_reads_the_early_ones_once(
    tiny_of: Callable[[str], Model], architecture: str, tokens_read: list[int]
) -> None:
    model = tiny_of(architecture)
    source, corrupt = [[*TEMPLATE, 9, 3, 12], [*TEMPLATE, 9, 2, 13]], [[*TEMPLATE, 9, 2, 12], [*TEMPLATE, 9, 4, 13]]
    metric = logit_difference([5, 6], [8, 9])
    sites = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z"]
    patch_sweep(model, source, corrupt, metric, sites)
    tokens_read.clear()
    swept = patch_sweep(model, source, corrupt, metric, sites)
    # source and corrupt, the cache of the first five tokens, two places of two pairs at two sites: two tokens each
    assert sum(tokens_read) == 14 + 14 + 10 + 2 * 2 * 2 * 2
    assert bool((swept.effect[:, :, :5] == 0).all()), "before the token that differs nothing can move"
    acts, base = model.capture(source, sites), model.measure(corrupt, metric)
    for i, site in enumerate(sites):
        for pos in range(7):

            def put(value: torch.Tensor, _: Any, pos: int = pos, site: str = site) -> torch.Tensor:
                value[:, pos] = acts[site][:, pos]
                return value

            with model.edit({site: put}):
                moved = model.measure(corrupt, metric) - base
            assert far(swept.effect[:, i, pos], moved) < 1e-4
    assert float(swept.effect.abs().max()) > 1e-3


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gptj", "bloom", "opt"])
def test_a_forward_that_starts_late_is_the_whole_one(
    tiny_of: Callable[[str], Model], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With edits behind the place, and none, and in an edit that asks the model; the blocks are as they were."""
    model = tiny_of(architecture)
    site = model.residual(1)
    assert starts_late(model.tree, 1)
    stream = model.capture(ROWS[:6], site)[site]
    (batch,) = forward.batches(model.tree, ROWS[:6], 64, "right")
    ran: list[Any] = []
    monkeypatch.setattr(late, "_passing", lambda *given, plain=late._passing: ran.append(1) or plain(*given))
    asked: list[torch.Tensor] = []

    def ask(value: torch.Tensor, _: Any) -> torch.Tensor:
        asked.append(model.logits(ROWS[:1]))
        return value * 1.5

    for edits in ({}, {"blocks.0.hook_resid_post": ablate()}, {"blocks.1.hook_mlp_out": ask}):
        with model.edit(edits) if edits else model.tree.settled():
            whole = forward.forward(model.tree, batch).logits
            from_there = forward.forward(model.tree, batch, late=Late(1, stream)).logits
            wrong = forward.forward(model.tree, batch, late=Late(1, stream.roll(1, 0))).logits
        assert far(from_there, whole) < 1e-4
        assert far(wrong, whole) > 1e-3 or edits, "the stream is what it goes on from"
    assert ran
    plain = model.logits(ROWS[:1])
    assert all(far(logits, plain) < 1e-5 for logits in asked)
    assert not any("forward" in vars(module) for module in model.hf.modules())


def test_blocks_that_share_more_than_the_stream_are_run(tiny_of: Callable[[str], Model]) -> None:
    """The planted fault: a second block that also reads what the first one kept."""
    model = tiny_of("llama")
    first, second = model.hf.model.layers  # type: ignore[union-attr]
    kept: list[torch.Tensor] = []
    hooks = [
        first.register_forward_pre_hook(lambda _, args: kept.append(args[0])),
        first.mlp.register_forward_hook(lambda _, args, out: kept.append(out)),
        second.register_forward_hook(lambda _, args, out: out + kept.pop()),
    ]
    try:
        model.tree.follow()
        assert not starts_late(model.tree, 1)
    finally:
        for hook in hooks:
            hook.remove()
    model.tree.follow()
    assert starts_late(model.tree, 1)


def test_losses_under_edits_are_those_of_whole_forwards(
    word_model: Model, word_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [ids.tolist() for ids in word_rows.ids.split(torch.bincount(word_rows.document).tolist())][:6]
    rows = type(word_rows)(
        word_rows.site, *(part[: sum(map(len, texts))] for part in list(vars(word_rows).values())[1:])
    )
    edits = [None, ablate(), only(steer(torch.ones(word_model.d_model)), pos=1)]
    nobody = Passes(silent, 4)
    short = losses_under(word_model, texts, rows, edits, nobody)
    monkeypatch.setattr("interp.saes.losses.starts_late", lambda *_: False)
    whole = losses_under(word_model, texts, rows, edits, nobody)
    for one, other in zip(short, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    by_hand = word_model.loss(texts).nan_to_num()[:, 2:].sum(1)
    np.testing.assert_allclose(whole[0], by_hand.numpy(), rtol=1e-4)
    assert abs(whole[1] - whole[0]).max() > 0.1


def test_texts_that_only_have_lengths_are_read_side_by_side(tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of forty lengths would be a forward, and a copy of the cache, of its own."""
    texts = [[5, *range(10, 10 + n)] if n % 2 else [5, *range(30, 30 + n)] for n in range(2, 42)]
    prompts = [[row[0], *row[:0:-1]] for row in texts]  # they part behind the first token
    monkeypatch.setattr("interp.model.last_activations.read_last", lambda *_: pytest.fail("read piece by piece"))
    vectors = last_activations(tiny_gpt2, prompts, SITES[1])[SITES[1]]
    assert far(vectors, tiny_gpt2.capture(prompts, SITES[1]).last(SITES[1])) < 1e-4
    assert beginnings.begin_alike_enough([[*TEMPLATE, a, b] for a in (9, 10, 11) for b in (12, 13)])
