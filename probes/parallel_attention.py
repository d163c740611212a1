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

- with the whole context a token surprises less than with one token before it, by 1 nat, and by as much less than with
  another document's tokens before that one;
- with the whole context it surprises less than with 16 tokens, by 0.05 nats, and so beside another document's before
  them;
- the own context surprises less than another document's, and in order less than shuffled;
- one pass and token after token differ by less than 0.01 nats in any logit (arithmetic: so it is built, whatever it has
  learned, and it answers nothing; a mask or a cache that is wrong would show).

What could fool us:

- The first token. Many models keep there what they do not need and break when it is out of sight, near or far: so the
  window leaves it in sight, and what happens without it is shown as well.
- Any text. A model that copies what it sees is surer, and more wrong, the less it sees: more of any text helps it. So
  what lies further back is not only cut off but also replaced by as many tokens of another document.
- Later tokens may be easier anyway. All windows are measured on the same tokens, the second half of each text.
- The text: the bundled prose, which people wrote, some of it in books that a model may have learnt by heart; other
  text with --corpus.
- A window that is not one. In a model with a planted copying mechanism the needed token lies at a known distance: the
  surprise must fall just where the window reaches it. For random weights no context may help.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch

from interp import (
    Claim,
    Finding,
    Lab,
    Least,
    NotAsked,
    UserError,
    corpus_or_prose,
    measured,
    plant_induction,
    probe,
    same_as,
    text_read,
    with_random_weights,
    zero,
)
from interp.analysis import windowed_losses
from interp.stats import estimate_mean

from ._parallel_attention import AT_ONCE, CONTROLS, NATS, Rows, context, heads
from ._parallel_attention.context import CLEAR, NEAR, SURPRISE, mean_surprise, over_documents

COPY = 10  # tokens of the planted model's copies
READ, SAME_BEGINNING = 48, 32  # tokens of a text that part (b) reads, and those that are alike

ONE_PASS = Claim(
    "One pass over a text gives what reading it token after token gives.",
    expects="equal",
    margin=0.01,
    unit="nats",
    part=AT_ONCE,
    arithmetic=True,
    measure=f"The largest difference of any logit at any of {READ} tokens. In the one pass all tokens are computed at "
    "once; token after token, each is computed from what was kept of those before it.",
    caveat="Training and reading a prompt are at once; writing is token after token: each must be known first.",
)
NO_FUTURE = Claim(
    "No token sees those behind it.",
    expects="equal",
    margin=0.01,
    unit="nats",
    part=AT_ONCE,
    arithmetic=True,
    measure=f"The largest difference of any logit at the first {SAME_BEGINNING} tokens, when the tokens behind them "
    "are others.",
    caveat="So “the whole context” is all that stands before; nothing that comes after.",
)
PLANTED = Claim(
    "Positive control: where the needed token lies a known distance back, the window must reach it.",
    expects="less",
    margin=CLEAR,
    unit=NATS,
    part=CONTROLS,
    measure=f"A model with a planted copying mechanism reads {COPY} random tokens twice; the token to copy stands "
    f"{COPY - 1} tokens before the current one. Surprise with a window that reaches it, less with one a token shorter, "
    "text by text.",
    subject="trained here",
)
NO_HELP = Claim(
    "Negative control: for random weights no context helps.",
    expects="equal",
    margin=0.1,
    unit=NATS,
    part=CONTROLS,
    measure="Surprise with the whole context less that with two tokens and the first, for the same architecture with "
    "random weights.",
)


