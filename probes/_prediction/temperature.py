"""Part (c): what temperature does to the probabilities, and to what is drawn by them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Figure, Finding, Lab, Row, halves, measured, set_beforehand, zero
from interp.stats import estimate_mean

from . import NATS, OTHER, WITHIN
from .read import ONE, TEMPERATURES, By, over_documents

PART = "(c) What temperature does"
NEAR = 0.2  # temperature
DRAWS = 300
PROMPTS = (
    "The first thing that she noticed was that", "In the year 1850 the", "To make tea, boil the",
    "The opposite of hot is", "She opened the door and", "My favourite colour is",
    "The train was late because", "On the table lay a",
)  # fmt: skip

BEST_TEMPERATURE = Claim(
    "The temperature at which it predicts text best is 1, within 0.2.",
    expects="equal",
    margin=NEAR,
    unit="temperature",
    part=PART,
    answers=True,
    measure="For each document, the temperature of the least surprise.",
    caveat="A temperature that predicts best is not one that writes best.",
)
SAMPLED = Claim(
    "Sampled at a temperature, the best token comes as often as it should, within 5 points.",
    expects="equal",
    margin=WITHIN,
    unit="share of draws",
    part=PART,
    measure=f"Share of {DRAWS} draws that are the best token, less its probability at that temperature (0.5, 1 and "
    "1.5).",
)
CLAIMS = [BEST_TEMPERATURE, SAMPLED]


def best_temperature(lab: Lab, texts: By) -> Finding:
    """The temperature at which the true tokens surprise least, document by document."""
    by_temperature = measured(
        {
            (kind, temperature): [float(read.loss[i].mean()) for read in reads]
            for kind, reads in texts.items()
            for i, temperature in enumerate(TEMPERATURES)
        },
        by=("text", "temperature"),
        value="surprise (nats per token)",
        unit=NATS,
        over="document",
        seed=lab.seed,
    )
    entropies = [
        float(np.mean([read.entropy[i].mean() for read in reads]))
        for reads in texts.values()
        for i in range(len(TEMPERATURES))
    ]
    choosing, judging = halves(texts[OTHER])
    best = int(np.mean([read.loss.mean(1) for read in choosing], axis=0).argmin())
    gained = float(np.mean([read.loss[ONE].mean() - read.loss[best].mean() for read in judging]))
    return BEST_TEMPERATURE.answer(
        over_documents(texts[OTHER], lambda read: finest(read.loss.mean(1)), "temperature", lab.seed),
        set_beforehand(1.0, "temperature", "the probabilities as they are"),
        measure=f"Chosen on half of the documents it is {TEMPERATURES[best]:g}, and on the other half it takes off "
        f"{gained:.2g} nats a token.",
        table=[
            {**row, "entropy (nats)": entropy} for row, entropy in zip(by_temperature.rows(), entropies, strict=True)
        ],
        figure=by_temperature.lines(
            x="temperature",
            caption="Surprise of the true tokens when the probabilities are scaled by a temperature; bands over "
            "documents.",
        ),
    )


def finest(loss: NDArray[np.float64]) -> float:
    """The temperature of the least loss, by a parabola through the three lowest of the grid."""
    i = int(np.clip(loss.argmin(), 1, len(loss) - 2))
    t = np.array(TEMPERATURES[i - 1 : i + 2])
    a, b, _ = np.polyfit(t, loss[i - 1 : i + 2], 2)
    return float(np.clip(-b / (2 * a), t[0], t[2])) if a > 0 else float(t[loss[i - 1 : i + 2].argmin()])


def sampled(lab: Lab) -> Finding:
    """Draws by `model.generate` against the scaled probabilities; the rarest case is a temperature near zero."""
    model, table = lab.model, list[Row]()
    excess: list[list[float]] = []
    for i, prompt in enumerate(PROMPTS):
        logits = model.last_logits([prompt])[0].double().cpu()
        best = int(logits.argmax())
        excess.append([])
        for temperature in (0.5, 1.0, 1.5):
            drawn = model.generate([prompt] * DRAWS, max_new_tokens=1, temperature=temperature, seed=lab.seed + i).ids
            share = float(np.mean([ids[0] == best for ids in drawn]))
            said = float((logits / temperature).softmax(-1)[best])
            excess[-1].append(share - said)
            table.append(
                {
                    "prompt": prompt,
                    "temperature": temperature,
                    "probability of the best": said,
                    "drawn (share of draws)": share,
                }
            )
        lab.progress("sampling", i + 1, len(PROMPTS))
    cold = model.generate(list(PROMPTS[:1]), max_new_tokens=1, temperature=1e-3, seed=lab.seed).ids[0][0]
    same = cold == model.generate(list(PROMPTS[:1]), max_new_tokens=1).ids[0][0]
    return SAMPLED.answer(
        estimate_mean(excess, unit="share of draws", over="prompt", bounds=(-1.0, 1.0)),
        zero("share of draws", "as often as it should"),
        measure=f"At a temperature of 0.001 the draw is {'' if same else 'not '}the most probable token.",
        table=table,
        figure=Figure(
            "points",
            x="probability of the best",
            y="drawn (share of draws)",
            group="temperature",
            caption="Each point is a prompt at a temperature.",
        ),
    )
