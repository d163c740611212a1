"""`interp probe all`: what it keeps, what it leaves out and says so, and where it goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import warm
from hub import tiny_gpt2 as write_tiny_gpt2
from refusals import the_line

from interp import Claim, Control, Estimate, Finding, Lab, Model, UserError, load_model, probe
from interp.activations.rows import capture_rows
from interp.cli import dispatch, probe_all
from interp.lab import discover
from interp.lab.probe import Probe
from interp.lab.runs import read_run
from interp.lab.series import RECORD, open_series, read_series
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.sources import MemoryRows
from interp.saes.training.trainer import train

IS_THERE = Claim("{name} is there", "greater", "things", answers=True)
ANOTHER = Claim("and another", "greater", "things", answers=True)


def finding(claim: Claim, **about: str) -> Finding:
    five = Estimate(5, 4, 6, 9, "things")
    return claim.answer(five, Control("zero", Estimate(0, 0, 0, 0, "things")), about=about)


asked: list[str] = []
stopped: list[bool] = []


@probe(claims=[IS_THERE, ANOTHER])
def alpha(lab: Lab) -> Iterator[Finding]:
    """Is there an alpha?"""
    asked.append("alpha")
    yield finding(IS_THERE, name="alpha")


@probe(claims=[IS_THERE, ANOTHER])
def beta(lab: Lab) -> Iterator[Finding]:
    """Is there a beta?"""
    asked.append("beta")
    raise UserError("this model has no beta; use another")
    yield finding(ANOTHER)


@probe(claims=[IS_THERE, ANOTHER])
def gamma(lab: Lab) -> Iterator[Finding]:
    """Is there a gamma?"""
    asked.append("gamma")
    yield finding(IS_THERE, name="gamma")
    if stopped:
        stopped.clear()
        raise KeyboardInterrupt
    yield finding(ANOTHER)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch, tiny_gpt2: Model, word_sae: Path) -> list[str]:
    """Three probes instead of the project's; the flags for a tiny model and any SAE folder."""
    from interp.model.loading import load
    from interp.saes.loading import sae as saes

    found: dict[str, Probe] = {"alpha": alpha, "beta": beta, "gamma": gamma}
    monkeypatch.setattr(discover, "list_probes", lambda: dict.fromkeys(found, "a question"))
    monkeypatch.setattr(discover, "load_probe", found.__getitem__)
    monkeypatch.setattr(load, "load_model", lambda *_, **flags: tiny_gpt2)
    monkeypatch.setattr(probe_all, "_sae", lambda *_: None)
    monkeypatch.setattr(saes, "load_sae", lambda *_: None)
    asked.clear()
    stopped.clear()
    return ["probe", "all", "--model", "tiny", "--jobs", "1"]


