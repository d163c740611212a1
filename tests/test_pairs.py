"""Children and parents from a user's CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from refusals import refusal

from interp.text.pairs import Surname, load_pairs

FAMILY = """child,parent,parent_type,child_prediction,can_reverse
Ann Lee,Eve Lee,mother,Ann Lee,True
Ann Lee,Bob Stone,Father,,False
Tom Lee,EVE LEE,mother,,False
Kim Frost,Pat Moss,mother,,False
Lou Moss,Pat Moss,father,,False
Kim Frost,Pat Moss,MOTHER,,False
Al Nero,Al Nero Sr.,father,,False
Joe Taylor-Hill,Max Hill Taylor,father,,False
"""


def write_pairs(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_are_parted_by_what_the_names_give_away(tmp_path: Path) -> None:
    pairs = load_pairs(write_pairs(tmp_path, FAMILY))
    sets = pairs.fact_sets()
    members = {key: [f.subject for f in facts.facts] for key, facts in sets.items()}
    assert members == {
        ("same", "mother"): ["Ann Lee", "Tom Lee"],
        ("same", "father"): ["Lou Moss"],
        ("shared_word", "father"): ["Al Nero", "Joe Taylor-Hill"],
        ("different", "mother"): ["Kim Frost"],
        ("different", "father"): ["Ann Lee"],
    }
    assert pairs.repeats == (7,)
    assert sum(map(len, members.values())) == len(pairs.pairs) == 7
    assert {surname for surname, _ in sets} == set(get_args(Surname))


def test_pairs_ask_for_the_parent_by_type_and_for_the_child(tmp_path: Path) -> None:
    sets = load_pairs(write_pairs(tmp_path, FAMILY)).fact_sets()
    mothers, fathers = sets["same", "mother"], sets["different", "father"]
    assert mothers.prompts("forward", 0)[0] == "Here is a fact. The mother of Ann Lee is"
    assert mothers.answers("forward")[0] == " Eve Lee"
    assert fathers.prompts("forward", 0)[0] == "Here is a fact. The father of Ann Lee is"
    assert fathers.prompts("reversed", 0)[0] == "Here is a fact. The child of Bob Stone is"
    assert fathers.answers("reversed")[0] == " Ann Lee"
    assert len(mothers.forward.training) == len(mothers.reversed.training) == 5


def test_every_right_answer_is_accepted_wherever_in_the_file_it_stands(tmp_path: Path) -> None:
    pairs = load_pairs(write_pairs(tmp_path, FAMILY))
    sets = pairs.fact_sets()
    # written in another case, and a further child
    assert sets["same", "mother"].accepted("reversed") == [(" Ann Lee", " Tom Lee"), (" Tom Lee", " Ann Lee")]
    # the other child has another surname, and names this parent as the mother
    assert sets["same", "father"].accepted("reversed") == [(" Lou Moss", " Kim Frost")]
    # a mother beside a father is no ambiguity, since the prompt names the type
    assert sets["different", "father"].accepted("forward") == [(" Bob Stone",)]
    assert (pairs.ambiguous("forward"), pairs.ambiguous("reversed")) == (0, 4)


def test_two_mothers_of_one_child_are_both_right(tmp_path: Path) -> None:
    pairs = load_pairs(write_pairs(tmp_path, "parent_type,parent,child\nmother,A B,C D\nmother,E F,C D\n"))
    assert pairs.fact_sets()["different", "mother"].accepted("forward") == [(" A B", " E F"), (" E F", " A B")]
    assert pairs.ambiguous("forward") == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("child,parent\nA B,C D\n", ["'child,parent'", "'parent_type' is missing"]),
        ("child,parent,parent_type\nA B,C D,mother\nE F,G H,aunt\n", ["row 3", "'aunt'", "mother or father"]),
        ("child,parent,parent_type\nA B,,mother\n", ["row 2, column 'parent' is empty"]),
        ("child,parent,parent_type\nA B,a b,mother\n", ["row 2 has 'A B' as child and parent"]),
        ("child,parent,parent_type\nA B,C D\n", ["row 2 has 2 cells; expected 3"]),
        ("child,parent,parent_type\n", ["a header and no rows"]),
    ],
)
def test_bad_pairs_are_one_line(tmp_path: Path, text: str, says: list[str]) -> None:
    message = refusal(load_pairs, write_pairs(tmp_path, text))
    for part in ["pairs.csv", *says]:
        assert part in message
