"""Inside the model: where the answer becomes readable and what carries it (c), and how it works (f).

In the account of Geva et al. (2304.14767), a fact is written at the last token of the item that the prompt names, and
attention carries it to the prompt's last token. A fact that was learned in one order only should have nothing written
there when it is asked in the other order, and nothing to carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from interp import (
    DIRECTIONS,
    Claim,
    Control,
    Direction,
    Estimate,
    FactSet,
    Figure,
    HeldOut,
    Lab,
    Model,
    Row,
    UserError,
    capture_rows,
    measured,
    split_corpus,
    zero,
)
from interp.analysis import Aligned, Student, align, answer_lead, logit_difference, patch_sweep
from interp.edits import knock_out
from interp.features import top_examples
from interp.saes import SAE, encode_features, load_sae, site_of
from interp.stats import PairedEstimates, estimate_gap, estimate_mean

from .taught import NATS, Answers

WHERE, WORKS = "(c) Where in the model", "(f) How it works inside"
SMALL = "one small GPT-2 trained here, on people taught name first"
TOP_FEATURES, EXAMPLE_TOKENS = 12, 4000
WORDINGS: tuple[int | HeldOut, ...] = (0, "held_out")  # of the real facts' templates: they end in one word
WINDOWS = 6  # of layers that are cut one at a time
READ = 1.0  # nats: what counts as readable
ACTIVATION = "mean difference in activation"
T = TypeVar("T")


class OfEach(NamedTuple):
    """A claim of the loaded model, and the same of a model that is trained here."""

    loaded: Claim
    student: Claim


def _of_each(text: str, **rule: Any) -> OfEach:
    nats = partial(Claim, expects="greater", unit=NATS, **rule)
    return OfEach(nats(f"In {{model}}, {text}"), nats(f"In {SMALL}, {text}", subject="trained here"))


LENS = (
    "the log-probability of the right answer's first token above the other answers' mean, less its lead in the other "
    "prompts (so that no answer's own likelihood counts)"
)
READABLE = _of_each(
    "asked {direction}, the answer is readable at the last token of the last layer.",
    margin=READ,
    part=WHERE,
    measure=f"Logit lens: {LENS}.",
    caveat="Early layers may hold the answer in a form that the final unembedding cannot read. The two directions have "
    "different answers, so their numbers are not to be compared with each other.",
)
READ_FROM = _of_each(
    "asked {direction}, the answer is read from {place}.",
    margin=0.5,
    part=WHERE,
    measure="How far that token, copied from a prompt with another item, moves the model towards that item's answer, "
    "beside how far the same token of a third, unrelated prompt does. The item is what the prompt names.",
    caveat="It shows that the answer depends on what stands there, which may be the item alone and not yet the answer. "
    "Each prompt is in two pairs, and the interval is widened for it.",
)
MOVES_FEATURES = Claim(
    "Asking in the other direction changes SAE features more than asking in other words ({facts}).",
    "greater",
    unit=ACTIVATION,
    part=WHERE,
    measure=f"Two directions, each in two wordings; all four prompts end in one word. The {TOP_FEATURES} features that "
    "differ most on one half of the facts, measured on the other half, with the sign they had there; beside the same "
    "of two wordings of one direction.",
    caveat="Any change of words moves some features. One pair of wordings: another may move more or less.",
)
WRITTEN = _of_each(
    "asked {direction}, the answer is written at the last token of the item that the prompt names.",
    margin=READ,
    part=WORKS,
    measure=f"Logit lens at that token: {LENS}, in the layer where the other half of the prompts has the most of it.",
    caveat="What the lens does not read may still be there, in a form that a later layer turns into the answer. Words "
    "that are alike, such as a country and its capital, lead a little by themselves.",
)
CARRIED = _of_each(
    "asked {direction}, attention to the item carries the answer to the last token.",
    margin=0.5,
    part=WORKS,
    measure="How much of the right answer's lead over the others is lost when the prompt's last token cannot attend to "
    "the item's tokens, in any layer, beside what is lost when it cannot attend to the tokens before the item.",
    caveat="An answer that other tokens have taken over on the way is not lost. In an order that the model never "
    "learned there is no lead to lose.",
)
CLAIMS_WHERE = [READABLE.student, READ_FROM.student, READABLE.loaded, READ_FROM.loaded, MOVES_FEATURES]
CLAIMS_WORKS = [WRITTEN.student, CARRIED.student, WRITTEN.loaded, CARRIED.loaded]


@dataclass(frozen=True)
class Examined:
    """A model to look into, with the facts to ask it: `stride` between layers, at most `pairs` prompt pairs.

    `trained_here`: is it a student? `note`: what a reader must know of it. `why_not`: why it cannot be looked into, ""
    where it can.
    """

    who: str
    model: Model
    facts: FactSet
    trained_here: bool = False
    template: int | HeldOut = 0
    stride: int = 1
    pairs: int = 8
    note: str = ""
    why_not: str = ""

    @property
    def layers(self) -> list[int]:
        """Layer l is the residual stream after l blocks: 0 is the embedding, where only the item can matter."""
        return sorted({*range(0, self.model.n_layers, self.stride), self.model.n_layers})

    def the(self, claim: OfEach) -> Claim:
        """The one of the two that is about this model."""
        return claim.student if self.trained_here else claim.loaded

    def about(self, direction: Direction, **more: str) -> dict[str, str]:
        """What its claims have places for."""
        return {"direction": direction, **more} | ({} if self.trained_here else {"model": self.who})

    def aligned(self, direction: Direction) -> Aligned:
        """Its prompts of one layout."""
        return align(self.model, self.facts, direction, self.template)


def models_to_examine(lab: Lab, students: Sequence[Student], fact_sets: Sequence[FactSet]) -> list[Examined]:
    """A small GPT-2 taught name first, and the loaded model on the first facts whose prompts align."""
    # Names of one word, so that every answer has a first token of its own; untied, so that no leak helps.
    student = next((s for s in students if s.course.name == "untied embeddings, one-word names"), None)
    if student is None:
        why_not = "because the small GPT-2s did not surely learn"
        first = Examined(SMALL, lab.model, fact_sets[0], trained_here=True, why_not=why_not)
    else:
        taught, note = student.groups["name first"], f"One model: {student.course.name}, seed {student.seed}."
        first = Examined(SMALL, student.model, taught, True, "held_out", pairs=len(taught), note=note)
    facts = next((facts for facts in fact_sets if _aligns(lab.model, facts)), None)
    why_not = "" if facts else "because its tokenizer gives no four prompts of the facts one layout"
    stride = max(1, min(5 if lab.quick else 3, lab.model.n_layers // 2))
    facts = facts or fact_sets[0]
    who = f"{lab.model.provenance.name} on {facts.name}"
    return [first, Examined(who, lab.model, facts, stride=stride, why_not=why_not)]


def _aligns(model: Model, facts: FactSet) -> bool:
    """Are there four prompts of one layout in both directions?"""
    try:
        return all(align(model, facts, direction) for direction in DIRECTIONS)
    except UserError:
        return False


def where(lab: Lab, models: Sequence[Examined], n_boot: int) -> Answers:
    """Part (c): lens and patching, on a trained GPT-2 and on the loaded model."""
    for examined in models:
        if examined.why_not:
            for direction in DIRECTIONS:
                yield examined.the(READABLE).not_asked(examined.why_not, about=examined.about(direction))
                about = examined.about(direction, place="the item")
                yield examined.the(READ_FROM).not_asked(examined.why_not, about=about)
        else:
            yield from _readable(lab, examined, n_boot)
            yield from _read_from(lab, examined, n_boot)


def works(lab: Lab, models: Sequence[Examined], n_boot: int) -> Answers:
    """Part (f): what is written at the item, and what attention carries from there."""
    for examined in models:
        if examined.why_not:
            for direction in DIRECTIONS:
                for claim in (WRITTEN, CARRIED):
                    yield examined.the(claim).not_asked(examined.why_not, about=examined.about(direction))
        else:
            yield from _written(lab, examined, n_boot)
            yield from _carried(lab, examined, n_boot)


def _readable(lab: Lab, examined: Examined, n_boot: int) -> Answers:
    """Where the logit lens reads the answer."""
    layers = examined.layers[1:]  # the embedding can hold no answer yet: there the lens shows which words are alike
    rows: list[Row] = []
    last: dict[Direction, Estimate] = {}
    since: dict[Direction, str] = {}
    for direction in DIRECTIONS:
        asked = examined.aligned(direction)
        tell = lab.tell(f"lens, {examined.who}")
        lead = answer_lead(
            examined.model, asked.prompts, asked.answer_ids, layers=layers, priors_out=True, progress=tell
        ).numpy()
        rows += _map_rows(lead.mean(0), layers, asked.labels, direction, "lead (nats)")
        last[direction] = _mean(lead[:, -1, -1], lab, n_boot)
        since[direction] = _from_layer(layers, lead.mean(0)[:, -1] > READ)
    for direction, estimate in last.items():
        yield examined.the(READABLE).answer(
            estimate,
            zero(NATS, "own answer no likelier than the others"),
            about=examined.about(direction),
            measure=f"{estimate.n} of {len(examined.facts)} prompts: those of one layout, with answers that start "
            f"differently. {examined.note}".strip(),
            table=rows if direction == "forward" else [],
            figure=_map(
                "lead (nats)",
                "Logit lens: the right answer's first token above the other answers', priors taken out. Layer l is "
                "block l's output. At "
                f"the last token the mean stays above {READ:g} nat: forward {since['forward']}, reversed "
                f"{since['reversed']}.",
            )
            if direction == "forward"
            else None,
        )


def _from_layer(layers: Sequence[int], above: NDArray[np.bool_]) -> str:
    """From which layer on, without a break to the last one."""
    first = next((i for i in range(len(layers)) if above[i:].all()), None)
    return "at no layer" if first is None else f"from layer {layers[first]} on"


def _read_from(lab: Lab, examined: Examined, n_boot: int) -> Answers:
    """What patching the item's tokens moves, against patching from an unrelated prompt."""
    model, layers = examined.model, examined.layers
    # Not the embedding: patched there, the prompt is the other prompt, and all moves whatever the model does.
    early = [layer for layer in layers if 0 < layer <= max(1, model.n_layers // 2)]
    deep = len(early) > 1  # in a model of two blocks the answer has left the item by the end of the first
    rows: list[Row] = []
    gaps: dict[Direction, PairedEstimates] = {}
    for direction in DIRECTIONS:
        asked = examined.aligned(direction)
        n = min(examined.pairs, len(asked.prompts))
        prompts, answers = asked.prompts[:n], asked.answer_ids[:n]
        # Clean prompt i is paired with corrupt prompt i + 1; prompt i + 2 has to do with neither answer. The clean
        # answer is weighed against those of all further prompts.
        lead = logit_difference(answers, [_rolled(answers, i)[3:] for i in range(n)])
        corrupt, unrelated = _rolled(prompts, 1), _rolled(prompts, 2)
        everywhere, at_early = ([model.residual(layer) for layer in some] for some in (layers, early))
        positions = range(asked.first_item, len(asked.labels))  # before the item, the two runs are the same
        tell = lab.tell(f"patching, {examined.who}, {direction}")
        moved = patch_sweep(
            model, prompts, corrupt, lead, everywhere, positions=positions, progress=tell
        ).effect.numpy()
        place = asked.last_item if deep else len(asked.labels) - 1
        stray = (
            patch_sweep(model, unrelated, corrupt, lead, at_early, positions=[place]).effect.numpy()[:, :, 0].mean(1)
        )
        rows += _map_rows(moved.mean(0), layers, asked.labels[asked.first_item :], direction, "moved (nats)")
        at_place = moved[:, [layers.index(layer) for layer in early], place - asked.first_item].mean(1)
        gaps[direction] = _over_pairs(at_place, stray, lab, n_boot)
    token = "the item's last token" if deep else "the prompt's last token"
    place = f"{token} in layer{f's {early[0]} to {early[-1]}' if deep else f' {early[0]}'}"
    for direction, pair in gaps.items():
        yield examined.the(READ_FROM).answer(
            pair.estimate,
            Control("copied from an unrelated prompt", pair.control),
            paired=pair.gap,
            about=examined.about(direction, place=place),
            measure=examined.note,
            table=rows if direction == "forward" else [],
            figure=_map(
                "moved (nats)",
                "How far copying one place from the prompt with the right item moves the answer. Layer l is the output "
                "of block l; layer 0 is the embedding, where an item of one token is all that there is to copy.",
            )
            if direction == "forward"
            else None,
        )


def _over_pairs(values: NDArray[np.float64], control: NDArray[np.float64], lab: Lab, n_boot: int) -> PairedEstimates:
    """Means over pairs in a ring: neighbours share a prompt, which at most doubles the variance of their mean."""
    pair = estimate_gap(values, control, unit=NATS, over="pair", n_boot=n_boot, seed=lab.seed)
    return PairedEstimates(
        *(replace(e, low=e.mean - (e.mean - e.low) * 2**0.5, high=e.mean + (e.high - e.mean) * 2**0.5) for e in pair)
    )


def features(lab: Lab, facts: FactSet, n_boot: int) -> Answers:
    """Do the two directions differ in more than wording? SAE features in two directions, each in two wordings.

    Not where the first training template and the held-out one do not end in one token in both directions: the last
    word alone would tell the directions apart.
    """
    about = {"facts": facts.name}
    if lab.sae_folder is None:
        yield MOVES_FEATURES.not_asked("because no SAE came with --sae", about=about)
        return
    if not _end_alike(lab.model, facts):
        yield MOVES_FEATURES.not_asked("because the prompts do not end in one token in both directions", about=about)
        return
    sae = load_sae(lab.sae_folder, lab.model)
    acts = {direction: _feature_activations(lab.model, sae, facts, direction) for direction in DIRECTIONS}
    added = acts["forward"] + acts["reversed"]
    chosen, by_direction = _contrast((acts["forward"] - acts["reversed"]).mean(1))
    _, by_wording = _contrast((added[:, 0] - added[:, 1]) / 2)
    strongest = _strongest_words(lab, sae, chosen)
    half = len(facts) // 2
    means = measured(
        {(f"{f}: {strongest[f]}", direction): acts[direction][half:, :, f] for f in chosen for direction in DIRECTIONS},
        by=("feature", "direction"),
        value="mean activation",
        over="fact",
        seed=lab.seed,
    )
    pair = estimate_gap(by_direction, by_wording, unit=ACTIVATION, over="fact", n_boot=n_boot, seed=lab.seed)
    yield MOVES_FEATURES.answer(
        pair.estimate,
        Control("two wordings of one direction", pair.control),
        paired=pair.gap,
        about=about,
        table=means.rows(),
        figure=means.dots(
            "feature",
            f"Features of the SAE at {site_of(sae)}, at the prompt's last token; held-out half of the facts. Behind "
            "each number, the tokens of other text on which the feature is strongest.",
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
    for feature in top_examples(sae, rows, chosen, lab.model, n=8):
        tokens = dict.fromkeys(repr(e.tokens[e.peak].strip()) for e in feature.examples)
        words[feature.feature] = ", ".join(list(tokens)[:3]) or "never fires there"
    return words


def _end_alike(model: Model, facts: FactSet) -> bool:
    ends = {model.encode(facts.prompts(direction, t)[0])[0][-1] for direction in DIRECTIONS for t in WORDINGS}
    return len(ends) == 1


def _feature_activations(model: Model, sae: SAE[Any], facts: FactSet, direction: Direction) -> NDArray[np.float64]:
    """[fact, wording, feature] at the last token of each prompt."""
    site = site_of(sae)
    per_wording = [encode_features(sae, model.capture(facts.prompts(direction, t), site).last(site)) for t in WORDINGS]
    return np.stack(per_wording, axis=1)


def _written(lab: Lab, examined: Examined, n_boot: int) -> Answers:
    """Does the logit lens read the answer at the item's last token, in the layer where it reads it best?"""
    layers = examined.layers[1:]
    at_item: dict[Direction, NDArray[np.float64]] = {}
    for direction in DIRECTIONS:
        asked = examined.aligned(direction)
        tell = lab.tell(f"what is written at the item, {examined.who}")
        lead = answer_lead(
            examined.model, asked.prompts, asked.answer_ids, layers=layers, priors_out=True, progress=tell
        )
        at_item[direction] = lead[:, :, asked.last_item].double().numpy()
    by_layer = measured(
        {(layer, asked): values[:, i] for asked, values in at_item.items() for i, layer in enumerate(layers)},
        by=("layer", "asked"),
        value="lead (nats)",
        over="prompt",
        seed=lab.seed,
    )
    caption = "Logit lens at the item's last token, priors out; layer l is block l's output; intervals over prompts."
    for direction, values in at_item.items():
        yield examined.the(WRITTEN).answer(
            _mean(best_of_other_half(values), lab, n_boot),
            zero(NATS, "own answer no likelier than the others"),
            about=examined.about(direction),
            measure=f"{len(values)} prompts. {examined.note}".strip(),
            table=by_layer.rows(),
            figure=by_layer.lines("layer", caption, chance=0.0),
        )


def best_of_other_half(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[prompt, layer] to [prompt]: each half's values in the layer that is best on the other half.

    The largest of many layers is above 0 by chance; chosen on other prompts, it is not.
    """
    out = np.empty(len(values))
    halves = np.arange(len(values)) % 2 == 0
    for half in (halves, ~halves):
        out[half] = values[half, values[~half].mean(0).argmax()]
    return out


def _carried(lab: Lab, examined: Examined, n_boot: int) -> Answers:
    """What is lost when the prompt's last token cannot attend to the item, against as many tokens before it."""
    n_layers = examined.model.n_layers
    size = max(1, -(-n_layers // WINDOWS))
    windows = [range(first, min(first + size, n_layers)) for first in range(0, n_layers, size)]
    asked: dict[Direction, Aligned] = {direction: examined.aligned(direction) for direction in DIRECTIONS}
    if any(one.last_item == len(one.labels) - 1 or one.first_item < 2 for one in asked.values()):
        why = "because the item is the prompt's last token, or there is none before it to compare with"
        for direction in DIRECTIONS:
            yield examined.the(CARRIED).not_asked(why, about=examined.about(direction))
        return
    values: dict[tuple[str, str, Direction], NDArray[np.float64]] = {}
    whole: dict[Direction, dict[str, NDArray[np.float64]]] = {}
    for direction, one in asked.items():
        cuts = {"the item": slice(one.first_item, one.last_item + 1), "tokens before it": _before(one)}
        whole[direction] = {name: _lost(examined.model, one, keys, range(n_layers)) for name, keys in cuts.items()}
        for done, window in enumerate(windows):
            for name, keys in cuts.items():
                values[_named(window), name, direction] = _lost(examined.model, one, keys, window)
            lab.progress(f"cutting attention, {examined.who}, {direction}", done + 1, len(windows))
    lost = measured(values, by=("layers", "cut off from", "asked"), value="lost (nats)", over="prompt", seed=lab.seed)
    for direction, cut in whole.items():
        pair = estimate_gap(*cut.values(), unit=NATS, over="prompt", n_boot=n_boot, seed=lab.seed)
        yield examined.the(CARRIED).answer(
            pair.estimate,
            Control("cut off from tokens before the item", pair.control),
            paired=pair.gap,
            about=examined.about(direction),
            measure=f"{pair.gap.n} prompts. {examined.note}".strip(),
            table=lost.rows(),
            figure=Figure(
                "interval_dots", x="lost (nats)", y="layers", group="cut off from", low="low", high="high",
                facet="asked", chance=0.0,
                caption="Attention cut in a few layers at a time; intervals over prompts.",
            ),
        )  # fmt: skip


def _before(asked: Aligned) -> slice:
    """As many tokens as the item has, or as there are, before it; not position 0, which all tokens attend to."""
    n = asked.last_item + 1 - asked.first_item
    return slice(max(1, asked.first_item - n), asked.first_item)


def _lost(model: Model, asked: Aligned, keys: slice, layers: Sequence[int]) -> NDArray[np.float64]:
    """The fall of each prompt's lead, in nats, with the last token's attention to `keys` cut in `layers`."""
    answers = asked.answer_ids
    lead = logit_difference(answers, [answers[:i] + answers[i + 1 :] for i in range(len(answers))])
    whole = model.measure(asked.prompts, lead)
    with model.edit({f"blocks.{layer}.attn.hook_pattern": knock_out(keys, queries=-1) for layer in layers}):
        cut = model.measure(asked.prompts, lead)
    return (whole - cut).double().cpu().numpy()


def _mean(values: NDArray[np.float64], lab: Lab, n_boot: int) -> Estimate:
    return estimate_mean(values, unit=NATS, over="prompt", n_boot=n_boot, seed=lab.seed)


def _named(layers: range) -> str:
    return f"{layers[0]}" if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"


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
