"""Coverage of the intervals in `interp.stats`: how often they miss the truth, each side apart, in the probes' shapes.

`python scripts/simulate_statistics.py` takes some minutes on one core and writes the tables of
`interp/stats/README.md` between their marks; `--only few crossed` makes some of them again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from interp.stats import (
    Estimate,
    crossfitted_frontier,
    estimate_crossed,
    estimate_joint_law,
    expanded_percentile,
    fit_power_law,
    known,
    lower_envelope,
    null_of,
    proportion,
    silent_wordings,
)
from interp.stats.corrections import p_below
from interp.stats.mean_interval import alike, mean_limits

README = Path(__file__).parents[1] / "interp" / "stats" / "README.md"
MARKS = ("<!-- simulated: begin -->", "<!-- simulated: end -->")
SIZES, FEW = (5, 8, 16, 20, 48), (2, 3, 4)  # a quick run has few
STUDIES = 20_000
NAMES = ("means", "unseen", "widths", "shares", "gaps", "few", "tails", "crossed", "frontiers", "others")
ANY = (-np.inf, np.inf)
SIDE, LEAST = 3.5, 93.0  # percent: what a side may miss at most, what an interval must hold
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

UNBOUNDED: dict[str, tuple[Draw, float]] = {
    "normal, mean 0": (lambda rng, s: rng.normal(size=s), 0.0),
    "normal, mean 2 standard deviations": (lambda rng, s: 2 + rng.normal(size=s), 2.0),
    "t with 3 degrees of freedom": (lambda rng, s: rng.standard_t(3, size=s), 0.0),
    "half-normal": (lambda rng, s: np.abs(rng.normal(size=s)), (2 / np.pi) ** 0.5),
    "exponential": (lambda rng, s: rng.exponential(size=s), 1.0),
    "lognormal(1)": (lambda rng, s: rng.lognormal(size=s), float(np.exp(0.5))),
    "70 % zeros + exponential": (lambda rng, s: rng.exponential(size=s) * (rng.random(s) < 0.3), 0.3),
    "90 % zeros + exponential": (lambda rng, s: rng.exponential(size=s) * (rng.random(s) < 0.1), 0.1),
    "80 % zeros + normal(1, 1)": (lambda rng, s: rng.normal(1, 1, size=s) * (rng.random(s) < 0.2), 0.2),
    "beta(.3, 3), no bounds given": (lambda rng, s: rng.beta(0.3, 3, size=s), 1 / 11),
    "exponential less its mean": (lambda rng, s: rng.exponential(size=s) - 1, 0.0),
    "lognormal(1) less its mean": (lambda rng, s: rng.lognormal(size=s) - float(np.exp(0.5)), 0.0),
}
# No constant was chosen on these: they say how far the rule carries.
UNSEEN: dict[str, tuple[Draw, float]] = {
    "gamma(.5)": (lambda rng, s: rng.gamma(0.5, size=s), 0.5),
    "chi-square, 1 degree of freedom": (lambda rng, s: rng.chisquare(1, size=s), 1.0),
    "lognormal(.7)": (lambda rng, s: rng.lognormal(0, 0.7, size=s), float(np.exp(0.245))),
    "minus exponential": (lambda rng, s: -rng.exponential(size=s), -1.0),
    "geometric(.3)": (lambda rng, s: rng.geometric(0.3, size=s).astype(float), 1 / 0.3),
    "Poisson(.3)": (lambda rng, s: rng.poisson(0.3, size=s).astype(float), 0.3),
    "50 % zeros + lognormal(1)": (lambda rng, s: rng.lognormal(size=s) * (rng.random(s) < 0.5), 0.5 * np.exp(0.5)),
    "90 % zeros + normal(1, 1)": (lambda rng, s: rng.normal(1, 1, size=s) * (rng.random(s) < 0.1), 0.1),
    "Laplace": (lambda rng, s: rng.laplace(size=s), 0.0),
    "uniform": (lambda rng, s: rng.random(s), 0.5),
    "exponential less half its mean": (lambda rng, s: rng.exponential(size=s) - 0.5, 0.5),
    "Pareto(3), from 1": (lambda rng, s: 1 + rng.pareto(3, size=s), 1.5),
}


def zero_or_one(p: float) -> tuple[Draw, float, tuple[float, float]]:
    return lambda rng, s: (rng.random(s) < p).astype(float), p, (0.0, 1.0)


def people(p: float) -> tuple[Draw, float, tuple[float, float]]:
    return lambda rng, s: rng.binomial(20, p, size=s) / 20, p, (0.0, 1.0)


def levels(
    values: Sequence[float], odds: Sequence[float], bounds: tuple[float, float]
) -> tuple[Draw, float, tuple[float, float]]:
    return lambda rng, s: rng.choice(values, size=s, p=odds), float(np.dot(values, odds)), bounds


def two_clusters(rng: np.random.Generator, s: tuple[int, int]) -> np.ndarray:
    return np.where(rng.random(s) < 0.9, 0.1, 0.9) + rng.normal(0, 0.01, size=s)


def differences(zeros: float, up: float) -> tuple[Draw, float, tuple[float, float]]:
    def draw(rng: np.random.Generator, s: tuple[int, int]) -> np.ndarray:
        return np.where(rng.random(s) < zeros, 0.0, np.where(rng.random(s) < up, 1.0, -1.0))

    return draw, (1 - zeros) * (2 * up - 1), (-1.0, 1.0)


BOUNDED: dict[str, tuple[Draw, float, tuple[float, float]]] = {
    "beta(.3, 3) in [0, 1]": (lambda rng, s: rng.beta(0.3, 3, size=s), 1 / 11, (0.0, 1.0)),
    "1 - beta(.3, 3) in [0, 1]": (lambda rng, s: 1 - rng.beta(0.3, 3, size=s), 10 / 11, (0.0, 1.0)),
    "beta(.1, .02) in [0, 1]": (lambda rng, s: rng.beta(0.1, 0.02, size=s), 0.1 / 0.12, (0.0, 1.0)),
    "beta(.05, 5) in [0, 1]": (lambda rng, s: rng.beta(0.05, 5, size=s), 0.05 / 5.05, (0.0, 1.0)),
    "differences .25, 0 and, one in ten, -1": levels((0.25, 0.0, -1.0), (0.4, 0.5, 0.1), (-1.0, 1.0)),
    "shares .9, .95 and, one in ten, 0": levels((0.9, 0.95, 0.0), (0.5, 0.4, 0.1), (0.0, 1.0)),
    "one in ten near .9, the others near .1": (two_clusters, 0.18, (0.0, 1.0)),
    "beta(2, 2) in [0, 1]": (lambda rng, s: rng.beta(2, 2, size=s), 0.5, (0.0, 1.0)),
    **{f"0/1, p = {p}": zero_or_one(p) for p in (0.02, 0.05, 0.2, 0.5, 0.95)},
    **{f"20 people a seed, p = {p}": people(p) for p in (0.02, 0.5, 0.95)},
    "differences in {-1, 0, 1}, 90 % zeros": differences(0.9, 0.5),
    "the same, nine in ten of the others up": differences(0.9, 0.9),
    "differences, 30 % zeros, 70 % up": differences(0.3, 0.7),
}


def misses(low: np.ndarray, high: np.ndarray, truth: float, told: np.ndarray | bool = True) -> tuple[float, float]:
    """Percent of studies whose interval lies below the truth, and above it."""
    return 100 * float((told & (truth > high + 1e-9)).mean()), 100 * float((told & (truth < low - 1e-9)).mean())


def cell(below: float, above: float) -> str:
    bad = max(below, above) > SIDE or below + above > 100 - LEAST
    return f"{'**' if bad else ''}{100 - below - above:.1f} ({below:.1f} / {above:.1f}){'**' if bad else ''}"


def bold(share: float) -> str:
    """The percent of one side's misses."""
    return f"**{share:.1f} %**" if share > SIDE else f"{share:.1f} %"


