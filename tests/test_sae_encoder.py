"""What the encoder finds against a dense product and a sort, whatever the precision, shape and ties."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.errors import UserError
from interp.saes.training.encoder import CPUEncoder, Encoder, GPUEncoder, Precision, Weights, choose_precision
from interp.saes.training.processes import Ranks
from interp.saes.training.sparse_codes import Code, Grid, Pairs

EXACT = 1e-4
Kind = Callable[[Precision], Encoder]
KINDS = [CPUEncoder, GPUEncoder]  # a GPU's way gives the same on a CPU, where nobody has to wait for it
each_kind = pytest.mark.parametrize("kind", KINDS)


def problem(rows: int, d_in: int, d_sae: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Weights]:
    """Rows with a few large components, as residual streams have them, and an encoder of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, d_in, generator=generator)
    x[:, 0] *= 20 * spread
    W = torch.randn(d_sae, d_in, generator=generator) * (0.5 + torch.rand(d_sae, 1, generator=generator))
    scale = 0.5 + torch.rand(d_sae, generator=generator)
    return x, Weights(W, torch.randn(d_sae, generator=generator), scale)


def dense(x: Tensor, weights: Weights) -> Tensor:
    """Pre-activations in double precision."""
    pre = x.double() @ weights.W.double().T + weights.b.double()
    return pre if weights.scale is None else pre * weights.scale.double()


def as_matrix(code: Code, rows: int) -> Tensor:
    if isinstance(code, Grid):
        return code.pre * code.mask
    code = code.counting()
    out = torch.zeros(rows, code.d_sae)
    out[code.row.long(), code.feature.long()] = code.pre
    return out


def assert_chosen(found: Tensor, pre: Tensor, lowest: Tensor) -> None:
    """All clearly above `lowest` are there with their values, none clearly below it is."""
    room = EXACT * pre.abs().amax()
    assert bool((found[pre > lowest.clamp(min=0) + room] != 0).all())
    assert bool((found[pre < lowest.clamp(min=0) - room] == 0).all())
    there = found != 0
    torch.testing.assert_close(found[there].double(), pre[there], rtol=EXACT, atol=float(room))


@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 300),
    d_in=st.integers(1, 40),
    d_sae=st.integers(1, 700),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 10_000),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_top_k_is_a_sort(
    kind: Kind, rows: int, d_in: int, d_sae: int, share: float, seed: int, precision: Precision
) -> None:
    k = max(1, round(share * d_sae / 4))
    x, weights = problem(rows, d_in, d_sae, seed)
    pre = dense(x, weights)
    code = kind(precision).top_k(x, weights, k).counting()
    assert bool((code.starts.diff() == (pre > 0).sum(1).clamp(max=k)).float().mean() > 0.99)
    assert int(code.starts.diff().max()) <= k
    assert_chosen(as_matrix(code, rows), pre, pre.topk(k).values[:, -1:])


@settings(max_examples=30)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 300),
    d_sae=st.integers(1, 500),
    k=st.floats(0.1, 20),
    seed=st.integers(0, 10_000),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_batch_top_k_is_a_sort_of_the_batch(
    kind: Kind, rows: int, d_sae: int, k: float, seed: int, precision: Precision
) -> None:
    x, weights = problem(rows, 16, d_sae, seed)
    wanted = int(min(k, d_sae) * rows)
    encoder = kind(precision)
    for again in range(3):  # the second and third batch are looked for where the first was found
        x = x * (1 + again)
        pre = dense(x, weights)
        code = encoder.batch_top_k(x, weights, min(k, d_sae), Ranks()).counting()
        lowest = pre.flatten().topk(wanted).values[-1] if wanted else torch.tensor(torch.inf)
        if wanted:
            assert_chosen(as_matrix(code, rows), pre, lowest)
        least = min(wanted, int((pre > 0).sum()))
        ties = int(((pre - lowest).abs() < EXACT * pre.abs().amax()).sum())  # all of which count, or none but the last
        assert least <= len(code.pre) <= least + max(0, ties - 1) or wanted == 0


@settings(max_examples=30)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 300),
    d_sae=st.integers(1, 500),
    height=st.floats(-2, 60),
    seed=st.integers(0, 10_000),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_above_is_a_comparison(
    kind: Kind, rows: int, d_sae: int, height: float, seed: int, precision: Precision
) -> None:
    x, weights = problem(rows, 16, d_sae, seed)
    weights = Weights(weights.W, weights.b)
    floor = height + torch.rand(d_sae, generator=torch.Generator().manual_seed(seed))
    pre = dense(x, weights)
    code = kind(precision).above(x, weights, floor)
    share = float((pre > floor).double().mean())
    assert isinstance(code, Pairs) or share > 0.04
    found, room = as_matrix(code, rows), EXACT * pre.abs().amax()
    assert bool((found[pre > floor + room] != 0).all())
    assert bool((found[pre < floor - room] == 0).all())


