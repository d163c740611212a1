"""The pretended GPU refuses what CUDA refuses and finds what is planted: device bugs, races, waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pretend_gpu
import pytest
import torch
from planting import plant
from torch import Tensor

from interp import Model, load_model
from interp.activations.capture import capture_store
from interp.activations.offload import Offload
from interp.activations.plan import plan_capture
from interp.analysis import answers, logit_difference, score_answers
from interp.analysis.patching import patch_sweep
from interp.model import edits
from interp.model.hooks import captured, tokens
from interp.model.training import batched_gpt2
from interp.saes.training.learner import Learner, fresh
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.processes import Ranks
from interp.saes.training.sparse_codes import Pairs

pytestmark = pytest.mark.pretend
PROMPTS = ["the cat sat", "a dog ran far"]
SITE = "blocks.0.hook_resid_post"
CUDA = torch.device("cuda")


@pytest.fixture
def there(tiny_folder: Path) -> Model:
    return load_model(tiny_folder, "cuda")


# ---- its rules


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + torch.ones(3, 4),
        lambda x: x @ torch.ones(4, 2),
        lambda x: x + torch.ones(3, 4, device="cuda:1"),
        lambda x: torch.ones(5)[torch.tensor([1], device="cuda")],
        lambda x: torch.cat([x, torch.ones(1, 4)]),
        lambda x: torch.where(x > 0, x, torch.ones(3, 4)),
        lambda x: x.masked_fill(torch.ones(3, 4, dtype=torch.bool), 0.0),
        lambda x: torch.embedding(x, torch.tensor([1])),
    ],
)
def test_tensors_of_two_devices_are_refused(mixed: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        mixed(torch.zeros(3, 4, device="cuda"))


@pytest.mark.parametrize(
    "allowed",
    [
        lambda x: x + torch.tensor(1.0),
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x.copy_(torch.ones(3, 4)),
        lambda x: x.masked_fill(x == 0, torch.tensor(2.0)),
        lambda x: x.to("cuda:1"),
    ],
)
def test_what_cuda_takes_is_taken(allowed: Callable[[Tensor], Tensor]) -> None:
    assert allowed(torch.zeros(3, 4, device="cuda")).device.type == "cuda"


def test_a_card_that_is_not_there_is_refused() -> None:
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1, device="cuda:7")


def test_numbers_leave_a_card_by_the_cpu_alone() -> None:
    x = torch.arange(3.0, device="cuda")
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\)"):
        x.numpy()
    assert x.cpu().numpy().tolist() == x.tolist() == [0.0, 1.0, 2.0]


def test_a_card_draws_from_a_generator_of_its_own() -> None:
    torch.manual_seed(0)
    ours, its = torch.randn(4), torch.randn(4, device="cuda")
    assert not torch.equal(ours, its.cpu())
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.randn(4, device="cuda", generator=torch.Generator().manual_seed(0))
    twice = [torch.randn(4, device="cuda", generator=torch.Generator("cuda").manual_seed(3)).cpu() for _ in range(2)]
    assert torch.equal(*twice)


def test_fresh_memory_holds_no_number() -> None:
    assert torch.empty(3, device="cuda").isnan().all()
    assert torch.zeros(3, device="cuda").new_empty(2).isnan().all()


def test_a_module_that_moves_keeps_its_parameters_and_their_ties() -> None:
    module = torch.nn.Linear(3, 3)
    twin = torch.nn.Linear(3, 3)
    twin.weight, weight = module.weight, module.weight
    both = torch.nn.ModuleList([module, twin]).to("cuda")
    assert both[0].weight is both[1].weight is weight
    assert weight.device == torch.device("cuda:0")


def test_training_on_a_card_gives_the_cpus_weights() -> None:
    torch.manual_seed(0)
    start, x = torch.nn.Linear(4, 2), torch.randn(8, 4)
    found = []
    for device in ("cpu", "cuda"):
        module = torch.nn.Linear(4, 2)
        module.load_state_dict(start.state_dict())
        module.to(device)
        adam = torch.optim.Adam(module.parameters(), fused=True)
        for _ in range(3):
            module(x.to(device)).square().mean().backward()
            adam.step()
            adam.zero_grad()
        found.append(module.weight.detach().cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-7)


def test_a_loaded_model_holds_what_the_cpus_holds(tiny_folder: Path, there: Model) -> None:
    """Buffers too: what is not in the checkpoint is computed while it loads, where memory is fresh."""
    here = load_model(tiny_folder, "cpu")
    for ours, theirs in zip(
        [*here.hf.named_parameters(), *here.hf.named_buffers()],
        [*there.hf.named_parameters(), *there.hf.named_buffers()],
        strict=True,
    ):
        assert ours[0] == theirs[0]
        assert torch.equal(theirs[1].cpu(), ours[1]), ours[0]
    torch.testing.assert_close(there.logits(PROMPTS).cpu(), here.logits(PROMPTS), rtol=1e-5, atol=1e-5, equal_nan=True)


# ---- its ledger


def test_the_ledger_counts_work_waits_and_uploads_by_line() -> None:
    x = torch.arange(6.0, device="cuda")
    with pretend_gpu.watch("/tests/") as ledger:
        y = x * 2 + 1  # two kernels
        total = float(y.sum())  # a third, and a wait
        some = y[y > 3]  # two more, and a wait: how many there are
        moved = torch.ones(6).to("cuda")  # an upload
        y.view(2, 3)[0]  # nothing
    assert (total, some.tolist(), moved.device.type) == (36.0, [5.0, 7.0, 9.0, 11.0], "cuda")
    counted = [ledger.total(what) for what in ("kernel", "wait", "upload")]
    assert counted == [5, 2, 1]
    assert "tests/test_pretend_gpu.py" in ledger.show("wait")


# ---- races, planted in the offload that copies beside the forward

RACES = {
    "the copy does not wait for the values": (
        "stream.wait_stream(torch.cuda.current_stream(kept.device))",
        "pass",
    ),
    "memory is not kept for the copy": ("tensor.record_stream(stream)", "whole.clear(); del kept, tensor"),
    "the model's own tensor is copied": ("values.to(self._dtype, copy=True)", "values.to(self._dtype)"),
    "the end is recorded on another stream": (
        "copied.record()",
        "copied.record(torch.cuda.default_stream(kept.device))",
    ),
}


def offloaded() -> list[Tensor]:
    """What a receiver gets of three tensors that are overwritten at once, as a forward's are."""
    got: list[Tensor] = []
    with Offload[int](lambda where, values: got.append(values.clone()), torch.float32) as offload:
        for i in range(3):
            values = torch.full((4,), float(i), device="cuda")
            offload.put(i, values)
            values.fill_(-1.0)
    return got


