"""The reversal curse: a model that has learned "A is B" may not know "B is A".

Paper: Berglund et al. 2023, arXiv:2309.12288.

Question. After reading "Kanoju is the painter of Bafiju" many times, can a model complete "Bafiju is the work of"?
People do this without effort. The paper found that language models do not.

Three parts:

(a) Trained. Small GPT-2s learn invented people from scratch: one group by name first, one by description first, and
one in both orders. Only invented facts can be kept out of one order for certain. The group with both orders is the
positive control: it shows that the model, the prompts and the scoring can find a reversed answer when there is one.

(b) Pretrained. The loaded model is asked real facts in both directions. A pretrained model has read most facts in both
orders, so "no curse" is an honest result here. Answers are scored against each other, never on their own: a name is
not known because it is frequent.

(c) Where. Inside the model, layer by layer: where does the answer become readable, and does the last token of the
item that the prompt names carry it?

What counts as yes is fixed in the source, next to each claim, as an interval that must lie beyond its control.

What could fool us:

- Embeddings. GPT-2 uses one matrix to read and to write words. If a name is one word of its own, that matrix alone
  lifts the reversed answer in a multiple choice. So names of one own word and of two shared words, tied and untied
  matrices, are told apart.
- One wording. The same fact under another template can change more than under another direction: the trained models
  are asked in a wording they never read, the loaded model in three.
- Priors. " Paris" is likelier than " Reykjavik" after almost anything. Scores are centred over prompts and answers, and
  the null deals the answers to the prompts at random.
- Few seeds. Items share words and are not independent, so the intervals of part (a) are over training seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from interp.analysis.answers import exact_match, score_answers
from interp.analysis.estimate import Estimate
from interp.analysis.facts import Asked, align, ask
from interp.analysis.lens import answer_lead
from interp.analysis.patching import patch_residual
from interp.analysis.statistics import (
    bootstrap_mean,
    double_centre,
    known,
    matched_scores,
    pairing_null,
    sign_flip_null,
    t_interval,
    top_choice,
)
from interp.lab.findings import Control, Figure, Finding, Row
from interp.lab.probe import Lab, probe
from interp.model.model import Model
from interp.model.small import SmallGPT2, train_small_gpt2
from interp.saes.load import SAE, encode_features, load_sae, site_of
from interp.text.data import data
from interp.text.facts import Direction, FactSet, HeldOut, load_facts
from interp.text.invented import NameTokens, invent_groups, people_set
from interp.text.pairs import ParentType, Surname, load_pairs

BUNDLED = ("capitals", "elements", "books", "gods")
DIRECTIONS: tuple[Direction, Direction] = ("forward", "reversed")
GROUP = 20  # people a group; chance in the multiple choice is 1 in 20


@probe(paper="arXiv:2309.12288")
def reversal_curse(
    lab: Lab,
    *,
    facts: Path | None = None,
    pairs: Path | None = None,
    seeds: int = 5,
    steps: int = 400,
    max_pairs: int = 40,
    n_boot: int = 2000,
) -> Iterator[Finding]:
    """Run all three parts.

    Args:
        facts: a fact set of yours instead of the bundled ones: a CSV (subject,object) with its TOML of templates
        pairs: a CSV with the columns child,parent,parent_type, asked beside the facts
        seeds: training seeds for the small models
        steps: training steps of each small model
        max_pairs: at most this many pairs of each kind (same surname, different surname)
        n_boot: resamples for intervals and permutations
    """
    # Bad input is found before minutes of training.
    fact_sets = [load_facts(facts)] if facts else [load_facts(data(f"facts/{name}.csv")) for name in BUNDLED]
    families = _surname_sets(load_pairs(pairs).fact_sets(), max_pairs, lab.seed) if pairs else {}
    students = yield from trained(lab, seeds, steps)
    yield from pretrained(lab, fact_sets[:2] if lab.quick else fact_sets, n_boot)
    yield from family(lab, families, n_boot)
    yield from where(lab, students, fact_sets[0], steps, n_boot)
    yield from features(lab, fact_sets[0], n_boot)


# --- (a) trained from scratch --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Student:
    """A small GPT-2 and the three groups of people it learned from: name first, description first, both."""

    model: Model
    tied: bool
    name_tokens: NameTokens
    seed: int
    groups: dict[str, FactSet]

    @property
    def condition(self) -> str:
        words = "one-word names" if self.name_tokens == 1 else "two-word names"
        return f"{'tied' if self.tied else 'untied'} embeddings, {words}"


LEARNED: dict[str, tuple[Direction, ...]] = {
    "name first": ("forward",),
    "description first": ("reversed",),
    "both orders": ("forward", "reversed"),
}


def teach(seed: int, tied: bool, name_tokens: NameTokens, steps: int, lab: Lab, label: str) -> Student:
    """Train one small GPT-2 on three groups of invented people."""
    people = invent_groups([GROUP] * 3, seed, name_tokens)
    groups = {learned: people_set(group) for learned, group in zip(LEARNED, people, strict=True)}
    sentences = [
        sentence
        for learned, group in groups.items()
        for direction in LEARNED[learned]
        for template in range(len(group.templates(direction).training))
        for sentence in group.sentences(direction, template)
    ]
    model = train_small_gpt2(sentences, SmallGPT2(tied=tied, steps=steps), seed=seed, progress=lab.tell(label))
    return Student(model, tied, name_tokens, seed, groups)


def examine(student: Student, n_boot: int) -> list[Row]:
    """Ask every group in both directions, in a wording that was never trained."""
    rows: list[Row] = []
    for learned, group in student.groups.items():
        for direction in DIRECTIONS:
            prompts, answers = group.prompts(direction, "held_out"), group.answers(direction)
            scores = score_answers(student.model, prompts, answers).summed.numpy()
            shuffled = answers[1:] + answers[:1]
            rows.append(
                {
                    "condition": student.condition,
                    "seed": student.seed,
                    "learned": learned,
                    "asked": "as learned" if direction in LEARNED[learned] else "reversed",
                    "direction": direction,
                    "exact match": float(np.mean(exact_match(student.model, prompts, answers))),
                    "exact match, shuffled answers": float(np.mean(exact_match(student.model, prompts, shuffled))),
                    "multiple choice": float(top_choice(scores).mean()),
                    "correct minus others (nats)": float(matched_scores(scores).mean()),
                    "null of it (nats)": pairing_null(scores, unit="nats", n_perm=n_boot, seed=student.seed).high,
                }
            )
    return rows


def trained(lab: Lab, seeds: int, steps: int) -> Iterator[Finding]:
    """Part (a). Yields its findings and returns the students."""
    designs: list[tuple[bool, NameTokens]] = [(False, 2), (True, 1)] if lab.quick else [(False, 2), (False, 1), (True, 2), (True, 1)]
    students: list[Student] = []
    rows: list[Row] = []
    for i, (tied, words) in enumerate(designs):
        for s in range(seeds):
            label = f"training small GPT-2 {i * seeds + s + 1} of {len(designs) * seeds}"
            students.append(teach(lab.seed * 1000 + s, tied, words, steps, lab, label))
            rows += examine(students[-1], 500)
    one_way = [r for r in rows if r["learned"] != "both orders"]
    as_learned = [r for r in one_way if r["asked"] == "as learned"]
    backwards = [r for r in one_way if r["asked"] == "reversed"]
    both = [r for r in rows if r["learned"] == "both orders"]
    part = "(a) Trained from scratch on invented people"
    table = _by_condition(rows, "exact match")
    share = "share of people"

    yield Finding(
        claim="Asked in the order it was taught, a small GPT-2 gives the answer.",
        estimate=_over_seeds(as_learned, "exact match", share),
        control=Control(
            "the same prompts with the answers dealt to the wrong people",
            _over_seeds(as_learned, "exact match, shuffled answers", share),
        ),
        expects="greater",
        margin=0.5,
        part=part,
        caveat="Exact match: the greedy answer must agree in every word, in a wording that was never trained.",
        table=table,
        figure=_dots("exact match (share of people)", "Exact match by condition; intervals over training seeds."),
    )
    yield Finding(
        claim="Asked in the other order, it does no better than chance.",
        estimate=_over_seeds(backwards, "exact match", share),
        control=Control(
            "the same prompts with the answers dealt to the wrong people",
            _over_seeds(backwards, "exact match, shuffled answers", share),
        ),
        expects="equal",
        margin=0.05,
        part=part,
        caveat="A model this small could fail for lack of capacity; the next claim rules that out.",
        table=rows,
    )
    yield Finding(
        claim="Positive control: where training held both orders, both orders are answered.",
        estimate=_over_seeds(both, "exact match", share),
        control=Control("people taught in one order only, asked in the other", _over_seeds(backwards, "exact match", share)),
        expects="greater",
        margin=0.5,
        part=part,
        table=[r for r in rows if r["learned"] == "both orders"],
    )
    yield from _graded(rows, backwards, part)
    return students


def _graded(rows: list[Row], backwards: list[Row], part: str) -> Iterator[Finding]:
    """Finer measures than exact match: do they see anything of the reversed fact?"""
    clean = [r for r in backwards if r["condition"] == "untied embeddings, two-word names"]
    leaky = [r for r in backwards if r["condition"] == "tied embeddings, one-word names"]
    chance = known(1 / GROUP, unit="share of people", why=f"1 of {GROUP} answers")
    yield Finding(
        claim=f"Even choosing among {GROUP} names, the reversed answer stays at chance (untied embeddings, two-word names).",
        estimate=_over_seeds(clean, "multiple choice", "share of people"),
        control=Control("chance", chance),
        expects="equal",
        margin=0.1,
        part=part,
        caveat="Answer priors are taken out first, by centring scores over prompts and answers.",
        table=_by_condition(rows, "multiple choice"),
        figure=_dots(
            "multiple choice (share of people)",
            f"Own answer best of {GROUP} after centring; intervals over training seeds.",
            chance=1 / GROUP,
        ),
    )
    yield Finding(
        claim="Tied embeddings with one-word names leak the pairing backwards in a multiple choice.",
        estimate=_over_seeds(leaky, "multiple choice", "share of people"),
        control=Control("untied embeddings, two-word names", _over_seeds(clean, "multiple choice", "share of people")),
        expects="greater",
        margin=0.0,
        part=part,
        caveat="A leak through the shared matrix is no knowledge of the reversed fact: exact match stays at chance.",
        table=[r for r in rows if r["asked"] == "reversed"],
    )
    yield Finding(
        claim="The reversed answer's log-probability is that of a shuffled answer (untied embeddings, two-word names).",
        estimate=_over_seeds(clean, "correct minus others (nats)", "nats"),
        control=Control("no difference", known(0.0, unit="nats", why="by construction")),
        expects="equal",
        margin=0.5,
        part=part,
        caveat="In the taught order the same measure is several nats; see the figure.",
        table=_by_condition(rows, "correct minus others (nats)"),
        figure=_dots("correct minus others (nats)", "Summed over the answer's tokens, double-centred; 0 is chance.", chance=0.0),
    )


def _over_seeds(rows: Sequence[Row], column: str, unit: str) -> Estimate:
    seeds = sorted({int(r["seed"] or 0) for r in rows})
    means = [float(np.mean([r[column] for r in rows if r["seed"] == s])) for s in seeds]  # type: ignore[arg-type]
    if len(means) == 1:
        return bootstrap_mean(means, unit=unit, over="seed")
    bounds = (-np.inf, np.inf) if "nats" in unit + column else (0.0, 1.0)
    return t_interval(means, unit=unit, over="training seed", bounds=bounds)


def _by_condition(rows: Sequence[Row], column: str) -> list[Row]:
    """One row a condition and question, with an interval over seeds, for the figure."""
    out: list[Row] = []
    for condition in dict.fromkeys(r["condition"] for r in rows):
        for kind, test in (
            ("as taught", lambda r: r["learned"] != "both orders" and r["asked"] == "as learned"),
            ("reversed", lambda r: r["asked"] == "reversed"),
            ("taught both orders", lambda r: r["learned"] == "both orders"),
        ):
            e = _over_seeds([r for r in rows if r["condition"] == condition and test(r)], column, "")
            name = column if "(" in column else f"{column} (share of people)"
            out.append({"condition": condition, "asked": kind, name: e.mean, "low": e.low, "high": e.high, "seeds": e.n})
    return out


def _dots(x: str, caption: str, chance: float | None = None) -> Figure:
    return Figure("interval_dots", x=x, y="condition", group="asked", low="low", high="high", chance=chance, caption=caption)


# --- (b) the loaded model ------------------------------------------------------------------------------------------


def pretrained(lab: Lab, fact_sets: Sequence[FactSet], n_boot: int) -> Iterator[Finding]:
    """Part (b): real facts, both directions, every answer against every prompt."""
    part = "(b) The loaded model on real facts"
    asked = {
        (facts.name, direction): ask(lab.model, facts, direction, progress=lab.tell(f"{facts.name}, {direction}"))
        for facts in fact_sets
        for direction in DIRECTIONS
    }
    table = [_summary(name, found, n_boot, lab.seed) for (name, _), found in asked.items()]
    for direction in DIRECTIONS:
        found = [a for (_, d), a in asked.items() if d == direction]
        yield Finding(
            claim=f"Asked {_in_words(direction)}, the model pairs the right answers with the questions.",
            estimate=bootstrap_mean(
                np.concatenate([a.matched for a in found]), unit="nats", over="fact", n_boot=n_boot, seed=lab.seed
            ),
            control=Control("answers dealt to the questions at random", _pooled_null(found, n_boot, lab.seed)),
            expects="greater",
            part=part,
            caveat="Log-probability of the own answer above the others', priors taken out, averaged over templates.",
            table=[r for r in table if r["direction"] == direction],
            figure=_set_dots("own answer above others (nats)", "Mean over facts and templates; 0 is chance.", 0.0),
        )
    forward, backward = (
        np.concatenate([a.chosen for (_, d), a in asked.items() if d == direction]) for direction in DIRECTIONS
    )
    gap = forward - backward
    yield Finding(
        claim="The curse: the model chooses the right answer more often forward than reversed.",
        estimate=bootstrap_mean(gap, unit="share of facts", over="fact", n_boot=n_boot, seed=lab.seed),
        control=Control(
            "the two directions swapped at random, fact by fact",
            sign_flip_null(gap, unit="share of facts", n_perm=n_boot, seed=lab.seed),
        ),
        expects="greater",
        margin=0.05,
        part=part,
        caveat=(
            "Pre-training text states most facts in both orders, so a gap here may be one of difficulty (a symbol has "
            "fewer rivals than a name) and its absence does not refute the curse; part (a) is the clean test."
        ),
        table=table,
        figure=_set_dots(
            "right answer chosen (share of facts)",
            "Own answer best of all after centring; intervals over facts.",
            1 / len(fact_sets[0]),
        ),
    )


def family(lab: Lab, families: dict[str, list[FactSet]], n_boot: int) -> Iterator[Finding]:
    """Part (b) on a user's children and parents; a shared surname leaks the answer, so it is told apart."""
    for surname, sets in families.items():
        for direction in DIRECTIONS:
            found = [ask(lab.model, f, direction, progress=lab.tell(f"{f.name}, {direction}")) for f in sets]
            yield Finding(
                claim=f"Children and parents, {surname} surname, asked {_in_words(direction)}: the pairs are matched.",
                estimate=bootstrap_mean(
                    np.concatenate([a.matched for a in found]), unit="nats", over="pair", n_boot=n_boot, seed=lab.seed
                ),
                control=Control("parents dealt to the children at random", _pooled_null(found, n_boot, lab.seed)),
                expects="greater",
                part="(b) The loaded model on your pairs",
                caveat="A shared surname gives the answer away: believe the pairs with different surnames."
                if surname != "different"
                else "Fame decides which pairs a model can know at all.",
                table=[_summary(f.name, a, n_boot, lab.seed) for f, a in zip(sets, found, strict=True)],
                figure=_set_dots("own answer above others (nats)", "Mean over pairs and templates; 0 is chance.", 0.0),
            )


