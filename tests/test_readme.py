"""The README's code runs as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answered import drawn

import interp
import interp.stats
from interp.activations.capture import capture_store
from interp.activations.plan import plan_capture
from interp.cli import COMMANDS, dispatch
from interp.lab.discover import load_probe
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.views.figures import KINDS

ROOT = Path(__file__).parents[1]
GUIDES = ["README.md", "CONTRIBUTING.md", "probes/README.md", *(
    file.relative_to(ROOT).as_posix() for file in sorted(ROOT.glob("interp/*/README.md"))
)]  # fmt: skip
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def blocks(file: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(encoding="utf-8"), re.DOTALL)


def differing(block: str, printed: str) -> list[tuple[str, str]]:
    """Pairs of what the comments of a block say is printed, and what is; numbers may differ by a hundredth."""
    said = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
    lines = printed.splitlines()
    assert len(said) == len(lines), (said, lines)

    def parts(text: str) -> tuple[list[str], list[float]]:
        return NUMBER.split(text), [float(number) for number in NUMBER.findall(text)]

    def are_alike(comment: str, line: str) -> bool:
        (words, numbers), (others, values) = parts(comment), parts(line)
        return words == others and numbers == pytest.approx(values, rel=0.01)

    return [(comment, line) for comment, line in zip(said, lines, strict=True) if not are_alike(comment, line)]


def test_the_first_lines_steer_and_the_next_capture_and_edit(smol: Model, capsys: pytest.CaptureFixture[str]) -> None:
    """Both print what their comments say, and the steered text is another one than the plain text."""
    names: dict[str, Any] = {}
    for block in blocks("README.md")[:2]:
        exec(block, names)
        assert differing(block, capsys.readouterr().out) == []
    plain, steered = re.findall(r"print\(model\.generate.*\)  # (.*)$", blocks("README.md")[0], re.MULTILINE)
    assert plain != steered
    before, after = re.findall(r"print\(repr\(.*\)\)  # (.*)$", blocks("README.md")[1], re.MULTILINE)
    assert before != after, "else nothing shows that the ablation did something"


def test_a_comment_that_is_not_what_is_printed_is_found() -> None:
    block = "print(receipts)  # fired 20x, mean norm 34.62 -> 0\nprint(text)  #  sad"
    assert differing(block, "fired 20x, mean norm 34.63 -> 0\n sad") == []
    assert len(differing(block, "fired 20x, mean norm 36.62 -> 0\n happy")) == 2
    assert len(differing(block, "fired 21x, mean norm 34.62 -> 0\n sad")) == 1


def test_the_probe_in_the_readme_is_a_probe(smol: Model, tmp_path: Path) -> None:
    file = tmp_path / "round_numbers.py"
    file.write_text(blocks("README.md")[2], encoding="utf-8")
    (finding,) = drawn(load_probe(str(file))(Lab(smol)))
    assert finding.estimate.n == finding.control.estimate.n == 9
    assert finding.estimate.mean < finding.control.estimate.mean


def test_the_store_of_the_guide_is_read(smol: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [f"Number {i} walked to the sea and back again, and told nobody of it." for i in range(58)]
    plan, tokens = plan_capture(smol, texts, "blocks.14.hook_resid_post")
    capture_store(smol, Path("store"), plan, tokens)
    names: dict[str, Any] = {}
    (block,) = blocks("interp/activations/README.md")
    exec(block, names)
    assert names["rows"].shape == (512, 576)
    assert names["batch"]["blocks.14.hook_resid_post"].shape == (256, 576)


def test_the_probe_in_contributing_is_a_probe_with_a_figure(smol: Model, tmp_path: Path) -> None:
    file = tmp_path / "longer_is_more_certain.py"
    file.write_text(blocks("CONTRIBUTING.md")[0], encoding="utf-8")
    probe = load_probe(str(file))
    assert probe.title == "Does a longer prompt make the next word more certain?"
    (finding,) = drawn(probe(Lab(smol)))
    assert finding.answers
    assert [row["words"] for row in finding.table] == [4, 8]
    assert finding.figure is not None


def test_the_kinds_of_figure_that_contributing_lists_are_all_there_are() -> None:
    listed = re.search(r"kinds are (.*?);", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed.group(1))) == set(KINDS)


def dead_ends(text: str, folder: Path) -> list[str]:
    """Links to files that are not there, and scripts, tests, make targets and commands that do not exist."""
    links = [link for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text) if not (folder / link).exists()]
    named = re.findall(r"\b((?:scripts|tests|probes|interp)/[\w/]+\.(?:py|md|txt))\b", text)
    files = [name for name in named if not (ROOT / name).exists()]
    commands = [name for name in re.findall(r"(?:^|`)interp ([a-z]+)", text, re.MULTILINE) if name not in COMMANDS]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    return [*links, *files, *commands, *(t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE))]


@pytest.mark.parametrize("file", GUIDES)
def test_every_link_file_and_command_of_a_guide_exists(file: str) -> None:
    path = ROOT / file
    assert dead_ends(path.read_text(encoding="utf-8"), path.parent) == []


def test_the_guide_to_probes_says_when_to_take_which_estimate() -> None:
    guide = (ROOT / "probes/README.md").read_text(encoding="utf-8")
    table = guide[guide.index("| your numbers |") : guide.index("| you need |")]
    for name in (
        "estimate_mean", "estimate_gap", "estimate_crossed", "proportion", "null_of", "known", "set_beforehand",
    ):  # fmt: skip
        assert re.search(rf"\b{name}\b", table), name
        assert name in {*interp.__all__, *interp.stats.__all__}, "a front door has it"


def test_a_planted_dead_end_is_found() -> None:
    planted = "[a](layout.py) `scripts/no_such.py` `interp prob all`, `make tests` [b](https://x.org) `interp probe x`"
    assert dead_ends(planted, ROOT / "interp" / "features") == ["layout.py", "scripts/no_such.py", "prob", "tests"]


@pytest.mark.slow
def test_the_guide_to_saes_runs_from_the_first_block_to_the_last(
    smol: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("interp/saes/README.md"):
        exec(block, names)
    assert {"cfg.json", "sae_weights.safetensors", "metrics.jsonl"} < {path.name for path in Path("sae").iterdir()}
    assert names["report"].n_documents == 20


@pytest.mark.slow
def test_the_guide_to_features_runs_from_the_first_block_to_the_last(
    smol: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dispatch(["features", "build", "--out", "index", "--max-tokens", "1200", "--effects", "0"]) == 0
    names: dict[str, Any] = {}
    for block in blocks("interp/features/README.md"):
        exec(block, names)
    assert "Index('index': 4,608 features, 1,200 tokens)" in capsys.readouterr().out
    assert len(names["rows"]) == names["feature"].firings
    assert len(names["figures"]) == 3
    assert names["reading"].next[0].text == " Paris"
    assert names["steered"].text != names["plain"].text
    (tmp_path / "mine.py").write_text(blocks("interp/features/README.md")[-1], encoding="utf-8")
    assert dispatch(["features", "label", "index", "--ask", "mine.py:ask", "--n", "2"]) == 0
    assert "tokens about human beings" in capsys.readouterr().out


@pytest.fixture
def loaded(smol: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A guide that loads the bundled model gets the one that is loaded, and leaves no site of its own in it."""

    def give(name: str) -> Model:
        assert name == "smollm2-135m"
        return smol

    monkeypatch.setattr(interp, "load_model", give)
    before = {*smol.tree.registered}
    yield
    smol.tree.forget_sites([site for site in smol.tree.registered if site not in before])


