"""How fast is this GPU, beside its own limits and the peers? Each step gives a sentence and rows, or raises."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_setting import NotHereError, Rows, Setting, in_turns, learner_of, milliseconds, prompts_of, random_model, step


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
    from interp.model.hooks.compiled import compiled
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
                with Offload(lambda where, values: None, model.hf.dtype) as offload:
                    stream(model.tree, Tokens(ids, real, torch.arange(len(ids)), len(ids)), some, offload.put)

            return run

        ways: dict[str, Callable[[], object]] = {"one site": kept(sites[-1:]), "all sites": kept(sites)}
        with nullcontext() if setting.pretend else compiled(model.tree, sites):  # a pretended GPU compiles nothing
            fast = {} if setting.pretend else in_turns({"all sites, compiled": kept(sites)}, setting)
        times = in_turns({"bare": bare, **ways}, setting) | fast
        row = {"dtype": dtype, "tokens/s bare": round(1000 * ids.numel() / times["bare"])}
        row |= {f"{name}, of bare": f"{times['bare'] / times[name]:.3f}" for name in (*ways, *fast)}
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
