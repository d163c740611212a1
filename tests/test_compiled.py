"""Captures by compiled blocks: the values of plain ones, recorded in the plan, refused where nothing compiles."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import Model
from interp.activations import cost
from interp.activations.capture import capture_store
from interp.activations.cost import Compiling, measure_cost
from interp.activations.plan import plan_capture
from interp.activations.token_table import Cut
from interp.errors import UserError
from interp.model.hooks import compiled as compiled_module
from interp.model.hooks.compiled import compiled

TEXTS = ["the cat sat on the mat and ran far away from a dog"] * 6
SITES = ["blocks.*.hook_resid_post", "blocks.0.hook_mlp_out"]


def planned(model: Model, *, compiled: bool, sites: Any = SITES) -> Any:
    return plan_capture(model, TEXTS, sites, cut=Cut(16, "packed", 64), batch_tokens=64, compiled=compiled)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Functions are noted and not compiled, which takes long."""
    noted: list[Any] = []

    def note(function: Any) -> Any:
        noted.append(function)

        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(compiled_module, "_compile", note)
    return noted


def test_compiled_blocks_give_the_values_of_plain_ones(tiny_gpt2: Model, tmp_path: Path) -> None:
    """By torch's own compiler; afterwards the model computes the same bits as before."""
    before = tiny_gpt2.logits(TEXTS[:1])
    stores = {}
    for how in (False, True):
        plan, tokens = planned(tiny_gpt2, compiled=how)
        stores[how] = capture_store(tiny_gpt2, tmp_path / str(how), plan, tokens)
    for site in stores[True].sites:
        eager, ours = (torch.as_tensor(stores[how].rows(site)[:]) for how in (False, True))
        torch.testing.assert_close(ours, eager, rtol=0, atol=1e-5 * float(eager.abs().max()))
    assert torch.equal(tiny_gpt2.logits(TEXTS[:1]), before)


def test_a_plan_says_that_it_is_compiled(tiny_gpt2: Model, tmp_path: Path, pretended: list[Any]) -> None:
    """It is another capture than the plain one, and its workers run compiled code."""
    plain, _ = planned(tiny_gpt2, compiled=False)
    plan, tokens = planned(tiny_gpt2, compiled=True)
    assert "compiled" not in plain.numerics
    assert not plain.is_same(plan)
    assert planned(tiny_gpt2, compiled=True)[0].hash == plan.hash
    capture_store(tiny_gpt2, tmp_path / "store", plan, tokens)
    names = {type(function.__self__).__name__ for function in pretended if hasattr(function, "__self__")}
    assert names == {"GPT2Block", "GPT2Attention", "LayerNorm", "GPT2MLP"}, "in block 0 a site lies in the middle"
    pretended.clear()
    capture_store(tiny_gpt2, tmp_path / "plain", plain, tokens)
    assert pretended == []


def test_a_compiled_model_is_still_the_same_model(tiny_gpt2: Model, pretended: list[Any]) -> None:
    known, bridge = tiny_gpt2.provenance, tiny_gpt2.bridge
    with compiled(tiny_gpt2.tree, ["blocks.0.hook_resid_post"]):
        assert tiny_gpt2.provenance == known
        assert tiny_gpt2.bridge is bridge
    assert not any("forward" in vars(module) for module in tiny_gpt2.hf.modules())


def test_what_compiling_gains_is_measured(
    tiny_gpt2: Model, tmp_path: Path, pretended: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, tokens = planned(tiny_gpt2, compiled=True)
    times = iter([(9.0, 6.0), (34.0, 4.0)])  # eager, then compiled: the first batch and the second
    monkeypatch.setattr(cost, "_seconds_of", lambda *_: next(times))
    found = measure_cost(tiny_gpt2, plan, tokens, tmp_path)
    assert found.compiling == Compiling(30.0, 1.5)
    assert Compiling(30.0, 1.5).pays_from == pytest.approx(90.0), (
        "90 s without it are 60 s with it and 30 s of compiling"
    )
    assert Compiling(30.0, 0.9).pays_from == inf
    assert found.cards == ()


def test_where_nothing_compiles_it_is_one_line(
    tiny_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, tokens = planned(tiny_gpt2, compiled=True, sites=["blocks.0.attn.hook_q"])
    with pytest.raises(
        UserError, match=r"a site among blocks.0.attn.hook_q is read from the hooked tree, which is not"
    ):
        capture_store(tiny_gpt2, tmp_path / "store", plan, tokens)
    assert not (tmp_path / "store").exists(), "the same command without --compile writes there"

    def fail(_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx\nand a long trace")

    monkeypatch.setattr(compiled_module, "_compile", fail)
    plan, tokens = planned(tiny_gpt2, compiled=True)
    with pytest.raises(
        UserError, match=r"does not work on cpu here \(No working C\+\+ compiler .*\); it needs a C\+\+"
    ):
        measure_cost(tiny_gpt2, plan, tokens, tmp_path)
    assert not any("forward" in vars(module) for module in tiny_gpt2.hf.modules())
