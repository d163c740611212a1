"""Search, comparison of two indexes, and Neuronpedia's JSON, each against the plainest way there is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_index import write_fake_index
from hypothesis import given
from hypothesis import strategies as st
from indexes import built
from refusals import the_line

from interp.cli import dispatch
from interp.errors import UserError
from interp.features.read.compare import match_features
from interp.features.read.index import Index, open_index
from interp.features.read.neuronpedia import BATCH, write_neuronpedia
from interp.features.read.search import search
from interp.model.model import Model
from interp.saes.loading.sae import load_sae
from interp.saes.neuron_basis import coordinates_as_sae

TEXTS = (" the", " capital", " of", " France", " tower", " towering", " café", ".")
LABELS = ("capital cities", "towers and houses", "the word capital", "nothing of the kind")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(write_fake_index(tmp_path_factory.mktemp("fake") / "index", texts=TEXTS, labels=LABELS))


def found(index: Index, query: str) -> list[int]:
    return [hit.feature for hit in search(index, query)]


def test_the_whole_phrase_comes_first_then_a_word_in_the_label(index: Index):
    assert found(index, "capital cities")[0] == 0
    assert found(index, "Capital")[0] in (0, 2)
    assert set(found(index, "capital")[:2]) == {0, 2}
    assert found(index, "tower")[0] != 1, "towers is another word than tower"
    assert 1 in found(index, "tower")


def test_every_hit_has_a_word_and_every_line_with_a_word_is_a_hit(index: Index):
    for query in ("capital", "france café", "of the tower"):
        words = query.split()
        expected = {i for i, line in enumerate(index.words) if any(word in line for word in words)}
        assert set(found(index, query)) == expected
        scores = [hit.score for hit in search(index, query)]
        assert scores == sorted(scores, reverse=True)


def test_a_misspelt_word_finds_its_like_and_nonsense_finds_nothing(index: Index):
    assert set(found(index, "capitl")) >= {0, 2}
    assert found(index, "qqqqzzzz") == []
    with pytest.raises(UserError) as raised:
        search(index, "   ")
    assert "nothing to search for" in the_line(raised)


@given(st.text(max_size=30))
def test_no_query_breaks_it(index: Index, query: str):
    if query.split():
        assert all(0 <= hit.feature < len(index) for hit in search(index, query, 5))


def test_the_search_command(index: Index, capsys: pytest.CaptureFixture[str]):
    assert dispatch(["features", "search", str(index.folder), "capital cities", "--n", "2"]) == 0
    assert "capital cities" in capsys.readouterr().out
    assert dispatch(["features", "search", str(index.folder), "qqqqzzzz"]) == 1
    assert "another spelling" in capsys.readouterr().out


def test_matching_two_dictionaries_is_the_correlation_of_their_firings(
    word_model: Model, word_sae: Path, tmp_path: Path
):
    ours = built(word_model, load_sae(word_sae, word_model), tmp_path / "ours")
    x = word_model.capture(["ann likes the red hat", "bob sees the old sun"], "blocks.0.hook_resid_post")
    basis = coordinates_as_sae(word_model, "blocks.0.hook_resid_post", x.rows("blocks.0.hook_resid_post"), 4)
    other = built(word_model, basis, tmp_path / "other")
    kept = ~ours["is_sink"]

    def fires(index: Index, feature: int) -> np.ndarray:
        out = np.zeros(index.sizes["row"])
        out[index.firings(feature)[0]] = 1
        return out[kept]

    feature = int(np.argmax(ours["rate"] * (ours["rate"] < 0.5)))
    best = match_features(ours, feature, other, 5)
    assert len(best) == 5
    columns = [fires(other, g) for g in range(len(other))]
    phi = [float(np.corrcoef(fires(ours, feature), c)[0, 1]) if c.any() else -2.0 for c in columns]
    assert [one.closeness for one in best] == pytest.approx(sorted(phi, reverse=True)[:5])
    assert [one.count for one in best] == [int((fires(ours, feature) * columns[one.feature]).sum()) for one in best]
    assert match_features(ours, feature, ours, 1)[0].feature == feature, "itself is its best match"
    with pytest.raises(UserError) as raised:
        match_features(ours, feature, open_index(write_fake_index(tmp_path / "fake")))
    assert "is of another text" in the_line(raised)


def test_neuronpedias_json_holds_the_numbers_of_the_index(word_model: Model, word_sae: Path, tmp_path: Path):
    index = built(word_model, load_sae(word_sae, word_model), tmp_path / "index")
    files = write_neuronpedia(index, tmp_path / "out")
    assert len(files) == -(-len(index) // BATCH)
    batch = json.loads(files[0].read_text())
    assert set(batch) == {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
    assert [one["feature_index"] for one in batch["features"]] == list(range(len(index)))
    for one in batch["features"]:
        feature = index.feature(one["feature_index"])
        assert one["frac_nonzero"] == pytest.approx(feature.rate)
        assert sum(one["freq_hist_data_bar_heights"]) == feature.histogram.sum()
        top = [a for a in one["activations"] if a["bin_contains"] == -1]
        assert len(top) == len(feature.top)
        for shown, example in zip(top, feature.top, strict=True):
            assert len(shown["tokens"]) == len(shown["values"])
            peak = shown["qualifying_token_index"]
            assert shown["values"][peak] == pytest.approx(example.activations[example.peak], abs=1e-4)
            assert max(shown["values"]) <= shown["bin_max"] + 1e-4
        for shown in one["activations"][len(top) :]:
            peak = shown["values"][shown["qualifying_token_index"]]
            assert shown["bin_min"] - 1e-4 <= peak <= shown["bin_max"] + 1e-4


def test_an_export_does_not_write_over_other_files(index: Index, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").touch()
    with pytest.raises(UserError) as raised:
        write_neuronpedia(index, tmp_path / "full")
    assert "is not empty" in the_line(raised)
    assert (
        dispatch(["features", "export", str(index.folder), "--neuronpedia", str(tmp_path / "new"), "--features", "3"])
        == 0
    )
    assert [
        one["feature_index"] for one in json.loads((tmp_path / "new" / "batch-0.json").read_text())["features"]
    ] == [3]