def _surname_sets(
    sets: dict[tuple[Surname, ParentType], FactSet], max_pairs: int, seed: int
) -> dict[str, list[FactSet]]:
    """At most `max_pairs` pairs of each kind, one-to-one, so that every answer is wrong for every other prompt."""
    out: dict[str, list[FactSet]] = {}
    for (surname, _), facts in sets.items():
        seen: set[str] = set()
        one_to_one = [f for f in facts.facts if not {f.subject, f.object} & seen and not seen.update((f.subject, f.object))]
        rng = np.random.default_rng(seed)
        chosen = sorted(rng.permutation(len(one_to_one))[:max_pairs].tolist())
        if len(chosen) >= 4:
            out.setdefault(surname, []).append(replace(facts, facts=tuple(one_to_one[i] for i in chosen)))
    return out


def _in_words(direction: Direction) -> str:
    return "forward (the subject is given)" if direction == "forward" else "reversed (the object is given)"


def _pooled_null(found: Sequence[Asked], n_boot: int, seed: int) -> Estimate:
    """The null of a mean over several sets: within each, one permutation of the answers."""
    rng = np.random.default_rng(seed)
    centred = [double_centre(a.scores).mean(0) for a in found]
    draws = [np.concatenate([m[np.arange(len(m)), rng.permutation(len(m))] for m in centred]).mean() for _ in range(n_boot)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(np.mean(draws)), float(low), float(high), n_boot, "nats", "permutation")


