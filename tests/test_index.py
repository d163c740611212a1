"""A feature index against loops over every token, feature and pair, whatever the batch, the pieces and the workers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from indexes import SETTINGS, as_dense, built, contents, prepared
from numpy.typing import NDArray
from sae_lens import SAE
from scipy.stats import pearsonr
from torch import Tensor
from word_sae import SENTENCES, SITE

from interp.activations.capture import Worker, capture_store
from interp.activations.plan import plan_capture
from interp.activations.rows import find_sinks
from interp.activations.token_table import Cut
from interp.features.build import cofirings
from interp.features.build import passes as build
from interp.features.build.statistics import priority
from interp.features.read.index import Index
from interp.model.model import Model
from interp.saes.loading.sae import load_sae


@pytest.fixture(scope="module")
def sae(word_model: Model, word_sae: Path) -> SAE[Any]:
    return load_sae(word_sae, word_model)


@pytest.fixture(scope="module")
def index(word_model: Model, sae: SAE[Any], tmp_path_factory: pytest.TempPathFactory) -> Index:
    return built(word_model, sae, tmp_path_factory.mktemp("index") / "index")


@pytest.fixture(scope="module")
def plainly(word_model: Model, sae: SAE[Any]) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
    """(activations, feature activations, is sink) of every token, by the plainest way there is."""
    acts = word_model.capture(SENTENCES, SITE, batch_size=1)
    x = acts.rows(SITE)
    place = torch.cat([torch.arange(int(mask.sum())) for mask in acts.mask])
    with torch.no_grad():
        return x, sae.encode(x), find_sinks(x, place).numpy()


def test_firings_are_what_the_sae_encodes_at_every_token_that_is_no_sink(index: Index, plainly: Any):
    _, features, is_sink = plainly
    expected = np.where(is_sink[:, None], 0.0, features.numpy())
    assert index.sizes["row"] == len(expected)
    assert np.array_equal(index["is_sink"], is_sink)
    assert np.abs(as_dense(index) - expected).max() < 1e-4
    assert index.sizes["firing"] == np.count_nonzero(expected)
    assert 0 < is_sink.sum() < len(is_sink)


def test_decode_plus_error_gives_the_activation_back(index: Index, plainly: Any, sae: SAE[Any]):
    x, features, _ = plainly
    with torch.no_grad():
        missed = (x - sae.decode(features)).norm(dim=1)
    assert np.allclose(index["error"], missed.numpy(), rtol=1e-3, atol=1e-4)
    assert np.allclose(index["norm"], x.norm(dim=1).numpy(), rtol=1e-5)
    kept = ~index["is_sink"]
    relative = np.where(kept, index["error"] / index["norm"], -1)
    assert index["error_row"].tolist() == sorted(range(len(kept)), key=lambda r: (-relative[r], r))[: SETTINGS.top]


def test_every_statistic_is_that_of_a_loop_over_all_tokens(index: Index):
    values = as_dense(index)
    kept = np.flatnonzero(~index["is_sink"])
    token, starts = index["token"], index["sequence_start"].tolist()
    place = {row: row - max(s for s in starts if s <= row) for row in range(len(token))}
    fired = [f for f in range(len(index)) if (values[:, f] > 0).any()]
    assert len(fired) > 20
    for f in range(len(index)):
        rows = [int(r) for r in kept if values[r, f] > 0]
        assert index["rate"][f] == pytest.approx(len(rows) / len(kept))
        order = sorted(rows, key=lambda r: (-values[r, f], r))
        padded = order[: SETTINGS.top] + [-1] * (SETTINGS.top - len(order))
        assert index["top_row"][f].tolist() == padded
        if not rows:
            assert index["maximum"][f] == 0
            assert math.isnan(index["mean"][f])
            continue
        largest = values[order[0], f]
        assert index["maximum"][f] == np.float32(largest)
        assert index["mean"][f] == pytest.approx(np.mean([values[r, f] for r in rows]), rel=1e-6)
        histogram = [0] * 40
        for r in rows:
            histogram[min(int(values[r, f] / largest * 40), 39)] += 1
        assert index["histogram"][f].tolist() == histogram
        for band in range(SETTINGS.bands):
            members = order[band * len(order) // 3 : (band + 1) * len(order) // 3]
            chance = {r: int(priority(np.array([r]), f)[0]) for r in members}
            drawn = set(sorted(members, key=chance.__getitem__)[: SETTINGS.examples])
            expected = [r for r in members if r in drawn]
            assert [r for r in index["band_row"][f, band].tolist() if r >= 0] == expected
        column = values[kept, f]
        assert index["by_position"][f] == pytest.approx(pearsonr(column, [place[int(r)] for r in kept])[0], abs=1e-5)
        assert index["by_token"][f] == pytest.approx(_explained(column, token[kept]), abs=1e-5)
        mass = {t: sum(values[r, f] for r in rows if token[r] == t) for t in sorted({int(token[r]) for r in rows})}
        best = sorted(mass, key=lambda t: (-mass[t], t))[: SETTINGS.typical]
        assert index["typical_token"][f].tolist()[: len(best)] == best
        assert index["typical_share"][f][: len(best)] == pytest.approx([mass[t] / sum(mass.values()) for t in best])


def _explained(column: NDArray[np.float64], tokens: NDArray[np.int32]) -> float:
    """Adjusted R² of a regression on the token's identity."""
    means = {t: column[tokens == t].mean() for t in set(tokens.tolist())}
    rest = sum((v - means[t]) ** 2 for v, t in zip(column, tokens.tolist(), strict=True))
    total = ((column - column.mean()) ** 2).sum()
    return 1 - (rest / (len(column) - len(means))) / (total / (len(column) - 1))


