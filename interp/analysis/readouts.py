"""Linear readouts (probing classifiers): what a linear classifier reads from an activation, and would read anyway.

The field calls these probes (Alain and Bengio 1610.01644). A high accuracy by itself says little: 576 numbers can tell
40 prompts apart whatever they mean, prompts that share a word are no independent tests, and a model with random weights
lets its input words be read too. So a readout comes with its controls (Hewitt and Liang 1909.03368): whole groups are
held out, labels are shuffled, and the same prompts go through the same architecture with random weights.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.captured import Activations
from interp.model.hooks.tokens import Prompts
from interp.model.model import Model
from interp.model.training.random_weights import with_random_weights
from interp.progress import Progress, silent
from interp.stats.estimate import Estimate
from interp.stats.estimators import estimate_mean, null_of

ALPHAS = np.logspace(-1, 5, 13)
LEAST_DEALS = 39  # of labels: of fewer, none shows what chance reaches in 2.5 %
FOLDS, UNIT = 5, "share of rows, a mean over groups"
Rows = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Readout:
    """How well labels are read from one site: the mean over groups of the share of a group's rows that are right.

    `accuracy`: each row held out once with its whole group. `shuffled`: the same with labels dealt at random, the null.
    `random_weights`: with the activations of a model of random weights. `majority`: what always saying the commonest
    label gets.
    """

    site: str
    accuracy: Estimate
    shuffled: Estimate
    random_weights: Estimate
    majority: float


def read_labels(
    model: Model,
    prompts: Prompts,
    labels: Sequence[Hashable],
    groups: Sequence[Hashable],
    sites: str | Iterable[str],
    *,
    n_perm: int = 200,
    random_weights: Model | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Readout]:
    """A linear classifier a site, on each prompt's last token, judged on groups that it has not seen.

    `groups` [prompt]: what prompts share besides their label: a word, a template, a document. Prompts whose activations
    are equal belong in one group, or the classifier has seen what it is asked. `random_weights`: the model to
    compare with; by default `with_random_weights(model, seed)`.
    Raises UserError for fewer than two labels or groups, and for a label that occurs in one group only.
    """
    codes, families = _coded(labels, groups, len(model.encode(prompts)))
    names = model.tree.match(sites)
    control = with_random_weights(model, seed) if random_weights is None else random_weights
    both: list[Activations] = [each.capture(prompts, names) for each in (model, control)]
    majority = max(float(_by_group((codes == k)[:, None], families).mean()) for k in range(codes.max() + 1))
    found = []
    for i, site in enumerate(names):
        read, control_read = (_matrix(acts.last(site)) for acts in both)
        accuracy, shuffled = readout_of(read, codes, families, n_perm=n_perm, seed=seed)
        accuracy_random = _share(_held_out(control_read, codes[:, None], families), families, seed)
        found.append(Readout(site, accuracy, shuffled, accuracy_random, majority))
        progress("reading labels", i + 1, len(names))
    return found


def readout_of(
    activations: Float[Tensor, "row d"] | NDArray[Any],
    labels: Sequence[Hashable] | NDArray[Any],
    groups: Sequence[Hashable] | NDArray[Any],
    *,
    n_perm: int = 200,
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """(share of held-out rows read rightly, over groups; its null, with labels dealt at random).

    Features are standardised on the training part. For two labels the classifier is scikit-learn's ridge regression on
    ±1, its strength chosen inside each training part; for more it is multinomial logistic regression. Labels are dealt
    in a way that keeps what groups are: where every group has one label, whole groups exchange theirs; else groups of
    one size exchange all of theirs, and each deals its own again. Rows of a group that are equal in everything are
    dealt one label.
    """
    x = _matrix(activations)
    codes, families = _coded(labels, groups, len(x))
    if n_perm < LEAST_DEALS:
        raise UserError(
            f"n_perm={n_perm}; expected {LEAST_DEALS} or more, to show what chance reaches in 2.5 %; for the accuracy "
            "alone, interp.analysis.read_accuracy"
        )
    dealt = np.stack([codes, *_dealt(x, codes, families, n_perm, seed)], axis=1)  # [row, 1 + n_perm]
    right = _held_out(x, dealt, families)
    return _share(right, families, seed), null_of(_by_group(right[:, 1:], families).mean(0), unit=UNIT)


def read_accuracy(
    activations: Float[Tensor, "row d"] | NDArray[Any],
    labels: Sequence[Hashable] | NDArray[Any],
    groups: Sequence[Hashable] | NDArray[Any],
    *,
    seed: int = 0,
) -> Estimate:
    """`readout_of` without its null: a share that is compared with another share, not with chance."""
    x = _matrix(activations)
    codes, families = _coded(labels, groups, len(x))
    return _share(_held_out(x, codes[:, None], families), families, seed)


def _share(right: NDArray[np.bool_], families: Codes, seed: int) -> Estimate:
    """Over groups, for the first labelling."""
    values = _by_group(right[:, :1], families)[:, 0]
    return estimate_mean(values, unit=UNIT, over="group", bounds=(0.0, 1.0), seed=seed)


def _by_group(right: NDArray[np.bool_], families: Codes) -> Rows:
    """Share of each group's rows [group, labelling]."""
    return np.stack([right[families == g].mean(0) for g in range(families.max() + 1)])


