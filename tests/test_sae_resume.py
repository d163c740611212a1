"""Training that is stopped, killed or asked for twice: the same weights, nothing lost, nothing twice."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import the_line
from sae_runs import KINDS, LAST, STEPS, StopAt, metrics, stopped_and_resumed, weights

from interp.activations.store import Store
from interp.errors import UserError
from interp.model.loading.cache import is_intact
from interp.saes.training import trainer
from interp.saes.training.checkpoint import FILE, METRICS, folder_of, training_folder
from interp.saes.training.plan import plan_sae
from interp.saes.training.processes import Ranks
from interp.saes.training.report import TrainingCallbacks
from interp.saes.training.save import save_sae
from interp.saes.training.sources import StoreRows
from interp.saes.training.trainer import train


@pytest.fixture(scope="module")
def store(whole_store: tuple[Store, Any, Any]) -> Store:
    return whole_store[0]


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_stopped_and_resumed_it_is_bit_for_bit_what_it_is_in_one_go(
    store: Store, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    plan = plan_sae(LAST, kind, 64, **settings)
    (whole,) = train(plan, StoreRows(store), tmp_path / "whole", STEPS) or []
    (parts,) = stopped_and_resumed(plan, StoreRows(store), tmp_path / "parts", STEPS, [1, 7, 2, 9])
    assert weights(whole) == weights(parts)
    assert metrics(whole) == metrics(parts)
    (other,) = train(plan, StoreRows(store), tmp_path / "other", dataclasses.replace(STEPS, seed=1)) or []
    assert weights(whole) != weights(other)


def test_twenty_stops_at_random_steps(store: Store, tmp_path: Path) -> None:
    plan, training = plan_sae(LAST, "topk", 64, k=4), dataclasses.replace(STEPS, steps=60, lr_warm_up=9)
    (whole,) = train(plan, StoreRows(store), tmp_path / "whole", training) or []
    cuts = np.sort(np.random.default_rng(0).choice(np.arange(1, 60), 20, replace=False))
    stops = np.diff([0, *cuts]).tolist()
    (parts,) = stopped_and_resumed(plan, StoreRows(store), tmp_path / "parts", training, stops)
    assert weights(whole) == weights(parts)
    assert metrics(whole) == metrics(parts)


def test_training_of_other_settings_is_not_continued(store: Store, tmp_path: Path) -> None:
    """The differences are named; a checkpoint with one flipped bit is refused too."""
    plan = plan_sae(LAST, "topk", 64, k=4)
    assert train(plan, StoreRows(store), tmp_path / "sae", STEPS, stop=StopAt(3)) is None
    other = plan_sae(LAST, "topk", 64, k=5)
    for plans, training, told in (
        (other, STEPS, "k: 4 there, 5 wanted"),
        (plan, dataclasses.replace(STEPS, lr=1e-3), "lr: 0.003 there, 0.001 wanted"),
        ([plan, other], STEPS, "saes.1: null there"),
    ):
        with pytest.raises(UserError) as raised:
            train(plans, StoreRows(store), tmp_path / "sae", training)
        assert told in the_line(raised)
    file = folder_of(tmp_path / "sae") / FILE
    raw = bytearray(file.read_bytes())
    raw[-100] ^= 1
    file.write_bytes(raw)
    with pytest.raises(UserError, match="is damaged"):
        train(plan, StoreRows(store), tmp_path / "sae", STEPS)


def test_an_sae_is_written_whole_or_not_at_all(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the end: the checkpoint stays, and the same call finishes."""
    plan = plan_sae(LAST, "topk", 64, k=4)

    def full_disk(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copy", full_disk)
        with pytest.raises(UserError, match="No space left"):
            train(plan, StoreRows(store), tmp_path / "sae", STEPS)
    assert [path.name for path in tmp_path.iterdir()] == ["sae.training"]
    (again,) = train(plan, StoreRows(store), tmp_path / "sae", STEPS) or []
    (alone,) = train(plan, StoreRows(store), tmp_path / "alone", STEPS) or []
    assert weights(again) == weights(alone)
    assert metrics(again) == metrics(alone)
    assert is_intact(again)


def test_asked_again_what_is_done_stays_and_other_settings_are_refused(store: Store, tmp_path: Path) -> None:
    plan, said = plan_sae(LAST, "topk", 64, k=4), []
    (path,) = train(plan, StoreRows(store), tmp_path / "sae", STEPS) or []
    before = weights(path)
    assert train(plan, StoreRows(store), tmp_path / "sae", STEPS, callbacks=TrainingCallbacks(log=said.append)) == [
        path
    ]
    assert said == ["it is there already, made with these settings"]
    with pytest.raises(UserError, match="exists already"):
        train(plan, StoreRows(store), tmp_path / "sae", dataclasses.replace(STEPS, seed=3))
    assert weights(path) == before


def test_an_end_while_several_are_written_loses_none(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, saved = [plan_sae(LAST, "topk", width, k=4) for width in (32, 64)], []

    def interrupted(*arguments: Any, **more: Any) -> Path:
        saved.append(arguments)
        if len(saved) == 2:
            raise KeyboardInterrupt
        return save_sae(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "save_sae", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(plans, StoreRows(store), tmp_path / "all", STEPS)
    assert not (tmp_path / "all").exists()
    both = train(plans, StoreRows(store), tmp_path / "all", STEPS) or []
    for plan, path in zip(plans, both, strict=True):
        (alone,) = train(plan, StoreRows(store), tmp_path / plan.name, STEPS) or []
        assert weights(alone) == weights(path)
        assert json.loads((path / "cfg.json").read_text())["metadata"]["l0"] == pytest.approx(4, abs=0.1)


def test_a_second_process_is_refused_and_the_first_goes_on(store: Store, tmp_path: Path) -> None:
    plan = plan_sae(LAST, "topk", 64, k=4)
    with training_folder(tmp_path / "sae", Ranks()), pytest.raises(UserError, match="another process trains towards"):
        train(plan, StoreRows(store), tmp_path / "sae", STEPS)
    assert train(plan, StoreRows(store), tmp_path / "sae", STEPS)


def test_metrics_that_were_cut_short_are_not_filled_with_nothing(store: Store, tmp_path: Path) -> None:
    plan = plan_sae(LAST, "topk", 64, k=4)
    assert train(plan, StoreRows(store), tmp_path / "sae", STEPS, stop=StopAt(9)) is None
    file = folder_of(tmp_path / "sae") / METRICS
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    (path,) = train(plan, StoreRows(store), tmp_path / "sae", STEPS) or []
    assert [line["step"] for line in metrics(path)] == [1, 2, 3, *range(10, 25)]
