"""Losses and gradients of every architecture against autograd through sae-lens' own training class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor

from interp.saes.training.architectures import architecture_of, architectures
from interp.saes.training.architectures.base import Batch, Step
from interp.saes.training.encoder import CPUEncoder, Encoder, GPUEncoder, Precision
from interp.saes.training.sparse_codes import Grid, Pairs

ROWS, D_IN, D_SAE = 96, 24, 128
MANY = torch.arange(D_SAE) % 5 == 0  # more than the d_in / 2 that aux-k takes
FEW = torch.arange(D_SAE) < 3
WARM = 0.5

JUMPS = [
    {"jumprelu_sparsity_loss_mode": mode, "jumprelu_ste_to_input": ste, "target_l0": 4.0, "jumprelu_bandwidth": 0.2}
    for mode in ("step", "tanh", "quadratic")
    for ste in (False, True)
]
CASES: list[tuple[str, dict[str, Any], Tensor | None]] = [
    *((name, {"k": 5}, dead) for name in ("topk", "batchtopk") for dead in (None, FEW, MANY)),
    *(("matryoshka_batchtopk", {"k": 5, "matryoshka_widths": (16, 48, D_SAE)}, dead) for dead in (None, FEW, MANY)),
    ("standard", {"l1_coefficient": 0.7}, None),
    ("gated", {"l1_coefficient": 0.7}, None),
    *(("jumprelu", {**jump, "pre_act_loss_coefficient": 0.03}, MANY) for jump in JUMPS),
]

DENSE = [(*case, True) for case in CASES if "k" not in case[1]]  # k latents of a row are pairs always


def theirs(
    name: str, settings: dict[str, Any], dead: Tensor | None, dtype: torch.dtype, shift: float
) -> tuple[Any, Any]:
    """sae-lens' class with random weights, after a backward pass, and what its forward gave."""
    cls, config = get_sae_training_class(name)
    listed: Any = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    sae: Any = cls(config(d_in=D_IN, d_sae=D_SAE, dtype=str(dtype).removeprefix("torch."), **listed))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in sae.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.copy_(0.3 * drawn.abs() if parameter_name == "threshold" else 0.3 * drawn)
        (sae.b_gate if name == "gated" else sae.b_enc).sub_(shift)
    x = torch.randn(ROWS, D_IN, generator=generator).to(dtype)
    weights = {k: v.value * WARM for k, v in sae.get_coefficients().items()}
    given = TrainStepInput(
        sae_in=x, coefficients=weights, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False
    )
    out = sae.training_forward_pass(given)
    out.loss.backward()
    return sae, out


def ours(sae: Any, x: Tensor, name: str, settings: dict[str, Any], dead: Tensor | None, encoder: Encoder) -> Step:
    architecture = architecture_of(name)
    weights = {n: p.detach().clone().to(x.dtype) for n, p in sae.named_parameters()}
    weights["W_enc"] = weights["W_enc"].T.contiguous()
    buffers = {n: torch.zeros((), dtype=torch.float64) for n in architecture.buffers}
    batch = Batch(x, x, len(x), encoder, dead, warm=WARM)
    return architecture.step(weights, buffers, batch, architecture.settings(**settings))


def test_every_architecture_is_held_against_its_reference() -> None:
    assert {name for name, *_ in CASES} == set(architectures())


@pytest.mark.parametrize("kind", [CPUEncoder, GPUEncoder])
@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float64, "fp32"), (torch.float32, "fp32"), (torch.float32, "bf16")]
)
@pytest.mark.parametrize(("name", "settings", "dead", "dense"), [*((*case, False) for case in CASES), *DENSE])
def test_losses_and_gradients_are_those_of_autograd(
    name: str,
    settings: dict[str, Any],
    dead: Tensor | None,
    dtype: torch.dtype,
    precision: Precision,
    dense: bool,
    kind: Any,
) -> None:
    sae, out = theirs(name, settings, dead, dtype, 0.0 if dense else 3.0)
    step = ours(sae, out.sae_in, name, settings, dead, kind(precision))
    assert isinstance(step.code, Grid if dense else Pairs)
    limit = 1e-11 if dtype == torch.float64 else 1e-5
    assert set(step.losses) == set(out.losses)
    for loss, value in out.losses.items():
        assert float(step.losses[loss]) == pytest.approx(float(value.detach()), rel=limit), loss
    for parameter_name, parameter in sae.named_parameters():
        wanted = parameter.grad.T if parameter_name == "W_enc" else parameter.grad
        off = (step.gradients[parameter_name] - wanted).norm() / wanted.norm()
        # sae-lens keeps thresholds in fp32, and their gradients too
        assert float(off) < (1e-6 if parameter_name == "threshold" else limit), f"{parameter_name}: {float(off):.1e}"
    torch.testing.assert_close(step.error + out.sae_in, out.sae_out.detach(), rtol=limit, atol=10 * limit)
    assert step.code.fired(step.values).tolist() == (out.feature_acts != 0).sum(0).tolist()


