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
- the same token shares more of its strongest neurons with itself in another text than with another token of that text;
- without biases the loss is higher by 0.05 nats.

What could fool us:

- A matrix that is used twice is one: tied embeddings are counted once.
- Any activations have a largest hundredth: random weights are measured, too.
- A weight may matter because everything does: the biases are also moved, as far, in a random direction.
- A method that changes the model it measures: everything is done on a copy, or put back.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from interp import (
    Control,
    Estimate,
    Figure,
    Finding,
    Lab,
    Model,
    Row,
    UserError,
    probe,
    split_corpus,
    with_random_weights,
)
from interp.analysis import BIASES, biases_of, count_by_formula, count_parameters
from interp.stats import estimate_mean, known

from ._anatomy import BIAS, CONTROLS, COUNTED, NATS, NEURONS
from ._anatomy.biases import biases_at, copied, losses, small_gpt2
from ._anatomy.neurons import TOP, overlaps, read_neurons, share_above

FEWER, CLEAR = 0.1, 0.05  # of squared activation, nats
RANDOM_MOVES = 5
Rows = list[list[int]]


@probe()
def anatomy(lab: Lab, *, documents: int = 16, tokens: int = 96) -> Iterator[Finding]:
    """Count, look at neurons, and take biases away.

    Args:
        documents: how many texts to read, 8 or more
        tokens: how many tokens of each, 24 or more
    """
    for name, value, least in (("documents", documents, 8), ("tokens", tokens, 24)):
        if value < least:
            raise UserError(f"--{name} {value}; expected {least} or more")
    model = lab.model
    rows = model.encode(split_corpus()[1], cut=tokens)[: 8 if lab.quick else documents]
    yield from _counted(model)
    layers = tuple(sorted({0, model.n_layers // 4, model.n_layers // 2, 3 * model.n_layers // 4, model.n_layers - 1}))
    yield from _neurons(lab, rows, layers)
    small, sentences = small_gpt2(lab)
    subject, texts = (model, rows) if biases_of(model.hf) else (small, sentences)
    yield from _biases(lab, subject, texts)
    yield _threshold(lab, small, sentences)
    yield from _controls(lab, subject, small, texts, sentences)


def _counted(model: Model) -> Iterator[Finding]:
    """Part (a)."""
    found, formula = count_parameters(model.hf), count_by_formula(model.hf.config)
    total = sum(found.values())
    table: list[Row] = [
        {
            "part": part,
            "parameters (millions)": n / 1e6,
            "share of all": n / total,
            "by the formula": (formula or {}).get(part),
        }
        for part, n in found.items()
    ]
    embedded = sum(found.get(part, 0) for part in ("embedding", "positions", "unembedding"))
    figure = Figure(
        "effect_bars",
        x="parameters (millions)",
        y="part",
        caption=f"{total / 1e6:.1f} million parameters in {model.n_layers} layers, {(total - embedded) / 1e6:.1f} "
        "million without embeddings.",
    )
    if formula is not None:
        off = [found.get(part, 0) / n - 1 for part, n in formula.items() if n] + [0.0] * (set(found) == set(formula))
        yield Finding(
            claim="Part by part, the parameters are what the sizes in the config add up to.",
            estimate=estimate_mean(off, unit="relative difference", over="part", exact=True),
            control=Control("the formula", known(0.0, unit="relative difference", why="no difference")),
            expects="equal",
            margin=1e-6,
            part=COUNTED,
            measure=f"Counted over calculated, less 1, for {len(formula)} parts, {total:,} parameters in all.",
            table=table,
            figure=figure,
        )
    weights = {part: n for part, n in found.items() if part in ("attention", "MLP", *BIASES)}
    share = sum(n for part, n in weights.items() if part in BIASES) / sum(weights.values())
    yield Finding(
        claim="Of the parameters inside the layers, less than one in a hundred is a bias.",
        estimate=estimate_mean([share] * model.n_layers, unit="share of parameters", over="layer", exact=True),
        control=Control("one in a hundred", known(0.01, unit="share of parameters", why="set beforehand")),
        expects="less",
        part=COUNTED,
        measure="Biases of attention, MLP and norms over the weights of attention and MLP; layers are alike."
        if share
        else "This model has no biases at all, as most models of Llama's type.",
        table=table,
        figure=None if formula is not None else figure,
    )


def _over(values: list[float], unit: str, over: str, lab: Lab) -> Estimate:
    return estimate_mean(values, unit=unit, over=over, bounds=(0.0, 1.0), seed=lab.seed)


def _neurons(lab: Lab, rows: Rows, layers: tuple[int, ...]) -> Iterator[Finding]:
    """Part (b)."""
    model = lab.model
    found = read_neurons(lab, model, rows, layers, "reading neurons")
    random_weights = read_neurons(
        lab, with_random_weights(model, lab.seed), rows[:8], layers, "reading neurons of random weights"
    )
    unit = "share of squared activation"
    table: list[Row] = []
    for name, some in (("trained", found), ("random weights", random_weights)):
        for k, layer in enumerate(layers):
            at = _over(some.held[:, k].tolist(), unit, "document", lab)
            table.append({"layer": layer, "model": name, "held by the strongest hundredth": at.mean})
            table[-1] |= {"low": at.low, "high": at.high}
    yield Finding(
        claim="A token activates a few neurons strongly: the strongest hundredth holds much of its activation.",
        estimate=_over(found.held.mean(1).tolist(), unit, "document", lab),
        control=Control("random weights", _over(random_weights.held.mean(1).tolist(), unit, "document", lab)),
        expects="greater",
        margin=FEWER,
        part=NEURONS,
        answers=True,
        measure=f"Share of the squared activation of an MLP's neurons that a token's strongest {TOP:.0%} hold, mean of "
        f"{len(layers)} layers.",
        table=table,
        figure=Figure(
            "lines",
            x="layer",
            y="held by the strongest hundredth",
            group="model",
            low="low",
            high="high",
            chance=TOP,
            caption="How much of a token's squared activation its strongest hundredth of neurons holds. Bands over "
            "documents; dashed: neurons that are all as strong.",
        ),
    )
    middle = layers[len(layers) // 2]
    same, other = overlaps(found, middle, 60 if lab.quick else 150, lab.seed)
    if len(same) >= 8:
        yield Finding(
            claim="The same token activates the same neurons in another text, more than another token does.",
            estimate=_over(same, "share of the strongest neurons", "token", lab),
            control=Control("another token of that text", _over(other, "share of the strongest neurons", "token", lab)),
            expects="greater",
            part=NEURONS,
            answers=True,
            measure=f"Of a token's strongest {TOP:.0%} of neurons at layer {middle}, the share that is among the "
            "strongest of the same token in another text.",
            caveat="Frequent tokens alone occur in two texts. What a token activates depends on its text as well: the "
            "share is far from 1.",
        )


def _biases(lab: Lab, subject: Model, rows: Rows) -> Iterator[Finding]:
    """Part (c)."""
    hf = copied(subject)
    clean = losses(hf, rows)
    parts = list(biases_of(hf))
    table: list[Row] = []

    def changed(some: list[str], to: str, seed: int = 0) -> torch.Tensor:
        with biases_at(hf, some, to, seed):
            return losses(hf, rows) - clean

    for name, some in (("all biases", parts), *((part, [part]) for part in parts)):
        moves = torch.stack([changed(some, "random", lab.seed * 100 + i) for i in range(RANDOM_MOVES)]).mean(0)
        for to, values in (("set to zero", changed(some, "zero")), ("moved as far at random", moves)):
            at = estimate_mean(values.numpy(), unit=NATS, over="text", seed=lab.seed)
            table.append({"biases": name, "change": to, "loss added (nats per token)": at.mean})
            table[-1] |= {"low": at.low, "high": at.high}
        lab.progress("taking biases away", len(table) // 2, len(parts) + 1)
    who = subject.provenance.name
    yield Finding(
        claim="Without its biases the model predicts worse, by 0.05 nats.",
        estimate=estimate_mean(changed(parts, "zero").numpy(), unit=NATS, over="text", seed=lab.seed),
        control=Control("as it was", known(0.0, unit=NATS, why="no loss added")),
        expects="greater",
        margin=CLEAR,
        part=BIAS,
        answers=True,
        measure="Loss on text that was not trained on, with all biases at zero, less the loss as it was. The model is "
        + (f"{who}." if subject is lab.model else f"a {who}, as the loaded one has no biases."),
        caveat="A model that was trained without biases does without them: this says what one has made of its own.",
        table=table,
        figure=Figure(
            "effect_bars",
            x="loss added (nats per token)",
            y="biases",
            group="change",
            low="low",
            high="high",
            caption="What is lost, by which biases are changed. Intervals over texts.",
        ),
    )


def _threshold(lab: Lab, small: Model, sentences: Rows) -> Finding:
    """A bias moves the point from which a neuron is active."""
    layer = small.n_layers // 2
    table: list[Row] = []
    for shift in (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0):
        at = estimate_mean(
            share_above(small, sentences[:40], layer, shift), unit="share of tokens", over="neuron", bounds=(0, 1)
        )
        table.append({"added to the bias (standard deviations)": shift, "active (share of tokens)": at.mean})
        table[-1] |= {"low": at.low, "high": at.high}
    more = share_above(small, sentences[:40], layer, 1.0) - share_above(small, sentences[:40], layer, 0.0)
    return Finding(
        claim="A bias alters the activation: a larger one makes a neuron active at more tokens.",
        estimate=estimate_mean(more, unit="share of tokens", over="neuron", seed=lab.seed),
        control=Control("no difference", known(0.0, unit="share of tokens", why="no difference")),
        expects="greater",
        part=BIAS,
        answers=True,
        measure="Share of tokens at which what a neuron adds up, its bias included, is above zero: with one standard "
        "deviation added less as it was, in the small GPT-2 trained here.",
        caveat="This is arithmetic and must hold: activation = f(weights · input + bias).",
        table=table,
        figure=Figure(
            "lines",
            x="added to the bias (standard deviations)",
            y="active (share of tokens)",
            low="low",
            high="high",
            caption="How often neurons are active by what is added to their biases. Band over neurons.",
        ),
    )


def _controls(lab: Lab, subject: Model, small: Model, texts: Rows, sentences: Rows) -> Iterator[Finding]:
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
    yield Finding(
        claim="Positive control: a bias that was planted is seen in the loss, and gone when it is taken away.",
        estimate=estimate_mean(planted.numpy(), unit=NATS, over="text", seed=lab.seed),
        control=Control("taken away again", estimate_mean(back.numpy(), unit=NATS, over="text", exact=True)),
        expects="greater",
        margin=CLEAR,
        part=CONTROLS,
        measure="Random numbers added to the last MLP's biases of the small GPT-2.",
    )
    random_weights = with_random_weights(small, lab.seed).hf
    before = losses(random_weights, sentences)
    with biases_at(random_weights, list(biases_of(random_weights)), "zero"):
        after = losses(random_weights, sentences)
    yield Finding(
        claim="Negative control: setting biases to zero that are zero changes nothing.",
        estimate=estimate_mean((after - before).numpy(), unit=NATS, over="text", exact=True, seed=lab.seed),
        control=Control("nothing", known(0.0, unit=NATS, why="nothing")),
        expects="equal",
        margin=1e-6,
        part=CONTROLS,
        measure="A GPT-2 with random weights: all of its biases begin at zero.",
    )
