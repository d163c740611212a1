"""The runner and the command line around it, with real processes: kills, full disks, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import warm

from interp import Lab, Model, load_probe
from interp.cli import loading, main
from interp.errors import UserError
from interp.lab import runs
from interp.lab.runner import Interrupted, check_out, run_probe
from interp.lab.runs import read_run
from interp.model.training.small import SmallGPT2, train_small_gpt2

PROBE = '''
"""Does a slow probe keep what it found?

Method of a test.
"""
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from interp import Claim, Control, Estimate, Finding, Lab, Least, UserError, probe

CLAIM = Claim("claim {i}", "greater", "things")

@probe(paper="arXiv:0000.00000", claims=[CLAIM])
def slow(
    lab: Lab, *, n: Annotated[int, Least(1)] = 3, pause: float = 0.0, fail_at: int = -1, file: Path | None = None
) -> Iterator[Finding]:
    """Yield `n` findings.

    Args:
        n: how many findings
        pause: seconds before each
    """
    for i in range(n):
        lab.progress("waiting", i, n)
        time.sleep(pause)
        if i == fail_at:
            raise UserError("the input of step %d is bad" % i)
        e = Estimate(i, i, i, 5, "things")
        yield CLAIM.answer(e, Control("zero", Estimate(0, 0, 0, 5, "things")), about={"i": i}, table=[{"i": i}])
'''


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    model = train_small_gpt2(["the cat sat on the mat", "a dog ran in the park"], SmallGPT2(steps=2, d_model=16))
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def probe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("probes") / "slow.py"
    file.write_text(PROBE)
    return file


def interp(*arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return warm.run(warm.INTERP, arguments, cwd=cwd, env={**os.environ, **more})


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`interp` as above, in this process and in `tmp_path`: a process of its own takes seconds to import torch."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        told = capsys.readouterr()
        return subprocess.CompletedProcess([], int(ended.value.code or 0), told.out, told.err)

    return run


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("interp: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_a_flag_below_its_least_value_is_refused_before_a_model_is_loaded(
    probe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--n 0; expected 1 or more"):
        load_probe(str(probe_file))(Lab(None), n=0)  # type: ignore[arg-type]
    monkeypatch.setattr(loading.LoadingOptions, "load", lambda _: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit):
        main(["probe", str(probe_file), "--n", "0", "--out", str(tmp_path / "run")])
    assert "--n 0; expected 1 or more" in capsys.readouterr().err


def test_a_probe_from_a_file_runs_and_its_report_rebuilds(small_model: Path, probe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = interp("probe", probe_file, "--model", small_model, "--out", out, "--n", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = read_run(out)
    assert [f.claim for f in run.findings] == ["claim 0", "claim 1"]
    assert run.info.status == "finished"
    assert run.info.provenance["model"]["weights"].startswith("sha256:")
    assert run.info.paper == "arXiv:0000.00000"
    first = (out / "report.html").read_text()
    assert "claim 1" in first
    again = interp("report", out, "--out", tmp_path / "again.html", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.html").read_text() == first


def test_a_probes_parameters_are_its_flags(probe_file: Path, tmp_path: Path) -> None:
    done = interp("probe", probe_file, "--help", cwd=tmp_path)
    assert done.returncode == 0
    for text in ("--n", "how many findings", "--pause", "seconds before each", "--model", "\n  --file PATH\n"):
        assert text in done.stdout


def _start(small_model: Path, probe_file: Path, out: Path, cwd: Path) -> warm.Process:
    command = ["probe", probe_file, "--model", small_model, "--out", out, "--n", "50", "--pause", "0.2"]
    started = warm.Process(warm.INTERP, command, cwd=cwd)
    findings = out / "findings.jsonl"
    deadline = time.monotonic() + 90
    while not (findings.is_file() and findings.read_bytes().count(b"\n") >= 3):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return started


@pytest.mark.parametrize(
    "signum", [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_killed_run_keeps_what_it_found(small_model: Path, probe_file: Path, tmp_path: Path, signum: int) -> None:
    out = tmp_path / "run"
    started = _start(small_model, probe_file, out, tmp_path)
    started.send_signal(signum)
    _, stderr = started.communicate(timeout=30)
    run = read_run(out)
    assert len(run.findings) >= 3
    assert [f.table[0]["i"] for f in run.findings] == list(range(len(run.findings)))
    if signum == signal.SIGKILL:
        assert run.info.status == "running"  # nobody could say otherwise
    else:
        assert run.info.status == "interrupted"
        assert f"kept {len(run.findings)} findings" in stderr
        assert started.returncode == 130
    assert interp("report", out, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("nth", [1, 3])
def test_an_interrupt_between_a_finding_and_all_that_follows_costs_nothing(
    probe_file: Path, tiny_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Its line is on disk: a counter beside it would be one behind, and the run would read as damaged."""
    fsync, lines, file = os.fsync, 0, tmp_path / "run" / "findings.jsonl"

    def interrupted(descriptor: int) -> None:
        nonlocal lines
        fsync(descriptor)
        if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
            lines += 1
            if lines == nth:
                raise KeyboardInterrupt

    monkeypatch.setattr(runs.os, "fsync", interrupted)
    with pytest.raises(Interrupted, match=f"kept {nth} finding"):
        run_probe(load_probe(str(probe_file)), Lab(tiny_gpt2), {}, tmp_path / "run", command="x")
    run = read_run(tmp_path / "run")
    assert (len(run.findings), run.info.status) == (nth, "interrupted")


