"""The SAE that ships with the package: small, loadable by plain sae_lens, and as good as its card says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import sae_lens
import torch

from interp.activations.rows import capture_rows
from interp.model.loading.cache import is_intact
from interp.model.model import Model
from interp.saes.evaluate import evaluate_sae
from interp.saes.loading.attach import attach_sae
from interp.saes.loading.default import ensure_default_sae, shipped_sae
from interp.saes.loading.sae import load_sae, site_of
from interp.text.corpus import split_corpus
from interp.text.data import data


@pytest.fixture(scope="module")
def folder() -> Path:
    return data("saes/smollm2-135m")


def test_it_is_whole_and_small(folder: Path) -> None:
    assert is_intact(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16e6
    digest = hashlib.sha256((folder / "sae_weights.safetensors").read_bytes()).hexdigest()
    assert digest in data("README.md").read_text(encoding="utf-8"), "data/README.md has its hash"


def test_it_is_the_default_of_the_bundled_model_and_of_no_other(smol: Model, tiny_gpt2: Model, folder: Path) -> None:
    assert ensure_default_sae(smol, lambda *_: pytest.fail("it trained one")) == folder
    assert shipped_sae(tiny_gpt2) is None


def test_plain_sae_lens_gives_the_same(smol: Model, folder: Path) -> None:
    ours, theirs = attach_sae(folder, smol), sae_lens.SAE.load_from_disk(folder)
    rows = capture_rows(smol, split_corpus()[1], site_of(ours), max_tokens=300).clean
    with torch.no_grad():
        torch.testing.assert_close(ours(rows), theirs(rows), rtol=1e-5, atol=1e-4)
    assert ours.dtype == torch.float32


def test_it_does_what_its_card_says(smol: Model, folder: Path) -> None:
    """On the bundled held-out documents, which no training saw; its card has more text and narrower intervals."""
    written = json.loads((folder / "evaluation.json").read_text())["sae"]
    report = evaluate_sae(load_sae(folder, smol), smol, split_corpus()[1], max_tokens=500, n_boot=200)
    assert report.ce_recovered is not None
    assert report.explained_variance.mean == pytest.approx(written["explained_variance"][0], abs=0.05)
    assert report.ce_recovered.mean == pytest.approx(written["ce_recovered"][0], abs=0.05)
    assert report.l0 == pytest.approx(written["l0"], rel=0.1)
    assert written["explained_variance"][0] >= 0.75
    assert written["ce_recovered"][0] >= 0.90
    assert written["dead_share"] <= 0.10
    assert written["l0"] <= 64
