"""The one forward: which engine serves, what it gives, and edits that reach everything that the model does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from compare import far
from torch import Tensor

from interp import Model, UserError, ablate, patch, steer
from interp.analysis.answers import score_answers
from interp.analysis.completions import score_completions
from interp.model.attention_window import windowed_losses
from interp.model.choose import only
from interp.model.edits import knock_out, resample
from interp.model.hooks.asked import cache_works, edits_agree, length_kind, tap_of
from interp.model.hooks.forward import batches, engine_for, forward
from interp.model.hooks.sites import kind_of
from interp.model.hooks.unchanged import mark_own
from interp.model.hooks.where import Where

PROMPTS = ["The capital of France is", "Mary", "John gave a drink to the lazy dog; Rome is"]
RESID = "blocks.0.hook_resid_post"
ARCHITECTURES = ["gpt2", "llama", "gpt_neox", "gemma2", "mixtral", "mistral"]


def direction(model: Model, size: float = 4.0) -> Tensor:
    return torch.randn(model.d_model, generator=torch.Generator().manual_seed(3)) * size


def loop(model: Model, prompt: list[int], n: int) -> list[int]:
    """Greedy text without a cache: the whole prompt again for every token, under the edits that are active."""
    row = list(prompt)
    for _ in range(n):
        row.append(int(model.last_logits([row])[0].argmax()))
    return row[len(prompt) :]


def until_the_end(model: Model, ids: list[int]) -> list[int]:
    end = model.tokenizer.eos_token_id
    return ids[: ids.index(end) + 1] if end in ids else ids


@contextmanager
def without_a_cache(model: Model) -> Iterator[None]:
    """The model as if its cache did not work; afterwards it is asked again, whatever happened inside."""
    answers = {"cache plain": False, "cache hooked": False}
    model.tree._built |= answers
    try:
        yield
    finally:
        for question in answers:
            model.tree._built.pop(question, None)


def test_a_failure_inside_leaves_the_model_of_the_session_as_it_was(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("gpt2")

    def fail() -> None:
        assert not cache_works(model.tree, "plain")
        raise ValueError

    with pytest.raises(ValueError), without_a_cache(model):  # noqa: PT011
        fail()
    assert cache_works(model.tree, "plain")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generation_under_an_edit_is_a_cache_free_loop(tiny_of: Callable[[str], Model], architecture: str) -> None:
    model = tiny_of(architecture)
    edit = {RESID: steer(direction(model))}
    rows = model.encode(PROMPTS)
    plain = model.generate(rows, max_new_tokens=6).ids
    with model.edit(edit) as receipts:
        together = model.generate(rows, max_new_tokens=6).ids
    fired = receipts[RESID].fired
    with model.edit(edit):
        alone = [until_the_end(model, loop(model, row, 6)) for row in rows]
    assert together == alone
    assert fired == max(map(len, together)), "once for the prompts and once for each new token that was read"
    assert together != plain, "negative control: the edit did something"


@pytest.mark.parametrize("site", ["blocks.1.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"])
def test_an_edit_inside_attention_reaches_generation(tiny_of: Callable[[str], Model], site: str) -> None:
    """These sites have no place in the plain model: the hooked tree writes, on its cache."""
    model = tiny_of("llama")

    def halve_first_head(pattern: Tensor, where: Where) -> Tensor:
        pattern[:, 0] = pattern[:, 0] * 0.25
        return pattern

    rows = model.encode(PROMPTS)
    assert engine_for(model.tree, [site]) == "hooked"
    with model.edit({site: halve_first_head}):
        together = model.generate(rows, max_new_tokens=5).ids
        alone = [until_the_end(model, loop(model, row, 5)) for row in rows]
    assert together == alone


def test_without_a_cache_the_same_text_comes(make_tiny: Callable[..., Model]) -> None:
    """Then all is read again for every token, and an edit is asked turn by turn, as it was before."""
    model = make_tiny("gpt2")
    rows = model.encode(PROMPTS)
    edits = {RESID: only(steer(direction(model)), pos=-1), "blocks.1.hook_mlp_out": only(ablate(), pos=slice(1, None))}
    with model.edit(edits) as receipts:
        cached = model.generate(rows, max_new_tokens=5, capture=RESID)
    counted = receipts[RESID].seen, receipts[RESID].changed, receipts[RESID].fired
    with without_a_cache(model), model.edit(edits) as receipts:
        again = model.generate(rows, max_new_tokens=5, capture=RESID)
    assert again.ids == cached.ids
    assert (receipts[RESID].seen, receipts[RESID].changed, receipts[RESID].fired) == counted
    assert cached.activations is not None
    assert again.activations is not None
    assert far(again.activations[RESID], cached.activations[RESID]) < 1e-4


def test_minus_one_is_the_newest_token(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("gpt2")
    seen: list[tuple[int, list[bool]]] = []

    def look(activation: Tensor, where: Where) -> None:
        seen.append((activation.shape[1], where.positions(-1)[0].tolist()))

    with model.edit({RESID: look}):
        model.generate([[5, 6, 7]], max_new_tokens=3)
    assert seen == [(3, [False, False, True]), (1, [True]), (1, [True])]


def test_a_position_of_the_prompt_is_chosen_once(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("gpt2")
    for pos, changed in ((0, 1), (slice(0, 2), 2), (slice(2, None), 3), (-1, 3), (None, 5)):
        with model.edit({RESID: only(ablate(), pos=pos)}) as receipts:
            model.generate([[5, 6, 7]], max_new_tokens=3)
        assert (receipts[RESID].seen, receipts[RESID].changed) == (5, changed), pos
    with pytest.raises(UserError, match="position 3 is outside"), model.edit({RESID: only(ablate(), pos=3)}):
        model.generate([[5, 6, 7]], max_new_tokens=3)


def test_what_speaks_of_the_prompt_leaves_new_tokens_alone(tiny_of: Callable[[str], Model]) -> None:
    """`patch` has a source for the prompt alone; `knock_out` counts keys from the prompt's first token."""
    model = tiny_of("llama")
    source = model.capture([[9, 8, 7, 6]], RESID)[RESID]
    for edit in (
        {RESID: patch(source)},
        {"blocks.1.attn.hook_pattern": knock_out(keys=1)},
        {RESID: resample(source[0], seed=1)},
        {"blocks.0.attn.hook_z": only(ablate(), heads=[1, 2], features=[0, 3])},
    ):
        with model.edit(edit):
            written = model.generate([[5, 6, 7, 4]], max_new_tokens=4).ids[0]
            with without_a_cache(model):
                again = model.generate([[5, 6, 7, 4]], max_new_tokens=4).ids[0]
        assert written == again


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_under_an_edit_are_those_of_a_loop(tiny_of: Callable[[str], Model], architecture: str) -> None:
    model = tiny_of(architecture)
    prompts, answers = ["The capital is", "A dog and"], [" Paris", " the lazy dog", " a"]
    with model.edit({RESID: steer(direction(model))}) as receipts:
        scored = score_answers(model, prompts, answers)
        assert receipts[RESID].fired
        for i, prompt in enumerate(prompts):
            for j, answer in enumerate(answers):
                ids = model.encode([prompt + answer])[0]
                start = len(model.encode([prompt])[0])
                logs = model.logits([ids])[0].log_softmax(-1)
                expected = sum(float(logs[k - 1, ids[k]]) for k in range(start, len(ids)))
                assert float(scored.summed[i, j]) == pytest.approx(expected, abs=1e-3)
        completed = score_completions(model, [(prompts[0], answers[1]), (prompts[1], answers[0])]).summed
    assert torch.allclose(completed, torch.stack([scored.summed[0, 1], scored.summed[1, 0]]), atol=1e-3)
    assert far(score_answers(model, prompts, answers).summed, scored.summed) > 1e-2, "the edit did something"


