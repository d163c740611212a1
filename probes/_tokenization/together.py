"""How much a second piece surprises, and at which layer the pieces of a word are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from interp import Claim, Control, Finding, Lab, Model, NotAsked, UserError, measured
from interp.stats import estimate_gap, estimate_mean, known

from . import CONTROLS, MET, NATS, SPLIT
from .pieces import KINDS, best_layer, halve, read_as_whole
from .words import Word

WHOLE = 0.2

SECOND = Claim(
    "A word's second piece surprises less than its first.",
    expects="less",
    unit=NATS,
    part=MET,
    answers=True,
    caveat="The pieces of a word are not drawn alike: a second one has far fewer to choose from.",
)
TOGETHER = Claim(
    "In some layer the last piece of a word that was cut is read as the whole word.",
    expects="greater",
    margin=WHOLE,
    unit=SPLIT,
    part=MET,
    answers=True,
    caveat="Words that the tokenizer itself cuts have no whole to compare with; these were cut by force, as a "
    "misspelling or a hyphen would.",
)
APART = Claim(
    "Negative control: random weights do not put pieces together.",
    expects="equal",
    margin=0.15,
    unit=SPLIT,
    part=CONTROLS,
    measure="The same at the same layer, for the same architecture with random weights.",
)


def second_pieces(lab: Lab, surprise: Mapping[str, Sequence[float]], source: str) -> Finding | NotAsked:
    """Second pieces beside the first ones of the same documents. `source` names the text."""
    enough = {kind: values for kind, values in surprise.items() if len(values) >= 4}
    if KINDS[2] not in enough:
        return SECOND.not_asked("because this tokenizer cuts too few of the text's words to have second pieces")
    by_piece = measured(enough, by=("piece",), value="surprise (nats)", unit=NATS, over="document", seed=lab.seed)
    pair = estimate_gap(surprise[KINDS[2]], surprise[KINDS[1]], unit=NATS, over="document", seed=lab.seed)
    return SECOND.answer(
        pair.estimate,
        Control("first pieces of the same documents", pair.control),
        paired=pair.gap,
        measure=f"Text: {source}. Minus the log-probability of the piece, given all that stands before it; the first "
        "token of a text is left out.",
        table=by_piece.rows(),
        figure=by_piece.dots(
            y="piece", caption="Surprise by what piece of a word a token is; intervals over documents."
        ),
    )


def put_together(lab: Lab, words: Sequence[Word], untrained: Callable[[], Model]) -> Iterator[Finding | NotAsked]:
    """Words that are one token are cut in two: where is the last piece read as the whole word?

    `untrained` gives the model with random weights.
    """
    model = lab.model
    try:
        halves = halve(model, [w.text for w in words if w.zipf >= 3], 40 if lab.quick else 80)
    except UserError as few:  # a small vocabulary: what was counted before still counts
        yield from (claim.not_asked(f"because {few}") for claim in (TOGETHER, APART))
        return
    layers = sorted({*range(0, model.n_layers, max(1, model.n_layers // (8 if lab.quick else 15))), model.n_layers})
    right = read_as_whole(lab, model, halves, layers, "cutting words in two")
    bare = read_as_whole(lab, untrained(), halves, layers, "with random weights")
    by_layer = measured(
        {
            (layer, name): values[:, k]
            for name, values in (*right.items(), ("cut in two, random weights", bare["cut in two"]))
            for k, layer in enumerate(layers)
        },
        by=("layer", "written"),
        value="read as the word (share of words)",
        unit=SPLIT,
        over="word",
        bounds=(0.0, 1.0),
        seed=lab.seed,
    )
    best, cut, behind_another = best_layer(right)
    pair = estimate_gap(cut, behind_another, unit=SPLIT, over="word", bounds=(0.0, 1.0), seed=lab.seed)
    yield TOGETHER.answer(
        pair.estimate,
        Control("behind another word's first half with the same first letter", pair.control),
        measure=f"Share of words for which the vector at the last piece is nearest, of {len(halves.words)} words, to "
        f"the one that the word has as a single token, at layer {layers[best]}, which every second word chose. Three "
        "contexts.",
        table=by_layer.rows(),
        figure=by_layer.lines(
            x="layer",
            chance=1 / len(halves.words),
            caption="How often the last piece is nearest to its own whole word, by layer; 0 is the embedding. Bands "
            "over words.",
        ),
        paired=pair.gap,
    )
    share = estimate_mean(bare["cut in two"][1::2, best], unit=SPLIT, over="word", bounds=(0.0, 1.0), seed=lab.seed)
    yield APART.answer(
        share,
        Control("chance", known(1 / len(halves.words), unit=SPLIT, why=f"1 in {len(halves.words)}")),
    )
