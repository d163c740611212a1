"""What a store will hold is decided beforehand: tokens, sequences, batches, and one plan for one corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stores import MIDDLE, TEXTS, Captured

from interp import Model, UserError
from interp.activations.plan import batches_of, plan_capture
from interp.activations.token_table import Cut, Tokens
from interp.text.corpus import open_corpus


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
    model = tiny_gpt2.with_bos("always")
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


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 200))
def test_batches_hold_every_sequence_once_and_keep_to_their_size(lengths: list[int], limit: int) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    empty = np.zeros(0, np.int32)
    tokens = Tokens(empty, empty, empty, starts, empty, np.zeros(0, np.int64), ())
    batches = list(batches_of(tokens, (0, len(lengths), 0, sum(lengths)), limit))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= limit for batch in batches)


def test_a_plan_is_plain_json_and_says_what_decides_the_bytes(whole_store: Captured) -> None:
    record = json.loads((whole_store[0].folder / "plan.json").read_text())
    assert record["plan"]["numerics"]["threads"] == torch.get_num_threads()
    assert record["plan"]["corpus"]["whole"] is True
    assert record["plan"]["model"]["weights"].startswith("sha256:")
