"""What to train, and how: decided before the first step, and all that decides the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from math import inf, sqrt
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from interp.errors import UserError, unknown
from interp.saes.training.architectures import architecture_of
from interp.saes.training.architectures.base import Architecture
from interp.saes.training.architectures.topk import TopK

Normalize = Literal["none", "expected_average_only_in"]


@dataclass(frozen=True)
class SAEPlan:
    """One SAE: the site it reads, its width, its architecture with the settings of that.

    `site_out`: for a transcoder, the site that it reconstructs (Dunefsky et al. 2406.11944). `normalize`: scale rows to
    a mean norm of sqrt(d_in), so that learning rates and penalties mean the same at every site (Anthropic, April 2024);
    the scale is folded into the weights at the end.
    """

    site: str
    d_sae: int = 9216
    architecture: str = "topk"
    settings: Any = field(default_factory=TopK)
    site_out: str | None = None
    normalize: Normalize = "expected_average_only_in"

    def __post_init__(self) -> None:
        architecture = self.kind
        if not isinstance(self.settings, architecture.settings):
            raise UserError(
                f"{type(self.settings).__name__} came as the settings of {self.architecture}; expected a "
                f"{architecture.settings.__name__}; `plan_sae` makes both"
            )
        if self.d_sae < 1:
            raise UserError(f"width {self.d_sae}; expected 1 or more")
        for name, value in vars(self.settings).items():
            if isinstance(value, float) and not 0 <= value < inf:
                raise UserError(f"{name}={value}; expected a number of 0 or more")
            if name in ("topk_threshold_lr", "jumprelu_bandwidth", "jumprelu_tanh_scale") and value == 0:
                raise UserError(f"{name}=0; expected a number above 0")
        if getattr(self.settings, "topk_threshold_lr", 0.5) > 1:
            raise UserError(f"topk_threshold_lr={self.settings.topk_threshold_lr}; expected at most 1")
        k = getattr(self.settings, "k", 1)
        if not (1 if self.architecture == "topk" else 0.01) <= k <= self.d_sae:
            raise UserError(f"k={k} of {self.d_sae} features; expected k above 0 and far below the width")
        if self.architecture == "topk" and k != int(k):
            raise UserError(f"k={k}; expected a whole number (batchtopk takes others)")
        if hasattr(self.settings, "check_width"):
            self.settings.check_width(self.d_sae)
        if self.site_out is not None and architecture.transcodes is None:
            raise UserError(
                f"a transcoder cannot be {self.architecture}: SAELens has no class for it; expected batchtopk, "
                "matryoshka_batchtopk, jumprelu or standard"
            )
        if self.normalize not in ("none", "expected_average_only_in"):
            raise UserError(f"normalize {self.normalize!r}; expected none or expected_average_only_in")

    @property
    def kind(self) -> Architecture:
        """The architecture."""
        return architecture_of(self.architecture)

    @property
    def sites(self) -> list[str]:
        """The site read and, for a transcoder, the one reconstructed."""
        return [self.site] if self.site_out is None else [self.site, self.site_out]

    @property
    def name(self) -> str:
        """A name for a folder: `blocks.14.hook_resid_post-topk-9216-k32`."""
        k = f"-k{self.settings.k:g}" if hasattr(self.settings, "k") else ""
        out = f"-to-{self.site_out}" if self.site_out else ""
        return f"{self.site}{out}-{self.architecture}-{self.d_sae}{k}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        record = asdict(self)
        record["settings"] = {k: list(v) if isinstance(v, tuple) else v for k, v in record["settings"].items()}
        return record


def plan_sae(
    site: str,
    architecture: str = "topk",
    d_sae: int = 9216,
    *,
    site_out: str | None = None,
    normalize: Normalize = "expected_average_only_in",
    **settings: Any,
) -> SAEPlan:
    """An SAE to train, with an architecture's settings by name: `plan_sae(site, "topk", 9216, k=32)`.

    Raises UserError for an unknown architecture or setting, with the nearest names, and for numbers that cannot be.
    """
    kind = architecture_of(architecture).settings
    known = [f.name for f in fields(kind)]
    for name in settings:
        if name not in known:
            raise unknown("setting", name, known, f"of {architecture}, which has {', '.join(known)}")
    return SAEPlan(site, d_sae, architecture, kind(**settings), site_out, normalize)


def read_settings(architecture: str, texts: Sequence[str]) -> dict[str, Any]:
    """`["l1_coefficient=2"]` as an architecture's settings, each read as what its field is."""
    kind = architecture_of(architecture).settings
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name == "k":
            raise UserError(f"--set {text}; expected k by its own flag; write --k {value}")
        if name not in hints:
            raise unknown("setting", name, hints, f"of {architecture}, which has {', '.join(hints)}")
        try:
            found[name] = _read_value(value, hints[name])
        except ValueError as error:
            raise UserError(f"setting {text}; expected {name}= and {_in_words(hints[name])}") from error
    return found


