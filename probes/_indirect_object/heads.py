"""Which attention heads make the difference between the names: by what they write, and by patching them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Control, Figure, Finding, Lab, NotAsked, Row, measured, set_beforehand
from interp.analysis import Attribution, Sweep
from interp.stats import estimate_gap, estimate_mean

WRITTEN = "share of what heads write for it"
MOVED = "share of what everything moves"
LEAST = 0.5  # nats that heads write for the right name: of less, no share can be told
MOST = 0.5  # of what they write
MUCH = 0.1  # of what patching everything moves

FEW = Claim(
    "A few attention heads make the difference between the names: they write most of what heads write for the right "
    "one.",
    expects="greater",
    unit=WRITTEN,
    answers=True,
    measure="Direct effect on the logit difference, of the heads of most effect in other prompts, over that of all the "
    "heads that write for the right name on average. Where every head helps alike, it is the share that was chosen.",
    caveat="A head may raise the right name or lower the other. Only what it writes to the end of the residual stream "
    "counts; a head that works through later ones is not in it.",
)
MOVE = Claim(
    "These heads move the answer when they alone are patched, too, by a tenth of what everything moves more than as "
    "many others.",
    expects="greater",
    unit=MOVED,
    margin=MUCH,
    answers=True,
    measure="Change of the logit difference when one head's output at the last token is copied into the sentence where "
    "the other one gives, added up over the heads, less that of as many others on average in the same prompts; over "
    "what copying everything changes on average.",
)
CLAIMS = [FEW, MOVE]


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


def written_for(parts: list[Attribution]) -> float:
    """What the heads that help on average write together in the judging prompts, in nats."""
    return float(np.maximum(_halves(parts)[1].mean(0), 0).sum())


def shares_written(parts: list[Attribution], chosen: list[int]) -> NDArray[np.float64]:
    """Of that, how much the chosen heads write, judging prompt by judging prompt."""
    return _halves(parts)[1][:, chosen].sum(1) / written_for(parts)


def write_the_name(lab: Lab, parts: list[Attribution], chosen: list[int]) -> Finding | NotAsked:
    """How much of what heads write for the right name, in prompts that did not choose them, is the chosen ones'."""
    names, judged = _heads(parts[0])[0], _halves(parts)[1]
    total = written_for(parts)
    if total < LEAST:
        return FEW.not_asked(
            f"because the heads that write for the right name write {total:.2g} nats; a share of less than {LEAST:g} "
            "says nothing"
        )
    shown = np.argsort(-np.abs(judged.mean(0)))[:16]
    effects = measured(
        {names[i]: judged[:, i] for i in shown},
        by=("head (layer.head)",),
        value="direct effect (nats)",
        over="prompt",
        seed=lab.seed,
    )
    return FEW.answer(
        estimate_mean(shares_written(parts, chosen), unit=WRITTEN, over="prompt", seed=lab.seed),
        set_beforehand(MOST, WRITTEN, "half of it"),
        measure=f"The {len(chosen)} heads are {len(chosen) / len(names):.0%} of all (layer.head): "
        f"{', '.join(names[i] for i in chosen)}. All that write for it write {total:.2g} nats.",
        table=effects.rows(),
        figure=effects.bars(
            y="head (layer.head)",
            caption="The heads with the largest direct effects; negative ones write against the right name. Intervals "
            "over prompts.",
        ),
    )


def move_the_answer(lab: Lab, swept: Sweep, chosen: list[int]) -> Finding | NotAsked:
    """What patching the chosen heads one by one moves, beside as many others."""
    effect = swept.effect[:, :, 0].double().numpy()  # [pair, layer, head], at the last token
    flat, total = effect.reshape(len(effect), -1), float(swept.total.mean())
    if total < LEAST:
        return MOVE.not_asked(
            f"because patching everything moves the answer by {total:.2g} nats towards the right name; a share of less "
            f"than {LEAST:g} says nothing"
        )
    pair = estimate_gap(
        flat[:, chosen].sum(1) / total,
        np.delete(flat, chosen, axis=1).mean(1) * len(chosen) / total,
        unit=MOVED,
        over="prompt",
        seed=lab.seed,
    )
    rows: list[Row] = [
        {"layer": layer, "head": head, "moved (nats)": float(effect[:, layer, head].mean())}
        for layer in range(effect.shape[1])
        for head in range(effect.shape[2])
    ]
    return MOVE.answer(
        pair.estimate,
        Control("as many of the other heads, on average", pair.control),
        paired=pair.gap,
        measure=f"Everything together moves it by {total:.2g} nats. The sum is over {len(chosen)} heads.",
        table=rows,
        figure=Figure(
            "head_grid",
            x="head",
            y="layer",
            z="moved (nats)",
            caption="What patching each head at the last token moves.",
        ),
    )
