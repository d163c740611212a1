"""Weights before and after: changes are measured right, swaps are exact, what was planted is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from exams import asked, same, weights
from refusals import the_line

from interp import Lab, Model, NotAsked, UserError
from interp.analysis.weight_change import (
    effective_rank,
    energies,
    layer_of_parameter,
    relative_change,
    share_in_top,
    weight_changes,
)
from interp.model.training.copies import copy_model, weights_from
from interp.model.training.finetune import fine_tune
from interp.model.training.small import SmallGPT2, train_small_gpt2
from probes._pretraining_finetuning import controls, inside, layers, small

pytestmark = pytest.mark.usefixtures("trained_once")


@pytest.fixture(scope="module")
def tuned(tiny_gpt2: Model) -> Model:
    return fine_tune(tiny_gpt2, [("the cat sat on the", " mat"), ("a dog", " barks")], steps=4, batch=2, lr=1e-2)


def test_energies_are_squared_singular_values() -> None:
    for shape in ((5, 9), (9, 5)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        plain = np.linalg.svd(x.double().numpy(), compute_uv=False)
        assert np.allclose(energies(x), plain**2)
        p = plain / plain.sum()
        assert effective_rank(energies(x)) == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-6)
        assert share_in_top(energies(x), 2) == pytest.approx((plain[:2] ** 2).sum() / (plain**2).sum())


def test_the_effective_rank_of_k_equal_directions_is_k() -> None:
    assert effective_rank(energies(3 * torch.eye(7)[:, :4])) == pytest.approx(4.0)
    assert effective_rank(energies(torch.zeros(4, 6))) == share_in_top(energies(torch.zeros(4, 6)), 2) == 0.0


def test_changes_are_those_of_a_loop(tiny_gpt2: Model, tuned: Model) -> None:
    changes = weight_changes(tiny_gpt2, tuned)
    assert len(changes) == len(list(tiny_gpt2.hf.parameters()))
    total = moved = 0.0
    for name, old in tiny_gpt2.hf.named_parameters():
        (one,) = [change for change in changes if change.name == name]
        new = dict(tuned.hf.named_parameters())[name]
        assert one.layer == (int(name.split(".")[2]) if ".h." in name else None)
        total += float((old.detach().double() ** 2).sum())
        moved += float(((new - old).detach().double() ** 2).sum())
    assert relative_change(changes) == pytest.approx((moved / total) ** 0.5, rel=1e-4)
    assert relative_change(weight_changes(tiny_gpt2, tiny_gpt2)) == 0.0
    assert layer_of_parameter("model.layers.12.mlp.up_proj.weight") == 12


def test_models_of_other_shapes_are_refused(tiny_gpt2: Model, word_model: Model) -> None:
    with pytest.raises(UserError, match="differ in name or shape") as refused:
        weight_changes(tiny_gpt2, word_model)
    the_line(refused)


@pytest.mark.parametrize(("others", "one", "verdict"), [(1.001, 1.06, "no"), (1.04, 1.04, "yes")])
def test_one_layer_that_moved_far_is_not_lost_in_the_mean(others: float, one: float, verdict: str) -> None:
    model = train_small_gpt2(["a b c d"], SmallGPT2(n_layers=12, d_model=32, steps=0), seed=0)
    changed = copy_model(model, "stretched")
    with torch.no_grad():
        for name, p in changed.hf.named_parameters():
            p *= one if layer_of_parameter(name) == 7 else others
    finding = inside.weights_moved(Lab(model), changed, None)
    assert finding.estimate.mean == pytest.approx(one - 1, abs=1e-5)
    assert finding.verdict == verdict


def swap_and_fail(work: Model, source: Model, names: list[str]) -> None:
    with weights_from(work, source, names):
        raise RuntimeError


def test_swapped_weights_come_back_whatever_happens(tiny_gpt2: Model, tuned: Model) -> None:
    work, names = copy_model(tuned, "a copy"), [name for name, _ in tuned.hf.named_parameters()]
    with pytest.raises(RuntimeError):
        swap_and_fail(work, tiny_gpt2, names)
    assert same(weights(work), weights(tuned))
    with weights_from(work, tiny_gpt2, names):
        assert same(weights(work), weights(tiny_gpt2))
    with weights_from(work, tiny_gpt2, names[:1]):
        differ = [name for name, value in work.hf.named_parameters() if not torch.equal(value, weights(tuned)[name])]
        assert differ == names[:1]
    with pytest.raises(UserError, match="parameter") as refused, weights_from(work, tiny_gpt2, ["transformer.wtee"]):
        pass
    the_line(refused)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "opt"])
def test_blocks_hold_every_parameter_once(tiny_of: Any, architecture: str) -> None:
    model = tiny_of(architecture)
    for most in (1, 2, 9):
        blocks = layers.blocks_of(model, most)
        assert sorted(name for names in blocks.values() for name in names) == sorted(
            name for name, _ in model.hf.named_parameters()
        )
        assert len(blocks) == min(most, model.n_layers) + 1


def test_piles_run_from_nothing_to_everything() -> None:
    blocks = {"layer 0": ["a"], "layer 1": ["b"], "layer 2": ["c"], layers.OUTSIDE: ["e"]}
    piles = list(layers._piled(blocks).values())
    assert piles == [[], ["e", "a"], ["e", "a", "b"], ["e", "a", "b", "c"], ["e", "c"], ["e", "b", "c"]]


@pytest.mark.parametrize(("most", "verdict"), [(4.0, "no"), (6.0, "yes")])
def test_a_block_must_carry_more_than_other_blocks_do(tiny_gpt2: Model, most: float, verdict: str) -> None:
    """Embeddings lose next to nothing: beside them, each of three blocks that are alike would stand out."""
    rng = np.random.default_rng(0)
    lost = np.array([4.0, most, 4.0, 0.05]) + rng.normal(0, [0.5, 0.5, 0.5, 0.01], (48, 4))
    names = ["layer 0", "layer 1", "layer 2", layers.OUTSIDE]
    one_block, _ = layers._block_by_block(Lab(tiny_gpt2), names, lost, lost, lost.sum(1))
    assert asked(one_block).verdict == verdict
    of_one = layers._block_by_block(Lab(tiny_gpt2), names[2:], lost[:, 2:], lost[:, 2:], lost.sum(1))
    assert isinstance(next(of_one), NotAsked), "one layer has no other"


@pytest.mark.parametrize("seed", range(3))
def test_what_is_planted_is_found_and_noise_is_not(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = small.make_world(0)
    texts = ["".join(pair) for pair in (*world.statements(), *world.questions(taught=True))]
    model = train_small_gpt2(texts, SmallGPT2(n_layers=6, d_model=32, steps=0), seed=seed)
    changed, name = controls.plant(model, 1 + seed, seed)
    assert layer_of_parameter(name) == 1 + seed
    layer, rank, swapped = controls.found_at(model, changed)
    assert (layer, swapped) == (1 + seed, 1 + seed)
    assert rank == pytest.approx(2, abs=0.5)
    monkeypatch.setattr(controls, "LOUD", 0.0)
    assert controls.found_at(model, controls.plant(model, 1 + seed, seed)[0])[1] > 10
