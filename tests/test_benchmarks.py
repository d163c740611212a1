"""The scripts that measure: their contenders run, and see the same numbers; what they measure is for `make bench`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from interp import Model

ROOT = Path(__file__).parents[1]


def test_whoever_captures_sees_the_same(tiny_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    import bench_capture  # type: ignore[import-not-found] - in scripts/

    contenders = bench_capture.contenders_of(tiny_gpt2, None, range(tiny_gpt2.n_layers), tmp_path)
    ids = torch.randint(1, 20, (2, 6))
    bench_capture.check_agreement(contenders, ids, bench_capture.residual(tiny_gpt2, range(tiny_gpt2.n_layers)))
    assert set(bench_capture.BLIND) | {bench_capture.DISK} <= set(contenders)
