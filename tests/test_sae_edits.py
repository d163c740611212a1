"""Putting an SAE, or a mean, in the place of an activation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from word_sae import SENTENCES, SITE

from interp.errors import UserError
from interp.model.hooks import Site
from interp.model.model import Model
from interp.saes.edits import mean_ablate, reconstruct
from interp.saes.load import load_sae


def _batch(d: int = 32) -> tuple[Tensor, Site]:
    """Two prompts, the second one left-padded by two, with a sink at the first one's position 3."""
    generator = torch.Generator().manual_seed(0)
    activation = torch.randn(2, 6, d, generator=generator)
    activation[0, 3] *= 100
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    return activation, Site(SITE, torch.arange(2), 2, mask, ("prompt", "pos", "feature"))


EDITED = [[False, True, True, False, True, True], [False, False, False, True, True, True]]


def test_reconstruct_replaces_real_tokens_and_leaves_sinks_and_padding(word_sae: Path):
    sae, (activation, site) = load_sae(word_sae), _batch()
    before = activation.clone()
    out = reconstruct(sae)(activation, site)
    chosen = torch.tensor(EDITED)
    with torch.no_grad():
        torch.testing.assert_close(out[chosen], sae.decode(sae.encode(activation[chosen])))
    assert torch.equal(out[~chosen], activation[~chosen])
    assert torch.equal((out != activation).any(-1), chosen)
    assert torch.equal(activation, before), "the edit works on a copy"


def test_with_its_error_kept_a_reconstruction_is_the_activation(word_sae: Path, word_model: Model):
    activation, site = _batch()
    torch.testing.assert_close(reconstruct(load_sae(word_sae), keep_error=True)(activation, site), activation)
    clean = word_model.logits(SENTENCES[:4])
    with word_model.edit({SITE: reconstruct(load_sae(word_sae), keep_error=True)}):
        kept = word_model.logits(SENTENCES[:4])
    with word_model.edit({SITE: reconstruct(load_sae(word_sae))}) as receipts:
        dropped = word_model.logits(SENTENCES[:4])
    torch.testing.assert_close(kept, clean, atol=1e-4, rtol=1e-4, equal_nan=True)
    assert not torch.allclose(dropped, clean, atol=1e-2, equal_nan=True)
    assert receipts[SITE].norm_change > 0


def test_mean_ablation_puts_the_mean_at_the_same_tokens():
    activation, site = _batch()
    out = mean_ablate(torch.full((32,), 7.0))(activation, site)
    assert torch.equal((out == 7.0).all(-1), torch.tensor(EDITED))
    assert torch.equal(out[~torch.tensor(EDITED)], activation[~torch.tensor(EDITED)])


def test_a_typical_norm_from_outside_decides_what_a_sink_is():
    activation, site = _batch()
    out = mean_ablate(torch.zeros(32), typical_norm=1e4)(activation, site)
    assert bool((out[0, 3] == 0).all()), "against so large a norm the long vector is no sink"
    assert torch.equal(out[0, 0], activation[0, 0]), "position 0 always is"


def test_an_edit_at_a_site_of_another_shape_is_refused(word_sae: Path):
    activation, site = _batch(48)
    with pytest.raises(UserError, match=r"d_in=32, but .* is 48 wide"):
        reconstruct(load_sae(word_sae))(activation, site)
    with pytest.raises(UserError, match=r"shape \(3,\); expected \(48,\)"):
        mean_ablate(torch.zeros(3))(activation, site)
    heads = dataclasses.replace(site, axes=("prompt", "pos", "feature", "feature"))
    with pytest.raises(UserError, match="replaces one vector a token"):
        mean_ablate(torch.zeros(32))(torch.zeros(2, 6, 4, 32), heads)
