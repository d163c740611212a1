"""What can be read from an activation by a linear classifier, and would it be read anyway?

The field calls these probes (Alain and Bengio 1610.01644). A high accuracy by itself says little: 576 numbers can tell
40 prompts apart whatever they mean, prompts that share a word are no independent tests, and a model with random weights
lets its input words be read too. So a readout comes with its controls (Hewitt and Liang 1909.03368): whole groups are
held out, labels are shuffled, and the same prompts go through the same architecture with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.analysis.estimate import Estimate
from interp.analysis.statistics import estimate_mean, null_of
from interp.errors import UserError
from interp.model.captured import Activations
from interp.model.fresh import fresh_model
from interp.model.model import Model
from interp.model.tokens import Prompts

FOLDS, UNIT = 5, "share of rows"
ALPHAS = np.logspace(-1, 5, 13)  # of standardised features; the best one is found inside each training part


@dataclass(frozen=True)
class Readout:
    """How well labels are read from one site. Shares of rows right, each row held out once with its whole group.

    `accuracy`: over groups. `shuffled`: the same with labels dealt at random, the null. `fresh`: with the activations
    of a model of random weights. `majority`: what always saying the commonest label gets.
    """

    site: str
    accuracy: Estimate
    shuffled: Estimate
    fresh: Estimate
    majority: float


def read_labels(
    model: Model,
    prompts: Prompts,
    labels: Sequence[Hashable],
    groups: Sequence[Hashable],
    sites: str | Iterable[str],
    *,
    n_perm: int = 200,
    fresh: Model | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Readout]:
    """A linear classifier a site, on each prompt's last token, judged on groups that it has not seen.

    `groups` [prompt]: what prompts share besides their label: a word, a template, a document. `fresh`: the model of
    random weights to compare with; by default `fresh_model(model, seed)`.
    Raises UserError for fewer than two labels or groups, and where a fold could not learn every label.
    """
    codes, families = _coded(labels, groups, len(model.encode(prompts)))
    names = model.site_table.match(sites)
    bare = fresh_model(model, seed) if fresh is None else fresh
    both: list[Activations] = [each.capture(prompts, names) for each in (model, bare)]
    found = []
    for i, site in enumerate(names):
        read, bare_read = (_matrix(acts.last(site)) for acts in both)
        accuracy, shuffled = readout_of(read, codes, families, n_perm=n_perm, seed=seed)
        random_weights = _share(_right_by_group(bare_read, codes[:, None], families)[:, 0], seed)
        majority = float(np.bincount(codes).max() / len(codes))
        found.append(Readout(site, accuracy, shuffled, random_weights, majority))
        if progress is not None:
            progress(i + 1, len(names))
    return found


def readout_of(
    activations: Float[Tensor, "row d"] | NDArray[Any],
    labels: Sequence[Hashable] | NDArray[Any],
    groups: Sequence[Hashable] | NDArray[Any],
    *,
    n_perm: int = 200,
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """(share of held-out rows read rightly, over groups; its null, with shuffled labels).

    Features are standardised on the training part. The classifier is ridge regression on one-hot labels (scikit-learn's
    RidgeCV, as RidgeClassifier), because one decomposition then serves all permutations. Labels are shuffled among
    groups where every row of a group has the same label, else within groups.
    """
    x = _matrix(activations)
    codes, families = _coded(labels, groups, len(x))
    if n_perm < 1:
        raise UserError(f"n_perm={n_perm}; expected 1 or more: the accuracy alone says nothing")
    dealt = np.stack([codes, *_shuffled(codes, families, n_perm, seed)], axis=1)  # [row, 1 + n_perm]
    by_group = _right_by_group(x, dealt, families)
    return _share(by_group[:, 0], seed), null_of(by_group[:, 1:].mean(0), unit=UNIT)


def _share(by_group: NDArray[Any], seed: int) -> Estimate:
    return estimate_mean(by_group, unit=UNIT, over="group", bounds=(0.0, 1.0), seed=seed)


def _right_by_group(x: NDArray[Any], dealt: NDArray[Any], families: NDArray[Any]) -> NDArray[Any]:
    """Share of each group's rows that are read rightly [group, labelling]."""
    if not np.isfinite(x).all():
        raise UserError("the activations hold NaN or infinite numbers; leave padding out")
    right = _held_out(x, dealt, families)
    return np.stack([right[families == g].mean(0) for g in range(families.max() + 1)])


def _matrix(activations: Any) -> NDArray[np.float64]:
    plain = activations.detach().float().cpu() if isinstance(activations, Tensor) else activations
    return np.asarray(plain, np.float64).reshape(len(plain), -1)


def _held_out(x: NDArray[Any], dealt: NDArray[Any], families: NDArray[Any]) -> NDArray[Any]:
    """Is each row read rightly by a classifier that saw none of its group? [row, labelling]"""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.preprocessing import StandardScaler

    kinds = dealt.max() + 1
    right = np.zeros(dealt.shape, dtype=bool)
    targets = np.where(dealt[:, :, None] == np.arange(kinds), 1.0, -1.0).reshape(len(x), -1)
    for train, test in GroupKFold(min(FOLDS, families.max() + 1)).split(x, groups=families):
        missing = set(range(kinds)) - set(dealt[train, 0].tolist())
        if missing:
            raise UserError(
                "a label occurs in one group only, so that holding the group out leaves nothing to learn it from; "
                "expected every label in two groups or more"
            )
        scaler = StandardScaler().fit(x[train])
        model = RidgeCV(ALPHAS, alpha_per_target=True).fit(scaler.transform(x[train]), targets[train])
        scores = model.predict(scaler.transform(x[test])).reshape(len(test), dealt.shape[1], kinds)
        right[test] = scores.argmax(-1) == dealt[test]
    return right


def _shuffled(codes: NDArray[Any], families: NDArray[Any], n: int, seed: int) -> list[NDArray[Any]]:
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(families == g) for g in range(families.max() + 1)]
    constant = all(len(set(codes[rows].tolist())) == 1 for rows in members)
    out = []
    for _ in range(n):
        dealt = codes.copy()
        if constant:
            of_group = rng.permutation([codes[rows[0]] for rows in members])
            for rows, code in zip(members, of_group, strict=True):
                dealt[rows] = code
        else:
            for rows in members:
                dealt[rows] = rng.permutation(codes[rows])
        out.append(dealt)
    return out


def _coded(labels: Any, groups: Any, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and groups as numbers from 0. Raises UserError for too few, and another length."""
    coded = []
    for word, some in (("labels", labels), ("groups", groups)):
        values = list(some.tolist() if hasattr(some, "tolist") else some)
        if len(values) != n:
            raise UserError(f"{len(values)} {word} came for {n} rows; expected one each")
        order = {value: i for i, value in enumerate(dict.fromkeys(values))}
        if len(order) < 2:
            raise UserError(f"all {word} are alike; expected two or more that differ")
        coded.append(np.array([order[value] for value in values]))
    return coded[0], coded[1]