def test_the_last_token_of_an_answer_is_edited_as_while_generating(tiny_of: Callable[[str], Model]) -> None:
    """With pos=-1 every token of the answer is once the newest one, cached or not."""
    model = tiny_of("gpt2")
    prompts, answers = ["The capital is"], [" the lazy dog"]
    with model.edit({RESID: only(steer(direction(model)), pos=-1)}):
        scored = score_answers(model, prompts, answers).summed
        with without_a_cache(model):
            again = score_answers(model, prompts, answers).summed
        completed = score_completions(model, [(prompts[0], answers[0])]).summed
    assert torch.allclose(scored, again, atol=1e-4)
    assert torch.allclose(scored[0], completed, atol=1e-4)


def test_windows_and_losses_are_edited(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("llama")
    rows = [[5, 6, 7, 4, 9], [1, 2, 3, 4, 5]]
    before = windowed_losses(model, rows, 2), model.loss(rows)
    logs = model.logits(rows).log_softmax(-1)
    expected = torch.stack([-logs[i, torch.arange(4), torch.tensor(row[1:])] for i, row in enumerate(rows)])
    assert far(before[1][:, 1:], expected) < 1e-5
    assert bool(before[1][:, 0].isnan().all())
    with model.edit({RESID: steer(direction(model))}):
        after = windowed_losses(model, rows, 2), model.loss(rows)
        logs = model.logits(rows).log_softmax(-1)
    expected = torch.stack([-logs[i, torch.arange(4), torch.tensor(row[1:])] for i, row in enumerate(rows)])
    assert far(after[1][:, 1:], expected) < 1e-5
    assert far(after[0], before[0]) > 1e-2


def test_a_window_is_the_same_on_both_engines(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("llama")
    rows = [[5, 6, 7, 4, 9], [1, 2, 3, 4, 5]]
    plain = windowed_losses(model, rows, 2)
    with model.tree.hooked_only():
        assert far(windowed_losses(model, rows, 2), plain) < 1e-4
    assert far(windowed_losses(model, rows, None), plain) > 1e-2


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "falcon", "bloom", "opt", "mpt"])
def test_both_engines_agree_at_every_site_that_both_show(tiny_of: Callable[[str], Model], architecture: str) -> None:
    model = tiny_of(architecture)
    rows = model.encode(PROMPTS)
    sites = [site for site in model.sites() if engine_for(model.tree, [site]) == "plain"]
    assert {"blocks.0.hook_resid_post", "blocks.1.hook_attn_out"} <= set(sites)
    acts, logits = model.capture(rows, sites), model.logits(rows)
    with model.tree.hooked_only():
        hooked, theirs = model.capture(rows, sites), model.logits(rows)
    assert far(logits, theirs) < 1e-4
    for site in sites:
        assert far(acts[site], hooked[site]) < 1e-4, site


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "falcon", "bloom", "opt"])
def test_an_edit_at_every_kind_of_site_does_the_same_on_both_engines(
    tiny_of: Callable[[str], Model], architecture: str
) -> None:
    model = tiny_of(architecture)
    row = model.encode(PROMPTS[:1])

    def bend(activation: Tensor, where: Where) -> Tensor:
        return activation * torch.linspace(0.5, 1.5, activation.shape[-1]) + 0.1

    compared = 0
    for site in model.sites("blocks.0.*"):
        try:
            with model.edit({site: bend}):
                engine, here = engine_for(model.tree), model.logits(row)
                with model.tree.hooked_only():
                    there = model.logits(row)
        except UserError:
            continue
        compared += engine == "plain"
        assert far(here, there) < 1e-4, site
    assert compared >= 5


