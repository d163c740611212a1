"""Is a feature a set of neurons that activate for a token?

Paper: Bricken et al. 2023, "Towards Monosemanticity"; Gurnee et al. 2023, arXiv:2305.01610 (neurons in a haystack).

Question. A beginner's course says that a feature is a set of neurons that activate for a token. A sparse autoencoder
(SAE) finds directions in a model's activations, its features, of which a few are active at each token. Which tokens
are they active for? How many neurons is each made of? And does the model use it?

Features are drawn at random from those that fire on 30 tokens or more and on 5 % at most. Beside each stand one neuron
of the layer before the SAE and one random direction. A neuron has some value at every token: it is said to fire where
it is strongest, on as many tokens as the feature.

(a) A rule is made for each: the tokens, words, tokens before or kinds of token that foretell its firing best. It is
judged on documents that it was not made from.

(b) The best 1, 2, 4, … 64 neurons of that layer are to tell where the feature fires, judged on other documents by AUC:
how often they put a token where it fires above one where it does not.

(c) Where it is strongest, a feature is taken away, and the probabilities of the next token before and after are
compared (the KL divergence, in nats). The same with a neuron set to its mean, and with random changes as long.

What counts as yes:

- the rule correlates with a feature's firing by 0.1 more than with a neuron's, and by 0.5 for most features;
- 64 neurons tell where a feature fires better than the best one, by 0.1 of AUC, and most features take more than 8;
- without a feature the probabilities change by half a doubling more than by a random change as long.

What could fool us:

- How often it fires. What fires on many tokens is easier to foretell than what fires on few: all are made equally rare.
- A rule that fits by chance. It is judged on other documents; firings dealt to random tokens must have none.
- The SAE was made to be sparse, and neurons were not: cut off at the feature's rate, a neuron keeps only its strongest
  tokens, where it is at its best.
- Any change does something. Random changes as long stand beside each.
- Long changes do more. A feature's direction is longer than what one neuron writes: both lengths are told.
- The SAE's features are not the model's: another SAE has others, and what it misses is in no feature.
- A blind method: what fires for three tokens, and what is made of four neurons, must be found to be that.
"""

from __future__ import annotations

from collections.abc import Iterator

from interp.analysis.statistics import estimate_mean, known
from interp.errors import UserError
from interp.features.coder import Coder
from interp.features.labels import Namer
from interp.lab.findings import Control, Figure, Finding, Row
from interp.lab.probe import Lab, probe
from interp.saes.attach import attach_sae
from interp.saes.default import ensure_default_sae
from interp.saes.load import site_of
from probes._features import CAUSES, DOUBLINGS
from probes._features.controls import controls
from probes._features.effect import (
    Lost,
    make,
    random_changes,
    without_everything,
    without_features,
    without_neurons,
)
from probes._features.explained import better, explain, fewer_tokens, has_rule, summary
from probes._features.made_of import made_of, read_out
from probes._features.units import choose_features, choose_neurons, random_directions, read_text

STRONGER = 0.5  # doublings
LEAST_TOKENS, LEAST_UNITS = 1000, 10


