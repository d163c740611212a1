"""Every architecture against plain transformers: logits, streams, patterns, edits, text and gradients.

The checks are in `architecture_checks.py`, with the fault that each must find; this file also holds them to faults that
are planted in interp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from architecture_checks import CHECKS, NEVER, TOLERANCE, Outcome, Trial, Verdict, check, gap
from architectures import ARCHITECTURES, REFUSED
from torch import Tensor

from interp import Model
from interp.model import gradients as gradients_module
from interp.model import model as model_module
from interp.model.edits import steer
from interp.model.hooks.engines import Ran

# learned positions; patterns that SDPA hides; dense beside MoE; LongRoPE across its switch; two tables; no attention
USUAL = ["gpt2", "opt", "llama", "qwen3_moe", "phi3_longrope", "gemma3", "deepseek_v3", "mamba"]


def told(verdict: Verdict) -> str:
    rows = [f"{what} {outcome}" for what, outcome in verdict.outcomes.items() if not outcome.ok]
    return "\n".join([verdict.name, *rows, *verdict.lines()])


@pytest.mark.parametrize("name", USUAL)
def test_an_architecture_is_what_plain_transformers_computes(tiny_gpt2: Model, name: str) -> None:
    verdict = check(name, tiny_gpt2.tokenizer)
    assert verdict.ok, told(verdict)
    assert not any(outcome.refused for outcome in verdict.outcomes.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in USUAL])
def test_every_other_architecture_is_too_or_is_declined_for_a_known_reason(tiny_gpt2: Model, name: str) -> None:
    verdict = check(name, tiny_gpt2.tokenizer)
    assert verdict.ok, told(verdict)


def test_every_reason_to_decline_belongs_to_an_architecture() -> None:
    assert set(REFUSED) <= set(ARCHITECTURES)
    assert not set(REFUSED) & set(USUAL)
    assert len(ARCHITECTURES) >= 45


@pytest.fixture(scope="module")
def trial(tiny_gpt2: Model) -> Trial:
    return Trial("llama", tiny_gpt2.tokenizer)


@contextmanager
def replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thing, name, value)
        yield


@contextmanager
def both(first: Any, second: Any) -> Iterator[None]:
    with first, second:
        yield


def _wrapped(change: Callable[[Tensor], Tensor]) -> Any:
    """Every forward of a model's methods gives other logits."""
    forward = model_module.forward

    def wrapped(*args: Any, **more: Any) -> Ran:
        ran = forward(*args, **more)
        return Ran(change(ran.logits), ran.cache)

    return both(replaced(model_module, "forward", wrapped), replaced(gradients_module, "forward", wrapped))


def louder(model: Model) -> Any:
    """The last forward of the hooks is 0.1 % off."""
    return _wrapped(lambda logits: logits * 1.001)


@contextmanager
def cut_otherwise(model: Model) -> Iterator[None]:
    """Heads are cut twice as narrow, so that half a head is taken for one."""
    conversions: list[Any] = [model.tree.points[f"blocks.{layer}.attn.hook_z"].hook_conversion for layer in (0, 1)]
    before = [(c.n_heads, c.d_head) for c in conversions]
    for conversion, (count, width) in zip(conversions, before, strict=True):
        conversion.n_heads, conversion.d_head = count * 2, width // 2
    try:
        with model.tree.hooked_only():
            yield
    finally:
        for conversion, (count, width) in zip(conversions, before, strict=True):
            conversion.n_heads, conversion.d_head = count, width


def swapped(model: Model) -> Any:
    """Batch mates change places."""
    return _wrapped(lambda logits: logits.flip(0))


@contextmanager
def one_block_off(model: Model) -> Iterator[None]:
    """Two layers' sites of the hooked tree change places, and it serves."""
    points, before = model.tree.points, dict(model.tree.points)
    for what in ("hook_resid_pre", "hook_resid_post", "attn.hook_pattern", "hook_mlp_out"):
        a, b = (f"blocks.{layer}.{what}" for layer in (0, 1))
        points[a], points[b] = points[b], points[a]
    try:
        with model.tree.hooked_only():
            yield
    finally:
        points.update(before)


def repeating(model: Model) -> Any:
    """Generation says its first token over and over."""
    generate = model.generate

    def stuck(*args: Any, **more: Any) -> Any:
        made = generate(*args, **more)
        return type(made)([row[:1] * len(row) for row in made.ids], made.texts, made.activations)

    return replaced(model, "generate", stuck)


PLANTED: dict[Callable[[Model], Any], set[str]] = {
    louder: {"logits", "batch", "steering", "ablation", "gradients"},
    cut_otherwise: {"heads"},
    swapped: {"batch", "steering", "ablation"},
    one_block_off: {"streams", "patterns", "steering", "ablation", "gradients", "steered text"},
    repeating: {"text", "steered text"},
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_fault_planted_in_interp_is_found(trial: Trial, plant: Callable[[Model], Any]) -> None:
    for what in PLANTED[plant]:
        right = CHECKS[what](trial, False)
        assert right is not None
        assert right < TOLERANCE, what
        with plant(trial.model):
            wrong = CHECKS[what](trial, False)
        assert wrong is not None
        assert wrong > TOLERANCE, f"{what} does not see it"


def test_every_check_meets_a_fault_in_interp() -> None:
    assert set().union(*PLANTED.values()) == set(CHECKS)


def test_the_gap_of_nan_and_of_another_shape_is_infinite_and_of_the_same_is_none() -> None:
    one = torch.ones(2, 3)
    assert gap([(one, one)]) == 0
    assert gap([(one, 2 * one)]) == 0.5
    assert gap([(one, one), (torch.full((2, 3), torch.nan), one)]) == NEVER
    assert gap([(one[:1], one)]) == NEVER


def test_an_outcome_is_right_only_with_its_fault_found() -> None:
    assert Outcome(1e-6, 0.1).ok
    assert Outcome().ok
    assert Outcome(refused="no", allowed=True).ok
    wrong = [
        Outcome(1e-6, 1e-6),
        Outcome(0.1, 0.1),
        Outcome(float("nan"), 0.1),
        Outcome(refused="no"),
        Outcome(broke="x"),
    ]
    assert not any(outcome.ok for outcome in wrong)
    assert [str(outcome) for outcome in wrong] == ["BLIND", "0.1 OFF", "nan OFF", "REFUSED", "BROKE"]


def test_an_edit_of_the_check_is_large_enough_to_change_text(trial: Trial) -> None:
    with trial.model.edit({"blocks.0.hook_resid_post": steer(trial.direction)}):
        edited = trial.model.last_logits(trial.rows)
    assert bool((edited.argmax(-1) != trial.model.last_logits(trial.rows).argmax(-1)).any())