def test_an_error_before_the_first_finding_leaves_nothing(
    small_model: Path, probe_file: Path, tmp_path: Path, here: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    for out in ("run", "new/deep/run"):
        done = here("probe", probe_file, "--model", small_model, "--out", out, "--fail-at", 0)
        assert_one_line(done, "step 0 is bad")
        assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "mine").mkdir()  # the user's own empty folder stays
    done = here("probe", probe_file, "--model", small_model, "--out", "mine", "--fail-at", 0)
    assert_one_line(done, "step 0 is bad")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_place_that_cannot_be_written_is_found_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"lies under .*file, which is a file"):
        check_out(tmp_path / "file" / "below" / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match="no permission to write in"):
        check_out(tmp_path / "new" / "run")


def test_a_bug_in_a_probe_shows_where_and_what_is_kept(small_model: Path, probe_file: Path, tmp_path: Path) -> None:
    buggy = tmp_path / "buggy.py"
    buggy.write_text(PROBE.replace('raise UserError("the input of step %d is bad" % i)', "1 / 0"))
    done = interp("probe", buggy, "--model", small_model, "--out", "run", "--fail-at", 1, cwd=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "probe slow failed; kept 1 finding in run" in done.stderr
    assert read_run(tmp_path / "run").info.status == "failed"


def test_an_error_later_keeps_the_findings(small_model: Path, probe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = interp("probe", probe_file, "--model", small_model, "--out", out, "--fail-at", 2, cwd=tmp_path)
    assert_one_line(done, "step 2 is bad")
    run = read_run(out)
    assert len(run.findings) == 2
    assert run.info.status == "failed"


def test_a_full_disk_is_one_line(small_model: Path, probe_file: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        done = interp("probe", probe_file, "--model", small_model, "--out", disk / "run", "--n", 500, cwd=tmp_path)
        assert_one_line(done, "No space left", "kept")
        kept = read_run(disk / "run")
        assert kept.findings
        (disk / "filler").write_bytes(b"")
        subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'filler'}"], check=False, capture_output=True)
        done = interp("probe", probe_file, "--model", small_model, "--out", disk / "second", cwd=tmp_path)
        assert_one_line(done, "No space left")
        assert not (disk / "second").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_bad_command_lines_are_one_line(
    small_model: Path, probe_file: Path, tmp_path: Path, here: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("x")
    (tmp_path / "two.py").write_text(PROBE + PROBE.replace("def slow", "def fast"))
    (tmp_path / "broken.py").write_text("def (:")
    run = ["probe", probe_file, "--model", small_model]
    cases: list[tuple[list[object], tuple[str, ...]]] = [
        (["prob"], ("unknown command", "'probe'")),
        (["probe", "revesal-curse"], ("unknown probe", "reversal-curse")),
        (["probe", "missing.py"], ("no such probe file",)),
        (["probe", "two.py"], ("2 probes",)),
        (["probe", "broken.py"], ("line 1", "not Python")),
        ([*run, "--sed", "3"], ("--sed", "--seed")),
        ([*run, "--n", "three"], ("--n", "three")),
        ([*run, "--file", "nowhere.csv"], ("nowhere.csv", "no such file")),
        ([*run, "--out", "file"], ("is a file",)),
        ([*run, "--out", "full"], ("not empty",)),
        ([*run, "--device", "cuda:77"], ("cuda:77",)),
        ([*run, "--dtype", "fp8"], ("fp8",)),
        (["report", "nowhere"], ("is not a run",)),
        (["models", "lost"], ("lost",)),
    ]
    before = sorted(tmp_path.iterdir())
    for arguments, words in cases:
        assert_one_line(here(*arguments), *words)
    misspelt = interp("probe", probe_file, "--model", "smolm2-135m", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert_one_line(misspelt, "unknown model", "smollm2-135m")
    assert sorted(tmp_path.iterdir()) == before


def test_listing_and_help_need_no_torch(tmp_path: Path) -> None:
    block = (
        "import sys, importlib.abc\n"
        "class No(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'transformer_lens', 'sae_lens'):\n"
        "            raise ImportError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, No())\n"
        "from interp.cli import dispatch\n"
    )
    for arguments in (["--help"], ["probe"], ["--version"]):
        code = f"{block}sys.exit(dispatch({json.dumps(arguments)}))"
        done = subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
