"""Capture: against forward hooks on plain transformers, whatever the padding, the batch and its mates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import PLACES
from torch import Tensor

from interp import Model, UserError
from interp.model.bridge import count_hooks
from interp.model.model import Activations
from interp.model.tokens import Side

PROMPTS = ["The capital of France is Paris, and", "Mary", "John gave a drink to the lazy dog; Rome is"]
SIDES: list[Side] = ["right", "left"]
# ALiBi's scores are relative to the padded length here; softmax takes the constant out again
SHIFTED = {"mpt": "attn_scores"}


@contextmanager
def watching(module: torch.nn.Module, seen: dict[str, Tensor], name: str, read_input: bool = False) -> Iterator[None]:
    """A plain forward hook: what goes into a module, or comes out of it."""

    def hook(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        value = (args[0] if args else kwargs["hidden_states"]) if read_input else out
        seen[name] = (value[0] if isinstance(value, tuple) else value).detach().clone()

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def far(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference where `theirs` is a number that was computed, over its size where that exceeds 100."""
    both = torch.isfinite(theirs) & (theirs > -1e30)
    assert bool(torch.isfinite(ours[both]).all())
    return float((ours - theirs)[both].abs().max()) / max(1.0, float(theirs[both].abs().max()) / 100)


def rows_of(acts: Activations, site: str, i: int) -> Tensor:
    """Prompt `i`'s activation with its padding cut off on every pos axis."""
    real = acts.mask[i].nonzero().flatten()
    tensor = acts[site][i]
    for axis, kind in enumerate(acts.axes[site][1:]):
        if kind == "pos":
            tensor = tensor.index_select(axis, real)
    return tensor


@pytest.mark.parametrize("architecture", PLACES)
def test_capture_equals_plain_forward_hooks(tiny_of: Callable[[str], Model], architecture: str):
    model, places = tiny_of(architecture), PLACES[architecture]
    blocks: Any = model.hf.get_submodule(places.blocks)
    acts = model.capture(PROMPTS, "*")
    for i, row in enumerate(model.encode(PROMPTS)):
        seen: dict[str, Tensor] = {}
        with torch.no_grad(), watching(model.hf.get_submodule(places.final_norm), seen, "ln_final.hook_in", True):
            for layer, block in enumerate(blocks):
                b = f"blocks.{layer}"
                with (
                    watching(block, seen, f"{b}.hook_resid_pre", read_input=True),
                    watching(block, seen, f"{b}.hook_resid_post"),
                    watching(block.get_submodule(places.attn_out), seen, f"{b}.hook_attn_out"),
                    watching(block.get_submodule(places.mlp_out), seen, f"{b}.hook_mlp_out"),
                ):
                    model.hf(torch.tensor([row]), use_cache=False)
        assert len(seen) == 9
        for site, theirs in seen.items():
            if architecture == "mixtral" and site.endswith("hook_mlp_out"):
                continue  # its experts see tokens without their prompts: not a site
            assert far(rows_of(acts, site, i), theirs.reshape(len(row), -1)) < 1e-4, site


@pytest.mark.parametrize("architecture", [*PLACES, "mamba"])
def test_logits_are_plain_transformers_logits(tiny_of: Callable[[str], Model], architecture: str):
    model = tiny_of(architecture)
    ids = model.encode(PROMPTS)
    with torch.no_grad():
        plain = [model.hf(torch.tensor([row])).logits[0] for row in ids]
    for side in SIDES:
        logits = model.logits(PROMPTS, padding=side, batch_size=2)
        assert int(logits.isnan().all(-1).sum()) == logits[..., 0].numel() - sum(map(len, ids))
        for i, row in enumerate(ids):
            real = slice(len(row)) if side == "right" else slice(-len(row), None)
            assert far(logits[i, real], plain[i]) < 1e-4
    last = model.last_logits(PROMPTS)
    assert far(last, torch.stack([p[-1] for p in plain])) < 1e-4


@pytest.mark.parametrize("architecture", [*PLACES, "mamba"])
@pytest.mark.parametrize("side", SIDES)
def test_neither_padding_nor_batch_mates_change_any_site(tiny_of: Callable[[str], Model], architecture: str, side: Any):
    model = tiny_of(architecture)
    together = model.capture(PROMPTS, "*", padding=side)
    for i, row in enumerate(model.encode(PROMPTS)):
        alone = model.capture([row], "*")
        for site in alone:
            if side == "right" and site.endswith(SHIFTED.get(architecture, "no such site")):
                continue
            assert far(rows_of(together, site, i), alone[site][0]) < 1e-4, site


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


ids_lists = st.lists(st.lists(st.integers(0, 290), min_size=1, max_size=12), min_size=1, max_size=5)
SITES = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_pattern", "blocks.1.attn.hook_q", "blocks.*.mlp.hook_post"]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=ids_lists, batch_size=st.integers(1, 6), side=st.sampled_from(SIDES))
def test_any_batch_gives_what_each_prompt_gives_alone(
    tiny_of: Callable[[str], Model], architecture: str, prompts: list[list[int]], batch_size: int, side: Any
):
    model = tiny_of(architecture)
    acts = model.capture(prompts, SITES, batch_size=batch_size, padding=side)
    assert acts.mask.sum(-1).tolist() == list(map(len, prompts))
    assert [row[row >= 0].tolist() for row in acts.ids] == prompts
    for i, row in enumerate(prompts):
        alone = model.capture([row], SITES)
        for site in alone:
            assert far(rows_of(acts, site, i), alone[site][0]) < 1e-4
            numbers = int((~acts[site][i].isnan()).sum())
            assert numbers == alone[site].numel(), "padding must be NaN on every pos axis, and only padding"