@probe(paper="arXiv:1706.03762", claims=[*context.CLAIMS, ONE_PASS, NO_FUTURE, *heads.CLAIMS, PLANTED, NO_HELP])
def parallel_attention(
    lab: Lab,
    *,
    corpus: Path | None = None,
    documents: Annotated[int, Least(8)] = 16,
    tokens: Annotated[int, Least(64)] = 128,
) -> Iterator[Finding | NotAsked]:
    """Cut the context in several ways and see what the prediction loses.

    Args:
        corpus: text of yours instead of the bundled prose
        documents: how many documents, 8 or more
        tokens: how many tokens of each, 64 or more; shorter documents are left out
    """
    n = min(documents, 10) if lab.quick else documents
    rows = _rows(lab, corpus, n, min(tokens, 96) if lab.quick else tokens)
    half = len(rows[0]) // 2
    source = text_read(corpus)
    whole = windowed_losses(lab.model, rows, None, start=half)
    yield from context.windows(lab, rows, half, whole, source)
    yield from context.contexts(lab, rows, half, whole, source)
    few = rows[: 4 if lab.quick else 8]
    yield _one_pass(lab, few)
    yield _no_future(lab, few)
    yield heads.cut_layers(lab, rows, half, whole)
    yield heads.look_far(lab, rows)
    yield _planted(lab)
    yield _random_weights(lab, rows, half)


def _rows(lab: Lab, corpus: Path | None, n: int, tokens: int) -> Rows:
    documents = corpus_or_prose(corpus)
    tokens = min(tokens, lab.model.context_length or tokens)
    rows = [row for row in lab.model.encode(documents, cut=tokens) if len(row) == tokens][:n]
    if len(rows) < 8:
        raise UserError(f"{len(rows)} documents have {tokens} tokens; expected 8 or more; use --tokens, or more text")
    return rows


@torch.no_grad()
def _one_pass(lab: Lab, rows: Rows) -> Finding:
    """Token after token on the cache, against one pass; the texts side by side, for they are equally long."""
    hf = lab.model.hf
    ids = torch.tensor([row[:READ] for row in rows], device=lab.model.device)
    once = hf(ids, use_cache=False).logits.float()
    most, cache = torch.zeros(len(rows), device=ids.device), None
    for at in range(ids.shape[1]):
        out = hf(ids[:, at : at + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        most = torch.maximum(most, (once[:, at] - out.logits[:, -1].float()).abs().amax(-1))
        lab.progress("reading token after token", at + 1, ids.shape[1])
    return ONE_PASS.answer(
        estimate_mean(most.tolist(), unit="nats", over="document", exact=True, seed=lab.seed), zero("nats")
    )


@torch.no_grad()
def _no_future(lab: Lab, rows: Rows) -> Finding | NotAsked:
    """Another ending must change nothing before it."""
    if len(rows[0]) < READ:
        return NO_FUTURE.not_asked(f"because a text has {len(rows[0])} tokens here; {READ} are needed")
    most = []
    for i, row in enumerate(rows):
        other = [*row[:SAME_BEGINNING], *rows[(i + 1) % len(rows)][SAME_BEGINNING:READ]]
        logits = lab.model.logits([row[:READ], other]).float()
        most.append(float((logits[0, :SAME_BEGINNING] - logits[1, :SAME_BEGINNING]).abs().max()))
    return NO_FUTURE.answer(estimate_mean(most, unit="nats", over="document", exact=True, seed=lab.seed), zero("nats"))


def _planted(lab: Lab) -> Finding:
    """Copies of random tokens: what is needed lies exactly a copy's length back."""
    model = plant_induction(lab.seed).model
    generator = torch.Generator().manual_seed(lab.seed)
    copies = [(3 + torch.randperm(20, generator=generator)[:COPY]).tolist() for _ in range(12)]
    rows = [[1, *copy, *copy] for copy in copies]
    losses = {window: mean_surprise(model, rows, window, COPY + 2) for window in range(COPY - 3, COPY + 4)}
    by_window = measured(losses, by=("tokens in sight",), value=SURPRISE, unit=NATS, over="document", seed=lab.seed)
    return PLANTED.answer(
        over_documents(losses[COPY] - losses[COPY - 1], lab),
        same_as(NATS, "with a window one token shorter"),
        table=by_window.rows(),
        figure=by_window.lines(
            x="tokens in sight",
            caption="Surprise of the second copy by the window. It must fall at the length of a copy.",
        ),
    )


def _random_weights(lab: Lab, rows: Rows, half: int) -> Finding:
    """No context helps a model that has learned nothing."""
    random_weights = with_random_weights(lab.model, lab.seed)
    whole, near = (mean_surprise(random_weights, rows[:8], window, half) for window in (None, NEAR))
    return NO_HELP.answer(over_documents(whole - near, lab), zero(NATS))