def _summary(name: str, asked: Asked, n_boot: int, seed: int) -> Row:
    matched = bootstrap_mean(asked.matched, unit="nats", over="fact", n_boot=n_boot, seed=seed)
    chosen = bootstrap_mean(asked.chosen, unit="share", over="fact", n_boot=n_boot, seed=seed)
    by_template = np.diagonal(double_centre(asked.scores), axis1=1, axis2=2).mean(1)
    return {
        "facts": name,
        "direction": asked.direction,
        "own answer above others (nats)": matched.mean,
        "low": matched.low,
        "high": matched.high,
        "per token (nats)": float(asked.matched_per_token.mean()),
        "spread over templates (nats)": float(by_template.std(ddof=1)),
        "right answer chosen (share of facts)": chosen.mean,
        "chosen low": chosen.low,
        "chosen high": chosen.high,
        "exact match (share of facts)": float(asked.exact.mean()),
        "exact match by template": ", ".join(f"{m:.2f}" for m in asked.exact.mean(1)),
        "n": len(asked.matched),
    }


def _set_dots(x: str, caption: str, chance: float) -> Figure:
    low, high = ("chosen low", "chosen high") if "chosen" in x else ("low", "high")
    return Figure("interval_dots", x=x, y="facts", group="direction", low=low, high=high, chance=chance, caption=caption)