def is_right(got: list[Tensor]) -> bool:
    return len(got) == 3 and all(torch.equal(values, torch.full((4,), float(i))) for i, values in enumerate(got))


def test_the_offload_hands_on_what_was_put() -> None:
    assert is_right(offloaded())


@pytest.mark.parametrize("race", RACES)
def test_a_planted_race_is_found(race: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Offload, "put", *RACES[race])
    try:
        got = offloaded()
    except pretend_gpu.RaceError:
        return
    assert not is_right(got), "unwritten memory shows"


def test_a_copy_that_nobody_waits_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Offload, "_hand_on", "copied.synchronize()", "pass")
    assert not is_right(offloaded())


# ---- device bugs, planted in what people run


def capture(model: Model, tmp_path: Path) -> None:
    model.capture(PROMPTS, SITE).last(SITE)


def store(model: Model, tmp_path: Path) -> None:
    plan, ids = plan_capture(model, PROMPTS * 4, SITE)
    capture_store(model, tmp_path / "store", plan, ids)


def edit_some(model: Model, tmp_path: Path) -> None:
    with model.edit({SITE: edits.ablate(pos=-1, to=torch.zeros(model.d_model))}):
        model.last_logits(PROMPTS)


def score(model: Model, tmp_path: Path) -> None:
    score_answers(model, PROMPTS, [" one", " two or three"])


