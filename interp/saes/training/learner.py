"""One SAE in training: its weights, its optimiser, and what it knows of its features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.saes.training.architectures.base import Batch, Step
from interp.saes.training.encoder import Precision, encoder_on
from interp.saes.training.plan import SAEPlan, Training
from interp.saes.training.processes import Ranks
from interp.saes.training.sources import SiteRows

CLIP = 1.0  # norm that all gradients together are cut to
DECODER_NORM = 0.1  # of the first directions (Anthropic, April 2024, as in sae-lens)
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Outcome:
    """What a step on a batch was like; `step` and `batch` are this rank's.

    `told`: the losses in the step's order, the norm of the gradients and how often features fired, over all ranks. They
    stay where they were computed until somebody reads them.
    """

    step: Step
    batch: Batch
    told: Float[Tensor, " number"]

    @cached_property
    def _told(self) -> list[float]:
        return self.told.tolist()

    @property
    def losses(self) -> dict[str, float]:
        """The losses by name."""
        return dict(zip(self.step.losses, self._told, strict=False))

    @property
    def gradient_norm(self) -> float:
        """The norm of all gradients together, before they were cut."""
        return self._told[-2]

    @property
    def l0(self) -> float:
        """Active features a row."""
        return self._told[-1] / self.batch.rows


@dataclass(frozen=True)
class Start:
    """Where training of one SAE begins: weights by name, what rows are multiplied by before they are read and
    reconstructed, and the mean norm of the rows that it reads."""

    weights: dict[str, Tensor]
    scale: float = 1.0
    scale_out: float = 1.0
    mean_norm: float | None = None


def fresh(plan: SAEPlan, first: SiteRows, seed: int) -> Start:
    """Random directions in the decoder, the same in the encoder (others in a transcoder's), the mean in its bias.

    Residual streams are far from centred: from a bias of zero, hundreds of steps go into finding their mean. Scales and
    mean are those of the `first` rows.
    """
    read, wanted = first[plan.site], first[plan.site_out or plan.site]
    scale, scale_out = (_scale(rows) if plan.normalize != "none" else 1.0 for rows in (read, wanted))
    generator = torch.Generator().manual_seed(seed)

    def directions(d: int) -> Tensor:
        drawn = torch.randn(plan.d_sae, d, generator=generator)
        return DECODER_NORM * drawn / drawn.norm(dim=1, keepdim=True)

    W_dec = directions(wanted.shape[1])
    W_enc = W_dec.clone() if plan.site_out is None else directions(read.shape[1])
    each = {n: torch.full((plan.d_sae,), start) for n, start in plan.kind.per_feature(plan.settings).items()}
    weights = {"W_enc": W_enc, "W_dec": W_dec, "b_dec": wanted.mean(0) * scale_out} | each
    return Start(weights, scale, scale_out, _mean_norm(read))


class Learner:
    """Weights and optimiser of one SAE, and for each feature the steps since it fired."""

    def __init__(
        self, plan: SAEPlan, training: Training, start: Start, device: torch.device, precision: Precision, ranks: Ranks
    ) -> None:
        self.plan, self.training, self.device, self.ranks = plan, training, device, ranks
        self.scale, self.scale_out, self.mean_norm = start.scale, start.scale_out, start.mean_norm
        weights = {name: tensor.clone().to(device) for name, tensor in start.weights.items()}
        self.parameters = {n: torch.nn.Parameter(t, requires_grad=False) for n, t in weights.items()}
        self.buffers = {n: torch.zeros((), dtype=torch.float64, device=device) for n in plan.kind.buffers}
        self.optimizer = torch.optim.Adam(self.parameters.values(), fused=True)  # `learn` sets the rate
        for parameter in self.parameters.values():
            moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
            self.optimizer.state[parameter] = moments | {"step": torch.tensor(0.0, device=device)}
        self.encoder = encoder_on(device, precision)
        self.silent = torch.zeros(plan.d_sae, dtype=torch.int64, device=device)  # steps since each fired
        self.fired = torch.zeros(plan.d_sae, dtype=torch.int64, device=device)  # rows since the last report
        self.seen = 0  # rows since the last report

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights as plain tensors."""
        return {name: parameter.data for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def learn(self, rows: SiteRows, step: int) -> Outcome:
        """One step of training on this rank's `rows`."""
        batch = self._batch(rows, step)
        done = self._step(batch)
        gradients = [done.gradients[name] for name in self.parameters]
        fired = done.code.fired(done.values)
        losses = torch.stack([loss.double() for loss in done.losses.values()])
        self.ranks.add(*gradients, fired, losses)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), CLIP)
        self.optimizer.param_groups[0]["lr"] = self.training.lr_at(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for name, least in self.plan.kind.not_below.items():
            self.parameters[name].data.clamp_(min=least)
        self.buffers = {**self.buffers, **done.buffers}
        self.silent = torch.where(fired > 0, 0, self.silent + 1)
        self.fired += fired
        self.seen += batch.rows
        if self.plan.kind.revives == "resampling" and self.training.resamples_at(step):
            self.resample(batch, done, step)
        return Outcome(done, batch, torch.cat([losses, torch.stack([norm.double(), fired.sum().double()])]))

    @torch.no_grad()
    def step_on(self, rows: SiteRows, step: int) -> Step:
        """Losses and reconstruction of `rows` without learning from them."""
        return self._step(self._batch(rows, step))

    def _step(self, batch: Batch) -> Step:
        return self.plan.kind.step(self.weights, self.buffers, batch, self.plan.settings)

    def _batch(self, rows: SiteRows, step: int) -> Batch:
        x = rows[self.plan.site].to(self.device) * self.scale
        out = self.plan.site_out
        return Batch(
            x=x,
            y=x if out is None else rows[out].to(self.device) * self.scale_out,
            rows=len(x) * self.ranks.count,
            encoder=self.encoder,
            dead=self.dead,
            warm=self.training.warm_at(step),
            centred=out is None,
            ranks=self.ranks,
        )

    @property
    def dead(self) -> Tensor:
        """Which features have not fired for so long that they count as dead."""
        return self.silent > self.training.dead_after

    def resample(self, batch: Batch, done: Step, step: int) -> None:
        """Give dead features the rows that are reconstructed worst: Bricken et al. 2023, "Neuron resampling".

        Rows are drawn with a chance that rises as their squared error squared. A feature's decoder becomes the row's
        direction, its encoder that times a fifth of the living encoders' mean norm, its bias zero, and Adam forgets it.
        """
        ids = self.dead.nonzero().flatten()
        if not len(ids):
            return
        errors = self._whole(done.error.square().sum(1, keepdim=True)).flatten().double().square().cpu()
        reads, writes = map(self._whole, (batch.inputs(self.weights), batch.y - self.weights["b_dec"]))
        generator = torch.Generator().manual_seed(self.training.seed + 1_000_003 * (step + 1))
        chosen = torch.multinomial(
            errors, len(ids), replacement=len(ids) > int((errors > 0).sum()), generator=generator
        )
        weights, chosen = self.weights, chosen.to(self.device)
        norms = weights["W_enc"].norm(dim=1)
        living = norms[~self.dead]
        length = 0.2 * (living.mean() if len(living) else norms.mean())
        for name, rows, norm in (("W_enc", reads, length), ("W_dec", writes, weights["W_dec"].norm(dim=1).mean())):
            weights[name][ids] = torch.nn.functional.normalize(rows[chosen], dim=1) * norm
        for name, start in self.plan.kind.per_feature(self.plan.settings).items():
            weights[name][ids] = start
        for name, parameter in self.parameters.items():
            if name != "b_dec":
                for moment in MOMENTS:
                    self.optimizer.state[parameter][moment][ids] = 0.0
        self.silent[ids] = 0

    def _whole(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "all d"]:
        """The rows of the whole batch in its order, of which rank r of n has every n-th, beginning with r."""
        parts = self.ranks.gather(rows.flatten()).view(self.ranks.count, len(rows), rows.shape[1])
        return parts.transpose(0, 1).reshape(-1, rows.shape[1])

    def report(self) -> dict[str, Any]:
        """What features did since the last report: the share dead, and how many fire how often."""
        rate = self.fired.double() / max(1, self.seen)
        edges = torch.tensor([0.0, *(10.0**e for e in range(-6, 0))], dtype=torch.float64, device=rate.device)
        counts = torch.bincount(torch.bucketize(rate, edges), minlength=len(edges) + 1).tolist()
        self.fired.zero_()
        self.seen = 0
        names = ("never", *(f"<=1e{e}" for e in range(-6, 0)), "more")
        return {
            "dead_share": float(self.dead.double().mean()),
            "features_by_rate": dict(zip(names, counts, strict=True)),
        }

    def tensors(self) -> dict[str, Tensor]:
        """All that decides what comes next, by name."""
        found: dict[str, Tensor] = {"silent": self.silent, "fired": self.fired}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            found |= {f"weight.{name}": parameter.data} | {f"{moment}.{name}": state[moment] for moment in MOMENTS}
        return found | {f"buffer.{name}": value for name, value in self.buffers.items()}

    def numbers(self) -> dict[str, Any]:
        """The rest of it, ready for JSON."""
        scales = {"scale": self.scale, "scale_out": self.scale_out, "mean_norm": self.mean_norm}
        return {**scales, "seen": self.seen, "encoder": self.encoder.numbers()}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], step: int) -> None:
        """Continue from what `tensors` and `numbers` gave after `step` steps; the weights are there already."""
        self.silent, self.fired = (tensors[name].clone().to(self.device) for name in ("silent", "fired"))
        for name, parameter in self.parameters.items():
            for moment in MOMENTS:
                self.optimizer.state[parameter][moment].copy_(tensors[f"{moment}.{name}"])
            self.optimizer.state[parameter]["step"].fill_(step)
        self.buffers = {name: tensors[f"buffer.{name}"].clone().to(self.device) for name in self.buffers}
        self.seen = numbers["seen"]
        self.encoder.restore(numbers["encoder"])


def start_of(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Start:
    """The start that a learner's `tensors` and `numbers` hold."""
    weights = {name.removeprefix("weight."): t for name, t in tensors.items() if name.startswith("weight.")}
    return Start(weights, numbers["scale"], numbers["scale_out"], numbers["mean_norm"])


def _scale(rows: Float[Tensor, "row d"]) -> float:
    """What makes the mean norm sqrt(d)."""
    if not (norm := _mean_norm(rows)):
        raise UserError("all rows are zero; expected activations; choose another site")
    return sqrt(rows.shape[1]) / norm


def _mean_norm(rows: Float[Tensor, "row d"]) -> float:
    return float(rows.norm(dim=1).double().mean())
