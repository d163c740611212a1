"""The probe `features` where every word is a feature by construction, and its parts beside plain loops and hooks.

Nothing is trained here: the small GPT-2 has the weights that it was begun with, and the SAE is written by hand, so that
no rounding of a processor decides what is found.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import the_line
from safetensors.torch import save_file
from word_sae import change_cfg

from interp import Finding, Lab, Model, NotAsked, UserError
from interp.activations.rows import capture_rows
from interp.features.build.coder import Coder
from interp.features.build.labels import TokenRules
from interp.lab.claims import check_declared, not_reached
from interp.model.loading.cache import MANIFEST
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.saes.loading import attach
from interp.saes.loading.sae import SAE, load_sae
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.sources import MemoryRows
from interp.saes.training.trainer import train
from interp.text.corpus import split_corpus
from interp.views.figures import draw
from probes._features import CONTROLS, FEATURE_SHARE, FEATURES, RANDOM, causes, explained, made_of, units
from probes._features.controls import PLANTED_RULE, PLANTED_SUM, STEEPEST, planted_tokens
from probes._features.effect import (
    EARLY,
    FIRINGS,
    as_activations_vary,
    down_the_slope,
    in_any_direction,
    make,
    of_other_features,
    strongest,
    without_features,
    without_neurons,
)
from probes._features.explained import _for_half, explain
from probes._features.made_of import SIZES, Readouts, needed
from probes._features.units import (
    CONTEXT,
    Text,
    Units,
    choose_features,
    choose_neurons,
    dealt,
    layer_before,
    random_directions,
    read_text,
)
from probes.features import features

SITE = "blocks.0.hook_resid_post"
Answers = list[Finding | NotAsked]


def sentences(n: int) -> list[str]:
    """Documents of six sentences; an adjective allows two nouns, verbs are drawn freely."""
    rng = np.random.default_rng(0)

    def phrase() -> str:
        i = int(rng.integers(40))
        return f"a{i} n{(i * 7 + int(rng.integers(2))) % 40}"

    return [" . ".join(f"{phrase()} v{rng.integers(40)} {phrase()}" for _ in range(6)) for _ in range(n)]


@pytest.fixture(scope="module")
def small() -> Model:
    return train_small_gpt2(sentences(500)[:200], SmallGPT2(d_model=128, n_heads=2, steps=0))


@pytest.fixture(scope="module")
def folder(small: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SAE with a feature for every word: of an activation, the word whose mean is nearest fires."""
    rows = capture_rows(small, sentences(500)[:200], SITE)
    x, ids = rows.clean, rows.ids[~rows.is_sink]
    kinds = ids.unique()
    means = torch.stack([x[ids == kind].mean(0) for kind in kinds])
    apart = means - x.mean(0)
    plan = plan_sae(SITE, "topk", len(kinds), k=1)
    made = tmp_path_factory.mktemp("sae") / "sae"
    train(plan, MemoryRows(rows, small), made, Training(steps=1, batch=64, lr=1e-6))
    half = apart.square().sum(1) / 2  # so strongly each fires at its own mean
    tensors = {"W_enc": apart.T.contiguous(), "b_enc": -half, "W_dec": apart / half[:, None], "b_dec": x.mean(0)}
    change_cfg(lambda cfg: cfg.update(apply_b_dec_to_input=True))(made)
    save_file(tensors, made / "sae_weights.safetensors")
    (made / MANIFEST).unlink()
    return made


@pytest.fixture(scope="module", autouse=True)
def corpus() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for module in (units, attach):
            patched.setattr(module, "split_corpus", lambda: (sentences(500)[:200], sentences(500)[200:]))
        yield


@pytest.fixture(scope="module")
def sae(small: Model, folder: Path) -> SAE[Any]:
    return load_sae(folder, small)


def two_fire(sae: SAE[Any]) -> SAE[Any]:
    """The same SAE with two features firing at a token: the bias lifts them all above zero."""
    twice = copy.deepcopy(sae)
    twice.cfg.k = 2
    twice.activation_fn = twice.get_activation_fn()
    with torch.no_grad():
        twice.get_parameter("b_enc").add_(10.0)
    return twice


@pytest.fixture(scope="module")
def text(small: Model, corpus: None) -> Text:
    return read_text(Lab(small), SITE, 8000)


@pytest.fixture(scope="module")
def coder(sae: SAE[Any], text: Text) -> Coder:
    return Coder(sae, text.rows.values[text.kept])


@pytest.fixture(scope="module")
def chosen(text: Text, coder: Coder) -> Units:
    return choose_features(text, coder, 20, 0)


def answers_of(model: Model, folder: Path) -> Answers:
    return list(features(Lab(model, sae_folder=folder), tokens=8000, units=30, changed=30))


