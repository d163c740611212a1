"""Direct logit attribution: exact sums, parts against surgery on the plain model, and TransformerLens' own numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from architecture_kinds import build
from architectures import ARCHITECTURES
from refusals import the_line

from interp import Model, UserError, ablate
from interp.analysis.attribution import attribute_logits, check_sum
from interp.analysis.heads import repeated_tokens, score_heads
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


CAPPED = ["gemma2", "vaultgemma", "granite_real", "nanochat"]
NORMED_BEHIND = ["gemma2", "gemma3", "olmo2", "glm4", "exaone4"]


@pytest.fixture(scope="module")
def table_model(tiny_gpt2: Model) -> Callable[[str], Model]:
    """A model of the table of architectures, in memory."""
    made: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in made:
            hf = build(ARCHITECTURES[name.removesuffix("_real")], len(tiny_gpt2.tokenizer), eager=False)
            made[name] = Model(hf, tiny_gpt2.tokenizer, tiny_gpt2.provenance)
        return made[name]

    return get


@pytest.mark.parametrize("name", CAPPED)
def test_under_a_cap_or_a_scale_the_parts_sum_to_the_models_own_difference(
    table_model: Callable[[str], Model], name: str
) -> None:
    model = table_model(name)
    logits = model.last_logits(PROMPTS)
    expected = torch.stack([logits[i, r] - logits[i, w] for i, (r, w) in enumerate(zip(RIGHT, WRONG, strict=True))])
    for by in ("component", "head", "neuron"):
        found = attribute_logits(model, PROMPTS, RIGHT, WRONG, by=by)  # type: ignore[arg-type]
        assert (found.effect.sum(1) - expected).abs().max() < 1e-4 * found.effect.abs().sum(1).max()
    several = attribute_logits(model, PROMPTS, [[5, 50], [6, 60], [7, 70]], [[8, 80], [9, 90], [10, 100]])
    assert (several.error.abs() < 1e-4 * several.effect.abs().sum(1)).all()


def _seen(plain: Any, name: str, ids: list[list[int]]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """What each module writes at the last token, what the final norm reads there, and the logits."""
    seen: dict[str, torch.Tensor] = {}

    def keep(key: str) -> Any:
        def hook(_: Any, args: Any, out: Any = None) -> None:
            value = args if out is None else out
            seen[key] = (value[0] if isinstance(value, tuple) else value)[0, -1].detach().double()

        return hook

    handles = [plain.model.norm.register_forward_pre_hook(keep("final"))]
    for n, block in enumerate(plain.model.layers):
        behind = (block.self_attn, block.mlp)
        if name == "gemma2":
            behind = (block.post_attention_layernorm, block.post_feedforward_layernorm)
        for what, module in zip(("attn", "mlp"), behind, strict=True):
            handles.append(module.register_forward_hook(keep(f"{n}.{what}")))
    with torch.no_grad():
        logits = plain(torch.tensor(ids), use_cache=False).logits[0, -1].double()
    for handle in handles:
        handle.remove()
    return seen, seen.pop("final"), logits


@pytest.mark.parametrize("name", ["gemma2", "granite_real"])
def test_a_components_share_is_what_is_computed_by_hand(table_model: Callable[[str], Model], name: str) -> None:
    """Hooks on the plain modules, the final norm's formula, and the secant of the config's own cap or scale."""
    model = table_model(name)
    plain: Any = model.hf
    for i, prompt in enumerate(PROMPTS):
        parts, x, logits = _seen(plain, name, model.encode(prompt))
        times = plain.model.norm.weight.detach().double() + (1 if name == "gemma2" else 0)
        rms = (x.square().mean() + plain.config.rms_norm_eps).sqrt()
        table = plain.lm_head.weight.detach().double()
        read = (table[RIGHT[i]] - table[WRONG[i]]) * times / rms
        secant = (logits[RIGHT[i]] - logits[WRONG[i]]) / (x @ read)
        factor = 1.0 if name == "gemma2" else plain.config.residual_multiplier
        found = attribute_logits(model, [prompt], RIGHT[i : i + 1], WRONG[i : i + 1])
        mine = dict(zip(found.parts, found.effect[0].tolist(), strict=True))
        for key, written in parts.items():
            assert mine[key] == pytest.approx(float(factor * written @ read * secant), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", NORMED_BEHIND)
def test_heads_and_neurons_go_through_the_norm_behind_them(table_model: Callable[[str], Model], name: str) -> None:
    model = table_model(name)
    whole = attribute_logits(model, PROMPTS, RIGHT, WRONG)
    for by, what in (("head", "attn"), ("neuron", "mlp")):
        found = attribute_logits(model, PROMPTS, RIGHT, WRONG, by=by)  # type: ignore[arg-type]
        assert (found.error.abs() < 1e-4 * found.effect.abs().sum(1)).all()
        for layer in range(model.n_layers):
            mine = [n for n, part in enumerate(found.parts) if part.startswith(f"{layer}.{what}.")]
            expected = whole.effect[:, whole.parts.index(f"{layer}.{what}")]
            size = found.effect[:, mine].abs().sum(1)
            assert ((found.effect[:, mine].sum(1) - expected).abs() < 1e-4 * size).all()
            assert len(mine) > 2


def test_a_head_behind_a_norm_is_what_vanishes_with_it(table_model: Callable[[str], Model]) -> None:
    """The scales of both norms held, and the MLP: removing a head takes away its share."""
    model = table_model("olmo2")
    last = model.n_layers - 1
    heads = attribute_logits(model, PROMPTS, RIGHT, WRONG, by="head")
    metric = logit_difference(RIGHT, WRONG)
    scales = [f"blocks.{last}.ln1.hook_scale", f"blocks.{last}.hook_mlp_out", "ln_final.hook_scale"]
    held = freeze(model.capture(PROMPTS, scales))
    base = model.measure(PROMPTS, metric)
    for head in range(2):
        with model.edit({**held, f"blocks.{last}.attn.hook_z": only(ablate(), heads=head)}):
            gone = base - model.measure(PROMPTS, metric)
        share = heads.effect[:, heads.parts.index(f"{last}.attn.{head}")]
        torch.testing.assert_close(share, gone, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "by", "words"),
    [
        ("mamba", "component", "MambaForCausalLM has no attention in layers 0, 1"),
        ("lfm2", "component", "Lfm2ForCausalLM has no attention in layer 0:"),
        ("mamba", "head", "MambaForCausalLM has no attention in layers 0, 1"),
        ("jamba", "head", "JambaForCausalLM has no attention in layer 0:"),
        ("mixtral", "neuron", "MixtralForCausalLM has no neurons in layers 0, 1 .*; attribute by component"),
    ],
)
def test_a_layer_without_attention_or_neurons_is_named(
    table_model: Callable[[str], Model], name: str, by: Any, words: str
) -> None:
    with pytest.raises(UserError, match=words) as raised:
        attribute_logits(table_model(name), PROMPTS, RIGHT, WRONG, by=by)
    assert "unknown" not in the_line(raised)


def test_a_heads_score_stands_at_the_number_of_its_layer(table_model: Callable[[str], Model]) -> None:
    """In a model whose first layer has no attention, the second one's heads are those of layer 1."""
    model = table_model("lfm2")
    sequences = repeated_tokens(model, length=5, sequences=2, words=list(range(10, 60)))
    scores = score_heads(model, sequences)
    for kind, values in scores.scores.items():
        assert values.shape == (2, 2, 4)
        assert bool(values[:, 0].isnan().all())
        assert bool(values[:, 1].isfinite().all())
        assert {layer for layer, _, _ in scores.top(kind, 4)} == {1}


