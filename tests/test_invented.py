"""Invented people: unique, unguessable, and taught in sentences that differ in the person only."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Any, get_args

import pytest

from interp.errors import UserError
from interp.text import invented
from interp.text.facts import Direction, Fact

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
TEMPLATES = (0, 1, 2, "held_out")


def sides(people: list[Fact]) -> list[list[str]]:
    return [[p.subject for p in people], [p.object for p in people]]


@pytest.mark.parametrize("name_tokens", [1, 2])
@pytest.mark.parametrize("n", [4, 6, 7, 9, 20, 30, 61, 300])
def test_invented_names_and_descriptions_are_unique_and_as_long_as_asked(n: int, name_tokens: Any) -> None:
    people = invented.invent(n, 3, name_tokens)
    assert len(people) == n
    for side in sides(people):
        assert len(set(side)) == n
        assert {len(text.split()) for text in side} == {name_tokens}
    names, descriptions = ({word for text in side for word in text.split()} for side in sides(people))
    assert not names & descriptions


@pytest.mark.parametrize("n", [4, *range(6, 70), 333])
def test_with_two_tokens_no_word_identifies_a_person(n: int) -> None:
    for side in sides(invented.invent(n, n, 2)):
        for position in (0, 1):
            counts = Counter(text.split()[position] for text in side)
            assert min(counts.values()) >= 2
        first, second = ({text.split()[position] for text in side} for position in (0, 1))
        assert not first & second


def test_people_who_share_a_name_word_do_not_share_description_words_more_than_others() -> None:
    """Else a part of the name would tell a part of the answer, and the two sides would not be arbitrary."""
    hits = pairs = 0
    expected = 0.0
    for seed in range(40):
        people = [(p.subject.split(), p.object.split()) for p in invented.invent(20, seed, 2)]
        # Over all pairs of people, how often two share the second description word, whatever their names are
        every = [(a, b) for i, a in enumerate(people) for b in people[:i]]
        base = sum(a[1][1] == b[1][1] for a, b in every) / len(every)
        sharing = [(a, b) for a, b in every if a[0][0] == b[0][0]]
        hits += sum(a[1][1] == b[1][1] for a, b in sharing)
        pairs += len(sharing)
        expected += base * len(sharing)
    assert pairs == 40 * 5 * 6  # 5 first names, each shared by 4 people
    assert abs(hits - expected) < 4 * (expected**0.5)  # about 4 standard deviations of a count


def test_groups_share_no_word_and_each_shares_its_own() -> None:
    groups = invented.invent_groups([20, 20, 20], 0, 2)
    words = [{w for side in sides(g) for text in side for w in text.split()} for g in groups]
    assert len(set.union(*words)) == sum(map(len, words))
    for group in groups:
        for side in sides(group):
            assert min(Counter(text.split()[0] for text in side).values()) >= 2
    assert groups[0] == invented.invent(20, 0, 2)


def test_the_seed_alone_decides_and_these_are_the_people_of_seed_0() -> None:
    """Fixed values: a run on another Python version must invent the same people."""
    assert invented.invent(3, 0, 1) == [
        Fact("nigiju", "lofoju"),
        Fact("dasiju", "bapaju"),
        Fact("fufoju", "meboju"),
    ]
    assert invented.invent(4, 0, 2) == [
        Fact("dasiju fufoju", "bapaju ranaju"),
        Fact("dasiju lofoju", "meboju ranaju"),
        Fact("nigiju fufoju", "meboju kiduju"),
        Fact("nigiju lofoju", "bapaju kiduju"),
    ]
    assert invented.invent(20, 1, 2) != invented.invent(20, 2, 2)


def test_made_up_words_have_the_shape_that_no_english_word_has() -> None:
    people = invented.invent(2450, 0, 1)
    words = {text for side in sides(people) for text in side}
    assert len(words) == 4900
    assert all(re.fullmatch(r"([bdfgklmnprstvz][aeiou]){2}ju", word) for word in words)
    templates = (invented.NAME_FIRST, invented.DESCRIPTION_FIRST)
    assert not words & {w for t in templates for text in (*t.training, t.held_out) for w in text.split()}


def test_sentences_end_in_the_answer_and_differ_only_in_the_person() -> None:
    people = invented.people_set(invented.invent(12, 0, 2))
    for direction in DIRECTIONS:
        assert len(people.templates(direction).training) == 4
        for template in (*TEMPLATES, 3):
            rest = set()
            for sentence, item, answer in zip(
                people.sentences(direction, template), people.given(direction), people.answers(direction), strict=True
            ):
                assert sentence == " ".join(sentence.split())
                assert set(sentence) <= set(string.ascii_lowercase + " ")
                assert sentence.endswith(answer)
                rest.add(sentence.removesuffix(answer).replace(item, "{}"))
            assert len(rest) == 1


def test_the_two_orders_have_matched_lengths() -> None:
    forward, backward = invented.NAME_FIRST, invented.DESCRIPTION_FIRST
    for ours, theirs in zip(
        (*forward.training, forward.held_out), (*backward.training, backward.held_out), strict=True
    ):
        opening, rest = ours.split("{}")
        their_opening, their_rest = theirs.split("{}")
        assert opening == their_opening != ""
        assert len(rest.split()) == len(their_rest.split()) > 0


def test_a_held_out_paraphrase_uses_only_words_that_its_order_trains() -> None:
    for templates in (invented.NAME_FIRST, invented.DESCRIPTION_FIRST):
        trained = {word for text in templates.training for word in text.split()}
        assert set(templates.held_out.split()) <= trained
        assert templates.held_out not in templates.training


@pytest.mark.parametrize(
    ("n", "name_tokens", "says"),
    [
        (0, 1, "at least 1"),
        (-3, 2, "at least 1"),
        (5, 2, "expected 4 or at least 6"),
        (3, 2, "expected 4 or at least 6"),
        (20, 3, "expected 1 or 2"),
        (2451, 1, "expected at most 4900"),
    ],
)
def test_people_that_cannot_be_invented_are_refused(n: int, name_tokens: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        invented.invent(n, 0, name_tokens)