@pytest.fixture(scope="module")
def answers(small: Model, folder: Path, corpus: None) -> Answers:
    return answers_of(small, folder)


def findings_of(answers: Answers) -> dict[str, Finding]:
    return {one.claim: one for one in answers if isinstance(one, Finding)}


def test_where_features_are_words_the_probe_says_so(answers: Answers) -> None:
    told = findings_of(answers)
    for claim in (explained.SHORT_LIST, explained.THAN_NEURON, explained.THAN_RANDOM):
        assert told[claim.text].verdict == "yes", claim.text
    assert told[explained.SHORT_LIST.text].estimate.mean == 1.0
    assert told[explained.THAN_NEURON.text].estimate.mean > 0.4
    controls = [finding for finding in told.values() if finding.part == CONTROLS]
    assert [finding.expects for finding in controls] == ["greater", "equal"] * 3
    for claim in (PLANTED_RULE, PLANTED_SUM):
        assert told[claim.text].verdict == "yes", (told[claim.text].estimate, "what is planted is found")
    assert told[STEEPEST.text].estimate.mean > 0, "how much steeper depends on what a model has learned"
    for chance in controls[1::2]:  # whether thirty units lie wholly inside a margin may hang on rounding
        assert abs(chance.gap.mean) < chance.margin


def test_every_claim_is_declared_and_answered_or_said_not_to_be_asked(answers: Answers) -> None:
    for one in answers:
        check_declared(one, features.claims, features.name)
    assert not_reached(features.claims, answers) == []
    alone = [one for one in answers if isinstance(one, NotAsked)]
    assert [one.declared for one in alone] == [causes.THAN_FEATURE.text], "one feature fires at a token, alone"
    assert 2 <= sum(claim.answers for claim in features.claims) <= 4


def test_every_figure_draws_and_the_seed_gives_the_same(answers: Answers, small: Model, folder: Path) -> None:
    told = findings_of(answers)
    for finding in told.values():
        if finding.figure is not None:
            draw(finding)
    again = findings_of(answers_of(small, folder))
    assert {claim: (f.estimate, f.table) for claim, f in again.items()} == {
        claim: (f.estimate, f.table) for claim, f in told.items()
    }


def test_each_finding_that_answers_names_its_text(answers: Answers) -> None:
    answering = [one for one in findings_of(answers).values() if one.answers]
    assert answering
    for finding in answering:
        assert "held-out documents of the bundled sample" in finding.measure, finding.claim


def test_both_lines_are_asked_and_they_can_part(text: Text, small: Model) -> None:
    """Eight neurons go 85 % of the way: more than eight are needed for one line, and not for the other."""
    scores = np.repeat((0.5 + 0.4 * np.array([0.1, 0.3, 0.6, 0.85, 0.95, 0.98, 1.0]))[:, None], 40, 1)
    readouts = {name: Readouts(scores, scores) for name in (FEATURES, RANDOM)}
    told = {one.claim: one for one in made_of.made_of(text, readouts, Lab(small)) if isinstance(one, Finding)}
    by_line = {way: told[made_of.MORE_THAN_SEVERAL.about({"way": way})] for way in made_of.WAYS}
    assert {way: one.verdict for way, one in by_line.items()} == {"eight tenths": "no", "nine tenths": "yes"}
    assert {row[FEATURE_SHARE] for row in by_line["nine tenths"].table if row["more than (neurons)"] == 8} == {0.0, 1.0}


def test_where_nothing_fires_in_the_documents_that_judge_nothing_is_asked(text: Text, small: Model) -> None:
    nothing = np.full((len(SIZES), 12), np.nan)
    readouts = {name: Readouts(nothing, nothing) for name in (FEATURES, RANDOM)}
    answers = list(made_of.made_of(text, readouts, Lab(small)))
    assert [one.declared for one in answers] == [claim.text for claim in made_of.CLAIMS]
    assert all(isinstance(one, NotAsked) for one in answers)


def test_rows_are_those_of_a_plain_capture(text: Text, small: Model) -> None:
    plain = capture_rows(small, sentences(500)[200:], SITE, max_tokens=8000, context=CONTEXT)
    torch.testing.assert_close(text.rows.values, plain.values, atol=1e-4, rtol=0)
    for name in ("ids", "document", "position", "is_sink"):
        assert torch.equal(getattr(text.rows, name), getattr(plain, name))
    row = int(text.kept[500])
    ids = text.up_to(row)
    torch.testing.assert_close(
        small.capture([ids], "blocks.0.mlp.hook_post").last("blocks.0.mlp.hook_post")[0], text.neurons[row]
    )


