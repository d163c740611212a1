"""Which device, and what happens to a model that moves: faults that were met, each with a test that finds it again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_gpu import CARDS
from test_pretend_calls import SPREAD, on

from interp import Model, load_model, with_random_weights
from interp.activations.capture import capture_store
from interp.activations.plan import kernels as kernels_of_capture
from interp.activations.plan import plan_capture
from interp.errors import UserError
from interp.model.hooks import compiled as compiled_module
from interp.model.loading.device import card_memory, multiplies_bf16, pick_device
from interp.model.loading.doctor import check_machine
from interp.saes.training.checkpoint import kernels
from interp.saes.training.encoder import GPUEncoder, Weights, choose_precision
from interp.saes.training.memory import free_bytes

pytestmark = pytest.mark.pretend
PROMPTS = ["the cat sat", "a dog ran far"]
SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def an_old_card() -> Iterator[None]:
    """A T4: compute capability 7.5, without bfloat16."""
    before = CARDS.major, CARDS.minor
    CARDS.major, CARDS.minor = 7, 5
    yield
    CARDS.major, CARDS.minor = before


def hooked(model: Model) -> torch.Tensor:
    """The logits as the hooked tree computes them."""
    with model.tree.hooked_only():
        return model.last_logits(PROMPTS).cpu()


# ---- a model that moves


@pytest.mark.parametrize(
    "architecture",
    ["gpt2", "llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt_neox", "gemma2", "mpt"))],
)
def test_a_model_that_moves_is_followed(architecture: str, make_tiny: Any) -> None:
    """Captured on the CPU, moved to a card, and back: what was built of it before computes where it is now."""
    model = make_tiny(architecture)
    here = model.capture(PROMPTS, SITE)[SITE]
    for device in ("cuda:0", "cuda:1", "cpu"):
        model.hf.to(device)
        there = model.capture(PROMPTS, SITE)[SITE]
        assert there.device == torch.device(device)
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_weights_changed_on_the_card_are_those_of_the_hooks(tiny_folder: Path) -> None:
    """Hooks built on the CPU, the model moved, trained there and moved back: both say the new numbers."""
    model = load_model(tiny_folder, "cpu")
    before = hooked(model)
    model.hf.to("cuda")  # type: ignore[arg-type]
    weight: Any = model.hf.get_submodule("transformer.h.0.attn.c_attn").weight
    with torch.no_grad():
        weight.mul_(3)
    model.hf.to("cpu")  # type: ignore[arg-type]
    plain, through_hooks = model.last_logits(PROMPTS), hooked(model)
    assert float((plain - before).abs().max()) > 0.01
    torch.testing.assert_close(through_hooks, plain, rtol=1e-4, atol=1e-5)


# ---- which device


def test_a_process_of_torchrun_takes_its_own_card(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert pick_device("cuda") == pick_device(None) == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")
    assert load_model(tiny_folder, "cuda").device == torch.device("cuda:1")
    with pytest.raises(UserError, match="came under torchrun, where all 8 processes would use that card"):
        pick_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="which has 2 cards; start one process a card: torchrun --nproc-per-node 2"):
        pick_device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "two")
    with pytest.raises(UserError, match="LOCAL_RANK='two' in the environment; expected numbers"):
        pick_device("cuda")


def test_auto_spreads_a_model_over_all_cards(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole blocks on each; what it gives is on the first. Under torchrun each process has its one card."""
    here, there = load_model(tiny_folder, "cpu"), load_model(tiny_folder, "auto")
    assert {str(p.device) for p in there.hf.parameters()} == {"cuda:0", "cuda:1"}
    assert there.provenance.device == "cuda:0 (Pretend GPU), cuda:1 (Pretend GPU)"
    acts = there.capture(PROMPTS, "*")
    assert {tensor.device for tensor in acts.tensors.values()} == {torch.device("cuda:0")}
    for site, tensor in here.capture(PROMPTS, "*").items():
        torch.testing.assert_close(acts[site].cpu(), tensor, rtol=1e-4, atol=1e-4, equal_nan=True)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert load_model(tiny_folder, "auto").device == torch.device("cuda:1")


