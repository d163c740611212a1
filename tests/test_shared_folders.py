"""Folders that several machines share: locks that are not what they are elsewhere, and files of the living and dead."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from indexes import built

from interp import Model, UserError
from interp.activations import files, leftovers
from interp.activations.capture import capture_store
from interp.activations.files import new_file
from interp.activations.leftovers import A_DAY, IN_HAND, clear_leftovers, find_temporary, is_live, is_others
from interp.activations.plan import plan_capture
from interp.activations.share import in_hand
from interp.activations.store import PARTS, Store, open_store
from interp.activations.verify import verify_store
from interp.saes import load_sae

TEXTS = ["Mary walked to Rome and saw it all again", "the sea", "Ada and Kim walked on"] * 8
SITE = "blocks.0.hook_resid_post"
OTHER = "another_node~0123abcd"

WRITES = """
import sys, time
from pathlib import Path
from interp.activations.files import new_file
with new_file(Path(sys.argv[1]), 1000) as file:
    print(flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tiny_gpt2: Model, tmp_path: Path) -> Store:
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, SITE, shard_bytes=1 << 12)
    assert len(plan.shards) > 3
    return capture_store(tiny_gpt2, tmp_path / "s", plan, tokens)


@contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has the file in hand."""
    with subprocess.Popen([sys.executable, "-c", WRITES, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def of_another_machine(path: Path, age: float = 0.0) -> Path:
    """A temporary file as another node writes it, last written to `age` seconds ago."""
    temporary = path.with_name(f".{path.name}.{OTHER}-17-4711.abcdefgh")
    temporary.write_text("half")
    then = time.time() - age
    os.utime(temporary, (then, then))
    return temporary


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux maps flock on NFS to a POSIX lock, and the kernel grants an exclusive one to writable descriptors only."""

    def flock(file: Any, how: int) -> None:
        kind = fcntl.F_UNLCK if how & fcntl.LOCK_UN else fcntl.F_WRLCK if how & fcntl.LOCK_EX else fcntl.F_RDLCK
        waits = getattr(fcntl, "F_OFD_SETLK" if how & fcntl.LOCK_NB else "F_OFD_SETLKW")
        fcntl.fcntl(file, waits, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_the_control_a_lock_of_nfs_wants_a_descriptor_that_can_be_written_to(nfs: None, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with (tmp_path / "f").open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.flock(file, fcntl.LOCK_EX)
    with (tmp_path / "f").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def test_an_index_is_built_on_nfs(nfs: None, word_model: Model, word_sae: Path, tmp_path: Path) -> None:
    built(word_model, load_sae(word_sae, word_model), tmp_path / "index")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_an_index_is_built_where_there_are_no_locks(
    monkeypatch: pytest.MonkeyPatch, word_model: Model, word_sae: Path, tmp_path: Path, code: int
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    built(word_model, load_sae(word_sae, word_model), tmp_path / "index")


def test_a_worker_that_starts_leaves_alone_what_another_writes(tmp_path: Path) -> None:
    """No lock is asked, so that it does not matter whether locks are seen."""
    with writing(tmp_path / "a.json") as process:
        (live,) = find_temporary(tmp_path, "a.json")
        assert is_live(live)
        assert is_others(live)
        assert clear_leftovers(tmp_path, "a.json") == []
        process.kill()
        process.wait()
        assert not is_live(live)
        assert clear_leftovers(tmp_path, "a.json") == [live]


def test_a_killed_process_that_nobody_looked_after_is_dead(tmp_path: Path) -> None:
    """A zombie keeps its number until its parent asks for it, which in a container may be never."""
    with writing(tmp_path / "a.json") as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended, and is not looked after
        assert Path(f"/proc/{process.pid}").exists()
        assert [path.name for path in clear_leftovers(tmp_path, "a.json")] != []


def test_another_process_under_a_dead_ones_number_does_not_write_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_file(tmp_path / "a.json"):
        (own,) = find_temporary(tmp_path, "a.json")
        assert is_live(own)
        assert not is_others(own)
        older = own.with_name(own.name.replace(f"-{leftovers._born(os.getpid())}.", "-12."))
        older.write_text("half")
        assert not is_live(older)
        monkeypatch.setattr(leftovers, "_born", lambda _: leftovers.UNKNOWN)
        assert is_live(older), "where the system does not tell, nothing is removed"


def test_what_another_machine_writes_is_believed_for_a_day(store: Store) -> None:
    fresh = of_another_machine(store.shard_path(0))
    assert clear_leftovers(store.folder, *PARTS) == []
    assert verify_store(store) == []
    assert in_hand(store.shard_path(0))
    of_another_machine(store.shard_path(0), IN_HAND + 1)
    assert is_live(fresh)
    assert not in_hand(store.shard_path(0)), "a shard that nobody writes to is taken over; doing it twice is harmless"
    of_another_machine(store.shard_path(0), A_DAY + 1)
    assert [fault.split()[0] for fault in verify_store(store)] == [fresh.name]
    assert clear_leftovers(store.folder, *PARTS) == [fresh]


def test_shards_in_another_hand_come_last_and_not_at_all_while_it_works(tiny_gpt2: Model, store: Store) -> None:
    before = {path: path.read_bytes() for path in store.folder.iterdir()}
    for index in (0, 2):
        store.shard_path(index, "json").unlink()
        store.shard_path(index).unlink()
    with writing(store.shard_path(0)):
        assert capture_store(tiny_gpt2, store.folder, store.plan, store.tokens).missing == [0]
    assert capture_store(tiny_gpt2, store.folder, store.plan, store.tokens).missing == []
    assert {path: path.read_bytes() for path in store.folder.iterdir()} == before


def test_a_folder_without_links_takes_the_plan(
    tiny_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", link)
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, SITE)
    capture_store(tiny_gpt2, tmp_path / "s", plan, tokens)
    assert verify_store(open_store(tmp_path / "s")) == []
    other, tokens = plan_capture(tiny_gpt2, TEXTS[:2], SITE)
    with pytest.raises(UserError, match="holds another capture"):
        capture_store(tiny_gpt2, tmp_path / "s", other, tokens)
