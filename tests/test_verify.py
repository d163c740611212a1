"""Every damage to a store is found, and only what is damaged is made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import Captured, captured, contents

from interp import Model, UserError
from interp.activations.capture import capture_store
from interp.activations.store import Store, open_store
from interp.activations.token_table import Cut
from interp.activations.verify import verify_store


def test_a_whole_store_verifies(whole_store: Captured) -> None:
    assert verify_store(whole_store[0]) == []
    assert whole_store[0].missing == []


def test_a_wrong_plan_costs_no_shard_its_seal(tiny_gpt2: Model, store_copy: Store, tmp_path: Path) -> None:
    other, _, _ = captured(tiny_gpt2, tmp_path / "other", cut=Cut(64))
    right = (store_copy.folder / "plan.json").read_bytes()
    shutil.copy(other.folder / "plan.json", store_copy.folder / "plan.json")
    assert verify_store(open_store(store_copy.folder))
    (store_copy.folder / "plan.json").write_bytes(right)
    assert open_store(store_copy.folder).missing == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_anywhere_is_found_and_made_good(
    tiny_gpt2: Model, whole_store: Captured, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store, plan, tokens = whole_store
    folder = tmp_path_factory.mktemp("flip") / "s"
    shutil.copytree(store.folder, folder)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    try:
        faults = verify_store(open_store(folder))
    except UserError as error:  # plan or tokens: no store can be opened, and the line says what to do
        faults = [str(error)]
    assert len(faults) == 1, faults
    assert "run the same `interp capture` again" in faults[0]
    if "delete it" in faults[0]:
        path.unlink()
    capture_store(tiny_gpt2, folder, plan, tokens)
    assert contents(folder) == contents(store.folder)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda s: s.shard_path(1).unlink(), "shard 1 is missing"),
        (lambda s: s.shard_path(1, "json").unlink(), "shard 1 was not finished"),
        (lambda s: s.shard_path(1).write_bytes(s.shard_path(1).read_bytes()[:-1]), "shard 1 has "),
        (lambda s: shutil.copy(s.shard_path(0), s.shard_path(1)), "shard 1 "),
        (lambda s: shutil.copy(s.shard_path(0, "json"), s.shard_path(1, "json")), "belongs to another"),
        (lambda s: (s.folder / "notes.txt").write_text("mine"), "notes.txt is no part of the store"),
        (
            lambda s: shutil.copy(s.shard_path(0), s.shard_path(999)),
            "shard-00999.safetensors is no part",
        ),
    ],
)
def test_a_missing_short_or_foreign_shard_is_found_and_only_it_is_made_again(
    tiny_gpt2: Model, whole_store: Captured, store_copy: Store, damage: Callable[[Store], Any], told: str
) -> None:
    damage(store_copy)
    (fault,) = verify_store(store_copy)
    assert told in fault
    times = {p: p.stat().st_mtime_ns for p in store_copy.folder.glob("shard-*") if "shard-00001" not in p.name}
    capture_store(tiny_gpt2, store_copy.folder, whole_store[1], whole_store[2])
    assert {p: p.stat().st_mtime_ns for p in times} == times
    if "shard 1" in told or "another" in told:
        assert contents(store_copy.folder) == contents(whole_store[0].folder)
