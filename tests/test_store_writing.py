"""Writing a store: the same bytes whoever writes them, and no place that holds something else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stores import MIDDLE, SITES, SMALL, TEXTS, Captured, contents

from interp import Model, UserError
from interp.activations import create as create_module
from interp.activations.capture import Worker, capture_store
from interp.activations.plan import plan_capture
from interp.activations.store import Store, open_store
from interp.activations.tensor_file import FileLayout
from interp.activations.token_table import Cut, Tokens
from interp.text.corpus import from_texts


def test_fp16_that_would_overflow_is_refused_and_nothing_is_half_written(
    make_tiny: Callable[..., Model], tmp_path: Path
) -> None:
    model = make_tiny("gpt2")
    with torch.no_grad():
        model.hf.get_input_embeddings().weight.mul_(1e7)  # type: ignore[union-attr]
    plan, tokens = plan_capture(model, TEXTS, MIDDLE, dtype="fp16")
    with pytest.raises(UserError, match=r"blocks\.0\.hook_resid_post holds numbers that float16 cannot"):
        capture_store(model, tmp_path / "s", plan, tokens)
    assert sorted(contents(tmp_path / "s")) == ["plan.json", "tokens.safetensors"]


def test_any_workers_in_any_order_write_the_same_bytes(tiny_gpt2: Model, whole_store: Captured, tmp_path: Path) -> None:
    _, plan, tokens = whole_store
    for count, order in ((8, [5, 0, 7, 2, 1, 6, 4, 3]), (3, [2, 0, 1])):
        folder = tmp_path / f"of{count}"
        for index in order:
            capture_store(tiny_gpt2, folder, plan, tokens, worker=Worker(index, count))
        assert contents(folder) == contents(whole_store[0].folder)


def test_it_goes_on_where_it_stopped(tiny_gpt2: Model, whole_store: Captured, tmp_path: Path) -> None:
    _, plan, tokens = whole_store
    assert len(plan.shards) >= 4
    folder, asked = tmp_path / "s", []
    capture_store(tiny_gpt2, folder, plan, tokens, stop=lambda: bool(asked.append(1)) or len(asked) == 2)
    first = {name: (folder / name).stat().st_mtime_ns for name in contents(folder)}
    assert len(first) == 2 + 2 * 2
    with pytest.raises(UserError, match=r"lacks \d+ of \d+ shards.*run the same `interp capture` again"):
        open_store(folder).rows(MIDDLE)
    capture_store(tiny_gpt2, folder, plan, tokens)
    assert contents(folder) == contents(whole_store[0].folder)
    assert {name: (folder / name).stat().st_mtime_ns for name in first} == first, "what was whole is not made again"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cut": Cut(64)}, "cut.context: 128 there, 64 wanted"),
        ({"dtype": "bf16"}, 'numerics.stored: "fp32" there, "bf16" wanted'),
        ({"sites": MIDDLE}, "sites: blocks.1.hook_mlp_out [32], blocks.1.hook_resid_post [32] only there"),
        ({"batch_tokens": 512}, "batch_tokens: 1024 there, 512 wanted"),
        ({"texts": [*TEXTS[:-1], "another"]}, "corpus.fingerprint"),
        ({"texts": TEXTS[::-1]}, "corpus.fingerprint"),
        ({"texts": from_texts(TEXTS, "another file")}, "corpus.fingerprint"),
    ],
)
def test_another_plan_is_refused_with_the_difference(
    tiny_gpt2: Model, store_copy: Store, change: dict[str, Any], told: str
) -> None:
    more = dict(change)
    before = contents(store_copy.folder)
    plan, tokens = plan_capture(
        tiny_gpt2, more.pop("texts", TEXTS), more.pop("sites", SITES), shard_bytes=SMALL, **more
    )
    with pytest.raises(UserError) as refused:
        capture_store(tiny_gpt2, store_copy.folder, plan, tokens)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert contents(store_copy.folder) == before


def test_an_active_edit_is_refused_on_either_path(tiny_gpt2: Model, whole_store: Captured, tmp_path: Path) -> None:
    with tiny_gpt2.edit({"blocks.0.hook_mlp_out": lambda a, _: a * 2}):
        tiny_gpt2.logits("Rome")
        for site in (MIDDLE, "blocks.0.attn.hook_z"):
            with pytest.raises(UserError, match="would keep edited numbers"):
                plan_capture(tiny_gpt2, TEXTS, site)
        with pytest.raises(UserError, match="would keep edited numbers"):
            capture_store(tiny_gpt2, tmp_path / "s", whole_store[1], whole_store[2])


def test_somebody_elses_files_and_shards_are_left_alone(tiny_gpt2: Model, store_copy: Store, tmp_path: Path) -> None:
    (store_copy.folder / ".notes.json.bak").write_text("mine")
    (store_copy.folder / "plan.json").unlink()
    before = contents(store_copy.folder)
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, SITES, shard_bytes=SMALL, cut=Cut(8))
    with pytest.raises(UserError, match=r"no plan\.json, and shard-00000\.safetensors in it is not of this"):
        capture_store(tiny_gpt2, store_copy.folder, plan, tokens)
    assert contents(store_copy.folder) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokens.safetensors").write_bytes(b"somebody's")
    with pytest.raises(UserError, match="is damaged"):
        capture_store(tiny_gpt2, tmp_path / "other", plan, tokens)
    assert contents(tmp_path / "other") == {"tokens.safetensors": b"somebody's"}


def test_a_folder_of_other_files_is_no_place_for_a_store(
    tiny_gpt2: Model, whole_store: Captured, tmp_path: Path
) -> None:
    """Such as the corpus' own folder: verify would call its files foreign."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".DS_Store").write_text("left by a file browser")
    (tmp_path / "s" / "a.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"holds other files \(a\.jsonl\); expected a new or empty folder"):
        capture_store(tiny_gpt2, tmp_path / "s", whole_store[1], whole_store[2])
    (tmp_path / "s" / "a.jsonl").unlink()
    assert capture_store(tiny_gpt2, tmp_path / "s", whole_store[1], whole_store[2]).missing == []


def test_of_two_captures_that_begin_at_once_in_one_folder_the_second_is_refused(
    tiny_gpt2: Model, whole_store: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked and seen no plan; then both write one."""
    other, other_tokens = plan_capture(tiny_gpt2, TEXTS, SITES, shard_bytes=SMALL, cut=Cut(64))
    real = create_module._put_tokens

    def late(descriptor: int, layout: FileLayout, tokens: Tokens) -> None:
        monkeypatch.setattr(create_module, "_put_tokens", real)
        capture_store(tiny_gpt2, tmp_path / "s", whole_store[1], whole_store[2])
        real(descriptor, layout, tokens)

    monkeypatch.setattr(create_module, "_put_tokens", late)
    with pytest.raises(UserError, match=r"cut\.context: 128 there, 64 wanted"):
        capture_store(tiny_gpt2, tmp_path / "s", other, other_tokens)
    assert contents(tmp_path / "s") == contents(whole_store[0].folder)


def test_a_full_disk_is_found_before_the_first_forward(
    tiny_gpt2: Model, whole_store: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"the store needs .* GB more and 0\.00 GB are free"):
        capture_store(tiny_gpt2, tmp_path / "s", whole_store[1], whole_store[2])
