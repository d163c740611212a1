"""The wheel: what is in it, and that it works far from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import warm
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
# The paths that are given, and of the usual ones those of this environment: no checkout, wherever it stands.
ON_PATHS = """
import sys
usual = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
sys.path[:] = [*sys.argv[1:], *usual]
"""
WHERE_IS = """
import sys
from interp.lab.discover import load_probe
print(sys.modules[load_probe("dice-roll").function.__module__].__file__)
"""
READ_DATA = "import interp; print(interp.__file__); print(interp.data('facts/capitals.csv').read_text())"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command that must succeed; it sees no PYTHONPATH but the one given."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_warm(script: str, *paths: Path, cwd: Path) -> str:
    """What a script prints that must succeed, with these paths before this environment's."""
    done = warm.run(ON_PATHS + script, paths, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(checkout: Path, folder: Path) -> Path:
    """The wheel of a checkout, put into `folder`, by the builder that pip calls (the editable install asks pip)."""
    (built,) = WheelBuilder(str(checkout)).build(directory=str(folder), versions=["standard"])
    return Path(built)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    return names_in(wheel)


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def sources(folder: str) -> set[str]:
    """Every file of a source folder that git would keep, by its path from the root."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder, cwd=ROOT)
    return {path for path in listed.splitlines() if (ROOT / path).exists()}


@pytest.mark.parametrize(("folder", "installed"), [("interp", "interp"), ("probes", "interp_probes")])
def test_the_wheel_holds_every_file_of_the_package(contents: set[str], folder: str, installed: str):
    expected = {f"{installed}/{path.removeprefix(f'{folder}/')}" for path in sources(folder)}
    assert f"{installed}/__init__.py" in expected
    assert expected - contents == set()


def test_the_wheel_holds_every_data_file(contents: set[str]):
    expected = {f"interp/_data/{path.removeprefix('data/')}" for path in sources("data")}
    assert "interp/_data/facts/capitals.csv" in expected
    assert expected - contents == set()


@pytest.mark.parametrize("pattern", ["interp/py.typed", "interp/views/*.j2", "interp/views/*.css"])
def test_the_wheel_holds_the_files_that_are_not_python(contents: set[str], pattern: str):
    assert any(Path(name).match(pattern) for name in contents)


def strangers(contents: set[str]) -> set[str]:
    """What no wheel of this project may hold: other top-level names than its own two, compiled files and tests."""
    files = {name for name in contents if ".dist-info/" not in name}
    compiled = {name for name in files if name.endswith((".pyc", ".pyo")) or "/tests/" in name}
    return compiled | {top for name in files if (top := name.split("/")[0]) not in ("interp", "interp_probes")}


def test_the_wheel_holds_interp_and_interp_probes_and_nothing_else(contents: set[str]):
    assert strangers(contents) == set()
    assert {name.split("/")[0] for name in contents if ".dist-info/" not in name} == {"interp", "interp_probes"}
    planted = {"probes/__init__.py", "interp/old.pyc"}
    assert strangers(contents | planted) == {"probes", "interp/old.pyc"}


def test_what_lies_about_in_the_checkout_stays_out_of_the_wheel(contents: set[str], tmp_path: Path):
    """Compiled files, and what git ignores: a wheel built beside them is the same wheel."""
    copy = tmp_path / "checkout"
    for path in (path for part in ("interp", "probes", "data", "pyproject.toml", "README.md", "LICENSE", ".gitignore")
                 for path in sources(part)):  # fmt: skip
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, copy / path)
    for stray in ("interp/old.pyc", "probes/__pycache__/a.cpython-311.pyc", "data/a.pyc", "probes/.ruff_cache/a"):
        (copy / stray).parent.mkdir(parents=True, exist_ok=True)
        (copy / stray).write_bytes(b"")
    assert names_in(build(copy, tmp_path)) == contents
    (copy / "probes/mine.py").write_text('"""A file that git would keep."""')
    assert names_in(build(copy, tmp_path / "again")) == contents | {"interp_probes/mine.py"}, "negative control"


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
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        folder,
        wheel,
        cwd=folder,
    )
    return folder


def test_the_installed_wheel_finds_its_data(site: Path, tmp_path: Path):
    out = run(sys.executable, "-c", READ_DATA, cwd=tmp_path, PYTHONPATH=str(site))
    origin, text = out.split("\n", 1)
    assert Path(origin).is_relative_to(site), "else the checkout was imported, and this test would prove nothing"
    assert text.strip() == (ROOT / "data/facts/capitals.csv").read_text().strip()


def test_the_installed_wheel_has_the_command(site: Path, tmp_path: Path):
    assert "probe" in run(sys.executable, site / "bin" / "interp", "--help", cwd=tmp_path, PYTHONPATH=str(site))


COMMANDS = """
from interp.cli import main
for line in (["probe"], ["probe", "dice-roll", "--help"]):
    try:
        main(line)
    except SystemExit as ended:
        assert not ended.code
print("---")
"""


def told_and_where(folder: Path, *paths: Path) -> tuple[str, str]:
    """What the commands print, and where the probe's file lies."""
    told, where = run_warm(COMMANDS + WHERE_IS, *paths, cwd=folder).split("---\n")
    return told, where


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with somebody else's package `probes`, which must be neither listed nor imported."""
    package = tmp_path / "foreign" / "probes"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the foreign package was imported')")
    (package / "dice_roll.py").write_text('"""Not ours."""\nraise SystemExit("the foreign module was imported")')
    (package / "space_probe.py").write_text('"""Not ours either."""')
    return package.parent


def test_the_installed_wheel_runs_its_probes_beside_a_foreign_package_of_that_name(
    site: Path, foreign: Path, tmp_path: Path
):
    told, where = told_and_where(tmp_path, foreign, site)
    assert "dice-roll" in told
    assert "Not ours" not in told
    assert "Asked to roll a die" in told
    assert Path(where.strip()) == site / "interp_probes" / "dice_roll.py"
    shutil.copytree(foreign / "probes", site / "probes")  # as `pip install` of that package would
    try:
        assert run_warm(WHERE_IS, site, cwd=tmp_path) == where
    finally:
        shutil.rmtree(site / "probes")


def test_a_checkout_runs_its_probes_beside_a_foreign_package_of_that_name(foreign: Path, tmp_path: Path):
    for path in ([ROOT], [foreign, ROOT]):
        said, where = told_and_where(tmp_path, *path)
        assert Path(where.strip()) == ROOT / "probes" / "dice_roll.py"
        assert "Not ours" not in said
        assert "Asked to roll a die" in said


def test_an_editable_install_reads_the_checkout_and_copies_nothing(tmp_path: Path):
    """It is a path into the checkout: a probe that is changed there is changed, and no copy of it grows old."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", site]
    run(*pip, "-e", ROOT, cwd=tmp_path)
    assert not [file for file in site.rglob("*") if file.suffix == ".py" or "_data" in file.parts]
    (lines,) = (file.read_text().splitlines() for file in site.glob("*.pth"))
    assert lines == [str(ROOT)]
    where = run_warm(WHERE_IS, Path(lines[0]), cwd=tmp_path)
    assert Path(where.strip()) == ROOT / "probes" / "dice_roll.py"


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
