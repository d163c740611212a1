"""Direct effects of SAE features: exact sums, and a feature's share against taking the feature away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata
from word_sae import SENTENCES, SITE

from interp import Model, UserError
from interp.analysis.attribution import attribute_logits
from interp.analysis.feature_attribution import attribute_features
from interp.analysis.metrics import logit_difference
from interp.model.edits import freeze, patch
from interp.saes.loading.sae import load_sae

PROMPTS = SENTENCES[1:4]
RIGHT, WRONG = [5, 6, 7], [8, 9, 10]


def test_features_bias_and_error_take_the_place_of_what_the_site_holds(word_model: Model, word_sae: Path) -> None:
    sae = load_sae(word_sae, word_model)
    found = attribute_features(word_model, sae, PROMPTS, RIGHT, WRONG)
    whole = attribute_logits(word_model, PROMPTS, RIGHT, WRONG)
    torch.testing.assert_close(found.total, whole.total)
    assert (found.error.abs() <= 1e-3 * found.effect.abs().sum(1)).all()
    kept = [part for part in found.parts if part in whole.parts]
    ours = [i for i, part in enumerate(found.parts) if part not in whole.parts]
    gone = [i for i, part in enumerate(whole.parts) if part not in kept]
    assert "final bias" in kept
    assert gone
    torch.testing.assert_close(found.effect[:, ours].sum(1), whole.effect[:, gone].sum(1), atol=1e-4, rtol=1e-3)
    assert {found.parts[i] for i in ours} >= {"sae bias", "sae error"}


def test_a_features_share_is_what_vanishes_with_it(word_model: Model, word_sae: Path) -> None:
    """Everything behind the site and the final norm's scale held: the difference is the direct effect alone."""
    sae = load_sae(word_sae, word_model)
    found = attribute_features(word_model, sae, PROMPTS, RIGHT, WRONG)
    layer = int(SITE.split(".")[1])
    behind = [f"blocks.{i}.hook_{what}" for i in range(word_model.n_layers) for what in ("attn_out", "mlp_out")]
    before = [f"blocks.{i}.hook_{what}" for i in range(layer + 1) for what in ("attn_out", "mlp_out")]
    acts = word_model.capture(PROMPTS, [*behind, SITE, "ln_final.hook_scale"])
    held = freeze({site: acts[site] for site in acts if site not in before and site != SITE})
    metric = logit_difference(RIGHT, WRONG)
    base = word_model.measure(PROMPTS, metric)
    features = sae.encode(acts[SITE].nan_to_num())
    part, _ = next((p, e) for p, e in found.top(20) if p.startswith("feature"))
    number = int(part.split()[1])
    less = acts[SITE] - features[..., number, None] * sae.W_dec[number]
    with word_model.edit({**held, SITE: patch(less)}):
        vanished = base - word_model.measure(PROMPTS, metric)
    torch.testing.assert_close(found.effect[:, found.parts.index(part)], vanished, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("normalised", ["layer_norm", "constant_norm_rescale"])
def test_an_sae_that_normalises_is_exact_too(word_model: Model, normalised: str) -> None:
    settings: dict[str, Any] = {"normalize_activations": normalised, "metadata": SAEMetadata(hook_name=SITE)}
    cfg = StandardSAEConfig(d_in=32, d_sae=16, **settings)
    torch.manual_seed(0)
    sae = StandardSAE(cfg)
    found = attribute_features(word_model, sae, PROMPTS, RIGHT, WRONG)
    assert (found.error.abs() <= 1e-3 * found.effect.abs().sum(1)).all()
    assert sum(part.startswith("feature") for part in found.parts) > 3


def test_an_sae_of_another_site_is_refused(word_model: Model, word_sae: Path) -> None:
    sae = load_sae(word_sae, word_model)
    sae.cfg.metadata.hook_name = "blocks.0.mlp.hook_post"
    with pytest.raises(UserError, match="added to the residual stream"):
        attribute_features(word_model, sae, PROMPTS, RIGHT, WRONG)
