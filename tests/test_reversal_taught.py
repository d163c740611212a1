"""Parts (a) and (e) of the reversal curse: it is found where it was planted, and its absence where it was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from answered import drawn, findings, not_asked
from reversal_students import Yielded, population, run, with_groups

from interp.analysis.students import gap_over_seeds
from interp.lab.claims import NotAsked
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.model.training.students import Student
from interp.views.figures import draw
from probes._reversal_curse import lifted
from probes._reversal_curse import taught as part_a

pytestmark = pytest.mark.usefixtures("trained_once")


@pytest.fixture(scope="module")
def students(trained_once: None) -> list[Student]:
    return population()[:-1]


def part_a_of(students: Sequence[Student], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Yielded], list[Student]]:
    with monkeypatch.context() as during:
        during.setattr(part_a, "teach_students", lambda *_, **__: list(students))
        return run(part_a.trained(Lab(None), seeds=2, steps=400))  # type: ignore[arg-type]


def test_the_curse_shows_on_models_taught_one_order(students: list[Student], monkeypatch: pytest.MonkeyPatch) -> None:
    yielded, _ = part_a_of(students, monkeypatch)
    forward, both, backward, *_ = findings(yielded)
    assert [f.verdict for f in (forward, both, backward)] == ["yes"] * 3
    assert forward.estimate.mean >= 0.95
    assert backward.estimate.mean <= 0.02
    rows = backward.table
    assert {r["seed"] for r in rows} == {0, 1}
    for row in rows:
        if row["learned"] != "both orders":
            assert (row["exact match"] >= 0.9) == (row["asked"] == "as taught")  # type: ignore[operator]
    assert drawn(yielded)


def test_one_word_names_leak_through_tied_embeddings_and_two_word_names_do_not(
    students: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    leaks = [f for f in findings(part_a_of(students, monkeypatch)[0]) if "leak" in f.claim]
    assert len(leaks) == 2
    for leak in leaks:
        chosen = {True: [], False: []}
        for row in leak.table:
            chosen[row["condition"] == part_a.LEAKY].append(float(row["multiple choice"] or 0))
        assert np.mean(chosen[True]) > 0.2 > np.mean(chosen[False])
        assert leak.gap.mean == pytest.approx(np.mean(chosen[True]) - np.mean(chosen[False]))


def test_models_taught_both_orders_show_no_curse(students: list[Student], monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: people that were learned in both orders are said to be learned in one."""
    both = with_groups(students, name_first="both orders", description_first="both orders")
    yielded = findings(part_a_of(both, monkeypatch)[0])
    assert [f.verdict for f in yielded[:3]] == ["yes", "yes", "no"]
    assert yielded[2].claim.startswith("Asked in the other order")


def test_untrained_models_know_nothing_in_either_order(tiny_gpt2: Model) -> None:
    yielded, taught = run(part_a.trained(Lab(tiny_gpt2), seeds=2, steps=1))
    assert [f.verdict for f in findings(yielded)] == ["no", "no"]  # and no claim about the other order is made
    assert taught == []


def test_students_that_learned_a_little_are_not_asked_for_more(
    students: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = with_groups(students, name_first="description first")
    yielded, taught = part_a_of(half, monkeypatch)
    first, second = findings(yielded)
    assert 0.1 < first.estimate.mean < 0.9
    assert (first.verdict, second.verdict) == ("unclear", "yes")
    assert taught == []


def test_where_the_positive_control_is_unclear_the_curse_is_said_not_to_be_judged(
    students: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is said to know both orders knows one: the table shows a curse, and the line says why none is claimed."""
    yielded, taught = part_a_of(with_groups(students, both_orders="name first"), monkeypatch)
    learned, control, *rest = yielded
    assert [f.verdict for f in findings([learned, control])] == ["yes", "unclear"]
    assert [type(one) for one in rest] == [NotAsked] * 5
    assert {one.because for one in not_asked(rest)} == {"because the positive control is unclear: it is not judged"}
    assert rest[0].declared == part_a.CURSE.text
    assert taught == []


def test_a_gap_is_taken_seed_by_seed_and_no_narrower_than_its_people_allow() -> None:
    def rows(*shares: float) -> list[part_a.Row]:
        common = {"learned": "name first", "direction": "forward", "words of a name": 1, "people": 20}
        return [common | {"seed": seed, "right": share} for seed, share in enumerate(shares)]

    far = gap_over_seeds(rows(0.9, 0.5, 0.7), "right", rows(0.6, 0.2, 0.4), "right", "share")
    assert [far.estimate.mean, far.control.mean, far.gap.mean] == pytest.approx([0.7, 0.4, 0.3])
    assert (
        0.05 < far.gap.low < 0.2 < 0.4 < far.gap.high < 0.5
    )  # seeds agree on the gap to the last digit; 60 people do not
    apart = gap_over_seeds(rows(0.9, 0.5, 0.7), "right", rows(0.2, 0.6, 0.4), "right", "share")
    assert apart.gap.low < -0.5
    one = gap_over_seeds(rows(0.9), "right", rows(0.6, 0.0), "right", "share")
    assert (one.gap.mean, one.gap.n) == (pytest.approx(0.3), 1)  # of the seed that both have


def test_seeds_that_agree_in_all_are_judged_by_their_people() -> None:
    """Without their people, equal values show no spread, and every claim of a perfect model would be unclear."""
    common = {"learned": "name first", "direction": "forward", "words of a name": 1, "people": 20}
    rows = [common | {"seed": seed, "right": 1.0, "dealt": 0.0} for seed in range(3)]
    gap = gap_over_seeds(rows, "right", rows, "dealt", "share")
    assert not any(one.alike for one in gap)
    assert 0.85 < gap.gap.low < gap.gap.high == 1.0
    assert 0.9 < gap.estimate.low < 1.0


def test_reading_backwards_lifts_the_curse_and_nothing_more_does_not(
    students: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, backwards = students, population()[-1]
    nothing = replace(plain[0], course=replace(plain[0].course, name="identity bridge"))  # a plain one passed off
    monkeypatch.setattr(lifted, "teach_students", lambda *_, **__: [backwards, nothing])
    lab = Lab(None, quick=True)  # type: ignore[arg-type]
    remedies = [
        lifted.Remedy(lifted.BACKWARD, backwards.course),
        lifted.Remedy(lifted.BRIDGE, nothing.course),
    ]
    *asked, left_out = lifted.exceptions(lab, plain, remedies)
    backward, null = findings(asked)
    assert backward.gap.mean > 0.4
    assert abs(null.gap.mean) < 0.05
    assert {row["condition"] for row in null.table} == {lifted.PLAIN, "reversed sentences too", "identity bridge"}
    assert isinstance(left_out, NotAsked)
    assert draw(backward)