def test_a_tap_with_other_values_is_not_used(make_tiny: Callable[..., Model]) -> None:
    """The positive control of `asked`: a module of the hooked tree that was spoilt is noticed, and serves."""
    model = make_tiny("gpt2")
    site = "blocks.1.hook_mlp_out"
    point = model.tree.points[site]
    point.add_hook(lambda tensor, hook: tensor * 1.5, is_permanent=True)  # type: ignore[arg-type]
    assert engine_for(model.tree, [site]) == "hooked"
    assert engine_for(model.tree, ["blocks.0.hook_mlp_out"]) == "plain"


def test_a_tap_with_the_same_values_and_another_effect_reads_and_does_not_edit(make_tiny: Callable[..., Model]) -> None:
    """A value can be shown at a place that the model does not go on from: an edit there would be without effect.

    The planted tap is at a module that is shown what the MLP gives, and whose own output nobody reads: its values are
    right, and a change of them is lost.
    """
    site = "blocks.1.hook_mlp_out"
    honest, model = make_tiny("gpt2"), make_tiny("gpt2")
    expected = edited_logits(honest, site)
    assert edits_agree(honest.tree, site)
    assert engine_for(honest.tree, change=[site]) == "plain"
    real, tree = tap_of(model.tree, site), model.tree
    assert real is not None
    copy = torch.nn.Identity()
    real.module.register_forward_hook(mark_own(lambda _, args, out: (copy(out), out)[1]))
    tree._built[f"taps {kind_of(site)}"] = {site: replace(real, module=copy, is_input=False)}  # the planted fault
    row = model.encode(PROMPTS[:1])
    assert engine_for(tree, watch=[site]) == "plain"
    assert far(model.capture(row, site)[site], honest.capture(row, site)[site]) < 1e-5, "its values are right"
    assert not edits_agree(tree, site)
    assert engine_for(tree, change=[site]) == "hooked"
    assert far(edited_logits(model, site), expected) < 1e-4
    tree._built[f"edits agree {kind_of(site)} {kind_of(tree.site_table.origin[site])}"] = True
    assert engine_for(tree, change=[site]) == "plain"
    assert far(edited_logits(model, site), expected) > 1e-2, "negative control: believed, the edit is lost"


