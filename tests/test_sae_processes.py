"""`interp sae train` as processes: killed at any moment it loses nothing, and two of them train one SAE together."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import warm

from interp.activations.store import Store
from interp.cli import dispatch
from interp.saes.loading.sae import load_sae

LAST = "blocks.1.hook_resid_post"
FLAGS = ["--site", LAST, "--width", "64", "--k", "4", "--batch", "64", "--tokens", "6400", "--checkpoint-minutes", "0"]


def command(store: Store, out: Path, *more: str) -> list[str]:
    return ["sae", "train", "--store", str(store.folder), "--out", str(out), *FLAGS, *more]


def start(*arguments: str) -> warm.Process:
    return warm.Process(warm.INTERP, arguments)


def two_warm_ranks(*arguments: str) -> list[tuple[int, str]]:
    """The exit code and the errors of two processes with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        warm.Process(warm.INTERP, arguments, env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    told = [rank.communicate(timeout=120)[1] for rank in ranks]
    return [(rank.wait(), said) for rank, said in zip(ranks, told, strict=True)]


def start_two_ranks(*arguments: str) -> subprocess.Popen[str]:
    whole = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "interp", *arguments]
    return subprocess.Popen(
        whole, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def weights(out: Path) -> bytes:
    return (out / "sae_weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def store(whole_store: tuple[Store, Any, Any]) -> Store:
    return whole_store[0]


@pytest.fixture(scope="module")
def undisturbed(store: Store, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "sae"
    assert dispatch(command(store, out)) == 0
    return weights(out)


def kill_and_rerun(store: Store, out: Path, kills: int, how: signal.Signals) -> list[int]:
    """Kill the training `kills` times, each time at a random moment after its first new step. The exit codes."""
    moment, codes = random.Random(0), []
    metrics = out.with_name(f"{out.name}.training") / "metrics.jsonl"
    for _ in range(kills):
        size = metrics.stat().st_size if metrics.exists() else 0
        process = start(*command(store, out, "--seed", "0"))
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > size):
            time.sleep(0.002)
        time.sleep(moment.random() * 0.1)
        process.send_signal(how)
        process.communicate()
        codes.append(process.returncode)
        if out.exists():
            break
    return codes


def test_killed_and_run_again_it_gives_the_same_bytes(store: Store, undisturbed: bytes, tmp_path: Path) -> None:
    out = tmp_path / "sae"
    codes = kill_and_rerun(store, out, 2, signal.SIGKILL)
    assert -signal.SIGKILL in codes, "or no kill came in time and nothing was tested"
    if not out.exists():
        assert dispatch(command(store, out)) == 0
    assert weights(out) == undisturbed
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)), "no line of metrics twice"
    assert steps[-1] == 100


@pytest.mark.slow
def test_twenty_kills_give_the_same_bytes(store: Store, undisturbed: bytes, tmp_path: Path) -> None:
    done = 0
    for attempt in range(20):
        out = tmp_path / f"sae{attempt}"
        codes = kill_and_rerun(store, out, 3, signal.SIGKILL)
        done += codes.count(-signal.SIGKILL)
        if not out.exists():
            assert dispatch(command(store, out)) == 0
        assert weights(out) == undisturbed
        if done >= 20:
            return
    pytest.fail(f"only {done} kills came before the end")


def test_sigterm_saves_and_says_so(store: Store, undisturbed: bytes, tmp_path: Path) -> None:
    out = tmp_path / "sae"
    process = start(*command(store, out, "--tokens", "640000"))
    metrics = tmp_path / "sae.training" / "metrics.jsonl"
    while process.poll() is None and not metrics.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "saving a checkpoint" in said
    assert (
        said.splitlines()[-1]
        == f"interp: stopped; all is kept in {tmp_path / 'sae.training'}; the same command goes on"
    )
    assert "Traceback" not in said


@pytest.mark.parametrize("arch", ["batchtopk", pytest.param("topk", marks=pytest.mark.slow)])
def test_two_ranks_reach_what_one_reaches(store: Store, tmp_path: Path, arch: str) -> None:
    """Within 1e-3 of the weights' norm after 100 steps: sums over two halves round otherwise, and Adam adds that up."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert dispatch(command(store, one, "--arch", arch)) == 0
    if arch == "topk":  # by torchrun itself
        process = start_two_ranks(*command(store, two, "--arch", arch))
        _, said = process.communicate()
        assert process.returncode == 0, said
    else:
        for code, said in two_warm_ranks(*command(store, two, "--arch", arch)):
            assert code == 0, said
    saes = [load_sae(folder) for folder in (one, two)]
    for name, ours in saes[0].state_dict().items():
        assert float((ours - saes[1].state_dict()[name]).norm() / ours.norm()) < 1e-3, name
    lines = [[json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (one, two)]
    for mine, theirs in zip(*lines, strict=True):
        assert mine["l0"] == pytest.approx(theirs["l0"], rel=0.02)
        assert mine["explained_variance"] == pytest.approx(theirs["explained_variance"], abs=1e-3)
    assert lines[1][-1]["rows"] == 6400
