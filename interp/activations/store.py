"""A store of activations on disk: several sites of one model on one corpus, one row a token.

    STORE/
        plan.json                  what decides every byte, sealed
        tokens.safetensors         every row's token, document and position
        shard-00000.safetensors    the rows of all sites, by shard
        shard-00000.json           the seal of a whole shard

`open_store` reads it, memory-mapped; `interp.activations.capture` writes it; `verify_store` finds every damage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.plan import DTYPES, SCHEMA, Plan, Tokens
from interp.activations.rows import SINK_FACTOR
from interp.activations.shards import (
    Layout,
    hash_descriptor,
    hash_file,
    lay_out,
    map_tensors,
    new_file,
    read_sealed,
    shard_layout,
    write_at,
    write_sealed,
)
from interp.errors import UserError, unknown

PLAN, TOKENS = "plan.json", "tokens.safetensors"


@dataclass(frozen=True)
class Store:
    """A store that is open. `len(store)` is its number of rows, whether or not they are all captured yet."""

    folder: Path
    plan: Plan
    tokens: Tokens
    _maps: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False, compare=False)

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

    def rows(self, site: str, start: int = 0, stop: int | None = None) -> Float[Tensor, "row ..."]:
        """Rows `start` to `stop` of `site`, as stored. Within one shard no byte is copied; across shards they are."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise UserError(f"rows {start} to {stop} came; this store has rows 0 to {len(self)}")
        self._known(site)
        pieces = [
            self._shard(i)[site][max(start, a) - a : min(stop, b) - a]
            for i, (a, b) in enumerate(zip(self.first_rows, self.first_rows[1:], strict=False))
            if a < stop and b > start
        ]
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat(pieces) if pieces else torch.empty((0, *self.plan.sites[site]), dtype=self.dtype)

    def shuffled(
        self, sites: str | Sequence[str], batch: int, *, seed: int = 0, block: int = 2048, blocks: int = 16
    ) -> Iterator[dict[str, Tensor]]:
        """All rows once, in batches of `batch` in a random order that `seed` decides: {site: [row, …]}.

        Blocks of `block` neighbouring rows come in random order, and rows are mixed among `blocks` of them at a time:
        the disk reads long runs, and memory holds `block * blocks` rows. The last batch may be smaller.
        """
        names = [self._known(site) for site in ([sites] if isinstance(sites, str) else sites)]
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
        """The token, document, position, file and row of the corpus that a row is from."""
        if not 0 <= row < len(self):
            raise UserError(f"row {row} came; this store has rows 0 to {len(self) - 1}")
        document = int(self.tokens.document[row])
        return {
            "token": int(self.tokens.ids[row]),
            "document": document,
            "position": int(self.tokens.position[row]),
            "file": self.tokens.files[int(self.tokens.file[document])],
            "file_row": int(self.tokens.row[document]),
        }

    def _known(self, site: str) -> str:
        if site not in self.plan.sites:
            raise unknown("site", site, self.sites, "it is not in this store; `interp store info` lists what is")
        return site

    def _shard(self, index: int) -> dict[str, Tensor]:
        if index not in self._maps:
            if not is_whole(self, index):
                missing = self.missing
                raise UserError(
                    f"{self.folder} lacks {len(missing)} of {len(self.plan.shards)} shards ({missing[0]}, …); "
                    "run the same `interp capture` again to finish it"
                )
            self._maps[index] = map_tensors(shard_path(self.folder, index))
        return self._maps[index]


def shard_path(folder: Path, index: int, ending: str = "safetensors") -> Path:
    """Where a shard lies, or with "json" its seal."""
    return folder / f"shard-{index:05d}.{ending}"


def layout_of(store: Store, index: int) -> Layout:
    """What shard `index` looks like on disk, byte for byte."""
    *_, first, stop = store.plan.shards[index]
    return shard_layout(store.plan.sites, stop - first, store.dtype, store.plan.hash, index)


def is_whole(store: Store, index: int) -> bool:
    """Is the shard there, sealed for this plan, and of the right size? Its bytes are `verify_store`'s to check."""
    seal = read_sealed(shard_path(store.folder, index, "json"))
    if seal is None or seal.get("plan") != store.plan.hash or seal.get("shard") != index:
        return False
    try:
        return shard_path(store.folder, index).stat().st_size == seal.get("bytes")
    except OSError:
        return False


def create_store(folder: Path, plan: Plan, tokens: Tokens) -> Store:
    """Write plan and tokens, each whole or not at all; a store with another plan is refused, the difference shown."""
    record = None
    if (folder / PLAN).exists():
        record = _read_record(folder)
        refuse_other(folder, _plan_in(record), plan)
    else:
        _refuse_foreign(folder, plan)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TOKENS
    if record is None or not path.is_file() or hash_file(path) != record["tokens"]:
        layout = _tokens_layout(tokens)
        with new_file(path, layout.size) as file:
            _put_tokens(file.descriptor, layout, tokens)
            if record is None:  # the plan first: of two captures that begin here at once, one writes it
                made = {"plan": asdict(plan), "tokens": hash_descriptor(file.descriptor)}
                write_sealed(folder / PLAN, made, first=True)
                refuse_other(folder, _plan_in(_read_record(folder)), plan)
    return open_store(folder)


