"""A family of trained models on one text: their loss against their size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp import Claim, Figure, Finding, Lab, Model, Row, UserError, corpus_or_prose, load_model, measured, same_as
from interp.stats import estimate_mean, fit_power_law

PART = "A family of models"
UNIT = "nats per character"
DOCUMENTS, TOKENS = 40, 512  # of each, at most
LOSS = "loss (nats per character)"

FAMILY = Claim(
    "On the same text, the largest model of a family has a lower loss than the smallest: {large} than {small}.",
    expects="less",
    unit=UNIT,
    part=PART,
    answers=True,
    measure="Loss of each document a character, of the largest less of the smallest.",
    caveat="Models of a family differ in more than size. Text that one of them wrote is easier for it.",
    subject="others",
)


def measure_family(lab: Lab, names: Sequence[str], corpus: Path | None) -> Finding:
    """Each model's loss a character on the same documents: tokenizers cut differently, characters are the same."""
    documents = corpus_or_prose(corpus)
    documents = documents[: DOCUMENTS // 4 if lab.quick else DOCUMENTS]
    losses, sizes = [], []
    for i, name in enumerate(names):
        model = load_model(name, str(lab.model.device))
        losses.append(_losses(model, documents))
        sizes.append(count_parameters(model))
        lab.progress("measuring the family", i + 1, len(names))
    order: list[int] = np.argsort([inside for _, inside in sizes]).tolist()
    small, large = order[0], order[-1]
    by_model = measured(
        {names[i]: losses[i] for i in order}, by=("model",), value=LOSS, unit=UNIT, over="document", seed=lab.seed
    )
    table: list[Row] = [
        {**row, "parameters": sizes[i][1], "with embeddings": sizes[i][0]}
        for i, row in zip(order, by_model.rows(), strict=True)
    ]
    different = len({inside for _, inside in sizes})
    fit = fit_power_law([s[1] for s in sizes], [v.mean() for v in losses]) if different > 3 else None
    return FAMILY.answer(
        estimate_mean(losses[large] - losses[small], unit=UNIT, over="document", seed=lab.seed),
        same_as(UNIT, names[small]),
        about={"large": names[large], "small": names[small]},
        measure=f"Over {len(documents)} documents of {corpus or 'the bundled prose, which people wrote'}."
        + (f" The exponent of parameters without embeddings is {fit.exponent}." if fit else ""),
        table=table,
        figure=Figure(
            "log_lines", x="parameters", y=LOSS, low="low", high="high",
            caption="Parameters without embeddings; bands over documents.",
        ),
    )  # fmt: skip


def count_parameters(model: Model) -> tuple[int, int]:
    """(all weights, those that are no embedding); a matrix that is used twice counts once."""
    hf: Any = model.hf
    own = {p.data_ptr(): p.numel() for p in hf.parameters()}
    tables = [m for m in hf.modules() if isinstance(m, torch.nn.Embedding)]
    outer = hf.get_output_embeddings()
    inside = {p.data_ptr() for m in (*tables, *([outer] if outer is not None else [])) for p in m.parameters()}
    total = sum(own.values())
    return total, total - sum(n for key, n in own.items() if key in inside)


def _losses(model: Model, documents: Sequence[str]) -> np.ndarray:
    """Nats a character of each document, its first token left out."""
    out = []
    for i, text in enumerate(documents):
        ids = model.encode([text], cut=TOKENS)[0]
        if len(ids) < 2:
            raise UserError(f"document {i} is a single token; expected text")
        nats = model.loss([ids]).nansum()
        out.append(float(nats) / len(str(model.tokenizer.decode(ids[1:]))))
    return np.array(out)
