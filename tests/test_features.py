"""Feature examples against a plain loop over every row, ties and block borders included."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from interp.activations.rows import Rows, capture_rows
from interp.errors import UserError
from interp.features.read import examples as module
from interp.features.read.examples import FeatureExamples, interesting, most_active, strip_rows, top_examples
from interp.lab.findings import Figure
from interp.model.model import Model
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.saes.lineage import lineage_of
from interp.views.tokens import token_strip

SITE = "blocks.0.hook_resid_post"
WORDS = product(["ann", "bob", "cat", "dog", "eve", "fox"], ["likes", "sees", "eats"], ["hat", "car", "sun"])
SENTENCES = [f"{a} {verb} the {b}" for a, verb, b in WORDS]
WIDTH = 3


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)  # two threads on cores that other processes share are far slower than one
    return train_small_gpt2(SENTENCES, SmallGPT2(d_model=32, n_heads=2, steps=20))


@pytest.fixture(scope="module")
def sae(model: Model) -> TopKSAE:
    """Random directions: what an SAE learned is no matter here."""
    torch.manual_seed(0)
    metadata = SAEMetadata(**lineage_of(model, SITE), context_size=5)
    return TopKSAE(TopKSAEConfig(d_in=32, d_sae=48, k=6, metadata=metadata))


class Relu:
    """Feature i is dimension i, where it is positive: whole numbers stay exact, so ties are real ties."""

    def encode(self, x: Tensor, /) -> Tensor:
        return x.relu()


def _rows(lengths: list[int], values: list[list[int]], sinks: list[bool]) -> Rows:
    n = sum(lengths)
    return Rows(
        site=SITE,
        values=torch.tensor(values[:n], dtype=torch.float32),
        ids=torch.arange(n) % 9 + 3,
        document=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        position=torch.cat([torch.arange(length) for length in lengths]),
        is_sink=torch.tensor(sinks[:n]),
    )


@st.composite
def corpora(draw: st.DrawFn) -> Rows:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    n = sum(lengths)
    one = st.lists(st.integers(-2, 3), min_size=WIDTH, max_size=WIDTH)  # few values: many ties
    values = draw(st.lists(one, min_size=n, max_size=n))
    return _rows(lengths, values, draw(st.lists(st.booleans(), min_size=n, max_size=n)))


def _by_loop(
    rows: Rows, feature: int, n: int, window: int
) -> tuple[float, float, list[tuple[int, int, list[int], list[float]]]]:
    """Rate, maximum and (document, position, token ids, activations) per example, looking at every row."""
    strength = [0.0 if rows.is_sink[i] else max(0.0, float(rows.values[i, feature])) for i in range(len(rows))]
    order = sorted((i for i in range(len(rows)) if strength[i] > 0), key=lambda i: (-strength[i], i))
    found = []
    for peak in order[:n]:
        near = [i for i in range(len(rows)) if rows.document[i] == rows.document[peak] and abs(i - peak) <= window]
        found.append(
            (
                int(rows.document[peak]),
                int(rows.position[peak]),
                [int(rows.ids[i]) for i in near],
                [strength[i] for i in near],
            )
        )
    ordinary = max(1, sum(not s for s in rows.is_sink.tolist()))
    return len(order) / ordinary, max(strength), found


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=corpora(), n=st.integers(1, 4), window=st.integers(0, 3), block=st.sampled_from([1, 2, 5, 1024]))
def test_top_examples_are_those_of_a_loop_over_every_row(model: Model, rows: Rows, n: int, window: int, block: int):
    features = [2, 0, 1]
    with patch.object(module, "BLOCK", block):
        found = top_examples(Relu(), rows, features, model, n=n, window=window)
    assert [one.feature for one in found] == features
    for one in found:
        rate, maximum, expected = _by_loop(rows, one.feature, n, window)
        assert (one.rate, one.maximum) == (pytest.approx(rate), maximum)
        assert len(one.examples) == len(expected)
        for example, (document, position, ids, acts) in zip(one.examples, expected, strict=True):
            assert (example.document, example.position) == (document, position)
            assert example.tokens == tuple(model.tokenizer.decode([i]) for i in ids)
            assert list(example.activations) == acts
            assert example.activations[example.peak] == max(
                0.0, float(rows.values[_row(rows, document, position), one.feature])
            )


def _row(rows: Rows, document: int, position: int) -> int:
    return int(((rows.document == document) & (rows.position == position)).nonzero())


def test_a_sink_is_neither_an_example_nor_shown_inside_one(model: Model):
    rows = _rows([4], [[0, 0, 900], [0, 0, 5], [0, 0, 800], [0, 0, 1]], [True, False, True, False])
    (one,) = top_examples(Relu(), rows, [2], model, window=4)
    assert one.maximum == 5
    assert one.rate == 1
    assert [example.position for example in one.examples] == [1, 3]
    assert one.examples[0].activations == (0, 5, 0, 1)


def test_a_feature_that_never_fires_has_no_examples(model: Model):
    rows = _rows([2], [[1, -1, 0], [2, -1, 0]], [False, False])
    assert top_examples(Relu(), rows, [1], model) == [FeatureExamples(1, 0.0, 0.0, ())]


@pytest.mark.parametrize(
    ("features", "n", "window", "line"),
    [
        ([0, 3], 5, 8, "no feature 3; expected 0 to 2"),
        ([-1], 5, 8, "no feature -1; expected 0 to 2"),
        ([0], 0, 8, "n=0"),
        ([0], 1, -1, "window=-1"),
    ],
)
def test_bad_requests_are_refused_in_one_line(model: Model, features: list[int], n: int, window: int, line: str):
    rows = _rows([2], [[1, 0, 0], [2, 0, 0]], [False, False])
    with pytest.raises(UserError) as raised:
        top_examples(Relu(), rows, features, model, n=n, window=window)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_examples_of_a_real_sae_are_what_it_encodes(model: Model, sae: TopKSAE):
    rows = capture_rows(model, SENTENCES, SITE)
    features = list(range(48))
    found = top_examples(sae, rows, features, model, n=3, window=2)
    with torch.no_grad():
        acts = sae.encode(rows.values).masked_fill(rows.is_sink[:, None], 0.0)
    fired = [one for one in found if one.examples]
    assert len(fired) > 10
    assert [one.maximum for one in found] == pytest.approx(acts.max(0).values.tolist(), abs=1e-5)
    assert sum(one.rate for one in found) == pytest.approx(float((acts > 0).sum()) / len(rows.clean))
    for example in (example for one in fired for example in one.examples):
        words = ["<bos>", *SENTENCES[example.document].split()]
        low = max(0, example.position - 2)
        assert list(example.tokens) == words[low : example.position + 3]
        assert example.tokens[example.peak] == words[example.position]


def test_the_interesting_features_are_in_the_band_and_ranked_by_strength_where_they_fire():
    n = 1000
    values = torch.full((n, 6), -1.0)
    values[:20, 0] = 3.0  # 2 %: in the band
    values[:40, 1] = 5.0  # 4 %: in the band and stronger
    values[:9, 2] = 99.0  # too few tokens
    values[:60, 3] = 99.0  # 6 %: too common
    values[20:40, 4] = torch.tensor([2.0, 4.0]).repeat(10)  # 3 on average, as feature 0 is: equals go by number
    position = torch.arange(n)
    is_sink = position >= n - 100
    values[-30:, 5] = 99.0  # 3 %, but fires at sinks only
    rows = Rows(SITE, values, torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long), position, is_sink)
    assert interesting(Relu(), rows, 10) == [1, 0, 4]
    assert interesting(Relu(), rows, 2) == [1, 0]
    with patch.object(module, "BLOCK", 7):
        assert interesting(Relu(), rows, 10) == [1, 0, 4]
    quiet = Rows(SITE, -values.abs(), rows.ids, rows.document, position, is_sink)
    with pytest.raises(UserError, match=r"no feature fires on 0\.1% to 5%"):
        interesting(Relu(), quiet, 3)


def test_the_most_active_features_of_a_prompt_are_those_of_its_encoding(model: Model, sae: TopKSAE):
    prompts = ["ann sees the hat", "bob eats"]
    found = most_active(sae, model, prompts, n=4)
    assert [one.tokens for one in found] == [("<bos>", "ann", "sees", "the", "hat"), ("<bos>", "bob", "eats")]
    for prompt, one in zip(prompts, found, strict=True):
        with torch.no_grad():
            acts = sae.encode(model.capture(prompt, SITE)[SITE][0])
        acts[0] = 0.0  # the sink
        assert one.is_sink == (True, *[False] * (len(one.tokens) - 1))
        assert one.per_token[0] == ()
        for token, expected in zip(one.per_token[1:], acts[1:], strict=True):
            assert [a.activation for a in token] == pytest.approx(expected.topk(4).values.tolist(), abs=1e-4)
            assert [float(expected[a.feature]) for a in token] == pytest.approx([a.activation for a in token], abs=1e-4)
        assert [a.activation for a in one.strongest] == pytest.approx(
            acts.max(0).values.topk(4).values.tolist(), abs=1e-4
        )


def test_prompts_may_be_token_ids_and_longer_than_a_corpus_window(model: Model, sae: TopKSAE):
    ids = model.encode("ann sees the hat")[0] * 8
    (one,) = most_active(sae, model, [ids])
    assert len(one.tokens) == len(one.per_token) == 40


def _examples(rows: Rows, model: Model) -> Iterator[FeatureExamples]:
    yield from top_examples(Relu(), rows, [0, 1], model, n=2, window=1)


def test_strip_rows_are_in_reading_order_and_the_figure_draws_them(model: Model):
    rows = _rows([3, 2], [[1, 0, 0], [7, 0, 0], [2, 4, 0], [0, 0, 0], [5, 1, 0]], [False] * 5)
    found = list(_examples(rows, model))
    table = strip_rows(found)
    assert [(r["feature"], r["example"], r["position"], r["activation"]) for r in table] == [
        (0, 1, 0, 1.0),
        (0, 1, 1, 7.0),
        (0, 1, 2, 2.0),
        (0, 2, 0, 0.0),
        (0, 2, 1, 5.0),
        (1, 1, 1, 0.0),
        (1, 1, 2, 4.0),
        (1, 2, 0, 0.0),
        (1, 2, 1, 1.0),
    ]
    assert [r["token"] for r in table[:3]] == [model.tokenizer.decode([int(i)]) for i in rows.ids[:3]]
    spec = Figure("token_strip", x="token", y="example", z="activation", facet="feature")
    html = str(token_strip([dict(row) for row in table], spec))
    assert html.count("<li") == 4
    assert f"<b>{table[1]['token']}</b>" in html.replace("&lt;", "<"), "the strongest token is marked"
