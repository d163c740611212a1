"""Part (c): where in the model the answer becomes readable, what carries it, and which features tell the directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from interp import (
    Control,
    Direction,
    Estimate,
    FactSet,
    Figure,
    Finding,
    HeldOut,
    Lab,
    Model,
    Row,
    capture_rows,
    split_corpus,
)
from interp.analysis import align, answer_lead, logit_difference, patch_sweep
from interp.features import top_examples
from interp.saes import SAE, encode_features, load_sae, site_of
from interp.stats import estimate_mean, known

from . import DIRECTIONS
from .trained import Student

PART = "(c) Where in the model"
TOP_FEATURES = 12
WORDINGS: tuple[int | HeldOut, ...] = (0, "held_out")  # of the real facts' templates: they end in one word
EXAMPLE_TOKENS = 4000
LEAD = 1.0  # nats: what counts as readable
T = TypeVar("T")


@dataclass(frozen=True)
class ExaminedModel:
    """A model to look into, with the facts to ask it: `stride` between layers, at most `pairs` prompt pairs.

    `note`: what a reader must know of it, in a sentence after a space.
    """

    who: str
    model: Model
    facts: FactSet
    template: int | HeldOut
    stride: int
    pairs: int
    note: str = ""


def models_to_examine(lab: Lab, students: Sequence[Student], facts: FactSet | None) -> list[ExaminedModel]:
    """A small GPT-2 taught name first, where there is one, and the loaded model, where its prompts align."""
    # Names of one word, so that every answer has a first token of its own; untied, so that no leak helps.
    examined_models = []
    student = next((s for s in students if not s.tied and s.name_tokens == 1), None)
    if student is not None:
        taught, note = student.groups["name first"], f" One model: {student.condition}, seed {student.seed}."
        who = "one small GPT-2 trained here, on people taught name first"
        examined_models.append(ExaminedModel(who, student.model, taught, "held_out", 1, len(taught), note))
    if facts is not None:
        stride = max(1, min(5 if lab.quick else 3, lab.model.n_layers // 2))
        examined_models.append(
            ExaminedModel(f"{lab.model.provenance.name} on {facts.name}", lab.model, facts, 0, stride, 8)
        )
    return examined_models


def where(lab: Lab, examined_models: Sequence[ExaminedModel], n_boot: int) -> Iterator[Finding]:
    """Part (c): lens and patching, on a trained GPT-2 and on the loaded model."""
    for examined in examined_models:
        yield from _readable(lab, examined, n_boot)
        yield from _carried(lab, examined, n_boot)


def _readable(lab: Lab, examined: ExaminedModel, n_boot: int) -> Iterator[Finding]:
    """Where the logit lens reads the answer."""
    layers = layers_of(examined)[1:]  # the embedding can hold no answer yet: there the lens shows which words are alike
    rows: list[Row] = []
    last: dict[Direction, Estimate] = {}
    since: dict[Direction, str] = {}
    for direction in DIRECTIONS:
        aligned = align(examined.model, examined.facts, direction, examined.template)
        lead = answer_lead(
            examined.model,
            aligned.prompts,
            aligned.answer_ids,
            layers=layers,
            priors_out=True,
            progress=lab.tell(f"lens, {examined.who}"),
        ).numpy()
        rows += _map_rows(lead.mean(0), layers, aligned.labels, direction, "lead (nats)")
        last[direction] = estimate_mean(lead[:, -1, -1], unit="nats", over="prompt", n_boot=n_boot, seed=lab.seed)
        since[direction] = _from_layer(layers, lead.mean(0)[:, -1] > LEAD)
    chance = known(0.0, unit="nats", why="own answer no likelier than the others")
    for direction in DIRECTIONS:
        n, total = last[direction].n, len(examined.facts)
        yield Finding(
            claim=f"In {examined.who}, asked {direction}, the answer is readable at the last token of the last layer.",
            estimate=last[direction],
            control=Control("chance", chance),
            expects="greater",
            margin=LEAD,
            part=PART,
            measure="Logit lens: the log-probability of the right answer's first token above the other answers' mean, "
            "less its lead in the other prompts, so that no answer's own likelihood counts. "
            f"{n} of {total} prompts: those of one layout, with answers that start differently.{examined.note}",
            caveat="Early layers may hold the answer in a form that the final unembedding cannot read. The two "
            "directions have different answers, so their numbers are not to be compared with each other.",
            table=rows if direction == "forward" else [],
            figure=_map(
                "lead (nats)",
                "Logit lens: the right answer's first token above the other answers'. Layer l is block l's output. At "
                f"the last token the mean stays above {LEAD:g} nat: forward {since['forward']}, reversed "
                f"{since['reversed']}.",
            )
            if direction == "forward"
            else None,
        )


def _from_layer(layers: Sequence[int], above: NDArray[np.bool_]) -> str:
    """From which layer on, without a break to the last one."""
    first = next((i for i in range(len(layers)) if above[i:].all()), None)
    return "at no layer" if first is None else f"from layer {layers[first]} on"


def _carried(lab: Lab, examined: ExaminedModel, n_boot: int) -> Iterator[Finding]:
    """What patching the item's tokens moves, against patching from an unrelated prompt."""
    layers = layers_of(examined)
    # Not the embedding: patched there, the prompt is the other prompt, and all moves whatever the model does.
    early = [layer for layer in layers if 0 < layer <= max(1, examined.model.n_layers // 2)]
    deep = len(early) > 1  # in a model of two blocks the answer has left the item by the end of the first
    rows: list[Row] = []
    found: dict[Direction, tuple[Estimate, Estimate]] = {}
    for direction in DIRECTIONS:
        aligned = align(examined.model, examined.facts, direction, examined.template)
        n = min(examined.pairs, len(aligned.prompts))
        prompts, answers = aligned.prompts[:n], aligned.answer_ids[:n]
        # Clean prompt i is paired with corrupt prompt i + 1; prompt i + 2 has to do with neither answer. The clean
        # answer is weighed against those of all further prompts.
        corrupt, unrelated = _rolled(prompts, 1), _rolled(prompts, 2)
        others = [_rolled(answers, i)[3:] for i in range(n)]
        positions = range(aligned.first_item, len(aligned.labels))  # before the item, the two runs are the same
        lead = logit_difference(answers, others)
        moved = patch_sweep(
            examined.model,
            prompts,
            corrupt,
            lead,
            [examined.model.residual(layer) for layer in layers],
            positions=positions,
            progress=lab.tell(f"patching, {examined.who}, {direction}"),
        ).effect.numpy()
        place = aligned.last_item if deep else len(aligned.labels) - 1
        stray = patch_sweep(
            examined.model,
            unrelated,
            corrupt,
            lead,
            [examined.model.residual(layer) for layer in early],
            positions=[place],
        ).effect.numpy()
        rows += _map_rows(moved.mean(0), layers, aligned.labels[aligned.first_item :], direction, "moved (nats)")
        at_place = moved[:, [layers.index(layer) for layer in early], place - aligned.first_item].mean(1)
        found[direction] = (
            _over_pairs(at_place, n_boot, lab.seed),
            _over_pairs(stray[:, :, 0].mean(1), n_boot, lab.seed),
        )
    where = f"in layers {early[0]} to {early[-1]}" if deep else f"in layer {early[0]}"
    token = "the item's last token" if deep else "the prompt's last token"
    for direction, (estimate, control) in found.items():
        yield Finding(
            claim=f"In {examined.who}, asked {direction}, the answer is read from {token} {where}.",
            estimate=estimate,
            control=Control("patched from a third, unrelated prompt", control),
            expects="greater",
            margin=0.5,
            part=PART,
            measure=f"How far {token}, copied from a prompt with another item, moves the model towards that item's "
            f"answer: the mean {where}. The item is what the prompt names.{examined.note}",
            caveat="It shows that the answer depends on what stands there, which may be the item alone and not yet the "
            "answer. Each prompt is in two pairs, and the interval is widened for it.",
            table=rows if direction == "forward" else [],
            figure=_map(
                "moved (nats)",
                "How far copying one place from the prompt with the right item moves the answer. Layer l is the output "
                "of block l; layer 0 is the embedding, where an item of one token is all that there is to copy.",
            )
            if direction == "forward"
            else None,
        )


def _over_pairs(values: NDArray[np.float64], n_boot: int, seed: int) -> Estimate:
    """Mean over pairs in a ring: neighbours share a prompt, which at most doubles the variance of their mean."""
    e = estimate_mean(values, unit="nats", over="pair", n_boot=n_boot, seed=seed)
    return replace(e, low=e.mean - (e.mean - e.low) * 2**0.5, high=e.mean + (e.high - e.mean) * 2**0.5)


def features(lab: Lab, facts: FactSet, n_boot: int) -> Iterator[Finding]:
    """Do the two directions differ in more than wording? SAE features in two directions, each in two wordings.

    Nothing without an SAE, or where the first training template and the held-out one do not end in one token in both
    directions: the last word alone would tell the directions apart.
    """
    if lab.sae_folder is None or not _end_alike(lab.model, facts):
        return
    sae = load_sae(lab.sae_folder, lab.model)
    forward, backward = (_feature_activations(lab.model, sae, facts, direction) for direction in DIRECTIONS)
    by_direction = (forward - backward).mean(1)
    by_wording = ((forward + backward)[:, 0] - (forward + backward)[:, 1]) / 2
    unit = "mean difference in activation"
    chosen, moved = _contrast(by_direction)
    strongest = _strongest_words(lab, sae, chosen)
    rows: list[Row] = []
    for f in chosen:
        for direction, acts in zip(DIRECTIONS, (forward, backward), strict=True):
            e = estimate_mean(acts[len(facts) // 2 :, :, f], unit=unit, over="fact", n_boot=n_boot, seed=lab.seed)
            row: Row = {"feature": f"{f}: {strongest[f]}", "direction": direction, "mean activation": e.mean}
            rows.append(row | {"low": e.low, "high": e.high})
    yield Finding(
        claim=f"Asking in the other direction changes SAE features more than asking in other words ({facts.name}).",
        estimate=estimate_mean(moved, unit=unit, over="fact", n_boot=n_boot, seed=lab.seed),
        control=Control(
            "two wordings of one direction",
            estimate_mean(_contrast(by_wording)[1], unit=unit, over="fact", n_boot=n_boot, seed=lab.seed),
        ),
        expects="greater",
        part=PART,
        measure=f"Two directions, each in two wordings; all four prompts end in one word. The {TOP_FEATURES} "
        "features that differ most on one half of the facts, measured on the other half, with the sign they had there.",
        caveat="Any change of words moves some features. One pair of wordings: another may move more or less.",
        table=rows,
        figure=Figure(
            "interval_dots",
            x="mean activation",
            y="feature",
            group="direction",
            low="low",
            high="high",
            caption=f"Features of the SAE at {site_of(sae)}, at the prompt's last token; held-out half of the facts. "
            "Behind each number, the tokens of other text on which the feature is strongest.",
        ),
    )


def _contrast(difference: NDArray[np.float64]) -> tuple[list[int], NDArray[np.float64]]:
    """From [fact, feature]: the features that differ most on the first half, and their mean on the second, [fact].

    Chosen and measured on other facts, and with the sign they had there: features that differ by chance average to 0.
    """
    half = len(difference) // 2
    first = difference[:half].mean(0)
    chosen = np.argsort(-np.abs(first))[:TOP_FEATURES]
    return chosen.tolist(), (difference[half:, chosen] * np.sign(first[chosen])).mean(1)


def _strongest_words(lab: Lab, sae: SAE[Any], chosen: Sequence[int]) -> dict[int, str]:
    """What a feature's number stands for: the tokens of held-out text on which it fires most, each once."""
    tell = lab.tell("what the features fire on")
    rows = capture_rows(lab.model, split_corpus()[1], site_of(sae), max_tokens=EXAMPLE_TOKENS, progress=tell)
    words = {}
    for found in top_examples(sae, rows, chosen, lab.model, n=8):
        tokens = dict.fromkeys(repr(e.tokens[e.peak].strip()) for e in found.examples)
        words[found.feature] = ", ".join(list(tokens)[:3]) or "never fires there"
    return words


def _end_alike(model: Model, facts: FactSet) -> bool:
    ends = {model.encode(facts.prompts(direction, t)[0])[0][-1] for direction in DIRECTIONS for t in WORDINGS}
    return len(ends) == 1


def _feature_activations(model: Model, sae: SAE[Any], facts: FactSet, direction: Direction) -> NDArray[np.float64]:
    """[fact, wording, feature] at the last token of each prompt."""
    site = site_of(sae)
    per_wording = [encode_features(sae, model.capture(facts.prompts(direction, t), site).last(site)) for t in WORDINGS]
    return np.stack(per_wording, axis=1)


def layers_of(examined: ExaminedModel) -> list[int]:
    """Layer l is the residual stream after l blocks: 0 is the embedding, where only the item itself can matter."""
    return sorted({*range(0, examined.model.n_layers, examined.stride), examined.model.n_layers})


def _rolled(items: Sequence[T], k: int) -> list[T]:
    return [*items[k:], *items[:k]]


def _map_rows(
    values: NDArray[np.float64], layers: Sequence[int], labels: Sequence[str], direction: str, name: str
) -> list[Row]:
    return [
        {"direction": direction, "layer": layer, "token": label, name: float(values[i, p])}
        for i, layer in enumerate(layers)
        for p, label in enumerate(labels)
    ]


def _map(z: str, caption: str) -> Figure:
    return Figure("layer_position_map", x="token", y="layer", z=z, facet="direction", caption=caption)
