"""Find every damage in a store, and say how to fix it."""

from __future__ import annotations

from collections.abc import Sequence

from interp.activations.files import hash_file, read_sealed
from interp.activations.leftovers import find_temporary, is_live
from interp.activations.store import PARTS, PLAN, TOKENS, Store, layout_of


def verify_store(store: Store, *, mark: bool = True) -> list[str]:
    """Every damage in a store, in words; none when it is whole. Reads every byte.

    With `mark`, a damaged shard loses its seal, so that the next `interp capture` makes just that one anew.
    """
    found = []
    record = read_sealed(store.folder / PLAN) or {}
    if hash_file(store.folder / TOKENS) != record.get("tokens"):
        found.append(f"{TOKENS} is changed; run the same `interp capture` again: it writes it anew")
    absent: list[int] = []
    for index in range(len(store.plan.shards)):
        path, seal_path = store.shard_path(index), store.shard_path(index, "json")
        if not path.exists() and not seal_path.exists():
            absent.append(index)
        elif (fault := _shard_fault(store, index)) is not None:
            words, is_ours = fault
            found.append(f"shard {index} {words}; run the same `interp capture` again: it makes just that one anew")
            if mark and is_ours:
                seal_path.unlink(missing_ok=True)
    if absent:
        named = f"shard {absent[0]} is" if len(absent) == 1 else f"shards {runs_of(absent)} are"
        found.append(f"{named} missing; run the same `interp capture` again: it makes just what is missing")
    return found + _foreign(store)


def _foreign(store: Store) -> list[str]:
    """What lies in the store and is none of it, and what the killed left; not what somebody is writing."""
    shards = range(len(store.plan.shards))
    own = {store.folder / PLAN, store.folder / TOKENS, *store.folders()}
    own |= {store.shard_path(i, ending) for i in shards for ending in ("safetensors", "json")}
    told = []
    for folder in dict.fromkeys((store.folder, *store.folders())):
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        temporary = set(find_temporary(folder, *PARTS))
        for path in there:
            name = path.relative_to(store.folder)
            if path in temporary and not is_live(path):
                told.append(f"{name} was left by a process that was killed; the next `interp capture` there removes it")
            elif path not in own and path not in temporary:
                told.append(f"{name} is no part of the store; move it elsewhere or delete it")
    return told


def _shard_fault(store: Store, index: int) -> tuple[str, bool] | None:
    """What is wrong, and whether there is a seal that is this store's and says something else."""
    path, seal_path = store.shard_path(index), store.shard_path(index, "json")
    if not path.exists():
        return "is missing", False
    seal = read_sealed(seal_path)
    if seal is None:
        return ("has no seal, or a changed one" if seal_path.exists() else "was not finished"), False
    if seal.get("plan") != store.plan.hash or seal.get("shard") != index:
        return "belongs to another capture", False
    size = path.stat().st_size
    if size != seal.get("bytes") or size != layout_of(store, index).size:
        return f"has {size:,} bytes instead of {layout_of(store, index).size:,}", True
    writer = f" (written on {seal['host']})" if "host" in seal else ""
    return None if hash_file(path) == seal.get("hash") else (f"is changed: its hash is another{writer}", True)


def runs_of(numbers: Sequence[int]) -> str:
    """`1, 10-19` of numbers in ascending order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
