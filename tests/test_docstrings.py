"""A module's first line names the thing by the field's term; a question may follow it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What still begins with a question. A file that is put right leaves this list, which is to be empty.
QUESTIONS = {
    "interp/analysis/attribution.py", "interp/analysis/heads.py", "interp/analysis/patching.py",
    "interp/model/checking/__init__.py", "interp/model/checking/parity.py", "interp/model/hooks/unchanged.py",
}  # fmt: skip


def asks_first(source: str) -> bool:
    """Does the docstring of a module begin with a question, the term second?"""
    first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    question, mark, _ = first.partition("?")
    return bool(mark) and ":" not in question and ". " not in question


def test_every_module_begins_with_its_term() -> None:
    files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "interp").rglob("*.py")}
    asking = {name for name, path in files.items() if asks_first(path.read_text(encoding="utf-8"))}
    assert len(files) > 100
    assert asking <= QUESTIONS


@pytest.mark.parametrize(
    ("docstring", "asks"),
    [
        ("Who wrote the answer? Direct logit attribution.", True),
        ("Direct logit attribution: which components wrote the answer.", False),
        ("Calibration: do 70 % come true?", False),
        ("The logit lens.", False),
    ],
)
def test_a_planted_question_is_found(docstring: str, asks: bool) -> None:
    assert asks_first(f'"""{docstring}"""') == asks
