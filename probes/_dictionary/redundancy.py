"""Is a feature there twice? By its direction, and by the tokens where it fires."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp import Claim, Figure, Finding, Lab, NotAsked, Row, set_beforehand
from interp.stats import estimate_mean

from . import CONTROLS, FEATURE_SHARE, FIRING_SHARE, OWN, RANDOM, TOKEN_SHARE
from .firings import Firings, doubled

COPY, FEW, HALF = 0.9, 0.1, 0.5  # cosine; share of firings; share of tokens
LINES = (0.5, 0.6, 0.7, 0.8, COPY, 0.95)
AT_ONCE, MOST_PAIRS = 1024, 8_000_000  # features; pairs of features that fire together
SHARES = (0.0, 1.0)

OWN_DIRECTIONS = Claim(
    f"Features have directions of their own: under one firing in ten is of a feature with a copy (cosine {COPY}).",
    expects="less",
    unit=FIRING_SHARE,
    part=OWN,
    answers=True,
    measure="Each feature's direction beside all others of the dictionary. An SAE with every feature twice, at half "
    "strength, explains as much as before, and all of its firings are of copies.",
    caveat="Directions that differ can still mean the same.",
    subject="SAE",
)
OWN_TOKENS = Claim(
    "Features fire at tokens of their own: with the feature that fires with it most, one shares under half of them.",
    expects="less",
    unit=TOKEN_SHARE,
    part=OWN,
    measure="Tokens where a feature and its partner both fire, of those where either does. Every second document "
    "chooses the partner, the others judge.",
    caveat="A feature can be cut into parts that fire at different tokens: neither number sees that.",
    subject="SAE",
)
COPIES_FOUND = Claim(
    "Positive control: with every feature twice, at half strength, all firings are of a feature with a copy.",
    expects="greater",
    unit=FIRING_SHARE,
    part=CONTROLS,
    subject="SAE",
)
PARTNERS_FOUND = Claim(
    "Positive control: and every feature shares its tokens with its partner.",
    expects="greater",
    unit=TOKEN_SHARE,
    part=CONTROLS,
    subject="SAE",
)


@torch.no_grad()
def nearest(directions: Float[Tensor, "d_sae d"]) -> Float[np.ndarray, " d_sae"]:
    """The cosine of each feature's direction with that of another which is nearest to it."""
    unit = torch.nn.functional.normalize(directions, dim=1)
    largest = []
    for start in range(0, len(unit), AT_ONCE):
        cosines = unit[start : start + AT_ONCE] @ unit.T
        each = torch.arange(len(cosines))
        cosines[each, start + each] = -1.0
        largest.append(cosines.max(1).values)
    return torch.cat(largest).double().numpy()


