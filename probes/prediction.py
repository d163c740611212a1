"""Does the model pick the most probable next token, and does temperature scale it?

Paper: Guo et al. 2017, arXiv:1706.04599 (calibration).

Question. A language model gives every token of its vocabulary a probability of coming next. A beginner's course says
that it picks the most probable one, and that a temperature scales the probabilities: a low one makes it sure, a high
one bold. How often is its best guess right, are the probabilities honest, and what does the temperature do to them?

- Calibration: of the best guesses that were given 70 %, are 70 % right? On text that the model did not write, and on
  text that it wrote itself.
- Rank and surprise of the true token, by how much text stands before it.
- Temperature: the one that predicts best, chosen on half of the documents; entropy; and whether sampled tokens come as
  often as the scaled probabilities say.

What counts as yes (intervals over documents):

- the best guess is right as often as it says, within 5 points;
- it is right 10 points more often than always guessing the commonest token;
- the temperature that predicts a text best is 1, within 0.2;
- sampled at a temperature, tokens come as often as they should, within 5 points.

What could fool us:

- Whose text it is. The bundled sample was written by the bundled model: there its probabilities are nearly honest by
  construction. The verdicts are about other text: explanations in Python's library, or a corpus of yours.
- Even honest probabilities miss by chance. The calibration error is shown beside the errors of worlds in which each
  guess comes true as often as it says.
- The first token of a text has nothing before it and is left out.
- A method that sees nothing: with all logits doubled the model is too sure, and that must be found. Or too much: where
  the truth is drawn from the model itself, no error may be found. Random weights must predict nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interp.analysis.calibration import calibration_error, honest_errors, reliability
from interp.analysis.estimate import Estimate
from interp.analysis.statistics import estimate_mean, known, null_of
from interp.errors import UserError
from interp.lab.findings import Control, Figure, Finding, Row
from interp.lab.probe import Lab, probe
from interp.model.fresh import fresh_model
from interp.saes.default import split_corpus
from interp.text.corpus import load_corpus
from probes._prediction import CONTROLS, NATS, OTHER, OWN, RIGHT
from probes._prediction.read import TEMPERATURES, Read, library_text, read_documents

WITHIN, BETTER, NEAR = 0.05, 0.1, 0.2  # shares, shares, temperature
DRAWS = 300
ONE = TEMPERATURES.index(1.0)
EARLY, LATE = 8, 32  # tokens before it: up to, from
START = "The first thing that she noticed was that"
PROMPTS = (START, "In the year 1850 the", "To make tea, boil the", "The opposite of hot is", "She opened the door and")
By = dict[str, list[Read]]


@probe(paper="arXiv:1706.04599")
def prediction(lab: Lab, *, corpus: Path | None = None, documents: int = 36, tokens: int = 200) -> Iterator[Finding]:
    """Read every token of two kinds of text, and ask how honest the probabilities are.

    Args:
        corpus: text of yours in place of the explanations in Python's library
        documents: how many documents of each kind, 8 or more
        tokens: how many tokens of each, 48 or more
    """
    for name, value, least in (("documents", documents, 8), ("tokens", tokens, 48)):
        if value < least:
            raise UserError(f"--{name} {value}; expected {least} or more")
    n = min(documents, 14) if lab.quick else documents
    other = list(load_corpus(corpus)) if corpus else library_text()
    texts: By = {
        kind: read_documents(lab, lab.model, some, tokens, n, f"reading {kind}")
        for kind, some in ((OTHER, other), (OWN, split_corpus()[1]))
    }
    for kind in texts:
        yield _honest(lab, kind, texts)
    yield _error(lab, texts[OTHER])
    yield _best_guess(lab, texts)
    yield _more_context(lab, texts)
    yield _best_temperature(lab, texts)
    yield _sampled(lab)
    yield from _controls(lab, texts[OTHER], other, tokens)


def _over(
    some: Sequence[Read],
    value: Callable[[Read], float],
    unit: str,
    seed: int,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    return estimate_mean([value(one) for one in some], unit=unit, over="document", bounds=bounds, seed=seed)


def _too_sure(read: Read, temperature: int = ONE) -> float:
    """What it says of its best guesses less how often they are right."""
    return float((read.sure_at[temperature] - read.right).mean())


def _honest(lab: Lab, kind: str, texts: By) -> Finding:
    rows: list[Row] = []
    for name, some in texts.items():
        said, right = (np.concatenate([getattr(one, part) for one in some]) for part in ("sure", "right"))
        for one in reliability(said, right):
            rows.append({"probability of the best guess": one.said, "it is right (share of tokens)": one.came_true})
            rows[-1] |= {"text": name, "tokens": one.n}
    rows += [
        {"probability of the best guess": p, "it is right (share of tokens)": p, "text": "honest"} for p in (0.0, 1.0)
    ]
    return Finding(
        claim=f"On {kind}, its best guess is right as often as it says, within 5 points.",
        estimate=_over(texts[kind], _too_sure, RIGHT, lab.seed, bounds=(-1.0, 1.0)),
        control=Control("honest", known(0.0, unit=RIGHT, why="as often as it says")),
        expects="equal",
        margin=WITHIN,
        part="(a) Are the probabilities honest?",
        answers=kind == OTHER,
        measure="Mean probability of the best guess less the share of tokens for which it is right: above 0 is too "
        "sure, below 0 too modest.",
        caveat="Misses in both directions cancel in a mean: the picture shows each probability by itself."
        if kind == OTHER
        else "The bundled sample was written by the bundled model, at a temperature and with rules of its own (see "
        "data/README.md): honest by construction, but for those.",
        table=rows if kind == OTHER else [],
        figure=Figure(
            "lines",
            x="probability of the best guess",
            y="it is right (share of tokens)",
            group="text",
            caption="Ten groups of as many tokens each, by what the model says. On the line from corner to corner it "
            "is as often right as it says.",
        )
        if kind == OTHER
        else None,
    )


def _error(lab: Lab, some: Sequence[Read]) -> Finding:
    def error(chosen: Sequence[int]) -> float:
        said, right = (np.concatenate([getattr(some[i], part) for i in chosen]) for part in ("sure", "right"))
        return calibration_error(said, right)

    rng = np.random.default_rng(lab.seed)
    draws = [error(rng.integers(0, len(some), len(some)).tolist()) for _ in range(200)]
    mean = error(range(len(some)))
    low, high = np.quantile(draws, [0.025, 0.975])
    honest = honest_errors(np.concatenate([one.sure for one in some]), seed=lab.seed)
    return Finding(
        claim="Its probabilities miss by more than chance would make honest ones miss.",
        estimate=Estimate(mean, min(float(low), mean), max(float(high), mean), len(some), RIGHT, "document"),
        control=Control("honest probabilities", null_of(honest, unit=RIGHT)),
        expects="greater",
        part="(a) Are the probabilities honest?",
        measure="Expected calibration error: the mean distance, over ten groups, of what is said from what comes true. "
        "The null draws each guess true or false by its own probability.",
        caveat="More text makes any miss certain; how large it is, the finding before says.",
    )


def _best_guess(lab: Lab, texts: By) -> Finding:
    some = texts[OTHER]
    rows: list[Row] = []
    for kind, part in texts.items():
        ranks = np.concatenate([one.rank for one in part])
        rows += [
            {"text": kind, "among the best": top, "true token (share of tokens)": float((ranks <= top).mean())}
            for top in (1, 2, 5, 10, 100, 1000)
        ]
    return Finding(
        claim="Its best guess is right 10 points more often than always guessing the commonest token.",
        estimate=_over(some, lambda one: float(one.right.mean()), RIGHT, lab.seed, bounds=(0.0, 1.0)),
        control=Control("the commonest token of the other documents", _commonest(some, lab.seed)),
        expects="greater",
        margin=BETTER,
        part="(b) How often is it right?",
        answers=True,
        measure="Share of tokens that are the model's most probable one. The median rank of the true token is "
        f"{np.median(np.concatenate([one.rank for one in some])):.0f} of {lab.model.hf.config.vocab_size:,}.",
        caveat="Text is not written by picking the most probable token: nothing that is worth reading is that dull.",
        table=rows,
        figure=Figure(
            "log_lines",
            x="among the best",
            y="true token (share of tokens)",
            group="text",
            caption="How often the true token is among the model's best guesses. Both axes are logarithmic.",
        ),
    )


def _commonest(some: Sequence[Read], seed: int) -> Estimate:
    """Accuracy of the token that is commonest in the other documents."""
    values = []
    for i, one in enumerate(some):
        counts = Counter(np.concatenate([other.ids for j, other in enumerate(some) if j != i]).tolist())
        values.append(float((one.ids == counts.most_common(1)[0][0]).mean()))
    return estimate_mean(values, unit=RIGHT, over="document", bounds=(0.0, 1.0), seed=seed)


def _more_context(lab: Lab, texts: By) -> Finding:
    rows: list[Row] = []
    edges = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    for kind, some in texts.items():
        for low, high in pairwise(edges):
            loss = [one.loss[ONE, low - 1 : high - 1].mean() for one in some if one.loss.shape[1] >= low]
            entropy = [one.entropy[ONE, low - 1 : high - 1].mean() for one in some if one.loss.shape[1] >= low]
            if len(loss) < 4:
                continue
            at = estimate_mean(loss, unit=NATS, over="document", seed=lab.seed)
            rows.append({"tokens before it": low, "surprise (nats per token)": at.mean, "low": at.low, "high": at.high})
            rows[-1] |= {"text": kind, "entropy (nats)": float(np.mean(entropy))}
    some = [one for one in texts[OTHER] if one.loss.shape[1] > LATE]
    late, early = (
        _over(some, lambda one, part=part: float(one.loss[ONE, part].mean()), NATS, lab.seed)
        for part in (slice(LATE, None), slice(0, EARLY))
    )
    return Finding(
        claim="The more text stands before it, the less a token surprises.",
        estimate=late,
        control=Control(f"tokens with at most {EARLY} before them", early),
        expects="less",
        part="(b) How often is it right?",
        measure=f"Minus the log-probability of the true token, with {LATE} tokens or more before it, in text that the "
        "model did not write.",
        caveat="Beginnings differ from what follows: a title surprises more than a sentence.",
        table=rows,
        figure=Figure(
            "lines",
            x="tokens before it",
            y="surprise (nats per token)",
            group="text",
            low="low",
            high="high",
            caption="Surprise by how many tokens stand before it; bands over documents.",
        ),
    )


def _best_temperature(lab: Lab, texts: By) -> Finding:
    rows: list[Row] = []
    for kind, some in texts.items():
        for i, temperature in enumerate(TEMPERATURES):
            at = _over(some, lambda one, i=i: float(one.loss[i].mean()), NATS, lab.seed)
            rows.append({"temperature": temperature, "surprise (nats per token)": at.mean, "low": at.low})
            rows[-1] |= {"high": at.high, "text": kind}
            rows[-1]["entropy (nats)"] = float(np.mean([one.entropy[i].mean() for one in some]))
    some = texts[OTHER]
    choosing, judging = some[::2], some[1::2]
    best = int(np.mean([one.loss.mean(1) for one in choosing], axis=0).argmin())
    gained = float(np.mean([one.loss[ONE].mean() - one.loss[best].mean() for one in judging]))
    return Finding(
        claim="The temperature at which it predicts text best is 1, within 0.2.",
        estimate=_over(some, lambda one: finest(one.loss.mean(1)), "temperature", lab.seed),
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


def _sampled(lab: Lab) -> Finding:
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


def _controls(lab: Lab, some: Sequence[Read], documents: Sequence[str], tokens: int) -> Iterator[Finding]:
    honest = _over(some, _too_sure, RIGHT, lab.seed, bounds=(-1.0, 1.0))
    yield Finding(
        claim="Positive control: with all logits doubled, the model is found to be too sure.",
        estimate=_over(some, lambda one: _too_sure(one, TEMPERATURES.index(0.5)), RIGHT, lab.seed, bounds=(-1.0, 1.0)),
        control=Control("the logits as they are", honest),
        expects="greater",
        margin=WITHIN,
        part=CONTROLS,
        measure="As in part (a): doubling the logits is a temperature of one half.",
    )
    yield Finding(
        claim="Negative control: where the truth is drawn from the model itself, its probabilities are honest.",
        estimate=_over(
            some, lambda one: float((one.sure - one.drawn_right).mean()), RIGHT, lab.seed, bounds=(-1.0, 1.0)
        ),
        control=Control("honest", known(0.0, unit=RIGHT, why="as often as it says")),
        expects="equal",
        margin=WITHIN,
        part=CONTROLS,
        measure="As in part (a), with a token drawn by the model's probabilities in place of the true one.",
    )
    bare = read_documents(lab, fresh_model(lab.model, lab.seed), documents, tokens, 8, "reading with random weights")
    yield Finding(
        claim="Negative control: random weights guess no better than the commonest token.",
        estimate=_over(bare, lambda one: float(one.right.mean()), RIGHT, lab.seed),
        control=Control("the commonest token", _commonest(bare, lab.seed)),
        expects="less",
        part=CONTROLS,
        measure="Share of tokens that the same architecture, before training, finds most probable.",
    )


if __name__ == "__main__":
    from interp.cli import run_probe_file

    run_probe_file(__file__)
