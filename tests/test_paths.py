"""`~` is the home folder wherever a user can type a path, and a folder really called `~` is never made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_index import write_fake_index
from fake_run import write_run
from refusals import refusal, the_line
from stores import MIDDLE, SMALL, TEXTS

from interp import Model, UserError, build_report, load_model, open_store
from interp.activations.capture import capture_store
from interp.activations.plan import plan_capture
from interp.analysis.tuned_lens import TunedLens, load_lens
from interp.cli import dispatch
from interp.cli.terminal import Positional, parse
from interp.features import load_ask, open_index, write_neuronpedia, write_page
from interp.lab.discover import load_probe
from interp.lab.new_probe import write_probe
from interp.lab.runner import check_out
from interp.lab.runs import read_run
from interp.lab.series import open_series, read_series
from interp.model.loading.cache import cache_dir
from interp.paths import check_place, expand
from interp.saes import coordinates_as_sae, load_sae, load_transcoder, save_sae, site_of
from interp.text.corpus import load_corpus
from interp.text.data import data
from interp.text.facts import load_facts
from interp.text.pairs import load_pairs


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and a current folder apart from it in which no `~` may appear."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder_and_other_paths_stay_as_they_are(home: Path) -> None:
    assert expand("~") == home
    assert expand("~/a/b") == expand(Path("~/a/b")) == home / "a" / "b"
    for same in ("a/b", "/a", "a~", "a/~", "a/~/b", ""):
        assert expand(same) == Path(same)


def test_a_folder_really_called_tilde_can_be_named_and_expanding_twice_changes_nothing(home: Path) -> None:
    there = expand("./~/x")
    assert there == Path.cwd() / "~" / "x"
    assert expand(there) == there
    assert expand(expand("~/x")) == home / "x"


def test_a_user_who_is_not_here_is_one_line(home: Path) -> None:
    assert "user 'no-such-user' has no home folder on this machine" in refusal(expand, "~no-such-user/x")


@dataclass
class Options:
    """Options with paths of every form."""

    index: Positional[Path]
    """One."""
    out: Path | None = None
    """One or none."""
    several: tuple[Path, ...] = ()
    """Several."""
    more: list[Path] = field(default_factory=list)
    """Several in a list."""
    text: str = ""
    """No path."""


def test_every_flag_that_is_a_path_is_expanded_in_one_place(home: Path) -> None:
    line = ["~/i", "--out=~/o", "--several", "~", "a", "--more", "./~", "--text", "~/t"]
    options = parse(Options, line, "x")
    assert options == Options(home / "i", home / "o", (home, Path("a")), [Path.cwd() / "~"], "~/t")
    with pytest.raises(UserError) as refused:
        parse(Options, ["~no-such-user/i"], "x")
    assert "has no home folder" in the_line(refused)


def test_a_place_that_cannot_be_a_folder_is_one_line(home: Path) -> None:
    (home / "file").write_text("x")
    for place, said in (
        (home / "file", "--out .*file is a file; expected a folder to create"),
        (home / "file" / "below", "lies under .*file, which is a file"),
        (home / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UserError, match=said):
            check_place(place, "--out")
    check_place(home / "new" / "deep", "--out")


def test_what_python_opens_is_found_at_home(home: Path, tiny_gpt2: Model) -> None:
    (home / "c.jsonl").write_text('{"text": "one two"}\n')
    (home / "c.txt").write_text("three four")
    assert load_corpus("~/c.jsonl") == ["one two"]
    assert load_corpus(Path("~/c.txt")) == ["three four"]
    facts = data("facts/capitals.csv")
    for name in ("capitals.csv", "capitals.toml"):
        (home / name).write_text(facts.with_name(name).read_text())
    assert load_facts("~/capitals.csv").facts == load_facts(facts).facts
    (home / "pairs.csv").write_text("child,parent,parent_type\nAda Bell,Mia Bell,mother\n")
    assert len(load_pairs("~/pairs.csv").pairs) == 1
    plan, tokens = plan_capture(tiny_gpt2, TEXTS, MIDDLE, shard_bytes=SMALL)
    capture_store(tiny_gpt2, "~/store", plan, tokens)
    assert open_store("~/store").missing == []
    assert open_store("~/store").folder == home / "store"
    write_run(home / "run", [])
    assert read_run("~/run").folder == home / "run"
    assert write_probe("is-it-so", "~") == home / "is_it_so.py"
    assert load_probe("~/is_it_so.py").name == "is-it-so"
    with pytest.raises(UserError, match="not empty"):
        check_out("~/run")
    assert list(Path().iterdir()) == [], "nothing is made in the current folder"


def test_models_and_the_cache_are_found_at_home(home: Path, tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "model").symlink_to(tiny_gpt2.provenance.location)
    assert load_model("~/model").provenance.location == str(home / "model")
    assert str(home) in refusal(load_model, "~/none.gguf")
    assert "has no home folder" in refusal(load_model, "~no-such-user/model")
    monkeypatch.delenv("INTERP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == home / ".cache" / "interp-probes"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert cache_dir() == home / "xdg" / "interp-probes"
    monkeypatch.setenv("INTERP_CACHE", "~/cache")
    assert cache_dir() == home / "cache"


def test_saes_and_lenses_are_written_and_read_at_home(home: Path, tiny_gpt2: Model) -> None:
    width = tiny_gpt2.d_model
    made = coordinates_as_sae(tiny_gpt2, MIDDLE, torch.randn(50, width), k=3)
    assert save_sae(made, "~/sae") == home / "sae"
    assert site_of(load_sae("~/sae", tiny_gpt2)) == MIDDLE
    assert str(home / "none") in refusal(load_sae, "~/none")
    assert str(home / "none") in refusal(load_transcoder, "~/none")
    lens = TunedLens(
        tiny_gpt2, {0: torch.zeros(width, width)}, {0: torch.zeros(width)}, {"weights": tiny_gpt2.provenance.weights}
    )
    lens.save("~/lens.safetensors")
    assert load_lens("~/lens.safetensors", tiny_gpt2).layers == [0]
    assert (home / "lens.safetensors").is_file()
    assert list(Path().iterdir()) == []


def test_indexes_reports_and_series_are_written_and_read_at_home(home: Path) -> None:
    write_fake_index(home / "index")
    index = open_index("~/index")
    assert index.folder == home / "index"
    assert write_page(index, "~/page.html") == home / "page.html"
    assert all(path.parent == home / "exported" for path in write_neuronpedia(index, "~/exported", [0, 1]))
    write_run(home / "run", [])
    assert build_report(["~/run"], "~/report.html") == home / "report.html"
    assert open_series("~/series", {"seed": "0"}).folder == home / "series"
    assert read_series("~/series") == open_series("~/series", {"seed": "0"})
    (home / "ask.py").write_text("def ask(question):\n    return question\n")
    assert load_ask("~/ask.py:ask")("what?") == "what?"
    assert list(Path().iterdir()) == [], "nothing is made in the current folder"


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (["capture", "--corpus=~/c.jsonl", f"--sites={MIDDLE}", "--out=~/new", "--model=~/model"], "new/plan.json"),
        (["probe", "new", "is-it-so", "--folder=~"], "is_it_so.py"),
        (["report", "~/run", "--out=~/new.html"], "new.html"),
        (["store", "info", "~/store"], "store/plan.json"),
        (["store", "verify", "~/store"], "store/plan.json"),
    ],
)
def test_a_command_writes_and_reads_at_home(
    home: Path, tiny_gpt2: Model, whole_store: Any, arguments: list[str], made: str
) -> None:
    (home / "c.jsonl").write_text(json.dumps({"text": "Mary walked to Rome"}) + "\n")
    (home / "model").symlink_to(tiny_gpt2.provenance.location)
    (home / "store").symlink_to(whole_store[0].folder)
    write_run(home / "run", [])
    assert dispatch(arguments) == 0
    assert (home / made).is_file()
    assert list(Path().iterdir()) == [], "nothing is made in the current folder"


@pytest.mark.parametrize(
    "arguments",
    [
        ["probe", "dice-roll", "--out=~/taken"],
        ["probe", "all", "--out=~/taken/file"],
        ["demo", "--out=~/taken"],
        ["features", "build", "--out=~/taken/file"],
        ["sae", "train", "--out=~/taken", "--store=~/nothing"],
        ["explore", "~/nothing"],
        ["features", "show", "~/nothing"],
        ["features", "search", "~/nothing", "word"],
        ["features", "export", "~/nothing", "--html=~/x.html"],
    ],
)
def test_a_command_that_refuses_names_the_place_at_home_and_makes_nothing(home: Path, arguments: list[str]) -> None:
    (home / "taken").mkdir()
    (home / "taken" / "file").write_text("x")
    with pytest.raises(UserError) as refused:
        dispatch(arguments)
    assert str(home) in the_line(refused)
    assert list(Path().iterdir()) == []


def test_a_hand_written_folder_called_tilde_would_be_seen(home: Path) -> None:
    """Negative control: what taking `~` as it stands would do."""
    made: Callable[[str], None] = lambda path: Path(path).mkdir(parents=True)  # noqa: E731
    made("~/x")
    assert [path.name for path in Path().iterdir()] == ["~"]