# --- (c) where -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patient:
    """A model to look into, with the facts to ask it: `stride` between layers, at most `pairs` prompt pairs."""

    who: str
    model: Model
    facts: FactSet
    template: int | HeldOut
    stride: int
    pairs: int


def where(lab: Lab, students: Sequence[Student], facts: FactSet, steps: int, n_boot: int) -> Iterator[Finding]:
    """Part (c): lens and patching, on a trained GPT-2 and on the loaded model; features when there is an SAE."""
    # Names of one word, so that every answer has a first token of its own; untied, so that no leak helps.
    student = next((s for s in students if not s.tied and s.name_tokens == 1), None)
    student = student or teach(lab.seed * 1000, False, 1, steps, lab, "training the small GPT-2 to look into")
    taught = student.groups["name first"]
    name = lab.model.provenance.name
    patients = [
        Patient("a trained GPT-2 (taught name first)", student.model, taught, "held_out", 1, len(taught)),
        Patient(f"{name} on {facts.name}", lab.model, facts, 0, 5 if lab.quick else 3, 8),
    ]
    for patient in patients:
        yield from _readable(lab, patient, n_boot)
        yield from _carried(lab, patient, n_boot)


def _readable(lab: Lab, patient: Patient, n_boot: int) -> Iterator[Finding]:
    """Where the logit lens reads the answer."""
    layers = _layers(patient)
    rows: list[Row] = []
    last: dict[Direction, Estimate] = {}
    for direction in DIRECTIONS:
        aligned = align(patient.model, patient.facts, direction, patient.template)
        lead = answer_lead(
            patient.model, aligned.prompts, aligned.answer_ids, layers=layers, progress=lab.tell(f"lens, {patient.who}")
        ).numpy()
        rows += _map_rows(lead.mean(0), layers, aligned.labels, direction, "lead (nats)")
        last[direction] = bootstrap_mean(lead[:, -1, -1], unit="nats", over="prompt", n_boot=n_boot, seed=lab.seed)
    yield Finding(
        claim=f"In {patient.who}, the answer is readable at the last token when asked forward, more than reversed.",
        estimate=last["forward"],
        control=Control("asked reversed", last["reversed"]),
        expects="greater",
        margin=1.0,
        part=WHERE,
        caveat="Logit lens: early layers may hold the answer in a form that the final unembedding cannot read.",
        table=rows,
        figure=_map("lead (nats)", "Logit lens: the own answer's first token above the other answers'."),
    )


