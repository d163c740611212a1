"""A store of activations on disk: several sites of one model on one corpus, one row a token.

    STORE/
        plan.json                  what decides every byte, sealed
        tokens.safetensors         every row's token, document and position
        shard-00000.safetensors    the rows of all sites, by shard
        shard-00000.json           the seal of a whole shard

Shards of a very large store lie in sub-folders, `00000/shard-00000.safetensors`, a thousand in each.

`open_store` reads it, memory-mapped; `create.py` and `capture.py` write it, and `verify.py` finds every damage.
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.files import read_sealed
from interp.activations.plan import DTYPES, READABLE, SCHEMA, Plan
from interp.activations.rows import SINK_FACTOR
from interp.activations.shards import shard_layout
from interp.activations.tensor_file import FileLayout, Maps, map_tensors, read_note
from interp.activations.token_table import Tokens
from interp.errors import UserError, unknown
from interp.paths import expand

PLAN, TOKENS = "plan.json", "tokens.safetensors"
PARTS = (PLAN, TOKENS, "shard-[0-9]*")  # patterns that match every file of a store
FOLDERS = "[0-9][0-9][0-9][0-9][0-9]"  # and its sub-folders


@dataclass(frozen=True)
class Store:
    """A store that is open. `len(store)` is its number of rows, whether or not they are all captured yet."""

    folder: Path
    plan: Plan
    tokens: Tokens
    _maps: Maps = field(default_factory=Maps, repr=False, compare=False)

    def __repr__(self) -> str:
        whole = len(self.plan.shards) - len(self.missing)
        held = f"{len(self):,} rows at {len(self.sites)} sites, {whole} of {len(self.plan.shards)} shards"
        return f"Store({str(self.folder)!r}: {held})"

    def __len__(self) -> int:
        return int(self.plan.corpus["tokens"])

    @property
    def sites(self) -> list[str]:
        """The sites that were captured."""
        return list(self.plan.sites)

    @property
    def dtype(self) -> torch.dtype:
        """What the values are stored as."""
        return DTYPES[self.plan.numerics["stored"]]

    @cached_property
    def first_rows(self) -> list[int]:
        """The first row of each shard, and the number of rows."""
        return [first for *_, first, _ in self.plan.shards] + [len(self)]

    @property
    def missing(self) -> list[int]:
        """Shards that are not there yet."""
        return [i for i in range(len(self.plan.shards)) if not is_whole(self, i)]

    @property
    def computed_on(self) -> dict[str, int]:
        """What the shards were computed on, such as `cpu AVX2, 2 threads`, and how many of them each."""
        counted: dict[str, int] = {}
        for index in range(len(self.plan.shards)):
            seal = read_sealed(self.shard_path(index, "json"))
            if seal is not None:
                machine = describe_kernels(seal.get("computed_on", self.plan.numerics))
                counted[machine] = counted.get(machine, 0) + 1
        return counted

    def rows(self, site: str, start: int = 0, stop: int | None = None) -> Float[Tensor, "row ..."]:
        """Rows `start` to `stop` of `site`, as stored. Within one shard no byte is copied; across shards they are."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise UserError(f"rows {start} to {stop} came; this store has rows 0 to {len(self)}")
        self._known(site)
        if start == stop:
            return torch.empty((0, *self.plan.sites[site]), dtype=self.dtype)
        firsts, pieces = self.first_rows, []
        for i in range(bisect_right(firsts, start) - 1, bisect_left(firsts, stop)):
            a, b = firsts[i], firsts[i + 1]
            pieces.append(self._shard(i)[site][max(start, a) - a : min(stop, b) - a])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def shuffled(
        self,
        sites: str | Sequence[str],
        batch: int,
        *,
        seed: int = 0,
        block: int = 2048,
        blocks: int = 16,
        keep: Bool[Tensor, " row"] | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """All rows once, in batches of `batch` in a random order that `seed` decides: {site: [row, …]}.

        Blocks of `block` neighbouring rows come in random order, and rows are mixed among `blocks` of them at a time:
        the disk reads long runs, and memory holds `block * blocks` rows. The last batch may be smaller. `keep`
        chooses rows, such as `~store.is_sink(site)`.
        """
        names = [self._known(site) for site in ([sites] if isinstance(sites, str) else sites)]
        if keep is not None and (keep.shape != (len(self),) or keep.dtype != torch.bool):
            raise UserError(f"keep has shape {tuple(keep.shape)}; expected True or False for each of {len(self)} rows")
        if not names or min(batch, block, blocks) < 1:
            raise UserError(
                f"sites {names}, batch {batch}, block {block}, blocks {blocks}; expected a site, and 1 or more"
            )
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randperm(-(-len(self) // block), generator=generator) * block
        left = {name: torch.empty((0, *self.plan.sites[name]), dtype=self.dtype) for name in names}
        for chunk in starts.split(blocks):
            spans = [(int(a), min(int(a) + block, len(self))) for a in chunk]
            order = torch.randperm(sum(b - a for a, b in spans), generator=generator)
            if keep is not None:
                order = order[torch.cat([keep[a:b] for a, b in spans])[order]]
            for name in names:
                mixed = torch.cat([self.rows(name, a, b) for a, b in spans])[order]
                left[name] = torch.cat([left[name], mixed])
            while len(left[names[0]]) >= batch:
                yield {name: left[name][:batch] for name in names}
                left = {name: left[name][batch:] for name in names}
        if len(left[names[0]]):
            yield left

    def norms(self, site: str) -> Float[Tensor, " row"]:
        """The L2 norm of every row as stored."""
        return torch.cat([self._shard(i)[f"{self._known(site)}#norm"] for i in range(len(self.plan.shards))])

    def moments(self, site: str) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """Mean and variance of every component over all rows, attention sinks included."""
        parts = [self._shard(i) for i in range(len(self.plan.shards))]
        total, squares = (sum(p[f"{self._known(site)}#{what}"] for p in parts) for what in ("sum", "sum_of_squares"))
        mean = torch.as_tensor(total) / len(self)
        return mean, torch.as_tensor(squares) / len(self) - mean.square()

    def is_sink(self, site: str) -> Bool[Tensor, " row"]:
        """Attention sinks: the first row of each sequence, and every row of over ten times the median norm."""
        norms = self.norms(site)
        sinks = norms > SINK_FACTOR * norms.median()
        sinks[torch.from_numpy(self.tokens.starts[:-1].copy())] = True
        return sinks

    def where(self, row: int) -> dict[str, Any]:
        """Where a row is from: token id, document and position in it (-1: a BOS put there), file and row in it."""
        if not 0 <= row < len(self):
            raise UserError(f"row {row} came; this store has rows 0 to {len(self) - 1}")
        document = int(self.tokens.document[row])
        return {
            "token_id": int(self.tokens.ids[row]),
            "document": document,
            "position": int(self.tokens.position[row]),
            "file": self.tokens.files[int(self.tokens.file[document])],
            "file_row": int(self.tokens.row[document]),
        }

    def shard_path(self, index: int, ending: str = "safetensors") -> Path:
        """Where a shard lies, or with "json" its seal."""
        name, each = f"shard-{index:05d}.{ending}", self.plan.per_folder
        return self.folder / (f"{index // each:05d}/{name}" if each else name)

    def folders(self) -> list[Path]:
        """Where shards lie: the store itself, or its sub-folders."""
        if not self.plan.per_folder:
            return [self.folder]
        return [self.folder / f"{i:05d}" for i in range(-(-len(self.plan.shards) // self.plan.per_folder))]

    def _known(self, site: str) -> str:
        if site not in self.plan.sites:
            raise unknown("site", site, self.sites, "it is not in this store; `interp store info` lists what is")
        return site

    def _shard(self, index: int) -> dict[str, Tensor]:
        if (held := self._maps.get(index)) is not None:
            return held
        if not is_whole(self, index):
            missing = self.missing
            raise UserError(
                f"{self.folder} lacks {len(missing)} of {len(self.plan.shards)} shards ({missing[0]}, …); "
                "run the same `interp capture` again to finish it"
            )
        return self._maps.keep(index, map_tensors(self.shard_path(index)))


def describe_kernels(kernels: Mapping[str, Any]) -> str:
    """`cpu AVX2, 2 threads` of what a plan or a seal says of device and threads."""
    threads = kernels.get("threads")
    return f"{kernels.get('device')}{'' if threads is None else f', {threads} threads'}"


def layout_of(store: Store, index: int) -> FileLayout:
    """What shard `index` looks like on disk, byte for byte."""
    *_, first, stop = store.plan.shards[index]
    return shard_layout(store.plan.sites, stop - first, store.dtype, store.plan.hash, index)


def is_whole(store: Store, index: int) -> bool:
    """Is the shard there, sealed for this plan, and of the right size? Its bytes are `verify_store`'s to check."""
    seal = read_sealed(store.shard_path(index, "json"))
    if seal is None or seal.get("plan") != store.plan.hash or seal.get("shard") != index:
        return False
    try:
        return store.shard_path(index).stat().st_size == seal.get("bytes")
    except OSError:
        return False


def open_store(folder: str | Path) -> Store:
    """Open a store, memory-mapped. Raises UserError for a folder that is none, and for a damaged plan."""
    folder = expand(folder)
    if not (folder / PLAN).is_file():
        raise UserError(f"{folder} is no store: it has no {PLAN}; expected a folder that `interp capture` wrote")
    plan = plan_in(read_record(folder))
    if not (folder / TOKENS).is_file():
        raise UserError(f"{folder / TOKENS} is missing; run the same `interp capture` again: it writes it anew")
    return Store(folder, plan, read_tokens_file(folder / TOKENS))


def read_record(folder: Path) -> dict[str, Any]:
    """What `plan.json` holds: the plan, and the hash of the tokens. Raises UserError where a byte of it is changed."""
    record = read_sealed(folder / PLAN)
    if record is None:
        raise UserError(
            f"{folder / PLAN} is damaged; delete it and run the same `interp capture` again: it makes the plan anew "
            "and keeps the shards"
        )
    return record


def plan_in(record: dict[str, Any]) -> Plan:
    """The plan in a record. Raises UserError for one that another version wrote."""
    try:
        schema = record["plan"].get("schema")
        plan = Plan(**{**record["plan"], "shards": tuple(map(tuple, record["plan"]["shards"]))})
        if schema in READABLE and plan.shards[-1][3] == plan.corpus["tokens"] and "tokens" in record:
            return plan
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"the plan in {PLAN} is none of this version ({type(error).__name__}: {error})") from error
    raise UserError(f"the plan in {PLAN} has schema {schema}; this version reads {SCHEMA}; capture again with it")


ARRAYS = {"ids": torch.int32, "document": torch.int32, "position": torch.int32, "starts": torch.int64} | {
    "file": torch.int32,
    "row": torch.int64,
}


def read_tokens_file(path: Path) -> Tokens:
    """The tokens of a store, mapped into memory. Raises UserError for a damaged file."""
    try:
        tensors = map_tensors(path)
        arrays = {name: tensors[name].numpy() for name in ARRAYS}
        tokens = Tokens(**arrays, files=tuple(json.loads(read_note(path)["files"])))
        rows, documents = {len(arrays[name]) for name in ("ids", "document", "position")}, len(tokens.row)
        if rows == {int(tokens.starts[-1])} and len(tokens.file) == documents:
            return tokens
        raise UserError(f"its arrays are of {sorted(rows)} rows, and {int(tokens.starts[-1])} are counted")
    except (OSError, KeyError, TypeError, ValueError, IndexError, struct.error, UserError) as error:
        raise UserError(
            f"{path} is damaged ({error}); run the same `interp capture` again: it writes it anew"
        ) from error
