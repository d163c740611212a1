"""One training step of an SAE, beside the peers': `python scripts/bench_sae.py`.

768 -> 12,288 at k = 32 and batches of 4,096 rows, one thread. Peers are found on the path, each at its best settings:
sae-lens (with fused Adam and, in bfloat16, its autocast), dictionary_learning, sparsify. A step is all that the
peer's own trainer does: loss, gradients, clipping, Adam, counting what fired. Before anything is timed, every
contender computes the loss and the decoder's gradient of the same weights on the same rows, and all must agree. Then
they take turns, and the best of the rounds counts. The limit is the encoder's product alone, which is printed too.

    pip install --target peers --no-deps eai-sparsify dictionary-learning natsort simple-parsing schedulefree nnsight …
    PYTHONPATH=peers python scripts/bench_sae.py
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")

import torch
import tyro
from torch import Tensor

from interp.saes.training.encoder import Precision
from interp.saes.training.learner import Learner, Start
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.processes import Ranks

SITE = "blocks.0.hook_resid_post"
Kind = Literal["topk", "batchtopk", "jumprelu", "standard", "gated"]


@dataclass(frozen=True)
class Settings:
    """What to time."""

    d_in: int = 768
    """Width of a row."""
    d_sae: int = 12_288
    """Number of features."""
    k: int = 32
    """Features active at a token; penalties and thresholds of the others are set so that about as many are."""
    batch: int = 4096
    """Rows of a step."""
    rounds: int = 3
    """How often each is timed."""
    threads: int = 1
    """Threads."""
    kinds: tuple[Kind, ...] = ("topk", "batchtopk", "jumprelu", "standard", "gated")
    """Architectures."""


@dataclass(frozen=True)
class Contender:
    """Somebody's training step. `check` gives the loss and W_dec's gradient [d_sae, d_in] without taking a step."""

    name: str
    step: Callable[[], object]
    check: Callable[[], tuple[float, Tensor]]


@dataclass(frozen=True)
class Problem:
    """The rows and weights that everybody starts from: W_enc and W_dec [d_sae, d_in], unit directions."""

    x: Tensor
    W: Tensor
    bias: float
    settings: Settings

    @property
    def threshold(self) -> float:
        """What JumpReLU starts at, with a bias of zero."""
        return -self.bias

    def settings_of(self, kind: Kind) -> dict[str, Any]:
        """An architecture's settings, by the names that sae-lens has for them."""
        if kind == "jumprelu":
            return {"jumprelu_init_threshold": self.threshold, "jumprelu_bandwidth": 0.05, "l0_coefficient": 0.01}
        return {"k": self.settings.k} if kind in ("topk", "batchtopk") else {"l1_coefficient": 0.01}


def pose(settings: Settings) -> Problem:
    """Rows that are sums of a few directions and noise, as activations are; a bias at which k features are active."""
    generator = torch.Generator().manual_seed(0)
    W = torch.nn.functional.normalize(torch.randn(settings.d_sae, settings.d_in, generator=generator), dim=1)
    chosen = torch.randint(settings.d_sae, (settings.batch, 16), generator=generator)
    x = W[chosen].sum(1) * 4 + torch.randn(settings.batch, settings.d_in, generator=generator) * 0.7
    some = (x[:256] @ W.T).flatten()
    bias = -float(some.topk(settings.k * 256).values.min())
    return Problem(x, W, bias, settings)


def ours(problem: Problem, kind: Kind, precision: Precision) -> Contender:
    """A learner's step."""
    s = problem.settings
    plan = plan_sae(SITE, kind, s.d_sae, normalize="none", **problem.settings_of(kind))
    weights = {"W_enc": problem.W.clone(), "W_dec": problem.W.clone(), "b_dec": torch.zeros(s.d_in)}
    for name, value in plan.kind.per_feature(plan.settings).items():
        weights[name] = torch.full((s.d_sae,), value)
    if kind in ("standard", "gated"):
        weights["b_enc" if kind == "standard" else "b_gate"].fill_(problem.bias)
        if kind == "gated":
            weights["b_mag"].fill_(problem.bias)
    training = Training(steps=10_000, batch=s.batch, lr=1e-6)
    learner = Learner(plan, training, Start(weights), torch.device("cpu"), precision, Ranks())
    rows, steps = {SITE: problem.x}, iter(range(10_000))

    def check() -> tuple[float, Tensor]:
        done = learner.step_on(rows, 0)
        return float(sum(done.losses.values())), done.gradients["W_dec"]  # type: ignore[arg-type]

    return Contender(f"interp {precision}", lambda: learner.learn(rows, next(steps)), check)


