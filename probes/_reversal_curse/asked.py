"""Asked: the loaded model on real facts, on a user's children and parents, and on facts in its prompt (b)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    Claim,
    Control,
    Direction,
    FactSet,
    Family,
    Finding,
    Lab,
    Row,
    UserError,
    begin_alike,
    invent_groups,
    rivals_of,
    set_beforehand,
    zero,
)
from interp.analysis import Asked, ask_facts, score_answers
from interp.stats import (
    double_centre,
    estimate_crossed,
    estimate_mean,
    matched_scores,
    null_of,
    silence_told,
    top_choice,
)

from .taught import NATS, Answers, dots

FACTS, QUESTIONS = "share of facts", "share of questions"
REAL = "(b) The loaded model on real facts"
YOURS = "(b) The loaded model on your pairs"
STATED_PART = "(b) The loaded model on facts in its prompt"
LEAST = 5  # facts: four can be dealt in 24 ways only, and one in 24 is no evidence
AHEAD = 1.0  # nats
MATCHED = "Log-probability of the own answer above the others', priors taken out, averaged over wordings."
INTERVAL = "The interval is for other facts and other wordings of the same kinds, not for other kinds of fact."
UNLIKE = "Judged on those whose answer has no word that begins like a word of what the question names."
GAP_CAVEAT = (
    "Pre-training text states most facts in both orders, so a gap here may be one of difficulty (a symbol has fewer "
    "rivals than a name) and its absence does not refute the curse; part (a) is the clean test."
)
PAIRS_FACTS = Claim(
    f"Asked {{how}}, the model pairs the right answers with the questions, {AHEAD:g} nat ahead of the others.",
    "greater",
    unit=NATS,
    margin=AHEAD,
    part=REAL,
    measure=f"{MATCHED} {UNLIKE} {INTERVAL}",
    caveat="Spelling can give an answer away in other ways than by its first letter: in its endings or its language.",
)
_gap = partial(Claim, expects="greater", margin=0.05, unit=FACTS, part=REAL, caveat=GAP_CAVEAT)
CHOOSES = _gap(
    "{model} chooses the right answer over 5 points more often forward than reversed ({facts}).",
    answers=True,
    measure=f"How often the own answer scores best of theirs, forward less reversed. {UNLIKE} {INTERVAL}",
)
WRITES = _gap(
    "Left to write, {model} gives the right answer over 5 points more often forward than reversed.",
    measure="How often the model's most likely text begins with a right answer, token by token, forward less "
    f"reversed. {UNLIKE} {INTERVAL}",
)
PAIRS_FAMILY = Claim(
    f"Children and their {{parents}}, different surname, asked {{how}}: the pairs are matched, {AHEAD:g} nat ahead.",
    "greater",
    unit=NATS,
    margin=AHEAD,
    part=YOURS,
    measure=f"{MATCHED} {UNLIKE} {INTERVAL}",
    caveat="Fame decides which pairs a model can know at all.",
)
BY_NAME = Claim(
    "Children and their {parents}, {names}, asked {how}: the pairs are matched, for which the shared name is enough.",
    "greater",
    unit=NATS,
    part=YOURS,
    measure=f"{MATCHED} {INTERVAL}",
    caveat="A shared name gives the answer away: believe the pairs with different surnames.",
)
CHILD, PARENT = "Tom Cruise", "Mary Lee Pfeiffer"
EXAMPLE = Claim(
    f"The paper's example, {CHILD} and his mother {PARENT}, asked {{how}}: the right name is {AHEAD:g} nat ahead.",
    "greater",
    unit=NATS,
    margin=AHEAD,
    part=YOURS,
    measure="Log-probability of the right name above those of other pairs' names, priors taken out.",
    caveat="One pair: the interval is over wordings, and says nothing of other people.",
)
HOW: dict[Direction, str] = {
    "forward": "forward (the subject is given)",
    "reversed": "reversed (the object is given)",
}
SHARES = {"chosen": "right answer chosen (share of facts)", "exact": "right answer written (share of facts)"}
OWN = "own answer above others (nats)"
DOTS = "Mean over facts and wordings; intervals over both; 0 is chance."


def pretrained(lab: Lab, fact_sets: Sequence[FactSet], n_boot: int) -> Answers:
    """Part (b): real facts, both directions, every answer against every prompt."""
    asked = {(facts.name, direction): _ask(lab, facts, direction) for facts in fact_sets for direction in DIRECTIONS}
    table = [
        _summary(name, asked[facts.name, direction], chosen)
        for facts in fact_sets
        for name, chosen in by_spelling(facts).items()
        for direction in DIRECTIONS
    ]
    judged = [facts for facts in fact_sets if len(unlike(facts)) >= LEAST]
    verdicts: list[str] = []
    for direction in DIRECTIONS:
        about = {"how": HOW[direction]}
        if not judged:
            yield PAIRS_FACTS.not_asked(
                f"because fewer than {LEAST} facts have answers that begin like no word of their question", about=about
            )
            continue
        scores = [_of(asked[facts.name, direction], unlike(facts)) for facts in judged]
        paired = _paired(PAIRS_FACTS, scores, about, n_boot, lab.seed, "answers dealt to the questions at random")
        figure = dots(OWN, "facts", "direction", DOTS, 0.0)
        paired = replace(paired, table=[row for row in table if row["direction"] == direction], figure=figure)
        verdicts.append(paired.verdict)
        yield paired
    model, names = lab.model.provenance.name, ", ".join(facts.name for facts in judged)
    # on the same facts as the verdicts that open the gate: letters may give the others away in one direction only
    sides = [[_among(asked[facts.name, d], unlike(facts)) for facts in judged] for d in DIRECTIONS]
    for claim, what, about in (
        (CHOOSES, "chosen", {"model": model, "facts": names}),
        (WRITES, "exact", {"model": model}),
    ):
        if "yes" not in verdicts:
            because = "because the model surely pairs these facts in neither direction, and that says nothing of either"
            yield claim.not_asked(because, about=about)
            continue
        chance = 1 / len(fact_sets[0]) if what == "chosen" else None
        figure = dots(SHARES[what], "facts", "direction", "Intervals over facts and wordings.", chance, f"{what} ")
        yield replace(_more_forward(claim, sides, what, about, lab, n_boot), table=table, figure=figure)


def _more_forward(
    claim: Claim, sides: Sequence[Sequence[Asked]], what: str, about: Mapping[str, object], lab: Lab, n_boot: int
) -> Finding:
    """How much more often forward than reversed: shares of each set, [template, fact], less the same facts' others."""
    forward, backward = ([_share(asked, what) for asked in side] for side in sides)
    by_fact = np.concatenate([a.mean(0) - b.mean(0) for a, b in zip(forward, backward, strict=True)])
    rng = np.random.default_rng(lab.seed)
    draws = (by_fact * rng.choice([-1.0, 1.0], size=(n_boot, len(by_fact)))).mean(axis=1)
    both = [*sides[0], *sides[1]]
    chance = 1 / forward[0].shape[1] if what == "chosen" else 0.0
    return claim.answer(
        estimate_crossed(forward, less=backward, unit=FACTS, over=_over(both), bounds=(-1.0, 1.0)),
        Control("the two directions swapped at random, fact by fact", null_of(draws, unit=FACTS)),
        about=about,
        measure=_p(draws, float(by_fact.mean())),
        caveat=silence_told([*forward, *backward], nothing=chance),
    )