def test_what_fires_together_is_counted_pair_by_pair(index: Index):
    fires = as_dense(index)[~index["is_sink"]] > 0
    for f in range(len(index)):
        scored = []
        for g in range(len(index)):
            both = int((fires[:, f] & fires[:, g]).sum())
            if g != f and both:
                n, a, b = len(fires), fires[:, f].sum(), fires[:, g].sum()
                spread = math.sqrt(a * (n - a) * b * (n - b))
                scored.append(((n * both - a * b) / spread if spread else 0.0, g, both))
        scored.sort(key=lambda one: (-round(one[0], 9), one[1]))
        found = [g for g in index["with_feature"][f].tolist() if g >= 0]
        phi = {g: p for p, g, _ in scored}
        assert [phi[g] for g in found] == pytest.approx([p for p, _, _ in scored[:5]], abs=1e-6)
        assert index["with_phi"][f][: len(found)] == pytest.approx([phi[g] for g in found], abs=1e-6)
        counts = {g: both for _, g, both in scored}
        assert index["with_count"][f][: len(found)].tolist() == [counts[g] for g in found]


def test_neighbours_and_logits_are_those_of_the_decoder(index: Index, word_model: Model, sae: SAE[Any]):
    unit = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1).double()
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    assert np.allclose(index["near_cosine"], cosine.topk(5).values.numpy(), atol=1e-5)
    assert (index["near_feature"] == cosine.topk(5).indices.numpy()).mean() > 0.99
    # the same by asking the model: what a small step along the direction does to the logits, the norm's scale held
    hf: Any = word_model.hf
    norm, head = hf.transformer.ln_f, hf.get_output_embeddings().weight.detach().double()
    inner = (unit - unit.mean(1, keepdim=True)) * norm.weight.detach().double()
    logits = inner @ head.T
    logits = logits - logits.mean(1, keepdim=True)
    assert np.allclose(index["up_logit"], logits.topk(4).values.numpy(), atol=1e-4)
    assert np.allclose(index["down_logit"], logits.topk(4, largest=False).values.numpy(), atol=1e-4)
    for f in range(0, len(index), 7):
        assert index["up_token"][f][0] == logits[f].argmax()


