"""The parity check: it passes on every architecture, checks every site, and finds faults planted from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import PLACES

from interp import Model, UserError
from interp.model import model as model_module
from interp.model.checking.parity import PROMPTS, Compared, KindResult, ParityResult, check_parity, compare_values
from interp.model.hooks.bridge import count_hooks
from interp.model.hooks.engines import Ran

SHORT = PROMPTS[1:2]


def failing(result: ParityResult | Compared) -> set[str]:
    return {kind.kind for kind in result.kinds if not kind.ok}


@pytest.mark.parametrize("architecture", [*PLACES, "mamba"])
def test_every_site_of_every_architecture_is_checked_and_right(tiny_of: Callable[[str], Model], architecture: str):
    model = tiny_of(architecture)
    result = check_parity(model)
    assert failing(result) == set()
    assert result.unchecked == ()
    assert all(result.faults.values())
    assert result.ok
    checked = sum({k.kind: k.n_sites // len(PROMPTS) for k in result.kinds}.values())
    assert checked >= len(model.sites())
    assert count_hooks(model.bridge) == 0


@pytest.mark.slow
def test_the_bundled_model_passes(smol: Model):
    before = smol.hf.config._attn_implementation
    result = check_parity(smol, SHORT)
    assert result.ok, (failing(result), result.unchecked, result.faults)
    assert smol.hf.config._attn_implementation == before, "the plain model is as it was"
    left = [hook.__module__ for m in smol.hf.modules() for hook in m._forward_hooks.values()]
    assert not [module for module in left if module.startswith("interp")]


def own(bridge_module: Any, name: str) -> torch.nn.Parameter:
    """Give the bridge a weight of its own in place of the shared one, and return it."""
    home = bridge_module.original_component
    parameter = torch.nn.Parameter(getattr(home, name).detach().clone(), requires_grad=False)
    setattr(home, name, parameter)
    return parameter


def one_weight(model: Model) -> None:
    own(model.bridge.blocks[1].mlp.out, "weight")[3, 5] += 0.02


def norm_epsilon(model: Model) -> None:
    own(model.bridge.blocks[0].ln2, "weight").mul_(1.0005)


def final_norm(model: Model) -> None:
    own(model.bridge.ln_final, "weight")[0] += 0.01


def unembedding(model: Model) -> None:
    own(model.bridge.unembed, "weight")[7] += 0.01


def value_bias(model: Model) -> None:
    own(model.bridge.blocks[0].attn.o, "weight").mul_(1.001)


def embedding(model: Model) -> None:
    own(model.bridge.embed, "weight")[5:].mul_(1.001)


def attention_scale(model: Model) -> None:
    scores = model.tree.points["blocks.1.attn.hook_attn_scores"]
    scores.add_hook(lambda tensor, hook: tensor * 1.001, is_permanent=True)  # type: ignore[arg-type]


def swapped_layers(model: Model) -> None:
    blocks = model.bridge.blocks
    blocks[0], blocks[1] = blocks[1], blocks[0]


def read_one_layer_off(model: Model) -> None:
    points = model.tree.points
    points["blocks.1.hook_resid_pre"] = points["blocks.0.hook_resid_pre"]


def mlp_and_attention_swapped(model: Model) -> None:
    points = model.tree.points
    for layer in range(model.n_layers):
        a, m = f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.hook_mlp_out"
        points[a], points[m] = points[m], points[a]


def q_and_k_swapped(model: Model) -> None:
    points = model.tree.points
    q, k = "blocks.0.attn.hook_q", "blocks.0.attn.hook_k"
    points[q], points[k] = points[k], points[q]


def scaled_capture(model: Model) -> None:
    point = model.tree.points["blocks.1.hook_resid_post"]
    point.add_hook(lambda tensor, hook: tensor * 1.0001, is_permanent=True)  # type: ignore[arg-type]


def normalized_site(model: Model) -> None:
    points = model.tree.points
    points["blocks.1.ln1.hook_normalized"] = points["blocks.1.ln1.hook_out"]


def gone_from_position_2(model: Model) -> None:
    def spoil(tensor: Any, hook: Any) -> Any:
        out = tensor.clone()
        out[:, 2:] = float("nan")
        return out

    for name in ("blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"):
        model.tree.points[name].add_hook(spoil, is_permanent=True)  # type: ignore[arg-type]


FAULTS = [
    gone_from_position_2,
    one_weight,
    norm_epsilon,
    final_norm,
    unembedding,
    value_bias,
    embedding,
    attention_scale,
    swapped_layers,
    read_one_layer_off,
    mlp_and_attention_swapped,
    q_and_k_swapped,
    scaled_capture,
    normalized_site,
]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(
    make_tiny: Callable[..., Model],
    passes_parity: Callable[[str], bool],
    architecture: str,
    fault: Callable[[Model], None],
):
    """By a comparison of values, not only by a fault of parity's own that went unseen."""
    assert passes_parity(architecture)
    model = make_tiny(architecture)
    with torch.no_grad():
        fault(model)
    assert failing(compare_values(model, model.encode(SHORT)))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_comparison_that_fails_fails_the_whole(make_tiny: Callable[..., Model], architecture: str):
    model = make_tiny(architecture)
    scaled_capture(model)
    result = check_parity(model, SHORT)
    assert failing(result) == failing(compare_values(model, model.encode(SHORT))) != set()
    assert not result.ok


