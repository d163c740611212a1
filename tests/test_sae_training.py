"""Training SAEs: what is learned, from which rows, what is told of it; several at once as one at a time."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_runs import LAST, STEPS, metrics, stopped_and_resumed, weights
from stores import SITES
from word_sae import SITE

from interp.activations.rows import Rows
from interp.activations.store import Store
from interp.errors import UserError
from interp.model.loading.cache import is_intact
from interp.model.model import Model
from interp.saes.loading.sae import load_sae
from interp.saes.training.learner import Learner, fresh
from interp.saes.training.log import sinks_of
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.processes import Ranks
from interp.saes.training.report import TrainingCallbacks
from interp.saes.training.sources import Batches, MemoryRows, ModelRows, StoreRows
from interp.saes.training.trainer import train


@pytest.fixture(scope="module")
def store(whole_store: tuple[Store, Any, Any]) -> Store:
    return whole_store[0]


def test_straight_from_the_model_as_from_a_store(tiny_gpt2: Model, store: Store, tmp_path: Path) -> None:
    """Each stops and goes on to the same bits; and both learn from the same rows, in another order."""
    from stores import TEXTS

    from interp.activations.plan import plan_capture

    plan, tokens = plan_capture(tiny_gpt2, TEXTS, SITES)
    source = ModelRows(tiny_gpt2, plan, tokens)
    sae = plan_sae(LAST, "topk", 64, k=4)
    (whole,) = train(sae, source, tmp_path / "whole", STEPS) or []
    (parts,) = stopped_and_resumed(sae, source, tmp_path / "parts", STEPS, [2, 5, 11])
    assert weights(whole) == weights(parts)
    ours, stored = (s.read([LAST], 0, 0)[LAST] for s in (source, StoreRows(store)))
    assert ours.shape == stored.shape
    order = [rows.sum(1).sort().indices for rows in (ours, stored)]
    torch.testing.assert_close(ours[order[0]], stored[order[1]], atol=1e-4, rtol=1e-4)


def test_several_from_one_pass_are_what_each_is_alone(store: Store, tmp_path: Path) -> None:
    plans = [plan_sae(LAST, "topk", 64, k=4), plan_sae(LAST, "topk", 32, k=4), plan_sae(LAST, "standard", 64)]
    together = stopped_and_resumed(plans, StoreRows(store), tmp_path / "all", STEPS, [5])
    assert [path.name for path in together] == [plan.name for plan in plans]
    for plan, path in zip(plans, together, strict=True):
        (alone,) = train(plan, StoreRows(store), tmp_path / plan.name, STEPS) or []
        assert weights(alone) == weights(path)
        assert is_intact(path)


def test_batches_hold_every_row_once_an_epoch_without_sinks(store: Store) -> None:
    kept = ~store.is_sink(LAST)
    batches = Batches(StoreRows(store), [LAST], 16, 0)
    n = int(kept.sum()) // 16
    seen = torch.cat([batches.next()[LAST] for _ in range(n)])
    wanted = store.rows(LAST)[kept].float()
    had, there = (Counter(tuple(row.tolist()) for row in rows) for rows in (seen, wanted))
    assert had <= there, "none more often than the store has it: texts that begin alike have equal rows"
    assert sum((there - had).values()) == int(kept.sum()) % 16
    assert bool((seen.norm(dim=1) < 10 * store.norms(LAST).median()).all())
    assert batches.epoch == 0
    batches.next()
    assert batches.epoch == 1, "what is left of an epoch goes into the next"


def test_metrics_are_those_of_the_batch(store: Store, tmp_path: Path) -> None:
    """The last line against the saved SAE on the last batch; the SAE changed by one small step since."""
    plan = plan_sae(LAST, "topk", 64, k=4)
    training = dataclasses.replace(STEPS, lr=1e-3)
    (path,) = train(plan, StoreRows(store), tmp_path / "sae", training) or []
    line = metrics(path)[-1]
    batches = Batches(StoreRows(store), [LAST], training.batch, 0)
    rows = [batches.next()[LAST] for _ in range(training.steps)][-1]
    sae = load_sae(path)
    with torch.no_grad():
        features = sae.encode(rows)
        error = (sae.decode(features) - rows).double().square().sum()
    explained = 1 - float(error / (rows - rows.mean(0)).double().square().sum())
    assert line["explained_variance"] == pytest.approx(explained, abs=0.03)
    assert line["l0"] == pytest.approx(float((features != 0).sum(1).double().mean()), abs=0.05)
    assert line["step"] == training.steps
    assert sum(line["features_by_rate"].values()) == 64
    assert line["loss"] == pytest.approx(line["mse_loss"] + line["auxiliary_reconstruction_loss"])
    cfg = json.loads((path / "cfg.json").read_text())["metadata"]
    assert cfg["mean_norm"] == pytest.approx(float(store.rows(LAST)[~store.is_sink(LAST)].norm(dim=1).mean()), rel=1e-5)


def test_it_learns_directions_that_were_planted(word_model: Model, word_rows: Rows, tmp_path: Path) -> None:
    """Rows that are sums of 3 of 40 directions: most are found again. The control: rows without any directions."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(40, 32, generator=generator), dim=1)
    chosen = torch.rand(6000, 40, generator=generator).topk(3).indices
    sums = (truth[chosen] * (1 + torch.rand(6000, 3, 1, generator=generator))).sum(1)
    found = {}
    for name, values, steps in (("planted", sums, 400), ("noise", torch.randn(6000, 32, generator=generator), 150)):
        parts = {"ids": torch.zeros(6000, dtype=torch.long), "document": torch.zeros(6000, dtype=torch.long)}
        rows = Rows(SITE, values, position=torch.arange(6000), is_sink=torch.zeros(6000, dtype=torch.bool), **parts)
        training = Training(steps=steps, batch=256, lr=3e-3, dead_after=50)
        (path,) = train(plan_sae(SITE, "topk", 80, k=3), MemoryRows(rows, word_model), tmp_path / name, training) or []
        W_dec = load_sae(path).W_dec.detach()
        found[name] = float(((truth @ W_dec.T).max(1).values > 0.95).float().mean())
    assert found["planted"] > 0.9
    assert found["noise"] < 0.1