def test_one_report_says_what_was_answered_and_what_could_not_be_asked(
    three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all"
    assert dispatch([*three, "--quick", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "[1/3] alpha: " in told
    assert "left out: this model has no beta" in told
    assert "alpha is there" in told
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in ("All answers", "gamma is there", "Not asked", "this model has no beta; use another"):
        assert words in page
    assert read_run(out / "alpha").info.command == "interp probe alpha --model tiny --seed 0 --quick"
    (out / "report.html").unlink()
    assert dispatch(["report", str(out)]) == 0
    assert "this model has no beta" in (out / "report.html").read_text(encoding="utf-8"), (
        "rebuilt later, it says so too"
    )


def test_a_series_that_was_stopped_goes_on(
    three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all"
    stopped.append(True)
    with pytest.raises(SystemExit) as stop:
        dispatch([*three, "--out", str(out)])
    assert stop.value.code == 130
    assert f"the same command with --out {out} goes on" in capsys.readouterr().err
    assert read_run(out / "gamma").info.status == "interrupted"
    asked.clear()
    assert dispatch([*three, "--out", str(out)]) == 0
    assert asked == ["beta", "gamma"], "what is finished is not asked again"
    assert len(read_run(out / "gamma").findings) == 2
    assert "kept from before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--only", "alfa"], "nearest: 'alpha'"),
        (["--only"], "--only came without a value"),
        (["--only", "alpha", "--without", "alpha"], "no probe is left"),
        (["--quick", "--full"], "one of them"),
        (["--seed", "-1"], "0 or more"),
        (["--jobs", "0"], "--jobs 0; expected 1 or more"),
    ],
)
def test_bad_flags_are_one_line(three: list[str], tmp_path: Path, flags: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        dispatch([*three, *flags, "--out", str(tmp_path / "all")])
    the_line(refused)
    assert not (tmp_path / "all").exists()


def test_a_folder_that_is_no_sae_is_refused_before_any_process_starts(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_all, "_side_by_side", lambda *_: pytest.fail("processes were started"))
    command = series_command(checkpoint, tmp_path / "no-such-sae", tmp_path / "all", ["anatomy"])
    with pytest.raises(UserError, match="no-such-sae") as refused:
        dispatch(command)
    the_line(refused)
    assert not (tmp_path / "all").exists()


def test_another_model_or_a_folder_of_other_things_is_refused(three: list[str], tmp_path: Path) -> None:
    out = tmp_path / "all"
    dispatch([*three, "--only", "alpha", "--out", str(out)])
    with pytest.raises(UserError, match="was made with seed 0; this is seed 1") as refused:
        dispatch([*three, "--only", "alpha", "--seed", "1", "--out", str(out)])
    the_line(refused)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no series"):
        dispatch([*three, "--out", str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("record", ["{", "[]", json.dumps({"schema": 99}), json.dumps({"schema": 1, "shared": 3})])
def test_a_damaged_record_is_one_line(tmp_path: Path, record: str) -> None:
    (tmp_path / RECORD).write_text(record)
    with pytest.raises(UserError, match="cannot be read") as refused:
        read_series(tmp_path)
    the_line(refused)


def test_without_a_series_there_is_none(tmp_path: Path) -> None:
    assert read_series(tmp_path) is None
    shared: dict[str, Any] = {"seed": 0}
    made = open_series(tmp_path / "new", shared)
    assert read_series(tmp_path / "new") == made
    assert not made.has("alpha")
    assert made.runs == []


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gpt2(tmp_path_factory.mktemp("series") / "tiny")


def series_command(checkpoint: Path, sae: Path, out: Path, names: list[str]) -> list[str]:
    two = ["--only", *names, "--sae", str(sae), "--jobs", "2", "--quick"]
    return ["probe", "all", "--model", str(checkpoint), *two, "--out", str(out)]


@pytest.fixture(scope="module")
def sae_of_it(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_model(checkpoint, "cpu")
    folder = tmp_path_factory.mktemp("series-sae") / "sae"
    plan, training = plan_sae("blocks.0.hook_resid_post", "topk", 64, k=4), Training(steps=5, batch=64)
    train(plan, MemoryRows(capture_rows(model, ["a few words of text"] * 8, plan.site), model), folder, training)
    return folder


# The kill meets processes that were begun as they are for users; the second time they need not import torch anew.
BY_FORK = """
import multiprocessing
context = multiprocessing.get_context
multiprocessing.get_context = lambda _=None: context("fork")
"""


@pytest.mark.parametrize(
    "names", [["parallel-attention"], pytest.param(["anatomy", "parallel-attention"], marks=pytest.mark.slow)]
)
def test_processes_of_their_own_ask_and_a_kill_costs_what_ran(
    checkpoint: Path, sae_of_it: Path, tmp_path: Path, names: list[str]
) -> None:
    out = tmp_path / "all"
    command = series_command(checkpoint, sae_of_it, out, names)
    started = warm.Process(warm.INTERP, command)
    while not list(out.glob("*/findings.jsonl")):
        assert started.poll() is None, started.communicate()
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 130, said
    assert f"the same command with --out {out} goes on" in said
    assert "Traceback" not in said
    done = warm.run(BY_FORK + warm.INTERP, command, timeout=240)
    assert done.returncode == 0, done.stderr
    there = read_series(out)
    assert there is not None
    assert sorted(run.name for run in there.runs) == names
    assert all(read_run(run).info.status == "finished" for run in there.runs)
    for name in names:
        assert name in done.stdout
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_a_process_that_is_killed_is_told(checkpoint: Path, sae_of_it: Path, tmp_path: Path) -> None:
    out = tmp_path / "all"
    started = warm.Process(warm.INTERP, series_command(checkpoint, sae_of_it, out, ["anatomy", "parallel-attention"]))
    while not list(out.glob("*/run.json")):
        assert started.poll() is None, started.communicate()
        time.sleep(0.05)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(int(workers[0]), signal.SIGKILL)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("interp: ")]
    assert "--jobs 1 takes half of it" in line
    assert "goes on" in line
