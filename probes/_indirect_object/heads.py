"""Which attention heads make the difference between the names: by what they write, and by patching them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interp import Control, Figure, Finding, Lab, Row
from interp.analysis import Attribution, Sweep
from interp.stats import estimate_gap, estimate_mean

from . import UNIT


def _heads(parts: Attribution) -> tuple[list[str], NDArray[np.float64]]:
    """Names (layer.head) and direct effects [prompt, head] of attention heads alone."""
    places = [i for i, part in enumerate(parts.parts) if part.count(".") == 2 and not part.endswith("bias")]
    names = [parts.parts[i].replace(".attn", "") for i in places]
    return names, parts.effect[:, places].double().numpy()


def _halves(parts: list[Attribution]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Direct effects [prompt, head] of the first half of every template's prompts, and of the second."""
    tables = [_heads(p)[1] for p in parts]
    first, second = ([t[: len(t) // 2] for t in tables], [t[len(t) // 2 :] for t in tables])
    return np.concatenate(first), np.concatenate(second)


def choose_heads(parts: list[Attribution], share: float) -> list[int]:
    """The heads with the largest mean direct effect in the first half of the prompts."""
    means = _halves(parts)[0].mean(0)
    return np.argsort(-means)[: max(2, round(share * len(means)))].tolist()


def write_the_name(lab: Lab, parts: list[Attribution], chosen: list[int]) -> Finding:
    names, judged = _heads(parts[0])[0], _halves(parts)[1]
    rest = [i for i in range(len(names)) if i not in set(chosen)]
    as_many = judged[:, rest].mean(1) * len(chosen)
    pair = estimate_gap(judged[:, chosen].sum(1), as_many, unit=UNIT, over="prompt", seed=lab.seed)
    effects = {name: judged[:, i] for i, name in enumerate(names)}
    shown = sorted(effects, key=lambda name: -abs(effects[name].mean()))[:16]
    rows: list[Row] = []
    for name in shown:
        at = estimate_mean(effects[name], unit=UNIT, over="prompt", seed=lab.seed)
        rows.append({"head (layer.head)": name, "direct effect (nats)": at.mean, "low": at.low, "high": at.high})
    return Finding(
        claim="A few attention heads make the difference between the names.",
        estimate=pair.estimate,
        control=Control("as many of the other heads, on average", pair.control),
        paired=pair.gap,
        expects="greater",
        margin=0.5,
        answers=True,
        measure=f"Direct effect on the logit difference, summed over the {len(chosen)} heads of most effect in other "
        f"prompts (layer.head): {', '.join(names[i] for i in chosen)}.",
        caveat="A head may raise the right name or lower the other. Only what it writes to the end of the residual "
        "stream counts; a head that works through later ones is not in it.",
        table=rows,
        figure=Figure(
            "effect_bars",
            x="direct effect (nats)",
            y="head (layer.head)",
            low="low",
            high="high",
            caption="The heads with the largest direct effects; negative ones write against the right name. Intervals "
            "over prompts.",
        ),
    )


def move_the_answer(lab: Lab, swept: Sweep, chosen: list[int]) -> Finding:
    effect = swept.effect[:, :, 0].numpy()  # [pair, layer, head], at the last token
    flat = effect.reshape(len(effect), -1)
    rest = [i for i in range(flat.shape[1]) if i not in set(chosen)]
    means = (flat[:, some].mean(1) for some in (chosen, rest))
    pair = estimate_gap(*means, unit="nats per head", over="prompt", seed=lab.seed)
    rows: list[Row] = [
        {"layer": layer, "head": head, "moved (nats)": float(effect[:, layer, head].mean())}
        for layer in range(effect.shape[1])
        for head in range(effect.shape[2])
    ]
    return Finding(
        claim="These heads move the answer when they alone are patched, too.",
        estimate=pair.estimate,
        control=Control("the other heads", pair.control),
        paired=pair.gap,
        expects="greater",
        answers=True,
        measure="Change of the logit difference when one head's output at the last token is copied into the sentence "
        f"where the other one gives; everything together moves it by {float(swept.total.mean()):.2g} nats.",
        table=rows,
        figure=Figure(
            "head_grid",
            x="head",
            y="layer",
            z="moved (nats)",
            caption="What patching each head at the last token moves.",
        ),
    )
