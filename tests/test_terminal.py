"""What a newcomer reads on the terminal: help without the parser's notation, errors in this program's words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from interp.cli.terminal import Positional, parse
from interp.errors import UserError


@dataclass
class Options:
    """What this command is for."""

    folder: Positional[Path]
    """The folder to read."""
    site: str | None = None
    """Where; by default the residual stream in the middle of the model, which is as good a place as any to look at."""
    steps: int = 200
    """Training steps."""
    rate: float = 0.5
    """A share."""
    quick: bool = False
    """Fewer repeats."""
    last_layers: tuple[int, ...] = ()
    """Some of them; all by default."""


def helped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as stop:
        parse(Options, ["--help"], "sae train")
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_option_and_none_of_the_parsers_notation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = helped(capsys, monkeypatch, 80)
    for there in ("interp sae train", "What this command is for.", "--site STR", "--steps INT", "(default: 200)"):
        assert there in text
    for foreign in ("{None}", "(default: None)", "│", "╭"):
        assert foreign not in text
    words = " ".join(text.split())
    assert "Where; by default the residual stream in the middle of the model, which is as good" in words


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    assert max(map(len, helped(capsys, monkeypatch, width).splitlines())) <= width


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["x", "--steps", "many"], "--steps 'many'; expected a whole number"),
        (["x", "--steps", "1.5"], "--steps '1.5'; expected a whole number"),
        (["x", "--rate", "half"], "--rate 'half'; expected a number"),
        (["x", "--steps"], "--steps came without a value; write one behind it"),
        (["x", "--stesp", "3"], "unknown option --stesp; nearest flag: --steps"),
        (["x", "--last-layers"], "--last-layers came without a value"),
        (["x", "--last_layers", "--steps", "3"], "--last-layers came without a value"),
        ([], "missing: PATH The folder to read"),
    ],
)
def test_a_wrong_option_is_one_line_in_our_words(arguments: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(Options, arguments, "sae train")
    assert str(caught.value).startswith(line)
    assert "`interp sae train --help` lists what it takes" in str(caught.value)