def sweep(model: Model, tmp_path: Path) -> None:
    patch_sweep(model, [[1, 2, 3]], [[1, 4, 3]], logit_difference([3], [4]), [SITE])


def train(model: Model, tmp_path: Path, **settings: Any) -> None:
    plan = plan_sae(SITE, "topk", 16, k=2, **settings)
    rows = {SITE: torch.randn(32, 8, generator=torch.Generator().manual_seed(0))}
    training = Training(steps=4, batch=32, lr=1e-2, dead_after=1)
    student = Learner(plan, training, fresh(plan, rows, 0), CUDA, "fp32", Ranks())
    for step in range(4):
        student.learn(rows, step)
    student.report()


def resample(model: Model, tmp_path: Path) -> None:
    plan = plan_sae(SITE, "standard", 64)
    rows = {SITE: torch.randn(32, 8, generator=torch.Generator().manual_seed(0))}
    student = Learner(
        plan, Training(steps=4, batch=32, lr=1e-2, dead_after=1), fresh(plan, rows, 0), CUDA, "fp32", Ranks()
    )
    outcome = student.learn(rows, 0)
    student.silent += 5
    student.resample(outcome.batch, outcome.step, 1)


def population(model: Model, tmp_path: Path) -> None:
    members = [batched_gpt2.Member(1e-2, seed) for seed in (0, 1)]
    size = batched_gpt2.Size(8, n_layers=1, n_heads=2, context=8)
    text = torch.arange(200) % 5
    trained = batched_gpt2.train_population(
        size, 5, members, [text, text], batched_gpt2.TrainingSchedule(2, 2), device=CUDA
    )
    trained.losses(text)


RUNS = (capture, store, edit_some, score, sweep, train, resample, population)
# What people run, and what somebody might have written there: the function, its text, what stands there instead.
Bug = tuple[Any, str, str, str]
BUGS: dict[str, tuple[Callable[..., None], Bug]] = {
    "the batch stays on the CPU": (train, (Learner, "_batch", ".to(self.device) * self.scale", "* self.scale")),
    "the weights stay on the CPU": (train, (Learner, "__init__", "tensor.clone().to(device)", "tensor.clone()")),
    "Adam's step is on the CPU": (
        train,
        (Learner, "__init__", "torch.tensor(0.0, device=device)", "torch.tensor(0.0)"),
    ),
    "edges of a report are on the CPU": (train, (Learner, "report", ", device=rate.device", "")),
    "a CPU's generator draws on the card": (resample, (Learner, "resample", ".square().cpu()", ".square()")),
    "rows of pairs are counted on the CPU": (train, (Pairs, "row", ", device=counts.device", "")),
    "features are searched on the CPU": (train, (Pairs, "_by_feature", ", device=feature.device", "")),
    "token ids stay on the CPU": (capture, (tokens, "pad", "upload(ids, device)", "ids")),
    "places are counted on the CPU": (capture, (captured.Activations, "last", ", device=self.mask.device", "")),
    "an edit's numbers stay on the CPU": (edit_some, (edits, "ablate", "beside(held, activation)", "held")),
    "the last tokens are counted on the CPU": (score, (tokens.Tokens, "last", ", device=self.mask.device", "")),
    "first tokens are on the CPU": (
        score,
        (answers, "_score_block", "in answers], device=model.device)", "in answers])"),
    ),
    "a population's batch stays on the CPU": (
        population,
        (batched_gpt2, "train_population", "batch.to(device)", "batch"),
    ),
    "a population's mask is on the CPU": (population, (batched_gpt2, "forward", "device=ids.device, dtype", "dtype")),
}


@pytest.mark.parametrize("run", RUNS)
def test_what_people_run_works_on_a_card(run: Callable[..., None], there: Model, tmp_path: Path) -> None:
    run(there, tmp_path)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_device_bug_is_found(bug: str, there: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, planted = BUGS[bug]
    plant(monkeypatch, *planted)
    with pytest.raises((RuntimeError, TypeError), match=r"same device|generator|numpy|on cpu"):
        run(there, tmp_path)
