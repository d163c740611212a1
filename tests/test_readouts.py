"""Readouts: what is there is found, what is not is at chance, and words that prompts share do not help."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import Model, UserError
from interp.analysis.readouts import read_labels, readout_of
from interp.model.fresh import fresh_model

N, D = 48, 64


def made(seed: int, signal: float, groups: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations with a label along one direction, and a strong direction of each group's own."""
    rng = np.random.default_rng(seed)
    families = np.arange(N) % groups
    labels = (np.arange(N) // groups) % 2
    x = rng.normal(size=(N, D)) + 3 * rng.normal(size=(groups, D))[families]
    x[:, 0] += signal * (2 * labels - 1)
    return x, labels, families


def test_a_label_that_is_there_is_read_and_beats_its_null() -> None:
    accuracy, null = readout_of(*made(0, 16.0), n_perm=100)
    assert accuracy.mean > 0.9
    assert accuracy.n == 12
    assert accuracy.low > null.high
    assert null.is_null
    assert 0.4 < null.mean < 0.6


def test_without_a_label_accuracies_stay_within_their_null() -> None:
    inside = 0
    for seed in range(30):
        accuracy, null = readout_of(*made(seed, 0.0), n_perm=60)
        inside += null.low <= accuracy.mean <= null.high
    assert inside >= 25  # of 30; 95 % are expected, fewer than 25 come in less than one test in 100


def test_a_label_that_only_groups_give_away_is_not_read() -> None:
    """Labels that are each group's own, with groups far apart: by rows it looks perfect, by groups it is chance."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import cross_val_score

    beyond, scores, by_rows = 0, [], []
    for seed in range(30):
        x, _, families = made(seed, 0.0)
        labels = np.random.default_rng(seed).permutation([0, 1] * 6)[families]
        accuracy, null = readout_of(x, labels, families, n_perm=60)
        scores.append(accuracy.mean)
        by_rows.append(cross_val_score(RidgeClassifier(), x, labels, cv=5).mean())
        beyond += accuracy.mean > null.high
    assert np.mean(by_rows) > 0.95, "the leak is there for a classifier that is let"
    assert np.mean(scores) < 0.6
    assert beyond <= 4  # 2.5 % are expected; five of 30 come in less than one test in 500


def test_the_classifier_is_scikit_learns_on_the_same_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from interp.analysis import readouts

    monkeypatch.setattr(readouts, "ALPHAS", [30.0])
    x, labels, families = made(3, 1.5)
    labels = (labels + (np.arange(N) % 5 == 0)) % 3  # three kinds
    right = np.zeros(N)
    for train, test in GroupKFold(5).split(x, groups=families):
        theirs = make_pipeline(StandardScaler(), RidgeClassifier(30.0))
        right[test] = theirs.fit(x[train], labels[train]).predict(x[test]) == labels[test]
    accuracy, _ = readout_of(torch.tensor(x), labels.tolist(), families.tolist(), n_perm=1)
    assert accuracy.mean == pytest.approx(np.mean([right[families == g].mean() for g in range(12)]))


def test_a_site_is_read_beside_a_model_of_random_weights(tiny_gpt2: Model) -> None:
    names = ["Mary", "John", "Ada", "Kim", "Tom", "Anna"]
    prompts = [f"{name} walked to the {place}" for name in names for place in ("sea", "town")]
    labels = ["sea", "town"] * len(names)
    groups = [name for name in names for _ in range(2)]
    found = read_labels(tiny_gpt2, prompts, labels, groups, "blocks.*.hook_resid_post", n_perm=20)
    assert [one.site for one in found] == tiny_gpt2.sites("blocks.*.hook_resid_post")
    for one in found:
        assert one.accuracy.mean > 0.9  # the last token is the label
        assert one.fresh.mean > 0.9  # and random weights let it be read: the control that shows it
        assert one.majority == 0.5


def test_random_weights_are_others_and_follow_the_seed(tiny_gpt2: Model) -> None:
    a, b, c = (fresh_model(tiny_gpt2, seed) for seed in (5, 5, 6))
    state = torch.random.get_rng_state()
    fresh_model(tiny_gpt2, 3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert a.provenance.weights == b.provenance.weights != c.provenance.weights
    assert a.provenance.weights != tiny_gpt2.provenance.weights
    assert not torch.equal(a.last_logits(["Mary"]), tiny_gpt2.last_logits(["Mary"]))
    assert a.encode("Mary") == tiny_gpt2.encode("Mary")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"labels": [0] * N}, "all labels are alike"),
        ({"groups": [0] * N}, "all groups are alike"),
        ({"labels": [0, 1]}, "2 labels came for 48 rows"),
        ({"labels": [0] * (N - 1) + [1]}, "occurs in one group only"),
        ({"x": np.full((N, D), np.nan)}, "NaN or infinite"),
        ({"n_perm": 0}, "n_perm=0"),
    ],
)
def test_misuse_is_one_line(change: dict[str, Any], told: str) -> None:
    x, labels, groups = made(0, 1.0)
    given: dict[str, Any] = {"x": x, "labels": labels, "groups": groups, "n_perm": 2} | change
    with pytest.raises(UserError, match=told):
        readout_of(given["x"], given["labels"], given["groups"], n_perm=given["n_perm"])