@pytest.mark.parametrize(("name", "settings"), [("topk", {"k": 5}), ("batchtopk", {"k": 5.5})])
def test_a_gradient_that_is_wrong_would_be_found(name: str, settings: dict[str, Any]) -> None:
    """The negative control: another k is another gradient, far beyond the limit."""
    sae, out = theirs(name, settings, None, torch.float32, 0.0)
    step = ours(sae, out.sae_in, name, {"k": 6}, None, CPUEncoder())
    off = (step.gradients["W_dec"] - sae.W_dec.grad).norm() / sae.W_dec.grad.norm()
    assert float(off) > 1e-2


def test_rows_of_a_batch_may_be_shared_out() -> None:
    """Gradients of parts, each divided by the rows of the whole, add up to the gradient of the whole."""
    sae, out = theirs("topk", {"k": 5}, MANY, torch.float64, 0.0)
    whole = ours(sae, out.sae_in, "topk", {"k": 5}, MANY, CPUEncoder())
    architecture = architecture_of("topk")
    weights = {n: p.detach() for n, p in sae.named_parameters()}
    weights["W_enc"] = weights["W_enc"].T.contiguous()
    parts = [
        architecture.step(weights, {}, Batch(x, x, ROWS, CPUEncoder(), MANY), architecture.settings(k=5))
        for x in (out.sae_in[::2], out.sae_in[1::2])
    ]
    for name, gradient in whole.gradients.items():
        torch.testing.assert_close(parts[0].gradients[name] + parts[1].gradients[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["batchtopk", "jumprelu", "standard"])
def test_a_transcoder_reads_one_site_and_reconstructs_another(name: str) -> None:
    """Gradients against autograd through the plain formula: no bias is taken from the input, widths differ."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 10, generator=generator).double(), torch.randn(40, 7, generator=generator).double()
    architecture = architecture_of(name)
    settings = architecture.settings(**({"k": 3} if name == "batchtopk" else {}))
    weights = {"W_enc": torch.randn(64, 10, generator=generator), "W_dec": torch.randn(64, 7, generator=generator)}
    weights |= {"b_dec": torch.randn(7, generator=generator)}
    weights |= {n: torch.full((64,), start) for n, start in architecture.per_feature(settings).items()}
    weights = {n: t.double().requires_grad_() for n, t in weights.items()}
    buffers = {n: torch.zeros((), dtype=torch.float64) for n in architecture.buffers}
    with torch.no_grad():
        step = architecture.step(weights, buffers, Batch(x, y, 40, CPUEncoder(), centred=False), settings)
    pre = x @ weights["W_enc"].T + weights["b_enc"]
    norm = weights["W_dec"].norm(dim=1)
    if name == "batchtopk":
        scaled = (pre * norm).relu()
        least = scaled.flatten().topk(3 * 40).values.min()
        loss = ((pre.relu() * (scaled >= least)) @ weights["W_dec"] + weights["b_dec"] - y).square().sum(1).mean()
    else:
        active = pre > weights["threshold"] if name == "jumprelu" else pre > 0
        values = pre * active
        loss = (values @ weights["W_dec"] + weights["b_dec"] - y).square().sum(1).mean()
        if name == "standard":
            loss = loss + (values * norm).sum(1).mean()
    loss.backward()
    for parameter in ("W_enc", "W_dec", "b_dec", "b_enc"):
        torch.testing.assert_close(step.gradients[parameter], weights[parameter].grad, rtol=1e-9, atol=1e-9)