@probe(paper="arXiv:2305.01610")
def features(lab: Lab, *, tokens: int = 20_000, units: int = 96, changed: int = 48) -> Iterator[Finding]:
    """Explain, take apart and take away.

    Args:
        tokens: how many tokens of held-out text to read, 1,000 or more
        units: how many features, neurons and random directions, 10 or more
        changed: how many of the features and neurons to take away, 10 or more
    """
    for name, value, least in (
        ("tokens", tokens, LEAST_TOKENS),
        ("units", units, LEAST_UNITS),
        ("changed", changed, LEAST_UNITS),
    ):
        if value < least:
            raise UserError(f"--{name} {value}; expected {least:,} or more")
    folder = lab.sae_folder or ensure_default_sae(lab.model, lab.progress)
    sae = attach_sae(folder, lab.model)
    text = read_text(lab, site_of(sae), max(LEAST_TOKENS, tokens // 2) if lab.quick else tokens)
    coder = Coder(sae, text.rows.values[text.kept])
    chosen = choose_features(text, coder, max(LEAST_UNITS, units // 2) if lab.quick else units, lab.seed)
    neurons, random = choose_neurons(text, chosen, lab.seed), random_directions(text, chosen, lab.seed)
    lab.progress("finding rules", 0, 1)
    namer = Namer(text.facts, text.document, text.vocabulary)
    kinds = [explain(text, namer, one) for one in (chosen, neurons, random)]
    table = summary(kinds, lab.seed)
    yield better(kinds[0], kinds[1], table, lab, drawn=True)
    yield better(kinds[0], kinds[2], table, lab, drawn=False)
    yield has_rule(text, kinds[0], chosen, sae, lab)
    yield fewer_tokens(kinds[0], kinds[1], lab)
    lab.progress("reading features out of neurons", 0, 1)
    readouts = read_out(text, chosen, random, lab.seed)
    yield from made_of(text, readouts, lab)
    some = max(LEAST_UNITS, changed // 2) if lab.quick else changed
    away = without_features(text, chosen.first(some), coder)
    changes = [away, *random_changes(text, away, 2, lab.seed), without_everything(text, chosen.first(some))]
    first, *random_kl, whole = make(lab, changes, "features")
    lost = Lost(first, tuple(random_kl), away.length.numpy())
    theirs = without_neurons(lab, text, neurons.first(some))
    ours, chance = make(lab, [theirs, *random_changes(text, theirs, 1, lab.seed + 1)], "neurons")
    yield from _causes(lost, Lost(ours, (chance,), theirs.length.numpy()), lab)
    yield from controls(lab, text, namer, chosen, readouts, lost, whole)


def _causes(features: Lost, neurons: Lost, lab: Lab) -> Iterator[Finding]:
    """Part (c)."""
    ours, theirs = features.doublings, neurons.doublings
    table: list[Row] = []
    for name, lost in (("feature", features), ("neuron", neurons)):
        at = estimate_mean(lost.doublings, unit=DOUBLINGS, over="unit", seed=lab.seed)
        table.append({"taken away": name, "doublings beside a random change": at.mean, "low": at.low, "high": at.high})
        table[-1] |= {
            "KL (nats)": float(lost.without.mean()),
            "KL of a random change (nats)": float(lost.random[0].mean()),
        }
        table[-1]["length of the change"] = float(lost.length.mean())
    lengths = (
        f"The changes are {features.length.mean():.3g} long for features, {neurons.length.mean():.3g} for neurons."
    )
    yield Finding(
        claim="Without a feature, the next token's probabilities change more than by a random change as long.",
        estimate=estimate_mean(ours, unit=DOUBLINGS, over="feature", seed=lab.seed),
        control=Control("as much", known(0.0, unit=DOUBLINGS, why="as much")),
        expects="greater",
        margin=STRONGER,
        part=CAUSES,
        answers=True,
        measure="How often the KL of the random change must be doubled to give that without the feature, at its three "
        f"strongest firings early in a document. On average {features.without.mean():.2g} nats against "
        f"{features.random[0].mean():.2g}. {lengths}",
        caveat="Taken away at the token where it is strongest; what it does to later tokens is not seen.",
        table=table,
        figure=Figure(
            "interval_dots", x="doublings beside a random change", y="taken away", low="low", high="high", chance=0.0,
            caption="Change of the next token's probabilities beside a random change of the same length.",
        ),
    )  # fmt: skip
    yield Finding(
        claim="For its length, a feature does more than a neuron.",
        estimate=estimate_mean(ours - theirs, unit=DOUBLINGS, over="feature", seed=lab.seed),
        control=Control("as much", known(0.0, unit=DOUBLINGS, why="as much")),
        expects="greater",
        margin=STRONGER,
        part=CAUSES,
        measure="The same number, less that of a neuron at its own three strongest tokens, beside random changes as "
        f"long as what the neuron writes. {lengths}",
        table=table,
    )


if __name__ == "__main__":
    from interp.cli import run_probe_file

    run_probe_file(__file__)
