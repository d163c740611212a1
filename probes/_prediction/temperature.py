"""Part (c): what temperature does to the probabilities, and to what is drawn by them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interp import Control, Figure, Finding, Lab, Row
from interp.stats import estimate_mean, known

from . import NATS, OTHER, WITHIN
from .read import ONE, TEMPERATURES, By, over_documents

NEAR = 0.2  # temperature
DRAWS = 300
START = "The first thing that she noticed was that"
PROMPTS = (START, "In the year 1850 the", "To make tea, boil the", "The opposite of hot is", "She opened the door and")


def best_temperature(lab: Lab, texts: By) -> Finding:
    """The temperature at which the true tokens surprise least, document by document."""
    rows: list[Row] = []
    for kind, some in texts.items():
        for i, temperature in enumerate(TEMPERATURES):
            at = over_documents(some, lambda one, i=i: float(one.loss[i].mean()), NATS, lab.seed)
            rows.append({"temperature": temperature, "surprise (nats per token)": at.mean, "low": at.low})
            rows[-1] |= {"high": at.high, "text": kind}
            rows[-1]["entropy (nats)"] = float(np.mean([one.entropy[i].mean() for one in some]))
    some = texts[OTHER]
    choosing, judging = some[::2], some[1::2]
    best = int(np.mean([one.loss.mean(1) for one in choosing], axis=0).argmin())
    gained = float(np.mean([one.loss[ONE].mean() - one.loss[best].mean() for one in judging]))
    return Finding(
        claim="The temperature at which it predicts text best is 1, within 0.2.",
        estimate=over_documents(some, lambda one: finest(one.loss.mean(1)), "temperature", lab.seed),
        control=Control("the probabilities as they are", known(1.0, unit="temperature", why="as they are")),
        expects="equal",
        margin=NEAR,
        part="(c) What temperature does",
        answers=True,
        measure="For each document, the temperature of the least surprise. Chosen on half of the documents it is "
        f"{TEMPERATURES[best]:g}, and on the other half it takes off {gained:.2g} nats a token.",
        caveat="A temperature that predicts best is not one that writes best.",
        table=rows,
        figure=Figure(
            "lines",
            x="temperature",
            y="surprise (nats per token)",
            group="text",
            low="low",
            high="high",
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
    model, rows = lab.model, list[Row]()
    off: list[float] = []
    for i, prompt in enumerate(PROMPTS):
        logits = model.last_logits([prompt])[0].double().cpu()
        best = int(logits.argmax())
        for temperature in (0.5, 1.0, 1.5):
            drawn = model.generate([prompt] * DRAWS, max_new_tokens=1, temperature=temperature, seed=lab.seed + i).ids
            share = float(np.mean([ids[0] == best for ids in drawn]))
            said = float((logits / temperature).softmax(-1)[best])
            off.append(share - said)
            rows.append({"prompt": prompt, "temperature": temperature, "probability of the best": said})
            rows[-1] |= {"drawn (share of draws)": share}
        lab.progress("sampling", i + 1, len(PROMPTS))
    cold = model.generate(list(PROMPTS[:1]), max_new_tokens=1, temperature=1e-3, seed=lab.seed).ids[0][0]
    same = cold == model.generate(list(PROMPTS[:1]), max_new_tokens=1).ids[0][0]
    return Finding(
        claim="Sampled at a temperature, the best token comes as often as it should, within 5 points.",
        estimate=estimate_mean(
            np.array(off).reshape(len(PROMPTS), -1), unit="share of draws", over="prompt", bounds=(-1.0, 1.0)
        ),
        control=Control("as often as it should", known(0.0, unit="share of draws", why="as often as it should")),
        expects="equal",
        margin=WITHIN,
        part="(c) What temperature does",
        measure=f"Share of {DRAWS} draws that are the best token, less its probability at that temperature (0.5, 1 and "
        f"1.5). At a temperature of 0.001 the draw is {'' if same else 'not '}the most probable token.",
        table=rows,
        figure=Figure(
            "points",
            x="probability of the best",
            y="drawn (share of draws)",
            group="temperature",
            caption="Each point is a prompt at a temperature.",
        ),
    )
