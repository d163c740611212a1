"""What the README and `probes/RESULTS.md` say was found: every sentence is a claim as its probe declares it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from interp.lab.claims import Claim
from interp.lab.discover import list_probes, load_probe

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "write_results.py"))
MARKS, ABOUT, cell = SCRIPT["MARKS"], SCRIPT["ABOUT"], SCRIPT["_cell"]
PAGE = (ROOT / "probes" / "RESULTS.md").read_text(encoding="utf-8")
TABLE = (ROOT / "README.md").read_text(encoding="utf-8").split(MARKS[0])[1].split(MARKS[1])[0]


def part(page: str, name: str) -> str:
    return page.split(f"\n## {name}\n")[1].split("\n## ")[0]


def said(claim: Claim) -> re.Pattern[str]:
    """The claim's sentence about anything, and behind it what it is about where that is not the loaded model."""
    places = re.split(r"\{\w+\}", cell(claim.text))
    about = ABOUT[claim.subject]
    return re.compile(".+?".join(map(re.escape, places)) + (f"( {re.escape(about)})?" if about else ""))


def mistakes(page: str, name: str) -> list[str]:
    """Claims of the probe that its part does not answer, and sentences in it that the probe does not declare."""
    answering = [claim for claim in load_probe(name).claims if claim.answers]
    rows = [row.split(" | ")[1] for row in part(page, name).splitlines() if row.startswith(("| **", "| not asked"))]
    missing = [claim.text for claim in answering if not any(said(claim).fullmatch(row) for row in rows)]
    return missing + [row for row in rows if not any(said(claim).fullmatch(row) for claim in answering)]


@pytest.mark.parametrize("name", list_probes())
def test_each_answer_is_of_a_claim_as_it_is_declared(name: str) -> None:
    assert mistakes(PAGE, name) == []


def test_what_is_not_about_the_loaded_model_says_what_it_is_about() -> None:
    (row,) = [line for line in part(PAGE, "scaling-laws").splitlines() if "More text: lower test loss" in line]
    assert ABOUT["trained here"] in row


def test_a_claim_that_was_reworded_since_is_found() -> None:
    old = PAGE.replace("The side 4 comes up", "The side 4 lands")
    assert len(mistakes(old, "dice-roll")) == 2  # the one that is missing, and the one that nobody declares


def test_the_readme_has_a_row_for_each_probe_with_its_question_and_first_claim() -> None:
    rows = {row.split("`")[1]: row for row in TABLE.splitlines() if row.startswith("| [`")}
    assert sorted(rows) == sorted(list_probes())
    for name, row in rows.items():
        probe = load_probe(name)
        assert cell(probe.title) in row
        assert said(next(claim for claim in probe.claims if claim.answers)).search(row), name


def test_the_table_replaces_the_one_between_the_marks_and_nothing_else() -> None:
    first, last = MARKS
    assert SCRIPT["between_marks"](f"a\n{first}\nold\n{last}\nb", "new") == f"a\n{first}\n\nnew\n\n{last}\nb"
