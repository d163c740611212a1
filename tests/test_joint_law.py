"""The joint law of parameters and data is found where losses were made by one, and not where they were not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from refusals import the_line
from scipy import optimize

from interp.stats.estimators import estimate_gap
from interp.stats.joint_edge import edge_misses
from interp.stats.joint_fit import HUBER, descend, starts
from interp.stats.joint_law import estimate_joint_law, fit_joint_law, joint_law_by_chance
from interp.stats.values import BadValuesError

N, D = (x.ravel() for x in np.meshgrid(np.geomspace(3.7e3, 1e5, 5), np.geomspace(6.4e4, 5.12e5, 4), indexing="ij"))
EDGE = np.isclose(N, N.max()) | np.isclose(D, D.max())
SEED_NOISE = 0.005
Law = Callable[[np.ndarray, np.ndarray], np.ndarray]


def joint(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return 1.0 + 0.5 * (n / 1e4) ** -0.3 + 0.5 * (d / 2e5) ** -0.4


def flat(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return 2.0 + 0 * n


def of_parameters(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return 1.0 + (n / 1e4) ** -0.3


def of_compute(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return 2.0 * (n * d / 2e9) ** -0.15


def noisy(law: Law, rng: np.random.Generator, seeds: int = 2) -> np.ndarray:
    return law(N, D)[:, None] * np.exp(rng.normal(0, SEED_NOISE, (len(N), seeds)))


@pytest.mark.parametrize(("floor", "a", "b"), [(1.0, 0.3, 0.4), (0.2, 0.08, 0.3), (1.69, 0.34, 0.28), (1.0, -0.2, 0.5)])
def test_an_exact_law_is_found_exactly(floor: float, a: float, b: float) -> None:
    law = fit_joint_law(N, D, floor + 0.6 * (N / 1e4) ** -a + 0.4 * (D / 2e5) ** -b)
    assert (law.a, law.b) == pytest.approx((a, b), abs=0.01)
    assert law.floor == pytest.approx(floor, abs=0.05)
    beyond = float(law.predict([3e5], [1e6])[0])
    assert beyond == pytest.approx(floor + 0.6 * 30.0**-a + 0.4 * 5.0**-b, rel=5e-3)
    assert law.best_size == (pytest.approx(b / (a + b), abs=0.02) if a > 0 else None)


def test_the_minimum_is_scipys() -> None:
    """Huber's loss on log losses; the batched steps against one call of `least_squares` from the same start."""
    rng = np.random.default_rng(0)
    u, v = np.log(N) - np.log(N).mean(), np.log(D) - np.log(D).mean()
    for _ in range(5):
        loss = noisy(joint, rng).mean(1)
        loss[3] *= 1.3  # one model that went wrong
        y = np.log(loss)
        first = starts(u, v, y, np.array([[0.3, 0.3]]))

        def off(p: Any, y: np.ndarray = y) -> np.ndarray:
            return np.log(np.exp(p[0]) + np.exp(p[1] - p[3] * u) + np.exp(p[2] - p[4] * v)) - y

        best: Any = optimize.least_squares(off, first[0], loss="huber", f_scale=HUBER, max_nfev=5000, xtol=1e-12)
        _, cost = descend(u[None], v[None], y[None], first)
        assert cost[0] == pytest.approx(best.cost, rel=2e-3)
    pulled = fit_joint_law(N, D, np.where(np.arange(len(N)) == 3, 1.3, 1.0) * noisy(joint, rng).mean(1))
    assert (pulled.a, pulled.b) == pytest.approx((0.3, 0.4), abs=0.08), "one bad model does not decide the law"


def test_intervals_hold_the_exponents_that_were_put_in() -> None:
    rng = np.random.default_rng(0)
    held = np.zeros(3)
    for seed in range(40):
        found = estimate_joint_law(N, D, noisy(joint, rng), n_boot=100, seed=seed)
        assert found.best_size is not None
        assert min(found.a.low, found.b.low) > 0.1, "with so little noise the law is seen"
        held += [
            one.low <= truth <= one.high
            for one, truth in ((found.a, 0.3), (found.b, 0.4), (found.best_size, 0.4 / 0.7))
        ]
    assert held.min() >= 36, "95 % of 40 is 38"
    again = estimate_joint_law(N, D, noisy(joint, np.random.default_rng(1)), n_boot=50, seed=3)
    assert again == estimate_joint_law(N, D, noisy(joint, np.random.default_rng(1)), n_boot=50, seed=3)