@pytest.mark.usefixtures("loaded")
def test_the_hook_guide_runs_from_the_first_block_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # it writes a store
    names: dict[str, Any] = {}
    for block in blocks("interp/model/README.md"):
        exec(block, names)
    assert "fired 1x" in capsys.readouterr().out
    assert (tmp_path / "streams" / "plan.json").exists()
    assert names["swept"].effect.shape == (1, 2, 5)
    assert names["moved"].top() == {"site": "blocks.23.attn.hook_z", "head": 3}
    assert float(names["moved"].share[0, 0, 3]) > 0.3 > 0.1 > abs(float(names["looked"].share[0, 0, 3]))
    assert len(names["guessed"].rows()) == 270
    assert Path("sweep.html").stat().st_size > 1e6, "with its JavaScript in it"
    assert len(set(names["drawn"])) == 3
    assert names["acts"].last("blocks.3.hook_resid_post").shape == (2, 576)


def test_the_probe_of_the_guide_is_built_as_it_says(smol: Model, tmp_path: Path) -> None:
    file = tmp_path / "overlooks_not.py"
    file.write_text("\n".join(blocks("probes/README.md")), encoding="utf-8")
    findings = drawn(load_probe(str(file))(Lab(smol)))
    assert [finding.verdict for finding in findings] == ["yes"] * 4
    ahead, less, sees, _ = findings
    assert less.paired is not None, "the worked line of a paired control"
    guide = " ".join((ROOT / "probes/README.md").read_text(encoding="utf-8").split())
    told = re.search(r'class is ([\d.]+) nats ahead, after "is a" it is (\d+\.\d)', guide)
    assert told is not None
    assert [f"{finding.estimate.mean:.1f}" for finding in (ahead, sees)] == list(told.groups())
    assert ahead.figure is not None
