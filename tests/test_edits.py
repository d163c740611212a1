"""Edits: what they change, what their receipts say, and that nothing of them stays behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import PLACES
from torch import Tensor

from interp import Model, UserError, ablate, patch, steer
from interp.model.choose import only
from interp.model.edits import project_out, resample
from interp.model.hooks.bridge import count_hooks
from interp.model.hooks.receipts import Receipt
from interp.model.hooks.where import Where

PROMPTS = ["The capital of France is Paris, and", "Mary", "John gave a drink to the lazy dog; Rome is"]
MLP, RESID = "blocks.0.hook_mlp_out", "blocks.0.hook_resid_post"
PATTERN = "blocks.0.attn.hook_pattern"


def same(ours: Tensor, theirs: Tensor, atol: float = 1e-5) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-4, atol=atol, equal_nan=True)


def halve(activation: Tensor, where: Where) -> Tensor:
    return activation / 2


@pytest.mark.parametrize("architecture", PLACES)
def test_patching_a_models_own_values_changes_nothing(tiny_of: Callable[[str], Model], architecture: str):
    model = tiny_of(architecture)
    table = model.site_table
    base = model.logits(PROMPTS)
    for site in ["blocks.0.hook_resid_pre", RESID, "blocks.1.hook_attn_out", "blocks.1.attn.hook_z"]:
        acts = model.capture(PROMPTS, site, batch_size=2)
        with model.edit({site: patch(acts[site])}) as receipts:
            assert same(model.logits(PROMPTS), base), site
        assert receipts[site].fired == 1
        assert receipts[site].norm_change <= 1e-5 * receipts[site].norm_before
        assert table.axes[site][:2] == ("prompt", "pos")


@pytest.mark.parametrize("architecture", PLACES)
def test_an_edit_does_what_the_same_change_in_plain_transformers_does(
    tiny_of: Callable[[str], Model], architecture: str
):
    model = tiny_of(architecture)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    block: Any = model.hf.get_submodule(PLACES[architecture].blocks)[0]  # type: ignore[index]

    def add(_: object, __: object, out: Any) -> Any:
        return (out[0] + 2 * direction, *out[1:]) if isinstance(out, tuple) else out + 2 * direction

    base = model.logits(PROMPTS)
    with model.edit({RESID: steer(direction, 2.0)}):
        ours = model.logits(PROMPTS)
    handle = block.register_forward_hook(add)
    for i, row in enumerate(model.encode(PROMPTS)):
        with torch.no_grad():
            theirs = model.hf(torch.tensor([row])).logits[0]
        assert same(ours[i, : len(row)], theirs, atol=1e-4)
        assert not same(ours[i, : len(row)], base[i, : len(row)], atol=1e-2)
    handle.remove()
    assert torch.equal(model.logits(PROMPTS).nan_to_num(), base.nan_to_num()), "the edit stayed behind"


@pytest.mark.parametrize("architecture", [*PLACES, "mamba"])
def test_every_listed_site_takes_an_edit_or_says_that_it_cannot(make_tiny: Callable[..., Model], architecture: str):
    """Some hooks show a value that the model does not read back: an edit there would be silently nothing.

    Of the blocks the last one: they are built alike, and parity edits a site of every kind.
    """
    model = make_tiny(architecture)
    row = model.encode(["Paris is the capital"])
    with model.tree.hooked_only():
        base = model.logits(row)
    refused: set[str] = set()
    for site in (site for site in model.sites() if not site.startswith("blocks.0.")):
        edit = model.edit({site: lambda a, _: a * torch.linspace(0.5, 1.5, a.shape[-1])})
        try:
            receipts = edit.__enter__()
        except UserError:
            refused.add(site.removeprefix("blocks.1."))
            continue
        with model.tree.hooked_only():  # the other engine rounds in another way
            changed = model.logits(row)
        edit.__exit__(None, None, None)
        assert receipts[site].fired == 1
        assert not torch.equal(changed, base), f"{site} took an edit and ignored it"
    assert refused <= {"rotary_emb.hook_in", "attn.hook_pattern", "pos_embed.hook_in"}
    assert ("attn.hook_pattern" in refused) == (architecture in ("gpt_neo", "gptj", "xglm", "opt"))
    assert count_hooks(model.bridge) == 0


def test_an_edit_in_place_touches_its_site_only(tiny_llama: Model):
    """The input of the norm is the residual stream itself: changing that tensor would change the stream too."""
    site = "blocks.0.ln1.hook_in"
    tiny_llama.sites(site)

    def in_place(activation: Tensor, _: Where) -> Tensor:
        activation[..., 0] += 5.0
        return activation

    def out_of_place(activation: Tensor, _: Where) -> Tensor:
        return torch.cat([activation[..., :1] + 5.0, activation[..., 1:]], dim=-1)

    with tiny_llama.edit({site: out_of_place}):
        expected = tiny_llama.logits(PROMPTS)
    with tiny_llama.edit({site: in_place}) as receipts:
        assert same(tiny_llama.logits(PROMPTS), expected)
    assert receipts[site].norm_change == pytest.approx(5.0, rel=1e-4)


prompts_of_ids = st.lists(st.lists(st.integers(0, 290), min_size=1, max_size=10), min_size=1, max_size=4)


@pytest.mark.parametrize("site", [MLP, "blocks.1.attn.hook_z", PATTERN, "blocks.1.attn.hook_attn_scores"])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=prompts_of_ids, batch_size=st.integers(1, 4), side=st.sampled_from(["left", "right"]))
def test_receipts_count_real_tokens_only(
    tiny_gpt2: Model, site: str, prompts: list[list[int]], batch_size: int, side: Any
):
    def change(activation: Tensor, where: Where) -> Tensor:
        real = where.mask.view(*where.mask.shape, 1, 1) if activation.ndim == 4 else where.mask.unsqueeze(-1)
        if "pos" not in where.axes[1]:
            real = where.mask[:, None, :, None] & where.mask[:, None, None, :]
        return torch.where(real, activation * 1.5, 777.0)  # a huge change on padding, which must not count

    with tiny_gpt2.edit({site: change}) as receipts:
        tiny_gpt2.logits(prompts, batch_size=batch_size, padding=side)
    norms = []
    for row in prompts:  # each alone: brute force without padding
        alone = tiny_gpt2.capture([row], site)[site][0]
        norms.append(alone.masked_fill(alone < -1e30, 0.0).flatten(0, -2).double().norm(dim=-1))
    expected = float(torch.cat(norms).mean())
    receipt = receipts[site]
    assert receipt.fired == -(-len(prompts) // batch_size)
    assert receipt.norm_before == pytest.approx(expected, rel=1e-4)
    assert receipt.norm_after == pytest.approx(1.5 * expected, rel=1e-4)
    assert receipt.norm_change == pytest.approx(0.5 * expected, rel=1e-4)
    assert receipt.seen == receipt.changed == len(torch.cat(norms))
    told = f"{site}: fired {receipt.fired}x, changed {receipt.seen:,} of {receipt.seen:,} vectors: mean norm "
    assert str(receipt).startswith(told)


def test_a_receipt_is_about_the_vectors_that_changed(tiny_gpt2: Model):
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    own = tiny_gpt2.capture(prompts, MLP).last(MLP)
    with tiny_gpt2.edit({MLP: only(ablate(), pos=-1)}) as receipts:
        tiny_gpt2.last_logits(prompts)
    assert (receipts[MLP].changed, receipts[MLP].seen) == (2, 8)
    assert receipts[MLP].norm_before == pytest.approx(float(own.norm(dim=-1).mean()), rel=1e-4)
    assert receipts[MLP].norm_after == 0.0
    with tiny_gpt2.edit({MLP: lambda activation, where: activation}) as receipts:
        tiny_gpt2.last_logits(prompts)
    assert str(receipts) == f"{MLP}: fired 1x, changed 0 of 8 vectors"
    assert receipts[MLP].norm_change == 0.0


def test_a_vector_that_held_an_infinite_number_is_counted_as_any_other():
    """fp16 overflows, and infinite less infinite is no number that could tell a change."""
    before = torch.tensor([[torch.inf, 1.0], [torch.inf, 1.0], [2.0, 3.0], [2.0, 3.0]])
    receipt = Receipt("a site")
    receipt.record(before, before + torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 1e-30], [0.5, 0.0]]))
    assert (receipt.seen, receipt.changed) == (4, 2), "the third is the same float"
    before = torch.tensor([[torch.inf, 1.0], [0.0, 1e-38], [2.0, 3.0]])
    receipt.record(before, torch.tensor([[0.0, 1.0], [0.0, 1.1e-38], [2.0, 3.0]]), is_finite=True)
    assert (receipt.seen, receipt.changed) == (7, 4), "the second's change is too small for a square"


def test_nested_edits_compose_in_order_and_capture_sees_them(tiny_gpt2: Model):
    add_one = steer(torch.ones(32))
    plain = tiny_gpt2.capture(PROMPTS, MLP)[MLP]
    with tiny_gpt2.edit({MLP: halve}) as outer, tiny_gpt2.edit({MLP: add_one}) as inner:
        assert same(tiny_gpt2.capture(PROMPTS, MLP)[MLP], plain / 2 + 1)
    with tiny_gpt2.edit({MLP: add_one}), tiny_gpt2.edit({MLP: halve}):
        assert same(tiny_gpt2.capture(PROMPTS, MLP)[MLP], (plain + 1) / 2)
    with tiny_gpt2.edit({MLP: halve, "blocks.0.hook_mlp_ou?": add_one}):  # a name and a pattern that meets it
        assert same(tiny_gpt2.capture(PROMPTS, MLP)[MLP], plain / 2 + 1)
    assert (outer[MLP].fired, inner[MLP].fired) == (1, 1)
    assert outer[MLP].norm_after == pytest.approx(inner[MLP].norm_before)
    assert same(tiny_gpt2.capture(PROMPTS, MLP)[MLP], plain)


def test_a_first_edit_of_a_kind_may_open_inside_another_edit(make_tiny: Callable[..., Model]):
    """The model is asked whether the site takes edits; the outer edit must neither run nor be counted meanwhile."""
    model = make_tiny("llama")
    with model.edit({MLP: halve}) as outer:
        with model.edit({"blocks.1.attn.hook_z": halve}):
            model.logits(PROMPTS)
        model.unembed(torch.zeros(32))
        model.capture(PROMPTS, RESID, padding="left")
    assert outer[MLP].fired == 2


def test_an_edit_may_ask_the_model_something_of_its_own(tiny_gpt2: Model):
    other = tiny_gpt2.encode(["Rome"])

    def curious(activation: Tensor, where: Where) -> Tensor:
        tiny_gpt2.capture(other, "blocks.0.hook_resid_pre")  # stops before this site
        return activation * 1.0

    with tiny_gpt2.edit({MLP: curious, "blocks.1.hook_mlp_out": ablate()}) as receipts:
        tiny_gpt2.logits(PROMPTS)
    assert [r.fired for r in receipts.values()] == [1, 1]

    def self_regarding(activation: Tensor, where: Where) -> Tensor:
        own = tiny_gpt2.capture(PROMPTS, where.name)[where.name][where.prompts]  # unedited
        return torch.where(own.isnan(), activation, own * 2)

    def doubled(activation: Tensor, where: Where) -> Tensor:
        return activation * 2

    ways = []
    for edit in (self_regarding, doubled):
        with tiny_gpt2.edit({MLP: edit}):
            ways.append(tiny_gpt2.logits(PROMPTS, batch_size=len(PROMPTS)))
    assert torch.allclose(*ways, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
def test_whatever_an_edit_raises_no_hook_stays(tiny_gpt2: Model, error: type[BaseException]):
    base = tiny_gpt2.logits(PROMPTS)

    def raising(activation: Tensor, where: Where) -> Tensor:
        raise error("stop")

    with pytest.raises(error), tiny_gpt2.edit({RESID: halve}), tiny_gpt2.edit({"blocks.*.hook_mlp_out": raising}):
        tiny_gpt2.capture(PROMPTS, "blocks.1.hook_resid_post")
    assert count_hooks(tiny_gpt2.bridge) == 0
    assert torch.equal(tiny_gpt2.logits(PROMPTS).nan_to_num(), base.nan_to_num())
    with pytest.raises(error), tiny_gpt2.edit({RESID: halve}):
        raise error("in the block itself, before any forward")
    assert count_hooks(tiny_gpt2.bridge) == 0


def test_edits_never_reach_the_plain_model(tiny_gpt2: Model):
    row = torch.tensor(tiny_gpt2.encode(["Paris is"]))
    weights = {k: v.clone() for k, v in tiny_gpt2.hf.state_dict().items()}

    def plain() -> Tensor:
        with torch.no_grad():
            return tiny_gpt2.hf(row).logits

    before = plain()
    with tiny_gpt2.edit({"blocks.*.hook_resid_post": lambda a, _: a.mul_(0)}):
        assert torch.equal(plain(), before)
        tiny_gpt2.logits(["Paris is"])
    assert torch.equal(plain(), before)
    assert all(torch.equal(v, weights[k]) for k, v in tiny_gpt2.hf.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_gpt2.hf.modules())


def test_an_edit_on_the_attention_pattern(tiny_gpt2: Model):
    """Attention to the first token only: z is the first token's value at every position."""

    def to_first(pattern: Tensor, where: Where) -> Tensor:
        assert where.axes[0] == "prompt"
        assert where.layer == 0
        out = torch.zeros_like(pattern)
        first = where.mask.long().argmax(-1)  # under left padding the first real token is not at 0
        out[torch.arange(len(first)), :, :, first] = 1.0
        return out

    for side in ("right", "left"):
        with tiny_gpt2.edit({PATTERN: to_first}):
            acts = tiny_gpt2.capture(PROMPTS, ["blocks.0.attn.hook_v", "blocks.0.attn.hook_z"], padding=side)  # type: ignore[arg-type]
        for i in range(3):
            real = acts.mask[i]
            v, z = (acts[f"blocks.0.attn.hook_{n}"][i][real] for n in "vz")
            assert same(z, v[:1].expand_as(z))
    pattern = tiny_gpt2.capture(PROMPTS, PATTERN)[PATTERN]
    row = torch.ones(pattern.shape[-1])
    for per_token in (patch(pattern), steer(row), resample(row[None]), project_out(row)):
        with pytest.raises(UserError, match=r"works per token, but .* has axes"), tiny_gpt2.edit({PATTERN: per_token}):
            tiny_gpt2.logits(PROMPTS)
    with tiny_gpt2.edit({PATTERN: ablate()}):
        z = tiny_gpt2.capture(PROMPTS, "blocks.0.attn.hook_z").rows("blocks.0.attn.hook_z")
    assert float(z.abs().max()) == 0.0, "who attends to nothing reads nothing"


