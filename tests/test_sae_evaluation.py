"""The metrics of an SAE against plain loops, known answers and random directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from refusals import the_line
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor
from word_sae import PLAN, SENTENCES, SITE, with_provenance

from interp.activations.rows import Rows, capture_rows
from interp.errors import UserError
from interp.model.model import Model
from interp.saes.evaluate import DocumentSums, SAEReport, evaluate_sae, evaluate_saes, paired_gap, random_sae_like
from interp.saes.lineage import lineage_of
from interp.saes.loading.sae import describe_sae, encode_features, load_sae


@pytest.fixture(scope="module")
def report(word_model: Model, word_sae: Path) -> SAEReport:
    return evaluate_sae(load_sae(word_sae, word_model), word_model, SENTENCES[1::2])


def _handmade(word_model: Model, w_enc: Tensor, w_dec: Tensor, b_dec: Tensor, k: int) -> SAE[Any]:
    metadata = SAEMetadata(**lineage_of(word_model, SITE), context_size=20)
    sae = TopKSAE(TopKSAEConfig(d_in=w_enc.shape[0], d_sae=w_enc.shape[1], k=k, metadata=metadata))
    sae.load_state_dict({"W_enc": w_enc, "W_dec": w_dec, "b_dec": b_dec, "b_enc": torch.zeros(w_enc.shape[1])})
    return sae


def test_the_identity_scores_one_and_the_mean_scores_zero(word_model: Model):
    """Known answers: x = relu(x) - relu(-x), and an SAE that always gives the mean of the tokens evaluated."""
    both = torch.cat([torch.eye(32), -torch.eye(32)], dim=1)
    identity = _handmade(word_model, both, both.T.contiguous(), torch.zeros(32), k=64)
    mean = capture_rows(word_model, SENTENCES[1::2], SITE).clean.mean(0)
    constant = _handmade(word_model, torch.zeros(32, 8), torch.zeros(8, 32), mean, k=2)
    one, zero = evaluate_saes([identity, constant], word_model, SENTENCES[1::2])
    assert one.ce_recovered is not None
    assert zero.ce_recovered is not None
    assert one.explained_variance == pytest.approx((1, 1, 1), abs=1e-9)
    assert one.ce_recovered == pytest.approx((1, 1, 1), abs=1e-6)
    assert one.ce_reconstruction == pytest.approx(one.ce_clean, abs=1e-6)
    assert zero.explained_variance.mean == pytest.approx(0, abs=1e-6)
    assert zero.ce_recovered == pytest.approx((0, 0, 0), abs=1e-6)
    assert (zero.l0, zero.dead_share) == (0, 1)
    assert one.l0 == pytest.approx(32, abs=0.1), "each number is either above or below zero"


def _by_hand(word_model: Model, word_sae: Path, documents: list[str]) -> dict[str, list[float]]:
    """Every sum per document, by plain loops in float64, losses through transformers' own forward with its own hook."""
    sae = load_sae(word_sae)
    encoded = word_model.encode(documents)
    captured = [word_model.capture([ids], SITE)[SITE][0].double() for ids in encoded]
    mean = torch.cat([x[1:] for x in captured]).mean(0)
    out: dict[str, list[float]] = {"error": [], "clean": [], "reconstruction": [], "mean": [], "zero": []}
    for ids, x in zip(encoded, captured, strict=True):
        with torch.no_grad():
            recon = sae.decode(sae.encode(x.float())).double()
        out["error"].append(sum(float(((a - b) ** 2).sum()) for a, b in zip(x[1:], recon[1:], strict=True)))
        swaps = {"clean": x, "reconstruction": recon, "mean": mean.expand_as(x), "zero": torch.zeros_like(x)}
        for name, swap in swaps.items():
            block = word_model.hf.get_submodule("transformer.h.0")

            def put(module: object, args: object, result: Any, swap: Tensor = swap) -> Any:
                hidden = result[0] if isinstance(result, tuple) else result
                hidden = torch.cat([hidden[:, :1], swap[None, 1:].float()], dim=1)  # position 0 is a sink
                return (hidden, *result[1:]) if isinstance(result, tuple) else hidden

            handle = block.register_forward_hook(put)
            with torch.no_grad():
                logprobs = word_model.hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            handle.remove()
            out[name].append(-sum(float(logprobs[p, ids[p + 1]]) for p in range(1, len(ids) - 1)))
    return out


def test_the_metrics_are_those_of_a_hand_computation(word_model: Model, word_sae: Path):
    documents = SENTENCES[1:20:2]
    report = evaluate_sae(load_sae(word_sae, word_model), word_model, documents, n_boot=200, seed=3)
    sums = {name: np.array(values) for name, values in _by_hand(word_model, word_sae, documents).items()}
    encoded = word_model.encode(documents)
    predictions = sum(len(ids) - 2 for ids in encoded)
    x = [word_model.capture([ids], SITE)[SITE][0, 1:].double() for ids in encoded]

    def explained(chosen: list[int]) -> float:
        pooled = torch.cat([x[d] for d in chosen])
        return 1 - sums["error"][chosen].sum() / float((pooled - torch.cat(x).mean(0)).square().sum())

    def recovered(chosen: list[int]) -> float:
        clean, ours, mean = (sums[name][chosen].sum() for name in ("clean", "reconstruction", "mean"))
        return (mean - ours) / (mean - clean)

    assert report.n_predictions == predictions
    assert (report.n_documents, report.n_sinks) == (10, 10)
    assert report.n_tokens == sum(len(ids) - 1 for ids in encoded)
    for name, value in (
        ("clean", report.ce_clean),
        ("reconstruction", report.ce_reconstruction),
        ("mean", report.ce_mean_ablation),
        ("zero", report.ce_zero_ablation),
    ):
        assert value == pytest.approx(sums[name].sum() / predictions, abs=1e-4), name
    drawn = np.random.default_rng(3).multinomial(10, np.full(10, 0.1), size=200)
    resamples = [[d for d, n in enumerate(counts) for _ in range(n)] for counts in drawn]
    for measured, statistic in ((report.explained_variance, explained), (report.ce_recovered, recovered)):
        assert measured is not None
        low, high = np.percentile([statistic(chosen) for chosen in resamples], [2.5, 97.5])
        assert measured == pytest.approx((statistic(list(range(10))), low, high), abs=2e-4)


