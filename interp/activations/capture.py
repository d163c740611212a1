"""Capture activations to a store: as fast as the model runs, by any number of workers, and never a shard lost.

A forward reads the plain trunk (`interp.model.trunk`) where it gives all sites that were asked for, else the hooked
tree. What a hook sees is written to its place in the shard at once, so that memory holds one layer and no more.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import torch

from interp.activations.plan import (
    DTYPES,
    SHARD_BYTES,
    Cut,
    Plan,
    Tokens,
    batches_of,
    cut_shards,
    read_tokens,
)
from interp.activations.shards import ShardWriter, clear_leftovers, new_file, write_sealed
from interp.activations.store import Store, create_store, is_whole, layout_of, shard_path
from interp.errors import UserError
from interp.model.model import Model
from interp.model.trunk import Tap, find_taps, read_trunk
from interp.text.corpus import Corpus, from_texts

BATCH_TOKENS = 2048
Progress = Callable[[str, int, int], None]  # what, done, of how many
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Worker:
    """Which part of the shards is this process's: every `count`th, beginning with `index`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"shard {self.index}/{self.count} came; expected I/N with I from 0 to N - 1, such as 0/8")


def plan_capture(
    model: Model,
    corpus: Corpus | Iterable[str],
    sites: str | Sequence[str],
    *,
    cut: Cut | None = None,
    dtype: str = "fp32",
    batch_tokens: int = BATCH_TOKENS,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> tuple[Plan, Tokens]:
    """Everything that decides the bytes of a store, and its tokens; reads the corpus, runs the model on a few tokens.

    Raises UserError for a site that is unknown or has no row a token, an unknown dtype, or a bad document.
    """
    model.check_plain("capture")
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    shapes = site_shapes(model, sites)
    context = getattr(model.hf.config, "max_position_embeddings", None)
    cut = cut or Cut(min(Cut.context, context or Cut.context))
    if context and cut.context > context:
        raise UserError(f"context {cut.context}; this model takes {context} tokens at most")
    if batch_tokens < cut.context:
        raise UserError(f"batch_tokens {batch_tokens}; expected the context, {cut.context}, or more")
    corpus = corpus if isinstance(corpus, Corpus) else from_texts(corpus)
    tell = (lambda done, total: progress("reading the corpus", done, total)) if progress else None
    tokens, fingerprint, ended = read_tokens(model, corpus, cut, tell)
    row = DTYPES[dtype].itemsize * sum(map(prod, shapes.values()))
    provenance = model.provenance
    plan = Plan(
        model={key: getattr(provenance, key) for key in ("name", "weights", "tokenizer", "architecture")},
        numerics={
            "compute": provenance.dtype,
            "stored": dtype,
            "path": "trunk" if len(find_taps(model, list(shapes))) == len(shapes) else "hooked tree",
            "device": model.device.type,
            "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
            "libraries": {name: provenance.libraries.get(name) for name in ("torch", "transformers")},
        },
        cut=asdict(cut) | {"bos": provenance.bos},
        sites=shapes,
        batch_tokens=batch_tokens,
        corpus={"documents": len(tokens.row), "tokens": len(tokens), "fingerprint": fingerprint, "whole": ended},
        shards=cut_shards(tokens, row, shard_bytes),
    )
    return plan, tokens


def site_shapes(model: Model, sites: str | Sequence[str]) -> dict[str, list[int]]:
    """The shape of one row at every site that matches. Raises UserError for a site without one row a token."""
    names = model.site_table.match(sites)
    for name in names:
        axes = model.site_table.axes[name]
        if axes[:2] != ("prompt", "pos") or "pos" in axes[2:]:
            raise UserError(
                f"site {name!r} has the axes {', '.join(axes)} and no row a token; a store cannot hold it; "
                "choose others, such as 'blocks.*.hook_resid_post'"
            )
    acts = model.capture([[0, 0]], names)
    return {name: list(acts[name].shape[2:]) for name in names}


def capture_store(
    model: Model,
    folder: Path,
    plan: Plan,
    tokens: Tokens,
    *,
    worker: Worker | None = None,
    progress: Progress | None = None,
    stop: Stop = lambda: False,
) -> Store:
    """Write the shards of `plan` that are this worker's and not there yet. `stop` is asked after every shard.

    The store is complete once every shard was some worker's. Raises UserError when `folder` holds another plan, or the
    disk is full: then everything written so far stays.
    """
    model.check_plain("capture")  # in the hooked tree, an edit would reach the rows and no plan would tell
    worker = worker or Worker()
    try:
        store = create_store(folder, plan, tokens)
        clear_leftovers(folder)
        todo = [i for i in range(worker.index, len(plan.shards), worker.count) if not is_whole(store, i)]
        check_disk(store, todo)
        run = _Run(model, store, progress, sum(_rows(store, i) for i in todo))
        with ThreadPoolExecutor(1) as beside:  # the disk catches up with a shard while the model runs the next
            finishing: Future[None] | None = None
            for index in todo:
                finish = run.write(index)
                if finishing is not None:
                    finishing.result()
                finishing = beside.submit(finish)
                if stop():
                    break
            if finishing is not None:
                finishing.result()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror or error}; whole shards are kept; free some space and run the "
            "same command again"
        ) from error
    return store


