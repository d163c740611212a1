"""Begin a store, or go on with one: plan and tokens are written, and a folder that holds something else is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from interp.activations.files import (
    hash_descriptor,
    hash_file,
    new_file,
    read_sealed,
    write_at,
    write_sealed,
)
from interp.activations.plan import Plan, comparable
from interp.activations.store import (
    ARRAYS,
    FOLDERS,
    PARTS,
    PLAN,
    TOKENS,
    Store,
    open_store,
    plan_in,
    read_record,
    read_tokens_file,
)
from interp.activations.tensor_file import FileLayout, lay_out_file
from interp.activations.token_table import Tokens
from interp.errors import UserError


def create_store(folder: Path, plan: Plan, tokens: Tokens) -> Store:
    """Write plan and tokens, each whole or not at all; a store with another plan is refused, the difference shown."""
    record = None
    if (folder / PLAN).exists():
        record = read_record(folder)
        refuse_other(folder, plan_in(record), plan)
    else:
        _refuse_foreign(folder, plan)
    for place in (folder, *Store(folder, plan, tokens).folders()):
        place.mkdir(parents=True, exist_ok=True)
    path = folder / TOKENS
    if record is None or not path.is_file() or hash_file(path) != record["tokens"]:
        layout = _tokens_layout(tokens)
        with new_file(path, layout.size) as file:
            _put_tokens(file.descriptor, layout, tokens)
            if record is None:  # the plan first: of two captures that begin here at once, one writes it
                made = {"plan": plan.as_record(), "tokens": hash_descriptor(file.descriptor)}
                write_sealed(folder / PLAN, made, first=True)
                refuse_other(folder, plan_in(read_record(folder)), plan)
    return open_store(folder)


def _refuse_foreign(folder: Path, plan: Plan) -> None:
    """A folder without a plan may hold this capture's files, its plan deleted or not yet written, and no other's.

    Raises UserError for shards of another plan, for shards without a seal, and for tokens that no capture wrote.
    """
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    visible = [name for name in there if not name.startswith(".")]  # file browsers leave hidden files
    foreign = [name for name in visible if not any(fnmatch(name, part) for part in (*PARTS, FOLDERS))]
    if foreign:
        raise UserError(f"{folder} holds other files ({', '.join(foreign[:3])}); expected a new or empty folder")
    for path in sorted(folder.rglob("shard-*.safetensors")) if there else ():
        seal = read_sealed(path.with_suffix(".json"))
        if seal is None or seal.get("plan") != plan.hash:
            raise UserError(
                f"{folder} has no {PLAN}, and {path.name} in it is not of this capture; choose another --out, or the "
                "settings of that one"
            )
    if (folder / TOKENS).exists():
        read_tokens_file(folder / TOKENS)


def refuse_other(folder: Path, there: Plan, wanted: Plan) -> None:
    """Raise UserError, with every difference, unless the two plans are of one capture."""
    if not there.is_same(wanted):
        told = "; ".join(_told(comparable(asdict(there)), comparable(asdict(wanted))))
        raise UserError(f"{folder} holds another capture: {told}; choose another --out, or the settings of that one")


def _told(there: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The differences that a user made, without those that follow from them."""
    kinds = [{f"{site} {shape}" for site, shape in plan.pop("sites").items()} for plan in (there, wanted)]
    found = [f"{one} (--compile)" if one.startswith("numerics.compiled") else one for one in differences(there, wanted)]
    for kind, word in ((kinds[0] - kinds[1], "there"), (kinds[1] - kinds[0], "wanted")):
        more = f" and {len(kind) - 2} more" if len(kind) > 2 else ""
        found += [f"sites: {', '.join(sorted(kind)[:2])}{more} only {word}"] if kind else []
    cut = [f"shards: {len(there['shards'])} there, {len(wanted['shards'])} wanted (shard-bytes)"]
    follow = ("schema:", "shards:", "corpus.documents", "corpus.tokens", "corpus.whole")
    return [one for one in found if not one.startswith(follow)] or cut


def differences(there: Any, wanted: Any, name: str = "", words: tuple[str, str] = ("there", "wanted")) -> Iterator[str]:
    """`cut.context: 128 there, 64 wanted` for every value that differs."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*there, *wanted]):
            yield from differences(there.get(key), wanted.get(key), f"{name}.{key}" if name else str(key), words)
    elif there != wanted:
        short = [json.dumps(v)[:60] for v in (there, wanted)]
        yield f"{name}: {short[0]} {words[0]}, {short[1]} {words[1]}"


def _tokens_layout(tokens: Tokens) -> FileLayout:
    shapes = {name: (dtype, getattr(tokens, name).shape) for name, dtype in ARRAYS.items()}
    return lay_out_file(shapes, {"files": json.dumps(tokens.files)})


def _put_tokens(descriptor: int, layout: FileLayout, tokens: Tokens) -> None:
    write_at(descriptor, memoryview(layout.header), 0)
    for name, span in layout.fields.items():
        write_at(descriptor, np.ascontiguousarray(getattr(tokens, name)).data.cast("B"), span.start)
