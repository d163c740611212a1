"""`interp models` and `interp parity` as typed: the model by its name, what is refused at once, what is listed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import the_line

from interp import Model, UserError
from interp.cli import dispatch


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tiny_gpt2: Model) -> list[tuple[Any, ...]]:
    """What each command asks of `load_model`, which gives the tiny GPT-2."""
    calls: list[tuple[Any, ...]] = []

    def load(*arguments: Any, **more: Any) -> Model:
        calls.append((*arguments, *more.values()))
        return tiny_gpt2

    monkeypatch.setattr("interp.model.loading.load.load_model", load)
    return calls


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["parity", "--dtype", "bf16"], "--dtype bf16 came; parity compares to one part in 100,000, which only fp32"),
        (["parity", "--dtype", "float16"], "leave --dtype out"),
        (["parity", "gpt2", "--model", "gpt3"], "two models came, gpt2 and --model gpt3; expected one"),
        (["parity", "./nosuch"], "./nosuch is not a model; expected a folder with config.json"),
        (["parity", "--model", "a/b/c"], "a/b/c is not a model"),
        (["parity", "nosuch.gguf"], "no such file: nosuch.gguf"),
        (["parity", "."], "has no config.json; expected a Hugging Face model folder"),
        (["parity", "--adapter", "nosuch"], "no folder nosuch; expected an adapter's"),
        (["parity", "--adapter", "."], "has no adapter_config.json"),
        (["models", "sites", "./nosuch"], "./nosuch is not a model"),
        (["models", "sites", "gpt2", "--adapter", "nosuch"], "no folder nosuch; expected an adapter's"),
        (["models", "sites", "blocks.*"], "expected its name first, such as: interp models sites smollm2-135m 'blocks"),
        (["models", "prepare", "./nosuch"], "./nosuch is not a model"),
        (["models", "list", "gpt2"], "interp models list takes no name, and 'gpt2' came; to fetch a model: interp"),
        (["models", "gpt2"], "unknown action 'gpt2'"),
        (["capture", "--corpus", "c", "--sites", "x", "--out", "o", "--model", "./nosuch"], "./nosuch is not a model"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    line: list[str], words: str, loaded: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        dispatch(line)
    assert words in the_line(refused)
    assert loaded == []


REFUSALS = """
import sys
from interp.cli import dispatch
from interp.errors import UserError
for line in (["parity", "./nosuch"], ["models", "sites", "./nosuch"], ["parity", "--adapter", "nosuch"],
             ["parity", "--dtype", "bf16"], ["models", "list", "gpt2"]):
    try:
        dispatch(line)
    except UserError as refused:
        print(refused)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


def test_wrong_paths_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", REFUSALS], cwd=tmp_path, capture_output=True, text=True, check=True)
    *lines, imported = done.stdout.splitlines()
    assert len(lines) == 5
    assert imported == "[]"


def test_parity_and_sites_take_the_model_by_name_or_by_flag(
    loaded: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in (["gpt2"], ["--model", "gpt2"], ["gpt2", "--model", "gpt2"]):
        assert dispatch(["models", "sites", *line]) == 0
    assert {call[0] for call in loaded} == {"gpt2"}
    assert dispatch(["models", "sites"]) == 0
    assert loaded[-1][0] == "smollm2-135m"
    monkeypatch.setattr("interp.model.checking.parity.check_parity", _refuse)
    for line in (["gpt2", "--dtype", "fp32", "--bos", "never"], ["--model", "gpt2"]):
        with pytest.raises(UserError, match="asked"):
            dispatch(["parity", *line])
    assert [call[0] for call in loaded[-2:]] == ["gpt2", "gpt2"]
    assert loaded[-2][2:4] == ("fp32", "never")


def _refuse(*_: Any, **__: Any) -> None:
    raise UserError("asked")


def test_the_sites_that_match_a_pattern_are_listed(
    loaded: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["models", "sites", "gpt2", "blocks.*.hook_resid_p*"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("site (* is the layer)")
    assert [row.split()[0] for row in rows] == ["blocks.*.hook_resid_pre", "blocks.*.hook_resid_post"]
    with pytest.raises(UserError, match="unknown site 'blocks"):
        dispatch(["models", "sites", "gpt2", "blocks.*.hook_nothing"])


def test_gated_sites_are_listed_at_the_end_with_their_cost_and_by_their_pattern(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny("llama")
    monkeypatch.setattr("interp.model.loading.load.load_model", lambda *_, **__: model)
    before = model.sites()
    dispatch(["models", "sites"])
    out, err = capsys.readouterr()
    gated = [line for line in out.splitlines() if line.startswith("opened when named: ")]
    cost = "keeps a residual stream a head: 4 x 128 bytes a token and layer"
    assert f"opened when named: blocks.*.attn.hook_result (2), {cost}" in gated
    kinds = {line.split()[3] for line in gated}
    assert len(kinds) == len(gated)
    assert {kind.rpartition("hook_")[2] for kind in kinds} >= {"attn_in", "mlp_in", "q_input", "k_input", "v_input"}
    assert not err.strip()
    assert model.sites() == before, "listing opens nothing for good"
    for kind in kinds:
        assert model.capture(["a b"], kind), f"{kind} is what a capture takes"
    capsys.readouterr()
    dispatch(["models", "sites", "x", "*hook_result"])
    (row,) = capsys.readouterr().out.splitlines()[1:]
    assert row.split() == ["blocks.*.attn.hook_result", "2", "prompt,", "pos,", "4", "heads,", "32"]


@pytest.mark.parametrize("command", ["list", "prepare", "sites"])
def test_help_names_the_command_that_it_is_of(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dispatch(["models", command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: interp models {command}")
    assert dispatch(["models", "--help"]) == 0
    assert f"interp models {command}" in capsys.readouterr().out


def test_the_help_of_parity_offers_no_other_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dispatch(["parity", "--help"])
    told = capsys.readouterr().out
    assert "fp32 alone" in told
    assert "bf16" not in told
