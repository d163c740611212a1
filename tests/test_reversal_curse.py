"""The reversal curse's probe as a whole: each claim is answered or said not to be asked, and bad input is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import warm
from answered import findings
from fact_files import write_facts
from pairs_file import PAIRS
from reversal_students import population, with_groups

from interp.errors import UserError
from interp.lab.claims import check_declared, not_reached
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.model.training.students import Course, Student
from probes._reversal_curse import asked as part_b
from probes._reversal_curse import families, features, lifted, stated, where, works
from probes._reversal_curse import taught as part_a
from probes.reversal_curse import CLAIMS, reversal_curse

pytestmark = pytest.mark.usefixtures("trained_once")


def test_claims_about_students_are_told_from_those_about_the_loaded_model() -> None:
    assert {claim.subject for claim in (*part_a.CLAIMS, *lifted.CLAIMS)} == {"trained here"}
    of_the_loaded = (part_b, stated, families)
    assert {claim.subject for part in of_the_loaded for claim in part.CLAIMS} == {"model"}
    inside = [*where.CLAIMS, *features.CLAIMS, *works.CLAIMS]
    for claim in inside:
        assert (claim.subject == "trained here") == ("trained here" in claim.text) == ("{model}" not in claim.text) or (
            claim is features.MOVES_FEATURES
        )
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("learned", [True, False])
def test_no_declared_claim_is_passed_over(
    tiny_gpt2: Model,
    trained_once: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    learned: bool,
) -> None:
    """Of a model with too few words for nearly everything: each claim is answered, or it is said why not."""
    taught = population() if learned else with_groups(population(), both_orders="name first")

    def teach(courses: Sequence[Course], **_: object) -> list[Student]:
        return [student for student in taught if student.course.name in {course.name for course in courses}]

    for part in (part_a, lifted):
        monkeypatch.setattr(part, "teach_students", teach)
    more = {}
    if learned:
        (tmp_path / "pairs.csv").write_text(PAIRS)
        more = {"pairs": tmp_path / "pairs.csv"}
    yielded = list(reversal_curse(Lab(tiny_gpt2, quick=True), seeds=2, n_boot=100, **more))
    for one in yielded:
        check_declared(one, CLAIMS, "reversal-curse")
    assert not_reached(CLAIMS, yielded) == []
    asked = {one.declared for one in findings(yielded)}
    assert part_a.LEAK_OF_WORDS.text not in asked, "a quick run does not teach what it takes"
    assert (part_a.CURSE.text in asked, families.EXAMPLE.text in asked) == (learned, learned)


def test_too_few_facts_are_refused_before_anything_is_trained(tiny_gpt2: Model, tmp_path: Path) -> None:
    file = write_facts(tmp_path, "subject,object\nRhine,Basel\nSeine,Paris\n")
    with pytest.raises(UserError, match="towns has 2 facts; expected 8 or more"):
        next(reversal_curse(Lab(tiny_gpt2), facts=file))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"kid,parent,parent_type\nA,B,mother\n", "child"),
        (b"child,parent,parent_type\nA,,mother\n", "empty"),
        (b"child,parent,parent_type\nA\xff,B,mother\n", "UTF-8"),
        (b"child,parent,parent_type\n", "row"),
        (b"child,parent,parent_type\nA B,A B,mother\n", "two different names"),
    ],
)
def test_bad_pairs_are_refused_before_anything_is_trained(
    tiny_gpt2: Model, tmp_path: Path, content: bytes, word: str
) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=word) as caught:
        next(reversal_curse(Lab(tiny_gpt2), pairs=file))
    assert "\n" not in str(caught.value)


def test_the_file_runs_by_its_path() -> None:
    file = Path(__file__).parents[1] / "probes" / "reversal_curse.py"
    done = warm.run(warm.INTERP, ["probe", file, "--help"])
    assert done.returncode == 0, done.stderr
    assert "--pairs" in done.stdout
    assert "--seeds" in done.stdout