def partners(firings: Firings) -> Int[np.ndarray, " d_sae"]:
    """The feature that shares most of each one's tokens, the nearest of equals; -1 where it never fires with one."""
    token, feature, d = firings.token, firings.feature, firings.d_sae
    active = np.unique(token, return_counts=True)[1]
    if (every := -(-int((active.astype(np.int64) ** 2).sum()) // MOST_PAIRS)) > 1:  # too many: one in so many tokens
        here = token % every == 0
        token, feature = token[here], feature[here]
        active = np.unique(token, return_counts=True)[1]
    starts, sizes = np.cumsum(active) - active, np.repeat(active, active)
    first = np.repeat(feature, sizes)
    within = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    second = feature[np.repeat(np.repeat(starts, active), sizes) + within]
    pairs, together = np.unique((first * d + second)[first != second], return_counts=True)
    one, other = np.divmod(pairs, d)
    alone = np.bincount(feature, minlength=d)
    overlap = together / (alone[one] + alone[other] - together)
    most = np.zeros(d)
    np.maximum.at(most, one, overlap)
    best = overlap == most[one]
    one, other = one[best], other[best]
    unit = torch.nn.functional.normalize(firings.directions, dim=1)
    order = np.argsort((unit[one] * unit[other]).sum(1).numpy(), kind="stable")
    chosen = np.full(d, -1)
    chosen[one[order]] = other[order]  # the nearest is written last
    return chosen


def overlaps(firings: Firings, partner: Int[np.ndarray, " d_sae"]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tokens that features share with their partners, of those where either fires: by document, and by feature.

    NaN for a document, or a feature, in which none that has a partner fires.
    """
    d, counts = firings.d_sae, firings.counts()
    sites = np.sort(firings.token * d + firings.feature)
    wanted = firings.token * d + partner[firings.feature]
    at = np.minimum(np.searchsorted(sites, wanted), len(sites) - 1)
    both = (sites[at] == wanted) & (partner[firings.feature] >= 0)
    shared = np.bincount((firings.document * d + firings.feature)[both], minlength=counts.size).reshape(counts.shape)
    either = np.where((counts > 0) & (partner >= 0), counts + counts[:, partner] - shared, 0)
    whole = np.where((counts.sum(0) > 0) & (partner >= 0), counts.sum(0) + counts.sum(0)[partner] - shared.sum(0), 0)
    with np.errstate(invalid="ignore"):
        return shared.sum(1) / either.sum(1), shared.sum(0) / whole


def copied(firings: Firings, cosines: NDArray[np.float64], line: float) -> NDArray[np.float64]:
    """The share of each document's firings that are of features with another as near as that."""
    counts = firings.counts()
    fires = counts.sum(1) > 0
    return counts[fires][:, cosines >= line].sum(1) / counts[fires].sum(1)


def shared(firings: Firings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`overlaps` in every second document, with the partners that the others chose."""
    chooses = np.arange(firings.documents) % 2 == 0
    by_document, by_feature = overlaps(firings.of_documents(~chooses), partners(firings.of_documents(chooses)))
    return by_document[~np.isnan(by_document)], by_feature


def redundancy(lab: Lab, firings: Firings, random: Float[Tensor, "d_sae d"]) -> Iterator[Finding | NotAsked]:
    """How many features have a copy, and how many fire where another does."""
    cosines, by_chance = nearest(firings.directions), nearest(random)
    fires = firings.counts().sum(0) > 0
    table: list[Row] = [
        {"cosine": line, "dictionary": name, FEATURE_SHARE: float(np.mean(of >= line))}
        for name, of in (("trained", cosines[fires]), (RANDOM, by_chance))
        for line in LINES
    ]
    by_document, by_feature = shared(firings)
    twice = (cosines >= COPY) & (by_feature >= HALF)
    yield OWN_DIRECTIONS.answer(
        estimate_mean(copied(firings, cosines, COPY), unit=FIRING_SHARE, over="document", bounds=SHARES, seed=lab.seed),
        set_beforehand(FEW, FIRING_SHARE, "one in ten"),
        measure=f"{int((cosines[fires] >= COPY).sum()):,} of {int(fires.sum()):,} features that fire have one; "
        f"{int(twice.sum()):,} of them also share half of their tokens with the feature that fires with them most. "
        f"The nearest other direction has a cosine of {np.median(cosines[fires]):.2f} in the middle, of random "
        f"directions {np.median(by_chance):.2f}.",
        table=table,
        figure=Figure(
            "lines",
            x="cosine",
            y=FEATURE_SHARE,
            group="dictionary",
            caption="How many features have another as near as that.",
        ),
    )
    if not len(by_document):
        yield OWN_TOKENS.not_asked("because no two features fire at one token in the documents that judge")
        return
    known = by_feature[~np.isnan(by_feature)]
    yield OWN_TOKENS.answer(
        estimate_mean(by_document, unit=TOKEN_SHARE, over="document", bounds=SHARES, seed=lab.seed),
        set_beforehand(HALF, TOKEN_SHARE, "half of them"),
        table=[
            {
                "shared tokens (share), at least": line,
                FEATURE_SHARE: float(np.mean(known >= line)),
            }
            for line in (0.1, 0.25, HALF, 0.75, 0.9)
        ],
    )


def redundancy_found(lab: Lab, firings: Firings) -> Iterator[Finding | NotAsked]:
    """The same of an SAE that has every feature twice."""
    twice = doubled(firings)
    copies, (by_document, _) = copied(twice, nearest(twice.directions), COPY), shared(twice)
    yield COPIES_FOUND.answer(
        estimate_mean(copies, unit=FIRING_SHARE, over="document", bounds=SHARES, seed=lab.seed),
        set_beforehand(HALF, FIRING_SHARE, "half of them"),
    )
    if len(by_document):
        yield PARTNERS_FOUND.answer(
            estimate_mean(by_document, unit=TOKEN_SHARE, over="document", bounds=SHARES, seed=lab.seed),
            set_beforehand(HALF, TOKEN_SHARE, "half of them"),
        )
    else:
        yield PARTNERS_FOUND.not_asked("because no feature fires in the documents that choose and in those that judge")