@pytest.mark.parametrize("side", ["left", "right"])
def test_captured_padding_put_back_by_a_users_own_edit_does_not_spread(tiny_gpt2: Model, side: Any):
    """Captured padding is NaN, and 0 * NaN is NaN: attention would hand it to the real tokens."""
    site = "blocks.0.hook_resid_pre"
    base = tiny_gpt2.logits(PROMPTS, padding=side)
    source = tiny_gpt2.capture(PROMPTS, site, padding=side)[site]
    with tiny_gpt2.edit({site: lambda a, s: source[s.prompts].to(a)}):
        assert same(tiny_gpt2.logits(PROMPTS, padding=side), base)


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_an_edit_does_to_padding_reaches_no_real_token(tiny_gpt2: Model, side: Any):
    """An edit that fills the whole pattern would make a short prompt attend to its neighbour's padding."""

    def everywhere(pattern: Tensor, where: Where) -> Tensor:
        return torch.full_like(pattern, 0.25)

    with tiny_gpt2.edit({PATTERN: everywhere}):
        alone = tiny_gpt2.last_logits(PROMPTS[1])
        logits = tiny_gpt2.logits(PROMPTS, padding=side)[1]
    together = logits[~logits.isnan().any(-1)]
    assert same(together[-1:], alone)