def means(rng: np.random.Generator) -> Iterator[str]:
    yield from unbounded(rng, "`estimate_mean`", UNBOUNDED)
    for name, (draw, truth, bounds) in BOUNDED.items():
        cells = []
        for n in SIZES:
            values = draw(rng, (STUDIES // 5, n))
            cells.append(cell(*misses(*mean_limits(values, bounds, n_draws=1000), truth)))
        yield f"| {name} | " + " | ".join(cells) + " |"


def unseen(rng: np.random.Generator) -> Iterator[str]:
    yield from unbounded(rng, "`estimate_mean`, shapes on which no constant was chosen", UNSEEN)


def few() -> Iterator[str]:
    yield from unbounded(np.random.default_rng(0), "`estimate_mean`, few units", UNBOUNDED | UNSEEN, FEW)


def unbounded(
    rng: np.random.Generator, title: str, shapes: dict[str, tuple[Draw, float]], sizes: tuple[int, ...] = SIZES
) -> Iterator[str]:
    yield f"| {title} | " + " | ".join(f"n = {n}" for n in sizes) + " |"
    yield "|---|" + "---|" * len(sizes)
    for name, (draw, truth) in shapes.items():
        cells = []
        for n in sizes:
            values = draw(rng, (STUDIES, n))
            cells.append(cell(*misses(*mean_limits(values, ANY), truth, ~alike(values))))
        yield f"| {name} | " + " | ".join(cells) + " |"


def widths(rng: np.random.Generator) -> Iterator[str]:
    yield "| mean width over Student's | " + " | ".join(f"n = {n}" for n in SIZES) + " |"
    yield "|---|" + "---|" * len(SIZES)
    for name in ("normal, mean 0", "normal, mean 2 standard deviations", "exponential", "lognormal(1)"):
        cells = []
        for n in SIZES:
            values = UNBOUNDED[name][0](rng, (STUDIES, n))
            low, high = mean_limits(values, ANY)
            student = 2 * stats.t.ppf(0.975, n - 1) * values.std(1, ddof=1) / n**0.5
            cells.append(f"{np.mean((high - low) / student):.2f}")
        yield f"| {name} | " + " | ".join(cells) + " |"


def tails() -> Iterator[str]:
    """How often `p_below` falls below a level where the truth is the line: what a correction for many rests on."""
    rng = np.random.default_rng(0)
    at = (0.025, 0.0025, 0.0005, 0.0001)
    yield (
        "| p at or below, of a number on the line (truth above it) | " + " | ".join(f"{100 * p:g} %" for p in at) + " |"
    )
    yield "|---|" + "---|" * len(at)
    for name in ("normal, mean 0", "exponential", "lognormal(1)", "70 % zeros + exponential"):
        draw, truth = UNBOUNDED[name]
        for n in (5, 8, 16, 48):
            values = draw(rng, (STUDIES, n))
            values = values[~alike(values)]
            ends = zip(values.mean(1).tolist(), *(end.tolist() for end in mean_limits(values, ANY)), strict=True)
            p = np.array([p_below(Estimate(mean, low, high, n, "x"), truth) for mean, low, high in ends])
            yield (
                f"| {name}, n = {n} | "
                + " | ".join(f"{100 * (p <= level).sum() / STUDIES:.2f} %" for level in at)
                + " |"
            )


def shares() -> Iterator[str]:
    """Exact: every count with its probability."""
    sizes = (4, 5, 8, 16, 24, 48)
    yield "| `proportion`, exact | " + " | ".join(f"n = {n}" for n in sizes) + " |"
    yield "|---|" + "---|" * len(sizes)
    for p in (0.02, 0.1, 0.5, 0.95):
        cells = []
        for n in sizes:
            weights = stats.binom.pmf(np.arange(n + 1), n, p)
            ends = [proportion(np.arange(n) < k, unit="share", over="item") for k in range(n + 1)]
            below = sum(w for w, e in zip(weights, ends, strict=True) if e.high < p)
            above = sum(w for w, e in zip(weights, ends, strict=True) if e.low > p)
            cells.append(cell(100 * below, 100 * above))
        yield f"| p = {p} | " + " | ".join(cells) + " |"


def gaps(rng: np.random.Generator) -> Iterator[str]:
    """Two numbers of the same units, truly equal: the gap as if independent (Newcombe), and paired."""
    yield "| gap of two truly equal numbers: holds (below / above) | n = 5 | n = 8 | n = 16 |"
    yield "|---|---|---|---|"
    for name, rho in (("other units", 0.0), ("same units, correlation .8", 0.8), ("two parts of one whole", -1.0)):
        rows: dict[str, list[str]] = {"as if independent": [], "paired": []}
        for n in (5, 8, 16):
            first = rng.normal(size=(STUDIES, n))
            second = rho * first + (1 - rho**2) ** 0.5 * rng.normal(size=(STUDIES, n))
            (a_low, a_high), (b_low, b_high) = mean_limits(first, ANY), mean_limits(second, ANY)
            a, b = first.mean(1), second.mean(1)
            low = a - b - np.hypot(a - a_low, b_high - b)
            high = a - b + np.hypot(a_high - a, b - b_low)
            rows["as if independent"].append(cell(*misses(low, high, 0.0)))
            rows["paired"].append(cell(*misses(*mean_limits(first - second, ANY), 0.0)))
        for how, cells in rows.items():
            if rho or how != "paired":
                yield f"| {name}, {how} | " + " | ".join(cells) + " |"


def crossed() -> Iterator[str]:
    rng = np.random.default_rng(0)
    yield "| `estimate_crossed`, 24 items | holds (below / above) | a silent wording named |"
    yield "|---|---|---|"
    for wordings in (2, 3, 5):
        for name, spread, silent in (
            ("wordings alike", 0.0, 0.0),
            ("wordings differ", 1.0, 0.0),
            ("one in four silent", 0.1, 0.25),
        )[: 2 if wordings == 2 else None]:  # of two, none can be told from the others
            low, high, named = [], [], []
            truth = 5.0 * (1 - silent)
            for _ in range(2000):
                works = rng.random((wordings, 1)) >= silent
                base = 5 + spread * rng.normal(size=(wordings, 1)) + rng.normal(size=(1, 24))
                table = works * base + rng.normal(size=(wordings, 24))
                e = estimate_crossed([table], unit="nats", over="item")
                low.append(e.low)
                high.append(e.high)
                if silent == 0 or (0 < (~works).sum() < wordings / 2):
                    named.append(bool(silent_wordings([table])))
            held = cell(*misses(np.array(low), np.array(high), truth))
            yield f"| {wordings} wordings, {name} | {held} | {np.mean(named):.0%} |"


def others() -> Iterator[str]:
    rng = np.random.default_rng(0)
    yield "| other | result |"
    yield "|---|---|"
    for n in (8, 16, 48):
        ends = []
        for _ in range(1000):
            values = rng.normal(size=n)
            draws = values[rng.integers(0, n, (400, n))].mean(1)
            ends.append(expanded_percentile(np.concatenate([[values.mean()], draws]), n)[1:])
        low, high = np.array(ends).T
        yield f"| `expanded_percentile`, normal, n = {n} | {cell(*misses(low, high, 0.0))} |"
    for n in (39, 60, 200, 1000):
        null = [null_of(rng.normal(size=n), unit="x") for _ in range(2000)]
        beyond = np.mean([float(stats.norm.sf(e.high)) for e in null])
        yield f"| `null_of`, {n:,} permutations: chance gets beyond its upper end in | {bold(float(100 * beyond))} |"
    x = np.geomspace(1e3, 1e6, 8)
    fits = [fit_power_law(x, x**-0.08 * np.exp(rng.normal(0, 0.01, 8))).exponent for _ in range(1000)]
    ends = np.array([(e.low, e.high) for e in fits]).T
    yield f"| `fit_power_law`, 8 sizes, the exponent | {cell(*misses(ends[0], ends[1], 0.08))} |"
    yield from joint_laws()
    yield f"| `known` | {known(0.5, unit='share', why='chance')}: no uncertainty |"


def joint_laws() -> Iterator[str]:
    """Exponents of a joint law on a grid of four sizes and four amounts, two seeds of 0.5 % each: planted, and none."""
    rng = np.random.default_rng(0)  # of its own: the rows around it keep their draws
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(3.7e3, 2.5e4, 4), np.geomspace(3.2e4, 2.56e5, 4)))
    planted = 1.0 + 0.5 * (n / 1e4) ** -0.3 + 0.5 * (d / 1e5) ** -0.4
    for name, law, truth in (("planted: 0.3", planted, 0.3), ("no law at all: a yes is", np.full(16, 2.0), 0.0)):
        fits = [
            estimate_joint_law(n, d, law[:, None] * np.exp(rng.normal(0, 0.005, (16, 2))), n_boot=150, seed=seed).a
            for seed in range(400)
        ]
        low, high = np.array([(e.low, e.high) for e in fits]).T
        held = (
            cell(*misses(low, high, truth))
            if truth
            else f"{100 * np.mean(low > 0):.1f} % (a no {100 * np.mean(high <= 0):.1f} %)"
        )
        yield f"| `estimate_joint_law`, 16 points, the exponent of parameters, {name} | {held} |"


