"""Hooks: names, misuse and interruption, changed weights, and the logit lens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from compare import far, rows_of
from tiny import PLACES

from interp import Model, UserError
from interp.model.hooks.bridge import count_hooks
from interp.model.hooks.tokens import Side
from interp.model.hooks.unchanged import mark_own

PROMPTS = ["The capital of France is Paris, and", "Mary", "John gave a drink to the lazy dog; Rome is"]
SIDES: list[Side] = ["right", "left"]


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("falcon_alibi", "TransformerLens computes FalconForCausalLM wrongly"),
        ("bert", "looks ahead"),
        ("t5", "does not run as a decoder"),
        ("ctrl", "TransformerLens has no hooks for architecture CTRLLMHeadModel"),
    ],
)
def test_an_architecture_that_cannot_work_is_refused_in_one_line(make_tiny: Any, architecture: str, reason: str):
    with pytest.raises(UserError, match=reason) as refused:
        make_tiny(architecture).capture(PROMPTS, "*")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_recurrent_model_that_reads_its_padding_refuses_it_on_the_left(make_tiny: Any):
    model = make_tiny("rwkv")
    assert model.logits(PROMPTS).shape[0] == 3
    with pytest.raises(UserError, match="padding on the left changes what RwkvForCausalLM computes"):
        model.capture(PROMPTS, "blocks.*.hook_resid_post", padding="left")


def test_every_alias_carries_the_value_of_the_traditional_name(tiny_llama: Model):
    table = tiny_llama.site_table
    aliases: dict[str, list[str]] = {}
    for name, origin in table.origin.items():
        aliases.setdefault(origin, []).append(name)
    assert {"blocks.1.hook_resid_post", "blocks.1.hook_out"} <= set(aliases["blocks.1.hook_out"])
    acts = tiny_llama.capture(PROMPTS, list(table.axes))
    for names in aliases.values():
        for other in names[1:]:
            assert torch.equal(acts[names[0]].nan_to_num(), acts[other].nan_to_num())
    assert [n for n in tiny_llama.sites() if n in aliases["blocks.1.hook_out"]] == ["blocks.1.hook_resid_post"]


def test_capture_keeps_what_was_asked_for_and_no_more(tiny_llama: Model):
    wanted = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_pattern", "blocks.*.hook_resid_post"]
    acts = tiny_llama.capture(PROMPTS, wanted, batch_size=2)
    assert list(acts) == ["blocks.0.hook_resid_post", "blocks.1.attn.hook_pattern", "blocks.1.hook_resid_post"]
    n, width = acts.mask.shape
    held = {site: t.untyped_storage().nbytes() for site, t in acts.items()}
    assert held == {site: 4 * n * (4 * width * width if "pattern" in site else width * 32) for site in acts}, (
        "no tensor hangs on a larger one"
    )
    assert len({t.untyped_storage().data_ptr() for t in acts.values()}) == 3


def test_the_forward_stops_after_the_last_wanted_site(make_tiny: Any):
    model = make_tiny("gpt2")
    ran: list[int] = []
    for layer in range(2):
        model.bridge.blocks[layer].register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        count = mark_own(lambda *_, layer=layer: ran.append(layer))  # a user's hook has the engines compared each time
        model.hf.transformer.h[layer].register_forward_hook(count)
    model.capture(["Mary"], "*")
    for engine in (nullcontext(), model.tree.hooked_only()):
        with engine:
            model.capture(["Mary"], "blocks.0.hook_resid_post")  # what is asked once is asked
            ran.clear()
            model.capture(["Mary"], "blocks.0.hook_resid_post")
            assert ran in ([], [0]), "block 1 ran for nothing"
    full = model.logits(["Mary"])
    assert ran[-2:] == [0, 1]
    with torch.no_grad():
        assert far(full, model.hf(torch.tensor(model.encode(["Mary"]))).logits) < 1e-4, "a stopped forward left a trace"


def test_last_and_rows_pick_real_tokens(tiny_gpt2: Model):
    site = "blocks.1.hook_resid_post"
    for side in SIDES:
        acts = tiny_gpt2.capture(PROMPTS, site, padding=side)
        ends = torch.stack([rows_of(acts, site, i)[-1] for i in range(3)])
        assert torch.equal(acts.last(site), ends)
        assert torch.equal(acts.rows(site), torch.cat([rows_of(acts, site, i) for i in range(3)]))


def test_last_and_rows_refuse_a_site_that_is_not_per_token(tiny_gpt2: Model):
    """[prompt, head, query, key] indexed as [prompt, pos] would give a head's rows, or crash."""
    acts = tiny_gpt2.capture(["Mary"], "blocks.0.attn.hook_pattern")
    for read in (acts.last, acts.rows):
        with pytest.raises(UserError, match="not one activation per token"):
            read("blocks.0.attn.hook_pattern")


