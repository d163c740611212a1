"""The probe `dictionary` with other SAEs beside the first, and with a model of random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from word_sae import PLAN, SENTENCES, TRAINING

from interp.activations.rows import Rows
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.saes.loading import attach
from interp.saes.loading import default as default_sae
from interp.saes.training.sources import MemoryRows
from interp.saes.training.trainer import train
from interp.views.figures import draw
from probes import dictionary


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """The corpus of the small model instead of the bundled one, whose words it does not know."""
    for module in (dictionary, attach, default_sae):
        monkeypatch.setattr(module, "split_corpus", lambda: (SENTENCES[::2], SENTENCES[1::2]))
    monkeypatch.setattr(dictionary, "prose", lambda: SENTENCES[1::2])


@pytest.mark.usefixtures("words")
def test_several_are_measured_on_the_same_text(
    word_model: Model, word_rows: Rows, word_sae: Path, tmp_path: Path
) -> None:
    weaker = tmp_path / "weaker"
    train(PLAN, MemoryRows(word_rows, word_model), weaker, dataclasses.replace(TRAINING, steps=5))
    lab = Lab(word_model, sae_folder=word_sae)
    found = list(dictionary.dictionary(lab, tokens=400, beside=(weaker,), force=True))
    beside = next(finding for finding in found if finding.part == "Beside other SAEs")
    assert beside.claim == "SAE sae recovers more of the model's loss than SAE weaker."
    assert beside.estimate.mean > beside.control.estimate.mean
    assert [row["dictionary"] for row in beside.table] == ["sae", "random directions", "weaker"]
    figure = draw(beside)
    assert isinstance(figure, go.Figure)
    traces: tuple[Any, ...] = figure.data  # type: ignore[assignment]
    assert [trace.name for trace in traces] == ["sae", "random directions", "weaker"]
    assert all(trace.error_y.array is not None for trace in traces)


@pytest.mark.usefixtures("words")
def test_the_model_with_random_weights_is_a_control(
    word_model: Model, word_sae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dictionary, "default_plan", lambda model: (PLAN, TRAINING))
    found = list(dictionary.dictionary(Lab(word_model, sae_folder=word_sae), tokens=400, random_model=True))
    control = found[-2]
    assert control.claim == "The SAE explains more of the variance than one of the same model with random weights."
    assert [row["dictionary"] for row in control.table] == ["trained", "random weights"]
    assert 0 < control.control.estimate.mean < 1
