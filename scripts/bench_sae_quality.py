"""What our training learns beside what sae-lens' trainer learns: `python scripts/bench_sae_quality.py`.

The same rows of the bundled model in the same batches, the same number of steps, learning rate, width and k; each from
its own first weights of the same seed. Measured on held-out documents: explained variance and loss recovered, at the
number of active features that each came to. Rows are captured to memory first; 15 minutes on two cores.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import SAE, SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer

from interp import load_model
from interp.activations.rows import capture_rows
from interp.cli.terminal import print_table
from interp.saes.evaluate import evaluate_saes
from interp.saes.loading.default import default_site
from interp.saes.training.learner import Learner, fresh
from interp.saes.training.plan import SAEPlan, Training, plan_sae
from interp.saes.training.processes import Ranks
from interp.saes.training.save import as_sae_lens
from interp.saes.training.sources import Batches, MemoryRows
from interp.text.corpus import split_corpus

Kind = Literal["topk", "batchtopk", "jumprelu", "standard", "gated"]


@dataclass(frozen=True)
class Settings:
    """What to compare."""

    kinds: tuple[Kind, ...] = ("topk", "batchtopk", "jumprelu", "standard")
    """Architectures."""
    steps: int = 2000
    """Steps of training."""
    batch: int = 512
    """Rows of a step."""
    width: int = 2304
    """Number of features."""
    lr: float = 1e-3
    """Adam's learning rate, falling to a tenth over the last fifth."""
    tokens: int = 150_000
    """Tokens of text to train on; rows are repeated."""
    held_out: int = 8000
    """Tokens of held-out text to measure on."""
    seed: int = 0
    """Seed."""


OWN: dict[str, dict[str, Any]] = {
    "topk": {"k": 32},
    "batchtopk": {"k": 32},
    "jumprelu": {"l0_coefficient": 0.5},
    "standard": {"l1_coefficient": 2.0},
    "gated": {"l1_coefficient": 2.0},
}


def main(settings: Settings) -> None:
    model = load_model("smollm2-135m")
    site = default_site(model)
    train, held_out = split_corpus()
    rows = capture_rows(model, train, site, max_tokens=settings.tokens)
    source = MemoryRows(rows, model)
    training = Training(settings.steps, settings.batch, settings.lr, dead_after=500, seed=settings.seed)
    table = []
    for kind in settings.kinds:
        plan = plan_sae(site, kind, settings.width, **OWN[kind])
        pair = {"interp": learn(plan, source, training), "sae-lens": learn_theirs(plan, source, training)}
        reports = evaluate_saes(list(pair.values()), model, held_out, max_tokens=settings.held_out)
        for name, report in zip(pair, reports, strict=True):
            variance, recovered = report.explained_variance, report.ce_recovered
            told = f"{recovered.mean:.4f} [{recovered.low:.3f}, {recovered.high:.3f}]" if recovered else "-"
            table.append(
                (kind, name, f"{report.l0:.1f}", f"{variance.mean:.4f} [{variance.low:.3f}, {variance.high:.3f}]", told,
                 f"{report.dead_share:.1%}")
            )  # fmt: skip
            print(" ".join(table[-1]), flush=True)
    print()
    print_table(("architecture", "trainer", "L0", "explained variance", "loss recovered", "dead"), table)


def learn(plan: SAEPlan, source: MemoryRows, training: Training) -> SAE[Any]:
    """Our training, without the files."""
    batches = Batches(source, [plan.site], training.batch, training.seed)
    start = fresh(plan, batches.pool(), training.seed)
    learner = Learner(plan, training, start, torch.device("cpu"), "fp32", Ranks())
    for step in range(training.steps):
        learner.learn(batches.next(), step)
    metadata = source.lineage(plan.site)
    return as_sae_lens(plan, learner.weights, learner.buffers, (learner.scale, learner.scale_out), metadata)


def learn_theirs(plan: SAEPlan, source: MemoryRows, training: Training) -> SAE[Any]:
    """sae-lens' trainer on the same batches, scaled by the same factor."""
    torch.manual_seed(training.seed)
    cls, config = get_sae_training_class(plan.architecture)
    batches = Batches(source, [plan.site], training.batch, training.seed)
    d_in = batches.pool()[plan.site].shape[1]
    sae: Any = cls(
        config(d_in=d_in, d_sae=plan.d_sae, metadata=SAEMetadata(**source.lineage(plan.site)), **OWN[plan.architecture])
    )
    lr = training.lr or 1e-3
    cfg = SAETrainerConfig(
        total_training_samples=training.steps * training.batch,
        train_batch_size_samples=training.batch,
        lr=lr,
        lr_end=lr / 10,
        lr_decay_steps=training.steps // 5,
        dead_feature_window=training.dead_after,
    )
    trainer = SAETrainer(cfg, sae, iter(()))
    scale = d_in**0.5 / float(batches.pool()[plan.site].norm(dim=1).double().mean())
    trainer.activation_scaler.scaling_factor = scale
    for _ in range(training.steps):
        trainer.step(batches.next()[plan.site])
        trainer.n_training_steps += 1
    sae.fold_activation_norm_scaling_factor(scale)
    state = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    settings = copy.deepcopy(sae.cfg.get_inference_sae_cfg_dict())
    made = SAE.from_dict(settings)
    made.load_state_dict(state)
    return made.eval()


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