@pytest.mark.parametrize(
    ("site", "line"),
    [
        ("blocks.0.hook_resid_pots", "unknown site 'blocks.0.hook_resid_pots'; nearest: 'blocks.0.hook_resid_post'"),
        ("blocks.7.hook_resid_post", "unknown site 'blocks.7.hook_resid_post'"),
        ("blocks.*.hook_nothing", "unknown site"),
        ([], "no site came"),
        ([3], "site 3 is a int; expected a name"),
        (None, "site None is a NoneType; expected a name"),
    ],
)
def test_a_wrong_site_is_one_line_and_leaves_no_hook(tiny_gpt2: Model, site: Any, line: str):
    for use in (lambda: tiny_gpt2.capture(PROMPTS, site), lambda: tiny_gpt2.sites(site)):
        with pytest.raises(UserError) as refused:
            use()
        assert line in str(refused.value)
        assert "\n" not in str(refused.value)
    assert count_hooks(tiny_gpt2.bridge) == 0


def test_a_site_that_never_fires_is_refused(tiny_gpt2: Model):
    silent = sorted(tiny_gpt2.site_table.silent)[0]
    with pytest.raises(UserError, match="carries nothing of its own"):
        tiny_gpt2.capture(PROMPTS, silent)


@pytest.mark.parametrize("architecture", ["gptj", "xglm", "gpt_neo"])
def test_a_score_hook_that_shows_the_pattern_is_no_site(tiny_of: Callable[[str], Model], architecture: str):
    with pytest.raises(UserError, match="shows another site's value"):
        tiny_of(architecture).capture(PROMPTS, "blocks.0.attn.hook_attn_scores")


def test_bad_options_are_one_line(tiny_gpt2: Model):
    site = "blocks.0.hook_resid_post"
    with pytest.raises(UserError, match="padding='centre'; expected one of right, left"):
        tiny_gpt2.capture(PROMPTS, site, padding="centre")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="batch_size=0; expected 1 or more"):
        tiny_gpt2.logits(PROMPTS, batch_size=0)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_capture_leaves_no_hook(make_tiny: Any, error: type[BaseException]):
    model = make_tiny("gpt2")
    before = model.capture(PROMPTS, "blocks.*.hook_resid_post")

    def interrupt(*_: object) -> None:
        raise error

    handle = model.hf.transformer.h[1].register_forward_pre_hook(interrupt)
    with pytest.raises(error):
        model.capture(PROMPTS, "blocks.*.hook_resid_post")
    handle.remove()
    assert count_hooks(model.bridge) == 0
    after = model.capture(PROMPTS, "blocks.*.hook_resid_post")
    assert all(torch.equal(before[site].nan_to_num(), after[site].nan_to_num()) for site in before)


@pytest.mark.parametrize("architecture", ["gpt_neox", "bloom", "falcon", "codegen", "mpt", "phi3", "gpt2", "llama"])
def test_a_changed_weight_is_followed(make_tiny: Any, architecture: str):
    """The bridge splits some fused matrices into copies; changes of the original would pass it by."""
    model = make_tiny(architecture)
    model.sites()  # builds the hooks
    for weight in model.hf.parameters():
        with torch.no_grad():
            weight.mul_(1.5)
    row = model.encode(["Mary"])
    with torch.no_grad():
        plain = model.hf(torch.tensor(row)).logits
    assert far(model.logits(row), plain) < 1e-3
    with model.tree.hooked_only():
        assert far(model.logits(row), plain) < 1e-3


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_replaced_weights_are_followed(make_tiny: Any, architecture: str):
    model = make_tiny(architecture)
    model.sites()
    before = model.logits(["Mary"])
    weights = {name: 1.5 * weight for name, weight in model.hf.state_dict().items()}
    model.hf.load_state_dict(weights, assign=True)
    with model.tree.hooked_only():
        hooked = model.logits(["Mary"])
    assert far(hooked, model.logits(["Mary"])) < 1e-3
    assert far(hooked, before) > 0.1


@pytest.mark.parametrize("architecture", [*PLACES])
def test_the_logit_lens_of_the_last_layer_is_the_model(tiny_of: Callable[[str], Model], architecture: str):
    """Gemma 2 caps its logits after unembedding; a lens that forgets it ranks alike and measures wrongly."""
    model = tiny_of(architecture)
    acts = model.capture(PROMPTS, "blocks.1.hook_resid_post")
    logits = model.logits(PROMPTS)
    assert far(model.unembed(acts.rows("blocks.1.hook_resid_post")), logits[acts.mask]) < 1e-4


def test_the_logit_lens_refuses_what_does_not_fit(make_tiny: Any, tiny_gpt2: Model):
    with pytest.raises(UserError, match="the logit lens does not fit GraniteForCausalLM"):  # it divides its logits by 4
        make_tiny("granite").unembed(torch.zeros(32))
    with pytest.raises(UserError, match="vectors of size 31; expected d_model, 32"):
        tiny_gpt2.unembed(torch.zeros(31))
