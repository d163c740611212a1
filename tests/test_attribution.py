"""Direct logit attribution: exact sums, parts against surgery on the plain model, and TransformerLens' own numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp import Model, UserError, ablate
from interp.analysis.attribution import attribute_logits
from interp.analysis.metrics import logit_difference
from interp.model.choose import only
from interp.model.edits import freeze

PROMPTS = ["The capital of France is Paris, and", "Mary", "John gave a drink to the lazy dog; Rome is"]
RIGHT, WRONG = [5, 6, 7], [8, 9, 10]
ADD_UP = ["gpt2", "llama", "gpt_neox", "qwen2", "phi", "gemma", "opt"]


@pytest.mark.parametrize("by", ["component", "head", "neuron"])
@pytest.mark.parametrize("architecture", ADD_UP)
def test_the_parts_add_up_to_the_logit_difference(tiny_of: Callable[[str], Model], architecture: str, by: str) -> None:
    model = tiny_of(architecture)
    found = attribute_logits(model, PROMPTS, RIGHT, WRONG, by=by)  # type: ignore[arg-type]
    logits = model.last_logits(PROMPTS)
    expected = torch.stack([logits[i, r] - logits[i, w] for i, (r, w) in enumerate(zip(RIGHT, WRONG, strict=True))])
    torch.testing.assert_close(found.total, expected, atol=1e-5, rtol=1e-5)
    assert (found.error.abs() <= 1e-3 * found.effect.abs().sum(1)).all()
    assert (found.error.abs() <= 1e-3 * found.total.abs() + 1e-4).all()
    assert len(set(found.parts)) == len(found.parts) == found.effect.shape[1]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_part_is_what_vanishes_with_it(tiny_of: Callable[[str], Model], architecture: str) -> None:
    """With everything behind it held, and the final norm's scale too, removing a head takes away just its share."""
    model = tiny_of(architecture)
    last = model.n_layers - 1
    heads = attribute_logits(model, PROMPTS, RIGHT, WRONG, by="head")
    metric = logit_difference(RIGHT, WRONG)
    held = freeze(model.capture(PROMPTS, [f"blocks.{last}.hook_mlp_out", "ln_final.hook_scale"]))
    base = model.measure(PROMPTS, metric)
    for head in range(2):
        with model.edit({**held, f"blocks.{last}.attn.hook_z": only(ablate(), heads=head)}):
            gone = base - model.measure(PROMPTS, metric)
        torch.testing.assert_close(
            heads.effect[:, heads.parts.index(f"{last}.attn.{head}")], gone, atol=2e-4, rtol=1e-3
        )


def test_it_equals_transformer_lens(make_tiny: Callable[..., Model]) -> None:
    """ActivationCache.decompose_resid and logit_attrs of the bridge, on the same model."""
    model = make_tiny("gpt2")
    ids = torch.tensor(model.encode(PROMPTS[:1]))
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(ids)
    decomposed: Any = cache  # its types say nothing of methods
    theirs, labels = decomposed.decompose_resid(return_labels=True, apply_ln=False)
    found = attribute_logits(model, PROMPTS[:1], RIGHT[:1], WRONG[:1])
    scale = cache["ln_final.hook_scale"][0, -1]
    norm: Any = model.hf.get_submodule("transformer.ln_f")
    weight = norm.weight.detach()
    unembedding: Any = model.hf.get_output_embeddings()
    head = unembedding.weight.detach()
    read = (head[RIGHT[0]] - head[WRONG[0]]) * weight
    mine = dict(zip(found.parts, found.effect[0].tolist(), strict=True))
    embedding = 0.0
    for label, written in zip(labels, theirs, strict=True):
        x = written[0, -1]
        value = float(((x - x.mean()) / scale * read).sum())
        if label in ("embed", "pos_embed"):
            embedding += value
        else:
            layer, what = label.split("_")[0], label.split("_")[1]
            assert mine[f"{layer}.{what}"] == pytest.approx(value, rel=1e-4, abs=1e-5)
    assert mine["embedding"] == pytest.approx(embedding, rel=1e-4, abs=1e-5)


def test_on_the_bundled_model_the_error_is_rounding(smol: Model) -> None:
    prompts = ["Here is a fact. The capital of France is", "Here is a fact. The capital of Italy is"]
    paris, rome = (smol.tokenizer(word).input_ids[0] for word in (" Paris", " Rome"))
    for by in ("component", "head", "neuron"):
        found = attribute_logits(smol, prompts, [paris, rome], [rome, paris], by=by)  # type: ignore[arg-type]
        assert (found.error.abs() < 1e-3 * found.total.abs()).all()
        assert (found.total > 1).all()


def test_heads_behind_a_norm_of_their_own_are_refused_and_components_are_not(tiny_of: Callable[[str], Model]) -> None:
    """Gemma 2 puts a norm behind attention: what a head gives is not what is added."""
    model = tiny_of("gemma3")
    assert attribute_logits(model, PROMPTS, RIGHT, WRONG).effect.shape[1] == 2 + 2 * model.n_layers
    with pytest.raises(UserError, match=r"the parts of 0\.attn do not add up"):
        attribute_logits(model, PROMPTS, RIGHT, WRONG, by="head")


def test_half_precision_adds_up_to_its_own_rounding(make_tiny: Callable[..., Model]) -> None:
    whole = make_tiny("gpt2")
    exact = attribute_logits(whole, PROMPTS, RIGHT, WRONG, by="head")
    model = Model(whole.hf.to(torch.bfloat16), whole.tokenizer, whole.provenance)  # type: ignore[arg-type]
    rough = attribute_logits(model, PROMPTS, RIGHT, WRONG, by="head")
    assert (rough.effect - exact.effect).abs().max() < 0.05 * exact.effect.abs().sum(1).max()


def test_a_model_whose_parts_do_not_add_up_is_refused(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    real = model.measure
    model.measure = lambda *args, **settings: real(*args, **settings) ** 3  # type: ignore[method-assign]
    with pytest.raises(UserError, match="token id 70000 came as an answer"):
        attribute_logits(model, PROMPTS, [5, 6, 70_000], WRONG)
    with pytest.raises(UserError, match="do not add up"):
        attribute_logits(model, PROMPTS, RIGHT, WRONG)
    with pytest.raises(UserError, match="2 right answers and 3 wrong ones came"):
        attribute_logits(model, PROMPTS, RIGHT[:2], WRONG)
    with pytest.raises(UserError, match="expected component, head or neuron"):
        attribute_logits(model, PROMPTS, RIGHT, WRONG, by="layer")  # type: ignore[arg-type]
