"""A number of a prompt does not depend on the prompts beside it, nor on what comes after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from compare import far
from torch import Tensor

from interp import Model, UserError, ablate
from interp.analysis import gradients_of
from interp.edits import knock_out, only, scale
from interp.model.hooks import forward as forward_module
from interp.model.hooks.metrics import told_padding

PROMPTS = ["The capital of France is", "Mary", "The"]
METRICS: dict[str, Callable[[Tensor, object], Tensor]] = {
    "the last column": lambda logits, _: logits[:, -1, 5],
    "the mean over positions": lambda logits, _: logits.max(-1).values.mean(1),
    "the number of positions": lambda logits, _: logits[:, :, 3].sum(1) + logits.shape[1],
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_metric_of_ones_own_meets_no_padding(tiny_of: Callable[[str], Model], architecture: str, metric: str) -> None:
    model, measure = tiny_of(architecture), METRICS[metric]
    together = model.measure(PROMPTS, measure)
    alone = torch.cat([model.measure([prompt], measure) for prompt in PROMPTS])
    assert far(together, alone) < 1e-4
    site = "blocks.0.hook_resid_post"
    slopes = gradients_of(model, PROMPTS, site, measure)
    for i, prompt in enumerate(PROMPTS):
        own = gradients_of(model, [prompt], site, measure)
        assert far(slopes.values[i], own.values[0]) < 1e-4
        real = slopes.gradients.mask[i]
        assert far(slopes.gradients[site][i][real], own.gradients[site][0]) < 1e-4
    padded = model.measure(PROMPTS, told_padding(partial(measure)))
    assert far(padded, alone) > 1e-3, "negative control: with padding, this metric is another number"


def test_no_edit_of_attention_lets_a_token_see_what_comes_after_it(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("llama")
    first, second, shared = [5, 17, 9, 23, 31], [5, 17, 9, 40, 8], 3
    plain = model.logits([first])[0]
    for site, edit in (
        ("blocks.0.attn.hook_pattern", ablate(0.2)),
        ("blocks.*.attn.hook_pattern", lambda value, _: value + 0.1),
        ("blocks.0.attn.hook_attn_scores", ablate()),
    ):
        with model.edit({site: edit}):
            one, two = (model.logits([row])[0] for row in (first, second))
            text = model.generate([first], max_new_tokens=3, capture="blocks.0.attn.hook_pattern")
        assert far(one[:shared], two[:shared]) < 1e-5, site
        assert far(one[shared:], two[shared:]) > 1e-2, site
        assert far(one, plain) > 1e-2, f"the edit at {site} does something"
        row = list(first)
        with model.edit({site: edit}):
            for _ in range(3):
                row.append(int(model.last_logits([row])[0].argmax()))
        assert text.ids[0] == row[len(first) :], site
        assert text.activations is not None
        pattern = text.activations["blocks.0.attn.hook_pattern"][0].nan_to_num()
        assert float(pattern.triu(1).abs().max()) == 0


def test_several_positions_are_each_of_them(tiny_of: Callable[[str], Model]) -> None:
    model = tiny_of("gpt2")
    site = "blocks.0.hook_mlp_out"
    plain = model.capture(PROMPTS[:1], site)[site][0]
    with model.edit({site: only(ablate(), pos=[1, 2, -1])}) as receipts:
        edited = model.capture(PROMPTS[:1], site)[site][0]
    zero = (edited == 0).all(-1)
    assert zero.nonzero().flatten().tolist() == [1, 2, len(plain) - 1]
    assert receipts[site].changed == 3
    with model.edit({"blocks.0.attn.hook_pattern": knock_out([0, 1], [2, 3])}):
        pattern = model.capture(PROMPTS[:1], "blocks.0.attn.hook_pattern")["blocks.0.attn.hook_pattern"][0]
    assert float(pattern[:, 2:4, :2].max()) == 0
    assert float(pattern[:, 4, :2].min()) > 0
    with pytest.raises(UserError, match="position 9 is outside"), model.edit({site: ablate(pos=[0, 9])}):
        model.logits(PROMPTS[:1])


@pytest.mark.parametrize("end", ["lm_head:input", "lm_head"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_place_named_at_the_unembedding_shows_every_token(
    make_tiny: Callable[..., Model], architecture: str, end: str
) -> None:
    model = make_tiny(architecture)
    model.register_site("head", end)
    acts = model.capture(PROMPTS, "head")
    if end == "lm_head":
        right = model.logits(PROMPTS)
    else:
        right = model.capture(PROMPTS, "ln_final.hook_out")["ln_final.hook_out"]
    assert acts["head"].shape == right.shape
    assert far(acts["head"], right) < 1e-4
    assert far(acts["head"][0, 0], acts["head"][0, -1]) > 1e-2, "negative control: tokens differ"
    made = model.generate(PROMPTS[:1], max_new_tokens=2, capture="head")
    assert made.activations is not None
    assert far(made.activations["head"][0, : right.shape[1]], right[0]) < 1e-4
    with model.edit({"head": only(scale(0.5), pos=-1)}):
        halved = model.last_logits(PROMPTS)
    assert far(halved, 0.5 * model.last_logits(PROMPTS)) < 1e-4  # neither has a bias there


def test_a_place_that_shows_other_tokens_than_were_read_is_an_error_and_not_spread_over_all(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("llama")
    model.register_site("head", "lm_head")
    monkeypatch.setattr(forward_module, "sees_the_cut", lambda tree, site: False)
    with pytest.raises(UserError, match="head gave 1 positions for prompts of"):
        model.capture(PROMPTS[:1], "head")
