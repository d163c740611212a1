"""Help to finish a store that somebody planned: plan and tokens come from its folder, the text is not read again.

Before the first shard this process is held against the plan: the model by the hashes of its weights and tokenizer,
and everything that decides the last bits. On another number of threads, another device or other versions of the
libraries, fp32 values differ by some 1e-6 of the largest, and a worker that would write such is refused unless it is
allowed to be mixed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.activations.capture import Worker, check_plan, fill_store
from interp.activations.create import differences
from interp.activations.plan import Plan, numerics_of, site_shapes
from interp.activations.store import Store, open_store
from interp.errors import UserError
from interp.model.loading.identity import has_weights
from interp.model.model import Model
from interp.progress import Progress, Stop, never, silent

ROUNDING = ("device", "threads", "attention", "libraries")  # of a plan's numerics: what only rounds in another way


def join_store(
    model: Model,
    folder: str | Path,
    *,
    mixed: bool = False,
    worker: Worker | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> Store:
    """Write shards of the store in `folder` that are not there and that nobody is writing, until none is left.

    Without `worker` any number of processes share the shards as they come, and may join and leave at any time.
    `mixed`: also where this process rounds otherwise than the plan's; each shard's seal says what it was computed on.
    Raises UserError for a folder that is no store, and for a model or a process that is another than the plan's.
    """
    store = open_store(folder)
    check_worker(model, store.plan, mixed=mixed)
    begin = hash((os.getpid(), os.urandom(8))) % len(store.plan.shards) if worker is None else 0
    return fill_store(model, store, worker=worker, begin=begin, progress=progress, stop=stop)


def check_worker(model: Model, plan: Plan, *, mixed: bool = False) -> None:
    """Raise UserError unless this process would write the bytes that were planned; `mixed`: up to their rounding."""
    refuse_other_model(plan.model, model, "the store was planned")
    for site, place in plan.model.get("registered", {}).items():
        if site not in model.site_table.registered:
            model.register_site(site, place)
    check_plan(model, plan)
    shapes = site_shapes(model, list(plan.sites))
    planned = {**plan.numerics, "path": plan.path}
    here = numerics_of(model, shapes, plan.numerics["stored"], compiled=plan.compiled)
    unlike = list(differences(planned, here, words=("planned", "here")))
    if deciding := [one for one in unlike if not one.startswith(ROUNDING)]:
        raise UserError(f"the store was planned otherwise: {'; '.join(deciding)}; load the model as it was planned")
    if unlike and not mixed:
        threads = planned["threads"]
        only_threads = all(one.startswith("threads:") for one in unlike)
        way = f"set OMP_NUM_THREADS={threads}" if only_threads and threads else "run on what the plan names"
        raise UserError(
            f"this process rounds otherwise than the store was planned: {'; '.join(unlike)}; {way}, or allow it "
            "with --mixed: values then differ by some 1e-6 of the largest, and every shard says what computed it"
        )


def refuse_other_model(told: Mapping[str, Any], model: Model, what: str) -> None:
    """Raise UserError unless `model` is the one that a plan tells of; `what` opens the message."""
    loaded = model.provenance
    fits = {
        "weights": has_weights(loaded, told["weights"], told.get("files")),
        "tokenizer": told["tokenizer"] == loaded.tokenizer,
    }
    for key in fits:
        if not fits[key]:
            raise UserError(
                f"{what} with {told['name']} ({key} {str(told[key])[:19]}…), and the loaded model is "
                f"{loaded.name} ({getattr(loaded, key)[:19]}…); name its model with --model"
            )
