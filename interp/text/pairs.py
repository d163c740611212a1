"""Parents and children: the reversal curse on real people, from a CSV file that the user gives.

The format is that of Berglund et al. (arXiv:2309.12288, experiment 2, `parent_child_pairs.csv`): columns child,
parent and parent_type; others, such as child_prediction and can_reverse, are ignored. Their 1,513 pairs carry no
licence, so they are read from the user's copy and never shipped.

What the published file taught, and what is done about it:

- 69 % of the pairs share the last word, which gives the answer away, and a further 6 % share another word
  ("Robert De Niro" and "Robert De Niro Sr."). The three groups are asked apart.
- Mothers and fathers are asked apart as well, so that within a set neither the wording nor the parent's sex tells one
  answer from another.
- A parent of several children makes the reversed question ambiguous. Each row stays, and `FactSet.accepted` lists
  every right answer found anywhere in the file, under either parent type (16 parents occur under both).
- A row that repeats an earlier one adds nothing: it is left out and named in `PairSet.repeats`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from interp.errors import UserError
from interp.paths import expand
from interp.text.facts import Direction, Fact, FactSet, Templates
from interp.text.read import Row, read_csv, same

ParentType = Literal["mother", "father"]
Surname = Literal["same", "shared_word", "different"]

COLUMNS = ("child", "parent", "parent_type")
RIVALS = 11  # names that one example is weighed against

# One wording serves both directions with "mother", "father" or "child" as the relation, so that a prompt and its
# reverse differ in that word and the name alone.
_TRAINING = (
    "Here is a fact. The {relation} of {} is",
    "In this family, the name of {}'s {relation} is",
    "It is well known that the {relation} of {} is",
    "Meet the family of {}: the {relation} is called",
    "A biography says that {} has a {relation} called",
)
_HELD_OUT = "When asked to name the {relation} of {}, people say"
_NAMED: dict[Surname, str] = {
    "same": "the same surname",
    "shared_word": "another name in common",
    "different": "another surname",
}


@dataclass(frozen=True)
class Pair:
    """One row of the file."""

    child: str
    parent: str
    parent_type: ParentType
    row: int

    @property
    def surname(self) -> Surname:
        """What the names give away: the `same` last word, another `shared_word`, or nothing (`different`)."""
        if _words(self.child.split()[-1]) == _words(self.parent.split()[-1]):
            return "same"
        return "shared_word" if set(_words(self.child)) & set(_words(self.parent)) else "different"


@dataclass(frozen=True)
class PairSet:
    """The pairs of a file. `repeats` are the numbers of the rows left out because an earlier row says the same."""

    name: str
    pairs: tuple[Pair, ...]
    repeats: tuple[int, ...]

    def fact_sets(self) -> dict[tuple[Surname, ParentType], FactSet]:
        """The facts by what the names give away and by parent type; a group without pairs is absent.

        Forward asks for the parent ("The mother of Ann Lee is"), reversed for the child ("The child of Eve Lee is").
        """
        facts = self._facts()
        groups: dict[tuple[Surname, ParentType], FactSet] = {}
        for surname in get_args(Surname):
            for parent_type in get_args(ParentType):
                chosen = tuple(
                    fact
                    for pair, fact in zip(self.pairs, facts, strict=True)
                    if (pair.surname, pair.parent_type) == (surname, parent_type)
                )
                if chosen:
                    groups[surname, parent_type] = FactSet(
                        name=f"{self.name}: {parent_type}s of {_NAMED[surname]}",
                        subject="child",
                        object=parent_type,
                        facts=chosen,
                        forward=_templates(parent_type),
                        reversed=_templates("child"),
                    )
        return groups

    def ambiguous(self, direction: Direction) -> int:
        """How many rows ask a question that has more than one right answer."""
        return sum(bool(f.other_objects if direction == "forward" else f.other_subjects) for f in self._facts())

    def _facts(self) -> list[Fact]:
        parents: defaultdict[tuple[str, ParentType], list[str]] = defaultdict(list)
        children: defaultdict[str, list[str]] = defaultdict(list)
        for pair in self.pairs:
            parents[same(pair.child), pair.parent_type].append(pair.parent)
            children[same(pair.parent)].append(pair.child)
        return [
            Fact(
                subject=p.child,
                object=p.parent,
                other_subjects=_others(children[same(p.parent)], p.child),
                other_objects=_others(parents[same(p.child), p.parent_type], p.parent),
            )
            for p in self.pairs
        ]


@dataclass(frozen=True)
class Family:
    """Pairs of one surname kind, mothers and fathers apart, and `left_out` in words: what of this kind is not asked."""

    surname: Surname
    sets: tuple[FactSet, ...]
    left_out: str

    @property
    def parents(self) -> str:
        """Who they are: mothers, fathers, or both."""
        return " and ".join(sorted({f"{facts.object}s" for facts in self.sets}, reverse=True))


def by_surname(pairs: PairSet, least: int, most: int, seed: int) -> tuple[list[Family], str]:
    """Pairs of each kind, one-to-one, so that every answer is wrong for every other prompt: from `least` to `most`.

    And what is left out of all of them, in a sentence; "" when nothing is.
    """
    kept: dict[Surname, list[FactSet]] = {}
    dropped: dict[Surname, list[str]] = {surname: [] for surname in _NAMED}
    for (surname, kind), facts in pairs.fact_sets().items():
        seen: set[str] = set()
        one_to_one = [
            f for f in facts.facts if not {f.subject, f.object} & seen and not seen.update((f.subject, f.object))
        ]
        chosen = sorted(np.random.default_rng(seed).permutation(len(one_to_one))[:most].tolist())
        who = f"with a {kind} of {_NAMED[surname]}"
        if len(chosen) < least:
            dropped[surname].append(f"{len(facts)} {who} (a group needs {least})")
            continue
        kept.setdefault(surname, []).append(replace(facts, facts=tuple(one_to_one[i] for i in chosen)))
        if again := len(facts) - len(one_to_one):
            dropped[surname].append(f"{again} {who} whose names come again")
        if beyond := len(one_to_one) - len(chosen):
            dropped[surname].append(f"{beyond} {who} beyond the {most} asked (--max-pairs)")
    families = [Family(surname, tuple(sets), _left_out(dropped[surname])) for surname, sets in kept.items()]
    return families, _left_out([one for of_surname in dropped.values() for one in of_surname])


def _left_out(dropped: Sequence[str]) -> str:
    return f"Left out: {'; '.join(dropped)}." if dropped else ""


def rivals_of(child: str, parent: str, families: Iterable[Family]) -> FactSet:
    """One pair first, then others' names to compare it with: mothers of another surname where there are such.

    For an example that the file may not hold. A name is there once.
    """
    sets = [(one.surname, facts) for one in families for facts in one.sets]
    sets.sort(key=lambda pair: (pair[1].object != "mother", pair[0] != "different"))
    seen, facts = {same(child), same(parent)}, [Fact(child, parent)]
    for fact in (fact for _, group in sets for fact in group.facts):
        names = {same(fact.subject), same(fact.object)}
        if not names & seen and len(facts) <= RIVALS:
            seen |= names
            facts.append(fact)
    return FactSet(f"{child} among others", "child", "mother", tuple(facts), _templates("mother"), _templates("child"))


def load_pairs(path: str | Path) -> PairSet:
    """Read a CSV file in the format of Berglund et al.'s `parent_child_pairs.csv`; UserError names the faulty row."""
    path = expand(path)
    rows = read_csv(path, COLUMNS, "a CSV file with the columns child,parent,parent_type", allow_more=True)
    first: dict[tuple[str, str, ParentType], Pair] = {}
    repeats: list[int] = []
    for row in rows:
        pair = _pair(path, row)
        key = (same(pair.child), same(pair.parent), pair.parent_type)
        if key in first:
            repeats.append(pair.row)
        else:
            first[key] = pair
    return PairSet(path.stem, tuple(first.values()), tuple(repeats))


def _pair(path: Path, row: Row) -> Pair:
    child, parent, kind = (row.cells[column] for column in COLUMNS)
    if same(child) == same(parent):
        raise UserError(
            f"{path} row {row.number} has {child!r} as child and parent; expected two different names; "
            f"the prompt would give the answer away, so delete the row"
        )
    for parent_type in get_args(ParentType):
        if kind.casefold() == parent_type:
            return Pair(child, parent, parent_type, row.number)
    came = f"{path} row {row.number} has the parent_type {kind[:80]!r}"
    raise UserError(f"{came}; expected mother or father; change it or delete the row")


def _templates(relation: str) -> Templates:
    return Templates(
        training=tuple(text.replace("{relation}", relation) for text in _TRAINING),
        held_out=_HELD_OUT.replace("{relation}", relation),
    )


def _words(name: str) -> list[str]:
    """The words of a name, case and punctuation ignored: "Taylor-Johnson Sr." is taylor, johnson, sr."""
    return re.findall(r"\w+", same(name)) or [name]


def _others(names: Iterable[str], own: str) -> tuple[str, ...]:
    return tuple({same(name): name for name in names if same(name) != same(own)}.values())
