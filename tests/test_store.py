"""The activation store: the right numbers at the right rows, the same bytes whoever wrote them, every damage found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from interp import Model, UserError
from interp.activations import create as create_module
from interp.activations.capture import Worker, capture_store
from interp.activations.plan import Plan, batches_of, plan_capture
from interp.activations.shards import Layout
from interp.activations.store import Store, open_store, shard_path
from interp.activations.token_table import Cut, Tokens
from interp.activations.verify import verify_store
from interp.text.corpus import from_texts, open_corpus

TEXTS = [f"{name} walked to {place} and " + "saw it all again, " * (i % 5) for i, (name, place) in enumerate(
    (n, p) for n in ("Mary", "John", "Ada", "Kim") for p in ("Rome", "Paris", "the sea"))]  # fmt: skip
SITES = ["blocks.*.hook_resid_post", "blocks.1.hook_mlp_out"]
MIDDLE = "blocks.0.hook_resid_post"
SMALL = 20_000  # bytes a shard: several of them

Captured = tuple[Store, Plan, Tokens]


def captured(model: Model, folder: Path, sites: Any = SITES, shard_bytes: int = SMALL, **more: Any) -> Captured:
    plan, tokens = plan_capture(model, TEXTS, sites, shard_bytes=shard_bytes, **more)
    return capture_store(model, folder, plan, tokens), plan, tokens


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tiny_gpt2: Model, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return captured(tiny_gpt2, tmp_path_factory.mktemp("store") / "whole")


@pytest.fixture
def copy(whole: Captured, tmp_path: Path) -> Store:
    shutil.copytree(whole[0].folder, tmp_path / "copy")
    return open_store(tmp_path / "copy")


@pytest.mark.parametrize("packing", ["documents", "packed"])
@pytest.mark.parametrize("sites", [SITES, ["blocks.0.attn.hook_z", "blocks.1.hook_resid_pre"]], ids=["trunk", "tree"])
def test_rows_are_what_the_model_gives(tiny_gpt2: Model, tmp_path: Path, packing: Any, sites: list[str]) -> None:
    store, plan, tokens = captured(tiny_gpt2, tmp_path / "s", sites, cut=Cut(16, packing), batch_tokens=64)
    assert plan.numerics["path"] == ("trunk" if sites is SITES else "hooked tree")
    assert len(plan.shards) > 2
    assert int(tokens.lengths.max()) <= 16
    sequences = [tokens.sequence(i).tolist() for i in range(len(tokens.starts) - 1)]
    acts = tiny_gpt2.capture(sequences, store.sites, batch_size=3)
    for site in store.sites:
        expected = torch.cat([acts[site][i, : len(ids)] for i, ids in enumerate(sequences)])
        assert torch.allclose(store.rows(site), expected, atol=1e-5)
        assert torch.allclose(store.norms(site), expected.flatten(1).norm(dim=-1), rtol=1e-5)
        mean, variance = store.moments(site)
        assert torch.allclose(mean.float(), expected.flatten(1).mean(0), atol=1e-5)
        assert torch.allclose(variance.float(), expected.flatten(1).var(0, correction=0), atol=1e-4)
    assert torch.equal(store.rows(store.sites[0], 3, 40), store.rows(store.sites[0])[3:40])


def test_every_token_is_traced_to_its_place(tiny_gpt2: Model, tmp_path: Path) -> None:
    store, _, tokens = captured(tiny_gpt2, tmp_path / "s", MIDDLE, cut=Cut(8))
    alone = [tiny_gpt2.tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert len(store) == sum(map(len, alone))
    for row in range(len(store)):
        place = store.where(row)
        assert alone[place["document"]][place["position"]] == place["token"]
        assert place["file_row"] == place["document"] + 1
    packed, _, packed_tokens = captured(tiny_gpt2, tmp_path / "p", MIDDLE, cut=Cut(8, "packed"))
    assert set(packed_tokens.lengths[:-1].tolist()) == {8}
    own = packed_tokens.position >= 0
    assert packed_tokens.ids[own].tolist() == [t for ids in alone for t in ids]
    assert len(packed) == len(packed_tokens)
    assert int(store.is_sink(MIDDLE).sum()) >= len(tokens.starts) - 1


@pytest.mark.parametrize(("dtype", "close"), [("fp32", 1e-5), ("bf16", 1e-2), ("fp16", 1e-3)])
def test_plain_safetensors_reads_every_dtype(tiny_gpt2: Model, tmp_path: Path, dtype: str, close: float) -> None:
    store, plan, tokens = captured(tiny_gpt2, tmp_path / "s", MIDDLE, dtype=dtype)
    theirs = torch.cat([load_file(shard_path(store.folder, i))[MIDDLE] for i in range(len(plan.shards))])
    assert torch.equal(store.rows(MIDDLE), theirs)
    assert store.rows(MIDDLE).dtype == store.dtype
    sequences = [tokens.sequence(i).tolist() for i in range(len(tokens.starts) - 1)]
    acts = tiny_gpt2.capture(sequences, MIDDLE).rows(MIDDLE)
    assert torch.allclose(store.rows(MIDDLE).float(), acts, atol=close, rtol=close)


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


def test_any_workers_in_any_order_write_the_same_bytes(tiny_gpt2: Model, whole: Captured, tmp_path: Path) -> None:
    _, plan, tokens = whole
    for count, order in ((8, [5, 0, 7, 2, 1, 6, 4, 3]), (3, [2, 0, 1])):
        folder = tmp_path / f"of{count}"
        for index in order:
            capture_store(tiny_gpt2, folder, plan, tokens, worker=Worker(index, count))
        assert contents(folder) == contents(whole[0].folder)


def test_it_goes_on_where_it_stopped(tiny_gpt2: Model, whole: Captured, tmp_path: Path) -> None:
    _, plan, tokens = whole
    assert len(plan.shards) >= 4
    folder, asked = tmp_path / "s", []
    capture_store(tiny_gpt2, folder, plan, tokens, stop=lambda: bool(asked.append(1)) or len(asked) == 2)
    first = {name: (folder / name).stat().st_mtime_ns for name in contents(folder)}
    assert len(first) == 2 + 2 * 2
    with pytest.raises(UserError, match=r"lacks \d+ of \d+ shards.*run the same `interp capture` again"):
        open_store(folder).rows(MIDDLE)
    capture_store(tiny_gpt2, folder, plan, tokens)
    assert contents(folder) == contents(whole[0].folder)
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
    tiny_gpt2: Model, copy: Store, change: dict[str, Any], told: str
) -> None:
    more = dict(change)
    before = contents(copy.folder)
    plan, tokens = plan_capture(
        tiny_gpt2, more.pop("texts", TEXTS), more.pop("sites", SITES), shard_bytes=SMALL, **more
    )
    with pytest.raises(UserError) as refused:
        capture_store(tiny_gpt2, copy.folder, plan, tokens)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert contents(copy.folder) == before


def test_an_active_edit_is_refused_on_either_path(tiny_gpt2: Model, whole: Captured, tmp_path: Path) -> None:
    with tiny_gpt2.edit({"blocks.0.hook_mlp_out": lambda a, _: a * 2}):
        tiny_gpt2.logits("Rome")
        for site in (MIDDLE, "blocks.0.attn.hook_z"):
            with pytest.raises(UserError, match="edits do not reach"):
                plan_capture(tiny_gpt2, TEXTS, site)
        with pytest.raises(UserError, match="edits do not reach"):
            capture_store(tiny_gpt2, tmp_path / "s", whole[1], whole[2])


def test_somebody_elses_files_and_shards_are_left_alone(tiny_gpt2: Model, copy: Store, tmp_path: Path) -> None:
    (copy.folder / ".notes.json.bak").write_text("mine")
    (copy.folder / "plan.json").unlink()
    before = contents(copy.folder)
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, SITES, shard_bytes=SMALL, cut=Cut(8))
    with pytest.raises(UserError, match=r"no plan\.json, and shard-00000\.safetensors in it is not of this"):
        capture_store(tiny_gpt2, copy.folder, plan, tokens)
    assert contents(copy.folder) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokens.safetensors").write_bytes(b"somebody's")
    with pytest.raises(UserError, match="is damaged"):
        capture_store(tiny_gpt2, tmp_path / "other", plan, tokens)
    assert contents(tmp_path / "other") == {"tokens.safetensors": b"somebody's"}


def test_a_folder_of_other_files_is_no_place_for_a_store(tiny_gpt2: Model, whole: Captured, tmp_path: Path) -> None:
    """Such as the corpus' own folder: verify would call its files foreign."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".DS_Store").write_text("left by a file browser")
    (tmp_path / "s" / "a.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"holds other files \(a\.jsonl\); expected a new or empty folder"):
        capture_store(tiny_gpt2, tmp_path / "s", whole[1], whole[2])
    (tmp_path / "s" / "a.jsonl").unlink()
    assert capture_store(tiny_gpt2, tmp_path / "s", whole[1], whole[2]).missing == []


def test_a_wrong_plan_costs_no_shard_its_seal(tiny_gpt2: Model, copy: Store, tmp_path: Path) -> None:
    other, _, _ = captured(tiny_gpt2, tmp_path / "other", cut=Cut(64))
    right = (copy.folder / "plan.json").read_bytes()
    shutil.copy(other.folder / "plan.json", copy.folder / "plan.json")
    assert verify_store(open_store(copy.folder))
    (copy.folder / "plan.json").write_bytes(right)
    assert open_store(copy.folder).missing == []


def test_of_two_captures_that_begin_at_once_in_one_folder_the_second_is_refused(
    tiny_gpt2: Model, whole: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked and seen no plan; then both write one."""
    other, other_tokens = plan_capture(tiny_gpt2, TEXTS, SITES, shard_bytes=SMALL, cut=Cut(64))
    real = create_module._put_tokens

    def late(descriptor: int, layout: Layout, tokens: Tokens) -> None:
        monkeypatch.setattr(create_module, "_put_tokens", real)
        capture_store(tiny_gpt2, tmp_path / "s", whole[1], whole[2])
        real(descriptor, layout, tokens)

    monkeypatch.setattr(create_module, "_put_tokens", late)
    with pytest.raises(UserError, match=r"cut\.context: 128 there, 64 wanted"):
        capture_store(tiny_gpt2, tmp_path / "s", other, other_tokens)
    assert contents(tmp_path / "s") == contents(whole[0].folder)


def test_a_corpus_has_one_plan_however_its_path_is_spelt(
    tiny_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.txt").write_text("\n\n".join(TEXTS))
    monkeypatch.chdir(tmp_path)
    spellings = ["c/a.txt", "./c/../c/a.txt", tmp_path / "c" / "a.txt"]
    made = [plan_capture(tiny_gpt2, open_corpus(spelling), MIDDLE) for spelling in spellings]
    assert len({plan.hash for plan, _ in made}) == 1
    assert {tokens.files for _, tokens in made} == {("a.txt",)}
    (tmp_path / "c" / "a.txt").rename(tmp_path / "c" / "b.txt")
    assert plan_capture(tiny_gpt2, open_corpus("c/b.txt"), MIDDLE)[0].hash != made[0][0].hash


@pytest.mark.parametrize("packing", ["documents", "packed"])
def test_the_end_of_the_corpus_is_told_from_the_limit(tiny_gpt2: Model, packing: Any) -> None:
    everything = len(plan_capture(tiny_gpt2, TEXTS, MIDDLE, cut=Cut(16, packing))[1])
    for limit, whole in ((everything, True), (everything + 1, True), (everything - 1, False), (20, False)):
        plan, tokens = plan_capture(tiny_gpt2, TEXTS, MIDDLE, cut=Cut(16, packing, limit))
        assert plan.corpus["whole"] is whole
        assert len(tokens) == min(limit, everything)


@pytest.mark.parametrize("packing", ["documents", "packed"])
def test_a_bos_stands_before_every_sequence_once_and_moves_no_position(tiny_gpt2: Model, packing: Any) -> None:
    model = replace(tiny_gpt2, bos="always")
    bos = model.tokenizer.bos_token_id
    texts = ["one two three", f"{model.tokenizer.bos_token}four five", "six"]
    _, tokens = plan_capture(model, texts, MIDDLE, cut=Cut(6, packing))
    alone = [model.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    for i, token in enumerate(tokens.ids):
        place = int(tokens.position[i])
        assert token == (bos if place < 0 else alone[tokens.document[i]][place])
    if packing == "documents":
        assert all(tokens.sequence(i)[0] == bos for i in range(len(tokens.starts) - 1))
    assert not [i for i in range(1, len(tokens)) if tokens.ids[i - 1] == tokens.ids[i] == bos]
    if packing == "documents":
        with pytest.raises(UserError, match="context 1 leaves no room behind the BOS"):
            plan_capture(model, texts, MIDDLE, cut=Cut(1))


def test_a_whole_store_verifies(whole: Captured) -> None:
    assert verify_store(whole[0]) == []
    assert whole[0].missing == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_flipped_bit_anywhere_is_found_and_made_good(
    tiny_gpt2: Model, whole: Captured, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store, plan, tokens = whole
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
        (lambda s: shard_path(s.folder, 1).unlink(), "shard 1 is missing"),
        (lambda s: shard_path(s.folder, 1, "json").unlink(), "shard 1 was not finished"),
        (lambda s: shard_path(s.folder, 1).write_bytes(shard_path(s.folder, 1).read_bytes()[:-1]), "shard 1 has "),
        (lambda s: shutil.copy(shard_path(s.folder, 0), shard_path(s.folder, 1)), "shard 1 "),
        (lambda s: shutil.copy(shard_path(s.folder, 0, "json"), shard_path(s.folder, 1, "json")), "belongs to another"),
        (lambda s: (s.folder / "notes.txt").write_text("mine"), "notes.txt is no part of the store"),
        (
            lambda s: shutil.copy(shard_path(s.folder, 0), shard_path(s.folder, 999)),
            "shard-00999.safetensors is no part",
        ),
    ],
)
def test_a_missing_short_or_foreign_shard_is_found_and_only_it_is_made_again(
    tiny_gpt2: Model, whole: Captured, copy: Store, damage: Callable[[Store], Any], told: str
) -> None:
    damage(copy)
    (fault,) = verify_store(copy)
    assert told in fault
    times = {p: p.stat().st_mtime_ns for p in copy.folder.glob("shard-*") if "shard-00001" not in p.name}
    capture_store(tiny_gpt2, copy.folder, whole[1], whole[2])
    assert {p: p.stat().st_mtime_ns for p in times} == times
    if "shard 1" in told or "another" in told:
        assert contents(copy.folder) == contents(whole[0].folder)


@pytest.mark.parametrize(("batch", "block"), [(7, 5), (64, 16), (1000, 4)])
def test_shuffled_batches_hold_every_row_once_and_sites_stay_together(whole: Captured, batch: int, block: int) -> None:
    store = whole[0]
    sites = store.sites[:2]
    batches = list(store.shuffled(sites, batch, seed=3, block=block, blocks=4))
    assert {len(b[sites[0]]) for b in batches[:-1]} <= {batch}
    both = torch.cat([torch.cat([b[s] for b in batches]) for s in sites], dim=1)
    expected = torch.cat([store.rows(s) for s in sites], dim=1)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, expected.tolist()))
    assert not torch.equal(both, expected)
    again = list(store.shuffled(sites, batch, seed=3, block=block, blocks=4))
    assert all(torch.equal(a[s], b[s]) for a, b in zip(batches, again, strict=True) for s in sites)
    other = next(iter(store.shuffled(sites, batch, seed=4, block=block, blocks=4)))
    assert not torch.equal(other[sites[0]], batches[0][sites[0]])


def test_reading_copies_nothing_and_changes_nothing(copy: Store) -> None:
    before = contents(copy.folder)
    rows = copy.rows(MIDDLE, 0, 4)
    assert rows.data_ptr() == copy.rows(MIDDLE, 0, 3).data_ptr()
    rows.zero_()  # private to this mapping
    assert contents(copy.folder) == before


def test_misuse_is_one_line(tiny_gpt2: Model, whole: Captured, tmp_path: Path) -> None:
    store = whole[0]
    for call, told in (
        (lambda: store.rows("blocks.0.hook_resid_pst"), "nearest"),
        (lambda: store.rows(MIDDLE, 5, 10**6), "this store has rows 0 to"),
        (lambda: store.rows("nope", 0, 0), "nearest"),
        (lambda: store.where(-1), "row -1 came; this store has rows 0 to"),
        (lambda: next(store.shuffled(MIDDLE, 0)), "batch 0"),
        (lambda: next(store.shuffled([], 8)), "expected a site"),
        (lambda: open_store(tmp_path), "is no store: it has no plan.json"),
        (lambda: Worker(3, 3), "expected I/N with I from 0 to N - 1"),
        (lambda: plan_capture(tiny_gpt2, TEXTS, "blocks.0.attn.hook_pattern"), "no row a token"),
        (lambda: plan_capture(tiny_gpt2, TEXTS, MIDDLE, dtype="int8"), "expected one of fp32, bf16, fp16"),
        (lambda: plan_capture(tiny_gpt2, TEXTS, MIDDLE, cut=Cut(10**6)), "tokens at most"),
        (lambda: plan_capture(tiny_gpt2, ["fine", " "], MIDDLE), "the texts row 2: text is empty"),
        (lambda: plan_capture(tiny_gpt2, [], MIDDLE), "holds no document"),
        (lambda: Cut(0), "context=0; expected 1 or more"),
    ):
        with pytest.raises(UserError) as refused:
            call()
        assert told in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_full_disk_is_found_before_the_first_forward(
    tiny_gpt2: Model, whole: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"the store needs .* GB more and 0\.00 GB are free"):
        capture_store(tiny_gpt2, tmp_path / "s", whole[1], whole[2])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 200))
def test_batches_hold_every_sequence_once_and_keep_to_their_size(lengths: list[int], limit: int) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    empty = np.zeros(0, np.int32)
    tokens = Tokens(empty, empty, empty, starts, empty, np.zeros(0, np.int64), ())
    batches = list(batches_of(tokens, (0, len(lengths), 0, sum(lengths)), limit))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= limit for batch in batches)


def test_a_plan_is_plain_json_and_says_what_decides_the_bytes(whole: Captured) -> None:
    record = json.loads((whole[0].folder / "plan.json").read_text())
    assert record["plan"]["numerics"]["threads"] == torch.get_num_threads()
    assert record["plan"]["corpus"]["whole"] is True
    assert record["plan"]["model"]["weights"].startswith("sha256:")