GRIDS = {"quick": ((12, 16, 24, 32), (500, 1000), 2), "usual": ((12, 16, 24, 32, 48, 64), (500, 1000), 2),
         "full": ((16, 32, 64, 96, 128, 192, 256), (1000, 2000, 4000), 4)}  # fmt: skip


def frontiers() -> Iterator[str]:
    """Losses that do not depend on compute: how often is a falling law seen, of all studies in which it is asked?"""
    rng = np.random.default_rng(0)
    yield (
        "| compute frontier, no law at all (the probe's grids) | asked | false yes when fitted to the losses that "
        "chose it | cross-fitted: asked | false yes | false no |"
    )
    yield "|---|---|---|---|---|---|"
    for name, (widths_, steps, seeds) in GRIDS.items():
        cost = np.array([w * w * s for w in widths_ for s in steps], float)
        naive, crossed_ = [], []
        for _ in range(4000):
            loss = 2 * np.exp(rng.normal(0, 0.005, (len(cost), seeds)))
            kept = lower_envelope(cost, loss.mean(1))
            if len(kept) >= 4:
                naive.append(fit_power_law(cost[kept], loss[kept]).exponent.low > 0)
            fit = crossfitted_frontier(cost, loss)
            if fit is not None:
                crossed_.append((fit.exponent.low > 0, fit.exponent.high <= 0))
        yes, no = 100 * np.mean(crossed_, axis=0) if crossed_ else (0.0, 0.0)
        yield (
            f"| {name} | {len(naive) / 40:.0f} % | {100 * np.mean(naive):.0f} % | {len(crossed_) / 40:.0f} % | "
            f"{bold(yes)} | {bold(no)} |"
        )


def tables(only: Sequence[str], before: dict[str, str]) -> dict[str, str]:
    """Each table by its name; those that were not asked for are as they stand."""
    rng = np.random.default_rng(0)  # the first five draw from one stream; the others have their own
    first = {"means": means(rng), "unseen": unseen(rng), "widths": widths(rng), "shares": shares(), "gaps": gaps(rng)}
    parts = {
        **first,
        "few": few(),
        "tails": tails(),
        "crossed": crossed(),
        "frontiers": frontiers(),
        "others": others(),
    }
    streamed = bool(set(only) & set(first))
    made = {name: "\n".join(part) for name, part in parts.items() if name in only or (streamed and name in first)}
    return {name: made.get(name, before.get(name, "")) for name in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="tables to make again")
    text, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    old, _, after = rest.partition(MARKS[1])
    made = tables(parser.parse_args().only, dict(zip(NAMES, old.strip().split("\n\n"), strict=True)))
    body = "\n\n".join(made.values())
    print(body)
    README.write_text(f"{text}{MARKS[0]}\n\n{body}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
