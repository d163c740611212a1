"""At which layer and token the decision between the names stands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp import Claim, Figure, Finding, Lab, NotAsked, Row, zero
from interp.analysis import Layout, Sweep
from interp.stats import estimate_mean

from . import UNIT

EARLY, LATE = (
    Claim(
        text,
        expects="greater",
        unit=UNIT,
        margin=0.5,
        measure="Change of the logit difference when the residual stream of one token is copied from the sentence with "
        f"the right giver, less that of {other} in the same prompts: the mean over the {third} third of the layers.",
        caveat="Shown for the first template only.",
    )
    for text, other, third in (
        ("In early layers, which name it is stands at its second mention.", "the last token", "first"),
        ("In late layers it stands at the last token.", "the second mention", "last"),
    )
)
SEARCHED = Claim(
    "One gradient estimates that map well enough to search with (attribution patching).",
    expects="greater",
    unit="correlation",
    margin=0.5,
    measure="Correlation, over layers and tokens, of the estimate with the patching itself.",
    caveat="A gradient is blind where attention or a norm saturates, which is worst in early layers.",
)
CLAIMS = [EARLY, LATE, SEARCHED]


def streams_to_patch(lab: Lab) -> list[str]:
    """The residual stream before every third block, or every one in a small model; none in a model of one block.

    Neither the embedding, where the second mention is all that differs, nor the last block's output, behind which only
    the last token counts: there the answer is known beforehand.
    """
    n = lab.model.n_layers
    stride = max(1, min(8 if lab.quick else 3, n // 4))
    return [lab.model.residual(layer) for layer in range(n - 1, 0, -stride)][::-1]


def nothing_between() -> Iterator[NotAsked]:
    """Of a model of one block."""
    yield from (claim.not_asked("because a model of one block has no stream between two") for claim in CLAIMS)


def where_it_stands(lab: Lab, swept: Sweep, layout: Layout) -> Iterator[Finding | NotAsked]:
    """Where the decision stands, by patching one token's residual stream."""
    effect = swept.effect.numpy()
    layers = [int(site.split(".")[1]) + (1 if site.endswith("post") else 0) for site in swept.sites]
    rows: list[Row] = [
        {"layer": layer, "token": layout.labels[pos], "moved (nats)": float(effect[:, i, pos].mean())}
        for i, layer in enumerate(layers)
        for pos in range(len(layout.labels))
    ]
    second, last, n = layout.at("giver"), len(layout.labels) - 1, lab.model.n_layers
    early = [i for i, layer in enumerate(layers) if layer <= n / 3]
    late = [i for i, layer in enumerate(layers) if layer >= 2 * n / 3]
    picture = Figure(
        "layer_position_map",
        x="token",
        y="layer",
        z="moved (nats)",
        caption="Copying one token's residual stream into the sentence where the other one gives. Layer l is the "
        "stream after l blocks.",
    )
    for claim, third, here, there in ((EARLY, early, second, last), (LATE, late, last, second)):
        if not third:
            yield claim.not_asked(f"because none of this model's {n} blocks is patched in that third of the layers")
            continue
        moved, elsewhere = (effect[:, third, pos].mean(1) for pos in (here, there))
        yield claim.answer(
            estimate_mean(moved - elsewhere, unit=UNIT, over="prompt", seed=lab.seed),
            zero(UNIT, "the other token"),
            measure=f"It is {moved.mean():.2g} there and {elsewhere.mean():.2g} at the other token.",
            table=rows,
            figure=picture,
        )


def how_well_estimated(lab: Lab, guessed: Sweep, measured: Sweep) -> Finding:
    """How far the gradient's estimate of the same map can be believed here."""
    maps = zip(guessed.effect.numpy(), measured.effect.numpy(), strict=True)
    agreed = [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in maps]
    agreed = np.nan_to_num(agreed).tolist()  # a map that is all zeros agrees with nothing
    rows: list[Row] = [{"prompt": i + 1, "correlation": value} for i, value in enumerate(agreed)]
    return SEARCHED.answer(
        estimate_mean(agreed, unit="correlation", over="prompt", bounds=(-1.0, 1.0), seed=lab.seed),
        zero("correlation", "no relation"),
        table=rows,
    )
