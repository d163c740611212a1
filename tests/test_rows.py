"""Rows of a corpus: each is what `model.capture` gives at its document and position, and sinks are marked."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from interp.activations.plan import plan_capture
from interp.activations.rows import SINK_FACTOR, SINK_RULE, capture_rows, find_sinks, median_norm
from interp.errors import UserError
from interp.model.model import Model
from interp.model.training.small import SmallGPT2, train_small_gpt2

SITE = "blocks.0.hook_resid_post"
WORDS = product(["ann", "bob", "cat", "dog", "eve", "fox"], ["likes", "sees", "eats"], ["hat", "car", "sun"])
SENTENCES = [f"{a} {verb} the {b}" + " and waits" * (i % 3) for i, (a, verb, b) in enumerate(WORDS)]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)  # two threads on cores that other processes share are far slower than one
    return train_small_gpt2(SENTENCES, SmallGPT2(d_model=32, n_heads=2, steps=20))


def test_each_row_is_the_activation_at_its_document_and_position(model: Model):
    documents = SENTENCES[:7]
    rows = capture_rows(model, documents, SITE, batch_size=3)
    assert len(rows) == sum(len(ids) for ids in model.encode(documents))
    seen = 0
    for d, text in enumerate(documents):
        alone = model.capture([text], SITE)[SITE][0]
        for p, token in enumerate(model.encode(text)[0]):
            assert (rows.document[seen], rows.position[seen], rows.ids[seen]) == (d, p, token)
            torch.testing.assert_close(rows.values[seen], alone[p], atol=1e-4, rtol=1e-4)
            seen += 1
    assert not torch.allclose(rows.values[1], rows.values[2], atol=1e-2), "rows that are all alike would prove nothing"


@pytest.mark.parametrize("limit", [1, 5, 6, 7, 23])
def test_max_tokens_is_met_exactly_and_only_cuts(model: Model, limit: int):
    everything = capture_rows(model, SENTENCES[:6], SITE)
    rows = capture_rows(model, SENTENCES[:6], SITE, max_tokens=limit, batch_size=2)
    assert len(rows) == limit
    assert rows.ids.tolist() == everything.ids[:limit].tolist()
    torch.testing.assert_close(rows.values, everything.values[:limit], atol=1e-4, rtol=1e-4)


def test_a_limit_above_the_corpus_takes_all_of_it(model: Model):
    assert len(capture_rows(model, SENTENCES[:4], SITE, max_tokens=10_000)) == sum(
        map(len, model.encode(SENTENCES[:4]))
    )


def test_documents_are_cut_to_the_context(model: Model):
    rows = capture_rows(model, SENTENCES[:6], SITE, context=4)
    assert torch.bincount(rows.document).tolist() == [4] * 6
    assert int(rows.position.max()) == 3


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_rows_do_not_depend_on_the_batch_size(model: Model, batch_size: int):
    one, other = (
        capture_rows(model, SENTENCES[:9], SITE),
        capture_rows(model, SENTENCES[:9], SITE, batch_size=batch_size),
    )
    torch.testing.assert_close(one.values, other.values, atol=1e-4, rtol=1e-4)
    assert one.is_sink.tolist() == other.is_sink.tolist()
    assert (one.ids.tolist(), one.document.tolist()) == (other.ids.tolist(), other.document.tolist())


def test_progress_counts_tokens_up_to_all_of_them(model: Model):
    told: list[tuple[int, int]] = []
    rows = capture_rows(
        model, SENTENCES[:9], SITE, batch_size=4, progress=lambda _, done, total: told.append((done, total))
    )
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (len(rows), len(rows))


def test_a_model_of_a_short_context_is_read_at_that_length_by_default(model: Model) -> None:
    assert model.context_length == 64
    document = [5] * 70
    assert capture_rows(model, [document], SITE).position.tolist() == list(range(64))
    assert plan_capture(model, SENTENCES[:3], SITE)[0].cut["context"] == 64, "as a store has it"
    with pytest.raises(UserError, match="70 tokens"):
        capture_rows(model, [document], SITE, context=70)


def test_sinks_are_position_0_and_very_long_vectors():
    values = torch.ones(9, 4)  # every norm is 2, so the median is
    values[4] *= SINK_FACTOR * 1.01
    values[5] *= SINK_FACTOR * 0.99
    position = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2])
    assert median_norm(values) == 2.0
    assert find_sinks(values, position).nonzero().flatten().tolist() == [0, 4, 6]
    assert find_sinks(values, position, typical=1.9).nonzero().flatten().tolist() == [0, 4, 5, 6]
    assert "position 0" in SINK_RULE
    assert "10 times" in SINK_RULE


def test_clean_rows_are_those_that_are_no_sinks(model: Model):
    rows = capture_rows(model, SENTENCES[:5], SITE)
    assert bool(rows.is_sink[rows.position == 0].all())
    assert len(rows.clean) == len(rows) - int(rows.is_sink.sum())


@pytest.mark.parametrize(
    ("documents", "site", "max_tokens", "line"),
    [
        (["ann sees"], "blocks.7.hook_resid_post", None, "blocks.1.hook_resid_post"),
        (["ann sees"], "blocks.*.hook_resid_post", None, "matches 2 sites"),
        (["ann sees"], "blocks.0.attn.hook_pattern", None, "no single vector a token"),
        ([], SITE, None, "no prompts came"),
        (["ann sees", []], SITE, None, "prompt 1 is empty"),
        (["ann sees"], SITE, 0, "max_tokens=0; expected 1 or more"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    model: Model, documents: list[str], site: str, max_tokens: int | None, line: str
):
    with pytest.raises(UserError) as caught:
        capture_rows(model, documents, site, max_tokens=max_tokens)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_context_below_one_token_is_refused(model: Model):
    with pytest.raises(UserError, match="context=-1; expected 1 or more"):
        capture_rows(model, ["ann sees"], SITE, context=-1)


def test_rows_follow_an_active_edit(tiny_gpt2: Model) -> None:
    site = "blocks.1.hook_resid_post"
    plain = capture_rows(tiny_gpt2, ["Mary went to Rome", "John"], site)
    with tiny_gpt2.edit({"blocks.0.hook_mlp_out": lambda a, _: a * 0}):
        edited = capture_rows(tiny_gpt2, ["Mary went to Rome", "John"], site)
    assert not torch.allclose(plain.values, edited.values, atol=1e-3)
    again = tiny_gpt2.capture(["Mary went to Rome", "John"], site).rows(site)
    assert torch.allclose(plain.values, again, atol=1e-5)