def families(lab: Lab, kinds: Sequence[Family], n_boot: int) -> Answers:
    """Part (b) on a user's children and parents; a shared surname leaks the answer, so it is told apart."""
    if not kinds:
        no_pairs = "because no pairs came with --pairs"
        yield from (claim.not_asked(no_pairs) for claim in (PAIRS_FAMILY, BY_NAME, EXAMPLE))
        return
    not_judged: list[Row] = []  # the rows of pairs that no finding has a table for
    for kind in kinds:
        names = "same surname" if kind.surname == "same" else "another name in common"
        for direction in DIRECTIONS:
            asked = [_ask(lab, facts, direction) for facts in kind.sets]
            about: dict[str, object] = {"parents": kind.parents, "how": HOW[direction]}
            claim, chosen = PAIRS_FAMILY, [unlike(facts) for facts in kind.sets]
            if kind.surname != "different":
                claim, chosen, about = BY_NAME, [list(range(len(f))) for f in kind.sets], about | {"names": names}
            scores = [_of(one, few) for one, few in zip(asked, chosen, strict=True) if len(few) >= LEAST]
            table = [row for facts, one in zip(kind.sets, asked, strict=True) for row in _pair_rows(facts, one)]
            if not scores:
                not_judged += table
                yield claim.not_asked(f"because fewer than {LEAST} pairs share no first letter", about=about)
                continue
            paired = _paired(claim, scores, about, n_boot, lab.seed, "parents dealt to the children at random")
            all_of_them = (
                f"{kind.left_out} {' '.join(_by_set(f, one) for f, one in zip(kind.sets, asked, strict=True))}"
            )
            figure = dots(OWN, "pair", "direction", "Each pair; intervals over wordings; 0 is chance.", 0.0)
            yield replace(paired, measure=f"{paired.measure} {all_of_them}", table=table, figure=figure)
    for claim, wanted in ((PAIRS_FAMILY, {"different"}), (BY_NAME, {"same", "shared_word"})):
        if not wanted & {kind.surname for kind in kinds}:
            yield claim.not_asked(f"because the file holds fewer than {LEAST} such pairs of one kind")
    facts = rivals_of(CHILD, PARENT, kinds)
    for direction in DIRECTIONS:
        rows = [row for row in not_judged if row["direction"] == direction]
        yield _example(lab, facts, direction, rows)


