"""Which features fire at which tokens of a text, and how many never do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp import Claim, Estimate, Rows
from interp.features import Coder
from interp.saes import SAE
from interp.stats import estimate_mean

from . import FEATURE_SHARE, OWN

FEW = 0.1  # share of features

ALIVE = Claim(
    "At most one feature in ten fires on none of {tokens} tokens.",
    expects="less",
    unit=FEATURE_SHARE,
    part=OWN,
    measure="All features are counted, so that the interval is over documents: how far the share would move with other "
    "documents, of which features that fire in a single document tell (the jackknife).",
    caveat="A rare feature may need more text, and one that fires may still mean nothing: read the examples.",
    subject="SAE",
)


@dataclass(frozen=True)
class Firings:
    """Who fires where, a firing after the other in the order of tokens; attention sinks are left out.

    `directions`: what each feature writes. `document` counts the documents from 0.
    """

    token: Int[np.ndarray, " firing"]
    document: Int[np.ndarray, " firing"]
    feature: Int[np.ndarray, " firing"]
    directions: Float[Tensor, "d_sae d"]
    documents: int

    @property
    def d_sae(self) -> int:
        """How many features there are."""
        return len(self.directions)

    def counts(self) -> Int[np.ndarray, "document d_sae"]:
        """How often each feature fires in each document."""
        flat = np.bincount(self.document * self.d_sae + self.feature, minlength=self.documents * self.d_sae)
        return flat.reshape(self.documents, self.d_sae)

    def of_documents(self, chosen: NDArray[np.bool_]) -> Firings:
        """Those in the documents that are chosen; the documents keep their numbers."""
        here = chosen[self.document]
        return replace(self, token=self.token[here], document=self.document[here], feature=self.feature[here])


def firings_of(sae: SAE[Any], rows: Rows) -> Firings:
    """Every firing of every feature on the rows that are no sinks."""
    x, document = rows.clean, rows.document[~rows.is_sink].numpy()
    coder = Coder(sae, x)
    pairs = coder(x).pairs
    fires = pairs.pre > 0
    numbers, place = np.unique(document, return_inverse=True)
    token = pairs.row[fires].long().numpy()
    feature = pairs.feature[fires].long().numpy()
    return Firings(token, place[token], feature, coder.directions.detach().float().cpu(), len(numbers))


def doubled(firings: Firings) -> Firings:
    """The firings of an SAE that has every feature twice, each at half strength: it writes the same sums."""
    twice = {name: getattr(firings, name).repeat(2) for name in ("token", "document")}
    feature = np.stack([firings.feature, firings.feature + firings.d_sae], 1).ravel()
    return replace(firings, **twice, feature=feature, directions=torch.cat([firings.directions] * 2))


def never_fire(firings: Firings, seed: int) -> Estimate:
    """The share of features that fire in no document, with an interval over documents.

    Without a document the share would rise by the features that fire in it alone. These jackknife values scatter as
    far as the share does from one set of documents to another.
    """
    fires_in = firings.counts() > 0
    dead, n = float((~fires_in.any(0)).mean()), firings.documents
    alone = (fires_in & (fires_in.sum(0) == 1)).sum(1) / firings.d_sae
    if np.ptp(alone) == 0:  # no document tells of the others: as for a share that was the same in all of them
        return estimate_mean(np.full(n, dead), unit=FEATURE_SHARE, over="document", bounds=(0.0, 1.0), seed=seed)
    at = estimate_mean(dead - (n - 1) * (alone - alone.mean()), unit=FEATURE_SHARE, over="document", seed=seed)
    return replace(at, low=min(max(at.low, 0.0), at.mean), high=max(min(at.high, 1.0), at.mean))
