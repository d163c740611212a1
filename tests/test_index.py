"""A feature index against loops over every token, feature and pair, whatever the batch, the pieces and the workers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from indexes import SETTINGS, built, contents, prepared
from numpy.typing import NDArray
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from scipy.stats import pearsonr
from torch import Tensor
from word_sae import SENTENCES, SITE

from interp.activations.capture import Worker, capture_store
from interp.activations.plan import plan_capture
from interp.activations.rows import find_sinks
from interp.activations.token_table import Cut
from interp.features import build, neighbours
from interp.features.coder import Coder
from interp.features.index import Index
from interp.features.statistics import RowFacts, first_by, priority, row_facts, summarise
from interp.model.model import Model
from interp.saes.coordinates import coordinates_as_sae
from interp.saes.lineage import lineage_of
from interp.saes.load import load_sae

SIZES = {"top": 3, "bands": 2, "examples": 2, "typical": 3}


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


def as_dense(index: Index) -> NDArray[np.float64]:
    """The firings as a matrix [row, feature]: what the loops below look at."""
    out = np.zeros((index.sizes["row"], len(index)))
    for feature in range(len(index)):
        rows, values = index.firings(feature)
        assert bool((np.diff(rows) > 0).all()), "rows ascend"
        out[rows, feature] = values
    return out


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
        from interp.features.effects import choose_firings

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
    again = built(word_model, sae, tmp_path / "index", **more)
    if "piece_rows" in more:  # the forwards are the same, and so is every byte
        assert contents(again.folder) == contents(index.folder)
    else:  # another batch rounds otherwise
        assert np.abs(as_dense(again) - as_dense(index)).max() < 1e-4
        for name in ("rate", "maximum", "by_token", "by_position", "label_score"):
            assert np.allclose(again[name], index[name], atol=1e-4, equal_nan=True), name


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
    again = built(word_model, sae, tmp_path / "index", store=store)
    assert contents(again.folder) == contents(index.folder)


def test_planted_faults_are_seen_by_the_comparisons(index: Index, word_model: Model, sae: SAE[Any], tmp_path: Path):
    """Negative controls: an encoder that is off by a thousandth, and co-firings counted without one piece."""
    with torch.no_grad():
        off = load_sae_like(sae, 1.001)
    other = built(word_model, off, tmp_path / "off")
    assert np.abs(as_dense(other) - as_dense(index)).max() > 1e-4
    with patch.object(neighbours, "_groups", lambda rows: [list(range(len(rows) - 1))]):
        short = built(word_model, sae, tmp_path / "short")
    assert not np.array_equal(short["with_count"], index["with_count"])


def load_sae_like(sae: SAE[Any], factor: float) -> SAE[Any]:
    from copy import deepcopy

    other = deepcopy(sae)
    other.W_enc.data *= factor
    return other


# --- each architecture ---------------------------------------------------------------------------------------------


def _made(kind: str, model: Model) -> SAE[Any]:
    torch.manual_seed(3)
    metadata = SAEMetadata(**lineage_of(model, SITE))
    if kind == "topk, decoder's norm":
        sae: SAE[Any] = TopKSAE(
            TopKSAEConfig(d_in=32, d_sae=48, k=5, rescale_acts_by_decoder_norm=True, metadata=metadata)
        )
        sae.W_dec.data *= torch.rand(48, 1) + 0.5
    elif kind == "jumprelu":
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=32, d_sae=48, metadata=metadata))
        sae.threshold.data = torch.rand(48)
    elif kind == "topk, layer norm":
        sae = TopKSAE(TopKSAEConfig(d_in=32, d_sae=48, k=5, normalize_activations="layer_norm", metadata=metadata))
    else:
        sae = StandardSAE(StandardSAEConfig(d_in=32, d_sae=48, metadata=metadata))
    sae.b_enc.data = torch.randn(48) * 0.1
    sae.b_dec.data = torch.randn(32) * 0.1
    return sae.eval()


@pytest.mark.parametrize("kind", ["topk, decoder's norm", "jumprelu", "standard", "topk, layer norm"])
def test_every_architecture_is_coded_as_it_codes_itself(kind: str, word_model: Model, plainly: Any):
    x = plainly[0]
    sae = _made(kind, word_model)
    coder = Coder(sae, x[:50])
    coded = coder(x)
    with torch.no_grad():
        theirs = sae.encode(x)
        missed = (x - sae.decode(theirs)).norm(dim=1)
    ours = torch.zeros_like(theirs)
    ours[coded.pairs.row.long(), coded.pairs.feature.long()] = coded.pairs.pre
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.allclose(coded.error, missed, rtol=1e-3, atol=1e-4)
    assert (coder._short is None) == (kind == "topk, layer norm"), "which way was taken"
    # a feature's share is what the reconstruction loses without it
    row, feature = (int(v) for v in (theirs > 0).nonzero()[7])
    without = theirs[row : row + 1].clone()
    without[0, feature] = 0
    with torch.no_grad():
        sae.encode(x[row : row + 1])
        whole = sae.decode(theirs[row : row + 1])
        sae.encode(x[row : row + 1])
        lost = whole - sae.decode(without)
    share = coder.contribution(x[row : row + 1], torch.tensor([feature]), theirs[row, feature][None])
    assert torch.allclose(share, lost, atol=1e-4)


def test_coordinates_as_a_baseline_fire_where_they_stand_out(word_model: Model, plainly: Any, tmp_path: Path):
    x, _, is_sink = plainly
    clean = x[~torch.from_numpy(is_sink)]
    basis = coordinates_as_sae(word_model, SITE, clean, 4)
    index = built(word_model, basis, tmp_path / "index")
    assert len(index) == 64
    z = ((clean.double() - clean.double().mean(0)) / clean.double().std(0)).numpy()
    both = np.concatenate([z, -z], 1)
    for row, expected in zip(as_dense(index)[~is_sink], both, strict=True):
        best = np.argsort(-expected)[:4]
        assert set(np.flatnonzero(row)) == set(best)
        assert row[best] == pytest.approx(expected[best], abs=1e-3)


# --- planted firings, ties and all -----------------------------------------------------------------------------------


@st.composite
def planted(draw: st.DrawFn) -> tuple[NDArray[np.float64], RowFacts]:
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    n = sum(lengths)
    numbers = st.lists(st.integers(0, 3), min_size=n, max_size=n)  # few values: many ties
    vocabulary = [" the", "cat", "s", "."]
    token = np.array(draw(numbers), np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    is_sink = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    values = np.array(draw(numbers), np.float64)
    return np.where(is_sink, 0.0, values), row_facts(token, starts, is_sink, vocabulary)


@settings(max_examples=150, deadline=None)
@given(planted())
def test_ties_and_sinks_are_as_in_a_loop(case: tuple[NDArray[np.float64], RowFacts]):
    values, facts = case
    rows = np.flatnonzero(values).astype(np.int32)
    found = summarise(4, rows, values[rows].astype(np.float32), facts, **SIZES)
    order = sorted(rows.tolist(), key=lambda r: (-values[r], r))
    assert [r for r in found["top_row"].tolist() if r >= 0] == order[:3]
    assert found["histogram"].sum() == len(rows)
    kept = ~facts.is_sink
    later = [
        facts.place[r] > 0 and facts.token[r] in (1, 2) and facts.token[r - 1] in (0, 1, 2) for r in range(len(values))
    ]
    assert facts.is_later.tolist() == later
    column = values[kept]
    for name, other in (("by_position", facts.place[kept]), ("by_word", np.array(later)[kept])):
        if len(rows) == 0 or column.std() == 0 or np.std(other) == 0:
            assert math.isnan(found[name])
        else:
            assert found[name] == pytest.approx(np.corrcoef(column, other)[0, 1], abs=1e-9)


@pytest.mark.parametrize("n", [1, 5, 50, 400])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_largest_products_are_those_of_fp32(n: int, scale: float):
    """By bfloat16's candidates or without, also where thousands of products lie closer together than it can tell."""
    torch.manual_seed(n)
    x, W = torch.randn(70, 64), torch.randn(3000, 64)
    W[1500:] = W[7] + scale * torch.randn(1500, 64)
    plain = (x @ W.T).topk(n, dim=1)
    for precision in ("fp32", "bf16"):
        values, columns = neighbours.largest_products(x, W, n, precision=precision)
        torch.testing.assert_close(values, plain.values, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close((x @ W.T).gather(1, columns), plain.values, rtol=1e-5, atol=1e-4)


@given(st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(1, 7))
def test_the_first_by_score_are_those_of_a_sort(scores: list[list[int]], n: int):
    found = first_by(np.array(scores, np.float64), n)
    for row, line in zip(scores, found.tolist(), strict=True):
        expected = sorted(range(5), key=lambda i: (-row[i], i))[:n]
        assert line == expected + [-1] * (n - len(expected))
