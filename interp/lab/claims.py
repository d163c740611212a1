"""Claims: what a probe says before it is run, as data.

    CURSE = Claim("Asked in the other order, it answers no better than chance.", expects="equal", margin=0.05,
                  unit="share of people", part="Trained", answers=True)

    @probe(claims=[CURSE])
    def reversal_curse(lab: Lab) -> Iterator[Finding | NotAsked]:
        yield CURSE.answer(estimate, control)            # or: yield CURSE.not_asked("because the model has no biases")

What decides a verdict stands in the claim, so that nobody can choose it after looking. A claim about several things
(two directions, three families) is declared once, with a place in braces, and answered for each: `answer(…,
about={"side": "4"})`. No torch here: reports are rebuilt on machines that have none.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeVar, get_args

from interp.errors import UserError, nearest
from interp.lab.findings import Control, Expects, Figure, Finding, Row, rule_in_words, shown
from interp.stats.estimate import HUGE, Estimate

Subject = Literal["model", "tokenizer", "SAE", "machine", "trained here", "others"]


@dataclass(frozen=True)
class Claim:
    """One sentence that a probe sets out to test, and the rule that decides it, declared before anything runs.

    `text` says what a yes would mean; `{names}` in it are filled in where it is answered. `expects`, `margin` and
    `unit` are the rule (see `interp.lab.findings`). `part` groups claims in the report; `measure` says what the
    number is, `caveat` what could still fool us. `answers`: is it one of the few that answer the probe's question?
    `arithmetic`: does it hold by construction, for a model that knows nothing too? `subject`: what it is about: what
    the loaded model learned, its tokenizer, a sparse autoencoder of it, how this machine computes, models that the
    probe makes itself, or others that are named to it. Raises ValueError for a rule that decides nothing.
    """

    text: str
    expects: Expects
    unit: str
    margin: float = 0.0
    part: str = ""
    measure: str = ""
    caveat: str = ""
    answers: bool = False
    arithmetic: bool = False
    subject: Subject = "model"

    def __post_init__(self) -> None:
        for name in ("text", "unit"):
            given = getattr(self, name)
            if not isinstance(given, str) or not given.strip():
                raise ValueError(f"the claim {self.text!r} has {name}={given!r}; expected words")
        if self.expects not in get_args(Expects):
            raise ValueError(f"the claim {self.text!r} has expects={self.expects!r}; expected {get_args(Expects)}")
        if not isinstance(self.margin, Real) or not 0 <= self.margin < HUGE:
            raise ValueError(
                f"the claim {self.text!r} has margin={self.margin!r}; expected a number, 0 or more: how far beyond the "
                "control the interval must lie, whichever side `expects` says"
            )
        if self.expects == "equal" and not self.margin > 0:
            raise ValueError(
                f"the claim {self.text!r} expects 'equal' with margin 0; expected a margin above 0: how far apart "
                "still counts as equal"
            )
        self.places  # noqa: B018 - a brace that is not closed is an error of the declaration

    @property
    def places(self) -> list[str]:
        """The names in braces of `text`, which `about` fills in."""
        return [name for _, name, _, _ in self._parsed() if name is not None]

    @property
    def shown(self) -> str:
        """The sentence about nothing yet: each place in square brackets, such as [direction]."""
        return self.text.format(**{name: f"[{name.replace('_', ' ')}]" for name in self.places})

    @property
    def rule(self) -> str:
        """When the verdict is yes, no and unclear, in words."""
        return rule_in_words(self.expects, self.margin, self.unit)

    def about(self, about: Mapping[str, object]) -> str:
        """The sentence about these things. Raises ValueError where they are not the ones that it has places for."""
        if set(about) != set(self.places):
            raise ValueError(f"the claim {self.text!r} has places for {self.places}; about={sorted(about)} came")
        return self.text.format(**about)

    def says(self, sentence: str) -> bool:
        """Is this the claim's sentence, with anything in its places?"""
        parts = (re.escape(text) + (".*" if name is not None else "") for text, name, _, _ in self._parsed())
        return re.fullmatch("".join(parts), sentence, re.DOTALL) is not None

    def _parsed(self) -> list[tuple[str, str | None, str | None, str | None]]:
        return list(string.Formatter().parse(self.text))

    def answer(
        self,
        estimate: Estimate,
        control: Control,
        *,
        about: Mapping[str, object] | None = None,
        measure: str = "",
        caveat: str = "",
        table: list[Row] | None = None,
        figure: Figure | None = None,
        paired: Estimate | None = None,
    ) -> Finding:
        """The finding: what was measured, and the control beside it, under the rule that was declared.

        `measure` and `caveat` say what only this run knows, such as counts; they follow the declared ones. `paired`:
        the gap between the two where they were measured on the same units (`estimate_gap`). The caveat ends with the
        notes of all three. Raises UserError for what are no estimate and control, and for another unit than was
        declared, ValueError for names in `about` that the claim has no place for.
        """
        self._check(estimate, control, paired)
        notes = [one.note for one in (estimate, control.estimate, paired) if one is not None]
        return Finding(
            claim=self.about(about or {}),
            estimate=estimate,
            control=control,
            expects=self.expects,
            margin=self.margin,
            part=self.part,
            caveat=" ".join(dict.fromkeys(filter(None, [self.caveat, caveat, *notes]))),
            table=table if table is not None else [],
            figure=figure,
            paired=paired,
            answers=self.answers,
            measure=" ".join(filter(None, [self.measure, measure])),
            declared=self.text,
            arithmetic=self.arithmetic,
        )

    def _check(self, estimate: Estimate, control: Control, paired: Estimate | None) -> None:
        """Raise UserError, which names the claim, where one of them is something else, or in another unit."""
        given: list[tuple[str, object, Any]] = [
            ("estimate", estimate, Estimate),
            ("control", control, Control),
            ("paired", paired, Estimate | None),
        ]
        for name, one, kind in given:
            if not isinstance(one, kind):
                raise UserError(
                    f"the claim {self.text!r} was answered with {shown(one)} as its {name}; expected "
                    "CLAIM.answer(estimate, control): an Estimate, as estimate_mean(…) gives it, and a Control, as "
                    "zero(unit), set_beforehand(…) or Control(name, estimate)"
                )
        for name, number in (("estimate", estimate), ("control", control.estimate), ("paired", paired)):
            if number is not None and number.unit != self.unit:
                raise UserError(
                    f"the claim {self.text!r} is declared in {self.unit!r}, and its {name} came in {number.unit!r}; "
                    "expected one unit: change the one or the other"
                )

    def not_asked(self, because: str, *, about: Mapping[str, object] | None = None) -> NotAsked:
        """The claim was not put to this model, and why: a sentence that ends "… was not asked, because …"."""
        text = self.shown if about is None else self.about(about)
        return NotAsked(text, self.text, because, self.part, self.answers)


