"""The cache of converted models: whole or absent, whatever is damaged, killed, full or in the way."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import warm
from tiny import left_in

from interp import UserError, load_model
from interp.model.loading import cache

PROMPT = "The capital of France is 42"
pytestmark = pytest.mark.usefixtures("own_cache")


def entry(own_cache: Path) -> Path:
    (folder,) = [p for p in (own_cache / "models").iterdir() if not p.name.startswith(".")]
    return folder


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "extra", "manifest"])
def test_a_damaged_cache_entry_is_rebuilt(gguf_file: Path, own_cache: Path, damage: str):
    before = load_model(gguf_file).logits(PROMPT)
    folder = entry(own_cache)
    weights = folder / "model.safetensors"
    healthy = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(healthy[:-100] + bytes([healthy[-100] ^ 1]) + healthy[-99:])
    elif damage == "cut":
        weights.write_bytes(healthy[: len(healthy) // 2])
    elif damage == "delete":
        (folder / "tokenizer.json").unlink()
    elif damage == "extra":  # transformers would read it
        (folder / "adapter_config.json").write_text("{}")
    else:
        (folder / "manifest.json").write_text("[")
    assert not cache.is_intact(folder)
    assert torch.equal(load_model(gguf_file).logits(PROMPT), before)
    assert weights.read_bytes() == healthy
    assert cache.is_intact(folder)


def test_an_intact_entry_is_not_converted_again(gguf_file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    load_model(gguf_file)
    (entry(own_cache) / ".DS_Store").write_text("a file browser was here")
    written = (entry(own_cache) / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr("interp.model.loading.load.convert_gguf", lambda *_: pytest.fail("converted again"))
    load_model(gguf_file)
    assert (entry(own_cache) / "model.safetensors").stat().st_mtime_ns == written


def test_conversion_says_one_line_and_no_progress_bars(gguf_file: Path, capfd: pytest.CaptureFixture[str]):
    load_model(gguf_file)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert "\r" not in err
    assert "parameters on cpu" in err or "parameters on cuda" in err


LOAD = """
import sys, torch
from interp import load_model
print(float(load_model(sys.argv[1], "cpu").logits("The dog")[0, -1].sum()))
"""
STALL = """
import sys, time
import transformers
real = transformers.PreTrainedModel.save_pretrained
def save(self, folder, *args, **kwargs):
    real(self, folder, *args, **kwargs)
    print("half way", flush=True)
    time.sleep(60)
transformers.PreTrainedModel.save_pretrained = save
from interp import load_model
load_model(sys.argv[1], "cpu")
"""


def test_two_processes_convert_at_once_and_a_killed_one_leaves_nothing_trusted(gguf_file: Path, own_cache: Path):
    killed = warm.Process(STALL, [gguf_file])
    while "half way\n" not in killed.told("output"):
        assert killed.poll() is None, killed.told("error")
        time.sleep(0.01)
    assert not [p for p in (own_cache / "models").iterdir() if not p.name.startswith(".")]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (left,) = (own_cache / "models").iterdir()  # a killed process cannot tidy up
    both = [warm.Process(LOAD, [gguf_file]) for _ in range(2)]
    sums = []
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        sums.append(float(out))
    assert sums == pytest.approx([float(load_model(gguf_file, "cpu").logits("The dog")[0, -1].sum())] * 2, rel=1e-5)
    assert cache.is_intact(entry(own_cache))
    assert left.is_dir(), "it might be another process's that still runs"
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    (entry(own_cache) / "config.json").unlink()
    load_model(gguf_file)
    assert not left.exists(), "the next conversion an hour later tidies up"
    assert len(list((own_cache / "models").iterdir())) == 1


def test_what_another_process_tidies_up_while_we_look_is_no_error(gguf_file: Path, own_cache: Path):
    models = own_cache / "models"
    models.mkdir(parents=True)
    (models / ".gguf-left.x7").symlink_to("gone")  # listed, and not there when it is asked for its age
    load_model(gguf_file)
    assert cache.is_intact(entry(own_cache))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine does not let us mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("asked", ["before", "while writing"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    gguf_file: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, asked: str
):
    monkeypatch.setenv("INTERP_CACHE", str(small_disk / "cache"))
    if asked == "while writing":  # another process fills the disk after we looked
        usage = shutil.disk_usage(small_disk)._replace(free=10**12)
        monkeypatch.setattr("interp.model.loading.cache.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError) as refused:
        load_model(gguf_file)
    assert "cannot write" in str(refused.value)
    assert "free some space or point INTERP_CACHE elsewhere" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert left_in(small_disk) == []


def test_a_cache_that_is_a_file_is_one_line(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a-file").write_text("mine")
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "a-file"))
    with pytest.raises(
        UserError, match=r"cannot write .*a-file.*: .*; free some space or point INTERP_CACHE elsewhere"
    ):
        load_model(gguf_file)
    assert (tmp_path / "a-file").read_text() == "mine"


def test_an_entry_that_is_a_file_is_one_line(gguf_file: Path, own_cache: Path):
    digest = hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    (own_cache / "models").mkdir(parents=True)
    (own_cache / "models" / f"gguf-{digest[:16]}-v2").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write"):
        load_model(gguf_file)
