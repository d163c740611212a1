"""Gradients at sites, and sites that a user names: against plain transformers, and refused where they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp import Model, UserError, ablate, patch, steer
from interp.activations.capture import capture_store
from interp.activations.plan import plan_capture
from interp.analysis.answers import score_answers
from interp.analysis.metrics import continuation, entropy, last, log_prob, logit_difference, rank
from interp.model.checking.parity import check_parity
from interp.model.gradients import gradients_of

PROMPTS = ["The capital of France is Paris, and", "Mary", "John gave a drink to the lazy dog; Rome is"]
METRIC = logit_difference([5, 6, 7], [8, 9, 10])


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_a_gradient_is_the_slope_of_the_metric(tiny_of: Callable[[str], Model], architecture: str) -> None:
    """Against the difference quotient of an edit, in the direction of the gradient, at every kind of site."""
    model = tiny_of(architecture)
    sites = ["blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern"]
    slopes = gradients_of(model, PROMPTS, sites, METRIC, batch_size=2)
    assert torch.allclose(slopes.values, model.measure(PROMPTS, METRIC), atol=1e-5)
    for site in sites:
        assert torch.allclose(slopes.acts[site], model.capture(PROMPTS, site)[site], atol=1e-5, equal_nan=True)
        step = slopes.gradients[site].nan_to_num()
        step = step * (0.02 / step.norm())

        def push(activation: Tensor, at: Any, sign: float, step: Tensor = step) -> Tensor:
            mine = step[at.prompts]
            cut = mine[tuple(slice(n) for n in activation.shape)]
            return activation + sign * torch.nn.functional.pad(
                cut,
                [x for a, b in zip(reversed(activation.shape), reversed(cut.shape), strict=True) for x in (0, a - b)],
            )

        ends = []
        for sign in (1.0, -1.0):
            with model.edit({site: lambda activation, at, sign=sign: push(activation, at, sign)}):
                ends.append(model.measure(PROMPTS, METRIC).double().sum())
        expected = float((slopes.gradients[site].nan_to_num() * step).sum())
        assert float(ends[0] - ends[1]) / 2 == pytest.approx(expected, rel=0.02), site


def test_gradients_flow_through_edits(tiny_gpt2: Model) -> None:
    site, later = "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"
    plain = gradients_of(tiny_gpt2, PROMPTS, site, METRIC).gradients[site]
    with tiny_gpt2.edit({later: ablate()}):
        cut = gradients_of(tiny_gpt2, PROMPTS, site, METRIC).gradients[site]
    with tiny_gpt2.edit({later: lambda activation, at: activation * 2}):
        doubled = gradients_of(tiny_gpt2, PROMPTS, site, METRIC).gradients[site]
    assert not torch.allclose(plain, cut, atol=1e-4, equal_nan=True)
    assert not torch.allclose(plain, doubled, atol=1e-4, equal_nan=True)
    assert not any(p.grad is not None for p in tiny_gpt2.hf.parameters()), "no weight gets a gradient"
    assert not tiny_gpt2.is_edited


def test_misuse_of_gradients_and_metrics_is_one_line(tiny_gpt2: Model) -> None:
    site = "blocks.0.hook_resid_post"
    for metric, line in (
        (lambda logits, at: logits, "the metric gave shape"),
        (lambda logits, at: 3.0, "the metric gave float"),
        (logit_difference([1], [2]), "answers for 1 prompts, and 3 came"),
    ):
        with pytest.raises(UserError, match=line):
            gradients_of(tiny_gpt2, PROMPTS, site, metric)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="does not depend on"):
        gradients_of(tiny_gpt2, PROMPTS, "blocks.1.hook_resid_post", lambda logits, at: (logits * 0).detach()[:, 0, 0])
    with pytest.raises(UserError, match="expected one a prompt"):
        logit_difference([1, 2], [3])
    assert not tiny_gpt2.is_edited


def test_metrics_are_what_their_names_say(tiny_gpt2: Model) -> None:
    logits = tiny_gpt2.last_logits(PROMPTS).double()
    logs = logits.log_softmax(-1)
    expected = torch.stack([logs[i, token] for i, token in enumerate((5, 6, 7))])
    assert torch.allclose(tiny_gpt2.measure(PROMPTS, log_prob([5, 6, 7])).double(), expected, atol=1e-5)
    assert torch.allclose(tiny_gpt2.measure(PROMPTS, entropy()).double(), -(logs.exp() * logs).sum(-1), atol=1e-5)
    several = tiny_gpt2.measure(PROMPTS, logit_difference([5, 6, 7], [[8, 9], [9, 10], [10, 11]]), batch_size=1)
    assert torch.allclose(several[0].double(), logits[0, 5] - logits[0, [8, 9]].mean(), atol=1e-5)
    assert torch.allclose(tiny_gpt2.measure(PROMPTS, lambda logits, at: last(logits, at)[:, 3]).double(), logits[:, 3])
    order = logits.argsort(descending=True).tolist()
    assert tiny_gpt2.measure(PROMPTS, rank([row[k] for row, k in zip(order, (0, 1, 9), strict=True)])).tolist() == [
        1,
        2,
        10,
    ]


def test_a_string_scores_the_sum_of_its_tokens_in_any_batch(tiny_gpt2: Model) -> None:
    """Against `score_answers`, which runs the plain model with its cache; an edit reaches this one."""
    prompts, answers = ["Mary walked", "John went all the way"], [" to the sea", " home"]
    scores = score_answers(tiny_gpt2, prompts, answers)
    before = [len(ids) for ids in tiny_gpt2.encode(prompts)]
    whole = tiny_gpt2.encode([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)])
    for batch_size in (1, 2):
        summed = tiny_gpt2.measure(whole, continuation(whole, before), batch_size=batch_size)
        mean = tiny_gpt2.measure(whole, continuation(whole, before, per="token"), batch_size=batch_size)
        assert torch.allclose(summed, scores.summed.diagonal(), atol=1e-4)
        assert torch.allclose(mean, scores.per_token.diagonal(), atol=1e-4)
    with tiny_gpt2.edit({"blocks.1.hook_mlp_out": ablate()}):
        assert not torch.allclose(tiny_gpt2.measure(whole, continuation(whole, before)), summed, atol=1e-3)
    for call, told in (
        (lambda: tiny_gpt2.measure(whole[:1], continuation(whole, before)), "1 came"),
        (lambda: tiny_gpt2.measure(prompts, continuation(whole, before)), "the metric's has"),
        (lambda: tiny_gpt2.measure(prompts, rank([[1, 2], [3, 4]])), "2 tokens a prompt"),
        (lambda: tiny_gpt2.measure(prompts, entropy(), numbers=[0, 2], total=2), "expected one each"),
        (lambda: tiny_gpt2.measure(prompts, entropy(), numbers=[0]), "expected one each"),
    ):
        with pytest.raises(UserError, match=told):
            call()
    with pytest.raises(UserError, match="from 1 to its last token"):
        continuation(whole, [0, 1])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_registered_site_works_like_any_other(
    make_tiny: Callable[..., Model], architecture: str, tmp_path: Any
) -> None:
    model = make_tiny(architecture)
    act = "transformer.h.*.mlp.act" if architecture == "gpt2" else "model.layers.*.mlp.act_fn"
    names = model.register_site("blocks.*.mlp.hook_act", act)
    assert names == [f"blocks.{i}.mlp.hook_act" for i in range(model.n_layers)]
    (part,) = model.register_site("first_columns", f"{act.replace('*', '1')}:output[0:8]")
    (into,) = model.register_site("act_in", f"{act.replace('*', '1')}:input")
    seen: dict[str, Tensor] = {}
    module = model.hf.get_submodule(act.replace("*", "1"))

    def keep(_: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen.update({"in": args[0], "out": out})

    handle = module.register_forward_hook(keep)
    with torch.no_grad():
        model.hf(torch.tensor(model.encode(PROMPTS[:1])))
    handle.remove()
    acts = model.capture(PROMPTS[:1], [names[1], part, into])
    torch.testing.assert_close(acts[names[1]], seen["out"], atol=1e-5, rtol=0)
    torch.testing.assert_close(acts[part], seen["out"][..., :8], atol=1e-5, rtol=0)
    torch.testing.assert_close(acts[into], seen["in"], atol=1e-5, rtol=0)
    base = model.logits(PROMPTS)
    for site in (*names, part, into):
        with model.edit({site: patch(model.capture(PROMPTS, site)[site])}) as receipts:
            torch.testing.assert_close(model.logits(PROMPTS), base, atol=1e-5, rtol=0, equal_nan=True)
        assert receipts[site].fired == 1
        with model.edit({site: steer(torch.ones(acts_width(model, site)))}):
            assert not torch.allclose(model.logits(PROMPTS), base, atol=1e-3, equal_nan=True)
        assert not gradients_of(model, PROMPTS, site, METRIC).gradients[site].isnan().all()
    plan, tokens = plan_capture(model, PROMPTS, [names[0], part])
    assert plan.numerics["path"] == "plain model"
    store = capture_store(model, tmp_path / "s", plan, tokens)
    torch.testing.assert_close(store.rows(part), model.capture(PROMPTS, part).rows(part), atol=1e-5, rtol=0)
    assert plan.model["registered"] == {
        names[0]: act.replace("*", "0") + ":output",
        part: act.replace("*", "1") + ":output[0:8]",
    }
    assert check_parity(model).ok


def acts_width(model: Model, site: str) -> int:
    return model.capture(PROMPTS[1], site)[site].shape[-1]


def test_a_site_that_cannot_be_registered_changes_nothing(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    before = model.site_table
    for name, where, line in (
        ("blocks.0.hook_resid_post", "transformer.h.0", "exists already"),
        ("blocks.*.x", "transformer.h.*.mlp.akt", "nearest"),
        ("blocks.*.x", "transformer.h.0.mlp.act", "once in both or in neither"),
        ("x", "transformer.h.0.mlp.akt", "nearest"),
        ("x", "transformer.h.0.mlp.act:inputs", "names no place"),
        ("x y", "transformer.h.0.mlp.act", "expected a name of letters"),
        ("x", "transformer.wte:input", "does not run transformer.wte once a forward"),
        ("x", "transformer.h.0.attn.resid_dropout[5:2]", "columns"),
        ("x", "transformer.h.0.mlp.act[500:600]", "columns"),
    ):
        with pytest.raises(UserError, match=line):
            model.register_site(name, where)
        assert model.site_table == before
    with model.edit({"blocks.0.hook_mlp_out": ablate()}):
        model.logits(PROMPTS)
        with pytest.raises(UserError, match="while an edit is active"):
            model.register_site("x", "transformer.h.0.mlp.act")
