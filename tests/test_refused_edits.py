"""Edits that cannot be: refused in one line, on entry, while they run or on exit, and no hook stays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import Model, UserError, ablate, steer
from interp.model.hooks.bridge import count_hooks
from interp.model.hooks.where import Where

PROMPTS = ["The capital of France is Paris, and", "Mary", "John gave a drink to the lazy dog; Rome is"]
MLP, RESID = "blocks.0.hook_mlp_out", "blocks.0.hook_resid_post"


def _in_place(activation: Tensor) -> None:
    """As a hook of TransformerLens may do."""
    activation.add_(1.0)


def halve(activation: Tensor, where: Where) -> Tensor:
    return activation / 2


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda a, s: a[:, :1], "returned shape (3, 1, 32); expected (3, 20, 32)"),
        (lambda a, s: a.double(), "returned torch.float64; expected torch.float32; convert with .to(activation.dtype)"),
        (lambda a, s: _in_place(a), "in place and returned None"),
        (lambda a, s: 3, "returned int; expected a tensor"),
        (lambda a, s: a.numpy(), "returned ndarray; expected a tensor"),
        (lambda a, s: a / 0, "returned NaN or infinite numbers where finite ones came in"),
        (lambda a, s: a.to("meta"), "returned a tensor on meta; expected cpu"),
        (torch.zeros(32), "is a Tensor; expected a function (activation, where) -> activation, such as patch(source)"),
        (steer(torch.zeros(31)), "steer got a direction of shape (31,) at blocks.0.hook_mlp_out; expected (32,)"),
        (steer(torch.tensor([float("nan")] * 32)), "returned NaN"),
        (ablate(pos=99), "position 99 is outside a prompt of "),
        (ablate(pos=-21), "position -21 is outside a prompt of "),
        (ablate(pos=slice(50, 60)), "chooses no token in a prompt of "),
    ],
)
def test_an_edit_that_cannot_be_used_is_one_line(tiny_gpt2: Model, edit: Any, line: str):
    prompts = [list(range(20)), list(range(7)), list(range(12))]
    with pytest.raises(UserError) as refused, tiny_gpt2.edit({MLP: edit}):
        tiny_gpt2.logits(prompts)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    assert count_hooks(tiny_gpt2.bridge) == 0


@pytest.mark.parametrize(
    ("site", "line"),
    [
        ("blocks.0.hook_mlp_uot", "unknown site 'blocks.0.hook_mlp_uot'; nearest: 'blocks.0.hook_mlp_out'"),
        ("nothing.*", "unknown site 'nothing.*'"),
    ],
)
def test_an_edit_at_no_site_is_refused_on_entry(tiny_gpt2: Model, site: str, line: str):
    with pytest.raises(UserError, match=line.replace("*", ".")), tiny_gpt2.edit({site: halve}):
        pytest.fail("the block ran")


def test_an_edit_that_never_fired_is_an_error(tiny_gpt2: Model):
    with pytest.raises(UserError, match="never fired"), tiny_gpt2.edit({MLP: halve}):
        pass
    late = "blocks.1.hook_mlp_out"
    with pytest.raises(UserError, match=f"the edit at {late} never fired"), tiny_gpt2.edit({MLP: halve, late: halve}):
        tiny_gpt2.capture(PROMPTS, RESID)  # stops before block 1
    with pytest.raises(UserError, match="did not come from this model's methods"), tiny_gpt2.edit({MLP: halve}):
        tiny_gpt2.bridge(torch.tensor([[1, 2, 3]]))


def test_scores_under_an_edit_are_those_of_its_logits(tiny_gpt2: Model):
    from interp.analysis.answers import score_answers

    plain = score_answers(tiny_gpt2, PROMPTS[0], [" Paris"]).summed
    with tiny_gpt2.edit({RESID: halve}):
        ids = tiny_gpt2.encode([PROMPTS[0], PROMPTS[0] + " Paris"])
        start, logs = len(ids[0]), tiny_gpt2.logits([ids[1]])[0].log_softmax(-1)
        expected = sum(float(logs[i - 1, ids[1][i]]) for i in range(start, len(ids[1])))
        scored = score_answers(tiny_gpt2, PROMPTS[0], [" Paris"]).summed
    assert abs(float(scored) - expected) < 1e-3 < abs(float(plain) - expected)
    assert scored.shape == (1, 1), "one string is one prompt"


@pytest.mark.parametrize("edit", [lambda activation: activation, lambda: None])
def test_an_edit_of_another_shape_is_refused_on_entry(tiny_gpt2: Model, edit: Any):
    with pytest.raises(UserError, match=r"does not take \(activation, where\).*call it"), tiny_gpt2.edit({RESID: edit}):
        pass
    with pytest.raises(UserError, match="steer got a ndarray"):
        steer(np.zeros(3))  # type: ignore[arg-type]


def test_no_edit_at_all_is_refused(tiny_gpt2: Model):
    for edits, told in (({}, "no edit came"), ([(MLP, ablate())], "got a list"), (MLP, "got a str")):
        with pytest.raises(UserError, match=told), tiny_gpt2.edit(edits):  # type: ignore[arg-type]
            pass


def test_an_edit_without_with_is_warned_of(tiny_gpt2: Model):
    with pytest.warns(UserWarning, match="never entered and edits nothing"):
        tiny_gpt2.edit({MLP: ablate()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tiny_gpt2.edit({MLP: ablate()}):
            tiny_gpt2.last_logits(PROMPTS)
