"""One callback tells how far long work is, and one question ends it early: no other form of either is in `interp/`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from interp.progress import labelled, never, silent

ROOT = Path(__file__).parents[1]
COUNTER = re.compile(
    r"Callable\[\[(str, )?int, int(, \w+)*\], None\]"
)  # (what, done, total), (done, total), with a loss
QUESTION = re.compile(r"Callable\[\[\], bool\]")
NAMES = {"progress": "Progress", "stop": "Stop", "tell": "Progress", "say": "Progress", "telling": "Progress"}


def complaints(source: str) -> list[str]:
    """Each type in `source` that is a `Progress` or `Stop` by another name, and each such parameter of another type."""
    wrong: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript):
            written = ast.unparse(node)
            if COUNTER.fullmatch(written) or QUESTION.fullmatch(written):
                wrong.append(f"{node.lineno}: {written}")
        name, annotation = None, None
        if isinstance(node, ast.arg):
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, annotation = node.target.id, node.annotation
        if name in NAMES and annotation is not None:
            written = ast.unparse(annotation).removesuffix(" | None")
            if written != NAMES[name] and not (name == "stop" and written in ("int", "Event")):
                wrong.append(f"{getattr(node, 'lineno', 0)}: {name}: {written}")
    return wrong


def test_no_other_callback_counts_steps_or_asks_for_an_end() -> None:
    files = [file for file in sorted((ROOT / "interp").rglob("*.py")) if file != ROOT / "interp" / "progress.py"]
    assert len(files) > 100
    found = {file.relative_to(ROOT).as_posix(): wrong for file in files if (wrong := complaints(file.read_text()))}
    assert found == {}, "use Progress and Stop of interp/progress.py"


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ("Tell = Callable[[int, int], None]", "1: Callable[[int, int], None]"),
        ("Progress = Callable[[int, int, float], None]", "1: Callable[[int, int, float], None]"),
        ("def f(say: Callable[[str, int, int], None] | None = None): ...", "1: Callable[[str, int, int], None]"),
        ("def f(*, stop: Callable[[], bool] = lambda: False): ...", "1: Callable[[], bool]"),
        ("def f(progress: Say): ...", "1: progress: Say"),
        ("class A:\n    tell: Tell = silent", "2: tell: Tell"),
    ],
)
def test_a_planted_alias_is_found(planted: str, why: str) -> None:
    assert why in complaints(planted)


def test_the_one_form_is_not_reported() -> None:
    assert complaints("def f(progress: Progress = silent, stop: Stop = never, say: Progress | None = None): ...") == []


def test_a_label_replaces_the_words_and_keeps_the_counts() -> None:
    seen: list[tuple[str, int, int]] = []
    labelled(lambda *step: seen.append(step), "training the SAE")("training", 3, 10)
    assert seen == [("training the SAE", 3, 10)]
    silent("anything", 0, 0)
    assert not never()
