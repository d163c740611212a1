"""Every architecture, and plain coordinates, coded sparsely as they code themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from indexes import as_dense, built
from numpy.typing import NDArray
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor
from word_sae import SENTENCES, SITE

from interp.activations.rows import find_sinks
from interp.features.build.coder import Coder
from interp.model.model import Model
from interp.saes.lineage import lineage_of
from interp.saes.loading.sae import load_sae
from interp.saes.neuron_basis import coordinates_as_sae


@pytest.fixture(scope="module")
def sae(word_model: Model, word_sae: Path) -> SAE[Any]:
    return load_sae(word_sae, word_model)


@pytest.fixture(scope="module")
def plainly(word_model: Model, sae: SAE[Any]) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
    """(activations, feature activations, is sink) of every token, by the plainest way there is."""
    acts = word_model.capture(SENTENCES, SITE, batch_size=1)
    x = acts.rows(SITE)
    place = torch.cat([torch.arange(int(mask.sum())) for mask in acts.mask])
    with torch.no_grad():
        return x, sae.encode(x), find_sinks(x, place).numpy()


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
