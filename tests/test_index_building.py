"""Building an index as people do: killed, stopped, begun twice, pointed at the wrong thing; and reading a bad one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import warm
from hub import tiny_gpt2 as write_tiny_gpt2
from indexes import SETTINGS, built, contents, prepared
from refusals import refusal, the_line
from word_sae import SENTENCES

from interp.activations.capture import Worker, capture_store
from interp.activations.files import write_sealed
from interp.activations.plan import plan_capture
from interp.cli import dispatch
from interp.errors import UserError
from interp.features.build.passes import build_index, missing_pieces
from interp.features.build.write import IndexFiles
from interp.features.read.index import Index, open_index
from interp.features.read.layout import RECORD, SCHEMA
from interp.model.model import Model
from interp.saes.loading.sae import load_sae

# The same command with a pause after each piece and each group of ablations, so that a kill meets it in the middle.
SLOWLY = """
import sys, time
from interp.features.build import passes as build, effects, parts, plan
plan.PIECE_ROWS = 150
effects.SEQUENCES = 4
parts.FEATURES_AT_ONCE = 8
for module, name in ((build, "write_piece"), (parts, "write_tensors"), (effects, "write_tensors")):
    real = getattr(module, name)
    def slowly(*arguments, real=real):
        real(*arguments)
        time.sleep(0.08)
    setattr(module, name, slowly)
from interp.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gpt2(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "c.jsonl"
    lines = [{"text": f"Mary walked {'on and ' * (i % 7)}to the sea for the {i}th time."} for i in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(tiny: Path, corpus: Path, out: Path, *more: object) -> list[str]:
    where = ["--model", tiny, "--corpus", corpus, "--basis", "blocks.0.hook_resid_post", "--k", 4, "--out", out]
    return ["features", "build", *map(str, [*where, "--effects", 2, *more])]


@pytest.fixture(scope="module")
def whole(tiny: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    out = tmp_path_factory.mktemp("index") / "whole"
    done = warm.run(SLOWLY, command(tiny, corpus, out))
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    return open_index(out)


def test_killed_at_random_and_run_again_it_gives_the_same_bytes(tiny: Path, corpus: Path, whole: Index, tmp_path: Path):
    out, chance, killed = tmp_path / "index", random.Random(3), 0
    for _ in range(12):
        process = warm.Process(SLOWLY, command(tiny, corpus, out))
        deadline, wanted = time.monotonic() + 60, len(list(out.glob("*-*.safetensors"))) + chance.randint(4, 8)
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(out.glob("*-*.safetensors"))) >= wanted:
                process.kill()
            time.sleep(0.01)
        code = process.wait(60)
        killed += code == -signal.SIGKILL
        if code == 0:
            break
    assert killed >= 2, "or no kill came in time and nothing was tested"
    assert contents(out) == contents(whole.folder)
    assert not list(out.glob("*.safetensors"))
    assert not [path for path in out.iterdir() if path.name.startswith(".")], "no temporary file is left"


def test_sigterm_keeps_what_is_whole_and_says_so(tiny: Path, corpus: Path, whole: Index, tmp_path: Path):
    out = tmp_path / "index"
    process = warm.Process(SLOWLY, command(tiny, corpus, out))
    while process.poll() is None and len(list(out.glob("firings-*"))) < 2:
        time.sleep(0.01)
    process.terminate()
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "kept in" in stdout
    assert len(list(out.glob("firings-*"))) >= 2
    assert "not finished" in refusal(open_index, out)
    again = warm.run(SLOWLY, command(tiny, corpus, out))
    assert again.returncode == 0, again.stderr
    assert contents(out) == contents(whole.folder)


@pytest.mark.slow
def test_workers_as_processes_share_the_work(tiny: Path, corpus: Path, whole: Index, tmp_path: Path):
    out = tmp_path / "index"
    processes = [warm.Process(SLOWLY, command(tiny, corpus, out, "--shard", f"{i}/3")) for i in range(3)]
    results = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    assert [code for *_, code in results] == [0, 0, 0], results
    assert contents(out) == contents(whole.folder)


def test_built_again_it_is_left_alone(word_model: Model, word_sae: Path, tmp_path: Path):
    sae = load_sae(word_sae, word_model)
    index = built(word_model, sae, tmp_path / "index")
    before = {path.name: path.stat().st_mtime_ns for path in index.folder.iterdir()}
    again = built(word_model, sae, tmp_path / "index")
    assert {path.name: path.stat().st_mtime_ns for path in again.folder.iterdir()} == before
    assert again.verify() == []


def test_another_index_and_another_folder_are_refused_with_the_difference(
    word_model: Model, word_sae: Path, tmp_path: Path
):
    sae = load_sae(word_sae, word_model)
    built(word_model, sae, tmp_path / "index")
    with pytest.raises(UserError) as raised:
        built(word_model, sae, tmp_path / "index", settings=replace(SETTINGS, top=7))
    assert "settings.top: 6 there, 7 wanted" in the_line(raised)
    with pytest.raises(UserError) as raised:
        built(word_model, sae, tmp_path / "index", texts=["ann likes the red hat"] * 9)
    assert "another index: of other text" in the_line(raised)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").touch()
    with pytest.raises(UserError) as raised:
        built(word_model, sae, tmp_path / "full")
    assert "holiday.jpg" in the_line(raised)


def test_a_damaged_piece_is_made_again(word_model: Model, word_sae: Path, tmp_path: Path):
    sae = load_sae(word_sae, word_model)
    whole = built(word_model, sae, tmp_path / "whole")
    building = prepared(word_model, sae, tmp_path / "index")
    assert build_index(building, Worker(0, 2)) is None
    piece = next((tmp_path / "index").glob("firings-*"))
    raw = bytearray(piece.read_bytes())
    raw[-5] ^= 1
    piece.write_bytes(raw)
    assert missing_pieces(building.folder, building.plan) == list(range(1, len(building.plan.pieces), 2))
    again = built(word_model, sae, tmp_path / "index")
    assert contents(again.folder) == contents(whole.folder)


@pytest.fixture
def copy(whole: Index, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(whole.folder, tmp_path / "copy")
    return tmp_path / "copy"


def _cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-3])


def _rewrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _schema(number: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        record = json.loads((folder / RECORD).read_text())
        record.pop("seal")
        write_sealed(folder / RECORD, {**record, "schema": number})

    return change


def _link(folder: Path) -> None:
    (folder / "labels.json").unlink()
    (folder / "labels.json").symlink_to("/etc/hostname")


def _pickle(folder: Path) -> None:
    np.save(folder / "rate.npy", np.array([{"a": 1}], object), allow_pickle=True)


def _seal(folder: Path) -> None:
    text = (folder / RECORD).read_text()
    (folder / RECORD).write_text(text.replace('"l0"', '"L0"'))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (_schema(SCHEMA + 1), "update interp-probes"),
        (_schema(0), "build it again"),
        (_seal, "its seal does not fit"),
        (_cut("rate.npy"), "rate.npy is damaged"),
        (_rewrite("rate.npy", b"nothing"), "rate.npy is damaged"),
        (_pickle, "rate.npy is damaged"),
        (_link, "is a link"),
        (lambda folder: (folder / "map.npy").unlink(), "lacks map.npy"),
        (lambda folder: (folder / RECORD).unlink(), "is no index"),
    ],
    ids=["newer", "older", "seal", "cut", "no array", "pickle", "link", "missing", "no record"],
)
def test_a_damaged_index_is_refused_in_one_line(copy: Path, damage: Callable[[Path], object], line: str):
    damage(copy)
    assert line in refusal(open_index, copy)