def test_dead_features_come_back_by_resampling(word_model: Model, word_rows: Rows, tmp_path: Path) -> None:
    """Features that a bias silenced: with resampling some fire again, without it none does."""
    plan, training = plan_sae(SITE, "standard", 64, l1_coefficient=0.01), Training(200, 128, 1e-3, dead_after=3)
    alive = {}
    for every in (10, 10_000):
        rows = {SITE: word_rows.clean}
        settings = dataclasses.replace(training, resample_every=every)
        learner = Learner(plan, settings, fresh(plan, rows, 0), torch.device("cpu"), "fp32", Ranks())
        learner.parameters["b_enc"].data[:20] = -1e3
        for step in range(25):
            learner.learn({SITE: word_rows.clean[step::30][:128]}, step)
        alive[every] = int((~learner.dead[:20]).sum())
    assert alive == {10: pytest.approx(20, abs=5), 10_000: 0}


@pytest.mark.parametrize("normalize", ["none", "expected_average_only_in"])
def test_the_record_has_the_rows_own_norm(store: Store, tmp_path: Path, normalize: Any) -> None:
    plan = plan_sae(LAST, "topk", 64, k=4, normalize=normalize)
    (path,) = train(plan, StoreRows(store), tmp_path / "sae", STEPS) or []
    rows = store.rows(LAST)[~store.is_sink(LAST)]
    recorded = json.loads((path / "cfg.json").read_text())["metadata"]["mean_norm"]
    assert recorded == pytest.approx(float(rows.norm(dim=1).mean()), rel=1e-5)


def test_ranks_gather_rows_in_the_order_of_the_batch(word_rows: Rows) -> None:
    """Two ranks resample the very rows that one would: what is gathered is put back in the batch's order."""
    whole = word_rows.clean[:12]
    plan = plan_sae(SITE, "standard", 64)

    class Two(Ranks):
        count = 2

        def gather(self, values: torch.Tensor) -> torch.Tensor:
            return torch.cat([whole[0::2].flatten(), whole[1::2].flatten()])

    start = fresh(plan, {SITE: word_rows.clean}, 0)
    learner = Learner(plan, Training(batch=12), start, torch.device("cpu"), "fp32", Two())
    assert torch.equal(learner._whole(whole[0::2]), whole)


def test_metrics_go_to_weights_and_biases_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    logged: list[tuple[int, dict[str, float]]] = []

    class Run:
        def log(self, numbers: dict[str, float], step: int) -> None:
            logged.append((step, numbers))

        def finish(self) -> None:
            logged.append((-1, {}))

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    plan = plan_sae(LAST, "topk", 64, k=4)
    with sinks_of(["wandb"], "run") as sinks:
        (path,) = train(plan, StoreRows(store), tmp_path / "sae", STEPS, callbacks=TrainingCallbacks(sinks=sinks)) or []
    assert [step for step, _ in logged] == [*(line["step"] for line in metrics(path)), -1]
    assert logged[0][1][f"{plan.name}/explained_variance"] == metrics(path)[0]["explained_variance"]


def test_tensorboard_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"), sinks_of(["tensorboard"], "run"):
        pass
