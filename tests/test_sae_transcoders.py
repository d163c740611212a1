"""Transcoders: what is loaded computes its formula, what is trained is saved as SAELens' own, and every refusal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from foreign_saes import (
    F,
    drawn,
)
from refusals import the_line
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import SkipTranscoder, SkipTranscoderConfig
from sae_runs import KINDS, LAST, MLP, STEPS, metrics, stopped_and_resumed
from safetensors.torch import load_file, save_file
from word_sae import SITE, change_cfg

from interp.activations.rows import Rows
from interp.activations.store import Store
from interp.errors import UserError
from interp.model.model import Model
from interp.saes.loading.sae import load_sae, load_transcoder, site_of
from interp.saes.training.plan import plan_sae
from interp.saes.training.sources import StoreRows

IN, OUT = "blocks.0.hook_resid_mid", "blocks.0.mlp.hook_post"


@pytest.fixture
def transcoder(tmp_path: Path) -> Path:
    """A transcoder of the word model, from 32 wide to the 128 of the MLP, with a skip connection."""
    metadata = SAEMetadata(hook_name=IN, hook_name_out=OUT)
    made = SkipTranscoder(
        SkipTranscoderConfig(d_in=32, d_out=128, d_sae=F, apply_b_dec_to_input=False, metadata=metadata)
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    made.load_state_dict(drawn(shapes))
    made.save_model(tmp_path / "transcoder")
    return tmp_path / "transcoder"


def test_a_transcoder_computes_its_formula(transcoder: Path, word_model: Model, word_rows: Rows):
    ours, w = load_transcoder(transcoder, word_model), load_file(transcoder / "sae_weights.safetensors")
    x = word_rows.clean
    expected = (x @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, atol=1e-3, rtol=1e-4)
        assert float((ours.decode(ours.encode(x)) - expected).abs().max()) > 1, "the skip connection is more"
    assert (site_of(ours), ours.cfg.metadata.hook_name_out, ours.cfg.d_out) == (IN, OUT, 128)


def test_each_loader_refuses_what_the_other_reads(transcoder: Path, word_sae: Path, as_sparsify: Path):
    for load, folder, line in (
        (load_sae, transcoder, "is a skip_transcoder; expected an SAE that reconstructs the site it reads"),
        (load_transcoder, word_sae, "is a topk; expected a transcoder, from one site to another; load_sae reads SAEs"),
        (load_transcoder, as_sparsify, "was not written by SAELens; expected a transcoder in its format"),
    ):
        with pytest.raises(UserError) as raised:
            load(folder)
        assert line in the_line(raised)


def _metadata(**changes: Any) -> Callable[[Path], object]:
    return change_cfg(lambda cfg: cfg["metadata"].update(changes))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (change_cfg(lambda c: c.pop("d_out")), "says d_out=None"),
        (change_cfg(lambda c: c.update(d_out=64)), "size mismatch"),
        (_metadata(hook_name_out=None), "says hook_name_out=None"),
        (_metadata(hook_name="blocks.5.hook_resid_mid"), "unknown site 'blocks.5.hook_resid_mid'"),
        (_metadata(hook_name_out="blocks.5.hook_mlp_out"), "writes to 'blocks.5.hook_mlp_out': unknown site"),
        (_metadata(hook_name_out="blocks.0.hook_mlp_out"), "d_out=128, but blocks.0.hook_mlp_out"),
        (_metadata(hook_name=OUT), "d_in=32, but blocks.0.mlp.hook_post"),
        (_metadata(model_from_pretrained_kwargs={"fold_ln": True}), "processed weights (fold_ln)"),
    ],
)
@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_a_damaged_transcoder_is_refused_in_one_line(
    transcoder: Path, word_model: Model, damage: Callable[[Path], object], line: str
):
    load_transcoder(transcoder, word_model)  # negative control
    damage(transcoder)
    with pytest.raises(UserError) as raised:
        load_transcoder(transcoder, word_model)
    assert line in the_line(raised)


def test_a_transcoder_with_nan_is_refused(transcoder: Path):
    tensors = load_file(transcoder / "sae_weights.safetensors")
    tensors["W_skip"][0, 0] = float("nan")
    save_file(tensors, transcoder / "sae_weights.safetensors")
    with pytest.raises(UserError) as raised:
        load_transcoder(transcoder)
    assert "W_skip holds 1 numbers that are NaN" in the_line(raised)


def test_a_folder_of_saelens_that_says_its_site_is_not_told_another(word_sae: Path):
    assert site_of(load_sae(word_sae, site=SITE)) == SITE
    with pytest.raises(UserError) as raised:
        load_sae(word_sae, site="blocks.1.hook_resid_post")
    assert f"reads {SITE}, as it says itself, not site='blocks.1.hook_resid_post'" in the_line(raised)


@pytest.fixture(scope="module")
def store(whole_store: tuple[Store, Any, Any]) -> Store:
    return whole_store[0]


@pytest.mark.parametrize(("kind", "settings"), [KINDS[1], KINDS[3], KINDS[4]])
def test_a_transcoder_is_saved_as_saelens_own_and_computes_what_training_does(
    store: Store, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    plan = plan_sae(LAST, kind, 64, site_out=MLP, **settings)
    training = dataclasses.replace(STEPS, steps=60)
    (path,) = stopped_and_resumed(plan, StoreRows(store), tmp_path / "sae", training, [7])
    theirs, ours = sae_lens.SAE.load_from_disk(path), load_transcoder(path)
    kept = ~(store.is_sink(LAST) | store.is_sink(MLP))
    x, y = store.rows(LAST)[kept].float(), store.rows(MLP)[kept].float()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
        error, spread = (ours(x) - y).square().sum(), (y - y.mean(0)).square().sum()
        wrong = (ours(y) - y).square().sum() if x.shape == y.shape else spread
    assert float(error / spread) < 0.7, "it reconstructs the other site"
    assert float(wrong) > float(error), "and from this one: the control reads the wrong rows"
    cfg = json.loads((path / "cfg.json").read_text())
    assert (cfg["metadata"]["hook_name"], cfg["metadata"]["hook_name_out"]) == (LAST, MLP)
    assert metrics(path)[-1]["explained_variance"] == pytest.approx(1 - float(error / spread), abs=0.2)
    with pytest.raises(UserError, match="transcoder"):
        load_sae(path)