def sae_lens(problem: Problem, kind: Kind, autocast: bool) -> Contender:
    """sae-lens' trainer; its Adam made the fused one, which is faster."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.training.sae_trainer import SAETrainer

    s = problem.settings
    cls, config = get_sae_training_class(kind)
    sae: Any = cls(config(d_in=s.d_in, d_sae=s.d_sae, **problem.settings_of(kind)))
    with torch.no_grad():
        sae.W_enc.copy_(problem.W.T)
        sae.W_dec.copy_(problem.W)
        if kind == "standard":
            sae.b_enc.fill_(problem.bias)
        if kind == "gated":
            sae.b_gate.fill_(problem.bias)
            sae.b_mag.fill_(problem.bias)
    total = 10_000 * s.batch
    cfg = SAETrainerConfig(
        total_training_samples=total, train_batch_size_samples=s.batch, lr=1e-6, lr_end=1e-7, autocast=autocast
    )
    trainer = SAETrainer(cfg, sae, iter(()))
    trainer.optimizer = torch.optim.Adam(sae.parameters(), lr=1e-6, fused=True)

    def check() -> tuple[float, Tensor]:
        coefficients = {name: c.value for name, c in sae.get_coefficients().items()}
        given = TrainStepInput(problem.x, coefficients, None, 0, False)
        out = sae.training_forward_pass(given)
        out.loss.backward()
        gradient = sae.W_dec.grad.clone()
        sae.zero_grad()
        return float(out.loss.detach()), gradient

    return Contender(f"sae-lens{' bf16 autocast' if autocast else ''}", lambda: trainer.step(problem.x), check)


def dictionary_learning(problem: Problem, kind: Kind) -> Contender | None:
    """dictionary_learning's trainer. Its JumpReLU penalty is another, so only the squared error is compared there."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer  # pyright: ignore[reportMissingImports]
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer  # pyright: ignore[reportMissingImports]
    from dictionary_learning.trainers.top_k import TopKTrainer  # pyright: ignore[reportMissingImports]

    s = problem.settings
    common: dict[str, Any] = {
        "steps": 10_000,
        "activation_dim": s.d_in,
        "dict_size": s.d_sae,
        "layer": 0,
        "lm_name": "x",
    }
    common |= {"lr": 1e-6, "device": "cpu", "warmup_steps": 0}
    if kind in ("topk", "batchtopk"):
        maker: Any = TopKTrainer if kind == "topk" else BatchTopKTrainer
        trainer = maker(**common, k=s.k)
    elif kind == "jumprelu":
        trainer = JumpReluTrainer(**common, bandwidth=0.05, sparsity_warmup_steps=None)
    else:
        return None
    ae = trainer.ae
    with torch.no_grad():
        if kind == "jumprelu":
            ae.W_enc.copy_(problem.W.T)
            ae.W_dec.copy_(problem.W)
            ae.threshold.fill_(problem.threshold)
            trainer.sparsity_coefficient = 0.0
        else:
            ae.encoder.weight.copy_(problem.W)
            ae.decoder.weight.copy_(problem.W.T)
            ae.encoder.bias.zero_()

    def check() -> tuple[float, Tensor]:
        loss = trainer.loss(problem.x, step=1)
        loss.backward()
        gradient = ae.W_dec.grad.clone() if kind == "jumprelu" else ae.decoder.weight.grad.T.clone()
        ae.zero_grad()
        return float(loss.detach()), gradient

    def step() -> object:
        trainer.update(1, problem.x)  # step 0 would look for a median
        return None

    return Contender("dictionary_learning", step, check)