def test_all_fire_equally_often_where_they_are_strongest(text: Text, chosen: Units) -> None:
    neurons, random = choose_neurons(text, chosen, 0), random_directions(text, chosen, 0)
    assert len(neurons) == len(random) == len(chosen)
    values = text.neurons.double().numpy()
    for i, number in enumerate(neurons.numbers):
        kept = values[text.kept, number]
        centred = kept - kept.mean()
        along = centred * np.sign((centred**3).mean())
        n = len(chosen.rows[i])
        assert len(neurons.rows[i]) == len(random.rows[i]) == n
        assert set(text.kept[np.argsort(-along, kind="stable")[:n]]) == set(neurons.rows[i])
    assert np.array_equal(neurons.fires(text).sum(0), chosen.fires(text).sum(0))


def test_features_are_those_of_the_dictionary(text: Text, chosen: Units, sae: SAE[Any]) -> None:
    acts = sae.encode(text.rows.values).detach().numpy()
    for i, feature in enumerate(chosen.numbers):
        where = np.flatnonzero((acts[:, feature] > 0) & ~text.rows.is_sink.numpy())
        assert np.array_equal(where, chosen.rows[i])
        assert np.allclose(acts[where, feature], chosen.values[i], atol=1e-3)
        assert units.FEWEST <= len(where) <= units.COMMONEST * len(text.kept)


def test_a_rule_is_found_where_there_is_one_and_none_where_firings_are_dealt(text: Text, chosen: Units) -> None:
    rules = TokenRules(text.facts, text.document, text.vocabulary)
    assert np.nanmin(explain(text, rules, planted_tokens(text, 0)).scores) > 0.99
    assert abs(np.nanmean(explain(text, rules, dealt(chosen, text, 0)).scores)) < 0.02


def test_the_fewest_kinds_that_hold_half() -> None:
    assert _for_half(np.array([5, 5, 9, 2]), np.array([1.0, 1.0, 1.0, 1.0])) == 1
    assert _for_half(np.array([1, 2, 3, 4]), np.ones(4)) == 2
    assert _for_half(np.array([1, 2, 3, 4]), np.array([10.0, 1, 1, 1])) == 1


def test_the_size_that_is_needed() -> None:
    curves = np.full((len(SIZES), 2), 0.9)
    curves[0], curves[1, 1] = 0.6, 0.7
    assert needed(curves, 0.9).tolist() == [2, 4]
    assert needed(curves, 0.4).tolist() == [2, 2]


