"""Parts (c) and (f) of the reversal curse: where the answer is read inside a model, and what carries it there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from answered import answer_of, findings
from reversal_students import population

from interp.analysis.facts import align
from interp.analysis.metrics import logit_difference
from interp.analysis.patching import attribution_patch, correlation, patch_sweep
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.model.training.students import Student
from interp.text.data import data
from interp.text.facts import FactSet, load_facts
from interp.views.figures import draw
from probes._reversal_curse import examined, features, where, works
from probes.reversal_curse import BUNDLED

pytestmark = pytest.mark.usefixtures("trained_once")


@pytest.fixture(scope="module")
def students(trained_once: None) -> list[Student]:
    return population()[:-1]


def test_one_gradient_tells_what_patching_would_on_these_models(students: list[Student]) -> None:
    """Attribution patching against patching, over every layer and token, of questions in the order taught."""
    agreed = []
    for student in students:
        asked = align(student.model, student.groups["name first"], "forward", "held_out")
        wanted = asked.answer_ids
        lead = logit_difference(wanted, wanted[1:] + wanted[:1])
        pair = asked.prompts, asked.prompts[1:] + asked.prompts[:1], lead, ["blocks.*.hook_resid_post"]
        agreed.append(correlation(attribution_patch(student.model, *pair), patch_sweep(student.model, *pair)))
        if student.course.name != "tied embeddings, two-word names":  # there .75 and .79 were seen, else .92 to .97
            assert agreed[-1] >= 0.8, student.course.name
    assert sum(agreed) / len(agreed) >= 0.8


def test_no_answers_own_likelihood_is_read_as_a_lead(
    tiny_gpt2: Model, students: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 nats are planted under favourites of 3 nats, which halves of the prompts do not share."""
    rng = np.random.default_rng(0)

    def lead(model: Model, prompts: list[str], ids: list[int], *, layers: list[int], **how: object) -> torch.Tensor:
        values = rng.normal(2.0, 0.1, (len(prompts), len(layers), len(model.encode(prompts[0])[0])))
        favourites = rng.normal(0, 3, (len(prompts), len(layers), 1))
        return torch.tensor(values if how.get("priors_out") else values + favourites)

    monkeypatch.setattr(examined, "answer_lead", lead)
    lab = Lab(tiny_gpt2, quick=True)
    looked_into = examined.models_to_examine(lab, students, [load_facts(data("facts/capitals.csv"))])[0]
    read = [*where._readable(lab, looked_into, 300), *works._written(lab, looked_into, 300)]
    assert [one.verdict for one in findings(read)] == ["yes"] * 4
    assert [one.estimate.mean for one in findings(read)] == pytest.approx([2.0] * 4, abs=0.1)


def test_attention_carries_the_answer_in_the_order_that_was_taught_alone(
    tiny_gpt2: Model, students: list[Student]
) -> None:
    lab, facts = Lab(tiny_gpt2, quick=True), load_facts(data("facts/capitals.csv"))
    looked_into = examined.models_to_examine(lab, students, [facts])[:1]
    yielded = findings(list(works.works(lab, looked_into, 300)))
    carried = {("forward" in f.claim): f for f in yielded if "carries" in f.claim}
    assert [carried[True].verdict, carried[False].verdict] == ["yes", "no"]
    assert carried[True].gap.mean > 3
    assert all(draw(f) for f in yielded)


@pytest.mark.parametrize(("moves", "verdict"), [("direction", "yes"), ("wording", "no"), ("neither", "unclear")])
def test_features_that_move_with_the_wording_alone_are_no_features_of_the_direction(
    smol: Model, word_sae: Path, monkeypatch: pytest.MonkeyPatch, moves: str, verdict: str
) -> None:
    rng = np.random.default_rng(0)

    def activations(model: Model, sae: object, facts: FactSet, direction: str) -> np.ndarray:
        acts = rng.normal(size=(len(facts), 2, 64))  # [fact, wording, feature]
        acts[:, :, :12] += 3.0 * (moves == "direction" and direction == "forward")
        acts[:, 0, 12:24] += 3.0 * (moves == "wording")
        return acts

    monkeypatch.setattr(features, "_feature_activations", activations)
    monkeypatch.setattr(features, "load_sae", lambda folder, model: None)
    monkeypatch.setattr(features, "site_of", lambda sae: "blocks.0.hook_resid_post")
    monkeypatch.setattr(features, "_strongest_words", lambda lab, sae, chosen: dict.fromkeys(chosen, "a word"))
    yielded = features.features(Lab(smol, sae_folder=word_sae), load_facts(data("facts/capitals.csv")), 500)
    one = answer_of(yielded, features.MOVES_FEATURES)
    assert one.verdict == verdict
    assert len(one.table) == 2 * features.TOP_FEATURES


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_facts_can_tell_directions_by_features(smol: Model, name: str) -> None:
    facts = load_facts(data(f"facts/{name}.csv"))
    assert features._end_alike(smol, facts)
    other = replace(facts, reversed=replace(facts.reversed, held_out="In short, {} belongs to"))
    assert not features._end_alike(smol, other)