def test_a_model_that_does_not_fit_all_cards_is_refused(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers would leave the rest in main memory or on a disk, where hooks do not reach it."""
    monkeypatch.setattr(CARDS, "total_memory", 30_000)
    with pytest.raises(UserError, match=r"not in memory .*: it was loaded with offload to a disk or to the CPU"):
        load_model(tiny_folder, "auto")


def test_a_model_that_does_not_fit_its_card_is_one_line(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand many more lines")

    monkeypatch.setattr("interp.model.loading.load.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(UserError, match=r"does not fit: CUDA out of memory. Tried to allocate 2 GiB.; load it in bf16"):
        load_model(tiny_folder, "cuda")
    monkeypatch.setattr(CARDS, "total_memory", 500_000_000)
    (note,) = {(check.state, check.found[-75:]) for check in check_machine() if check.what.startswith("cuda")}
    assert note == ("note", "in fp32, 0.23 in bf16; the bundled model in fp32 takes 0.5 GB: --device cpu")


@pytest.mark.parametrize(("device", "backend", "own"), [("cpu", "gloo", None), ("cuda", "nccl", "cuda:1")])
def test_torchruns_processes_talk_by_what_the_device_asks_for(
    device: str, backend: str, own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.cli import train
    from interp.saes.training import processes

    asked: list[Any] = []
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", asked.append)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda card: asked.append(str(card)))
    monkeypatch.setattr(processes, "Together", lambda: "together")
    options = train.SAETrainOptions(out=Path("out"), device=device)
    with train._together(options) as ranks:
        assert ranks == "together"
    assert asked == [*([own] if own else []), backend], "its card is chosen before the group is made"
    asked.clear()
    with train._together(train.SAETrainOptions(out=Path("out"), device=device, split="saes")) as ranks:
        assert (ranks.rank, ranks.count) == (1, 2)
    assert asked == [], "processes that share nothing need no group"


def test_bfloat16_is_for_cards_that_have_it(an_old_card: None) -> None:
    assert torch.cuda.is_bf16_supported(), "the control: torch says that it can, and emulates"
    assert not multiplies_bf16(torch.device("cuda"))
    assert choose_precision("auto", torch.device("cuda:1")) == "fp32"


def test_bfloat16_is_taken_where_it_is() -> None:
    assert choose_precision("auto", torch.device("cuda")) == "bf16"


def test_sums_of_a_bfloat16_product_are_made_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that its candidates reach far enough takes that for granted; the setting is put back."""
    settings, product, seen = torch.backends.cuda.matmul, torch.addmm, []

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        if args[1].dtype == torch.bfloat16:
            seen.append(settings.allow_bf16_reduced_precision_reduction)
        return product(*args, **kwargs)

    monkeypatch.setattr(torch, "addmm", watched)
    before = settings.allow_bf16_reduced_precision_reduction
    x, W = torch.randn(8, 4, device="cuda"), torch.randn(64, 4, device="cuda")
    GPUEncoder("bf16").top_k(x, Weights(W, torch.zeros(64, device="cuda")), 3)
    assert seen == [False]
    assert settings.allow_bf16_reduced_precision_reduction == before


def test_memory_that_torch_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CARDS, "in_use", 10 << 30)
    monkeypatch.setattr(CARDS, "cached", 30 << 30)
    assert free_bytes(torch.device("cuda")) == card_memory(torch.device("cuda:1"))[0] == 70 << 30


def test_what_decides_the_last_bits_is_recorded() -> None:
    before = kernels(torch.device("cuda"))
    assert {"device", "torch", "cuda", "tf32", "bf16_sums"} == set(before)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert kernels(torch.device("cuda")) != before
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_the_doctor_shows_every_card(an_old_card: None) -> None:
    shown = {check.what: check.found for check in check_machine() if check.what.startswith("cuda")}
    assert list(shown) == ["cuda:0", "cuda:1"]
    assert "Pretend GPU" in shown["cuda:1"]
    assert "of 86 GB free; no bf16 of its own" in shown["cuda:1"]
    assert "room for 19 billion weights in fp32, 39 in bf16" in shown["cuda:1"]


# ---- a model over two cards


