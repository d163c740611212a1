"""Answer scores, lens and patching on models small enough to check by brute force, and on planted mechanisms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from interp.analysis.answers import encode_answers, score_answers
from interp.analysis.facts import align, ask_facts
from interp.analysis.lens import answer_lead
from interp.analysis.metrics import logit_difference
from interp.analysis.patching import Sweep, patch_sweep
from interp.errors import UserError
from interp.model.model import Model
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.stats.estimators import matched_scores
from interp.text.facts import FactSet
from interp.text.invented import invent, people_set


@pytest.fixture(scope="module")
def people() -> FactSet:
    return people_set(invent(8, 0, 1))


@pytest.fixture(scope="module")
def knower(people: FactSet) -> Model:
    """A small GPT-2 that was taught name first only."""
    sentences = [s for t in range(4) for s in people.sentences("forward", t)]
    # the other order's words are in the vocabulary, with their meaning left open
    sentences += [s.replace(f, " somebody") for t in range(4) for s, f in zip(
        people.sentences("reversed", t), people.answers("reversed"), strict=True)]  # fmt: skip
    return train_small_gpt2(sentences, SmallGPT2(tied=False, steps=400), seed=0)


def brute_force(model: Model, prompt: str, answer: str) -> float:
    start = len(model.encode(prompt)[0])
    ids = model.encode(prompt + answer)[0]
    with torch.no_grad():
        logprobs = model.hf(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    return float(sum(logprobs[i - 1, ids[i]] for i in range(start, len(ids))))


def test_scores_equal_one_forward_per_pair(knower: Model, people: FactSet) -> None:
    prompts = [*people.prompts("forward", 0)[:3], *people.prompts("forward", 1)[:2]]  # of two lengths
    answers = [" kanoju", people.answers("forward")[0], " is it said", " the"]
    answers[0] = people.answers("forward")[1]
    found = score_answers(knower, prompts, answers)
    expected = [[brute_force(knower, p, a) for a in answers] for p in prompts]
    assert np.allclose(found.summed.numpy(), expected, atol=1e-4)
    assert found.lengths.tolist() == [1, 1, 3, 1]
    assert torch.allclose(found.per_token[:, 2], found.summed[:, 2] / 3)


def test_scores_of_a_recurrent_model_that_keeps_no_cache_equal_brute_force(tiny_of: Callable[[str], Model]) -> None:
    mamba = tiny_of("mamba")
    prompts, answers = ["Rome is", "Paris and Rome are"], [" a city", " Rome", " in Italy now"]
    found = score_answers(mamba, prompts, answers)
    assert len(set(found.lengths.tolist())) > 1
    expected = [[brute_force(mamba, p, a) for a in answers] for p in prompts]
    assert np.allclose(found.summed.numpy(), expected, atol=1e-4)


def test_a_model_in_training_mode_is_scored_without_dropout(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    before = score_answers(model, "Rome is", [" a", " b"]).summed
    model.hf.train()
    assert np.allclose(score_answers(model, "Rome is", [" a", " b"]).summed, before, atol=1e-4)


def test_scores_equal_brute_force_on_the_bundled_model(smol: Model) -> None:
    prompts = ["Here is a fact. The capital of France is", "Here is a fact. The capital of Papua New Guinea is"]
    answers = [" Paris", " Port Moresby", " 4"]  # " 4" is two tokens here
    found = score_answers(smol, prompts, answers)
    expected = [[brute_force(smol, p, a) for a in answers] for p in prompts]
    assert np.allclose(found.summed.numpy(), expected, atol=1e-3)
    assert found.summed[0].argmax() == 0


def test_greedy_is_what_generation_would_write(knower: Model, people: FactSet) -> None:
    prompts, answers = people.prompts("forward", "held_out"), people.answers("forward")
    answers = [*answers, answers[0] + " is", answers[0] + answers[1]]  # right at first, of other lengths
    expected = torch.zeros(len(prompts), len(answers), dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        for j, want in enumerate(encode_answers(knower, prompts, answers)):
            ids = torch.tensor(knower.encode(prompt))
            with torch.no_grad():
                for _ in want:
                    ids = torch.cat([ids, knower.hf(ids).logits[:, -1:].argmax(-1)], dim=1)
            expected[i, j] = ids[0, -len(want) :].tolist() == want
    assert torch.equal(score_answers(knower, prompts, answers).greedy, expected)
    assert bool(expected.diagonal().all())
    assert not bool(expected[:, -1].any())


def test_the_curse_shows_on_a_model_taught_one_order(knower: Model, people: FactSet) -> None:
    forward, backward = (ask_facts(knower, people, d) for d in ("forward", "reversed"))
    assert forward.exact.mean() == 1.0
    assert forward.chosen.mean() == 1.0
    assert forward.matched.min() > 3.0
    assert backward.exact.mean() == 0.0
    assert abs(backward.matched.mean()) < 1.0


def test_a_prompt_that_ends_in_a_space_is_refused(smol: Model) -> None:
    with pytest.raises(UserError, match="melts into"):
        score_answers(smol, ["The capital of France is "], ["Paris"])
    with pytest.raises(UserError, match="empty"):
        score_answers(smol, ["The capital of France is"], [""])


def test_lens_at_the_last_layer_is_the_models_own_logits(knower: Model, people: FactSet) -> None:
    aligned = align(knower, people, "forward", "held_out")
    lead = answer_lead(knower, aligned.prompts, aligned.answer_ids)
    logits = knower.last_logits(aligned.prompts)
    for i, own in enumerate(aligned.answer_ids):
        others = [a for a in aligned.answer_ids if a != own]
        expected = logits[i, own] - logits[i, others].mean()
        assert float(lead[i, -1, -1]) == pytest.approx(float(expected), abs=1e-3)
    priors_out = answer_lead(knower, aligned.prompts, aligned.answer_ids, priors_out=True)
    assert len(set(aligned.answer_ids)) == len(aligned.answer_ids)
    expected = matched_scores(logits[:, aligned.answer_ids].double().numpy())
    np.testing.assert_allclose(priors_out[:, -1, -1].numpy(), expected, atol=2e-3)


def test_alignment_names_the_items_own_tokens(smol: Model) -> None:
    from interp.text.data import data
    from interp.text.facts import load_facts

    facts = load_facts(data("facts/capitals.csv"))
    for direction in ("forward", "reversed"):
        aligned = align(smol, facts, direction)
        for prompt, fact in zip(aligned.prompts, aligned.facts, strict=True):
            tokens = smol.str_tokens(prompt)
            assert len(tokens) == len(aligned.labels)
            item = "".join(tokens[aligned.first_item : aligned.last_item + 1]).strip()
            assert item == facts.given(direction)[fact]
    assert len(set(aligned.answer_ids)) == len(aligned.answer_ids)


def others(answers: list[int]) -> list[list[int]]:
    n = len(answers)
    return [[answers[(i + k) % n] for k in range(3, n)] for i in range(n)]


def patched(
    model: Model, source: list[str], corrupt: list[str], answers: list[int], layers: list[int], positions: list[int]
) -> Sweep:
    metric = logit_difference(answers, others(answers))
    return patch_sweep(model, source, corrupt, metric, [model.residual(layer) for layer in layers], positions=positions)


def test_patching_the_item_moves_the_answer_and_patching_before_it_nothing(knower: Model, people: FactSet) -> None:
    aligned = align(knower, people, "forward", "held_out")
    n = len(aligned.prompts)
    corrupt = aligned.prompts[1:] + aligned.prompts[:1]
    positions = list(range(len(aligned.labels)))
    found = patched(knower, aligned.prompts, corrupt, aligned.answer_ids, [0, 1, 2], positions)
    assert found.effect.shape == (n, 3, len(positions))
    # at the embedding, the runs differ in the item alone: patching it is patching everything
    assert torch.allclose(found.share[:, 0, aligned.first_item], torch.ones(n), atol=1e-3)
    assert found.effect[:, :, : aligned.first_item].abs().max() < 1e-4  # a causal model cannot look ahead
    # the last position of the last layer is everything the logits see: it moves the whole way
    assert torch.allclose(found.share[:, -1, -1], torch.ones(n), atol=1e-3)
    assert (found.total > 3).all()


def test_patching_a_prompt_into_itself_moves_nothing(knower: Model, people: FactSet) -> None:
    aligned = align(knower, people, "forward", "held_out")
    found = patched(knower, aligned.prompts, aligned.prompts, aligned.answer_ids, [0, 1], [-1, aligned.last_item])
    assert found.effect.abs().max() < 1e-4
    assert found.total.abs().max() < 1e-4


def test_patching_prompts_of_different_length_is_refused(smol: Model) -> None:
    with pytest.raises(UserError, match="one length"):
        patch_sweep(
            smol,
            ["The capital of France is"],
            ["The capital of the United Kingdom is"],
            logit_difference([1], [2]),
            "blocks.0.hook_resid_pre",
        )
