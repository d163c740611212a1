"""Readouts: what is there is found, what is not is at chance, and words that prompts share do not help."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import Model, UserError
from interp.analysis.readouts import read_accuracy, read_labels, readout_of
from interp.model.training.random_weights import with_random_weights

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


@pytest.mark.parametrize("kinds", [2, 3])
def test_the_classifier_is_scikit_learns_on_the_same_splits(monkeypatch: pytest.MonkeyPatch, kinds: int) -> None:
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from interp.analysis import readouts

    monkeypatch.setattr(readouts, "ALPHAS", [30.0])
    x, labels, families = made(3, 1.5)
    labels = (labels + (np.arange(N) % 5 == 0)) % kinds
    right = np.zeros(N)
    for train, test in GroupKFold(5).split(x, groups=families):
        theirs = make_pipeline(StandardScaler(), RidgeClassifier(30.0) if kinds == 2 else LogisticRegression())
        right[test] = theirs.fit(x[train], labels[train]).predict(x[test]) == labels[test]
    accuracy = read_accuracy(torch.tensor(x), labels.tolist(), families.tolist())
    assert accuracy.mean == pytest.approx(np.mean([right[families == g].mean() for g in range(12)]))


def test_a_site_is_read_beside_a_model_of_random_weights(tiny_gpt2: Model) -> None:
    names = ["Mary", "John", "Ada", "Kim", "Tom", "Anna"]
    prompts = [f"{name} walked to the {place}" for name in names for place in ("sea", "town")]
    labels = ["sea", "town"] * len(names)
    groups = [name for name in names for _ in range(2)]
    found = read_labels(tiny_gpt2, prompts, labels, groups, "blocks.*.hook_resid_post", n_perm=39)
    assert [one.site for one in found] == tiny_gpt2.sites("blocks.*.hook_resid_post")
    for one in found:
        assert one.accuracy.mean > 0.9  # the last token is the label
        assert one.random_weights.mean > 0.9  # and random weights let it be read: the control that shows it
        assert one.majority == 0.5


def test_random_weights_are_others_and_follow_the_seed(tiny_gpt2: Model) -> None:
    a, b, c = (with_random_weights(tiny_gpt2, seed) for seed in (5, 5, 6))
    state = torch.random.get_rng_state()
    with_random_weights(tiny_gpt2, 3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert a.provenance.weights == b.provenance.weights != c.provenance.weights
    assert a.provenance.weights != tiny_gpt2.provenance.weights
    assert not torch.equal(a.last_logits(["Mary"]), tiny_gpt2.last_logits(["Mary"]))
    assert a.encode("Mary") == tiny_gpt2.encode("Mary")


def test_several_labels_on_one_line_are_all_read() -> None:
    """Regression on one-hot labels hides those that lie between others (Hastie et al. 4.2)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    x = rng.normal(size=(90, 8))
    x[:, 0] = 4 * labels + 0.3 * rng.normal(size=90)
    accuracy, null = readout_of(x, labels, np.arange(90) // 2, n_perm=40)
    assert accuracy.mean > 0.97
    assert null.high < 0.6


@pytest.mark.parametrize("design", ["one odd row", "equal rows"])
def test_labels_are_dealt_as_the_design_allows(design: str) -> None:
    """The null must neither shrink to the result itself nor take copies for independent rows."""
    groups = np.repeat(np.arange(12), 4)
    if design == "one odd row":
        labels = groups % 2
        labels[0] = 1 - labels[0]
        x = np.random.default_rng(0).normal(size=(48, 16))
        x[:, 0] += 8 * (2 * labels - 1)
        accuracy, null = readout_of(x, labels, groups, n_perm=100)
        assert accuracy.mean > null.high + 0.1
        return
    beyond = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, labels = rng.normal(size=(12, 4, 6)), rng.integers(0, 2, (12, 4))
        copies = [np.repeat(some, 6, axis=1).reshape(12 * 24, -1) for some in (x, labels[..., None])]
        accuracy, null = readout_of(copies[0], copies[1][:, 0], np.repeat(np.arange(12), 24), n_perm=80)
        beyond += accuracy.mean > null.high
    assert beyond <= 5  # 2.5 % are expected; taken for independent rows, a third of these would be


def test_a_rare_label_is_read_with_a_fold_a_group_and_majority_is_a_mean_over_groups(tiny_gpt2: Model) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    labels = np.where(np.isin(np.arange(40) // 4, [0, 5]), 2, np.arange(40) % 2)
    readout_of(x, labels, np.arange(40) // 4, n_perm=39)
    prompts, groups = ["Mary"] * 12, [0] * 8 + [1, 2, 3, 4]
    own = [0] * 8 + [1, 1, 0, 1]
    found = read_labels(
        tiny_gpt2, prompts, own, groups, "blocks.0.hook_resid_post", n_perm=39, random_weights=tiny_gpt2
    )
    assert found[0].majority == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"labels": [0] * N}, "all labels are alike"),
        ({"groups": [0] * N}, "all groups are alike"),
        ({"labels": [0, 1]}, "2 labels came for 48 rows"),
        ({"labels": [0] * (N - 1) + [1]}, "occurs in one group only"),
        ({"x": np.full((N, D), np.nan)}, "NaN or infinite"),
        ({"n_perm": 38}, "n_perm=38; expected 39 or more"),
    ],
)
def test_misuse_is_one_line(change: dict[str, Any], told: str) -> None:
    x, labels, groups = made(0, 1.0)
    given: dict[str, Any] = {"x": x, "labels": labels, "groups": groups, "n_perm": 39} | change
    with pytest.raises(UserError, match=told):
        readout_of(given["x"], given["labels"], given["groups"], n_perm=given["n_perm"])
