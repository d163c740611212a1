"""`interp probe new`: the file that it lays down is a probe, and nobody's file is written over."""

from __future__ import annotations

from pathlib import Path

import pytest
from answered import drawn
from refusals import the_line

from interp import Lab, Model, UserError
from interp.cli import dispatch
from interp.lab.discover import load_probe
from interp.lab.new_probe import write_probe


def test_a_new_probe_runs_as_it_is(smol: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["probe", "new", "is-it-polite", "--folder", str(tmp_path)]) == 0
    file = tmp_path / "is_it_polite.py"
    assert str(file) in capsys.readouterr().out
    made = load_probe(str(file))
    assert made.name == "is-it-polite"
    findings = drawn(made(Lab(smol)))
    assert [finding.verdict for finding in findings] == ["yes"] * 3
    assert findings[0].answers


@pytest.mark.parametrize("name", ["", "3 things", "class", "_hidden", "größe", "a/b", "dice-roll", "dice_roll"])
def test_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as refused:
        write_probe(name, tmp_path)
    the_line(refused)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("years of work")
    with pytest.raises(UserError, match="is there already"):
        write_probe("mine", tmp_path)
    assert (tmp_path / "mine.py").read_text() == "years of work"
    with pytest.raises(UserError, match="cannot write"):
        write_probe("mine", tmp_path / "nowhere")