def _example(lab: Lab, facts: FactSet, direction: Direction, more: list[Row]) -> Finding:
    """The pair that the paper opens with, wording by wording, and what the model writes by itself.

    `more`: rows of pairs that were too few to judge.
    """
    asked = _ask(lab, facts, direction)
    leads, prompts = asked.matched[:, 0], [facts.prompts(direction, t)[0] for t in range(len(asked.scores))]
    texts = [lab.model.generate(prompt, max_new_tokens=8).texts[0] for prompt in prompts]
    written = [" ".join(text.split()) for text in texts]  # in a line of its own
    table: list[Row] = [
        {
            "pair": f"{CHILD}, {PARENT}",
            "direction": direction,
            "asked": prompt,
            "the model writes": text,
            OWN: lead,
        }
        for prompt, text, lead in zip(prompts, written, leads.tolist(), strict=True)
    ]
    return EXAMPLE.answer(
        estimate_mean(leads, unit=NATS, over="wording", seed=lab.seed),
        zero(NATS, "no further ahead than of the other names"),
        about={"how": HOW[direction]},
        measure=f"Among {len(facts)} names. Asked “{prompts[0]}”, {lab.model.provenance.name} writes "
        f"“{written[0]}”; the right name in {int(asked.exact[:, 0].sum())} of {len(prompts)} wordings.",
        table=[*table, *more],
    )


def unlike(facts: FactSet) -> list[int]:
    """The facts whose two sides have no words that begin alike, so that a liking for letters cannot match them."""
    return [i for i, fact in enumerate(facts.facts) if not begin_alike(fact.subject, fact.object)]


def by_spelling(facts: FactSet) -> dict[str, Sequence[int]]:
    """The set, and where both kinds are common, its facts whose two sides share a first letter apart from the others.

    Zinc and Zn can be matched by their letters alone; sodium and Na cannot.
    """
    apart = unlike(facts)
    parts = {
        f"{facts.name}, same first letter": [i for i in range(len(facts)) if i not in apart],
        f"{facts.name}, another first letter": apart,
    }
    whole: dict[str, Sequence[int]] = {facts.name: range(len(facts))}
    return whole | parts if min(map(len, parts.values())) >= 4 else whole


def _ask(lab: Lab, facts: FactSet, direction: Direction) -> Asked:
    return ask_facts(lab.model, facts, direction, progress=lab.tell(f"{facts.name}, {direction}"))


def _of(asked: Asked, chosen: Sequence[int]) -> NDArray[np.float64]:
    """The scores of some facts among themselves: [template, fact, fact]."""
    return asked.scores[:, chosen][:, :, chosen]


