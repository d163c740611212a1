"""Does a transformer look at the whole context at once, and does that make the next token predictable?

Paper: Vaswani et al. 2017, arXiv:1706.03762; Xiao et al. 2023, arXiv:2309.17453 (attention sinks).

Question. Older models read word after word and forgot. A transformer's attention looks at every token before the
current one, all at once. A beginner's course says that this is what makes the next token predictable. How much context
does the prediction need, does its order matter, and is it really all at once?

(a) How much context matters: attention is kept from looking further back than a window, from one token to all; the
context is shuffled; it is taken from another document.

(b) All at once: one pass over a text gives what token after token gives, and no token sees those behind it.

(c) Which layers need what lies far back, and which heads look there.

What counts as yes (intervals over documents):

- with the whole context a token surprises less than with one token before it, by 1 nat;
- with the whole context it surprises less than with 16 tokens, by 0.05 nats;
- the own context surprises less than another document's, and in order less than shuffled;
- one pass and token after token differ by less than 0.01 nats in any logit.

What could fool us:

- The first token. Many models keep there what they do not need and break when it is out of sight, near or far: so the
  window leaves it in sight, and what happens without it is shown as well.
- Later tokens may be easier anyway. All windows are measured on the same tokens, the second half of each text.
- The text: the bundled prose, which people wrote, some of it in books that a model may have learnt by heart; other
  text with --corpus.
- A window that is not one. In a model with a planted copying mechanism the needed token lies at a known distance: the
  surprise must fall just where the window reaches it. For random weights no context may help.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from interp import (
    Control,
    Estimate,
    Figure,
    Finding,
    Lab,
    Model,
    Row,
    UserError,
    bundled_corpus,
    load_corpus,
    plant_induction,
    probe,
    prose,
    with_random_weights,
)
from interp.analysis import windowed_losses
from interp.stats import estimate_mean, known

from ._parallel_attention import AT_ONCE, CONTROLS, MATTERS, NATS
from ._parallel_attention.heads import cut_layers, look_far

WINDOWS = (2, 4, 8, 16, 32, 64)
CLEAR, SOME = 1.0, 0.05  # nats
COPY = 10  # tokens of the planted model's copies
Rows = list[list[int]]


@probe(paper="arXiv:1706.03762")
def parallel_attention(
    lab: Lab, *, corpus: Path | None = None, documents: int = 24, tokens: int = 128
) -> Iterator[Finding]:
    """Cut the context in several ways and see what the prediction loses.

    Args:
        corpus: text of yours instead of the bundled prose
        documents: how many documents, 8 or more
        tokens: how many tokens of each, 64 or more; shorter documents are left out
    """
    for name, value, least in (("documents", documents, 8), ("tokens", tokens, 64)):
        if value < least:
            raise UserError(f"--{name} {value}; expected {least} or more")
    n = min(documents, 10) if lab.quick else documents
    rows = _rows(lab, corpus, n, min(tokens, 96) if lab.quick else tokens)
    half = len(rows[0]) // 2
    source = str(corpus) if corpus else bundled_corpus("prose").name
    yield from _windows(lab, rows, half, source)
    yield from _contexts(lab, rows, half)
    yield _one_pass(lab, rows[: 4 if lab.quick else 8])
    yield _no_future(lab, rows)
    yield cut_layers(lab, rows, half)
    yield look_far(lab, rows)
    yield _planted(lab)
    yield _random_weights(lab, rows, half)


def _rows(lab: Lab, corpus: Path | None, n: int, tokens: int) -> Rows:
    documents = list(load_corpus(corpus)) if corpus else prose()
    context = lab.model.context_length or tokens
    tokens = min(tokens, context)
    rows = [row for row in lab.model.encode(documents, cut=tokens) if len(row) == tokens][:n]
    if len(rows) < 8:
        raise UserError(f"{len(rows)} documents have {tokens} tokens; expected 8 or more; use --tokens, or more text")
    return rows


def _over(values: torch.Tensor, lab: Lab, unit: str = NATS) -> Estimate:
    return estimate_mean(values.double().numpy(), unit=unit, over="document", seed=lab.seed)


def _windows(lab: Lab, rows: Rows, half: int, source: str) -> Iterator[Finding]:
    """Part (a), windows; loss over the second half of each text."""
    found: dict[tuple[str, int], torch.Tensor] = {}
    whole = windowed_losses(lab.model, rows, None, start=half).mean(1)
    table: list[Row] = []
    for i, window in enumerate(w for w in WINDOWS if w < half):
        for name, first in (("and the first token", True), ("nothing else", False)):
            losses = windowed_losses(lab.model, rows, window, first=first, start=half).mean(1)
            found[name, window] = losses
            at = _over(losses, lab)
            table.append({"tokens in sight": window, "beside the window": name, "surprise (nats per token)": at.mean})
            table[-1] |= {"low": at.low, "high": at.high}
        lab.progress("cutting the context", i + 1, len(WINDOWS))
    at = _over(whole, lab)
    for name in ("and the first token", "nothing else"):
        table.append({"tokens in sight": len(rows[0]), "beside the window": name, "surprise (nats per token)": at.mean})
        table[-1] |= {"low": at.low, "high": at.high}
    figure = Figure(
        "lines",
        x="tokens in sight",
        y="surprise (nats per token)",
        group="beside the window",
        low="low",
        high="high",
        caption="Surprise of the second half of each text by how many tokens every layer sees, the current one "
        "included. Bands over documents.",
    )
    yield Finding(
        claim="With the whole context a token surprises less than with one token before it, by 1 nat.",
        estimate=_over(whole - found["and the first token", 2], lab),
        control=Control("no difference", known(0.0, unit=NATS, why="no difference")),
        expects="less",
        margin=CLEAR,
        part=MATTERS,
        answers=True,
        measure=f"Text: {source}. Surprise (minus the log-probability) of tokens {half} to {len(rows[0])} with the "
        "whole context, less that with every layer seeing two tokens and the first one, document by document.",
        table=table,
        figure=figure,
    )
    yield Finding(
        claim="What lies more than 16 tokens back matters as well, by 0.05 nats.",
        estimate=_over(whole - found["and the first token", 16], lab),
        control=Control("no difference", known(0.0, unit=NATS, why="no difference")),
        expects="less",
        margin=SOME,
        part=MATTERS,
        answers=True,
        measure="The same, less that with 16 tokens and the first one in sight.",
        caveat="Windows add up over layers: through a middleman, 30 layers of 16 tokens reach 450 tokens back.",
    )
    yield Finding(
        claim="Without the first token in sight the same window surprises more, by 0.5 nats: an attention sink.",
        estimate=_over(found["nothing else", 16] - found["and the first token", 16], lab),
        control=Control("no difference", known(0.0, unit=NATS, why="no difference")),
        expects="greater",
        margin=0.5,
        part=MATTERS,
        measure="Surprise with 16 tokens in sight, less that with the same and the first token.",
        caveat="The first token says nothing of the text's end; it is a place to keep attention that is not needed.",
    )


def _contexts(lab: Lab, rows: Rows, half: int) -> Iterator[Finding]:
    """The same second halves behind their own first half, the same shuffled, and another document's."""
    rng = random.Random(lab.seed)
    shuffled = []
    for row in rows:
        middle = row[1:half]
        rng.shuffle(middle)
        shuffled.append([row[0], *middle, *row[half:]])
    others = [[*rows[(i + 1) % len(rows)][:half], *row[half:]] for i, row in enumerate(rows)]
    own, mixed, other = (
        windowed_losses(lab.model, some, None, start=half + 1).mean(1) for some in (rows, shuffled, others)
    )
    table: list[Row] = []
    for name, values in (("its own", own), ("its own, shuffled", mixed), ("another document's", other)):
        at = _over(values, lab)
        table.append({"context": name, "surprise (nats per token)": at.mean, "low": at.low, "high": at.high})
    ours = _over(own, lab)
    yield Finding(
        claim="It is this context that helps, and not any context.",
        estimate=_over(own - other, lab),
        control=Control("no difference", known(0.0, unit=NATS, why="no difference")),
        expects="less",
        part=MATTERS,
        answers=True,
        measure="Surprise of the second half of a text behind its own first half, less that behind another document's, "
        f"document by document; behind its own it is {ours.mean:.3g}.",
        table=table,
        figure=Figure(
            "interval_dots",
            x="surprise (nats per token)",
            y="context",
            low="low",
            high="high",
            caption="Surprise of the second halves by what stands before them; over documents.",
        ),
    )
    yield Finding(
        claim="The order of the context matters.",
        estimate=_over(own - mixed, lab),
        control=Control("no difference", known(0.0, unit=NATS, why="no difference")),
        expects="less",
        part=MATTERS,
        measure="The same, less that behind the same tokens shuffled, the first one left in its place.",
        caveat="Shuffled text is like nothing that the model has read.",
    )


