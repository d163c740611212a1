"""`interp doctor` runs where libraries are missing, and says which and how to get them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import warm
from safetensors.torch import save_file

from interp.model.loading import doctor
from interp.model.loading.doctor import EXTRAS, LIBRARIES, check_machine, explain_import_error

ROOT = Path(__file__).parents[1]

# Runs the command with these modules missing, as if they had never been installed.
WITHOUT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise {error}

for name in list(sys.modules):  # a warm process has some of them, and settings of the hub's client
    if name.partition(".")[0] in [*{blocked!r}, "huggingface_hub"]:
        del sys.modules[name]
sys.meta_path.insert(0, Block())
from interp.cli import main
main(sys.argv[1:])
"""
ABSENT = "ModuleNotFoundError(f'No module named {name!r}', name=name)"
NAMELESS = "ImportError(f'{name} is blocked')"
OF_THE_COMMAND = ("tyro", "numpy")  # the command line itself needs these


def run_without(blocked: list[str], *arguments: str, error: str = ABSENT) -> subprocess.CompletedProcess[str]:
    """In an interpreter of its own where that need not import torch for seconds."""
    script = WITHOUT.format(blocked=blocked, error=error)
    if "torch" not in blocked:
        return warm.run(script, arguments, cwd=ROOT)
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def lines_of(output: str) -> dict[str, str]:
    """The line of each thing that was looked at, by its name."""
    rows = [(re.split(r"\s{2,}", line, maxsplit=2), line) for line in output.splitlines()]
    return {row[1]: line for row, line in rows if len(row) > 2}


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        (["torch"], ABSENT),
        (["torch"], NAMELESS),
        (["transformers"], ABSENT),
        (["sae_lens"], ABSENT),
        (["transformer_lens"], ABSENT),
        (["plotly"], ABSENT),
        (["huggingface_hub"], NAMELESS),
        (["gguf", "safetensors", "tokenizers"], ABSENT),
        ([module for module in LIBRARIES.values() if module not in OF_THE_COMMAND], ABSENT),
    ],
)
def test_what_is_missing_is_told_with_the_command_and_without_a_traceback(missing: list[str], error: str):
    done = run_without(missing, "doctor", error=error)
    assert done.stderr == ""
    assert done.returncode == 1
    lines = lines_of(done.stdout)
    for name, module in LIBRARIES.items():
        assert lines[name].startswith("missing " if module in missing else "ok "), lines[name]
        _, installs, command = lines[name].partition("python -m pip install ")
        assert bool(installs) == (module in missing)
        assert not installs or name in command
    assert "our cache" in lines, "and what it looks at after the libraries"
    assert ("not known without torch" in lines["device"]) == ("torch" in missing)


def test_a_command_that_installs_keeps_to_the_bounds_of_this_package():
    """sae-lens does not run with the newest transformer-lens."""
    lines = lines_of(run_without(["transformer_lens", "rich"], "doctor").stdout)
    assert '"transformer-lens<4,>=3.9"' in lines["transformer-lens"]
    assert '"rich<16,>=14"' in lines["rich"]


def test_the_list_of_libraries_is_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {re.split(r"[<>=!~\[; ]", line)[0] for line in project["dependencies"]}
    assert asked <= set(LIBRARIES)
    assert set(LIBRARIES) - asked <= {"huggingface-hub"}, "which transformers brings"
    extras = {extra: names for extra, names in project["optional-dependencies"].items() if extra != "dev"}
    brought = {(re.split(r"[<>=]", line)[0], extra) for extra, names in extras.items() for line in names}
    assert brought == {(name, extra) for name, (extra, _) in EXTRAS.items()}


def test_an_extra_that_is_not_there_is_a_note_and_not_a_fault():
    done = run_without(["bitsandbytes"], "doctor")
    line = lines_of(done.stdout)["bitsandbytes"]
    assert line.startswith("note ")
    assert 'python -m pip install "interp-probes[quantize]"' in line
    assert done.returncode == 0, done.stdout


def test_weights_of_a_cached_model_are_counted_by_their_headers(tmp_path: Path):
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16)}, tmp_path / "float.safetensors")
    save_file({"a": torch.zeros(3, 5, dtype=torch.uint8), "s": torch.zeros(3)}, tmp_path / "packed.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "float.safetensors").read_bytes()[:20])
    assert doctor._count([tmp_path / "float.safetensors"]) == 22
    for bad in ("packed", "cut", "absent"):
        assert doctor._count([tmp_path / f"{bad}.safetensors"]) is None, bad


def test_a_failed_import_is_explained_only_where_a_library_is_missing(monkeypatch: pytest.MonkeyPatch):
    error = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert explain_import_error(error) is None, "it is there, so the error is another one: a bug of ours"
    monkeypatch.setitem(LIBRARIES, "torch", "no_such_module_torch")
    line = explain_import_error(error)
    assert line is not None
    assert "\n" not in line
    assert 'run: python -m pip install "torch>=2.8"; see `interp doctor`' in line


def test_a_torch_that_does_not_work_is_told(monkeypatch: pytest.MonkeyPatch):
    def fail(_: str) -> None:
        raise OSError("libtorch_cpu.so: cannot open shared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    (device,) = [check for check in check_machine() if check.what == "device"]
    assert device.state == "missing"
    assert "libtorch_cpu.so: cannot open shared object file" in device.found
    assert device.fix.endswith("--force-reinstall")


@pytest.mark.parametrize(
    ("variable", "what"), [("INTERP_CACHE", "our cache"), ("HF_HOME", "Hugging Face"), ("HF_HUB_CACHE", "Hugging Face")]
)
def test_a_file_where_a_cache_should_be_is_named_with_its_variable(
    tmp_path: Path, variable: str, what: str, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "file"
    file.write_text("")
    for name in ("INTERP_CACHE", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(file))
    for missing in (["torch"], ["torch", "huggingface_hub"]):
        done = run_without(missing, "doctor")
        (line,) = [line for line in done.stdout.splitlines() if f"{file} is a file" in line]
        assert line.startswith(f"missing  {what}")
        assert f"set {'INTERP_CACHE' if variable == 'INTERP_CACHE' else 'HF_HOME'}" in line
    done = run_without(["torch"], "models")
    assert done.returncode == 0, done.stderr
    assert "smollm2-135m" in done.stdout