@dataclass(frozen=True)
class NotAsked:
    """A declared claim that this run did not put to the model, and why."""

    claim: str
    declared: str
    because: str
    part: str = ""
    answers: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.because, str) or not self.because.strip():
            raise UserError(
                f'the claim {self.declared!r} was not asked, and no reason came; expected CLAIM.not_asked("because …")'
            )


T = TypeVar("T", bound=Finding | NotAsked)


def check_declared(yielded: Finding | NotAsked, claims: Sequence[Claim], probe: str) -> None:
    """Raise UserError for a finding whose claim, or whose rule, is not one that the probe declared."""
    declared = {claim.text: claim for claim in claims}
    if (claim := declared.get(yielded.declared)) is None:
        if not declared:
            raise UserError(
                f"probe {probe} declares no claims, and answers {yielded.claim!r}; expected each claim as data before "
                "anything runs: CLAIM = Claim(…), @probe(claims=[CLAIM]), yield CLAIM.answer(…)"
            )
        near = "; ".join(repr(text) for text in nearest(yielded.declared or yielded.claim, declared))
        raise UserError(
            f"probe {probe} answers what it did not declare: {yielded.claim!r}; expected one of its {len(declared)} "
            f"claims{f', nearest: {near}' if near else ''}; add it to @probe(claims=[…])"
        )
    if not claim.says(yielded.claim):
        raise UserError(
            f"probe {probe} answers {yielded.claim!r} in the name of {claim.text!r}; expected the sentence that was "
            "declared: build the finding with the claim's answer(…)"
        )
    if isinstance(yielded, NotAsked):
        return
    for name in ("expects", "margin", "unit", "answers", "arithmetic"):
        given = yielded.estimate.unit if name == "unit" else getattr(yielded, name)
        if given != getattr(claim, name):
            raise UserError(
                f"probe {probe} declared {name}={getattr(claim, name)!r} for {claim.text!r}, and its finding has "
                f"{given!r}; expected what was declared: build it with the claim's answer(…)"
            )


def check_once(answers: Iterable[T], probe: str) -> Iterator[T]:
    """The answers as they come. Raises UserError where a sentence comes a second time."""
    met: set[str] = set()
    for answer in answers:
        if answer.claim in met:
            raise UserError(
                f"probe {probe} answers {answer.claim!r} a second time; expected one answer; a claim about more "
                'things than one has a place for each, such as {direction}, which `about={"direction": …}` fills in'
            )
        met.add(answer.claim)
        yield answer


def not_reached(claims: Iterable[Claim], reached: Iterable[Finding | NotAsked]) -> list[Claim]:
    """The declared claims that were neither answered nor said not to be asked."""
    met = {one.declared for one in reached}
    return [claim for claim in claims if claim.text not in met]