def edited_logits(model: Model, site: str) -> Tensor:
    """Logits with the activation at a site doubled."""
    with model.edit({site: lambda activation, where: activation * 2}):
        return model.logits(model.encode(PROMPTS[:1]))


def test_an_edit_may_ask_the_model_while_something_is_captured(tiny_of: Callable[[str], Model]) -> None:
    """The inner forward runs through the same modules: the outer capture must not take its values."""
    model = tiny_of("gpt2")
    late, other = "blocks.1.hook_resid_post", [[9, 9, 9]]
    expected = model.capture(PROMPTS, late)[late]

    def curious(activation: Tensor, where: Where) -> None:
        asked.append(model.capture(other, late)[late])

    asked: list[Tensor] = []
    with model.edit({RESID: curious}):
        acts = model.capture(PROMPTS, late)[late]
    assert torch.equal(acts.nan_to_num(), expected.nan_to_num())
    assert torch.equal(asked[0], model.capture(other, late)[late])


def test_only_what_is_kept_is_computed(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("llama")
    rows = model.encode(PROMPTS)
    (batch,) = batches(model.tree, rows, 8, "right")
    whole = forward(model.tree, batch).logits
    widths: list[int] = []
    handle = model.hf.lm_head.register_forward_hook(lambda _, args, out: widths.append(out.shape[1]))  # type: ignore
    last = forward(model.tree, batch, keep="last").logits
    two = forward(model.tree, batch, keep=2).logits
    handle.remove()
    assert widths == [1, 2]
    assert far(last[:, 0], whole[torch.arange(3), batch.last]) < 1e-5
    assert far(two, whole[:, -2:]) < 1e-5
    with model.tree.hooked_only():
        assert far(forward(model.tree, batch, keep="last").logits[:, 0], whole[torch.arange(3), batch.last]) < 1e-4


def test_two_edits_at_one_site_have_a_receipt_each(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("gpt2")
    with model.edit({"blocks.*.hook_resid_post": lambda a, w: a * 2, RESID: ablate()}) as receipts:
        model.logits(PROMPTS)
    assert [*receipts] == [RESID, "blocks.1.hook_resid_post", f"{RESID} (edit 2)"]
    assert receipts[RESID].norm_after == pytest.approx(2 * receipts[RESID].norm_before, rel=1e-5)
    assert receipts[f"{RESID} (edit 2)"].norm_after == 0


def test_an_edit_that_returns_none_leaves_the_activation(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("gpt2")
    plain = model.logits(PROMPTS)
    with model.edit({RESID: lambda activation, where: None}) as receipts:
        assert torch.equal(model.logits(PROMPTS).nan_to_num(), plain.nan_to_num())
    assert (receipts[RESID].fired, receipts[RESID].changed) == (1, 0)


def test_training_mode_runs_without_dropout(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    before = model.last_logits(PROMPTS)
    model.hf.train()
    assert far(model.last_logits(PROMPTS), before) < 1e-4
    assert far(model.last_logits(PROMPTS), model.last_logits(PROMPTS)) == 0
    assert model.hf.training


def test_the_cache_is_tried_before_it_is_trusted(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    assert cache_works(model.tree, "plain")
    broken = make_tiny("llama")
    whole = broken.hf.forward

    def forgetful(ids: Tensor, **how: Any) -> Any:
        how.pop("position_ids", None)
        if how.get("past_key_values") is not None:
            how["past_key_values"] = None
        return whole(ids, **how)

    broken.hf.forward = forgetful  # type: ignore[method-assign]
    assert not cache_works(broken.tree, "plain")
    assert length_kind(model.tree, 60) == 0
