"""Prompts read, explained and steered live, against the hooked model's own capture and edits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from indexes import built
from refusals import the_line
from sae_lens import SAE
from stores import TEXTS
from word_sae import SENTENCES, SITE, with_provenance

from interp.activations.rows import capture_rows
from interp.errors import UserError
from interp.features.live import LiveModel, attach_live
from interp.features.read.index import Index
from interp.model.model import Model
from interp.saes.edits import clamp_features, edit_features
from interp.saes.loading.sae import load_sae
from interp.saes.neuron_basis import coordinates_as_sae

PROMPT = "ann likes the red"


@pytest.fixture(scope="module")
def sae(word_model: Model, word_sae: Path) -> SAE[Any]:
    return load_sae(word_sae, word_model)


@pytest.fixture(scope="module")
def index(word_model: Model, sae: SAE[Any], tmp_path_factory: pytest.TempPathFactory) -> Index:
    return built(word_model, sae, tmp_path_factory.mktemp("index") / "index")


@pytest.fixture(scope="module")
def live(word_model: Model, sae: SAE[Any], index: Index) -> LiveModel:
    return LiveModel(word_model, sae, float(np.median(index["norm"])))


def test_what_fires_is_what_the_sae_encodes(live: LiveModel, word_model: Model, sae: SAE[Any]):
    reading = live.read(PROMPT)
    x = word_model.capture(PROMPT, SITE)[SITE][0]
    with torch.no_grad():
        features = sae.encode(x)
        missed = (x - sae.decode(features)).norm(dim=1) / x.norm(dim=1)
    assert list(reading.tokens) == word_model.str_tokens(PROMPT)
    assert reading.is_sink[0]
    assert reading.features[0] == ()
    for i in range(1, len(reading.tokens)):
        expected = {f: float(features[i, f]) for f in features[i].nonzero().flatten().tolist()}
        assert dict(reading.features[i]) == pytest.approx(expected, abs=1e-4)
        strengths = [one.activation for one in reading.features[i]]
        assert strengths == sorted(strengths, reverse=True)
        assert reading.error[i] == pytest.approx(float(missed[i]), abs=1e-4)
    probabilities = word_model.last_logits(PROMPT)[0].softmax(-1)
    assert [one.token for one in reading.next] == probabilities.topk(10).indices.tolist()
    assert [one.probability for one in reading.next] == pytest.approx(probabilities.topk(10).values.tolist(), abs=1e-4)


def test_what_speaks_for_a_token_is_what_its_ablation_costs(live: LiveModel, word_model: Model, sae: SAE[Any]):
    token = live.read(PROMPT).next[0].token
    parts = live.attribute(PROMPT, token, 50)
    before = word_model.last_logits(PROMPT)[0].log_softmax(-1)[token]
    assert [abs(part.effect) for part in parts] == sorted((abs(part.effect) for part in parts), reverse=True)
    for part in parts:
        if part.feature is None:
            continue
        edit = clamp_features(sae, {part.feature: 0.0}, typical_norm=live.typical_norm)
        with word_model.edit({SITE: edit}):
            after = word_model.last_logits(PROMPT)[0].log_softmax(-1)[token]
        assert part.effect == pytest.approx(float(before - after), abs=2e-4)
    fired = {one.feature for active in live.read(PROMPT).features for one in active}
    assert {part.feature for part in parts} - {None} <= fired
    assert sum(part.feature is None for part in parts) == 1


def test_estimates_are_the_slope_of_small_changes(live: LiveModel, word_model: Model, sae: SAE[Any]):
    """To first order: a hundredth of a feature taken away costs a hundredth of the estimate."""
    token = live.read(PROMPT).next[0].token
    part = max((p for p in live.attribute(PROMPT, token, 50) if p.feature is not None), key=lambda p: abs(p.estimate))
    before = word_model.last_logits(PROMPT)[0].double().log_softmax(-1)[token]

    def a_little_less(features: torch.Tensor) -> torch.Tensor:
        features[:, part.feature] *= 0.99
        return features

    with word_model.edit({SITE: edit_features(sae, a_little_less, typical_norm=live.typical_norm)}):
        after = word_model.last_logits(PROMPT)[0].double().log_softmax(-1)[token]
    assert 100 * float(before - after) == pytest.approx(part.estimate, rel=0.1, abs=2e-3)


def decoded(model: Model, ids: list[int]) -> str:
    """Without the closing token."""
    return str(model.tokenizer.decode([i for i in ids if i != model.tokenizer.eos_token_id]))


def test_steering_is_the_edit_and_leaves_the_first_condition_alone(
    live: LiveModel, word_model: Model, sae: SAE[Any], index: Index
):
    feature = int(np.argmax(index["maximum"]))
    plain, steered, random = live.change(PROMPT, {feature: 40.0}, new_tokens=3)
    assert plain.text == decoded(word_model, word_model.generate(PROMPT, max_new_tokens=3).ids[0])
    assert [one.probability for one in plain.next] == pytest.approx([one.probability for one in live.read(PROMPT).next])
    with word_model.edit({SITE: clamp_features(sae, {feature: 40.0}, typical_norm=live.typical_norm)}):
        expected = word_model.last_logits(PROMPT)[0].softmax(-1)
    assert [one.token for one in steered.next] == expected.topk(10).indices.tolist()
    assert [one.probability for one in steered.next] == pytest.approx(expected.topk(10).values.tolist(), abs=1e-4)
    assert random.next != plain.next, "a push of that size does something"
    assert random.next != steered.next


def test_two_that_ask_at_once_wait_for_each_other(live: LiveModel):
    features = [one.feature for one in live.read(PROMPT).features[-1]]
    asked: list[Callable[[], object]] = [
        lambda: live.change(PROMPT, {features[0]: 9.0}, new_tokens=4),
        lambda: live.read(PROMPT),
        lambda: live.attribute(PROMPT, 3),
    ]
    alone = [ask() for ask in asked]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda ask: ask(), asked * 20))
    assert together == alone * 20


def test_setting_features_to_what_they_are_changes_nothing(live: LiveModel):
    """A feature that fires nowhere, held at zero."""
    silent = next(f for f in range(64) if all(f not in dict(active) for active in live.read(PROMPT).features))
    plain, changed, random = live.change(PROMPT, {silent: 0.0}, new_tokens=4)
    assert plain.text == changed.text == random.text
    assert [one.probability for one in changed.next] == pytest.approx([one.probability for one in plain.next], abs=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "mistral"])
def test_other_architectures_too(architecture: str, tiny_of: Callable[[str], Model]):
    model = tiny_of(architecture)
    rows = capture_rows(model, TEXTS, SITE, context=10)
    basis = coordinates_as_sae(model, SITE, rows.clean, 4)
    live = LiveModel(model, basis, float(rows.values.norm(dim=1).median()))
    prompt = "Mary walked to Rome"
    reading = live.read(prompt)
    assert live.attribute(prompt, reading.next[0].token, 5)
    feature = next(active[0].feature for active in reading.features if active)
    _, steered, _ = live.change(prompt, {feature: 3.0}, new_tokens=4)
    with model.edit({SITE: clamp_features(basis, {feature: 3.0}, typical_norm=live.typical_norm)}):
        expected = model.last_logits(prompt)[0].softmax(-1).topk(10)
    assert [one.token for one in steered.next] == expected.indices.tolist()


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (lambda live: live.read(""), "no prompt came"),
        (lambda live: live.read("ann " * 600), "shorten it"),
        (lambda live: live.change(PROMPT, {}), "0 features"),
        (lambda live: live.change(PROMPT, {64: 1.0}), "expected 0 to 63"),
        (lambda live: live.change(PROMPT, {3: float("nan")}), "and a number"),
        (lambda live: live.token_id("ann likes"), "is 2 tokens"),
        (lambda live: live.attribute(PROMPT, 10**6), "expected an id"),
    ],
)
def test_what_cannot_be_done_is_one_line(live: LiveModel, ask: Callable[[LiveModel], object], line: str):
    with pytest.raises(UserError) as raised:
        ask(live)
    assert line in the_line(raised)


def test_another_model_or_sae_than_the_index_says_is_refused(
    index: Index, word_model: Model, word_sae: Path, sae: SAE[Any], tmp_path: Path
):
    assert attach_live(index, "word model", word_sae, model=word_model).name == word_model.provenance.name
    with pytest.raises(UserError) as raised:
        attach_live(index, "another", word_sae, model=with_provenance(word_model, weights="sha256:0"))
    assert "the index was built with" in the_line(raised)
    basis = coordinates_as_sae(word_model, SITE, capture_rows(word_model, SENTENCES, SITE).clean, 4)
    other = built(word_model, basis, tmp_path / "index")
    with pytest.raises(UserError) as raised:
        attach_live(other, "word model", word_sae, model=word_model)
    assert "is of another SAE" in the_line(raised)
