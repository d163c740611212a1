"""Training an SAE: what cannot work is refused, what is written is whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from refusals import the_line
from word_sae import SETTINGS

from interp.activations.rows import Rows
from interp.errors import UserError
from interp.model.cache import is_intact
from interp.model.model import Model
from interp.saes.train import save_sae, train_topk


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"k": 65}, "k=65 is above the width 64"),
        ({"k": 0}, "k=0; expected 1 or more"),
        ({"steps": 0}, "steps=0; expected 1 or more"),
        ({"batch": 100_000}, "fewer than a batch of 100000"),
    ],
)
def test_training_refuses_settings_that_cannot_work(
    word_model: Model, word_rows: Rows, settings: dict[str, int], line: str
):
    with pytest.raises(UserError) as raised:
        train_topk(word_rows, word_model, dataclasses.replace(SETTINGS, **settings))
    assert line in the_line(raised)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_training_refuses_rows_that_are_not_finite(word_model: Model, word_rows: Rows, bad: float):
    values = word_rows.values.clone()
    values[7, 3] = bad
    with pytest.raises(UserError) as raised:
        train_topk(dataclasses.replace(word_rows, values=values), word_model, SETTINGS)
    assert "row 7" in the_line(raised)


def test_an_sae_is_written_whole_or_not_at_all(
    word_model: Model, word_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sae = train_topk(word_rows, word_model, dataclasses.replace(SETTINGS, steps=1))

    def full_disk(folder: Path) -> None:
        (folder / "cfg.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(sae, "save_inference_model", full_disk)
        with pytest.raises(UserError, match="No space left"):
            save_sae(sae, tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []
    save_sae(sae, tmp_path / "sae")
    assert is_intact(tmp_path / "sae")
    with pytest.raises(UserError, match="exists already"):
        save_sae(sae, tmp_path / "sae")
