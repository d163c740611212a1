"""Which features of a sparse autoencoder appear or vanish at the token before the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from interp import Control, Figure, Finding, Lab, Model, Row, split_corpus
from interp.saes import attach_sae, encode_features, measure_fit, site_of
from interp.stats import estimate_crossed, estimate_mean

from . import MOVED
from .questions import Exam

CHOSEN = 8
UNIT = "activation"


def features_moved(lab: Lab, exam: Exam, tuned: Model, folder: Path) -> Finding | None:
    """Chosen on one half of the held-out questions, judged on the other; None where too few features fire."""
    lab.progress("reading features", 0, 1)
    sae = attach_sae(folder, lab.model)
    site, prompts = site_of(sae), [question.prompt for question in exam.held_out]
    before, after = (
        encode_features(sae, torch.as_tensor(some.capture(prompts, site).last(site))) for some in (lab.model, tuned)
    )
    firing = np.flatnonzero((before != 0).any(0) | (after != 0).any(0))
    if len(firing) < 4 * CHOSEN:
        return None
    rise = after - before
    order = firing[np.argsort(-rise[::2, firing].mean(0), kind="stable")]
    up, down, others = order[:CHOSEN], order[::-1][:CHOSEN], order[CHOSEN:-CHOSEN]
    rng = np.random.default_rng(lab.seed)
    sets = [rng.choice(others, CHOSEN, replace=False) for _ in range(8)]
    table: list[Row] = []
    for some in (up, down[::-1]):
        for feature in some.tolist():
            for name, acts in (("before", before), ("after", after)):
                at = estimate_mean(acts[1::2, feature], unit=UNIT, over="question", seed=lab.seed)
                table.append({"feature": f"feature {feature}", "fine-tuning": name, "mean activation": at.mean})
                table[-1] |= {"low": at.low, "high": at.high, "fires (share)": float((acts[1::2, feature] != 0).mean())}
    fits = [measure_fit(sae, some, split_corpus()[1]).explained_variance for some in (lab.model, tuned)]
    return Finding(
        claim="The same features come up before the answer, whatever the question.",
        estimate=estimate_mean(rise[1::2, up].mean(1), unit=UNIT, over="question", seed=lab.seed),
        control=Control(
            f"{CHOSEN} others that fire there",
            estimate_crossed([np.stack([rise[1::2, some].mean(1) for some in sets])], unit=UNIT, over="question"),
        ),
        expects="greater",
        part=MOVED,
        measure=f"By how much the {CHOSEN} features that rise most in one half of the held-out questions rise in the "
        f"other half, at {site}. The {CHOSEN} that fall most change by {rise[1::2, down].mean():.2g} there.",
        caveat="The dictionary was learned from the model before fine-tuning: of its ordinary text it explains "
        f"{fits[0]:.0%} of the variance, of the fine-tuned model's {fits[1]:.0%}. What it has no feature for is not "
        "seen. What a feature fires on, an index says (interp features show).",
        table=table,
        figure=Figure(
            "effect_bars", x="mean activation", y="feature", group="fine-tuning", low="low", high="high",
            caption="The features that rise most, then those that fall most, in the questions that did not choose "
            "them. Intervals over questions.",
        ),
    )  # fmt: skip
