"""The main job, end to end, as a newcomer runs it; and its report in a browser without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser import LOCAL, chromium, complaints, flaws, missing, requests, show

from interp.lab.runs import read_run

BUDGET = 6 * 60  # seconds, on two cores


@pytest.mark.slow
@pytest.mark.timeout(BUDGET + 60)
def test_one_command_ends_in_a_report(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "interp.cli", "demo", "--out", str(out)]
    new_user = {**os.environ, "INTERP_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    new_user.pop("OMP_NUM_THREADS", None)  # one for the tests; a user's demo takes what the machine has
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=new_user, timeout=BUDGET)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"report: {out / 'report.html'}")
    for stage in ("unpacking", "measuring", "small GPT-2s", "patching"):
        assert stage in done.stderr, "progress throughout"
    curse = read_run(out / "reversal-curse").findings
    assert [f.verdict for f in curse[:3]] == ["yes", "yes", "yes"]
    assert {f.part[:3] for f in curse} >= {"(a)", "(b)", "(c)"}
    dictionary = read_run(out / "dictionary")
    assert [f.verdict for f in dictionary.findings if f.answers] == ["yes", "yes", "yes"]
    assert {f.verdict for f in dictionary.findings if "control" in f.claim} == {"yes"}
    assert dictionary.not_reached == []
    if lacks := missing():
        pytest.skip(f"the report was not looked at: {lacks}")
    with chromium() as driver:
        show(driver, out / "report.html", 1280, 900)
        assert flaws(driver) == []
        assert complaints(driver) == []
        assert [url for url in requests(driver) if not url.startswith(LOCAL)] == []
        driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert flaws(driver) == []
