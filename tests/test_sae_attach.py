"""The self-check: an SAE that fits passes; scale, bias, sparsity or model planted wrong are refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import the_line
from safetensors.torch import load_file, save_file
from torch import Tensor
from word_sae import SENTENCES, change_cfg, with_provenance

from interp.errors import UserError
from interp.model.model import Model
from interp.saes.loading.attach import attach_sae, find_faults, measure_fit
from interp.saes.loading.sae import load_sae
from interp.text.data import data

HELD_OUT = SENTENCES[1::2]


def weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "sae_weights.safetensors")
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")

    return damage


def test_an_sae_fits_the_model_that_it_was_trained_on(word_sae: Path, word_model: Model) -> None:
    sae = attach_sae(word_sae, word_model, sample=HELD_OUT)
    fit = measure_fit(sae, word_model, HELD_OUT)
    record = json.loads((word_sae / "cfg.json").read_text())["metadata"]
    assert fit.mean_norm == pytest.approx(record["mean_norm"], rel=0.1)
    assert fit.explained_variance == pytest.approx(record["explained_variance"], abs=0.1)
    assert fit.l0 == pytest.approx(record["l0"], rel=0.1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (weights(lambda t: t.update(b_dec=t["b_dec"] + 1)), "of their variance"),
        (weights(lambda t: t.update(W_dec=-t["W_dec"])), "of their variance"),
        (weights(lambda t: t.update(W_enc=t["W_enc"] * 20)), "of their variance"),
        (change_cfg(lambda cfg: cfg["metadata"].update(mean_norm=20.0)), "have a mean norm of"),
        (change_cfg(lambda cfg: cfg["metadata"].update(l0=40.0)), "features are active at a token, 40.0 in training"),
        (change_cfg(lambda cfg: cfg.update(k=60)), "features are active at a token"),
    ],
)
def test_what_was_planted_wrong_is_refused_unless_forced(
    sae_copy: Path, word_model: Model, damage: Callable[[Path], None], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(sae_copy)
    load_sae(sae_copy, word_model)  # the negative control: names and hashes alone let it pass
    with pytest.raises(UserError) as raised:
        attach_sae(sae_copy, word_model, sample=HELD_OUT)
    assert reason in the_line(raised)
    assert "--force" in str(raised.value)
    attach_sae(sae_copy, word_model, sample=HELD_OUT, force=True)
    assert capsys.readouterr().err.startswith("forced: ")


def test_an_sae_that_names_the_layer_next_to_its_own_is_found_out(smol: Model, tmp_path: Path) -> None:
    """By the shipped SAE: numbers alone would let it pass at a layer beside its own."""
    folder = shutil.copytree(data("saes/smollm2-135m"), tmp_path / "sae")
    (folder / "manifest.json").unlink()
    attach_sae(folder, smol)
    change_cfg(lambda cfg: cfg["metadata"].update(hook_name="blocks.15.hook_resid_post"))(folder)
    with pytest.raises(UserError, match=r"of the variance at blocks\.14\.hook_resid_post"):
        attach_sae(folder, smol)


def test_a_record_that_differs_can_be_forced_and_a_site_that_is_not_there_cannot(
    word_sae: Path, sae_copy: Path, word_model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    other = with_provenance(word_model, weights="sha256:0")
    with pytest.raises(UserError, match="its model weights"):
        attach_sae(word_sae, other, sample=HELD_OUT)
    attach_sae(word_sae, other, sample=HELD_OUT, force=True)
    assert "forced: " in capsys.readouterr().err
    change_cfg(lambda cfg: cfg["metadata"].update(hook_name="blocks.9.hook_resid_post"))(sae_copy)
    with pytest.raises(UserError, match=r"blocks\.9"):
        attach_sae(sae_copy, word_model, sample=HELD_OUT, force=True)


def test_without_a_record_only_nonsense_is_a_fault(sae_copy: Path, word_model: Model) -> None:
    def forget(cfg: dict[str, Any]) -> None:
        for key in ("mean_norm", "explained_variance", "l0"):
            cfg["metadata"].pop(key)

    change_cfg(forget)(sae_copy)
    sae = attach_sae(sae_copy, word_model, sample=HELD_OUT)
    with torch.no_grad():
        sae.W_dec.mul_(-1)
    assert find_faults(sae, measure_fit(sae, word_model, HELD_OUT))[0].startswith("it is worse than the mean")