def _among(asked: Asked, chosen: list[int]) -> Asked:
    """Some facts, their answers weighed against each other alone."""
    few = {"exact": asked.exact[:, chosen], "lengths": asked.lengths[chosen]}
    return replace(asked, scores=_of(asked, chosen), **few)


def _paired(
    claim: Claim, scores: Sequence[NDArray[np.float64]], about: Mapping[str, object], n_boot: int, seed: int, null: str
) -> Finding:
    """How far own answers are ahead, against answers dealt within each set; one deal serves all wordings."""
    n = [matrix.shape[-1] for matrix in scores]
    above = [double_centre(matrix).mean(0) * (k / (k - 1)) for matrix, k in zip(scores, n, strict=True)]
    rng = np.random.default_rng(seed)
    draws = np.array(
        [np.concatenate([m[np.arange(len(m)), rng.permutation(len(m))] for m in above]).mean() for _ in range(n_boot)]
    )
    matched = [matched_scores(matrix) for matrix in scores]
    over = f"facts, each in {max(len(matrix) for matrix in scores)} wordings"
    estimate = estimate_crossed(matched, unit=NATS, over=over)
    return claim.answer(
        estimate,
        Control(null, null_of(draws, unit=NATS)),
        about=about,
        measure=_p(draws, estimate.mean),
        caveat=silence_told(matched),
    )


def _p(draws: NDArray[np.float64], mean: float) -> str:
    """How often chance alone gives as much, which wordings that differ do not widen as they do the interval."""
    as_high = int((draws >= mean - 1e-12).sum())
    return f"Permutation p = {(1 + as_high) / (1 + len(draws)):.2g}, for these wordings."


def _over(asked: Iterable[Asked]) -> str:
    """What n counts."""
    return f"facts, each in {max(len(one.scores) for one in asked)} wordings"


def _share(asked: Asked, what: str) -> NDArray[np.float64]:
    """What share of answers is right, [template, fact]: `chosen` from all, or written (`exact`)."""
    return asked.chosen if what == "chosen" else asked.exact.astype(np.float64)


def _summary(name: str, asked: Asked, facts: Sequence[int]) -> Row:
    """One direction of a set, or of some of its `facts`; answers are weighed against those of the whole set."""
    chosen = list(facts)
    matched = estimate_crossed([asked.matched[:, chosen]], unit=NATS, over=_over([asked]))
    row: Row = {
        "facts": name,
        "direction": asked.direction,
        OWN: matched.mean,
        "low": matched.low,
        "high": matched.high,
    }
    row |= {
        "per token (nats)": float(asked.matched_per_token[:, chosen].mean()),
        "spread over templates (nats)": float(asked.matched[:, chosen].mean(1).std(ddof=1)),
    }
    for what, column in SHARES.items():
        share = _share(asked, what)[:, chosen]
        at = estimate_crossed([share], unit="share", over=_over([asked]), bounds=(0.0, 1.0))
        row |= {column: at.mean, f"{what} low": at.low, f"{what} high": at.high}
        row |= {f"{what}, by template": ", ".join(f"{mean:.2f}" for mean in share.mean(1))}
    return row | {"n": len(chosen)}


def _by_set(facts: FactSet, asked: Asked) -> str:
    chosen, written = (_share(asked, what).mean() for what in SHARES)
    return f"All {len(facts)} {facts.object}s: right name chosen {chosen:.0%}, written {written:.0%}."


def _pair_rows(facts: FactSet, asked: Asked) -> list[Row]:
    """One row a pair."""
    apart, rows = unlike(facts), []
    for i, fact in enumerate(facts.facts):
        at = estimate_mean(asked.matched[:, i], unit=NATS, over="wording")
        row: Row = {"pair": f"{fact.subject}, {fact.object}", "direction": asked.direction, OWN: at.mean}
        row |= {"low": at.low, "high": at.high, "no first letter in common": i in apart}
        rows.append(row | {f"{what} (share of wordings)": float(_share(asked, what)[:, i].mean()) for what in SHARES})
    return rows


