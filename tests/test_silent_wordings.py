"""Wordings that give nothing: named where they were tried, and no wording that merely gives less."""

from __future__ import annotations

import numpy as np
import pytest

from interp.lab.claims import Claim
from interp.lab.measured import zero
from interp.stats.crossed import estimate_crossed, silent_wordings


def shares(*means: float, facts: int = 24) -> np.ndarray:
    return (np.random.default_rng(0).random((len(means), facts)) < np.array(means)[:, None]).astype(float)


def test_a_wording_that_gives_nothing_beside_others_that_do_is_named() -> None:
    table = shares(0.79, 0.75, 0.0)
    (silent,) = silent_wordings([shares(0.8, 0.7, 0.75), table])
    assert (silent.group, silent.wording, silent.mean) == (1, 2, 0.0)
    wide = estimate_crossed([table], unit="share", over="fact", bounds=(0, 1), across="wording")
    assert wide.note.startswith("1 of 3 wordings is silent (wording 3 gives 0, the others 0.7")
    assert wide.high - wide.low > 0.9, "with it the interval says nothing, so that the caveat must say why"
    nats = np.random.default_rng(1).normal(size=(3, 24)) + np.array([[6.0], [7.0], [0.1]])
    assert [one.wording for one in silent_wordings([nats])] == [2]
    assert [one.wording for one in silent_wordings([shares(0.8, 0.7, 0.05)], nothing=0.05)] == [2]


def test_wordings_that_differ_as_wordings_do_are_not_silent() -> None:
    assert silent_wordings([shares(0.8, 0.6, 0.4), shares(0.0, 0.0, 0.0), shares(0.1, 0.05, 0.0)]) == []
    assert estimate_crossed([shares(0.8, 0.6, 0.4)], unit="share", over="fact").note == ""
    rng = np.random.default_rng(2)
    named = sum(bool(silent_wordings([4 + rng.normal(size=(3, 1)) + rng.normal(size=(3, 24))])) for _ in range(300))
    assert named / 300 < 0.02


def test_every_silent_wording_of_one_in_four_is_named() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        table = 5 + rng.normal(size=(1, 24)) + rng.normal(size=(4, 24))
        table[1] = rng.normal(size=24)
        assert [one.wording for one in silent_wordings([table])] == [1]


def test_one_wording_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="two of each"):
        silent_wordings([np.zeros((1, 5))])


def test_every_claim_that_a_crossed_estimate_answers_says_so_by_itself() -> None:
    claim = Claim("They are right.", "greater", "share", caveat="Few facts.")
    heard, silent = shares(0.8, 0.7, 0.75), shares(0.79, 0.75, 0.0)
    said = claim.answer(estimate_crossed([heard, silent], unit="share", over="fact"), zero("share")).caveat
    assert said.startswith("Few facts. 1 of 6 ways is silent (way 3 in group 2 gives 0, the others 0.7")
    assert claim.answer(estimate_crossed([heard], unit="share", over="fact"), zero("share")).caveat == "Few facts."
    less = estimate_crossed([heard], less=[silent], unit="share", over="fact", across="wording")
    assert "wording 3 of what is subtracted gives 0" in less.note
    assert "silent" not in estimate_crossed([silent], unit="share", over="fact", exact=True).note
    at_chance = shares(0.8, 0.7, 0.05)
    assert estimate_crossed([at_chance], unit="share", over="fact", nothing=0.05).note
