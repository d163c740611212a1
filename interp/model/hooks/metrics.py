"""A metric, one number a prompt of its logits, and what a metric says of itself."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.given import check_metric
from interp.model.hooks.tokens import Tokens
from interp.model.hooks.where import Where

Metric = Callable[[Float[Tensor, "prompt pos d_vocab"], Where], Float[Tensor, " prompt"]]  # one number a prompt


def told_padding(metric: Metric) -> Metric:
    """The metric, marked as one that asks `where.mask` what is padding: prompts of any length may come in one batch.

    Others get prompts of one length at a time, so that `logits[:, -1]` or a mean over positions meets no padding.
    """
    metric.is_told_padding = True  # type: ignore[attr-defined]
    return metric


def heeds_padding(metric: Metric) -> bool:
    """May prompts of different lengths come to this metric in one batch?"""
    return needs_last_only(metric) or getattr(metric, "is_told_padding", False) is True


def at_last(metric: Metric) -> Metric:
    """The metric, marked as one that reads the logits of the last token alone: the others are not computed for it."""
    metric.needs_last_only = True  # type: ignore[attr-defined]
    return metric


def needs_last_only(metric: Metric) -> bool:
    """Does the metric read the logits of the last token alone?"""
    return getattr(metric, "needs_last_only", False) is True


def apply_metric(metric: Metric, logits: Float[Tensor, "prompt pos d_vocab"], batch: Tokens) -> Tensor:
    """One number a prompt of the batch. Raises UserError for anything else."""
    check_metric(metric)
    value = metric(logits, Where("logits", batch.index, batch.total, batch.mask, ("prompt", "pos", "feature")))
    if not isinstance(value, Tensor) or value.shape != (len(batch.index),):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"the metric gave {got}; expected one number a prompt, shape ({len(batch.index)},)")
    return value
