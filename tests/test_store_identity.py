"""Which captures are one: hashes of weights and tokenizer decide, names, places and machines are only told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import the_line
from safetensors.torch import load_file, save_file
from stores import MIDDLE, SMALL, TEXTS

from interp import Model, UserError, load_model, open_store
from interp.activations import capture as capture_module
from interp.activations import plan as plan_module
from interp.activations.capture import Worker, capture_store
from interp.activations.plan import Plan, plan_capture
from interp.activations.verify import verify_store
from interp.cli import dispatch

HALF = Worker(0, 2)


def begin(model: Model, out: Path) -> None:
    plan, tokens = plan_capture(model, TEXTS, MIDDLE, shard_bytes=SMALL)
    assert capture_store(model, out, plan, tokens, worker=HALF).missing


def go_on(model: Model, out: Path, **more: Any) -> None:
    plan, tokens = plan_capture(model, more.pop("texts", TEXTS), MIDDLE, shard_bytes=SMALL, **more)
    assert capture_store(model, out, plan, tokens).missing == []
    assert verify_store(open_store(out)) == []


def told(model: Model, **changes: Any) -> Model:
    return replace(model, provenance=replace(model.provenance, **changes))


def as_hub(model: Model) -> Model:
    """The same files, loaded by a name on the hub."""
    return told(model, name="tiny@main", source="hub", weights="commit:0123456789")


@pytest.fixture
def folder(tiny_gpt2: Model, tmp_path: Path) -> Path:
    """A copy of the model's folder."""
    shutil.copytree(tiny_gpt2.provenance.location, tmp_path / "models" / "a")
    return tmp_path / "models" / "a"


def test_a_capture_goes_on_however_the_models_folder_is_spelt_or_moved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(folder)
    spellings = ["models/a", "./models/a", "models/../models/a", str(folder), "link", "~/models/a"]
    begin(load_model("models/a", "cpu"), tmp_path / "s")
    plans = [plan_capture(load_model(name, "cpu"), TEXTS, MIDDLE, shard_bytes=SMALL)[0] for name in spellings]
    assert len({plan.hash for plan in plans}) == 1
    assert [plan.model["name"] for plan in plans] == spellings, "the name still informs"
    shutil.move(folder, tmp_path / "elsewhere")
    go_on(load_model("elsewhere", "cpu"), tmp_path / "s")
    assert open_store(tmp_path / "s").plan.model["name"] == "models/a"


@pytest.mark.parametrize("hub_first", [True, False])
def test_a_name_on_the_hub_and_a_folder_of_the_same_bytes_are_one_model(
    tiny_gpt2: Model, tmp_path: Path, hub_first: bool
) -> None:
    first, second = (as_hub(tiny_gpt2), tiny_gpt2) if hub_first else (tiny_gpt2, as_hub(tiny_gpt2))
    begin(first, tmp_path / "s")
    go_on(second, tmp_path / "s")


def test_two_commits_of_the_same_bytes_are_one_model_and_a_commit_is_one_without_its_bytes(
    tiny_gpt2: Model, tmp_path: Path
) -> None:
    begin(as_hub(tiny_gpt2), tmp_path / "s")
    go_on(told(as_hub(tiny_gpt2), weights="commit:another"), tmp_path / "s")
    plan, _ = plan_capture(as_hub(tiny_gpt2), TEXTS, MIDDLE)
    before = replace(plan, model={k: v for k, v in plan.model.items() if k != "files"})  # as earlier versions wrote it
    assert plan.is_same(before)
    assert before.is_same(plan)
    assert not before.is_same(replace(plan, model={**plan.model, "weights": "commit:another"}))


def test_a_store_of_an_earlier_version_goes_on_under_its_own_hash(tiny_gpt2: Model, tmp_path: Path) -> None:
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, MIDDLE, shard_bytes=SMALL)
    old = replace(plan, schema=1)
    assert old.hash != plan.hash
    capture_store(tiny_gpt2, tmp_path / "s", old, tokens, worker=HALF)
    go_on(told(tiny_gpt2, name="another spelling"), tmp_path / "s")
    assert open_store(tmp_path / "s").plan.hash == old.hash


def other_machine(monkeypatch: pytest.MonkeyPatch, device: str, threads: int | None) -> None:
    for module in (plan_module, capture_module):
        monkeypatch.setattr(module, "kernels", lambda _: {"device": device, "threads": threads})


@pytest.mark.parametrize(("device", "threads"), [("cpu AVX512", 64), ("NVIDIA H200", None)])
def test_another_machine_goes_on_and_every_shard_says_what_it_was_computed_on(
    tiny_gpt2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, threads: int | None
) -> None:
    begin(tiny_gpt2, tmp_path / "s")
    here = list(open_store(tmp_path / "s").computed_on)
    other_machine(monkeypatch, device, threads)
    go_on(tiny_gpt2, tmp_path / "s")
    store = open_store(tmp_path / "s")
    there = device if threads is None else f"{device}, {threads} threads"
    assert list(store.computed_on) == [*here, there]
    assert sum(store.computed_on.values()) == len(store.plan.shards)
    seal = json.loads((tmp_path / "s" / "shard-00001.json").read_text())
    assert seal["computed_on"] == {"device": device, "threads": threads}