def check_disk(store: Store, shards: Sequence[int]) -> None:
    """Refuse a capture that will not fit the disk."""
    needed = sum(layout_of(store, i).size for i in shards)
    free = shutil.disk_usage(store.folder).free
    if needed > free:
        raise UserError(
            f"the store needs {needed / 1e9:.2f} GB more and {free / 1e9:.2f} GB are free in {store.folder}; free some "
            "space, store bf16 or fewer sites or tokens"
        )


@dataclass(frozen=True)
class Cost:
    """What a capture will take: bytes on disk, free bytes there, seconds in all, the process' peak memory in bytes."""

    size: int
    free: int
    seconds: float
    memory: int


def measure_cost(model: Model, plan: Plan, tokens: Tokens, folder: Path) -> Cost:
    """Run the first batch of the plan twice into a file that is thrown away, and reckon from the second run."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    store = Store(folder, plan, tokens)
    size = sum(layout_of(store, i).size for i in range(len(plan.shards)))
    batch = next(batches_of(tokens, plan.shards[0], plan.batch_tokens))
    run = _Run(model, store, None, 0)
    counted = int(sum(tokens.lengths[i] for i in batch))
    seconds = 0.0
    with tempfile.TemporaryFile() as file:
        writer = ShardWriter(file.fileno(), layout_of(store, 0), plan.sites, 0)
        for _ in range(2):
            start = time.perf_counter()
            run.forward(batch, writer)
            seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Cost(size, shutil.disk_usage(above).free, seconds * len(tokens) / counted, memory)


def _rows(store: Store, index: int) -> int:
    *_, first, stop = store.plan.shards[index]
    return stop - first


class _Run:
    """Writes shards one after the other and tells how far it is."""

    def __init__(self, model: Model, store: Store, progress: Progress | None, total: int) -> None:
        self.model, self.store, self.progress, self.total, self.done = model, store, progress, total, 0
        names = list(store.plan.sites)
        self.taps: dict[str, Tap] = find_taps(model, names) if store.plan.numerics["path"] == "trunk" else {}

    def write(self, index: int) -> Callable[[], None]:
        """Run a shard's forwards and write what they give. Returns what makes it durable: fsync, hash, rename, seal."""
        store, plan = self.store, self.store.plan
        layout, path = layout_of(store, index), shard_path(store.folder, index)
        with ExitStack() as open_file:
            file = open_file.enter_context(new_file(path, layout.size))
            writer = ShardWriter(file.descriptor, layout, plan.sites, store.first_rows[index])
            for batch in batches_of(store.tokens, plan.shards[index], plan.batch_tokens):
                self.forward(batch, writer)
                self.done += int(sum(store.tokens.lengths[i] for i in batch))
                if self.progress is not None:
                    self.progress("capturing", self.done, self.total)
            writer.close()
            written = open_file.pop_all()

        def finish() -> None:
            written.close()
            seal = {"plan": plan.hash, "shard": index, "bytes": layout.size, "hash": file.hash}
            write_sealed(shard_path(store.folder, index, "json"), seal)

        return finish

    def forward(self, batch: list[int], writer: ShardWriter) -> None:
        """Run one batch and write what it gives."""
        tokens = self.store.tokens
        rows = [tokens.sequence(i).tolist() for i in batch]
        spans = [(int(tokens.starts[i]), int(tokens.starts[i + 1])) for i in batch]
        if self.taps:
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
            read_trunk(self.model, ids, self.taps, lambda site, value: writer.put(site, spans, value))
            return
        acts = self.model.capture(rows, list(self.store.plan.sites), batch_size=len(rows))
        for site, value in acts.items():
            writer.put(site, spans, value)