def test_a_feature_is_taken_away_as_a_plain_hook_does(small: Model, text: Text, chosen: Units, coder: Coder) -> None:
    away = without_features(Lab(small), text, chosen.first(4), coder)
    kls = make(Lab(small), [away], "features")[0]
    rows, values, numbers = strongest(text, chosen.first(4))
    block = small.hf.get_submodule("transformer.h.0")
    for i in (0, 5, 11):
        ids = torch.tensor([text.up_to(int(rows[i]))])
        less = float(values[i]) * coder.directions[int(numbers[i])]

        def push(_: object, __: object, out: torch.Tensor, less: torch.Tensor = less) -> torch.Tensor:
            out = out.clone()
            out[:, -1] -= less
            return out

        with torch.no_grad():
            before = small.hf(ids).logits[0, -1].double().log_softmax(-1)
            handle = block.register_forward_hook(push)
            try:
                after = small.hf(ids).logits[0, -1].double().log_softmax(-1)
            finally:
                handle.remove()
        kl = float((before.exp() * (before - after)).sum())
        assert kls[i // FIRINGS, i % FIRINGS] == pytest.approx(kl, rel=1e-3, abs=1e-6)


def test_a_neuron_at_its_mean_writes_what_it_writes(small: Model, text: Text, chosen: Units) -> None:
    neurons = choose_neurons(text, chosen, 0).first(5)
    change = without_neurons(Lab(small), text, neurons)
    rows, _, numbers = strongest(text, neurons)
    matrix = small.hf.get_parameter("transformer.h.0.mlp.c_proj.weight").detach()
    by = text.neurons[text.kept].mean(0)[numbers] - text.neurons[rows, numbers]
    torch.testing.assert_close(change.length, by.abs() * matrix[numbers].norm(dim=1), rtol=1e-3, atol=1e-4)


def test_no_change_changes_nothing_and_the_others_are_as_long(
    small: Model, text: Text, chosen: Units, coder: Coder
) -> None:
    few = chosen.first(4)
    away = without_features(Lab(small), text, few, coder)
    still = type(away)(away.prompts, away.site, torch.zeros_like(away.by), away.length)
    assert np.abs(make(Lab(small), [still], "nothing")[0]).max() < 1e-6
    pairs = Coder(two_fire(coder.sae), text.rows.values[text.kept])
    others = of_other_features(away, text, few, pairs, 0)
    assert of_other_features(away, text, few, coder, 0).by.isnan().all(), "alone: nothing can stand beside it"
    for change in (
        as_activations_vary(away, text, 0),
        in_any_direction(away, text, 0),
        down_the_slope(away, text),
        others,
    ):
        torch.testing.assert_close(change.by.norm(dim=1), away.length, rtol=1e-4, atol=1e-5)
    rows, _, numbers = strongest(text, few)
    active = pairs.sae.encode(text.rows.values[rows]) > 0
    for i in range(len(rows)):
        toward = torch.nn.functional.cosine_similarity(coder.directions, -others.by[i], dim=1).argmax()
        assert active[i, toward]
        assert int(toward) != int(numbers[i])


def test_random_changes_vary_as_activations_do(small: Model, text: Text, chosen: Units, coder: Coder) -> None:
    away = without_features(Lab(small), text, chosen, coder)
    x = text.rows.values[text.kept]
    spread = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    along = [
        torch.cat([draw(away, text, seed).by for seed in range(20)]) @ spread.Vh[0]
        for draw in (as_activations_vary, in_any_direction)
    ]
    share = float(spread.S[0] ** 2 / spread.S.square().sum())
    ours, blind = (float((one / away.length.repeat(20)).square().mean()) for one in along)
    assert ours == pytest.approx(share, rel=0.35)
    assert blind == pytest.approx(1 / x.shape[1], rel=0.35)
    assert ours > 2 * blind


def test_the_strongest_early_firings_come_first(text: Text, chosen: Units) -> None:
    _, values, numbers = strongest(text, chosen)
    for i, unit in enumerate(chosen.numbers):
        place = text.facts.place[chosen.rows[i]]
        early = np.sort(chosen.values[i][place < EARLY])[::-1][:FIRINGS]
        mine = numbers.numpy() == unit
        assert mine.sum() == FIRINGS
        assert np.allclose(values[mine][: len(early)], early)


def test_a_unit_that_nothing_tells_takes_more_than_any() -> None:
    assert needed(np.full((len(SIZES), 1), 0.4), 0.9).tolist() == [SIZES[-1]]


def test_fewer_neurons_than_features_are_as_many_of_both(
    small: Model, text: Text, coder: Coder, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = units.replace(text, neurons=text.neurons[:, :12])
    few = choose_features(narrow, coder, 20, 0)
    assert len(few) == len(choose_neurons(narrow, few, 0)) == 12
    with pytest.raises(UserError, match="beside 5 neurons; expected 10 or more of both") as refused:
        choose_features(units.replace(text, neurons=text.neurons[:, :5]), coder, 20, 0)
    the_line(refused)


def test_too_few_documents_are_told(small: Model) -> None:
    with pytest.raises(UserError, match=r"100 tokens are . documents; expected 25 or more") as refused:
        read_text(Lab(small), SITE, 100)
    the_line(refused)


@pytest.mark.parametrize(
    ("site", "layer"),
    [("blocks.3.hook_resid_post", 3), ("blocks.3.hook_mlp_out", 3), ("blocks.3.hook_resid_pre", 2)],
)
def test_the_layer_that_wrote_last(site: str, layer: int) -> None:
    assert layer_before(site) == layer


@pytest.mark.parametrize("site", ["blocks.0.hook_resid_pre", "blocks.2.hook_attn_out", "blocks.1.mlp.hook_post"])
def test_a_site_that_no_neuron_writes_to_is_refused(site: str) -> None:
    with pytest.raises(UserError, match="which neurons write to") as refused:
        layer_before(site)
    the_line(refused)


@pytest.mark.parametrize(("flag", "value"), [("tokens", 3999), ("units", 9), ("changed", 0)])
def test_bad_flags_are_one_line(tiny_gpt2: Model, flag: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{flag} {value}; expected") as refused:
        next(iter(features(Lab(tiny_gpt2), **{flag: value})))
    the_line(refused)


def test_too_few_features_are_told(text: Text, coder: Coder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "FEWEST", 100_000)
    with pytest.raises(UserError, match=r"0 features of the SAE fire on .* another SAE with --sae") as refused:
        choose_features(text, coder, 20, 0)
    the_line(refused)


@pytest.mark.slow
def test_the_bundled_model(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (units, attach):
        monkeypatch.setattr(module, "split_corpus", split_corpus)
    answers = list(features(Lab(smol, quick=True)))
    assert not_reached(features.claims, answers) == []
    controls = [finding for finding in findings_of(answers).values() if finding.part == CONTROLS]
    assert [finding.verdict for finding in controls[::2]] == ["yes"] * 3, "what is planted is found"
    assert all(abs(f.gap.mean) < f.margin for f in controls[1::2])  # whether the interval is inside hangs on rounding
    assert sum(claim.answers for claim in features.claims) == 4
