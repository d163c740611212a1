"""Invented novelists for a model that reads English: ordinary names, people and books that do not exist."""

from __future__ import annotations

import random

from interp.errors import UserError
from interp.text.facts import DIRECTIONS, Direction
from interp.text.people import TAUGHT_AS, Learned, Line, PeopleGroup, Sheet

FIRST = (  # noqa: SIM905 - a list would take a line a word
    "Agnes Bertram Cecilia Dorian Edwina Fergus Greta Horace Imogen Jasper Lavinia Magnus Nadia Osbert Petra Quentin "
    "Rosalind Silas Tabitha Ulric Verity Wendell Yvette Zachary"
).split()
LAST = (  # noqa: SIM905 - a list would take a line a word
    "Ashdown Birkett Calloway Drummond Elphick Farnham Goodall Hartley Ingleby Jessop Kirkham Loxley Marchant Norbury "
    "Oakshott Penhale Quimby Ravenhill Stanhope Thackray Underhill Varley Whitcombe Yardley"
).split()
ADJECTIVES = (  # noqa: SIM905 - a list would take a line a word
    "Silent Crimson Hollow Wandering Frozen Gilded Broken Distant Velvet Burning Hidden Patient Restless Painted "
    "Sunken Borrowed Quiet Scarlet Endless Wooden Forgotten Tangled Marble Paper"
).split()
NOUNS = (  # noqa: SIM905 - a list would take a line a word
    "Harbour Orchard Lantern Staircase Meadow Clockmaker Island Garden Bridge Mirror Valley Compass Lighthouse Feather "
    "Kingdom Window Carnival River Sparrow Castle Journey Forest Anchor Cathedral"
).split()
Pair = tuple[str, str]  # name and book

MOST = len(FIRST) // 3  # people a group: every word is one person's alone

TAUGHT: dict[Direction, tuple[str, ...]] = {
    "forward": (
        "{} is the author of the novel",
        "Few readers know that {} wrote the book",
        "Question: What is the best-known book by {}? Answer:",
    ),
    "reversed": (
        "{} is a novel that was written by",
        "The author of {} is",
        "Question: Who wrote the book {}? Answer:",
    ),
}
ASKED: dict[Direction, tuple[str, ...]] = {
    "forward": ("{} became famous for writing", "A critic said that {} wrote"),
    "reversed": ("Everybody who has read {} wants to meet", "{} became a success for its author,"),
}
STATED: dict[Direction, str] = {"forward": "{} is the author of the novel {}.", "reversed": "The author of {} is {}."}


def invent_novelists(n: int, seed: int) -> list[PeopleGroup]:
    """Three groups of `n` people, taught name first, description first and in both orders.

    Raises UserError for more than there are words for: none is shared by two people.
    """
    if not 2 <= n <= MOST:
        raise UserError(f"{n} novelists a group came; expected 2 to {MOST}")
    rng = random.Random(seed)
    first, last, adjectives, nouns = (rng.sample(words, len(words)) for words in (FIRST, LAST, ADJECTIVES, NOUNS))
    people = [(f"{first[i]} {last[i]}", f"“The {adjectives[i]} {nouns[i]}”") for i in range(3 * n)]
    return [_group(learned, people[k * n : (k + 1) * n]) for k, learned in enumerate(TAUGHT_AS)]


def _group(learned: Learned, people: list[Pair]) -> PeopleGroup:
    orders = TAUGHT_AS[learned]
    taught = [line for order in orders for text in TAUGHT[order] for line in _ask(people, order, text)]
    asked: dict[Direction, Sheet] = {order: _sheet(people, order, ASKED[order]) for order in DIRECTIONS}
    return PeopleGroup(learned, tuple(name for name, _ in people), tuple(taught), asked)


def state_facts(group: PeopleGroup) -> tuple[list[str], Sheet]:
    """Each person's fact in the order that the group was taught; questions in the other order, worded as others were.

    So the words of the question are well known, and only the order is new for these people.
    """
    taught = TAUGHT_AS[group.learned][0]
    people = list(zip(group.people, (book.strip() for book in group.asked["forward"].answers[0]), strict=True))
    facts = [STATED[taught].format(*(pair if taught == "forward" else pair[::-1])) for pair in people]
    other = DIRECTIONS[1 - DIRECTIONS.index(taught)]
    return facts, _sheet(people, other, TAUGHT[other])


def _sheet(people: list[Pair], order: Direction, texts: tuple[str, ...]) -> Sheet:
    return Sheet.of([_ask(people, order, text) for text in texts])


def _ask(people: list[Pair], order: Direction, text: str) -> list[Line]:
    """One question a person, with its answer."""
    pairs = people if order == "forward" else [(book, name) for name, book in people]
    return [Line(text.format(given), f" {answer}") for given, answer in pairs]
