"""Plans, rows and folders that training cannot work with: each is refused by its line, and nothing is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import the_line
from sae_runs import LAST, STEPS, metrics
from stores import captured
from word_sae import PLAN, SITE, TRAINING

from interp.activations.rows import Rows
from interp.activations.store import Store
from interp.errors import UserError
from interp.model.model import Model
from interp.saes.training.plan import SAEPlan, Training, plan_sae, read_settings
from interp.saes.training.sources import MemoryRows, StoreRows
from interp.saes.training.trainer import train


@pytest.fixture(scope="module")
def store(whole_store: tuple[Store, Any, Any]) -> Store:
    return whole_store[0]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: plan_sae(SITE, "topk", 64, k=65), "k=65 of 64 features"),
        (lambda: plan_sae(SITE, "topk", 64, k=0), "k=0 of 64 features"),
        (lambda: plan_sae(SITE, "topk", 64, k=1.5), "k=1.5; expected a whole number"),
        (lambda: plan_sae(SITE, "topk", 0), "width 0; expected 1 or more"),
        (lambda: plan_sae(SITE, "tokp", 64), "nearest: 'topk'"),
        (lambda: plan_sae(SITE, "standard", 64, l1_coeficient=2), "nearest: 'l1_coefficient'"),
        (lambda: plan_sae(SITE, "topk", 64, site_out=LAST), "SAELens has no class for it"),
        (lambda: plan_sae(SITE, "matryoshka_batchtopk", 64, k=4), "expected two or more that rise to the width 64"),
        (lambda: plan_sae(SITE, "jumprelu", 64, jumprelu_sparsity_loss_mode="quadratic"), "target_l0=None"),
        (lambda: plan_sae(SITE, normalize="layer_norm"), "normalize 'layer_norm'"),  # type: ignore[arg-type]
        (lambda: SAEPlan(SITE, 64, "topk", None), "NoneType came as the settings"),
        (lambda: Training(steps=0), "steps=0; expected 1 or more"),
        (lambda: Training(lr=0), "lr=0; expected a number between 0 and 1"),
        (lambda: read_settings("jumprelu", ["l0_coefficient=much"]), "expected l0_coefficient= and a number"),
        (lambda: read_settings("jumprelu", ["jumprelu_sparsity_loss_mode=l0"]), "one of step, tanh, quadratic"),
        (lambda: read_settings("topk", ["l0=3"]), "of topk, which has k, aux_loss_coefficient"),
    ],
)
def test_a_plan_that_cannot_work_is_one_line(make: Any, line: str) -> None:
    with pytest.raises(UserError) as raised:
        make()
    assert line in the_line(raised)


def test_training_refuses_what_cannot_work(store: Store, word_model: Model, word_rows: Rows, tmp_path: Path) -> None:
    sae, rows = plan_sae(LAST, "topk", 64, k=4), StoreRows(store)
    (tmp_path / "there").mkdir()
    cases: list[tuple[Any, Any, Training, str, str]] = [
        (plan_sae("blocks.1.hook_resid_pots", k=4), rows, STEPS, "new", "nearest: 'blocks.1.hook_resid_post'"),
        (sae, rows, dataclasses.replace(STEPS, batch=100_000), "new", "fewer than a batch of 100,000"),
        (sae, rows, STEPS, "there", "exists already"),
        ([sae, sae], rows, STEPS, "new", "came twice"),
        ([], rows, STEPS, "new", "no SAE to train came"),
        (plan_sae(LAST, "topk", 10**10, k=4), rows, STEPS, "new", "GB are free on cpu; choose a smaller width"),
        (plan_sae(LAST, "topk", 64, k=4), MemoryRows(word_rows, word_model), STEPS, "new", "of the rows"),
    ]
    for plan, source, training, out, line in cases:
        with pytest.raises(UserError) as raised:
            train(plan, source, tmp_path / out, training)
        assert line in the_line(raised)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["there"], "nothing half-written"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_named(
    tiny_gpt2: Model, word_model: Model, word_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    values = word_rows.values.clone()
    values[7, 3] = bad
    with pytest.raises(UserError, match=f"row 7 at {SITE} holds NaN or infinity"):
        train(PLAN, MemoryRows(dataclasses.replace(word_rows, values=values), word_model), tmp_path / "sae", TRAINING)
    spoilt, _, _ = captured(tiny_gpt2, tmp_path / "store", LAST)
    norms = spoilt.norms(LAST)
    norms[5] = bad
    monkeypatch.setattr(Store, "norms", lambda self, site: norms)
    with pytest.raises(UserError, match=r"row 5 at .* holds NaN or infinity \(.*row 1, token 5; 1 such rows\)"):
        train(plan_sae(LAST, k=4), StoreRows(spoilt), tmp_path / "sae", STEPS)


def test_a_batch_without_variance_and_one_that_diverges(word_model: Model, word_rows: Rows, tmp_path: Path) -> None:
    same = dataclasses.replace(word_rows, values=word_rows.values[5].expand_as(word_rows.values).contiguous())
    plan = plan_sae(SITE, "topk", 64, k=4)
    (path,) = train(plan, MemoryRows(same, word_model), tmp_path / "same", STEPS) or []
    assert metrics(path)[0]["explained_variance"] is None
    nothing = dataclasses.replace(word_rows, values=torch.zeros_like(word_rows.values))
    with pytest.raises(UserError, match="all rows are zero"):
        train(plan, MemoryRows(nothing, word_model), tmp_path / "zero", STEPS)
    for name in ("l1_coefficient=nan", "l1_coefficient=-5", "l1_coefficient=inf"):
        with pytest.raises(UserError, match="expected a number of 0 or more"):
            plan_sae(SITE, "standard", 64, **read_settings("standard", [name]))
    with pytest.raises(UserError, match="jumprelu_bandwidth=0"):
        plan_sae(SITE, "jumprelu", 64, jumprelu_bandwidth=0.0)
    with pytest.raises(UserError, match="write --k 4"):
        read_settings("topk", ["k=4"])
