"""Putting an SAE, or a mean, in the place of an activation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from word_sae import SENTENCES, SITE

from interp.analysis.metrics import logit_difference
from interp.errors import UserError
from interp.model.gradients import gradients_of
from interp.model.hooks.where import Where
from interp.model.model import Model
from interp.saes.edits import clamp_features, edit_features, mean_ablate, reconstruct, steer_features
from interp.saes.loading.sae import load_sae


def _batch(d: int = 32) -> tuple[Tensor, Where]:
    """Two prompts, the second one left-padded by two, with a sink at the first one's position 3."""
    generator = torch.Generator().manual_seed(0)
    activation = torch.randn(2, 6, d, generator=generator)
    activation[0, 3] *= 100
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    return activation, Where(SITE, torch.arange(2), 2, mask, ("prompt", "pos", "feature"))


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
    heads = dataclasses.replace(site, axes=("prompt", "pos", "head", "feature"))
    with pytest.raises(UserError, match="replaces one vector a token"):
        mean_ablate(torch.zeros(32))(torch.zeros(2, 6, 4, 32), heads)


def test_features_that_are_left_alone_change_no_bit(word_sae: Path, word_model: Model):
    sae, clean = load_sae(word_sae), word_model.logits(SENTENCES[:4])
    with word_model.edit({SITE: edit_features(sae, lambda features: features)}):
        kept = word_model.logits(SENTENCES[:4])
    assert torch.equal(kept.nan_to_num(), clean.nan_to_num())


def test_clamping_and_steering_move_along_the_decoder_and_keep_the_error(word_sae: Path):
    sae, (activation, site) = load_sae(word_sae), _batch()
    chosen = torch.tensor(EDITED)
    with torch.no_grad():
        features = sae.encode(activation[chosen])
        feature = int(features.sum(0).argmax())
        off = clamp_features(sae, {feature: 0.0})(activation, site)
        steered = steer_features(sae, {feature: 2.5})(activation, site)
        held = clamp_features(sae, {feature: 7.0})(activation, site)
    direction = sae.W_dec.detach()[feature]
    fired = features[:, feature, None]
    torch.testing.assert_close(off[chosen], activation[chosen] - fired * direction, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(steered[chosen], activation[chosen] + 2.5 * direction, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(held[chosen], activation[chosen] + (7.0 - fired) * direction, atol=1e-4, rtol=1e-4)
    for out in (off, steered, held):
        assert torch.equal(out[~chosen], activation[~chosen]), "sinks and padding stay"
    silent = (fired == 0).flatten()
    assert torch.equal(off[chosen][silent], activation[chosen][silent]), "where it does not fire, nothing moves"


def test_misuse_of_feature_edits_is_one_line(word_sae: Path):
    sae, (activation, site) = load_sae(word_sae), _batch()
    for values in ({}, {-1: 0.0}, {sae.cfg.d_sae: 1.0}, {0.5: 1.0}):
        with pytest.raises(UserError, match=r"expected \{feature: activation\}"):
            clamp_features(sae, values)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the change returned NoneType"):
        edit_features(sae, lambda features: None)(activation, site)  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match="this SAE has d_in=32"):
        clamp_features(sae, {0: 0.0})(*_batch(16))


def test_gradients_go_through_a_reconstruction(word_sae: Path, word_model: Model):
    """As through the same replacement written by hand; and not as if the SAE were a constant."""
    sae, before = load_sae(word_sae), "blocks.0.hook_resid_pre"
    metric = logit_difference([5, 6], [7, 8])

    def by_hand(activation: Tensor, where: Where) -> Tensor:
        first = torch.zeros_like(activation, dtype=torch.bool)
        first[:, 0] = True
        return torch.where(first, activation, sae.decode(sae.encode(activation)))

    def constant(activation: Tensor, where: Where) -> Tensor:
        return by_hand(activation, where).detach()

    found = []
    for edit in (reconstruct(sae, typical_norm=1e4), by_hand, constant):
        with word_model.edit({SITE: edit}):
            found.append(gradients_of(word_model, SENTENCES[:2], before, metric).gradients[before].nan_to_num())
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found[0], found[2], atol=1e-2)
