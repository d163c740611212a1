"""Files that are there whole or not at all: disks that fail late, temporary files of the living and of the dead."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp import Model, UserError
from interp.activations import files
from interp.activations.capture import capture_store
from interp.activations.files import new_file
from interp.activations.leftovers import find_temporary
from interp.activations.plan import plan_capture
from interp.activations.shards import ShardWriter, shard_layout
from interp.activations.store import PARTS, open_store
from interp.activations.verify import verify_store

TEXTS = ["Mary walked to Rome and saw it all again", "the sea", "Ada and Kim walked on"] * 8
SITE = "blocks.0.hook_resid_post"


@pytest.mark.parametrize("failing", range(1, 12))
def test_a_write_that_the_disk_refuses_late_is_never_taken_for_written(
    tiny_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The kernel tells a failed write once, at the next fsync, and that may be one that nobody waits for."""
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, SITE, shard_bytes=1 << 14)
    assert len(plan.shards) > 1
    fsync, count = os.fsync, 0

    def once(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", once)
    with pytest.raises(UserError, match="Input/output error"):
        capture_store(tiny_gpt2, tmp_path / "s", plan, tokens)
    assert count >= failing
    assert not list(find_temporary(tmp_path / "s", *PARTS)), "nothing half-written stays, in this process either"
    monkeypatch.setattr(files.os, "fsync", fsync)
    assert verify_store(capture_store(tiny_gpt2, tmp_path / "s", plan, tokens)) == []


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
RECORDS = st.recursive(PLAIN, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=20)


@given(st.dictionaries(st.text(), RECORDS))
def test_a_seal_is_written_as_json_writes_it(record: dict[str, Any]) -> None:
    """Seals of earlier versions were written by json itself, and are compared byte by byte."""
    assert files._indented(record) == json.dumps(record, indent=1, sort_keys=True)


def test_numbers_whose_squares_overflow_are_stored(tmp_path: Path) -> None:
    layout = shard_layout({"s": [4]}, 3, torch.float32, "plan", 0)
    values = torch.tensor([[[3e20, 4e20, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, -2e25]]])
    path = tmp_path / "shard.safetensors"
    with new_file(path, layout.size) as file:
        writer = ShardWriter(file.descriptor, layout, {"s": [4]}, 0)
        writer.put("s", [(0, 3)], values)
        writer.close()
    from safetensors.torch import load_file

    stored = load_file(path)
    assert torch.equal(stored["s"], values[0])
    assert torch.allclose(stored["s#norm"], torch.tensor([5e20, 2.0, 2e25]))
    assert np.allclose(stored["s#sum_of_squares"].numpy(), values[0].double().square().sum(0).numpy())
    for broken in (torch.inf, torch.nan, 3.4e38):  # the last: a norm of its own that fp32 cannot hold
        with pytest.raises(UserError, match="holds numbers that float32 cannot"):
            writer.put("s", [(0, 3)], torch.full((1, 3, 4), broken))


def test_a_folder_in_a_files_place_is_one_line(tiny_gpt2: Model, tmp_path: Path) -> None:
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, SITE)
    store = capture_store(tiny_gpt2, tmp_path / "s", plan, tokens)
    seal = store.folder / "shard-00000.json"
    seal.unlink()
    seal.mkdir()
    assert any("has no seal" in fault for fault in verify_store(open_store(store.folder)))
    with pytest.raises(UserError, match="cannot write to"):
        capture_store(tiny_gpt2, store.folder, plan, tokens)
