"""A population is as many GPT-2s: transformers' numbers, and no member knows of another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from refusals import the_line

from interp import UserError
from interp.model.training.batched_gpt2 import (
    Member,
    Population,
    Size,
    TrainingSchedule,
    begin,
    forward,
    train_population,
)

SIZE = Size(16, n_layers=2, n_heads=4, context=12)
TEXT = torch.randint(9, (400,), generator=torch.Generator().manual_seed(0))


def trained(members: list[Member], steps: int = 20, texts: list[torch.Tensor] | None = None) -> Population:
    return train_population(SIZE, 9, members, texts or [TEXT] * len(members), TrainingSchedule(steps, batch=4))


@pytest.fixture
def doubles() -> Iterator[None]:
    """64 bits: Adam makes a step of a gradient's rounding where the gradient is zero, as a key's bias has it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_member_is_transformers_gpt2() -> None:
    population = trained([Member(1e-2, 0), Member(3e-3, 1)])
    ids = TEXT[:24].view(2, 12)
    ours = forward(population.parameters, SIZE, ids.expand(2, 2, 12))
    for member in range(2):
        hf = population.extract(member)
        with torch.no_grad():
            torch.testing.assert_close(ours[member], hf(ids).logits, rtol=1e-4, atol=1e-5)
        windows = TEXT[: len(TEXT) // 13 * 13].view(-1, 13)
        with torch.no_grad():
            logits = hf(windows[:, :-1]).logits
        theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
        torch.testing.assert_close(population.losses(TEXT)[member], theirs.view(-1, 12).mean(1), rtol=1e-4, atol=1e-5)


def test_parameters_are_counted_as_transformers_has_them() -> None:
    hf = trained([Member(1e-2, 0)], steps=1).extract(0)
    assert SIZE.parameters(9, embeddings=True) == hf.num_parameters()
    assert SIZE.parameters(9, embeddings=False) == hf.num_parameters() - (9 + 12) * 16


def test_a_member_learns_as_it_would_alone(doubles: None) -> None:
    members = [Member(1e-2, 0), Member(3e-2, 5), Member(3e-3, 5)]
    together, apart = trained(members), [trained([member]) for member in members]
    for i, alone in enumerate(apart):
        for name, value in alone.parameters.items():
            torch.testing.assert_close(together.parameters[name][i], value[0], rtol=1e-6, atol=1e-9)


def test_the_step_is_adams(doubles: None) -> None:
    """One step of transformers' model by torch.optim.Adam, gradient clipped, from the same weights and batch."""
    member, schedule = Member(5e-3, 3), TrainingSchedule(1, batch=4)
    start = Population(SIZE, 9, (member,), begin(SIZE, 9, [member]))
    hf = start.extract(0)
    first = torch.randint(len(TEXT) - 12, (4,), generator=torch.Generator().manual_seed(3 + 1_000_003))
    batch = TEXT[first[:, None] + torch.arange(13)]
    optimizer = torch.optim.Adam(hf.parameters(), lr=member.lr, betas=(0.9, 0.95))
    loss = torch.nn.functional.cross_entropy(hf(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
    optimizer.step()
    ours = train_population(SIZE, 9, [member], [TEXT], schedule).extract(0)
    for (name, theirs), mine in zip(hf.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9, msg=name)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    a, b, c = (trained([Member(1e-2, seed)]).parameters["wte.weight"] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_it_learns_what_there_is_to_learn_and_is_watched() -> None:
    pattern = torch.arange(9).repeat(60)
    seen: list[int] = []
    population = train_population(
        SIZE, 9, [Member(2e-2, 0), Member(2e-2, 0)], [pattern, TEXT], TrainingSchedule(200),
        watch=lambda step, models: seen.append(step) or None, progress=lambda what, done, total: None,
    )  # fmt: skip
    ours, noise = population.losses(pattern).mean(1)
    assert float(ours) < 0.05 < 2.0 < float(noise), "each read its own text"
    assert seen == list(range(20, 201, 20))


def test_bad_input_is_one_line() -> None:
    for call in (
        lambda: trained([Member(1e-2, 0)], texts=[TEXT[:5]]),
        lambda: trained([Member(1e-2, 0)], texts=[TEXT, TEXT]),
        lambda: begin(Size(10, n_heads=4), 9, [Member(1e-2, 0)]),
        lambda: trained([Member(1e-2, 0)]).losses(TEXT[:3]),
    ):
        with pytest.raises(UserError) as refused:
            call()
        the_line(refused)
