"""`scripts/gpu_check.py` under a pretended GPU: every step is as it should be, or says why it is not here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.pretend, pytest.mark.slow]
SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"


def check(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.timeout(3600)  # its steps have limits of their own
def test_every_step_runs(tmp_path: Path) -> None:
    done = check(tmp_path, "--pretend")
    lines = json.loads((tmp_path / "table.json").read_text())
    assert done.returncode == 0, done.stdout
    states = {line["step"]: line["state"] for line in lines}
    assert set(states.values()) == {"ok", "not here"}, done.stdout
    assert all(line["said"].startswith("because") for line in lines if line["state"] == "not here")
    assert [json.loads(line)["step"] for line in (tmp_path / "lines.jsonl").read_text().splitlines()] == list(states)


def test_without_a_card_it_says_so(tmp_path: Path) -> None:
    done = check(tmp_path, "--only", "bags")
    assert done.returncode == 1
    assert "there is no CUDA device here; try --pretend" in done.stdout
    assert "no step 'bag'; there are versions" in check(tmp_path, "--only", "bag").stderr