def _matrix(activations: Any) -> Rows:
    plain = activations.detach().float().cpu() if isinstance(activations, Tensor) else activations
    return np.asarray(plain, np.float64).reshape(len(plain), -1)


def _held_out(x: Rows, dealt: Codes, families: Codes) -> NDArray[np.bool_]:
    """Is each row read rightly by a classifier that saw none of its group? [row, labelling]"""
    from sklearn.preprocessing import StandardScaler

    if not np.isfinite(x).all():
        raise UserError("the activations hold NaN or infinite numbers; leave padding out")
    right = np.zeros(dealt.shape, dtype=bool)
    for train, test in _folds(x, dealt[:, 0], families):
        scaler = StandardScaler().fit(x[train])
        read = _two if dealt.max() == 1 else _several
        seen, asked = (np.asarray(scaler.transform(x[rows])) for rows in (train, test))
        right[test] = read(seen, asked, dealt[train]) == dealt[test]
    return right


def _two(seen: Rows, asked: Rows, dealt: Codes) -> Codes:
    """Ridge regression on ±1, as RidgeClassifier: one decomposition serves all labellings [row, labelling]."""
    from sklearn.linear_model import RidgeCV

    fitted = RidgeCV(ALPHAS, alpha_per_target=True).fit(seen, np.where(dealt == 1, 1.0, -1.0))
    return (fitted.predict(asked).reshape(len(asked), -1) > 0).astype(np.int64)


def _several(seen: Rows, asked: Rows, dealt: Codes) -> Codes:
    """Multinomial logistic regression: ridge on three labels or more hides those that lie between others."""
    from sklearn.linear_model import LogisticRegression

    # A classifier of n rows looks along n directions only; the rest of d_model would be carried for nothing.
    _, sizes, axes = np.linalg.svd(seen, full_matrices=False)
    axes = axes[sizes > 1e-9 * sizes[0]].T if sizes[0] > 0 else axes[:1].T
    seen, asked = seen @ axes, asked @ axes
    out = np.empty((len(asked), dealt.shape[1]), dtype=np.int64)
    for j, told in enumerate(dealt.T):
        if len(set(told.tolist())) < 2:  # a deal may leave one label to learn
            out[:, j] = told[0]
        else:
            out[:, j] = LogisticRegression(max_iter=2000).fit(seen, told).predict(asked)
    return out


def _folds(x: Rows, codes: Codes, families: Codes) -> list[tuple[Codes, Codes]]:
    """Splits that hold whole groups out and leave every label to learn: five, or one a group where labels are rare."""
    from sklearn.model_selection import GroupKFold

    n_groups = int(families.max()) + 1
    for folds in (min(FOLDS, n_groups), n_groups):
        splits = list(GroupKFold(folds).split(x, groups=families))
        if all(len(set(codes[train].tolist())) == codes.max() + 1 for train, _ in splits):
            return splits
    raise UserError(
        "a label occurs in one group only, so that holding the group out leaves nothing to learn it from; expected "
        "every label in two groups or more"
    )


def _dealt(x: Rows, codes: Codes, families: Codes, n: int, seed: int) -> list[Codes]:
    rng = np.random.default_rng(seed)
    members = [_units(x, codes, np.flatnonzero(families == g)) for g in range(families.max() + 1)]
    labels = [np.array([codes[rows[0]] for rows in units]) for units in members]
    if all(len(set(own.tolist())) == 1 for own in labels):
        ones = np.array([own[0] for own in labels])
        deals = (
            [np.full(len(own), one) for own, one in zip(labels, rng.permutation(ones), strict=True)] for _ in range(n)
        )
    else:
        deals = (_exchanged(labels, rng) for _ in range(n))
    out = []
    for deal in deals:
        dealt = codes.copy()
        for units, own in zip(members, deal, strict=True):
            for rows, label in zip(units, own, strict=True):
                dealt[rows] = label
        out.append(dealt)
    return out


def _units(x: Rows, codes: Codes, rows: Codes) -> list[Codes]:
    """The rows of a group, those that are equal in activation and label together."""
    units: dict[tuple[bytes, int], list[int]] = {}
    for row in rows.tolist():
        units.setdefault((x[row].tobytes(), int(codes[row])), []).append(row)
    return [np.array(some) for some in units.values()]


def _exchanged(labels: list[Codes], rng: np.random.Generator) -> list[Codes]:
    """Groups of one size exchange their labels, and every group deals what it got among its rows."""
    out = list(labels)
    for size in {len(own) for own in labels}:
        same = [g for g, own in enumerate(labels) if len(own) == size]
        for to, origin in zip(same, rng.permutation(same).tolist(), strict=True):
            out[to] = rng.permutation(labels[origin])
    return out


def _coded(labels: Any, groups: Any, n: int) -> tuple[Codes, Codes]:
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
