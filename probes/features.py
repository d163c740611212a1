"""Is a feature a set of neurons that activate for a token?

Paper: Bricken et al. 2023, "Towards Monosemanticity"; Gurnee et al. 2023, arXiv:2305.01610 (neurons in a haystack).

Question. A beginner's course says that a feature is a set of neurons that activate for a token. A sparse autoencoder
(SAE) finds directions in a model's activations, its features, of which a few are active at each token. Which tokens
are they active for? How many neurons is each made of? And does the model use it?

Features are drawn at random from those that fire on 30 tokens or more and on 5 % at most. Beside each stand one neuron
drawn from the layer before the SAE and one random direction. A neuron has some value at every token: we call it firing
at its strongest tokens, as many as the feature fires on.

(a) A rule is made for each: the tokens, words, tokens before or kinds of token that foretell its firing best. It is
judged on documents that it was not made from.

(b) The best 1, 2, 4, … 64 neurons of that layer are to tell where the feature fires, judged on other documents by AUC:
how often they put a token where it fires above one where it does not.

(c) A feature is taken away at three tokens where it fires, the strongest among the first 48 of a document, and the
probabilities of the next token before and after are compared (the KL divergence, in nats). The same with a neuron set
to its mean, and with other changes as long.

What counts as yes:

- its rule correlates with a feature's firing by 0.1 more than a neuron's rule, or a random direction's, with theirs;
- for most features that correlation is 0.5 or more;
- half of a feature's activation falls on fewer kinds of token than half of a neuron's, by half a doubling (1.4 times);
- 64 neurons tell where a feature fires better than the best one, by 0.1 of AUC, and most features take more than 8,
  be it for eight tenths or for nine tenths of the way from chance to what 64 reach;
- without a feature the probabilities change 1.4 times as much as by a random change of the same length, drawn so that
  it varies as activations do.

What could fool us:

- Whose text it is. What is read is the bundled sample, which the bundled model wrote, apart from the documents that an
  SAE of ours was trained on: on text that people wrote, features may fire for other tokens.
- How often it fires. What fires on many tokens is easier to foretell than what fires on few: all are made equally rare.
- A rule that fits by chance. It is judged on other documents; firings dealt to random tokens must have no rule.
- The SAE was made to be sparse, and neurons were not: cut off at the feature's rate, a neuron keeps only its strongest
  tokens, where it is at its best.
- Any change does something, and one along directions that the model uses does more than one in any direction. Random
  changes as long stand beside each, drawn with the activations' covariance; the blind ones, which are easier to beat,
  are in the table, and so is another feature that is active at the same token.
- Long changes do more. A feature's direction is longer than what one neuron writes: both lengths are told.
- The SAE's features are not the model's: another SAE has others, and what it misses is in no feature. An SAE of a model
  of random weights has features that tokens foretell, too (Heap et al. 2025, arXiv:2501.17727): this is about what a
  feature is, not about what a model learned.
- A blind method: what fires for three tokens, and what is made of four neurons, must be found to be that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from interp import Finding, Lab, Least, NotAsked, probe
from interp.features import Coder, TokenRules
from interp.saes import attach_sae, ensure_default_sae, load_sae, site_of

from ._features import causes, controls, explained, made_of
from ._features.effect import (
    AGAIN,
    ALIKE,
    BLIND,
    OTHER,
    STEEP,
    Lost,
    as_activations_vary,
    down_the_slope,
    in_any_direction,
    make,
    of_other_features,
    without_features,
    without_neurons,
)
from ._features.units import Text, Units, choose_features, choose_neurons, random_directions, read_text

LEAST_TOKENS, LEAST_UNITS = 4000, 10


@probe(paper="arXiv:2305.01610", claims=[*explained.CLAIMS, *made_of.CLAIMS, *causes.CLAIMS, *controls.CLAIMS])
def features(
    lab: Lab,
    *,
    tokens: Annotated[int, Least(LEAST_TOKENS)] = 20_000,
    units: Annotated[int, Least(LEAST_UNITS)] = 96,
    changed: Annotated[int, Least(LEAST_UNITS)] = 48,
) -> Iterator[Finding | NotAsked]:
    """Explain, take apart and take away.

    Args:
        tokens: how many tokens of held-out text to read, 4,000 or more; all, where there are fewer; half with --quick
        units: how many features, neurons and random directions, 10 or more; half with --quick
        changed: how many of the features and neurons to take away, 10 or more; all, where there are fewer;
            half with --quick
    """
    if lab.quick:
        tokens, units, changed = (
            max(least, n // 2) for n, least in ((tokens, LEAST_TOKENS), (units, LEAST_UNITS), (changed, LEAST_UNITS))
        )
    if lab.sae_folder:
        sae = attach_sae(lab.sae_folder, lab.model)
    else:  # one that is made for this very model need not be told from one of another layer
        sae = load_sae(ensure_default_sae(lab.model, lab.progress), lab.model)
    text = read_text(lab, site_of(sae), tokens)
    coder = Coder(sae, text.rows.values[text.kept])
    chosen = choose_features(text, coder, units, lab.seed)
    neurons, random = choose_neurons(text, chosen, lab.seed), random_directions(text, chosen, lab.seed)
    lab.progress("finding rules", 0, 1)
    rules = TokenRules(text.facts, text.document, text.vocabulary)
    kinds = tuple(explained.explain(text, rules, one) for one in (chosen, neurons, random))
    yield from explained.which_tokens(lab, text, chosen, kinds, sae)
    readouts = made_of.read_out(lab, text, chosen, random)
    yield from made_of.made_of(text, readouts, lab)
    lost = _without_features(lab, text, chosen.first(changed), coder)
    yield from causes.causes(text, lost, _without_neurons(lab, text, neurons.first(changed)), lab)
    yield from controls.controls(lab, text, rules, chosen, readouts, lost)


def _without_features(lab: Lab, text: Text, chosen: Units, coder: Coder) -> Lost:
    """What is lost without these features, and by what stands beside each."""
    away, seed = without_features(lab, text, chosen, coder), lab.seed
    beside = {
        ALIKE: as_activations_vary(away, text, seed),
        AGAIN: as_activations_vary(away, text, seed + 1),
        BLIND: in_any_direction(away, text, seed),
        OTHER: of_other_features(away, text, chosen, coder, seed),
        STEEP: down_the_slope(away, text),
    }
    first, *others = make(lab, [away, *beside.values()], "features")
    return Lost(first, dict(zip(beside, others, strict=True)), away.length.numpy())


def _without_neurons(lab: Lab, text: Text, neurons: Units) -> Lost:
    """What is lost with these neurons at their means, and by random changes as long."""
    away = without_neurons(lab, text, neurons)
    first, alike = make(lab, [away, as_activations_vary(away, text, lab.seed + 9)], "neurons")
    return Lost(first, {ALIKE: alike}, away.length.numpy())