def test_sparsity_and_dead_features_are_counted_on_tokens_that_are_no_sinks(
    word_model: Model, word_sae: Path, report: SAEReport
):
    sae, clean = load_sae(word_sae), capture_rows(word_model, SENTENCES[1::2], SITE).clean
    active = encode_features(sae, clean) > 0
    assert report.l0 == pytest.approx(active.sum() / len(clean))
    assert report.l0 <= PLAN.settings.k
    assert report.dead_share == pytest.approx(1 - active.any(0).mean())
    assert report.n_tokens == len(clean)


def test_a_trained_sae_beats_random_directions(word_model: Model, word_rows: Rows, word_sae: Path, report: SAEReport):
    """The positive control: on activations with structure, training must find more than chance does."""
    sae = load_sae(word_sae)
    for seed in range(2):
        null = evaluate_sae(random_sae_like(sae, seed, word_rows), word_model, SENTENCES[1::2])
        assert report.explained_variance.low > null.explained_variance.high + 0.1
        assert report.ce_recovered is not None
        assert null.ce_recovered is not None
        assert report.ce_recovered.low > null.ce_recovered.high
        assert null.l0 == pytest.approx(PLAN.settings.k, abs=0.1), "the null must be as sparse"


def test_a_random_control_has_the_same_shape_and_other_directions(word_rows: Rows, word_sae: Path):
    sae = load_sae(word_sae)
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    one, again, other = (random_sae_like(sae, seed, word_rows) for seed in (0, 0, 1))
    assert all(torch.equal(sae.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(one.W_dec, again.W_dec)
    assert not torch.allclose(one.W_dec, other.W_dec)
    assert torch.equal(one.b_dec, sae.b_dec)
    torch.testing.assert_close(one.W_enc.norm(dim=0), torch.ones(64))
    gain = one.W_dec.norm(dim=-1).mean()
    torch.testing.assert_close(one.W_dec, gain * one.W_enc.T)  # it reads along the directions that it writes
    x = word_rows.clean

    def error(factor: float) -> float:
        written = (one.decode(one.encode(x)) - one.b_dec) * factor
        return (x - one.b_dec - written).square().sum().item()

    assert error(1.0) < min(error(0.9), error(1.1)), "no other gain fits better"
    assert "random" in describe_sae(one)["lineage"]["control"]
    assert "control" not in describe_sae(sae)["lineage"]
    standard = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=32, d_sae=80))
    with torch.no_grad():
        active = float((standard.encode(x) != 0).sum(1).float().mean())
    assert random_sae_like(standard, 0, word_rows).cfg.k == round(active), "as sparse as one without k"


def test_evaluation_keeps_to_the_token_limit_and_tells_progress(word_model: Model, word_sae: Path):
    told: list[tuple[int, int]] = []
    report = evaluate_sae(
        load_sae(word_sae),
        word_model,
        SENTENCES[1::2],
        max_tokens=33,
        progress=lambda _, done, total: told.append((done, total)),
    )
    assert report.n_tokens + report.n_sinks == 33
    assert told[-1] == (5 * 33, 5 * 33)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("documents", [[SENTENCES[0]], ["ann", "bob"]])
def test_too_little_text_is_refused(word_model: Model, word_sae: Path, documents: list[str]):
    with pytest.raises(UserError) as raised:
        evaluate_sae(load_sae(word_sae), word_model, documents)
    assert "expected two or more documents" in the_line(raised)


def test_evaluation_refuses_an_sae_of_another_model(word_model: Model, word_sae: Path):
    with pytest.raises(UserError, match="its model weights"):
        evaluate_sae(load_sae(word_sae), with_provenance(word_model, weights="sha256:other"), SENTENCES)


def test_a_gap_between_two_saes_is_over_the_documents_of_both(report: SAEReport) -> None:
    """Documents differ much, and every one is a little better with the first: paired that is sure, added up it is not.
    And where one gains what the other loses, intervals added up would be too narrow."""
    rng = np.random.default_rng(0)
    n = 24
    squares, hard = np.full(n, 100.0), rng.uniform(10, 80, n)

    def of(errors: np.ndarray) -> SAEReport:
        clean, mean = np.full(n, 10.0), np.full(n, 110.0)
        return replace(report, sums=DocumentSums(squares, errors, clean, mean, clean + errors))

    def width(one: Any) -> float:
        return one.high - one.low

    better, worse, reverse = of(hard), of(hard + rng.uniform(2, 4, n)), of(90 - hard)
    alone = [paired_gap(one, of(np.zeros(n)), "explained_variance") for one in (better, worse)]
    for what in ("explained_variance", "ce_recovered"):
        gap = paired_gap(better, worse, what)
        assert gap is not None
        assert gap.low > 0.02
        assert width(gap) < 0.2 * np.hypot(width(alone[0]), width(alone[1]))
        opposite = paired_gap(better, reverse, what)
        assert width(opposite) > 1.3 * 2**0.5 * width(alone[0])
    assert paired_gap(report, report, "explained_variance") == (0, 0, 0)
    assert paired_gap(report, better, "explained_variance") is None, "other documents"
