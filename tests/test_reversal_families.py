"""Part (b) of the reversal curse on a user's pairs, and on the paper's own example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from answered import drawn, findings
from pairs_file import PAIRS, write_pairs

from interp.lab.claims import not_reached
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.text.pairs import by_surname, load_pairs
from probes._reversal_curse import asked as part_b
from probes._reversal_curse import families


@pytest.mark.slow
def test_a_users_pairs_are_asked_by_surname(smol: Model, tmp_path: Path) -> None:
    kinds, left_out = by_surname(load_pairs(write_pairs(tmp_path)), part_b.LEAST, 40, 0)
    assert {kind.surname for kind in kinds} == {"different", "same"}
    assert left_out == ""
    yielded = findings(list(families.families(Lab(smol), kinds, 200)))
    leaked = next(f for f in yielded if "same surname" in f.claim and "forward" in f.claim)
    assert leaked.estimate.mean > leaked.control.estimate.mean + 0.5  # the surname alone gives it away
    example = [f for f in yielded if "Tom Cruise" in f.claim]
    assert len(example) == 2
    assert "smollm2-135m writes “" in example[0].measure


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS.replace("Tom Cruise,Mary Lee Pfeiffer", "Ana Poe,Zoe Quill")])
def test_every_pair_and_the_papers_example_has_a_row(tiny_gpt2: Model, tmp_path: Path, pairs: str) -> None:
    kinds, _ = by_surname(load_pairs(write_pairs(tmp_path, pairs)), part_b.LEAST, 40, 0)
    yielded = list(families.families(Lab(tiny_gpt2), kinds, 100))
    assert not_reached([families.PAIRS_FAMILY, families.BY_NAME, families.EXAMPLE], yielded) == []
    rows = [row for one in findings(yielded) for row in one.table]
    asked = {(row["pair"], row["direction"]) for row in rows}
    listed = [line.rpartition(",")[0].replace(",", ", ") for line in pairs.splitlines()[1:]]
    assert asked == {
        (pair, way) for pair in (*listed, "Tom Cruise, Mary Lee Pfeiffer") for way in ("forward", "reversed")
    }
    assert sum(row["pair"] == "Tom Cruise, Mary Lee Pfeiffer" and "the model writes" in row for row in rows) == 10
    assert drawn(yielded)


def test_pairs_that_are_not_asked_are_counted(tmp_path: Path) -> None:
    more = ["Ann Bee,Eve Cox,mother", "Ann Bee,Pat Dow,mother", "Tim Fox,Jo Fox,father"]
    file = write_pairs(tmp_path, PAIRS + "".join(f"{line}\n" for line in more))
    kinds, left_out = by_surname(load_pairs(file), 5, 5, 0)
    assert {kind.surname: [len(s) for s in kind.sets] for kind in kinds} == {"different": [5], "same": [5]}
    assert ["the same" in kind.left_out for kind in kinds] == [kind.surname == "same" for kind in kinds]  # its own
    asked_or_not = sum(len(s) for kind in kinds for s in kind.sets) + sum(
        map(int, re.findall(r"\b(\d+) with", left_out))
    )
    assert asked_or_not == 13
    for reason in ("whose names come again", "a group needs 5", "--max-pairs"):
        assert reason in left_out