@pytest.mark.parametrize("side", SIDES)
def test_on_the_bundled_model_padding_and_batches_stay_within_the_promise(smol: Model, side: Any):
    """1e-3, but at attention sinks, where values reach 25,000 and cancel again, 1e-5 of the largest."""
    prompts = [*PROMPTS, "4", "def add(a, b):\n    return a + b"]
    sites = ["blocks.*.hook_resid_post", "blocks.29.attn.hook_z", "blocks.15.attn.hook_pattern"]
    acts = smol.capture(prompts, sites, padding=side, batch_size=3)
    layers: Any = smol.hf.get_submodule("model.layers")
    for i, row in enumerate(smol.encode(prompts)):
        alone = smol.capture([row], sites)
        stream = torch.stack([alone[f"blocks.{layer}.hook_resid_post"][0] for layer in range(30)])
        largest = stream.abs().amax((0, 2))
        sink = largest > 2000
        assert len(row) == 1 or int(sink.sum()) <= 2, "sinks are few"
        bound = torch.where(sink, 1e-5 * largest, 1e-3)
        together = torch.stack([rows_of(acts, f"blocks.{layer}.hook_resid_post", i) for layer in range(30)])
        assert bool(((together - stream).abs().amax((0, 2)) <= bound).all())
        for site in sites[1:]:
            assert far(rows_of(acts, site, i), alone[site][0]) < 1e-3
        seen: dict[str, Tensor] = {}
        with torch.no_grad(), watching(layers[12], seen, "plain"):
            smol.hf(torch.tensor([row]))
        assert bool(((together[12] - seen["plain"][0]).abs().amax(1) <= bound).all())


def test_heads_are_told_apart(smol: Model):
    """The projections, cut into heads by hand: 9 query heads, 3 of keys and values."""
    row = smol.encode(PROMPTS)[0]
    names = ["hook_q", "hook_k", "hook_v", "hook_z"]
    acts = smol.capture([row], [f"blocks.3.attn.{n}" for n in names])
    layer: Any = smol.hf.get_submodule("model.layers.3.self_attn")
    seen: dict[str, Tensor] = {}
    with (
        torch.no_grad(),
        watching(layer.q_proj, seen, "hook_q"),
        watching(layer.k_proj, seen, "hook_k"),
        watching(layer.v_proj, seen, "hook_v"),
        watching(layer.o_proj, seen, "hook_z", read_input=True),
    ):
        smol.hf(torch.tensor([row]))
    for name, heads in zip(names, [9, 3, 3, 9], strict=True):
        ours = acts[f"blocks.3.attn.{name}"]
        assert ours.shape == (1, len(row), heads, 64)
        for head in range(heads):
            assert far(ours[0, :, head], seen[name][0, :, 64 * head : 64 * head + 64]) < 1e-3


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
    model.capture(["Mary"], "*")
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
        ("blocks.0.attn.hook_result", "is gated: TransformerLens fills it only with use_attn_result on"),
        ("blocks.*.attn.hook_result", "is gated"),
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

    handle = model.bridge.blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(error):
        model.capture(PROMPTS, "blocks.*.hook_resid_post")
    handle.remove()
    assert count_hooks(model.bridge) == 0
    after = model.capture(PROMPTS, "blocks.*.hook_resid_post")
    assert all(torch.equal(before[site].nan_to_num(), after[site].nan_to_num()) for site in before)


@pytest.mark.parametrize("architecture", ["gpt_neox", "bloom", "falcon", "codegen", "mpt", "phi3", "gpt2", "llama"])
def test_a_changed_weight_is_followed_or_refused_never_ignored(make_tiny: Any, architecture: str):
    """The bridge splits some fused matrices into copies; changes of the original would pass it by."""
    model = make_tiny(architecture)
    model.sites()  # builds the hooks
    for weight in model.hf.parameters():
        with torch.no_grad():
            weight.mul_(1.5)
    row = model.encode(["Mary"])
    with torch.no_grad():
        plain = model.hf(torch.tensor(row)).logits
    if architecture in ("gpt2", "llama", "phi3"):  # these share, as views at least
        assert far(model.logits(row), plain) < 1e-3
        return
    with pytest.raises(UserError, match=r"weights of model\.hf were changed"):
        model.logits(row)
    assert far(Model(model.hf, model.tokenizer, model.provenance).logits(row), plain) < 1e-3


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_replaced_weights_are_refused(make_tiny: Any, architecture: str):
    model = make_tiny(architecture)
    model.sites()
    weights = {name: 1.5 * weight for name, weight in model.hf.state_dict().items()}
    model.hf.load_state_dict(weights, assign=True)
    with pytest.raises(UserError, match=r"weights of model\.hf were changed"):
        model.logits(["Mary"])


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