def test_effects_are_those_of_an_edit_at_that_token(index: Index, word_model: Model, sae: SAE[Any], plainly: Any):
    """The independent way: the whole prompt through the hooked model, the feature's share subtracted at one token."""
    from torch.nn.functional import cross_entropy

    _, features, _ = plainly
    starts = index["sequence_start"]
    checked = 0
    for f in range(len(index)):
        rows, _ = index.firings(f)
        from interp.features.build.effects import choose_firings

        rises = []
        for at in choose_firings(f, rows, starts, SETTINGS.effects):
            row = int(rows[at])
            sequence = int(np.searchsorted(starts, row, side="right")) - 1
            ids, place = index["token"][starts[sequence] : starts[sequence + 1]].tolist(), row - starts[sequence]

            def take_away(activation: Tensor, site: Any, place: int = place, row: int = row, f: int = f) -> Tensor:
                out = activation.clone()
                out[0, place] -= features[row, f] * sae.W_dec[f].detach()
                return out

            before = word_model.logits([ids])[0, place]
            with word_model.edit({SITE: take_away}):
                after = word_model.logits([ids])[0, place]
            target = torch.tensor(ids[place + 1])
            rises.append(float(cross_entropy(after, target) - cross_entropy(before, target)))
        if rises:
            assert index["effect"][f][0] == pytest.approx(np.mean(rises), abs=2e-4)
            assert index["effect_n"][f] == len(rises)
            checked += len(rises)
    assert checked > 20


@pytest.mark.parametrize(
    "more", [{"batch_tokens": 10}, {"batch_tokens": 500}, {"piece_rows": 7}, {"piece_rows": 10**6}], ids=str
)
def test_neither_batch_nor_pieces_change_what_is_worked_out(
    index: Index, word_model: Model, sae: SAE[Any], tmp_path: Path, more: dict[str, Any]
):
    assert_close(built(word_model, sae, tmp_path / "index", **more), index)


def assert_close(again: Index, index: Index) -> None:
    """Equal but for rounding: products of other shapes add in another order on some processors."""
    assert np.abs(as_dense(again) - as_dense(index)).max() < 1e-4
    for name in ("rate", "maximum", "by_token", "by_position", "label_score"):
        assert np.allclose(again[name], index[name], atol=1e-4, equal_nan=True), name
    for name in ("token", "document", "position", "is_sink", "sequence_start"):
        assert np.array_equal(again[name], index[name]), name


def test_three_workers_make_what_one_makes(index: Index, word_model: Model, sae: SAE[Any], tmp_path: Path):
    made = [build.build_index(prepared(word_model, sae, tmp_path / "index"), Worker(i, 3)) for i in (2, 0, 1)]
    assert made[0] is None
    assert made[1] is None
    assert made[2] is not None
    assert contents(made[2].folder) == contents(index.folder)
    assert not list(made[2].folder.glob("firings-*")), "pieces are gone once the index stands"


def test_a_store_gives_the_same_index_as_the_model(index: Index, word_model: Model, sae: SAE[Any], tmp_path: Path):
    plan, tokens = plan_capture(word_model, SENTENCES, [SITE], cut=Cut(10))
    store = capture_store(word_model, tmp_path / "store", plan, tokens)
    assert_close(built(word_model, sae, tmp_path / "index", store=store), index)


def test_planted_faults_are_seen_by_the_comparisons(index: Index, word_model: Model, sae: SAE[Any], tmp_path: Path):
    """Negative controls: an encoder off by a thousandth, and co-firings counted without a feature's last row."""
    with torch.no_grad():
        off = load_sae_like(sae, 1.001)
    other = built(word_model, off, tmp_path / "off")
    assert np.abs(as_dense(other) - as_dense(index)).max() > 1e-4
    beside = cofirings.ByRow.beside
    with patch.object(cofirings.ByRow, "beside", lambda by_row, rows: beside(by_row, rows[:-1])):
        short = built(word_model, sae, tmp_path / "short")
    assert not np.array_equal(short["with_count"], index["with_count"])


def load_sae_like(sae: SAE[Any], factor: float) -> SAE[Any]:
    from copy import deepcopy

    other = deepcopy(sae)
    other.W_enc.data *= factor
    return other