@torch.no_grad()
def _one_pass(lab: Lab, rows: Rows) -> Finding:
    """Token after token on the cache, against one pass."""
    hf = lab.model.hf
    most = []
    for i, row in enumerate(rows):
        ids = torch.tensor([row[:48]], device=lab.model.device)
        once = hf(ids, use_cache=False).logits[0].float()
        steps, cache = [], None
        for at in range(ids.shape[1]):
            out = hf(ids[:, at : at + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits[0, -1].float())
        most.append(float((once - torch.stack(steps)).abs().max()))
        lab.progress("reading token after token", i + 1, len(rows))
    return Finding(
        claim="One pass over a text gives what reading it token after token gives.",
        estimate=estimate_mean(most, unit="nats", over="document", exact=True, seed=lab.seed),
        control=Control("no difference", known(0.0, unit="nats", why="no difference")),
        expects="equal",
        margin=0.01,
        part=AT_ONCE,
        measure="The largest difference of any logit at any of 48 tokens. In the one pass all tokens are computed at "
        "once; token after token, each is computed from what was kept of those before it.",
        caveat="Training and reading a prompt are at once; writing is token after token: each must be known first.",
    )


@torch.no_grad()
def _no_future(lab: Lab, rows: Rows) -> Finding:
    """Another ending must change nothing before it."""
    most = []
    for i, row in enumerate(rows):
        other = [*row[:32], *rows[(i + 1) % len(rows)][32:48]]
        logits = lab.model.logits([list(row[:48]), other]).float()
        most.append(float((logits[0, :32] - logits[1, :32]).abs().max()))
    return Finding(
        claim="No token sees those behind it.",
        estimate=estimate_mean(most, unit="nats", over="document", exact=True, seed=lab.seed),
        control=Control("no difference", known(0.0, unit="nats", why="no difference")),
        expects="equal",
        margin=0.01,
        part=AT_ONCE,
        measure="The largest difference of any logit at the first 32 tokens, when the tokens behind them are others.",
        caveat="So “the whole context” is all that stands before; nothing that comes after.",
    )


def _planted(lab: Lab) -> Finding:
    """Copies of random tokens: what is needed lies exactly a copy's length back."""
    model = plant_induction(lab.seed).model
    generator = torch.Generator().manual_seed(lab.seed)
    rows = []
    for _ in range(12):
        copy = (3 + torch.randperm(20, generator=generator)[:COPY]).tolist()
        rows.append([1, *copy, *copy])
    table: list[Row] = []
    found: dict[int, torch.Tensor] = {}
    for window in range(COPY - 3, COPY + 4):
        found[window] = windowed_losses(model, rows, window, start=COPY + 2).mean(1)
        at = _over(found[window], lab)
        table.append({"tokens in sight": window, "surprise (nats per token)": at.mean, "low": at.low, "high": at.high})
    return Finding(
        claim="Positive control: where the needed token lies a known distance back, the window must reach it.",
        estimate=_over(found[COPY], lab),
        control=Control("a window one token shorter", _over(found[COPY - 1], lab)),
        expects="less",
        margin=CLEAR,
        part=CONTROLS,
        measure=f"A model with a planted copying mechanism reads {COPY} random tokens twice; the token to copy stands "
        f"{COPY - 1} tokens before the current one.",
        table=table,
        figure=Figure(
            "lines",
            x="tokens in sight",
            y="surprise (nats per token)",
            low="low",
            high="high",
            caption="Surprise of the second copy by the window. It must fall at the length of a copy.",
        ),
    )


def _random_weights(lab: Lab, rows: Sequence[list[int]], half: int) -> Finding:
    random_weights: Model = with_random_weights(lab.model, lab.seed)
    whole, near = (windowed_losses(random_weights, rows[:8], window, start=half).mean(1) for window in (None, 2))
    return Finding(
        claim="Negative control: for random weights no context helps.",
        estimate=_over(whole - near, lab),
        control=Control("no difference", known(0.0, unit=NATS, why="no difference")),
        expects="equal",
        margin=0.1,
        part=CONTROLS,
        measure="Surprise with the whole context less that with two tokens and the first, for the same architecture "
        "with random weights.",
    )