@pytest.mark.parametrize("architecture", ["gpt_neox", "bloom", "falcon", "gpt_bigcode", "codegen", "mpt"])
@pytest.mark.parametrize("parts", ["qk", *(pytest.param(parts, marks=pytest.mark.slow) for parts in ("qv", "kv"))])
def test_parts_of_one_matrix_that_are_swapped_in_every_layer_are_found(
    make_tiny: Callable[..., Model], architecture: str, parts: str
):
    model = make_tiny(architecture)
    points = model.tree.points
    sites = [[f"blocks.{layer}.attn.hook_{part}" for part in parts] for layer in range(model.n_layers)]
    for a, b in sites:
        points[a], points[b] = points[b], points[a]
    assert failing(compare_values(model, model.encode(SHORT))) >= {f"blocks.*.attn.hook_{part}" for part in parts}


def batch_mates_swapped(model: Model, patch: pytest.MonkeyPatch) -> None:
    forward = model_module.forward

    def swapped(*given: Any, **how: Any) -> Ran:
        ran = forward(*given, **how)
        return Ran(ran.logits.flip(0), ran.cache)

    patch.setattr(model_module, "forward", swapped)


def last_logits_of_nothing(model: Model, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model, "last_logits", lambda prompts: torch.zeros(len(prompts), model.hf.config.vocab_size))


def logits_that_are_not_the_models(model: Model, patch: pytest.MonkeyPatch) -> None:
    logits = model.logits
    patch.setattr(model, "logits", lambda prompts: logits(prompts) * 1.001)


def edits_that_do_nothing(model: Model, patch: pytest.MonkeyPatch) -> None:
    edit = model.edit

    def deaf(edits: dict[str, Any]) -> Any:
        return edit(
            {site: f for site, f in edits.items() if "mlp_out" in site} or {"blocks.0.hook_mlp_out": lambda a, _: a}
        )

    patch.setattr(model, "edit", deaf)


@pytest.mark.parametrize(
    "fault", [batch_mates_swapped, last_logits_of_nothing, logits_that_are_not_the_models, edits_that_do_nothing]
)
def test_behaviour_that_is_off_is_found(
    make_tiny: Callable[..., Model],
    passes_parity: Callable[[str], bool],
    monkeypatch: pytest.MonkeyPatch,
    fault: Any,
):
    assert passes_parity("gpt2")
    model = make_tiny("gpt2")
    fault(model, monkeypatch)
    result = check_parity(model)
    assert not result.ok
    assert not all(result.behaviour.values())


def test_a_site_that_nothing_checks_fails_the_whole(make_tiny: Callable[..., Model]):
    result = check_parity(make_tiny("gpt2"), SHORT)
    assert result.ok
    assert not ParityResult(result.kinds, result.behaviour, result.faults, ("blocks.0.hook_new",)).ok
    assert not ParityResult(result.kinds, result.behaviour, {"planted": False}, ()).ok
    assert not ParityResult(result.kinds, {"batch": False}, result.faults, ()).ok
    for absolute, relative in ((float("nan"), float("nan")), (0.0, 2e-5), (2e-3, 1e-7)):
        bad = KindResult("blocks.*.hook_resid_post", "plain", 1, absolute, relative)
        assert not ParityResult((*result.kinds, bad), result.behaviour, result.faults, ()).ok


def test_parity_needs_full_precision(make_tiny: Callable[..., Model]):
    model = make_tiny("gpt2")
    hf: Any = model.hf
    hf.to(torch.bfloat16)
    with pytest.raises(UserError, match=r"parity needs fp32, and this model is in torch\.bfloat16"):
        check_parity(model)