def test_a_plan_names_every_kind_of_card(tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = on(SPREAD, tiny_gpt2)
    name = torch.cuda.get_device_name(0)
    assert kernels_of_capture(spread.hf) == {"device": name, "threads": None}
    names = {0: "Old card", 1: "New card"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[torch.device(device).index])
    assert kernels_of_capture(spread.hf)["device"] == "Old card and New card"


def test_random_weights_lie_where_the_model_lies(tiny_gpt2: Model) -> None:
    there = {name: p.device for name, p in on(SPREAD, tiny_gpt2).hf.named_parameters()}
    assert len(set(there.values())) == 2, "the control"
    untrained = with_random_weights(on(SPREAD, tiny_gpt2))
    assert {name: p.device for name, p in untrained.hf.named_parameters()} == there
    assert (
        untrained.last_logits(PROMPTS).cpu() - with_random_weights(tiny_gpt2).last_logits(PROMPTS)
    ).abs().max() < 1e-4


def test_a_compiled_capture_runs_over_two_cards(
    tiny_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compiled is noted and not compiled: torch's compiler knows no pretended card."""
    noted: list[Any] = []

    def note(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            made = function(*args, **kwargs)
            noted.append(made[0].device if isinstance(made, tuple) else made.device)
            return made

        return run

    monkeypatch.setattr(compiled_module, "_compile", note)
    rows = []
    for model in (tiny_gpt2, on(SPREAD, tiny_gpt2)):
        plan, tokens = plan_capture(model, PROMPTS, "blocks.*.hook_resid_post", compiled=True)
        rows.append(capture_store(model, tmp_path / str(len(rows)), plan, tokens).rows(SITE)[:])
    torch.testing.assert_close(*map(torch.as_tensor, rows), rtol=0, atol=1e-5)
    assert {device.index for device in noted if device.type == "cuda"} == {0, 1}, "blocks of both cards ran compiled"


# ---- Apple's GPUs, which have no float64: in a process of its own, for cards are of one kind

ON_APPLES = """
import sys
sys.path.insert(0, sys.argv[1])
import pretend_gpu
pretend_gpu.install(kind="mps")
from pathlib import Path
import torch
from interp import UserError, analysis, edits, load_model
from interp.model.checking.parity import check_parity
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.sources import ModelRows
from interp.saes.training.trainer import train
from interp.activations.plan import plan_capture
try:
    torch.zeros(1, device="mps").double()
except TypeError as error:
    assert "float64" in str(error)
else:
    raise SystemExit("the control: this GPU has float64")
here, there = load_model(sys.argv[2], "cpu"), load_model(sys.argv[2], "mps")
prompts, site = ["the cat sat", "a dog ran far"], "blocks.0.hook_resid_post"
pairs, metric = ([[1, 2, 3]], [[1, 4, 3]]), analysis.logit_difference([3], [4])
def steered(m):
    with m.edit({site: edits.steer(torch.ones(m.d_model), 2.0)}) as receipts:
        out = m.last_logits(prompts)
    assert receipts[site].norm_change > 1
    return out
def projected(m):
    with m.edit({site: edits.project_out(torch.ones(m.d_model).to(m.device))}):
        return m.last_logits(prompts)
for name, call in {
    "capture": lambda m: m.capture(prompts, site).last(site),
    "steer": steered,
    "project out": projected,
    "patching": lambda m: analysis.patch_sweep(m, *pairs, metric, site).effect,
    "paths": lambda m: analysis.path_patch(m, *pairs, metric, "blocks.0.attn.hook_z", "blocks.1.attn.hook_q", heads=0),
    "direct logits": lambda m: analysis.attribute_logits(m, [[1, 2, 3]], [3], [4]).effect,
    "gradients": lambda m: analysis.gradients_of(m, [[1, 2, 3]], site, metric).gradients[site],
    "answers": lambda m: analysis.score_answers(m, prompts, [" one", " two"]).summed,
}.items():
    torch.testing.assert_close(call(there).cpu().float(), call(here).cpu().float(), rtol=1e-3, atol=1e-4)
    print("ok", name)
assert check_parity(there).ok
print("ok parity")
plan, ids = plan_capture(there, prompts * 40, site)
sae, rows, few = plan_sae(site, "topk", 64, k=4), ModelRows(there, plan, ids), Training(steps=2, batch=8)
try:
    train(sae, rows, Path("never"), few, device="mps")
except UserError as error:
    print("refused", error)
(written,) = train(sae, rows, Path(sys.argv[3]), few)
print("ok trained on the CPU of rows that the GPU made")
"""


@pytest.mark.slow
def test_on_an_apple_gpu_what_can_work_does(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = [str(Path(__file__).parent), str(tiny_folder), str(tmp_path / "sae")]
    done = subprocess.run([sys.executable, "-c", ON_APPLES, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("ok ") == 10
    assert "refused device 'mps' cannot train SAEs" in done.stdout
