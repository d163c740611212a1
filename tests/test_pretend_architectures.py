"""Every architecture on a card, and spread over two: what it gives is what the CPU gives, or the same refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map
from architecture_kinds import build
from architectures import ARCHITECTURES
from test_pretend_calls import SPREAD, assert_alike

from interp import Model, analysis, edits, from_transformers
from interp.errors import UserError

pytestmark = pytest.mark.pretend
PROMPTS = [[1, 5, 7, 2, 9, 4, 8], [3, 6, 2]]
STREAM = "blocks.0.hook_resid_post"


def edited(model: Model) -> torch.Tensor:
    with model.edit({STREAM: edits.steer(torch.ones(model.d_model), 2.0, pos=-1)}):
        return model.last_logits(PROMPTS)


def slopes(model: Model) -> dict[str, torch.Tensor]:
    metric = analysis.logit_difference([5, 6], [8, 9])
    return dict(analysis.gradients_of(model, PROMPTS, STREAM, metric).gradients)


def by_hooks(model: Model) -> list[list[int]]:
    with model.tree.hooked_only():
        return model.generate(PROMPTS, max_new_tokens=3).ids


ASKED: dict[str, Callable[[Model], Any]] = {
    "logits": lambda m: m.logits(PROMPTS),
    "every site": lambda m: {site: value for site, value in m.capture(PROMPTS, "*").items() if "expert" not in site},
    "an edit": edited,
    "text": lambda m: m.generate(PROMPTS, max_new_tokens=3).ids,
    "text by the hooked tree": by_hooks,
    "gradients": slopes,
}


def on(device: str, hf: Any) -> Any:
    if device != SPREAD:
        return hf.to(device)
    size = sum(p.numel() * p.element_size() for p in hf.parameters())
    places: dict[str, Any] = {}
    for share in (0.6, 0.7, 0.8, 0.9, 1.0):  # large blocks do not go half and half
        places = infer_auto_device_map(
            hf, {0: int(share * size), 1: 10 * size}, no_split_module_classes=list(hf._no_split_modules)
        )
        if len(set(places.values())) == 2:
            break
    return dispatch_model(hf, places, main_device=torch.device("cuda:0"))


def answer(ask: Callable[[Model], Any], model: Model) -> Any:
    try:
        return ask(model)
    except UserError as error:
        return [f"refused: {str(error)[:40]}"]


QUICKLY = [("gpt2", "cuda:1"), ("llama", SPREAD)]  # they run with every change
CASES = [
    pytest.param(name, device, marks=() if (name, device) in QUICKLY else pytest.mark.slow)
    for name, made in ARCHITECTURES.items()
    for device in ("cuda:1", SPREAD)
    if device != SPREAD or made.build._no_split_modules  # transformers spreads only those that name their blocks
]


@pytest.mark.parametrize(("name", "device"), CASES)
def test_an_architecture_gives_what_the_cpu_gives(name: str, device: str, tiny_gpt2: Model) -> None:
    here, there = (build(ARCHITECTURES[name], len(tiny_gpt2.tokenizer), eager=False) for _ in range(2))
    models = [from_transformers(hf, tiny_gpt2.tokenizer) for hf in (here, on(device, there))]
    for what, ask in ASKED.items():
        ours, theirs = (answer(ask, model) for model in models)
        try:
            assert_alike(ours, theirs)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error
