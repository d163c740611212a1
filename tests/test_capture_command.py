"""`interp capture` and `interp store` as real processes: kills, workers, bad input, what they print."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import warm
from hub import tiny_gpt2 as write_tiny_gpt2

from interp.cli import dispatch
from interp.errors import UserError

# The same command line with a pause after each batch, so that a kill meets it in the middle.
SLOWLY = """
import sys, time
from interp.activations import capture
from interp.cli import main
forward = capture.ShardRun.forward
def slowly(self, batch, offload):
    forward(self, batch, offload)
    time.sleep(0.05)
capture.ShardRun.forward = slowly
main(sys.argv[1:])
"""
SITES = ["blocks.*.hook_resid_post"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gpt2(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "c.jsonl"
    lines = [{"text": f"Mary walked {'on and ' * (i % 7)}to the sea for the {i}th time."} for i in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(tiny: Path, corpus: Path, out: Path, *more: object) -> list[str]:
    where = ["--model", tiny, "--corpus", corpus, "--sites", *SITES, "--out", out]
    flags = [*where, "--batch-tokens", 200, "--shard-bytes", 30_000, *more]
    return ["capture", *map(str, flags)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tiny: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "whole"
    done = warm.run(SLOWLY, command(tiny, corpus, out))
    assert done.returncode == 0, done.stderr
    assert re.search(r"(\d+) of \1 shards of [\d,]+ tokens", done.stdout), done.stdout
    assert len(list(out.glob("shard-*.json"))) > 8
    return out


def shard_files(out: Path) -> set[str]:
    return {path.name for pattern in ("shard-*", ".shard-*") for path in out.glob(pattern)}


def kill_until_whole(arguments: list[str], out: Path, moments: list[tuple[float, signal.Signals]]) -> list[str]:
    """Start the command, kill it at each moment (seconds after its first shard is begun), and let it finish at last."""
    told = []
    for pause, number in moments:
        process = warm.Process(SLOWLY, arguments)
        before = shard_files(out)  # with what an earlier kill left
        while process.poll() is None and shard_files(out) <= before:
            time.sleep(0.005)
        time.sleep(pause)
        process.send_signal(number)
        told.append(process.communicate(timeout=60)[1])
    done = warm.run(SLOWLY, arguments)
    assert done.returncode == 0, done.stderr
    return told


def moments_of(seed: int, kills: int, terms: int) -> list[tuple[float, signal.Signals]]:
    chance = random.Random(seed)
    numbers = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    chance.shuffle(numbers)
    return [(chance.uniform(0, 0.15), number) for number in numbers]


@pytest.mark.parametrize(
    ("kills", "terms"), [(0, 1), pytest.param(20, 10, marks=pytest.mark.slow)], ids=["one", "many"]
)
def test_a_killed_capture_goes_on_to_the_same_bytes(
    tiny: Path, corpus: Path, whole: Path, tmp_path: Path, kills: int, terms: int
) -> None:
    out = tmp_path / "s"
    told = kill_until_whole(command(tiny, corpus, out), out, moments_of(1, kills, terms))
    assert contents(out) == contents(whole)
    assert any("shards kept in" in text and "the same command goes on" in text for text in told)


def test_five_workers_of_which_one_is_killed_write_the_same_bytes(
    tiny: Path, corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    for index in (4, 1, 0):
        line = command(tiny, corpus, out, "--shard", f"{index}/5")
        if index == 1:
            kill_until_whole(line, out, [(0.02, signal.SIGKILL)])
        else:
            assert dispatch(line) == 0
    for name, value in (("TASK_ID", "6"), ("TASK_MIN", "2"), ("TASK_STEP", "2"), ("TASK_COUNT", "5")):
        monkeypatch.setenv(f"SLURM_ARRAY_{name}", value)
    assert dispatch(command(tiny, corpus, out)) == 0  # 2/5
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert dispatch(command(tiny, corpus, out)) == 0  # 3/5
    assert contents(out) == contents(whole)


def test_info_verify_and_a_mended_byte(
    tiny: Path, corpus: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["store", "info", str(whole)]) == 0
    shown = capsys.readouterr().out
    assert "blocks.*.hook_resid_post (2: 0-1)" in shown
    assert "all there" in shown
    out = tmp_path / "s"
    shutil.copytree(whole, out)
    assert dispatch(["store", "verify", str(out)]) == 0
    path = out / "shard-00002.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 4
    path.write_bytes(raw)
    capsys.readouterr()
    assert dispatch(["store", "verify", str(out)]) == 1
    shown = capsys.readouterr().out
    assert "shard 2 is changed" in shown
    assert "1 fault\n" in shown
    assert dispatch(command(tiny, corpus, out)) == 0
    assert contents(out) == contents(whole)


def test_the_plan_alone_writes_nothing(
    tiny: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(command(tiny, corpus, tmp_path / "s", "--plan-only")) == 0
    shown = capsys.readouterr().out
    for word in ("documents", "tokens", "on disk", "are free", "peak memory", "time"):
        assert word in shown
    assert not (tmp_path / "s").exists()


def test_shards_are_as_small_as_asked_and_empty_rows_are_left_out_when_asked(
    tiny: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_text(corpus.read_text() + '{"text": ""}\n')
    (folder / "b.jsonl").write_text('{"text": "the last one"}\n')
    (folder / "notes.md").write_text("x")
    flags = ["--corpus", folder, "--shard-bytes", 40_000, "--skip-empty"]
    assert dispatch(command(tiny, corpus, tmp_path / "s", *flags, "--plan-only")) == 0
    shown = capsys.readouterr()
    assert "not read, for their endings (1): notes.md" in shown.err
    assert "; 1 without text left out" in shown.out
    assert dispatch(command(tiny, corpus, tmp_path / "s", *flags)) == 0
    sizes = [path.stat().st_size for path in (tmp_path / "s").glob("shard-*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) < 45_000


def test_numbers_in_the_environment_that_are_none_are_one_line(
    tiny: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="RANK='x' in the environment"):
        dispatch(command(tiny, corpus, tmp_path / "s"))


def test_bad_command_lines_are_one_line(tiny: Path, corpus: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": ""}\n')
    before = contents(whole)
    for arguments, word in (
        (["--out", tmp_path / "file"], "is a file; expected a folder"),
        (["--shard", "8/8"], "expected I/N"),
        (["--shard", "one"], "expected I/N"),
        (["--corpus", tmp_path / "bad.jsonl"], "bad.jsonl row 2: text is empty"),
        (["--corpus", tmp_path / "c.csv"], "expected .jsonl"),
        (["--sites", "blocks.0.hook_resid_pst"], "nearest"),
        (["--context", "64", "--out", whole], "cut.context: 128 there, 64 wanted"),
        (["--store", "int8"], "int8"),
        (["--shard-bytes", "0"], "expected 1 or more"),
        (["--shard-bytes", "60000", "--out", whole], "wanted (shard-bytes)"),
    ):
        with pytest.raises(UserError) as refused:
            dispatch(command(tiny, corpus, tmp_path / "s", *arguments))
        assert word in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "s").exists()
    assert contents(whole) == before
    with pytest.raises(UserError, match="verify"):
        dispatch(["store", "verfy", str(whole)])
