"""The SAE of a model where none is named: the one that ships with the package, or one trained here in a minute.

The bundled model has a shipped SAE (`data/saes/`, with its card). For any other, 32,000 tokens and 200 steps on text
that the bundled model wrote are enough to look at features and not to believe one; it is kept in the cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from interp.activations.rows import capture_rows
from interp.model.loading.cache import cache_dir, is_intact
from interp.model.model import Model
from interp.model.provenance import hash_files
from interp.progress import Progress, labelled, silent
from interp.saes.lineage import LINEAGE, lineage_of
from interp.saes.training.plan import SAEPlan, Training, plan_sae
from interp.saes.training.report import TrainingCallbacks
from interp.saes.training.sources import MemoryRows
from interp.saes.training.trainer import train
from interp.text.corpus import SAMPLE, split_corpus
from interp.text.data import data

TOKENS = 32_000


def default_site(model: Model) -> str:
    """The residual stream in the middle of the model."""
    return f"blocks.{max(0, model.n_layers // 2 - 1)}.hook_resid_post"


def shipped_sae(model: Model) -> Path | None:
    """The folder of the SAE in `data/saes/` that was trained on this very model, None where there is none."""
    ours = lineage_of(model, "")
    for cfg in sorted(data("saes").glob("*/cfg.json")):
        metadata = json.loads(cfg.read_text(encoding="utf-8"))["metadata"]
        if all(metadata.get(key) == ours[key] for key in LINEAGE):
            return cfg.parent
    return None


def default_plan(model: Model) -> tuple[SAEPlan, Training]:
    """What the default SAE of a model is, and how it is trained: a minute's work."""
    steps = Training(steps=200, lr=3e-3, dead_after=100)
    return plan_sae(default_site(model), "topk", 2304, k=32), steps


def ensure_default_sae(
    model: Model, progress: Progress = silent, chosen: tuple[SAEPlan, Training] | None = None
) -> Path:
    """The folder of this model's default SAE: shipped, in the cache, or trained now. Same inputs, same folder.

    `chosen`: another plan and training than the default ones; then it is trained where the cache has none.
    """
    if chosen is None and (shipped := shipped_sae(model)):
        return shipped
    plan, training = chosen or default_plan(model)
    key = {
        "weights": model.provenance.weights,
        "tokenizer": model.provenance.tokenizer,
        "dtype": model.provenance.dtype,
        "bos": model.provenance.bos,
        "corpus": hash_files([data(SAMPLE)]),
        "tokens": TOKENS,
        "plan": plan.to_dict(),
        "training": asdict(training),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = cache_dir() / "saes" / f"topk-{digest[:16]}"
    if is_intact(folder):
        return folder
    documents, _ = split_corpus()
    rows = capture_rows(model, documents, plan.site, max_tokens=TOKENS, progress=progress)
    shutil.rmtree(folder, ignore_errors=True)  # a damaged one
    folder.parent.mkdir(parents=True, exist_ok=True)
    callbacks = TrainingCallbacks(progress=labelled(progress, "training the SAE"))
    train(plan, MemoryRows(rows, model), folder, training, callbacks=callbacks)
    return folder