@pytest.mark.parametrize("name", ["firing_start", "sequence_start", "document", "file"])
def test_a_forged_index_that_points_beyond_itself_is_refused(copy: Path, name: str):
    values = np.load(copy / f"{name}.npy")
    values[len(values) // 2] = 10**6
    IndexFiles(copy).array(name, values)
    assert f"{name}.npy is damaged" in refusal(open_index, copy)


@pytest.mark.parametrize("content", [b"[]", b"{", b'[["a"]]', b"[" * 100_000], ids=range(4))
def test_damaged_labels_are_refused_when_they_are_read(copy: Path, content: bytes):
    (copy / "labels.json").write_bytes(content)
    index = open_index(copy)
    assert "labels.json is damaged" in refusal(lambda _: index.labels, copy)
    assert index.verify() == ["labels.json"]


def test_a_flipped_byte_is_found_by_verify(copy: Path):
    raw = bytearray((copy / "firing_value.npy").read_bytes())
    raw[-1] ^= 1
    (copy / "firing_value.npy").write_bytes(raw)
    assert open_index(copy).verify() == ["firing_value.npy"]


def test_what_is_no_index_is_told_apart(word_sae: Path, whole: Index, tmp_path: Path):
    assert "is an SAE; build its index first" in refusal(open_index, word_sae)
    assert "nearest: whole" in refusal(open_index, whole.folder.parent / "hole")
    assert "nothing does not exist; expected a folder" in refusal(open_index, tmp_path / "nothing")


def test_commands_on_an_index(whole: Index, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert dispatch(["features", "show", str(whole.folder)]) == 0
    assert "40 documents" in capsys.readouterr().out
    busiest = int(np.argmax(whole["rate"]))
    assert dispatch(["features", "show", str(whole.folder), str(busiest), "--n", "3"]) == 0
    shown = capsys.readouterr().out
    assert f"feature {busiest}" in shown
    assert shown.count("[") >= 3
    assert dispatch(["features", "show", str(whole.folder), str(busiest), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["number"] == busiest
    assert dispatch(["features", "show", str(whole.folder), "error"]) == 0
    assert "misses most" in capsys.readouterr().out
    for arguments, line in (
        (["show", str(whole.folder), "64000"], "has features 0 to"),
        (["show", str(whole.folder), "tower"], "expected a number"),
        (["shew"], "nearest: 'show'"),
        (["export", str(whole.folder)], "expected --html FILE or --neuronpedia FOLDER"),
        (["build", "--out", str(tmp_path / "x"), "--sae", "a", "--basis", "b"], "both --sae and --basis"),
        (["build", "--out", str(tmp_path / "x"), "--store", str(tmp_path)], "is no store"),
    ):
        with pytest.raises(UserError) as raised:
            dispatch(["features", *arguments])
        assert line in the_line(raised)
    assert not (tmp_path / "x").exists()
    assert dispatch(["features", "--help"]) == 0


def test_an_sae_of_another_site_than_the_store_is_refused(word_model: Model, word_sae: Path, tmp_path: Path):

    plan, tokens = plan_capture(word_model, SENTENCES, ["blocks.1.hook_resid_post"])
    store = capture_store(word_model, tmp_path / "store", plan, tokens)
    sae = load_sae(word_sae, word_model)
    with pytest.raises(UserError, match=r"the rows are of blocks\.1\.hook_resid_post"):
        built(word_model, sae, tmp_path / "index", store=store)