def test_a_real_change_of_threads_gives_the_same_numbers_up_to_rounding(tiny_gpt2: Model, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, MIDDLE, shard_bytes=SMALL)
    whole = capture_store(tiny_gpt2, tmp_path / "whole", plan, tokens)
    begin(tiny_gpt2, tmp_path / "s")
    try:
        torch.set_num_threads(threads + 1)
        go_on(tiny_gpt2, tmp_path / "s")
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(open_store(tmp_path / "s").rows(MIDDLE), whole.rows(MIDDLE), atol=1e-4)


def with_other_weights(folder: Path, tiny_gpt2: Model) -> Model:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] + 1e-3}, file, metadata={"format": "pt"})
    return load_model(folder, "cpu")


def with_other_tokenizer(folder: Path, tiny_gpt2: Model) -> Model:
    return told(tiny_gpt2, tokenizer="sha256:another")


def with_other_dtype(folder: Path, tiny_gpt2: Model) -> Model:
    return load_model(folder, "cpu", "bf16")


def with_other_bos(folder: Path, tiny_gpt2: Model) -> Model:
    return load_model(folder, "cpu", bos="always")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (with_other_weights, "model.weights"),
        (with_other_tokenizer, "model.tokenizer"),
        (with_other_dtype, 'numerics.compute: "float32" there, "bfloat16" wanted'),
        (with_other_bos, 'cut.bos.policy: "tokenizer" there, "always" wanted'),
    ],
)
@pytest.mark.parametrize("loaded_as", [lambda model: model, as_hub])
def test_what_decides_the_numbers_is_still_refused(
    folder: Path,
    tiny_gpt2: Model,
    tmp_path: Path,
    changed: Callable[[Path, Model], Model],
    says: str,
    loaded_as: Callable[[Model], Model],
) -> None:
    """Negative controls: the name may even be the same."""
    begin(loaded_as(tiny_gpt2), tmp_path / "s")
    before = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    other = told(changed(folder, tiny_gpt2), name=tiny_gpt2.provenance.name)
    with pytest.raises(UserError) as refused:
        go_on(other, tmp_path / "s")
    assert says in the_line(refused)
    assert "schema" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before


def test_other_text_and_another_stored_dtype_are_still_refused(tiny_gpt2: Model, tmp_path: Path) -> None:
    begin(tiny_gpt2, tmp_path / "s")
    for change, says in (({"texts": [*TEXTS[:-1], "other"]}, "corpus.fingerprint"), ({"dtype": "bf16"}, "stored")):
        with pytest.raises(UserError, match=says):
            go_on(told(tiny_gpt2, name="x"), tmp_path / "s", **change)


def test_a_bos_policy_set_on_the_model_itself_is_in_the_plan(tiny_gpt2: Model) -> None:
    plan: Plan = plan_capture(tiny_gpt2.with_bos("always"), TEXTS, MIDDLE)[0]
    assert plan.cut["bos"]["policy"] == "always"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text("\n\n".join(TEXTS))
    return [
        "capture",
        "--corpus",
        "c.txt",
        "--sites",
        MIDDLE,
        "--shard-bytes",
        "20000",
        "--out",
        "s",
        "--device",
        "cpu",
    ]


def test_the_command_goes_on_from_another_place_and_another_device_without_further_flags(
    line: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dispatch([*line, "--model", "models/a", "--shard", "0/2"]) == 0
    capsys.readouterr()
    monkeypatch.setitem(plan_module.BATCH_TOKENS, "cpu", 16_384)  # what a GPU takes by default
    other_machine(monkeypatch, "NVIDIA H200", None)
    assert dispatch([*line, "--model", str(folder), "--plan-only"]) == 0
    assert dispatch([*line, "--model", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "going on:" in shown.err
    assert "this is NVIDIA H200" in shown.err
    assert dispatch(["store", "info", "s"]) == 0
    assert "and NVIDIA H200" in capsys.readouterr().out
    with pytest.raises(UserError, match="batch_tokens: 1024 there, 512 wanted"):
        dispatch([*line, "--model", "models/a", "--batch-tokens", "512"])


def test_a_bos_policy_is_a_flag_and_another_one_is_another_store(line: list[str]) -> None:
    assert dispatch([*line, "--model", "models/a", "--bos", "always"]) == 0
    store = open_store("s")
    assert store.plan.cut["bos"]["policy"] == "always"
    assert all(store.tokens.position[store.tokens.starts[:-1]] == -1), "a BOS opens every sequence"
    for other in ([], ["--bos", "never"]):
        with pytest.raises(UserError, match=r"cut\.bos\.policy: \"always\" there"):
            dispatch([*line, "--model", "models/a", *other])
    with pytest.raises(UserError, match="'sometimes' came for --bos; expected one of 'tokenizer', 'always', 'never'"):
        dispatch([*line, "--model", "models/a", "--bos", "sometimes"])


def test_a_store_that_calls_the_plain_model_a_trunk_goes_on(tiny_gpt2: Model, tmp_path: Path) -> None:
    """As earlier versions did; its shards name its plan by the hash that it had."""
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, MIDDLE, shard_bytes=SMALL)
    assert (plan.path, plan.numerics["path"]) == ("plain model", "plain model")
    older = replace(plan, numerics={**plan.numerics, "path": "trunk"})
    assert capture_store(tiny_gpt2, tmp_path / "older", older, tokens, worker=HALF).missing
    go_on(tiny_gpt2, tmp_path / "older")
    assert open_store(tmp_path / "older").plan.hash == older.hash != plan.hash
    assert open_store(tmp_path / "older").plan.path == "plain model"
    other = replace(plan, numerics={**plan.numerics, "path": "hooked tree"})
    assert not other.is_same(plan)