def _refuse_foreign(folder: Path, plan: Plan) -> None:
    """A folder without a plan may hold this capture's files, its plan deleted or not yet written, and no other's.

    Raises UserError for shards of another plan, for shards without a seal, and for tokens that no capture wrote.
    """
    for path in sorted(folder.glob("shard-*.safetensors")) if folder.is_dir() else ():
        seal = read_sealed(path.with_suffix(".json"))
        if seal is None or seal.get("plan") != plan.hash:
            raise UserError(
                f"{folder} has no {PLAN}, and {path.name} in it is not of this capture; choose another --out, or the "
                "settings of that one"
            )
    if (folder / TOKENS).exists():
        _read_tokens(folder / TOKENS)


def open_store(folder: str | Path) -> Store:
    """Open a store, memory-mapped. Raises UserError for a folder that is none, and for a damaged plan."""
    folder = Path(folder)
    if not (folder / PLAN).is_file():
        raise UserError(f"{folder} is no store: it has no {PLAN}; expected a folder that `interp capture` wrote")
    plan = _plan_in(_read_record(folder))
    if not (folder / TOKENS).is_file():
        raise UserError(f"{folder / TOKENS} is missing; run the same `interp capture` again: it writes it anew")
    return Store(folder, plan, _read_tokens(folder / TOKENS))


def _read_record(folder: Path) -> dict[str, Any]:
    record = read_sealed(folder / PLAN)
    if record is None:
        raise UserError(
            f"{folder / PLAN} is damaged; delete it and run the same `interp capture` again: it makes the plan anew "
            "and keeps the shards"
        )
    return record


def _plan_in(record: dict[str, Any]) -> Plan:
    try:
        schema = record["plan"].get("schema")
        plan = Plan(**{**record["plan"], "shards": tuple(map(tuple, record["plan"]["shards"]))})
        if schema == SCHEMA and plan.shards[-1][3] == plan.corpus["tokens"] and "tokens" in record:
            return plan
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"the plan in {PLAN} is none of this version ({type(error).__name__}: {error})") from error
    raise UserError(f"the plan in {PLAN} has schema {schema}; this version reads {SCHEMA}; capture again with it")


def refuse_other(folder: Path, there: Plan, wanted: Plan) -> None:
    """Raise UserError, with every difference, unless the two plans are equal."""
    if there.hash != wanted.hash:
        told = "; ".join(differences(asdict(there), asdict(wanted)))
        raise UserError(f"{folder} holds another capture: {told}; choose another --out, or the settings of that one")


def differences(there: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """`cut.context: 128 there, 64 wanted` for every value that differs."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*there, *wanted]):
            yield from differences(there.get(key), wanted.get(key), f"{name}.{key}" if name else str(key))
    elif there != wanted:
        short = [json.dumps(v)[:60] for v in (there, wanted)]
        yield f"{name}: {short[0]} there, {short[1]} wanted"


def verify_store(store: Store, *, mark: bool = True) -> list[str]:
    """Every damage in a store, in words; none when it is whole. Reads every byte.

    With `mark`, a damaged shard loses its seal, so that the next `interp capture` makes just that one anew.
    """
    found = []
    record = read_sealed(store.folder / PLAN) or {}
    if hash_file(store.folder / TOKENS) != record.get("tokens"):
        found.append(f"{TOKENS} is changed; run the same `interp capture` again: it writes it anew")
    expected = {PLAN, TOKENS}
    for index in range(len(store.plan.shards)):
        path, seal_path = shard_path(store.folder, index), shard_path(store.folder, index, "json")
        expected |= {path.name, seal_path.name}
        fault = _shard_fault(store, index)
        if fault:
            found.append(f"shard {index} {fault}; run the same `interp capture` again: it makes just that one anew")
            if mark and ("is changed" in fault or "bytes instead" in fault):  # never another capture's
                seal_path.unlink(missing_ok=True)
    foreign = sorted({path.name for path in store.folder.iterdir()} - expected)
    return found + [f"{name} is no part of the store; move it elsewhere or delete it" for name in foreign]


def _shard_fault(store: Store, index: int) -> str:
    path, seal_path = shard_path(store.folder, index), shard_path(store.folder, index, "json")
    if not path.exists():
        return "is missing"
    seal = read_sealed(seal_path)
    if seal is None:
        return "has no seal, or a changed one" if seal_path.exists() else "was not finished"
    if seal.get("plan") != store.plan.hash or seal.get("shard") != index:
        return "belongs to another capture"
    size = path.stat().st_size
    if size != seal.get("bytes") or size != layout_of(store, index).size:
        return f"has {size:,} bytes instead of {layout_of(store, index).size:,}"
    return "" if hash_file(path) == seal.get("hash") else "is changed: its hash is another"


_ARRAYS = {"ids": torch.int32, "document": torch.int32, "position": torch.int32, "starts": torch.int64} | {
    "file": torch.int32,
    "row": torch.int64,
}


def _tokens_layout(tokens: Tokens) -> Layout:
    shapes = {name: (dtype, getattr(tokens, name).shape) for name, dtype in _ARRAYS.items()}
    return lay_out(shapes, {"files": json.dumps(tokens.files)})


def _put_tokens(descriptor: int, layout: Layout, tokens: Tokens) -> None:
    write_at(descriptor, memoryview(layout.header), 0)
    for name, span in layout.fields.items():
        write_at(descriptor, np.ascontiguousarray(getattr(tokens, name)).data.cast("B"), span.start)


def _read_tokens(path: Path) -> Tokens:
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            files = tuple(json.loads(file.metadata()["files"]))
            return Tokens(**{name: file.get_tensor(name) for name in _ARRAYS}, files=files)
    except Exception as error:  # safetensors' own error type is no public name
        raise UserError(
            f"{path} is damaged ({error}); run the same `interp capture` again: it writes it anew"
        ) from error