def _read_value(text: str, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(int(part) for part in text.split(","))
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(text)
        return text
    if kind is bool:
        return (
            {"true": True, "false": False}.get(text.lower()) if text.lower() in ("true", "false") else bool(int(text))
        )
    return int(text) if kind is int else float(text)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "whole numbers parted by commas"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return {bool: "true or false", int: "a whole number"}.get(kind, "a number")


@dataclass(frozen=True)
class Training:
    """How long and how fast. Adam with betas of .9 and .999, gradients clipped to a norm of 1, as sae-lens."""

    steps: int = 1000
    """Training steps."""
    batch: int = 1024
    """Rows of a step, over all processes. Of few million rows, small batches learn more; a GPU is busy with 4,096
    (`usual_batch`)."""
    lr: float | None = None
    """Adam's learning rate; falls to a tenth over the last fifth of the steps. None: .035 / sqrt(steps), 3e-3 at most,
    which was best, or near it, on the bundled model at 140 to 1,160 steps and widths of 2,304 and 4,608."""
    lr_warm_up: int = 0
    """Steps over which the learning rate rises from zero."""
    sparsity_warm_up: int = 0
    """Steps over which a sparsity penalty rises from zero."""
    dead_after: int = 1000
    """Steps without firing after which a feature counts as dead."""
    resample_every: int | None = None
    """Steps between resamplings of dead features (standard, gated; Bricken et al. 2023); by default at each quarter of
    training but the last."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What latents are looked for in; what is found is fp32's. auto: bf16 where the processor multiplies it."""
    seed: int = 0
    """Decides the first weights and the order of rows."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("lr_warm_up", 0), ("sparsity_warm_up", 0), ("dead_after", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}; expected {least} or more")
        if self.lr is not None and not 0 < self.lr < 1:
            raise UserError(f"lr={self.lr}; expected a number between 0 and 1")
        if not 0 <= self.seed < 1 << 62:
            raise UserError(f"seed={self.seed}; expected 0 to 2**62 - 1")
        if self.resample_every is not None and self.resample_every < 1:
            raise UserError(f"resample_every={self.resample_every}; expected 1 or more")

    @property
    def rate(self) -> float:
        """The learning rate at its highest."""
        return min(3e-3, 0.035 / sqrt(self.steps)) if self.lr is None else self.lr

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counting from 0."""
        decay = self.steps // 5
        left = self.steps - step
        falling = 1.0 if left > decay else 0.1 + 0.9 * left / (decay + 1)
        rising = min(1.0, (step + 1) / self.lr_warm_up) if self.lr_warm_up else 1.0
        return self.rate * falling * rising

    def warm_at(self, step: int) -> float:
        """By what a sparsity penalty is multiplied."""
        return min(1.0, (step + 1) / self.sparsity_warm_up) if self.sparsity_warm_up else 1.0

    def resamples_at(self, step: int) -> bool:
        """Are dead features resampled after this step?"""
        every = self.resample_every or max(1, self.steps // 4)
        last = self.steps if self.resample_every else 3 * every
        return (step + 1) % every == 0 and step + 1 < self.steps and step + 1 <= last


def usual_batch(device: torch.device) -> int:
    """Rows of a step where nobody said: on a GPU, launching a step's kernels takes as long as 4,096 rows do."""
    return 4096 if device.type == "cuda" else 1024
