"""What is lost when the heads that look back are held at their mean, beside as many others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp import Claim, Finding, Lab, NotAsked, measured, same_as, zero
from interp.analysis import continuation, mean_outputs, sets_like
from interp.edits import ablate_heads
from interp.stats import estimate_crossed

from . import NATS, Heads
from .heads import Scores
from .sequences import AT_ONCE, Floats, Ids

SILENCED = Claim(
    "The heads that look back do more for the second copy than others.",
    expects="greater",
    unit=NATS,
    margin=0.5,
    answers=True,
    measure="Log-probability of the second copy's tokens that is lost when the heads are held at their mean, less that "
    "when as many others are.",
    caveat="Other heads of the mechanism, such as those that tell each token which one came before it, are among the "
    "others. Later heads may step in for silenced ones, so that a loss is the least that they do.",
)
OTHERS = Claim(
    "Silencing as many other heads costs little.",
    expects="equal",
    unit=NATS,
    margin=0.5,
    measure="Log-probability of the second copy's tokens that is lost when as many other heads, drawn at random, are "
    "held at their mean.",
)


def silenced(
    lab: Lab,
    heads: Heads,
    scores: Scores,
    choosing: list[Ids],
    judging: list[Ids],
    clean: Float[Tensor, " sequence"],
    random_sets: int,
) -> Iterator[Finding | NotAsked]:
    """What silencing the chosen heads costs, beside as many others; `clean`: each second copy's log-probability."""
    n_layers, n_heads = scores["induction"].shape
    sets = sets_like(heads, (n_layers, n_heads), random_sets, seed=lab.seed * 1000)
    if len(sets) < 2:
        for claim in (SILENCED, OTHERS):
            yield claim.not_asked(f"because {len(sets)} other sets of {len(heads)} heads can be drawn; 2 are needed")
        return
    silence = mean_outputs(lab.model, choosing)
    metric = continuation(judging, [len(ids) // 2 + 2 for ids in judging], per="token")
    lost: list[Floats] = []
    for some in (heads, *sets):
        with lab.model.edit(ablate_heads(some, silence)):
            lost.append((clean - lab.model.measure(judging, metric, batch_size=AT_ONCE).cpu()).double().numpy())
        lab.progress("silencing heads", len(lost), len(sets) + 1)
    chosen, others = lost[0], np.stack(lost[1:])  # [set, sequence]
    shown = measured(
        {
            (f"{len(heads)} induction heads", "those that look back"): chosen,
            **{
                (f"{len(heads)} others, set {i + 1}", "others"): values
                for i, values in enumerate(sorted(others, key=lambda one: -one.mean()))
            },
        },
        by=("silenced", "heads"),
        value="lost when silenced (nats per token)",
        over="sequence",
        seed=lab.seed,
    )
    yield SILENCED.answer(
        estimate_crossed([chosen[None] - others], unit=NATS, over="sequence", across="set of others"),
        same_as(NATS, f"with as many other heads, {len(sets)} different sets"),
        measure=f"The chosen ones lose {chosen.mean():.2g}, others {others.mean():.2g}.",
        table=shown.rows(),
        figure=shown.bars(y="silenced", caption="What the second copy loses. Intervals over sequences."),
    )
    yield OTHERS.answer(
        estimate_crossed([others], unit=NATS, over="sequence", across="set of others"), zero(NATS, "nothing lost")
    )
