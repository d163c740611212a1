"""Prompts of one layout that name two people and one of them again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from interp import Model, UserError
from interp.analysis import Layout, lay_out, single_tokens

TEMPLATES = (
    "When {first} and {second} went to the {place}, {giver} gave a {thing} to",
    "After {first} and {second} met at the {place}, {giver} handed a {thing} to",
    "While {first} and {second} sat in the {place}, {giver} offered a {thing} to",
)
AGAIN = (
    " and {again} waited there, {giver}"  # stands for ", {giver}" where a name is said again and somebody else gives
)
NAMES = (
    "Mary", "John", "Tom", "Anna", "James", "Paul", "Sarah", "David", "Laura", "Mark", "Emma", "Peter", "Alice",
    "Robert", "Susan", "Michael", "Kate", "Daniel", "Jane", "Simon", "Julia", "Adam", "Rachel", "Henry", "Lucy",
    "Jack", "Helen", "George", "Maria", "Frank",
)  # fmt: skip
PLACES = ("store", "garden", "school", "office", "park", "station")
THINGS = ("drink", "book", "ring", "key", "letter", "ball")


@dataclass(frozen=True)
class Sentences:
    """Prompts of one layout, with who is right and wrong. `flipped` has the other giver, and `third` a third person.

    In `third` the wrong name is said again all the same. `absent`: that third person, who is not in the prompt.
    """

    layout: Layout
    flipped: list[str]
    third: list[str]
    right: list[int]
    wrong: list[int]
    absent: list[int]


def make_sentences(model: Model, template: str, n: int, seed: int) -> Sentences:
    """`n` prompts, the answer being the first name in every other one; no two share both names.

    Raises UserError for too few names of one token.
    """
    rng = random.Random(seed)
    names, places, things = (single_tokens(model, words) for words in (NAMES, PLACES, THINGS))
    couples = list(combinations(names, 2))
    if len(couples) < n or len(names) < 3 or not places or not things:
        raise UserError(
            f"{model.provenance.name}: only {len(names)} names, {len(places)} places and {len(things)} things are one "
            f"token each; expected names for {n} couples and one of the others: this model cannot be asked with these "
            "sentences"
        )
    fillings, answers = [], []
    for i, couple in enumerate(rng.sample(couples, n)):
        first, second = rng.sample(couple, 2)
        other = rng.choice([name for name in names if name not in couple])
        giver, right = (second, first) if i % 2 == 0 else (first, second)
        scene = {"first": first, "second": second, "place": rng.choice(places), "thing": rng.choice(things)}
        fillings.append([scene | {"giver": who, "again": giver} for who in (giver, right, other)])
        answers.append([_token(model, who) for who in (right, giver, other)])
    templates = (template, template, template.replace(", {giver}", AGAIN))
    layouts = [
        lay_out(model, form, [{name: word for name, word in one.items() if f"{{{name}}}" in form} for one in some])
        for form, some in zip(templates, zip(*fillings, strict=True), strict=True)
    ]
    right_ids, wrong_ids, absent_ids = (list(part) for part in zip(*answers, strict=True))
    return Sentences(layouts[0], layouts[1].prompts, layouts[2].prompts, right_ids, wrong_ids, absent_ids)


def ahead(model: Model, made: list[Sentences], *rivals: Literal["wrong", "absent"]) -> list[NDArray[np.float64]]:
    """How far the right name is ahead of these, in nats, where one of the two gives: [prompt] for each of them."""
    by_template = [_leads(model, s.layout.prompts, s.right, *(getattr(s, name) for name in rivals)) for s in made]
    return [np.concatenate(parts) for parts in zip(*by_template, strict=True)]


def third_gives(model: Model, made: list[Sentences]) -> NDArray[np.float64]:
    """How far the right name is ahead of the other, in nats, where that is said again and a third gives [prompt]."""
    return np.concatenate([_leads(model, s.third, s.right, s.wrong)[0] for s in made])


def _leads(model: Model, prompts: list[str], right: list[int], *rivals: list[int]) -> list[NDArray[np.float64]]:
    logits = model.last_logits(prompts).double().cpu().numpy()
    each = np.arange(len(logits))
    return [logits[each, right] - logits[each, rival] for rival in rivals]


def _token(model: Model, name: str) -> int:
    return model.encode(f"I saw {name}")[0][-1]
