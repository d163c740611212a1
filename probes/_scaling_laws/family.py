"""A family of trained models on one text: their loss against their size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp import Control, Figure, Finding, Lab, Model, Row, UserError, load_corpus, load_model, prose
from interp.stats import estimate_mean, fit_power_law

PART = "A family of models"
UNIT = "nats per character"
DOCUMENTS, TOKENS = 40, 512  # of each, at most


def measure_family(lab: Lab, names: Sequence[str], corpus: Path | None) -> Finding:
    """Each model's loss a character on the same documents: tokenizers cut differently, characters are the same."""
    documents: list[str] = list(load_corpus(corpus)) if corpus else prose()
    documents = documents[: DOCUMENTS // 4 if lab.quick else DOCUMENTS]
    losses, sizes = [], []
    for i, name in enumerate(names):
        model = load_model(name, str(lab.model.device))
        losses.append(_losses(model, documents))
        sizes.append(count_parameters(model))
        lab.progress("measuring the family", i + 1, len(names))
    order: list[int] = np.argsort([inside for _, inside in sizes]).tolist()
    small, large = losses[order[0]], losses[order[-1]]
    rows: list[Row] = []
    for i in order:
        at = estimate_mean(losses[i], unit=UNIT, over="document", seed=lab.seed)
        rows.append({"model": names[i], "parameters": sizes[i][1], "with embeddings": sizes[i][0]})
        rows[-1] |= {"loss (nats per character)": at.mean, "low": at.low, "high": at.high}
    different = len({inside for _, inside in sizes})
    fit = fit_power_law([s[1] for s in sizes], [v.mean() for v in losses]) if different > 3 else None
    return Finding(
        claim=f"On the same text, {names[order[-1]]} has a lower loss than {names[order[0]]}.",
        estimate=estimate_mean(large, unit=UNIT, over="document", seed=lab.seed),
        control=Control(names[order[0]], estimate_mean(small, unit=UNIT, over="document", seed=lab.seed)),
        expects="less",
        part=PART,
        answers=True,
        measure=f"Loss of each document a character, over {len(documents)} documents of "
        f"{corpus or 'the bundled prose, which people wrote'}. "
        + (f"The exponent of parameters without embeddings is {fit.exponent}." if fit else ""),
        caveat="Models of a family differ in more than size. Text that one of them wrote is easier for it.",
        table=rows,
        figure=Figure(
            "log_lines", x="parameters", y="loss (nats per character)", low="low", high="high",
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
