"""The wheel: what is in it, and that it works far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READ_DATA = "import interp; print(interp.__file__); print(interp.data('facts/capitals.csv').read_text())"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command that must succeed; it sees no PYTHONPATH but the one given."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ".", cwd=ROOT)
    (built,) = folder.glob("interp_probes-*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def sources(folder: str) -> set[str]:
    """Every file of a source folder that git would keep, by its path from the root."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder, cwd=ROOT)
    return {path for path in listed.splitlines() if (ROOT / path).exists()}


@pytest.mark.parametrize("folder", ["interp", "probes"])
def test_the_wheel_holds_every_file_of_the_package(contents: set[str], folder: str):
    assert sources(folder) - contents == set()
    assert f"{folder}/__init__.py" in contents


def test_the_wheel_holds_every_data_file(contents: set[str]):
    expected = {f"interp/_data/{path.removeprefix('data/')}" for path in sources("data")}
    assert "interp/_data/facts/capitals.csv" in expected
    assert expected - contents == set()


@pytest.mark.parametrize("pattern", ["interp/py.typed", "interp/views/*.j2", "interp/views/*.css"])
def test_the_wheel_holds_the_files_that_are_not_python(contents: set[str], pattern: str):
    assert any(Path(name).match(pattern) for name in contents)


def test_the_wheel_holds_nothing_else(contents: set[str]):
    tops = {name.split("/")[0] for name in contents if ".dist-info/" not in name}
    assert tops == {"interp", "probes"}
    assert not [name for name in contents if name.endswith(".pyc") or "/tests/" in name]


def test_the_metadata_names_the_licence_the_command_and_the_python(metadata: Message, wheel: Path):
    assert metadata["Name"] == "interp-probes"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    with zipfile.ZipFile(wheel) as archive:
        (scripts,) = (n for n in archive.namelist() if n.endswith("/entry_points.txt"))
        assert "interp = interp.cli:main" in archive.read(scripts).decode()
        assert any(n.endswith("/licenses/LICENSE") for n in archive.namelist())


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone, installed far from the checkout; the dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_the_installed_wheel_finds_its_data(site: Path, tmp_path: Path):
    out = run(sys.executable, "-c", READ_DATA, cwd=tmp_path, PYTHONPATH=str(site))
    origin, text = out.split("\n", 1)
    assert Path(origin).is_relative_to(site), "else the checkout was imported, and this test would prove nothing"
    assert text.strip() == (ROOT / "data/facts/capitals.csv").read_text().strip()


def test_the_installed_wheel_has_the_command(site: Path, tmp_path: Path):
    assert "probe" in run(sys.executable, site / "bin" / "interp", "--help", cwd=tmp_path, PYTHONPATH=str(site))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_installs_in_an_empty_environment(wheel: Path, tmp_path: Path):
    """The one test that needs a package index: pip brings every dependency anew."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin = tmp_path / "venv" / "bin"
    run(bin / "python", "-m", "pip", "install", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    out = run(bin / "python", "-c", READ_DATA, cwd=tmp_path)
    assert Path(out.splitlines()[0]).is_relative_to(tmp_path)
    assert "probe" in run(bin / "interp", "--help", cwd=tmp_path)
