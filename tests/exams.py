"""Questions for a tiny model, and what tests of fine-tuning ask again and again."""

from __future__ import annotations

import torch

from interp import Finding, Model, NotAsked
from probes._pretraining_finetuning.questions import Exam, set_exam


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.hf.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def short_exam(model: Model) -> Exam:
    """Three questions of each task."""
    exam = set_exam(model, 0, each=6)
    assert exam is not None
    return exam


def asked(answer: Finding | NotAsked) -> Finding:
    assert isinstance(answer, Finding)
    return answer
