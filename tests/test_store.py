"""Reading a store: the right numbers at the right rows, traced to their place, shuffled, and nothing copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stores import MIDDLE, SITES, TEXTS, Captured, captured, contents

from interp import Model, UserError
from interp.activations.capture import Worker
from interp.activations.plan import plan_capture
from interp.activations.store import Store, open_store
from interp.activations.token_table import Cut


@pytest.mark.parametrize("packing", ["documents", "packed"])
@pytest.mark.parametrize(
    "sites", [SITES, ["blocks.0.ln1.hook_normalized", "blocks.1.hook_resid_pre"]], ids=["plain", "tree"]
)
def test_rows_are_what_the_model_gives(tiny_gpt2: Model, tmp_path: Path, packing: Any, sites: list[str]) -> None:
    store, plan, tokens = captured(tiny_gpt2, tmp_path / "s", sites, cut=Cut(16, packing), batch_tokens=64)
    assert plan.numerics["path"] == ("plain model" if sites is SITES else "hooked tree")
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
        assert alone[place["document"]][place["position"]] == place["token_id"]
        assert place["file_row"] == place["document"] + 1
    packed, _, packed_tokens = captured(tiny_gpt2, tmp_path / "p", MIDDLE, cut=Cut(8, "packed"))
    assert set(packed_tokens.lengths[:-1].tolist()) == {8}
    own = packed_tokens.position >= 0
    assert packed_tokens.ids[own].tolist() == [t for ids in alone for t in ids]
    assert len(packed) == len(packed_tokens)
    assert int(store.is_sink(MIDDLE).sum()) >= len(tokens.starts) - 1
    shards = len(store.plan.shards)
    assert repr(store) == f"Store({str(store.folder)!r}: {len(store)} rows at 1 sites, {shards} of {shards} shards)"


@pytest.mark.parametrize(("dtype", "close"), [("fp32", 1e-5), ("bf16", 1e-2), ("fp16", 1e-3)])
def test_plain_safetensors_reads_every_dtype(tiny_gpt2: Model, tmp_path: Path, dtype: str, close: float) -> None:
    store, plan, tokens = captured(tiny_gpt2, tmp_path / "s", MIDDLE, dtype=dtype)
    theirs = torch.cat([load_file(store.shard_path(i))[MIDDLE] for i in range(len(plan.shards))])
    assert torch.equal(store.rows(MIDDLE), theirs)
    assert store.rows(MIDDLE).dtype == store.dtype
    sequences = [tokens.sequence(i).tolist() for i in range(len(tokens.starts) - 1)]
    acts = tiny_gpt2.capture(sequences, MIDDLE).rows(MIDDLE)
    assert torch.allclose(store.rows(MIDDLE).float(), acts, atol=close, rtol=close)


@pytest.mark.parametrize(("batch", "block"), [(7, 5), (64, 16), (1000, 4)])
def test_shuffled_batches_hold_every_row_once_and_sites_stay_together(
    whole_store: Captured, batch: int, block: int
) -> None:
    store = whole_store[0]
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


def test_reading_copies_nothing_and_changes_nothing(store_copy: Store) -> None:
    before = contents(store_copy.folder)
    rows = store_copy.rows(MIDDLE, 0, 4)
    assert rows.data_ptr() == store_copy.rows(MIDDLE, 0, 3).data_ptr()
    rows.zero_()  # private to this mapping
    assert contents(store_copy.folder) == before


def test_misuse_is_one_line(tiny_gpt2: Model, whole_store: Captured, tmp_path: Path) -> None:
    store = whole_store[0]
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
