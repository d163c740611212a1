"""`interp store`: what a store of activations holds, and whether every byte of it is right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from interp.cli.terminal import Positional, parse, print_table
from interp.errors import unknown

if TYPE_CHECKING:
    from interp.activations.store import Store


@dataclass
class StoreOptions:
    """What a store holds, and whether every byte of it is right."""

    action: Positional[Literal["info", "verify"]]
    """info, or verify: reads every byte, exit code 1 where one is wrong. A damaged shard then counts as missing."""
    folder: Positional[Path]
    """The store."""


def store(arguments: list[str]) -> int:
    """What a store of activations holds (info), and whether every byte of it is right (verify)"""
    if arguments and arguments[0] not in ("info", "verify", "-h", "--help"):
        raise unknown("store command", arguments[0], ["info", "verify"])
    options: StoreOptions = parse(StoreOptions, arguments, "store")
    from interp.activations.store import open_store
    from interp.activations.verify import verify_store

    opened = open_store(options.folder)
    if options.action == "info":
        print_table(("", ""), _info(opened))
        return 0
    faults = verify_store(opened)
    for fault in faults:
        print(fault)
    shards = len(opened.plan.shards)
    counted = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    print(counted if faults else f"whole: {shards} shards, every byte as it was written")
    return int(bool(faults))


def _kinds(sites: list[str]) -> str:
    """`blocks.*.hook_resid_post (30: 0-29)` instead of thirty names."""
    from interp.activations.verify import runs_of
    from interp.model.hooks.sites import kind_of, layer_of

    kinds: dict[str, list[str]] = {}
    for site in sites:
        kinds.setdefault(kind_of(site), []).append(site)
    return ", ".join(
        some[0] if len(some) == 1 else f"{kind} ({len(some)}: {runs_of(sorted(layer_of(site) or 0 for site in some))})"
        for kind, some in kinds.items()
    )


def _info(opened: Store) -> list[tuple[str, str]]:
    plan, missing = opened.plan, opened.missing
    cut, numerics = plan.cut, plan.numerics
    left_out = f", {plan.corpus['left_out']:,} more without text left out" if "left_out" in plan.corpus else ""
    state = f"{len(missing)} missing: run the same `interp capture` again" if missing else "all there"
    return [
        ("model", f"{plan.model['name']} ({plan.model['architecture']}, {plan.model['weights']})"),
        ("sites", _kinds(opened.sites)),
        ("tokens", f"{len(opened):,} of {plan.corpus['documents']:,} documents{left_out}"),
        (
            "sequences",
            f"{len(opened.tokens.starts) - 1:,}, {cut['packing']}, at most {cut['context']} tokens",
        ),
        (
            "stored as",
            f"{numerics['stored']}, computed in {numerics['compute']} by the {plan.path}{', compiled' * plan.compiled} "
            f"({numerics['attention']} attention) on {' and '.join(opened.computed_on) or numerics['device']}",
        ),
        ("shards", f"{len(plan.shards)}, {state}"),
        ("plan", plan.hash),
    ]