CONTEXTS = 12  # a third of them in a quick run
PEOPLE = 4  # in each context, one fact a person
STATED = "{} is the painter of {}."
ASKED: dict[Direction, tuple[str, ...]] = {
    "forward": ("So {} is the painter of", "Question: What did {} paint? Answer:", "It follows that {} painted"),
    "reversed": ("So {} is the work of", "Question: Who painted {}? Answer:", "It follows that {} was painted by"),
}
PICKED = Claim(
    f"An invented fact that the prompt states, asked for in {{order}}, is picked out of {PEOPLE} in more than "
    f"{1 / PEOPLE + 0.1:.0%} of questions.",
    "greater",
    unit=QUESTIONS,
    margin=0.1,
    part=STATED_PART,
    measure=f"The own answer must score best of the {PEOPLE}, priors taken out. The interval is for other people, in "
    "these wordings.",
    caveat="Berglund et al. found no curse for facts in the prompt. A small model may fail at both orders, for want of "
    "skill: compare them.",
)


def in_context(lab: Lab) -> Answers:
    """Invented facts that the prompt states in one order, asked in both."""
    orders: dict[Direction, str] = {"forward": "the same order", "reversed": "the other order"}
    try:  # some tokenizers break an invented word into its letters: the longest prompt may not fit
        for direction in DIRECTIONS:
            for prompts, answers in _questions(lab, direction):
                lab.model.encode([prompt + answer for prompt in prompts for answer in answers])
    except UserError:
        for order in orders.values():
            yield PICKED.not_asked("because the model's context is too short for the facts", about={"order": order})
        return
    right = {direction: _pick(lab, direction) for direction in DIRECTIONS}
    rows: list[Row] = []
    for direction in DIRECTIONS:
        for t, template in enumerate(ASKED[direction]):
            at = estimate_mean(right[direction][:, t], unit=QUESTIONS, over="context", bounds=(0.0, 1.0))
            question = template.replace("{}", "…")
            rows.append({"question": question, "asked": direction, QUESTIONS: at.mean, "low": at.low, "high": at.high})
    caption = f"The right one of {PEOPLE} answers chosen; intervals over prompts."
    for direction, order in orders.items():
        first = direction == "forward"
        yield PICKED.answer(
            estimate_mean(right[direction], unit=QUESTIONS, over="context", bounds=(0.0, 1.0)),
            set_beforehand(1 / PEOPLE, QUESTIONS, f"1 of {PEOPLE} facts in the prompt"),
            about={"order": order},
            measure=f"{len(right[direction])} prompts of {PEOPLE} facts, each asked for in 3 wordings.",
            table=rows if first else [],
            figure=dots(QUESTIONS, "question", "asked", caption, 1 / PEOPLE) if first else None,
        )


def _questions(lab: Lab, direction: Direction) -> Iterator[tuple[list[str], list[str]]]:
    """(prompts, answers) of each context: every template for every person, and the answers of the persons."""
    for people in invent_groups([PEOPLE] * (CONTEXTS // 3 if lab.quick else CONTEXTS), lab.seed, 1):
        pairs = [(p.subject.capitalize(), p.object.capitalize()) for p in people]
        stated = "Here are some facts. " + " ".join(STATED.format(*pair) for pair in pairs)
        given, wanted = zip(*(pair if direction == "forward" else pair[::-1] for pair in pairs), strict=True)
        prompts = [f"{stated} {template.format(item)}" for template in ASKED[direction] for item in given]
        yield prompts, [f" {answer}" for answer in wanted]


def _pick(lab: Lab, direction: Direction) -> NDArray[np.float64]:
    """Is the right answer chosen? [context, template, person]."""
    out = []
    for prompts, answers in _questions(lab, direction):
        scores = score_answers(lab.model, prompts, answers).summed.numpy()
        out.append(top_choice(scores.reshape(-1, PEOPLE, PEOPLE)))
        lab.progress(f"facts in the prompt, {direction}", len(out), CONTEXTS // 3 if lab.quick else CONTEXTS)
    return np.stack(out)


CLAIMS = [PAIRS_FACTS, CHOOSES, WRITES, PICKED, PAIRS_FAMILY, BY_NAME, EXAMPLE]
