"""What was made from a model goes on with the same weights under any name: hashes decide, names and places inform."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from indexes import SETTINGS, prepared
from refusals import the_line
from stores import MIDDLE, SMALL, TEXTS

from interp import Model, UserError, capture_rows, capture_store, plan_capture
from interp.activations.capture import Worker
from interp.activations.join import refuse_other_model
from interp.analysis.tuned_lens import TunedLens, load_lens, train_lens
from interp.features.build.passes import build_index, missing_pieces
from interp.lab.series import open_series
from interp.model.loading.identity import has_weights, hash_of_files
from interp.saes import MemoryRows, Training, coordinates_as_sae, plan_sae, train
from interp.saes.lineage import lineage_of, refuse_misfit


def told(model: Model, **changes: Any) -> Model:
    return replace(model, provenance=replace(model.provenance, **changes))


def as_hub(model: Model) -> Model:
    """The same files, loaded by a name on the hub."""
    return told(model, name="tiny@main", source="hub", weights="commit:0123456789")


def elsewhere(model: Model) -> Model:
    """The same folder by another spelling."""
    return told(model, name="../models/tiny")


def changed(model: Model) -> Model:
    """Other weights under the very same name."""
    return told(model, weights="sha256:another")


SAME = [(lambda m: m, elsewhere), (lambda m: m, as_hub), (as_hub, lambda m: m), (as_hub, elsewhere)]


def test_weights_are_known_by_their_commit_or_by_the_bytes_of_their_files(tiny_gpt2: Model) -> None:
    folder, hub = tiny_gpt2.provenance, as_hub(tiny_gpt2).provenance
    assert hash_of_files(hub) == folder.weights
    assert hash_of_files(folder) is None
    assert has_weights(folder, folder.weights)
    assert has_weights(folder, hub.weights, folder.weights)
    assert has_weights(hub, hub.weights)
    assert has_weights(hub, folder.weights)
    assert has_weights(hub, "commit:another", folder.weights), "two commits of the same bytes"
    assert not has_weights(folder, hub.weights), "a commit alone says nothing of a folder"
    assert not has_weights(hub, "sha256:another")
    assert not has_weights(hub, "commit:another")
    assert not has_weights(folder, None)


def coordinates(model: Model) -> Any:
    rows = torch.randn(60, model.d_model, generator=torch.Generator().manual_seed(0))
    return coordinates_as_sae(model, MIDDLE, rows, k=3)


def building(model: Model, folder: Path) -> Any:
    return prepared(
        model,
        coordinates(model),
        folder,
        texts=TEXTS,
        settings=replace(SETTINGS, effects=0),
        site=MIDDLE,
        piece_rows=60,
    )


@pytest.mark.parametrize(("first", "second"), SAME)
def test_a_feature_index_goes_on_and_keeps_its_pieces(
    tiny_gpt2: Model, tmp_path: Path, first: Any, second: Any
) -> None:
    one, other = building(first(tiny_gpt2), tmp_path / "index"), building(second(tiny_gpt2), tmp_path / "index")
    assert len(one.plan.pieces) > 2
    assert build_index(one, Worker(0, 2)) is None
    assert missing_pieces(tmp_path / "index", other.plan) == list(range(1, len(one.plan.pieces), 2))
    index = build_index(other)
    assert index is not None
    assert build_index(one) is not None, "the finished one is of both"
    refuse_other_model(index.record["plan"]["capture"]["model"], first(tiny_gpt2), "the index was built")
    refuse_other_model(index.record["plan"]["capture"]["model"], second(tiny_gpt2), "the index was built")


def test_a_feature_index_of_other_weights_is_refused(tiny_gpt2: Model, tmp_path: Path) -> None:
    """Negative control: the name is the same."""
    one = building(tiny_gpt2, tmp_path / "index")
    assert build_index(one, Worker(0, 2)) is None
    with pytest.raises(UserError) as refused:
        build_index(building(changed(tiny_gpt2), tmp_path / "index"))
    assert "capture.model.weights" in the_line(refused)
    for other in (changed(tiny_gpt2), told(tiny_gpt2, tokenizer="sha256:another")):
        with pytest.raises(UserError, match="name its model with --model"):
            refuse_other_model(one.plan.capture["model"], other, "the index was built")


@pytest.mark.parametrize(("first", "second"), SAME)
def test_an_sae_fits_the_weights_that_it_was_trained_on(tiny_gpt2: Model, first: Any, second: Any) -> None:
    sae = coordinates(first(tiny_gpt2))
    refuse_misfit(sae.cfg, second(tiny_gpt2), "the SAE")
    with pytest.raises(UserError, match="its model weights"):
        refuse_misfit(sae.cfg, changed(tiny_gpt2), "the SAE")


@pytest.mark.parametrize(("first", "second"), SAME)
def test_training_of_an_sae_goes_on(tiny_gpt2: Model, tmp_path: Path, first: Any, second: Any) -> None:
    rows = capture_rows(tiny_gpt2, TEXTS, MIDDLE)
    plan, steps = plan_sae(MIDDLE, "topk", 64, k=4), Training(steps=6, batch=16)
    once = iter([False, False, True])
    assert train(plan, MemoryRows(rows, first(tiny_gpt2)), tmp_path / "sae", steps, stop=lambda: next(once)) is None
    with pytest.raises(UserError, match="weights_hash"):
        train(plan, MemoryRows(rows, changed(tiny_gpt2)), tmp_path / "sae", steps)
    assert train(plan, MemoryRows(rows, second(tiny_gpt2)), tmp_path / "sae", steps) == [tmp_path / "sae"]
    assert train(plan, MemoryRows(rows, first(tiny_gpt2)), tmp_path / "sae", steps) == [tmp_path / "sae"], "as it is"


@pytest.mark.parametrize(("first", "second"), SAME)
def test_a_tuned_lens_and_its_store_fit_the_same_weights(
    tiny_gpt2: Model, tmp_path: Path, first: Any, second: Any
) -> None:
    plan, tokens = plan_capture(first(tiny_gpt2), TEXTS, "blocks.*.hook_resid_post", shard_bytes=SMALL)
    store = capture_store(first(tiny_gpt2), tmp_path / "s", plan, tokens)
    lens: TunedLens = train_lens(second(tiny_gpt2), store, steps=0)
    lens.save(tmp_path / "lens")
    assert load_lens(tmp_path / "lens", first(tiny_gpt2)).layers == lens.layers
    for call in (lambda m: load_lens(tmp_path / "lens", m), lambda m: train_lens(m, store, steps=0)):
        with pytest.raises(UserError, match="other weights"):
            call(changed(tiny_gpt2))


def test_the_lineage_of_a_hub_model_holds_the_hash_of_its_files(tiny_gpt2: Model) -> None:
    assert lineage_of(as_hub(tiny_gpt2), MIDDLE)["weights_files_hash"] == tiny_gpt2.provenance.weights
    assert "weights_files_hash" not in lineage_of(tiny_gpt2, MIDDLE)


def test_a_series_of_probes_goes_on_under_another_name_of_the_same_weights(tmp_path: Path) -> None:
    open_series(tmp_path / "s", {"model": "models/a", "weights": "sha256:1", "seed": "0"})
    open_series(tmp_path / "s", {"model": "../models/a", "weights": "sha256:1", "seed": "0"})
    with pytest.raises(UserError, match="weights sha256:1"):
        open_series(tmp_path / "s", {"model": "../models/a", "weights": "sha256:2", "seed": "0"})
    open_series(tmp_path / "unhashed", {"model": "a"})
    with pytest.raises(UserError, match="model a; this is model b"):
        open_series(tmp_path / "unhashed", {"model": "b"})