def test_answers_that_are_the_same_are_refused(table_model: Callable[[str], Model]) -> None:
    for name in ("gemma2", "llama"):
        with pytest.raises(UserError, match="prompt 1: the right and the wrong answer are the same"):
            attribute_logits(table_model(name), PROMPTS, RIGHT, [8, 6, 10])


def test_no_refusal_recommends_what_was_asked(table_model: Callable[[str], Model]) -> None:
    """A model that writes something nobody lists: the component is no way out of itself."""
    model = table_model("gemma4")  # whose layers add an embedding of their own
    with pytest.raises(UserError, match="do not add up") as raised:
        attribute_logits(model, PROMPTS, RIGHT, WRONG)
    assert "by component" not in the_line(raised)


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


def test_parts_that_are_next_to_nothing_in_one_prompt_are_not_held_to_their_own_rounding(tiny_gpt2: Model) -> None:
    """Two answers that a model cannot tell apart in one prompt, and can in another."""
    size = torch.tensor([9e-7, 17.7])
    parts = torch.tensor([1e-7, 5.0])
    check_sum(tiny_gpt2, parts, parts + torch.tensor([1e-7, 1e-6]), size, "the parts")
    for planted in ([1e-4, 0.0], [0.0, 0.1]):
        with pytest.raises(UserError, match="do not add up"):
            check_sum(tiny_gpt2, parts, parts + torch.tensor(planted), size, "the parts")


def test_a_small_difference_of_large_logits_is_rounded_as_they_are(tiny_gpt2: Model) -> None:
    size, parts = torch.tensor([0.004]), torch.tensor([0.001])
    check_sum(tiny_gpt2, parts, parts + 4e-6, size, "the parts", largest=50.0)
    with pytest.raises(UserError, match="do not add up"):
        check_sum(tiny_gpt2, parts, parts + 4e-6, size, "the parts", largest=1.0)
    with pytest.raises(UserError, match="do not add up"):
        check_sum(tiny_gpt2, parts, parts + 1e-3, size, "the parts", largest=50.0)
