"""Prompts that are read ahead: the last token's numbers are those of whole prompts, under every edit of that token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from refusals import the_line

from interp import Model, UserError
from interp.analysis.metrics import divergence, log_prob
from interp.analysis.read_ahead import ReadAhead
from interp.model.edits import ablate, steer
from interp.model.gradients import gradients_of
from interp.model.hooks.metrics import Metric

ROWS = [[5, 6, 7, 8], [9], [6, 7], [5, 6, 7, 9], [4, 9, 8, 7, 6, 5], [11]]
SITE = "blocks.0.hook_resid_post"
# with and without a mask for padding at the left, a window, no cache at all, positions of its own
ARCHITECTURES = ["gpt2", "llama", "mistral", "bloom", "mamba"]


def summed() -> Metric:
    """One that reads more than the last token."""
    return lambda logits, where: logits.sum((1, 2))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_token_is_what_it_is_in_the_whole_prompt(tiny_of: Callable[[str], Model], architecture: str) -> None:
    model = tiny_of(architecture)
    direction = torch.linspace(-1, 1, model.d_model)
    for batch_size in (2, 32):
        ahead = ReadAhead(model, ROWS, batch_size=batch_size)
        torch.testing.assert_close(ahead.last_logits(), model.last_logits(ROWS), atol=1e-4, rtol=1e-4)
        for dose in (3.0, -1.0):
            with model.edit({SITE: steer(direction, dose, pos=-1)}):
                pushed, whole = ahead.last_logits(), model.last_logits(ROWS)
                seen = ahead.capture([SITE])[SITE]
                torch.testing.assert_close(seen, model.capture(ROWS, SITE).last(SITE), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(pushed, whole, atol=1e-4, rtol=1e-4)
            assert (pushed - ahead.last_logits()).abs().max() > 1e-3, "the push is seen, and gone afterwards"


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mamba"])
def test_metrics_and_slopes_are_those_of_whole_prompts(tiny_of: Callable[[str], Model], architecture: str) -> None:
    model = tiny_of(architecture)
    ahead, metric = ReadAhead(model, ROWS), log_prob([7, 8, 9, 4, 5, 6])
    torch.testing.assert_close(ahead.measure(metric), model.measure(ROWS, metric), atol=1e-4, rtol=1e-4)
    slopes = gradients_of(model, ROWS, SITE, metric).gradients.last(SITE)
    torch.testing.assert_close(ahead.gradients(SITE, metric), slopes, atol=1e-4, rtol=1e-3)
    clean = ahead.last_logits()
    with model.edit({SITE: ablate(pos=-1)}):
        kl = ahead.measure(divergence(clean))
        torch.testing.assert_close(kl, model.measure(ROWS, divergence(clean)), atol=1e-5, rtol=1e-3)


def test_an_edit_sees_which_prompt_it_is_asked_about(tiny_gpt2: Model) -> None:
    asked: list[int] = []
    with tiny_gpt2.edit({SITE: lambda activation, where: asked.extend(where.prompts.tolist())}) as receipts:
        ReadAhead(tiny_gpt2, ROWS, batch_size=4).last_logits()
    assert sorted(asked) == list(range(len(ROWS)))
    assert receipts[SITE].fired > 0


def test_a_beginning_that_all_share_is_read_once(tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.analysis import read_ahead

    read: list[torch.Size] = []
    forward = read_ahead.forward
    monkeypatch.setattr(
        read_ahead, "forward", lambda tree, batch, **how: read.append(batch.ids.shape) or forward(tree, batch, **how)
    )
    rows = [[5, 6, last] for last in range(7, 12)]
    torch.testing.assert_close(
        ReadAhead(tiny_gpt2, rows).last_logits(), tiny_gpt2.last_logits(rows), atol=1e-4, rtol=1e-4
    )
    assert [tuple(shape) for shape in read] == [(1, 2), (5, 1)]
    read.clear()
    ReadAhead(tiny_gpt2, [*rows, [6, 6, 5]]).last_logits()
    assert [tuple(shape) for shape in read] == [(6, 2), (6, 1)], "one begins otherwise: each is read"


def test_a_metric_of_more_than_the_last_token_is_refused(tiny_gpt2: Model) -> None:
    for ask in (lambda some: some.measure(summed()), lambda some: some.gradients(SITE, summed())):
        with pytest.raises(UserError, match="more than the last token's logits") as refused:
            ask(ReadAhead(tiny_gpt2, ROWS))
        the_line(refused)
