"""The probe `dictionary`: other SAEs beside the first, a model of random weights, and features that are there twice."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from refusals import the_line
from safetensors.torch import save_file
from word_sae import PLAN, SENTENCES, SITE, TRAINING, change_cfg

from interp import Finding, Lab, Model, NotAsked, Rows, UserError
from interp.lab.claims import check_declared, not_reached
from interp.model.loading.cache import MANIFEST
from interp.saes.evaluate import evaluate_saes, paired_gap
from interp.saes.loading import attach
from interp.saes.loading import default as default_sae
from interp.saes.neuron_basis import coordinates_as_sae
from interp.saes.training.sources import MemoryRows
from interp.saes.training.trainer import train
from interp.views.figures import draw
from probes import dictionary
from probes._dictionary import rewriting
from probes._dictionary.firings import ALIVE, Firings, doubled, never_fire
from probes._dictionary.redundancy import OWN_DIRECTIONS, OWN_TOKENS, copied, nearest, overlaps, partners, shared

Answers = list[Finding | NotAsked]


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """The corpus of the small model instead of the bundled one, whose words it does not know."""
    for module in (dictionary, attach, default_sae):
        monkeypatch.setattr(module, "split_corpus", lambda: (SENTENCES[::2], SENTENCES[1::2]))
    monkeypatch.setattr(rewriting, "prose", lambda: SENTENCES[1::2])


def run(lab: Lab, **flags: Any) -> Answers:
    """All answers; every one of them declared, and every declared claim answered or said not to be asked."""
    answers = list(dictionary.dictionary(lab, tokens=400, **flags))
    for answer in answers:
        check_declared(answer, dictionary.CLAIMS, "dictionary")
    assert not_reached(dictionary.CLAIMS, answers) == []
    return answers


def answer(answers: Answers, text: str) -> Finding:
    (one,) = [a for a in answers if a.declared == text and isinstance(a, Finding)]
    return one


def firings(token: list[int], document: list[int], feature: list[int], directions: torch.Tensor) -> Firings:
    return Firings(np.array(token), np.array(document), np.array(feature), directions, max(document) + 1)


@pytest.mark.usefixtures("words")
def test_several_are_measured_on_the_same_text(
    word_model: Model, word_rows: Rows, word_sae: Path, tmp_path: Path
) -> None:
    weaker = tmp_path / "weaker"
    train(PLAN, MemoryRows(word_rows, word_model), weaker, dataclasses.replace(TRAINING, steps=5))
    answers = run(Lab(word_model, sae_folder=word_sae), beside=(weaker,), force=True)
    beside = answer(answers, rewriting.MORE.text)
    assert beside.claim == "SAE sae recovers more of the model's loss than SAE weaker."
    assert beside.estimate.mean > beside.control.estimate.mean
    assert [row["dictionary"] for row in beside.table] == ["sae", "random directions", "weaker"]
    figure = draw(beside)
    assert isinstance(figure, go.Figure)
    traces: tuple[Any, ...] = figure.data  # type: ignore[assignment]
    assert [trace.name for trace in traces] == ["sae", "random directions", "weaker"]
    assert all(trace.error_y.array is not None for trace in traces)


@pytest.mark.usefixtures("words")
def test_what_was_not_asked_is_said_and_the_controls_hold(word_model: Model, word_sae: Path) -> None:
    answers = run(Lab(word_model, sae_folder=word_sae))
    not_asked = {one.declared: one.because for one in answers if isinstance(one, NotAsked)}
    assert set(not_asked) == {rewriting.MORE.text, rewriting.UNTRAINED.text}
    assert "--beside" in not_asked[rewriting.MORE.text]
    assert "--random-model" in not_asked[rewriting.UNTRAINED.text]
    controls = [one for one in answers if isinstance(one, Finding) and one.part == "Controls of the method"]
    assert [one.verdict for one in controls] == ["yes"] * 5
    whole, loss, dealt, *_ = controls
    assert whole.estimate.mean == pytest.approx(1.0, abs=1e-4)
    assert loss.estimate.mean == pytest.approx(1.0, abs=1e-3)
    assert dealt.estimate.mean < dealt.control.estimate.mean - 0.2
    for one in answers:
        if isinstance(one, Finding) and one.figure is not None:
            draw(one)


def test_variance_is_the_same_without_the_losses_that_nobody_asks_for(word_model: Model, word_sae: Path) -> None:
    sae = attach.load_sae(word_sae, word_model)
    documents = SENTENCES[1:40:2]
    whole, whole_too = evaluate_saes([sae, sae], word_model, documents)
    asked, bare = evaluate_saes([sae, sae], word_model, documents, losses=[True, False])
    (alone,) = evaluate_saes([sae], word_model, documents, losses=False)
    assert asked.ce_reconstruction == pytest.approx(whole.ce_reconstruction)
    assert (asked.ce_recovered, bare.ce_recovered, alone.ce_recovered) == (whole.ce_recovered, None, None)
    assert np.isnan([bare.ce_reconstruction, alone.ce_clean, alone.ce_zero_ablation]).all()
    assert whole.explained_variance == bare.explained_variance == alone.explained_variance
    for one, other in ((whole, whole_too), (asked, bare), (alone, alone)):
        gap = paired_gap(one, other, "explained_variance")
        assert gap is not None
        assert gap.mean == pytest.approx(0.0, abs=1e-9)
    assert paired_gap(asked, bare, "ce_recovered") is None
    (elsewhere,) = evaluate_saes([sae], word_model, SENTENCES[2:41:2], losses=False)
    assert paired_gap(alone, elsewhere, "explained_variance") is None, "other documents"
    with pytest.raises(UserError, match="for 2 SAEs") as refused:
        evaluate_saes([sae, sae], word_model, documents, losses=[True])
    the_line(refused)


@pytest.mark.usefixtures("words")
def test_the_model_with_random_weights_is_a_control(
    word_model: Model, word_sae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "default_plan", lambda model: (PLAN, TRAINING))
    control = answer(run(Lab(word_model, sae_folder=word_sae), random_model=True), rewriting.UNTRAINED.text)
    assert [row["dictionary"] for row in control.table] == ["trained", "random weights"]
    assert 0 < control.control.estimate.mean < 1


def written(folder: Path, like: Path, w: dict[str, torch.Tensor], k: int) -> Path:
    """A TopK SAE of these weights, at the place and of the model of another."""
    shutil.copytree(like, folder)
    (folder / MANIFEST).unlink()
    save_file({name: w[name].contiguous() for name in w}, folder / "sae_weights.safetensors")
    change_cfg(lambda cfg: cfg.update(d_sae=len(w["W_dec"]), k=k, apply_b_dec_to_input=True))(folder)
    return folder


@pytest.mark.usefixtures("words")
def test_with_every_feature_twice_at_half_strength_the_dictionary_is_redundant(
    word_model: Model, word_rows: Rows, word_sae: Path, tmp_path: Path
) -> None:
    """It explains as much, and no more of its features are dead: nothing else tells that half of it is superfluous."""
    d = word_rows.values.shape[1]
    w = dict(coordinates_as_sae(word_model, SITE, word_rows.clean, d).state_dict())
    halved = {name: torch.cat([w[name] / 2] * 2, dim=-1) for name in ("W_enc", "b_enc")}
    once = written(tmp_path / "once", word_sae, w, d)
    twice = written(tmp_path / "twice", word_sae, w | halved | {"W_dec": torch.cat([w["W_dec"]] * 2)}, 2 * d)
    one, two = (run(Lab(word_model, sae_folder=folder), force=True) for folder in (once, twice))
    for text in (rewriting.EXPLAINS.text, ALIVE.text):
        assert answer(two, text).estimate.mean == pytest.approx(answer(one, text).estimate.mean, abs=1e-4)
    assert [answer(two, claim.text).estimate.mean for claim in (OWN_DIRECTIONS, OWN_TOKENS)] == [1.0, 1.0]
    assert [answer(two, claim.text).verdict for claim in (OWN_DIRECTIONS, OWN_TOKENS)] == ["no", "no"]
    assert answer(one, OWN_DIRECTIONS.text).estimate.mean == 0.0
    assert answer(one, OWN_DIRECTIONS.text).verdict == "yes"


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_copies_are_found_by_direction_wherever_they_fire(noise: float) -> None:
    """Also where a copy is a little off, of another length, or fires where the other one does not."""
    generator = torch.Generator().manual_seed(0)
    own = torch.nn.functional.normalize(torch.randn(20, 64, generator=generator), dim=1)
    near = own + noise * torch.randn(20, 64, generator=generator) / 8
    token = np.repeat(np.arange(200), 2)
    feature = np.random.default_rng(0).integers(20, size=400) + 20 * (token % 2)
    for directions, expected in ((torch.cat([own, 3 * near]), 1.0), (torch.cat([own, -own]), 0.0)):
        fires = Firings(token, token // 10, feature, directions, 20)
        assert copied(fires, nearest(directions), 0.9) == pytest.approx(np.full(20, expected))


def test_a_feature_that_is_cut_in_two_directions_is_found_by_its_tokens() -> None:
    """Two directions that always fire together are one feature, however far apart they point."""
    rng = np.random.default_rng(0)
    active = np.stack([rng.permutation(12)[:3] for _ in range(400)])
    cut = np.concatenate([active, active + 12], 1)
    token = np.repeat(np.arange(400), 6)
    fires = Firings(token, token // 10, cut.ravel(), torch.eye(24), 40)
    assert copied(fires, nearest(fires.directions), 0.9).max() == 0.0
    assert shared(fires)[0] == pytest.approx(np.ones(20))
    whole = Firings(np.repeat(np.arange(400), 3), np.repeat(np.arange(400), 3) // 10, active.ravel(), torch.eye(12), 40)
    assert shared(whole)[0].max() < 0.45
    assert shared(doubled(whole))[0] == pytest.approx(np.ones(20))


def test_overlaps_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    dense = rng.random((60, 9)) < 0.3
    dense[:, 8] = False  # never fires
    token, feature = np.nonzero(dense)
    fires = Firings(token, token // 15, feature, torch.eye(9), 4)
    both = (dense[:, :, None] & dense[:, None]).sum(0).astype(float)
    either = (dense[:, :, None] | dense[:, None]).sum(0)
    np.fill_diagonal(both, -1.0)
    jaccard = both / np.maximum(either, 1)
    partner = partners(fires)
    assert partner[8] == -1
    assert jaccard[np.arange(8), partner[:8]] == pytest.approx(jaccard[:8].max(1))
    by_document, by_feature = overlaps(fires, partner)
    assert by_feature[:8] == pytest.approx(jaccard[:8].max(1))
    assert np.isnan(by_feature[8])
    for document in range(4):
        here = dense[15 * document : 15 * document + 15]
        met = [i for i in range(8) if here[:, i].any()]
        together = sum((here[:, i] & here[:, partner[i]]).sum() for i in met)
        assert by_document[document] == pytest.approx(
            together / sum((here[:, i] | here[:, partner[i]]).sum() for i in met)
        )


def test_dead_features_are_counted_over_documents() -> None:
    """The unit is the document: many features are no large sample of text."""
    fires = firings([0, 1, 2, 2], [0, 1, 2, 2], [0, 1, 0, 1], torch.eye(1000))
    at = never_fire(fires, 0)
    assert (at.mean, at.n, at.over) == (pytest.approx(0.998), 3, "document")
    alike = never_fire(firings([0, 1, 2], [0, 1, 2], [0, 0, 0], torch.eye(1)), 0)
    assert (alike.mean, alike.low) == (0.0, 0.0)
    assert alike.high > 0.3, "three documents in which all fire are no certainty"
    rng = np.random.default_rng(0)
    feature = rng.integers(400, size=600)
    few = never_fire(Firings(np.arange(600), np.arange(600) // 30, feature, torch.eye(400), 20), 0)
    halves = [np.setdiff1d(np.arange(400), feature[i::2]).size / 400 for i in (0, 1)]
    assert few.low < few.mean < few.high < max(halves)
    assert few.mean == pytest.approx(np.setdiff1d(np.arange(400), feature).size / 400)
    assert few.high - few.low > 0.04, "wider than none: many features fire in one document alone"
