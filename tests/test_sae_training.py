"""Training SAEs: the same weights whatever interrupts, several at once as one at a time, and every refusal."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from refusals import the_line
from stores import SITES, captured
from word_sae import PLAN, SITE, TRAINING

from interp.activations.rows import Rows
from interp.activations.store import Store
from interp.errors import UserError
from interp.model.cache import is_intact
from interp.model.model import Model
from interp.saes import trainer
from interp.saes.checkpoint import FILE, METRICS, folder_of, training_folder
from interp.saes.learner import Learner, fresh
from interp.saes.load import load_sae, load_transcoder
from interp.saes.log import sinks_of
from interp.saes.plan import SAEPlan, Training, plan_sae, read_settings
from interp.saes.ranks import Ranks
from interp.saes.sources import Batches, MemoryRows, ModelRows, StoreRows
from interp.saes.trainer import save_sae, train

LAST, MLP = "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"
STEPS = Training(steps=24, batch=64, lr=3e-3, dead_after=5)
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("topk", {"k": 4}),
    ("batchtopk", {"k": 4}),
    ("matryoshka_batchtopk", {"k": 4, "matryoshka_widths": (16, 64)}),
    ("jumprelu", {"l0_coefficient": 0.1}),
    ("standard", {"l1_coefficient": 0.2}),
    ("gated", {"l1_coefficient": 0.2}),
]


def weights(folder: Path) -> bytes:
    return (folder / "sae_weights.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "rows_per_second"} for line in lines]


class StopAt:
    """Asks for an end after the steps given, one of them a call of `train`."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def stopped_and_resumed(plans: Any, source: Any, out: Path, training: Training, stops: Sequence[int]) -> list[Path]:
    """Train with a stop after each of `stops` steps, from a new source every time, as in a new process."""
    for stop in stops:
        assert train(plans, dataclasses.replace(source, memory={}), out, training, stop=StopAt(stop)) is None
        assert folder_of(out).is_dir()
        assert not out.exists()
    written = train(plans, dataclasses.replace(source, memory={}), out, training)
    assert written is not None
    assert not folder_of(out).exists()
    return written


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
    for name, values in (("planted", sums), ("noise", torch.randn(6000, 32, generator=generator))):
        parts = {"ids": torch.zeros(6000, dtype=torch.long), "document": torch.zeros(6000, dtype=torch.long)}
        rows = Rows(SITE, values, position=torch.arange(6000), is_sink=torch.zeros(6000, dtype=torch.bool), **parts)
        training = Training(steps=400, batch=256, lr=3e-3, dead_after=50)
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


# --- refusals ---


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


# --- metrics elsewhere ---


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
        (path,) = train(plan, StoreRows(store), tmp_path / "sae", STEPS, sinks=sinks) or []
    assert [step for step, _ in logged] == [*(line["step"] for line in metrics(path)), -1]
    assert logged[0][1][f"{plan.name}/explained_variance"] == metrics(path)[0]["explained_variance"]


def test_tensorboard_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"), sinks_of(["tensorboard"], "run"):
        pass


# --- transcoders ---


@pytest.mark.parametrize(("kind", "settings"), [KINDS[1], KINDS[3], KINDS[4]])
def test_a_transcoder_is_saved_as_saelens_own_and_computes_what_training_does(
    store: Store, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    plan = plan_sae(LAST, kind, 64, site_out=MLP, **settings)
    training = dataclasses.replace(STEPS, steps=60)
    (path,) = stopped_and_resumed(plan, StoreRows(store), tmp_path / "sae", training, [7])
    theirs, ours = sae_lens.SAE.load_from_disk(path), load_transcoder(path)
    kept = ~(store.is_sink(LAST) | store.is_sink(MLP))
    x, y = store.rows(LAST)[kept].float(), store.rows(MLP)[kept].float()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
        error, spread = (ours(x) - y).square().sum(), (y - y.mean(0)).square().sum()
        wrong = (ours(y) - y).square().sum() if x.shape == y.shape else spread
    assert float(error / spread) < 0.7, "it reconstructs the other site"
    assert float(wrong) > float(error), "and from this one: the control reads the wrong rows"
    cfg = json.loads((path / "cfg.json").read_text())
    assert (cfg["metadata"]["hook_name"], cfg["metadata"]["hook_name_out"]) == (LAST, MLP)
    assert metrics(path)[-1]["explained_variance"] == pytest.approx(1 - float(error / spread), abs=0.2)
    with pytest.raises(UserError, match="transcoder"):
        load_sae(path)


# --- what a reviewer broke ---


def test_asked_again_what_is_done_stays_and_other_settings_are_refused(store: Store, tmp_path: Path) -> None:
    plan, said = plan_sae(LAST, "topk", 64, k=4), []
    (path,) = train(plan, StoreRows(store), tmp_path / "sae", STEPS) or []
    before = weights(path)
    assert train(plan, StoreRows(store), tmp_path / "sae", STEPS, say=said.append) == [path]
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


@pytest.mark.parametrize("normalize", ["none", "expected_average_only_in"])
def test_the_record_has_the_rows_own_norm(store: Store, tmp_path: Path, normalize: Any) -> None:
    plan = plan_sae(LAST, "topk", 64, k=4, normalize=normalize)
    (path,) = train(plan, StoreRows(store), tmp_path / "sae", STEPS) or []
    rows = store.rows(LAST)[~store.is_sink(LAST)]
    recorded = json.loads((path / "cfg.json").read_text())["metadata"]["mean_norm"]
    assert recorded == pytest.approx(float(rows.norm(dim=1).mean()), rel=1e-5)


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
