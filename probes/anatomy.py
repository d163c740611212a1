"""What is a model made of: layers, parameters, neurons, biases, and does a bias alter an activation?

Question. A beginner's course says that a language model has layers of neurons, millions of parameters that connect
them, and biases; a token activates some of the neurons, and the bias alters the activation. Where are the parameters,
which neurons does a token activate, and what would be lost without biases?

(a) The parameters, part by part, against what the sizes in the model's config add up to.

(b) Neurons are the numbers between the two matrices of an MLP (of a gated one, their product with the gate). How much
of a token's activation do its strongest hundredth hold, and does the same token activate the same ones in another text?

(c) A bias is a number that is added to what a neuron, a layer or a norm computes. Many newer models, the bundled one
among them, have none: then a small GPT-2, which has them, is trained here and looked at instead. What does the loss on
new text lose when biases are set to zero, beside moving them as far in a random direction?

What counts as yes:

- part by part, the count equals the formula;
- the strongest hundredth of the neurons holds 10 points more of the squared activation than with random weights;
- the same token shares more of its strongest neurons with itself in another text than with another token of that text,
  and by 10 points more so than neurons of random weights that read the same stream: it tells tokens apart by itself;
- without biases the loss is higher by 0.05 nats.

What could fool us:

- A matrix that is used twice is one: tied embeddings are counted once.
- Any activations have a largest hundredth: random weights are measured, too. Any stream that carries its token along
  gives it an activation of its own, in any neurons: those of one layer are drawn at random, and the rest is kept.
- A weight may matter because everything does: the biases are also moved, as far, in a random direction.
- A method that changes the model it measures: everything is done on a copy, or put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch

from interp import (
    Claim,
    Control,
    Figure,
    Finding,
    Lab,
    Least,
    Model,
    NotAsked,
    Row,
    measured,
    probe,
    prose,
    set_beforehand,
    text_read,
    weights_from,
    with_random_weights,
    zero,
)
from interp.analysis import BIASES, biases_of, count_by_formula, count_parameters, part_by_name
from interp.stats import estimate_gap, estimate_mean, known

from ._anatomy import BIAS, CONTROLS, COUNTED, NATS, NEURONS
from ._anatomy.biases import biases_at, copied, losses, small_gpt2
from ._anatomy.neurons import TOP, mlp_parameters, neuron_inputs, overlaps, read_neurons, share_above

RANDOM_MOVES, FEW_MOVES = 5, 2  # FEW_MOVES in a quick run
ACTIVATION, STRONGEST, TOKENS = "share of squared activation", "share of the strongest neurons", "share of tokens"
SHARES = (0.0, 1.0)
Rows = list[list[int]]

ADDS_UP = Claim(
    "Part by part, the parameters are what the sizes in the config add up to.",
    expects="equal",
    margin=1e-6,
    unit="relative difference",
    part=COUNTED,
    arithmetic=True,
)
FEW_BIASES = Claim(
    "Of the parameters inside the layers, less than one in a hundred is a bias.",
    expects="less",
    unit="share of parameters",
    part=COUNTED,
    arithmetic=True,
    measure="Biases of attention, MLP and norms over these and the weights of attention and MLP, in all layers.",
)
FEW_STRONG = Claim(
    "A token activates a few neurons strongly: the strongest hundredth holds much of its activation.",
    expects="greater",
    margin=0.1,
    unit=ACTIVATION,
    part=NEURONS,
    answers=True,
)
SAME_TOKEN = Claim(
    "The same token activates the same neurons in another text, 10 points more than neurons drawn at random there.",
    expects="greater",
    margin=0.1,
    unit=STRONGEST,
    part=NEURONS,
    answers=True,
    measure="How much more of a token's strongest neurons are among the strongest of the same token in another text "
    "than of another token of that text; as much is measured of neurons with weights drawn at random, which read the "
    "same stream in the same place, for the same tokens.",
    caveat="Frequent tokens alone occur in two texts. What a token activates depends on its text as well.",
)
MISSED = Claim(
    "Without its biases {a_model} predicts worse, by 0.05 nats.",
    expects="greater",
    margin=0.05,
    unit=NATS,
    part=BIAS,
    answers=True,
    measure="Loss on text that was not trained on, with all biases at zero, less the loss as it was.",
    caveat="A model that was trained without biases does without them: this says what one has made of its own.",
)
ALTERS = Claim(
    "A bias alters the activation: a larger one makes a neuron active at more tokens.",
    expects="greater",
    unit=TOKENS,
    part=BIAS,
    arithmetic=True,
    measure="Share of tokens at which what a neuron adds up, its bias included, is above zero: with one standard "
    "deviation added less as it was, in the small GPT-2 trained here.",
    caveat="This is arithmetic and must hold: activation = f(weights · input + bias).",
    subject="trained here",
)
PLANTED = Claim(
    "Positive control: a bias that was planted is seen in the loss, and gone when it is taken away.",
    expects="greater",
    margin=0.05,
    unit=NATS,
    part=CONTROLS,
    measure="Random numbers added to the last MLP's biases of the small GPT-2.",
    subject="trained here",
)
ZEROS = Claim(
    "Negative control: setting biases to zero that are zero changes nothing.",
    expects="equal",
    margin=1e-6,
    unit=NATS,
    part=CONTROLS,
    measure="A GPT-2 with random weights: all of its biases begin at zero.",
    subject="trained here",
)


@probe(claims=[ADDS_UP, FEW_BIASES, FEW_STRONG, SAME_TOKEN, MISSED, ALTERS, PLANTED, ZEROS])
def anatomy(
    lab: Lab, *, documents: Annotated[int, Least(8)] = 16, tokens: Annotated[int, Least(24)] = 96
) -> Iterator[Finding | NotAsked]:
    """Count, look at neurons, and take biases away.

    Args:
        documents: how many texts to read, 8 or more
        tokens: how many tokens of each, 24 or more
    """
    model = lab.model
    rows = model.encode(prose(), cut=tokens)[: 8 if lab.quick else documents]
    yield from _counted(model)
    layers = tuple(sorted({0, model.n_layers // 4, model.n_layers // 2, 3 * model.n_layers // 4, model.n_layers - 1}))
    yield from _neurons(lab, rows, layers)
    small, sentences = small_gpt2(lab)
    subject, texts = (model, rows) if biases_of(model.hf) else (small, sentences)
    yield _missed(lab, subject, texts)
    yield _threshold(lab, small, sentences)
    yield from _controls(lab, small, sentences)


def _counted(model: Model) -> Iterator[Finding | NotAsked]:
    """Part (a)."""
    counted, formula = count_parameters(model.hf), count_by_formula(model.hf.config)
    total = sum(counted.values())
    table: list[Row] = [
        {
            "part": part,
            "parameters (millions)": n / 1e6,
            "share of all": n / total,
            "by the formula": (formula or {}).get(part),
        }
        for part, n in counted.items()
    ]
    embedded = sum(counted.get(part, 0) for part in ("embedding", "positions", "unembedding"))
    bars = Figure(
        "effect_bars",
        x="parameters (millions)",
        y="part",
        caption=f"{total / 1e6:.1f} million parameters in {model.n_layers} layers, {(total - embedded) / 1e6:.1f} "
        "million without embeddings.",
    )
    if formula is None:
        yield ADDS_UP.not_asked("because no formula is known for a model of this type")
    else:
        off = [counted.get(part, 0) / n - 1 for part, n in formula.items() if n]
        off += [0.0] * (set(counted) == set(formula))
        yield ADDS_UP.answer(
            estimate_mean(off, unit=ADDS_UP.unit, over="part", exact=True),
            zero(ADDS_UP.unit),
            measure=f"Counted over calculated, less 1, for {len(formula)} parts, {total:,} parameters in all.",
            table=table,
            figure=bars,
        )
    inside = {part: n for part, n in counted.items() if part in ("attention", "MLP", *BIASES)}
    share = sum(n for part, n in inside.items() if part in BIASES) / sum(inside.values())
    yield FEW_BIASES.answer(
        known(share, unit=FEW_BIASES.unit, why="all counted"),  # no sample of anything: an interval would say nothing
        set_beforehand(0.01, FEW_BIASES.unit, "one in a hundred"),
        measure="" if share else "This model has no biases at all, as most models of Llama's type.",
        table=table,
        figure=bars if formula is None else None,
    )


def _neurons(lab: Lab, rows: Rows, layers: tuple[int, ...]) -> Iterator[Finding | NotAsked]:
    """Part (b). The same texts and tokens with random weights, so that what they share is paired."""
    random_weights = with_random_weights(lab.model, lab.seed)
    read = {
        "trained": read_neurons(lab, lab.model, rows, layers, "reading neurons"),
        "random weights": read_neurons(lab, random_weights, rows, layers, "reading neurons of random weights"),
    }
    by_layer = measured(
        {(layer, name): neurons.held[:, k] for name, neurons in read.items() for k, layer in enumerate(layers)},
        by=("layer", "model"),
        value="held by the strongest hundredth",
        over="document",
        bounds=SHARES,
        seed=lab.seed,
    )
    held = estimate_gap(
        *(neurons.held.mean(1) for neurons in read.values()),
        unit=ACTIVATION,
        over="document",
        bounds=SHARES,
        seed=lab.seed,
    )
    yield FEW_STRONG.answer(
        held.estimate,
        Control("random weights", held.control),
        paired=held.gap,
        measure=f"Text: {text_read()}. Share of the squared activation of an MLP's neurons that a "
        f"token's strongest {TOP:.0%} hold, mean of "
        f"{len(layers)} layers.",
        table=by_layer.rows(),
        figure=by_layer.lines(
            x="layer",
            chance=TOP,
            caption="How much of a token's squared activation its strongest hundredth of neurons holds. Bands over "
            "documents; dashed: neurons that are all as strong.",
        ),
    )
    middle = layers[len(layers) // 2]
    others = set(part_by_name(lab.model.hf)) - set(mlp_parameters(lab.model, middle))
    with weights_from(random_weights, lab.model, others):  # all but this layer's MLP
        drawn = read_neurons(lab, random_weights, rows, (middle,), "reading neurons drawn at random")
    shared = {
        name: overlaps(neurons, middle, 60 if lab.quick else 150, lab.seed)
        for name, neurons in (("trained", read["trained"]), ("drawn at random", drawn))
    }
    if (n := len(shared["trained"][0])) < 8:
        yield SAME_TOKEN.not_asked(f"because only {n} tokens occur in two of the texts; 8 are needed")
        return
    alike = measured(
        {
            (name, whose): values
            for name, pair in shared.items()
            for whose, values in zip(("the same token", "another token of that text"), pair, strict=True)
        },
        by=("neurons", "token"),
        value=STRONGEST,
        over="token",
        bounds=SHARES,
        seed=lab.seed,
    )
    gained = estimate_gap(
        *(np.subtract(same, other) for same, other in shared.values()),
        unit=STRONGEST,
        over="token",
        bounds=(-1.0, 1.0),
        seed=lab.seed,
    )
    yield SAME_TOKEN.answer(
        gained.estimate,
        Control("neurons drawn at random", gained.control),
        paired=gained.gap,
        measure=f"The strongest {TOP:.0%} of neurons at layer {middle}.",
        table=alike.rows(),
        figure=alike.dots(y="token", caption="How many of a token's strongest neurons it shares, by with whom."),
    )


def _missed(lab: Lab, subject: Model, rows: Rows) -> Finding:
    """Part (c): what is lost without biases."""
    hf = copied(subject)
    clean = losses(hf, rows)
    parts = list(biases_of(hf))

    def added(changed: list[str], to: str, seed: int = 0) -> torch.Tensor:
        with biases_at(hf, changed, to, seed):
            return losses(hf, rows) - clean

    values = {}
    for name, changed in (("all biases", parts), *((part, [part]) for part in parts)):
        each = FEW_MOVES if lab.quick else RANDOM_MOVES
        moves = [added(changed, "random", lab.seed * 100 + i) for i in range(each)]
        values[name, "set to zero"] = added(changed, "zero").numpy()
        values[name, "moved as far at random"] = torch.stack(moves).mean(0).numpy()
        lab.progress("taking biases away", len(values) // 2, len(parts) + 1)
    lost = measured(
        values,
        by=("biases", "change"),
        value="loss added (nats per token)",
        unit=NATS,
        over="text",
        seed=lab.seed,
    )
    who = subject.provenance.name
    return MISSED.answer(
        lost["all biases", "set to zero"],
        zero(NATS, "as it was"),
        about={"a_model": who if subject is lab.model else "a small GPT-2, trained here,"},
        measure="" if subject is lab.model else f"It is a {who}, as the loaded one has no biases.",
        table=lost.rows(),
        figure=lost.bars(y="biases", caption="What is lost, by which biases are changed. Intervals over texts."),
    )


def _threshold(lab: Lab, small: Model, sentences: Rows) -> Finding:
    """A bias moves the point from which a neuron is active."""
    inputs = neuron_inputs(small, sentences[:40], small.n_layers // 2)
    active = {shift: share_above(inputs, shift) for shift in (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)}
    shown = measured(
        active,
        by=("added to the bias (standard deviations)",),
        value="active (share of tokens)",
        unit=TOKENS,
        over="neuron",
        bounds=SHARES,
    )
    return ALTERS.answer(
        estimate_mean(active[1.0] - active[0.0], unit=TOKENS, over="neuron", seed=lab.seed),
        zero(TOKENS),
        table=shown.rows(),
        figure=shown.lines(
            x="added to the bias (standard deviations)",
            caption="How often neurons are active by what is added to their biases. Band over neurons.",
        ),
    )


def _controls(lab: Lab, small: Model, sentences: Rows) -> Iterator[Finding]:
    """A planted bias, taken away again; and biases that are zero already."""
    hf = copied(small)
    clean = losses(hf, sentences)
    bias = biases_of(hf)["MLP biases"][-1]
    original = bias.detach().clone()
    with torch.no_grad():
        bias += 2.0 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(lab.seed)).to(bias)
    planted = losses(hf, sentences) - clean
    with torch.no_grad():
        bias.copy_(original)
    back = losses(hf, sentences) - clean
    yield PLANTED.answer(
        estimate_mean(planted.numpy(), unit=NATS, over="text", seed=lab.seed),
        Control("taken away again", estimate_mean(back.numpy(), unit=NATS, over="text", exact=True)),
    )
    random_weights = with_random_weights(small, lab.seed).hf
    before = losses(random_weights, sentences)
    with biases_at(random_weights, list(biases_of(random_weights)), "zero"):
        after = losses(random_weights, sentences)
    yield ZEROS.answer(
        estimate_mean((after - before).numpy(), unit=NATS, over="text", exact=True), zero(NATS, "nothing")
    )