def _carried(lab: Lab, patient: Patient, n_boot: int) -> Iterator[Finding]:
    """What patching the item's tokens moves, against patching from an unrelated prompt."""
    layers = _layers(patient)
    early = layers[: max(1, len(layers) // 2)]
    rows: list[Row] = []
    found: dict[Direction, tuple[Estimate, Estimate]] = {}
    for direction in DIRECTIONS:
        aligned = align(patient.model, patient.facts, direction, patient.template)
        n = min(patient.pairs, len(aligned.prompts))
        prompts, answers = aligned.prompts[:n], aligned.answer_ids[:n]
        # Clean prompt i is paired with corrupt prompt i + 1; prompt i + 2 has to do with neither answer. The clean
        # answer is weighed against those of all further prompts.
        corrupt, unrelated = _rolled(prompts, 1), _rolled(prompts, 2)
        others = [_rolled(answers, i)[3:] for i in range(n)]
        positions = range(aligned.first_item, len(aligned.labels))  # before the item, the two runs are the same
        moved = patch_residual(
            patient.model,
            prompts,
            corrupt,
            answers,
            others,
            layers=layers,
            positions=positions,
            progress=lab.tell(f"patching, {patient.who}, {direction}"),
        ).effect.numpy()
        stray = patch_residual(
            patient.model, unrelated, corrupt, answers, others, layers=early, positions=[aligned.last_item]
        ).effect.numpy()
        rows += _map_rows(moved.mean(0), layers, aligned.labels[aligned.first_item :], direction, "moved (nats)")
        at_item = moved[:, : len(early), aligned.last_item - aligned.first_item].mean(1)
        found[direction] = (
            bootstrap_mean(at_item, unit="nats", over="pair", n_boot=n_boot, seed=lab.seed),
            bootstrap_mean(stray[:, :, 0].mean(1), unit="nats", over="pair", n_boot=n_boot, seed=lab.seed),
        )
    for direction, (estimate, control) in found.items():
        yield Finding(
            claim=f"In {patient.who}, asked {direction}, the item's last token carries the answer in the early half of the layers.",
            estimate=estimate,
            control=Control("patched from a third, unrelated prompt", control),
            expects="greater",
            part=WHERE,
            caveat="Each prompt is in two pairs, so the interval over pairs is somewhat too narrow.",
            table=[r for r in rows if r["direction"] == direction],
            figure=_map("moved (nats)", "How far patching one place moves the answer from the corrupt towards the clean one."),
        )


def features(lab: Lab, facts: FactSet, n_boot: int) -> Iterator[Finding]:
    """Which features of the SAE differ between the two directions, more than between two wordings of one direction?"""
    if lab.sae_folder is None:
        return
    sae = load_sae(lab.sae_folder, lab.model)
    forward, backward = (_feature_activations(lab.model, sae, facts, direction) for direction in DIRECTIONS)
    half = len(facts) // 2  # features are chosen on one half of the facts and measured on the other
    between, within = forward.mean(1) - backward.mean(1), forward[:, 0] - forward[:, 1]
    measured = []
    for contrast in (between, within):
        chosen = np.argsort(-np.abs(contrast[:half].mean(0)))[:TOP_FEATURES]
        signed = contrast[half:, chosen] * np.sign(contrast[:half, chosen].mean(0))
        measured.append(bootstrap_mean(signed.mean(1), unit="activation", over="fact", n_boot=n_boot, seed=lab.seed))
    shown = np.argsort(-np.abs(between[:half].mean(0)))[:TOP_FEATURES]
    rows: list[Row] = []
    for f in shown.tolist():
        for direction, acts in (("forward", forward), ("reversed", backward)):
            e = bootstrap_mean(acts[half:, :, f], unit="activation", over="fact", n_boot=n_boot, seed=lab.seed)
            rows.append(
                {"feature": f"feature {f}", "direction": direction, "mean activation": e.mean, "low": e.low, "high": e.high}
            )
    yield Finding(
        claim=f"At the last token, the two directions ({facts.name}) differ in features, more than two wordings of one do.",
        estimate=measured[0],
        control=Control("two wordings of the forward question", measured[1]),
        expects="greater",
        part=WHERE,
        caveat=(
            f"The {TOP_FEATURES} features that differ most on one half of the facts, measured on the other half. The "
            "questions' words differ too, so a feature here may be about wording and not about the direction."
        ),
        table=rows,
        figure=Figure(
            "interval_dots",
            x="mean activation",
            y="feature",
            group="direction",
            low="low",
            high="high",
            caption=f"Features of the SAE at {site_of(sae)}, at the prompt's last token; held-out half of the facts.",
        ),
    )


def _feature_activations(model: Model, sae: SAE, facts: FactSet, direction: Direction) -> NDArray[np.float64]:
    """[fact, template, feature] at the last token of each prompt."""
    site = site_of(sae)
    per_template = [
        encode_features(sae, model.capture(facts.prompts(direction, t), site).last(site))
        for t in range(len(facts.templates(direction).training))
    ]
    return np.stack(per_template, axis=1)


WHERE = "(c) Where in the model"
TOP_FEATURES = 12


def _layers(patient: Patient) -> list[int]:
    return sorted({*range(0, patient.model.n_layers, patient.stride), patient.model.n_layers - 1})


T = TypeVar("T")


def _rolled(items: Sequence[T], k: int) -> list[T]:
    return [*items[k:], *items[:k]]


def _map_rows(values: NDArray[np.float64], layers: Sequence[int], labels: Sequence[str], direction: str, name: str) -> list[Row]:
    return [
        {"direction": direction, "layer": layer, "token": label, name: float(values[i, p])}
        for i, layer in enumerate(layers)
        for p, label in enumerate(labels)
    ]


def _map(z: str, caption: str) -> Figure:
    return Figure("layer_position_map", x="token", y="layer", z=z, facet="direction", caption=caption)


if __name__ == "__main__":
    from interp.cli import run_probe_file

    run_probe_file(__file__)
