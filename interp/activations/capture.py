"""Capture activations to a store: as fast as the model runs, by any number of workers, and never a shard lost.

What a forward shows is written to its place in the shard at once: memory holds one layer and no more.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Bool
from torch import Tensor

from interp.activations.create import create_store
from interp.activations.files import NewFile, new_file, write_sealed
from interp.activations.leftovers import clear_leftovers
from interp.activations.offload import Offload
from interp.activations.plan import Plan, batches_of, kernels
from interp.activations.shards import ShardWriter, measure
from interp.activations.share import free_pieces
from interp.activations.store import PARTS, Store, is_whole, layout_of
from interp.activations.token_table import Tokens
from interp.errors import UserError
from interp.model.hooks.compiled import check_compiled, compiled
from interp.model.hooks.forward import batches, path_for, stream
from interp.model.hooks.host import sent
from interp.model.model import Model
from interp.paths import expand
from interp.progress import Progress, Stop, never, silent

WRITERS = 4  # threads that write what a GPU gave; each waits for the disk most of the time


class Where(NamedTuple):
    """A site, which rows each sequence is, and where its real tokens stand (on the model's device)."""

    site: str
    rows: list[tuple[int, int]]
    real: Bool[Tensor, "sequence pos"]


@dataclass(frozen=True)
class Worker:
    """Which part of the shards is this process's: every `count`th, beginning with `index`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"shard {self.index}/{self.count} came; expected I/N with I from 0 to N - 1, such as 0/8")


def capture_store(
    model: Model,
    folder: str | Path,
    plan: Plan,
    tokens: Tokens,
    *,
    worker: Worker | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> Store:
    """Write the shards of `plan` that are this worker's and not there yet. `stop` is asked after every shard.

    The store is complete once every shard was some worker's. Raises UserError when `folder` holds another plan, or the
    disk is full: then everything written so far stays.
    """
    folder = expand(folder)
    check_plan(model, plan)  # before anything is written
    try:
        store = create_store(folder, plan, tokens)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return fill_store(model, store, worker=worker, progress=progress, stop=stop)


def fill_store(
    model: Model,
    store: Store,
    *,
    worker: Worker | None = None,
    begin: int = 0,
    progress: Progress = silent,
    stop: Stop = never,
) -> Store:
    """Write the shards that are not there, from `begin` on; those that another process has in hand are asked for last.

    Raises UserError where the disk is full: then everything written so far stays.
    """
    worker = worker or Worker()
    try:
        for place in dict.fromkeys((store.folder, *store.folders())):
            clear_leftovers(place, *PARTS)
        mine = range(worker.index, len(store.plan.shards), worker.count)
        todo = [i for i in (*mine[begin:], *mine[:begin]) if not is_whole(store, i)]
        check_disk(store, todo)
        run = ShardRun(model, store, progress, sum(_rows(store, i) for i in todo))
        with (
            run.as_planned(),
            ThreadPoolExecutor(1) as beside,
        ):  # the disk catches up with a shard while the model runs the next
            finishing: Future[None] | None = None
            for index in free_pieces(todo, store.shard_path, lambda i: is_whole(store, i)):
                written = run.write(index)
                with written.dropped_unless_taken():
                    if finishing is not None:
                        finishing.result()
                    finishing = beside.submit(written.finish)
                if stop():
                    break
            if finishing is not None:
                finishing.result()
    except OSError as error:
        raise cannot_write(store.folder, error) from error
    return store


def cannot_write(folder: Path, error: OSError) -> UserError:
    """What a user is told where the disk is full, or the folder not theirs."""
    return UserError(
        f"cannot write to {folder}: {error.strerror or error}; whole shards are kept; free some space and run the "
        "same command again"
    )


def check_plan(model: Model, plan: Plan) -> None:
    """Raise UserError where this model cannot run as planned: an edit is active, or nothing compiles."""
    model.check_plain("capture")  # in the hooked tree, an edit would reach the rows and no plan would tell
    if plan.compiled:
        check_compiled(model.tree, list(plan.sites))


def check_disk(store: Store, shards: Sequence[int]) -> None:
    """Refuse a capture that will not fit the disk."""
    needed = sum(layout_of(store, i).size for i in shards)
    free = shutil.disk_usage(store.folder).free
    if needed > free:
        raise UserError(
            f"the store needs {needed / 1e9:.2f} GB more and {free / 1e9:.2f} GB are free in {store.folder}; free some "
            "space, store bf16 or fewer sites or tokens"
        )


def _rows(store: Store, index: int) -> int:
    *_, first, stop = store.plan.shards[index]
    return stop - first


@dataclass(frozen=True)
class Written:
    """A shard whose rows are in a temporary file."""

    open_file: ExitStack
    file: NewFile
    seal_path: Path
    seal: dict[str, Any]

    def finish(self) -> None:
        """Make it durable: fsync, hash, rename, seal."""
        self.open_file.close()
        write_sealed(self.seal_path, {**self.seal, "hash": self.file.hash})

    @contextmanager
    def dropped_unless_taken(self) -> Iterator[None]:
        """Remove the temporary file if the shard before this one could not be finished."""
        try:
            yield
        except BaseException as error:
            self.open_file.__exit__(type(error), error, error.__traceback__)
            raise


class ShardRun:
    """Writes shards one after the other and tells how far it is."""

    def __init__(self, model: Model, store: Store, progress: Progress, total: int) -> None:
        self.model, self.store, self.progress, self.total, self.done = model, store, progress, total, 0
        self.sites = list(store.plan.sites)
        path = path_for(model.tree, self.sites)
        if path != store.plan.path:
            raise UserError(
                f"the store was planned to be read from the {store.plan.path}, and this model is read from "
                f"the {path}: their last bits differ; capture to another folder"
            )

    def as_planned(self) -> AbstractContextManager[None]:
        """Inside, the model runs as the plan says: compiled, or as it is. Raises UserError where it cannot."""
        return compiled(self.model.tree, self.sites) if self.store.plan.compiled else nullcontext()

    def write(self, index: int) -> Written:
        """Run a shard's forwards and write what they give, to a file that is not yet durable."""
        store, plan = self.store, self.store.plan
        layout, path = layout_of(store, index), store.shard_path(index)
        with ExitStack() as open_file:
            file = open_file.enter_context(new_file(path, layout.size))
            writer = ShardWriter(file.descriptor, layout, plan.sites, store.first_rows[index])
            with self.offload_to(writer) as offload, self.model.tree.settled():
                for batch in batches_of(store.tokens, plan.shards[index], plan.batch_tokens):
                    self.forward(batch, offload)
                    file.begin_sync()
                    self.done += int(sum(store.tokens.lengths[i] for i in batch))
                    self.progress("capturing", self.done, self.total)
            writer.close()
            seal: dict[str, Any] = {"plan": plan.hash, "shard": index, "bytes": layout.size}
            seal["computed_on"] = kernels(self.model.hf)  # another machine than the plan's may go on with it
            seal["host"] = socket.gethostname()
            return Written(open_file.pop_all(), file, store.shard_path(index, "json"), seal)

    def offload_to(self, writer: ShardWriter) -> Offload[Where]:
        """What takes activations from the model to `writer`."""
        return Offload(
            lambda where, stored, norms, sums: writer.write(where.site, where.rows, stored, norms, sums),
            self.store.dtype,
            also=lambda where, stored: measure(stored, where.real),
            threads=WRITERS,
        )

    def forward(self, batch: list[int], offload: Offload[Where]) -> None:
        """Run one batch and hand on what it gives."""
        tokens = self.store.tokens
        rows = [tokens.sequence(i).tolist() for i in batch]
        spans = [(int(tokens.starts[i]), int(tokens.starts[i + 1])) for i in batch]
        for part in batches(self.model.tree, rows, len(rows), "right", self.sites):
            chosen = [spans[i] for i in part.index.tolist()]
            stream(self.model.tree, part, self.sites, partial(self._put, offload, chosen, part.mask))

    def _put(
        self, offload: Offload[Where], chosen: list[tuple[int, int]], real: Tensor, site: str, value: Tensor
    ) -> None:
        offload.put(Where(site, chosen, sent(real, value.device)), value)
