"""Which features of a sparse autoencoder appear or vanish at the token before the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from interp import Claim, Finding, Lab, Model, NotAsked, Row, measured, same_as, split_corpus
from interp.saes import attach_sae, encode_features, measure_fit, shipped_sae, site_of
from interp.stats import estimate_mean

from . import MOVED
from .questions import Exam

CHOSEN, SETS = 8, 8
UNIT = "activation"

COME_UP = Claim(
    "The same features come up before the answer, whatever the question.",
    expects="greater",
    unit=UNIT,
    part=MOVED,
    measure=f"By how much the {CHOSEN} features that rise most in one half of the held-out questions rise in the other "
    f"half, above {CHOSEN} others that fire there, drawn {SETS} times.",
    caveat="What the dictionary has no feature for is not seen. What a feature fires on, an index says (interp "
    "features show).",
)


def features_moved(lab: Lab, exam: Exam, tuned: Model) -> Finding | NotAsked:
    """Chosen on one half of the held-out questions, judged on the other."""
    folder = lab.sae_folder or shipped_sae(lab.model)
    if folder is None:
        return COME_UP.not_asked(f"because no SAE ships for {lab.model.provenance.name}: --sae FOLDER gives one")
    return _come_up(lab, exam, tuned, folder)


def _come_up(lab: Lab, exam: Exam, tuned: Model, folder: Path) -> Finding | NotAsked:
    lab.progress("reading features", 0, 1)
    sae = attach_sae(folder, lab.model)
    site, prompts = site_of(sae), [question.prompt for question in exam.held_out]
    before, after = (
        encode_features(sae, torch.as_tensor(model.capture(prompts, site).last(site))) for model in (lab.model, tuned)
    )
    firing = np.flatnonzero((before != 0).any(0) | (after != 0).any(0))
    if len(firing) < 4 * CHOSEN:
        return COME_UP.not_asked(
            f"because {len(firing)} features of the SAE fire before an answer; {4 * CHOSEN} are needed"
        )
    rise = after - before
    order = firing[np.argsort(-rise[::2, firing].mean(0), kind="stable")]
    up, down, others = order[:CHOSEN], order[::-1][:CHOSEN], order[CHOSEN:-CHOSEN]
    rng = np.random.default_rng(lab.seed)
    beside = np.stack([rise[1::2, rng.choice(others, CHOSEN, replace=False)].mean(1) for _ in range(SETS)]).mean(0)
    told = measured(
        {
            (f"feature {feature}", name): acts[1::2, feature]
            for feature in (*up.tolist(), *down[::-1].tolist())
            for name, acts in (("before", before), ("after", after))
        },
        by=("feature", "fine-tuning"),
        value="mean activation",
        unit=UNIT,
        over="question",
        seed=lab.seed,
    )
    table: list[Row] = []
    for row in told.rows():
        acts = before if row["fine-tuning"] == "before" else after
        number = int(str(row["feature"]).removeprefix("feature "))
        table.append(row | {"fires (share)": float((acts[1::2, number] != 0).mean())})
    fits = [measure_fit(sae, model, split_corpus()[1]).explained_variance for model in (lab.model, tuned)]
    risen = rise[1::2, up].mean(1)
    return COME_UP.answer(
        estimate_mean(risen - beside, unit=UNIT, over="question", seed=lab.seed),
        same_as(UNIT, f"in {CHOSEN} others that fire there"),
        measure=f"At {site}: {risen.mean():.3g} against {beside.mean():.2g}. The {CHOSEN} that fall most change by "
        f"{rise[1::2, down].mean():.2g} there.",
        caveat="The dictionary was learned from the model before fine-tuning: of its ordinary text it explains "
        f"{fits[0]:.0%} of the variance, of the fine-tuned model's {fits[1]:.0%}.",
        table=table,
        figure=told.bars(
            y="feature",
            caption="The features that rise most, then those that fall most, in the questions that did not choose "
            "them. Intervals over questions.",
        ),
    )
