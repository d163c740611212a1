"""Ablations of single tokens against an edit of the whole prompt, on every kind of model, both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from indexes import SETTINGS, built
from stores import TEXTS
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.activations.rows import capture_rows
from interp.errors import UserError
from interp.features.build.effects import choose_firings
from interp.features.read.index import Index
from interp.model.model import Model
from interp.saes.loading.sae import SAE
from interp.saes.neuron_basis import coordinates_as_sae

SITE = "blocks.0.hook_resid_post"
SHARES_PAST = ["gpt2", "llama", "gptj", "falcon", "gpt_neox", "opt", "mixtral", "olmo2"]
DOES_NOT = ["mistral", "gpt_neo", "gemma2", "bloom", "mpt", "mamba"]


def rise_by_edit(model: Model, sae: SAE[Any], ids: list[int], place: int, feature: int, value: float) -> float:
    """The independent way: the whole prompt through the hooked tree, the feature's share taken away at one token."""

    def take_away(activation: Tensor, site: Any) -> Tensor:
        out = activation.clone()
        out[0, place] -= value * sae.W_dec[feature].detach().to(out)
        return out

    before = model.logits([ids])[0, place]
    with model.edit({SITE: take_away}):
        after = model.logits([ids])[0, place]
    target = torch.tensor(ids[place + 1])
    return float(cross_entropy(after, target) - cross_entropy(before, target))


def check_some(index: Index, model: Model, sae: SAE[Any]) -> int:
    starts, checked = index["sequence_start"], 0
    for feature in range(0, len(index), 6):
        rows, values = index.firings(feature)
        rises = []
        for at in choose_firings(feature, rows, starts, SETTINGS.effects):
            row = int(rows[at])
            sequence = int(np.searchsorted(starts, row, side="right")) - 1
            ids = index["token"][starts[sequence] : starts[sequence + 1]].tolist()
            rises.append(rise_by_edit(model, sae, ids, row - int(starts[sequence]), feature, float(values[at])))
        if rises:
            assert index["effect"][feature][0] == pytest.approx(np.mean(rises), abs=5e-4)
            assert index["effect_n"][feature] == len(rises)
            checked += len(rises)
    return checked


@pytest.mark.parametrize("architecture", [*SHARES_PAST, *DOES_NOT])
def test_ablations_are_those_of_an_edit(architecture: str, tiny_of: Callable[[str], Model], tmp_path: Any):
    model = tiny_of(architecture)
    sae = coordinates_as_sae(model, SITE, capture_rows(model, TEXTS, SITE, context=10).clean, 4)
    index = built(model, sae, tmp_path / "index", texts=TEXTS[:8], site=SITE)
    assert check_some(index, model, sae) > 10


def test_the_check_sees_a_wrong_direction(tiny_gpt2: Model, tmp_path: Any):
    """Negative control."""
    sae = coordinates_as_sae(tiny_gpt2, SITE, capture_rows(tiny_gpt2, TEXTS, SITE, context=10).clean, 4)
    index = built(tiny_gpt2, sae, tmp_path / "index", texts=TEXTS[:8], site=SITE)
    sae.W_dec.data *= 1.5
    with pytest.raises(AssertionError):
        check_some(index, tiny_gpt2, sae)


def test_a_random_direction_of_the_same_length_stands_beside_each(tiny_gpt2: Model, tmp_path: Any):
    sae = coordinates_as_sae(tiny_gpt2, SITE, capture_rows(tiny_gpt2, TEXTS, SITE, context=10).clean, 4)
    index = built(tiny_gpt2, sae, tmp_path / "index", texts=TEXTS, site=SITE)
    measured = index["effect_n"] > 0
    assert np.isfinite(index["effect_random"][measured]).all()
    assert np.isnan(index["effect"][~measured]).all()
    assert np.isfinite(index["error_effect"]).all()
    several = index["effect_n"] > 1
    low, mean, high = (index["effect"][several, i] for i in (1, 0, 2))
    assert (low <= mean).all()
    assert (mean <= high).all()


def test_the_last_token_of_a_sequence_is_never_chosen_and_sequences_are_shared():
    starts = np.array([0, 5, 10, 15])
    rows = np.arange(15)
    chosen = [rows[choose_firings(feature, rows, starts, 4)] for feature in range(20)]
    assert all(not np.isin(one, [4, 9, 14]).any() for one in chosen)
    assert len({tuple(one // 5) for one in chosen}) == 1, "every feature takes the same sequence first"
    assert len({tuple(one) for one in chosen}) > 5, "and its own tokens of it"


def test_effects_are_refused_while_an_edit_is_active(tiny_gpt2: Model, tmp_path: Any):
    sae = coordinates_as_sae(tiny_gpt2, SITE, capture_rows(tiny_gpt2, TEXTS, SITE, context=10).clean, 4)
    with (
        pytest.raises(UserError, match="edit"),
        tiny_gpt2.edit({SITE: lambda activation, where: activation * 2}),
    ):
        built(tiny_gpt2, sae, tmp_path / "index", texts=TEXTS, site=SITE)