@each_kind
def test_bfloat16_finds_what_fp32_finds_on_a_wide_encoder(kind: Kind) -> None:
    """768 -> 12,288 at k = 32: not one latent differs but for ties in fp32 itself."""
    x, weights = problem(320, 768, 12_288, 0)
    pre = dense(x, weights)
    narrow, wide = (as_matrix(kind(p).top_k(x, weights, 32), len(x)) for p in ("bf16", "fp32"))  # type: ignore[arg-type]
    differ = (narrow != 0) != (wide != 0)
    gap = (pre - pre.topk(32).values[:, -1:]).abs()
    assert bool((gap[differ] < 1e-4 * pre.abs().amax()).all())
    assert int(differ.sum()) <= 4
    rough = (x.bfloat16() @ (weights.W * weights.scale[:, None]).bfloat16().T).float()  # type: ignore[index]
    plain = torch.zeros_like(wide, dtype=torch.bool).scatter_(1, rough.topk(32).indices, True)
    assert int((plain != (wide != 0)).sum()) > 100, "the control: bfloat16 alone picks others"


@each_kind
def test_an_encoder_that_was_misled_finds_the_same(kind: Kind) -> None:
    """A threshold remembered from a louder batch and candidates that reach too little cost time, nothing else."""
    x, weights = problem(64, 16, 512, 3)
    fresh, misled = kind("bf16"), kind("bf16")
    misled.batch_top_k(1000 * x, weights, 4, Ranks())
    misled.restore({**misled.numbers(), "reach": -1.0, "spare": 0.1})
    for call in ("top_k", "batch"):
        codes = [
            (e.top_k(x, weights, 4) if call == "top_k" else e.batch_top_k(x, weights, 4, Ranks())).counting()
            for e in (fresh, misled)
        ]
        assert torch.equal(codes[0].feature, codes[1].feature)
        assert torch.equal(codes[0].pre, codes[1].pre)


@each_kind
def test_ties_and_rows_without_anything_above_zero(kind: Kind) -> None:
    weights = Weights(torch.ones(100, 4), torch.zeros(100))
    x = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0.0, 0, 0, 0]])
    for precision in ("fp32", "bf16"):
        assert kind(precision).top_k(x, weights, 7).counting().starts.diff().tolist() == [7, 0, 0]  # type: ignore[arg-type]
        assert kind(precision).batch_top_k(x, weights, 2, Ranks()).counting().starts.diff().tolist() == [100, 0, 0]  # type: ignore[arg-type]


def test_precision_is_what_was_asked_for() -> None:
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"
    assert choose_precision("auto", torch.device("cpu")) in ("fp32", "bf16")
    with pytest.raises(UserError, match="precision 'fp8'; expected fp32, bf16 or auto"):
        choose_precision("fp8", torch.device("cpu"))


@each_kind
def test_the_worst_rounding_that_bfloat16_has_picks_no_other_latent(kind: Kind) -> None:
    """Every factor just beside a midpoint between two bfloat16s, all errors of one sign: the sum is off by 2^-7."""
    down, up = 1 + 2**-8 * (1 - 2**-8), 1 + 2**-8 * (1 + 2**-8)
    x = torch.tensor([[down] * 384 + [up] * 384 + [1.0]])
    W = torch.zeros(4, 769)
    W[0, :384], W[0, 384:768] = down, -up
    W[0, 768], W[1, 768] = 1.921875, 0.9609375
    weights = Weights(W, torch.zeros(4))
    rough = (x.bfloat16() @ W.bfloat16().T).float()[0]
    assert rough[0] < 0 < rough[1], "the control: bfloat16 alone has them the wrong way round"
    for k, wanted in ((1, [0]), (3, [0, 1])):
        for precision in ("fp32", "bf16"):
            assert kind(precision).top_k(x, weights, k).counting().feature.tolist() == wanted  # type: ignore[arg-type]
    assert kind("bf16").batch_top_k(x, weights, 1, Ranks()).counting().feature.tolist() == [0]
    assert as_matrix(kind("bf16").above(x, weights, torch.zeros(4)), 1)[0, 0] > 0


@each_kind
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("where", ["x", "W", "b"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_numbers_that_are_not_finite_are_refused_and_not_searched_for_ever(
    where: str, bad: float, precision: Precision, kind: Kind
) -> None:
    x, weights = problem(8, 16, 64, 0)
    if bad == 1e30 and where != "x":
        return  # large, and no harm
    {"x": x, "W": weights.W, "b": weights.b}[where].view(-1)[3] = bad
    for call in (
        lambda e: e.top_k(x, weights, 4),
        lambda e: e.batch_top_k(x, weights, 4, Ranks()),
        lambda e: e.above(x, Weights(weights.W, weights.b), torch.zeros(64)),
    ):
        with pytest.raises(UserError, match="NaN, infinite or too large"):
            call(kind(precision))


@each_kind
def test_tiny_rows_are_found_too(kind: Kind) -> None:
    x, weights = problem(8, 16, 512, 0)
    weights = Weights(weights.W, torch.zeros(512))
    for factor in (1e-25, 1e-30):
        code = kind("bf16").top_k(x * factor, weights, 4)
        assert code.feature.tolist() == kind("fp32").top_k(x * factor, weights, 4).feature.tolist()
