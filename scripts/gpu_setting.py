"""What the steps of `gpu_check.py` share: where they run and how large, clocks, models and SAEs of random numbers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
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