def test_what_does_not_matter_has_no_exponent_above_zero() -> None:
    """Nothing matters, or parameters alone: a yes to the other is false, and must come in about 2.5 % of grids."""
    rng = np.random.default_rng(0)
    false_yes = wide = 0
    for seed in range(30):
        nothing = estimate_joint_law(N, D, noisy(flat, rng), n_boot=80, seed=seed)
        one = estimate_joint_law(N, D, noisy(of_parameters, rng), n_boot=80, seed=seed)
        false_yes += (nothing.a.low > 0) + (nothing.b.low > 0) + (one.b.low > 0)
        assert one.a.low > 0.1
        wide += one.best_size is None or one.best_size.high - one.best_size.low > 0.6
    assert wide >= 25, "where data do nothing, no best size is told"
    assert false_yes <= 6, "2.5 % of 90 is 2"


def test_losses_that_are_dealt_at_random_show_no_law_and_the_share_says_so() -> None:
    losses = noisy(joint, np.random.default_rng(0))
    by_chance = joint_law_by_chance(N, D, losses, n_deals=40, n_boot=40)
    assert by_chance.mean <= 0.1
    assert by_chance.n == 40
    same = np.stack([losses[:, 0], losses[:, 0]], 1)
    assert estimate_joint_law(N, D, same, n_boot=40).a.low > 0, "the same losses where they belong"


def test_the_edge_is_foretold_better_where_the_law_is_a_joint_one_and_not_elsewhere() -> None:
    rng = np.random.default_rng(0)
    better = dict.fromkeys((joint, flat, of_parameters, of_compute), 0)
    for law in better:
        for _ in range(12):
            off = edge_misses(N, D, noisy(law, rng))
            gap = estimate_gap(off.joint, off.alone[off.best_alone], unit="nats", over="point").gap
            better[law] += gap.high < 0
    assert better[joint] >= 8
    assert max(better[flat], better[of_parameters], better[of_compute]) <= 2
    off = edge_misses(N, D, noisy(of_compute, rng))
    assert off.best_alone == "compute"
    assert off.multiplied.mean() < off.joint.mean(), "a law of compute is one of both multiplied"
    assert off.nearest.mean() > 5 * off.alone["compute"].mean(), "a law that is there beats the nearest model"
    assert len(off.joint) == EDGE.sum() == 8


def test_the_edge_is_not_seen_by_the_laws() -> None:
    """The planted fault: were the edge fitted, a change of its losses would move what is foretold."""
    losses = joint(N, D)
    raised = np.where(EDGE, losses + 10, losses)
    for law, moved in zip(
        (lambda off: off.joint, lambda off: off.multiplied, lambda off: off.alone["data"], lambda off: off.nearest),
        [edge_misses(N, D, raised)] * 4,
        strict=True,
    ):
        np.testing.assert_allclose(law(moved), 10, atol=2)


@pytest.mark.parametrize(
    ("n", "d", "loss", "says"),
    [
        (N, np.where(D > 2e5, 2.0, 1.0), joint(N, D), "5 sizes, 2 amounts and 20 points came"),
        ([1, 2, 3] * 2, [1, 1, 2, 2, 3, 3], [6, 5, 4, 3, 2, 1], "3 sizes, 3 amounts and 6 points came"),
        (np.geomspace(1, 9, 9), 20 * np.geomspace(1, 9, 9), np.arange(9, 0, -1), "one goes in step with the other"),
        (N, D, 2 + 0 * N, "all 20 are 2"),
        (N, D, joint(N, D) - 1.9, "0 or less came"),
        (N, D, np.where(np.arange(20) < 4, np.nan, 2.0), "4 NaN of 20 values"),
        (N, D[:5], joint(N, D), r"shapes \(20,\), \(5,\) and \(20, 1\) came"),
        (N, D, np.ones((2, 20)), r"and \(2, 20\) came"),
    ],
)
def test_a_grid_that_decides_no_law_is_refused_in_one_line(n: Any, d: Any, loss: Any, says: str) -> None:
    for ask in (fit_joint_law, estimate_joint_law, joint_law_by_chance):
        with pytest.raises(BadValuesError, match=says) as refused:
            ask(n, d, loss)
        the_line(refused)


@pytest.mark.parametrize(
    ("keep", "says"),
    [(np.arange(20) > 11, "2 and 4 came"), (~np.isclose(D, D.max()), "5 and 3 came"), (D < 0, "no values")],
)
def test_an_edge_that_leaves_too_little_is_refused(keep: np.ndarray, says: str) -> None:
    with pytest.raises(BadValuesError, match=says) as refused:
        edge_misses(N[keep], D[keep], joint(N, D)[keep])
    the_line(refused)