def sparsify(problem: Problem) -> Contender:
    """Sparsify's coder, with fused Adam and clipping; its loss is divided by the variance, which is undone."""
    from sparsify.config import SparseCoderConfig  # pyright: ignore[reportMissingImports]
    from sparsify.sparse_coder import SparseCoder  # pyright: ignore[reportMissingImports]

    s = problem.settings
    coder = SparseCoder(s.d_in, SparseCoderConfig(num_latents=s.d_sae, k=s.k, normalize_decoder=False))
    with torch.no_grad():
        coder.encoder.weight.copy_(problem.W)
        coder.W_dec.copy_(problem.W)  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-6, fused=True)
    variance = (problem.x - problem.x.mean(0)).square().sum()

    def check() -> tuple[float, Tensor]:
        loss = coder(problem.x).fvu * variance / s.batch
        loss.backward()
        gradient = coder.W_dec.grad.clone()  # type: ignore[union-attr]
        coder.zero_grad()
        return float(loss.detach()), gradient

    def step() -> None:
        out = coder(problem.x)
        out.fvu.backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        fired = torch.zeros(s.d_sae, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True

    return Contender("sparsify", step, check)


def contenders(problem: Problem, kind: Kind) -> list[Contender]:
    """Ours in both precisions, and every peer that is here."""
    found = [ours(problem, kind, "fp32"), ours(problem, kind, "bf16")]
    found += [sae_lens(problem, kind, autocast) for autocast in (False, True)]
    try:
        other = dictionary_learning(problem, kind)
        found += [other] if other else []
    except ImportError as error:
        print(f"  dictionary_learning is not here ({error})")
    if kind == "topk":
        try:
            found.append(sparsify(problem))
        except ImportError as error:
            print(f"  sparsify is not here ({error})")
    return found


def agree(found: list[Contender], kind: Kind) -> None:
    """Refuse to time contenders that compute something else. JumpReLU's penalties differ: gradients only there."""
    loss, gradient = found[0].check()
    for one in found[1:]:
        theirs, slope = one.check()
        off = float((slope - gradient).norm() / gradient.norm())
        limit = 1e-4
        if off > limit or (kind != "jumprelu" and abs(theirs / loss - 1) > limit):
            raise SystemExit(
                f"{one.name} computes another {kind} step: loss {theirs} against {loss}, gradient {off:.1e}"
            )


def best_of(rounds: int, steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each, the best of several rounds in which all take turns."""
    found = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds + 1):  # the first warms up and counts like any other: the best is kept
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            found[name] = min(found[name], time.perf_counter() - began)
    return found


def main(settings: Settings) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(settings.threads)
    problem = pose(settings)
    low, W_low = problem.x.bfloat16(), problem.W.bfloat16()
    products: dict[str, Callable[[], object]] = {
        "product fp32": lambda: problem.x @ problem.W.T,
        "product bf16": lambda: low @ W_low.T,
    }
    size = f"{settings.d_in} -> {settings.d_sae:,}, batch {settings.batch:,}, k {settings.k}"
    print(f"{size}, {settings.threads} thread(s), best of {settings.rounds + 1}\n")
    for kind in settings.kinds:
        found = contenders(problem, kind)
        agree(found, kind)
        seconds = best_of(settings.rounds, products | {one.name: one.step for one in found})
        print(f"{kind} (losses and gradients agree)")
        for name, value in seconds.items():
            limit = seconds["product bf16" if "bf16" in name else "product fp32"]
            mine = seconds["interp bf16" if "bf16" in name else "interp fp32"]
            five = 5 * seconds["product fp32"] / value
            print(
                f"  {name:<24} {value * 1e3:7.0f} ms {settings.batch / value:9,.0f} rows/s  {five:6.2f} of five fp32 "
                f"products  {limit / value:5.2f} of its own product  ours is {value / mine:5.2f} times as fast"
            )
        print(flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
