"""Sites that TransformerLens keeps switched off: opened when named, their cost said once, and closed again.

Each test has a model of its own: an opened site stays known to a model, and other tests share theirs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from refusals import the_line

from interp import Model, UserError, ablate
from interp.model.choose import only
from interp.model.hooks.bridge import count_hooks

PROMPTS = ["The capital of France is Paris, and", "Mary had"]
RESULT, Q_INPUT = "blocks.*.attn.hook_result", "blocks.*.hook_q_input"
SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")


def _switches(model: Model) -> list[bool]:
    configs = [model.bridge.cfg, *(block.attn.config for block in model.bridge.blocks)]
    return [bool(getattr(config, switch, False)) for config in configs for switch in SWITCHES]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_what_each_head_writes_sums_to_what_attention_writes(
    make_tiny: Callable[..., Model], architecture: str
) -> None:
    model = make_tiny(architecture)
    acts = model.capture(PROMPTS, [RESULT, "blocks.*.hook_attn_out", "blocks.*.attn.hook_z"])
    for layer in range(model.n_layers):
        result, out = acts[f"blocks.{layer}.attn.hook_result"], acts[f"blocks.{layer}.hook_attn_out"]
        assert acts.axes[f"blocks.{layer}.attn.hook_result"] == ("prompt", "pos", "head", "feature")
        assert result.shape[2:] == (4, 32)
        real = acts.mask
        torch.testing.assert_close((result.sum(2) + model.b_O[layer])[real], out[real], atol=1e-4, rtol=1e-4)
        by_hand = torch.einsum("bphd,hdm->bphm", acts[f"blocks.{layer}.attn.hook_z"], model.W_O[layer])
        torch.testing.assert_close(result[real], by_hand[real], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(result[:, :, 0][real], out[real], atol=1e-2), "a head is not the sum of all"


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_input_of_one_heads_queries_is_its_own(make_tiny: Callable[..., Model], architecture: str) -> None:
    model = make_tiny(architecture)
    sites = ["blocks.1.attn.hook_q", "blocks.1.attn.hook_k", "blocks.1.attn.hook_v"]
    before = model.capture(PROMPTS, sites)
    with model.edit({"blocks.1.hook_q_input": only(ablate(), heads=2)}) as receipts:
        after = model.capture(PROMPTS, sites)
    assert receipts["blocks.1.hook_q_input"].fired
    real = before.mask
    moved = (after[sites[0]][real] - before[sites[0]][real]).abs().amax((0, 2))
    assert float(moved[2]) > 1e-2
    assert float(moved[[0, 1, 3]].max()) < 1e-5
    for site in sites[1:]:
        torch.testing.assert_close(after[site][real], before[site][real], atol=1e-5, rtol=0)


def test_an_open_site_changes_no_number_and_is_closed_behind_it(make_tiny: Callable[..., Model]) -> None:
    for architecture in ("gpt2", "llama"):
        model = make_tiny(architecture)
        before, listed = model.logits(PROMPTS), model.sites()
        for site in (RESULT, Q_INPUT, "blocks.*.hook_k_input", "blocks.*.hook_attn_in", "blocks.*.hook_mlp_in"):
            model.capture(PROMPTS, site)
            with model.edit({site: lambda value, _: value}):
                inside = model.logits(PROMPTS)
            torch.testing.assert_close(inside, before, atol=1e-4, rtol=1e-4, equal_nan=True)
            assert not any(_switches(model))
            assert count_hooks(model.bridge) == 0
        with pytest.raises(RuntimeError, match="on purpose"), model.edit({RESULT: _raises}):
            model.logits(PROMPTS)
        assert not any(_switches(model)), "an edit that raises leaves nothing open"
        assert torch.equal(model.logits(PROMPTS).nan_to_num(), before.nan_to_num())
        assert model.sites() == listed, "`*` means the same places as before"


def _raises(*_: object) -> None:
    raise RuntimeError("on purpose")


def test_its_cost_is_said_once(make_tiny: Callable[..., Model], capsys: pytest.CaptureFixture[str]) -> None:
    model = make_tiny("llama")
    model.capture(PROMPTS, "*")
    assert not any(_switches(model))
    assert "keeps a residual stream" not in capsys.readouterr().err, "`*` alone opens nothing"
    model.capture(PROMPTS, RESULT)
    line = "blocks.*.attn.hook_result keeps a residual stream a head: 4 x 128 bytes a token and layer"
    assert capsys.readouterr().err.splitlines() == [line]
    model.capture(PROMPTS, [RESULT, "blocks.0.attn.hook_result"])
    assert not capsys.readouterr().err


def test_two_kinds_that_exclude_each_other_are_one_line(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    with pytest.raises(UserError, match="cannot be open in one forward; use one kind") as raised:
        model.capture(PROMPTS, ["blocks.*.hook_attn_in", "blocks.*.hook_q_input"])
    the_line(raised)
    assert not any(_switches(model))
    assert model.capture(PROMPTS, "blocks.0.hook_attn_in")


def test_a_place_of_two_names_is_one_place(make_tiny: Callable[..., Model], capsys: pytest.CaptureFixture[str]) -> None:
    """`hook_q_input` is called `attn.hook_q_input` too: a pattern that matches both must not edit it twice."""
    model = make_tiny("gpt2")
    doubled = {"blocks.0.hook_q_input": lambda value, _: 2 * value, "blocks.1.hook_q_input": lambda value, _: 2 * value}
    with model.edit(doubled):
        once = model.last_logits(PROMPTS)
    capsys.readouterr()
    fresh = make_tiny("gpt2")
    with fresh.edit({Q_INPUT: lambda value, _: 2 * value}) as receipts:
        torch.testing.assert_close(fresh.last_logits(PROMPTS), once, atol=1e-4, rtol=1e-4)
    assert [receipt.fired for receipt in receipts.values()] == [1, 1]
    assert len(fresh.capture(PROMPTS, Q_INPUT)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_pattern_means_every_layer_also_after_one_was_opened(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    assert list(model.capture(PROMPTS, "blocks.1.attn.hook_result")) == ["blocks.1.attn.hook_result"]
    assert len(model.capture(PROMPTS, RESULT)) == 2


@pytest.mark.parametrize(
    ("architecture", "site", "words"),
    [
        ("bloom", "blocks.*.hook_mlp_in", "fills it only with use_hook_mlp_in on, which this model does not take"),
        ("mamba", Q_INPUT, "unknown site 'blocks.*.hook_q_input'; nearest: "),
    ],
)
def test_a_model_that_cannot_is_told_in_one_line(
    make_tiny: Callable[..., Model], architecture: str, site: str, words: str
) -> None:
    model = make_tiny(architecture)
    with pytest.raises(UserError) as raised:
        model.capture(PROMPTS, site)
    assert words in the_line(raised)
    assert bool(torch.isfinite(model.last_logits(PROMPTS)).all())


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("pattern", ["blocks.0.attn.hook_result", "*result*", "*attn_in*", "*mlp_in*", Q_INPUT])
def test_sites_names_what_capture_takes_in_a_fresh_session(
    make_tiny: Callable[..., Model], architecture: str, pattern: str
) -> None:
    model = make_tiny(architecture)
    listed = model.sites()
    named = model.sites(pattern)
    assert named
    assert named == list(make_tiny(architecture).capture(PROMPTS, pattern))
    assert not any(_switches(model)), "naming leaves nothing open"
    assert model.sites() == listed
    assert named == model.sites(pattern), "and says the same again"


def test_sites_that_a_model_cannot_open_are_refused_by_sites_too(make_tiny: Callable[..., Model]) -> None:
    with pytest.raises(UserError, match="which this model does not take") as raised:
        make_tiny("bloom").sites("blocks.*.hook_mlp_in")
    the_line(raised)
