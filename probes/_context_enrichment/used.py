"""Part (d): pushed along a direction at the noun, does the model go on with words of that kind?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Claim, Control, Estimate, Finding, Lab, Measured, Model, NotAsked
from interp.analysis import last_logits_under
from interp.edits import steer
from interp.stats import estimate_crossed, null_of, student_quantile

from . import NATS, USED
from .phrases import BEFORE, NEW, OLD, PHRASE, SAID, TOO_FEW_OF_AGE, Words
from .size import At, direction_of

MARGIN = 0.2  # nats: the odds of the one kind of word against the other go up by a fifth
ISOTROPIC = 8
QUICK_DEALT = 20  # each counts both ways, so that they are 40 draws: 39 show what chance reaches in 2.5 %
AT_ONCE = 8  # directions
ROUNDING = 1e-5

FOLLOWS = Claim(
    "Pushed at the noun along the direction of {kind}, the model says words of {kind} next, more than pushed as far "
    "between adjectives that do not mean it.",
    expects="greater",
    margin=MARGIN,
    unit=NATS,
    part=USED,
    answers=True,
    measure="“The red tower was so …”: log-probability of large words less that of small ones (old less new), half of "
    "the way from small to large added at the noun, less the same with half of it taken away. The words that are read "
    "had no part in the direction. Control: neutral adjectives dealt at random to two classes.",
    caveat="What a direction does when it is added need not be what the model does with it by itself.",
)
OWN_WORDS = Claim(
    "Words of {kind} are raised by the direction of {kind} more than, as far, by the direction of {other}.",
    expects="greater",
    margin=MARGIN,
    unit=NATS,
    part=USED,
    answers=True,
    measure="The same words, after the two pushes. Control: two such deals, one less the other.",
    caveat="Two kinds that go together in texts push each other's words.",
)
CLAIMS = [FOLLOWS, OWN_WORDS]
Direction = Float[Tensor, " d_model"]
Effects = dict[str, NDArray[np.float64]]  # by what is read: [adjective, noun]


@dataclass(frozen=True)
class Pushes:
    """Neutral phrases, the layer at which their nouns are pushed, and which next words are read."""

    model: Model
    layer: int
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    read: dict[str, list[str]]  # by kind: words of the first class, then as many of the second

    def effects(self, directions: Sequence[Direction]) -> list[Effects]:
        """For each direction: half of it added at the noun, less half of it taken away."""
        prompts = [SAID.format(adjective, noun) for adjective in self.adjectives for noun in self.nouns]
        whole, phrase = (text.format(self.adjectives[0], self.nouns[0]) for text in (SAID, PHRASE))
        behind = len(self.model.encode(whole)[0]) - len(self.model.encode(phrase)[0])
        site = self.model.residual(self.layer)
        pushed = [{site: steer(way, by, pos=-1 - behind)} for way in directions for by in (0.5, -0.5)]
        leads = [self._leads(logits) for logits in last_logits_under(self.model, prompts, pushed, behind=self.layer)]
        return [
            {kind: ahead[kind] - back[kind] for kind in ahead}
            for ahead, back in zip(leads[::2], leads[1::2], strict=True)
        ]

    def _leads(self, logits: Float[Tensor, "prompt d_vocab"]) -> Effects:
        """How far the words of the second class are ahead of those of the first [adjective, noun], by kind."""
        leads = {}
        for kind, words in self.read.items():
            ids = [row[-1] for row in self.model.encode([f"{BEFORE} {word}" for word in words])]
            # of log-probabilities it would be the same: what they lack to logits is alike for all words
            first, second = logits[:, ids].double().cpu().chunk(2, 1)
            lead = second.mean(1) - first.mean(1)
            leads[kind] = lead.view(len(self.adjectives), len(self.nouns)).numpy()
        return leads


def what_it_does(
    lab: Lab, words: Words, neutral: At, kinds: dict[str, tuple[tuple[str, ...], At]], layer: int
) -> Iterator[Finding | NotAsked]:
    """Directions of size and of age, of neutral adjectives dealt at random, and of nothing, all as long as size's.

    `kinds`: the adjectives of size, and of age where there are enough, and the vectors at nouns behind them.
    """
    no_age = [i for i, adjective in enumerate(words.neutral) if adjective not in {*NEW, *OLD}]
    spared = min(3 if lab.quick else 4, len(words.nouns) // 2)  # nouns that no direction is made from
    between = neutral[:, no_age, spared:]
    halves = {kind: read_and_made(len(adjectives)) for kind, (adjectives, _) in kinds.items()}
    made = {kind: direction_of(at[:, halves[kind][1], spared:]) for kind, (_, at) in kinds.items()}
    length, whole = made["size"].norm(), between.norm(dim=-1).mean()
    if min(direction.norm() for direction in made.values()) <= ROUNDING * whole:
        yield from _not_asked("because the noun's vector is the same after every adjective", ("size", "age"))
        return
    pushes = Pushes(
        lab.model,
        layer,
        tuple(words.neutral[i] for i in no_age[: 4 if lab.quick else 6]),
        words.nouns[:spared],
        {kind: [adjectives[i] for i in halves[kind][0]] for kind, (adjectives, _) in kinds.items()},
    )

    rng = np.random.default_rng(lab.seed)
    n_dealt, n_isotropic = (QUICK_DEALT, ISOTROPIC // 2) if lab.quick else (40, ISOTROPIC)
    halves_dealt = [rng.permutation(len(no_age))[: len(no_age) // 2 * 2] for _ in range(n_dealt)]
    isotropic = [torch.from_numpy(rng.normal(size=len(made["size"]))).to(between) for _ in range(n_isotropic)]
    directions = [*made.values(), *(direction_of(between[:, dealt]) for dealt in halves_dealt), *isotropic]
    effects: list[Effects] = []
    for start in range(0, len(directions), AT_ONCE):
        some = [direction * length / direction.norm() for direction in directions[start : start + AT_ONCE]]
        effects += pushes.effects(some)
        lab.progress("pushing the noun", len(effects), len(directions))
    by_kind = dict(zip(made, effects, strict=False))
    dealt, of_nothing = effects[len(made) : len(made) + n_dealt], effects[len(made) + n_dealt :]
    share = f"Layer {layer}; the way is {float(length / whole):.0%} of a vector's length."
    yield from _answers(by_kind, dealt, of_nothing, share)


def read_and_made(n: int) -> tuple[list[int], list[int]]:
    """Of adjectives of two classes: those that are read as next words, and those that make the direction."""
    n_read = n // 4
    read = [*range(n_read), *range(n // 2, n // 2 + n_read)]
    return read, [i for i in range(n) if i not in read]


def both_ways(leads: NDArray[np.float64]) -> NDArray[np.float64]:
    """What pushes along dealt directions do, and along their reverses: a deal with its classes exchanged.

    A push is half of a direction added less half of it taken away, so that its reverse does the same with the other
    sign, and costs no forward pass.
    """
    return np.concatenate([leads, -leads])


def _not_asked(because: str, kinds: tuple[str, ...]) -> Iterator[NotAsked]:
    for kind in kinds:
        yield FOLLOWS.not_asked(because, about={"kind": kind})
    for kind, other in (("size", "age"), ("age", "size")):
        yield OWN_WORDS.not_asked(because, about={"kind": kind, "other": other})


def _answers(
    by_kind: dict[str, Effects], dealt: list[Effects], isotropic: list[Effects], measure: str
) -> Iterator[Finding | NotAsked]:
    leads = {kind: np.array([effects[kind].mean() for effects in dealt]) for kind in by_kind}
    nulls = {kind: null_of(both_ways(leads[kind]), unit=NATS) for kind in by_kind}
    groups: dict[tuple[Any, ...], Estimate] = {
        (f"the direction of {made}", f"words of {kind}"): estimate_crossed(
            [effects[kind]], unit=NATS, over="noun", across="adjective"
        )
        for made, effects in by_kind.items()
        for kind in by_kind
    }
    for kind in by_kind:
        groups["neutral adjectives, dealt at random", f"words of {kind}"] = nulls[kind]
        # so few directions are no null: Student's reach about 0, which both ways of each give
        n, squares = len(isotropic), [effects[kind].mean() ** 2 for effects in isotropic]
        reach = student_quantile(n) * float(np.mean(squares)) ** 0.5
        groups["random numbers", f"words of {kind}"] = Estimate(0.0, -reach, reach, n, NATS, "direction", df=n)
    shown = Measured(("pushed along", "read"), "raised (nats)", groups)
    for kind in by_kind:
        yield FOLLOWS.answer(
            groups[f"the direction of {kind}", f"words of {kind}"],
            Control("as far between neutral adjectives, dealt at random", nulls[kind]),
            about={"kind": kind},
            measure=measure,
            table=shown.rows(),
            figure=shown.dots(
                y="pushed along",
                chance=0.0,
                caption="How far words are raised by a push at the noun. Intervals over adjectives and nouns; of "
                f"{len(dealt)} deals and of {len(isotropic)} directions of random numbers, both ways, where 95 % lie.",
            ),
        )
    if "age" not in by_kind:
        yield from _not_asked(TOO_FEW_OF_AGE, ("age",))
        return
    for kind, other in (("size", "age"), ("age", "size")):
        first, second = leads[kind][: len(dealt) // 2 * 2].reshape(-1, 2).T
        apart = both_ways(np.concatenate([first - second, first + second]))
        yield OWN_WORDS.answer(
            estimate_crossed([by_kind[kind][kind] - by_kind[other][kind]], unit=NATS, over="noun", across="adjective"),
            Control("two directions between neutral adjectives", null_of(apart, unit=NATS)),
            about={"kind": kind, "other": other},
            measure=measure,
        )
