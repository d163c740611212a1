"""Workers that join a store by its folder, and stores of very many shards."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import Model, UserError, load_model
from interp.activations import plan as planning
from interp.activations import token_table
from interp.activations.capture import Worker, capture_store
from interp.activations.join import check_worker, join_store
from interp.activations.leftovers import find_temporary
from interp.activations.plan import Plan, plan_capture
from interp.activations.store import Store, open_store
from interp.activations.tensor_file import Maps
from interp.activations.token_table import Tokens
from interp.activations.verify import verify_store
from interp.cli import main

TEXTS = ["Mary walked to Rome and saw it all again", "the sea", "Ada and Kim walked on"] * 8
SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"]


@pytest.fixture
def planned(tiny_gpt2: Model) -> tuple[Plan, Tokens]:
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, SITES, shard_bytes=1 << 13)
    assert len(plan.shards) > 5
    return plan, tokens


@pytest.fixture
def whole(tiny_gpt2: Model, planned: tuple[Plan, Tokens], tmp_path: Path) -> Store:
    return capture_store(tiny_gpt2, tmp_path / "whole", *planned)


@pytest.fixture
def begun(tiny_gpt2: Model, planned: tuple[Plan, Tokens], tmp_path: Path) -> Store:
    """Only the first of many workers was there."""
    return capture_store(tiny_gpt2, tmp_path / "begun", *planned, worker=Worker(0, 4))


def files_of(store: Store) -> dict[str, bytes]:
    return {str(p.relative_to(store.folder)): p.read_bytes() for p in store.folder.rglob("*") if p.is_file()}


def test_who_joins_writes_the_bytes_of_one_process_and_reads_no_text(
    tiny_gpt2: Model, whole: Store, begun: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(token_table, "read_tokens")
    assert begun.missing
    assert join_store(tiny_gpt2, begun.folder).missing == []
    assert files_of(begun) == files_of(whole)


def test_hashes_decide_which_model_it_is(tiny_gpt2: Model, whole: Store, begun: Store, tmp_path: Path) -> None:
    tiny_gpt2.hf.save_pretrained(tmp_path / "elsewhere")
    tiny_gpt2.tokenizer.save_pretrained(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "moved")
    plan, tokens = plan_capture(load_model(tmp_path / "elsewhere"), TEXTS, SITES, shard_bytes=1 << 13)
    capture_store(load_model(tmp_path / "elsewhere"), tmp_path / "s", plan, tokens, worker=Worker(0, 4))
    assert join_store(load_model(tmp_path / "moved"), tmp_path / "s").missing == []
    with torch.no_grad():
        tiny_gpt2.hf.lm_head.weight[0, 0] += 1
    try:
        tiny_gpt2.hf.save_pretrained(tmp_path / "moved")
    finally:
        with torch.no_grad():
            tiny_gpt2.hf.lm_head.weight[0, 0] -= 1
    with pytest.raises(UserError, match=r"the store was planned with .* \(weights sha256.*name its model with --model"):
        join_store(load_model(tmp_path / "moved"), tmp_path / "s")


def with_numerics(plan: Plan, **changes: Any) -> Plan:
    return Plan(**{**plan.as_record(), "shards": plan.shards, "numerics": {**plan.numerics, **changes}})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"threads": 77}, r"threads: 77 planned, \d+ here; set OMP_NUM_THREADS=77, or allow it with --mixed"),
        ({"device": "cpu Z80"}, 'device: "cpu Z80" planned, "cpu .*" here; run on what the plan names, or allow'),
        ({"attention": "flash"}, 'attention: "flash" planned'),
        ({"libraries": {"torch": "1.0", "transformers": "1.0"}}, r'libraries.torch: "1.0" planned'),
    ],
)
def test_who_rounds_otherwise_is_refused_unless_it_may(
    tiny_gpt2: Model, planned: tuple[Plan, Tokens], tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    plan = with_numerics(planned[0], **changes)
    store = capture_store(tiny_gpt2, tmp_path / "s", plan, planned[1], worker=Worker(0, 4))
    with pytest.raises(UserError, match=line):
        join_store(tiny_gpt2, store.folder)
    assert join_store(tiny_gpt2, store.folder, mixed=True).missing == []
    seal = json.loads(store.shard_path(3, "json").read_text())
    assert seal["computed_on"]["threads"] == torch.get_num_threads(), "the seal tells the truth, not the plan"
    assert seal["host"]


@pytest.mark.parametrize("changes", [{"compute": "bfloat16"}, {"compiled": True}])
def test_who_computes_something_else_is_refused_mixed_or_not(
    tiny_gpt2: Model, planned: tuple[Plan, Tokens], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = with_numerics(planned[0], **changes)
    if "compiled" in changes:
        monkeypatch.setattr("interp.model.hooks.compiled.check_compiler", lambda _: None)
        check_worker(tiny_gpt2, plan)  # it compiles here as well
        return
    for mixed in (False, True):
        with pytest.raises(UserError, match='planned otherwise: compute: "bfloat16" planned, "float32" here; load'):
            check_worker(tiny_gpt2, plan, mixed=mixed)


def test_sites_that_were_registered_are_registered_again(tmp_path: Path, tiny_gpt2: Model) -> None:
    tiny_gpt2.hf.save_pretrained(tmp_path / "m")
    tiny_gpt2.tokenizer.save_pretrained(tmp_path / "m")
    model = load_model(tmp_path / "m")
    model.register_site("blocks.*.mlp.hook_act", "transformer.h.*.mlp.act")
    plan, tokens = plan_capture(model, TEXTS, "blocks.*.mlp.hook_act", shard_bytes=1 << 14)
    capture_store(model, tmp_path / "s", plan, tokens, worker=Worker(0, 4))
    assert join_store(load_model(tmp_path / "m"), tmp_path / "s").missing == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--join", "--context", "12"], "--join came with --context; the plan in --out says that already"),
        (["--join", "--corpus", "x", "--sites", "y"], "--join came with --corpus, --sites"),
        (["--mixed"], "--corpus is missing"),
        (["--mixed", "--corpus", "x", "--sites", "y"], "--mixed came without --join"),
        (["--sites", "y"], "--corpus is missing; expected it, or --join to help to finish the store at --out"),
        (["--corpus", "x"], "--sites is missing"),
    ],
)
def test_flags_that_do_not_go_together(
    begun: Store, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["capture", "--out", str(begun.folder), *arguments])
    assert ended.value.code
    assert line in capsys.readouterr().err


# ---- very many shards


@pytest.fixture
def small_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "IN_ONE_FOLDER", 3)
    monkeypatch.setattr(planning, "PER_FOLDER", 2)


def test_very_many_shards_lie_in_sub_folders(
    small_folders: None, tiny_gpt2: Model, whole: Store, tmp_path: Path
) -> None:
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, SITES, shard_bytes=1 << 13)
    assert plan.per_folder == 2
    assert plan.is_same(whole.plan), "the same capture, wherever its shards lie"
    store = capture_store(tiny_gpt2, tmp_path / "many", plan, tokens, worker=Worker(0, 2))
    assert join_store(tiny_gpt2, store.folder).missing == []
    assert store.shard_path(5) == store.folder / "00002" / "shard-00005.safetensors"
    assert verify_store(store) == []
    for site in SITES:
        assert torch.equal(open_store(store.folder).rows(site), whole.rows(site))
    (store.folder / "plan.json").unlink()
    assert capture_store(tiny_gpt2, store.folder, plan, tokens).missing == [], "it is known again without its plan"
    left = store.folder / "00001" / ".shard-00002.json.abc"
    left.write_text("half")
    (store.folder / "00001" / "notes.txt").write_text("mine")
    assert [one.partition(" is ")[0] for one in verify_store(store)] == ["00001/notes.txt"], "it may be another's"
    assert list(find_temporary(left.parent, "shard-*")) == [left]


def test_a_plan_is_hashed_once_however_many_shards(whole: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, before = [], Plan.to_json
    monkeypatch.setattr(Plan, "to_json", lambda plan: (texts.append(plan), before(plan))[1])
    store = open_store(whole.folder)
    assert store.missing == []
    assert verify_store(store) == []
    store.norms(SITES[0])
    assert len(texts) == 1


def test_rows_look_at_their_own_shards_only(whole: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    before = Store._shard
    monkeypatch.setattr(Store, "_shard", lambda store, index: (looked.append(index), before(store, index))[1])
    firsts = whole.first_rows
    every = whole.rows(SITES[0])
    for start, stop in [
        (0, 1),
        (firsts[2], firsts[3]),
        (firsts[2] - 1, firsts[3] + 1),
        (5, 5),
        (len(every), len(every)),
    ]:
        looked.clear()
        assert torch.equal(whole.rows(SITES[0], start, stop), every[start:stop])
        touched = [i for i, (a, b) in enumerate(pairwise(firsts)) if a < stop and b > start and start < stop]
        assert looked == touched


def test_mappings_are_let_go(whole: Store) -> None:
    held = Maps(2)
    tensors = [held.keep(i, {"x": torch.zeros(1)}) for i in range(3)]
    assert [held.get(i) is not None for i in range(3)] == [False, True, True]
    assert held.get(1) is tensors[1]
    held.keep(3, tensors[0])
    assert held.get(1) is not None, "it was asked for last"
    assert held.get(2) is None
    few = Store(whole.folder, whole.plan, whole.tokens, Maps(1))
    assert torch.equal(few.rows(SITES[0]), whole.rows(SITES[0]))


def test_tokens_of_a_store_are_mapped_and_those_that_were_written(whole: Store, planned: tuple[Plan, Tokens]) -> None:
    tokens = open_store(whole.folder).tokens
    for name in ("ids", "document", "position", "starts", "file", "row"):
        assert (getattr(tokens, name) == getattr(planned[1], name)).all()
        assert not getattr(tokens, name).flags.owndata
    assert tokens.files == planned[1].files
