"""What an index is of: everything that decides its bytes, and whether a folder already holds that or something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.activations.create import differences
from interp.activations.files import read_sealed, write_sealed
from interp.activations.plan import Plan, comparable, cut_shards, deciding
from interp.activations.token_table import Tokens
from interp.errors import UserError
from interp.features.read.layout import RECORD, SCHEMA
from interp.saes.loading.sae import SAE, describe_sae, site_of

PLAN = "plan.json"
PIECE_ROWS = 16_384  # of a piece: what a kill can cost
MOST_PIECES = 4096  # every part opens each of them
MOST_ROWS = 2**31 - 1  # that the 32 bits of a row's number in an index can count


@dataclass(frozen=True)
class Settings:
    """How much is kept of a feature."""

    top: int = 20
    """Strongest examples."""
    bands: int = 5
    """Equal parts of the firings, by strength, that examples are drawn from."""
    examples: int = 5
    """Examples of a band."""
    typical: int = 8
    """Tokens with most of the activation."""
    neighbours: int = 10
    """Features that fire with it, and that point the same way."""
    logits: int = 10
    """Tokens whose logits it raises, and lowers."""
    effects: int = 8
    """Firings that are ablated, 0 for none."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < (name == "effects") ^ 1:
                raise UserError(f"{name}={value}; expected {'0' if name == 'effects' else '1'} or more")


@dataclass(frozen=True)
class IndexPlan:
    """An index before it is built. `capture` says of model, text and numerics what a store's plan does."""

    sae: dict[str, Any]
    capture: dict[str, Any]
    settings: dict[str, int]
    pieces: tuple[tuple[int, int, int, int], ...]
    schema: int = SCHEMA

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what decides the index: the plan's name in every piece."""
        return hashlib.sha256(json.dumps(_deciding(_plain(asdict(self))), sort_keys=True).encode()).hexdigest()


def plan_index(sae: SAE[Any], capture: Plan, tokens: Tokens, settings: Settings) -> IndexPlan:
    """The plan of an index. Raises UserError where the rows that were captured are not those that the SAE reads."""
    site = site_of(sae)
    if site not in capture.sites:
        raise UserError(
            f"the SAE reads {site}, the rows are of {', '.join(capture.sites)}; capture that site, or use another SAE"
        )
    shape = capture.sites[site]
    if shape != [sae.cfg.d_in]:
        raise UserError(
            f"the SAE has d_in={sae.cfg.d_in}, rows at {site} have shape {shape}; use the SAE of this model"
        )
    if len(tokens) > MOST_ROWS:
        raise UserError(
            f"{len(tokens):,} tokens came; an index counts {MOST_ROWS:,} at most; leave some out with --max-tokens"
        )
    told = {k: v for k, v in asdict(capture).items() if k not in ("shards", "sites", "schema", "per_folder")}
    pieces = cut_shards(tokens, 1, max(PIECE_ROWS, -(-len(tokens) // MOST_PIECES)))
    return IndexPlan(_plain(describe_sae(sae)), _plain(told), asdict(settings), pieces)


def begin(folder: Path, plan: IndexPlan) -> bool:
    """Lay the plan down in `folder`, or go on with the same one; True when the index is there already.

    Raises UserError, with every difference, for another index, and for a folder that holds something else.
    """
    for name in (RECORD, PLAN):
        if (folder / name).exists():
            record = read_sealed(folder / name)
            if record is None:
                raise UserError(f"{folder / name} is damaged; delete {folder} and build again, or choose another --out")
            _refuse_other(folder, record.get("plan", {}), _plain(asdict(plan)))
            return name == RECORD
    there = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    if there:
        raise UserError(f"{folder} holds other files ({', '.join(sorted(there)[:3])}); expected a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed(folder / PLAN, {"plan": asdict(plan)}, first=True)
    record = read_sealed(folder / PLAN) or {}
    _refuse_other(folder, record.get("plan", {}), _plain(asdict(plan)))  # of two that begin at once, one wrote it
    return False


FOLLOWS = ("documents", "tokens", "whole", "fingerprint")  # of a corpus: they follow from what was asked


def _refuse_other(folder: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    plans = [
        {**_deciding(plan), "capture": comparable(plan["capture"])} if "capture" in plan else plan
        for plan in (there, wanted)
    ]
    if plans[0] == plans[1]:
        return
    kept, asked = ({k: v for k, v in plan.items() if k != "pieces"} for plan in plans)
    following = tuple(f"capture.corpus.{key}" for key in FOLLOWS)
    listed = [one for one in differences(kept, asked) if not one.startswith(following)]
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    raise UserError(
        f"{folder} holds another index: {'; '.join(listed[:4]) or 'of other text'}{more}; choose "
        "another --out, or the settings of that one"
    )


def _deciding(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan without what it only tells: the model's name, the device, and what the SAE's file says of its making."""
    sae = {key: value for key, value in plan["sae"].items() if key != "lineage"}  # its tensors' hash stands for it
    return {**plan, "sae": sae, "capture": deciding(plan["capture"])}


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(record, default=str))
