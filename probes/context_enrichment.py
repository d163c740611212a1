"""Does a transformer enrich "tower" in "miniature tower" and "large tower"?

Question. The word "tower" is the same token in both phrases and begins as the same vector. A beginner's course says
that context then enriches it: on its way up the layers it takes on that the tower is small, or large. Any context moves
a vector. The question is whether it is moved along one direction that means size, the same for other nouns, other
adjectives and other sentences.

(a) The direction of size: the mean vector at the noun after large adjectives less that after small ones. It is made
from half of the adjectives, half of the nouns and three sentences, and judged on the others: of two phrases with the
same noun, does the one with the large adjective lie further along?

(b) Who carries it: the noun is kept from looking at its adjective, in all heads, in one layer, in a few heads.

(c) Words of two senses: is it the bank of a river, or of money, at the word "bank"?

(d) What the direction does: added at the noun of "The red tower was so", does it bring words of size?

What counts as yes, at the middle layer, which was named beforehand:

- pairs are told rightly more often than with adjectives dealt to two classes at random (the whole distribution of such
  deals: a single one can reach 95 %);
- adjectives that say nothing of size lie in the middle third between small and large;
- two phrases of one size are more alike than two of different sizes, and than with adjectives dealt at random;
- the direction is of size: along a direction of age, made the same way, large and small lie less than half as far
  apart, and old and new less than half as far along that of size;
- it is used: pushed along it, the odds of large against small words rise by 0.2 nats more than pushed as far between
  adjectives that say nothing of size, and more than along the direction of age.

What could fool us:

- Longer adjectives would move the noun to another place: all adjectives and nouns are one token each.
- All vectors of a layer are alike (a cosine of 0.9 says little): cosines are shown beside those of other words, and
  centred.
- The unit. A dozen adjectives are a dozen draws, however many nouns follow them, and each has a vector of its own: the
  intervals are over adjectives and nouns, and chance is what deals of the adjectives give.
- The last token of a phrase looks at everything. In the embedding, layer 0, the noun is the same whatever came before:
  chance, and cosine 1, must show there.
- Random weights mix context as well. They must not know a direction that holds for other adjectives.
- A method that sees nothing. A direction as long as the one that was measured is planted, for adjectives that do not
  differ, and it is said how often it is found, and shorter ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from interp import Finding, Lab, Least, NotAsked, probe, with_random_weights
from interp.saes import shipped_sae

from ._context_enrichment import carried, controls, direction, senses, used
from ._context_enrichment.phrases import LEAST_AGE, TOO_FEW_OF_AGE, choose_age, choose_words, read_vectors
from ._context_enrichment.size import depths, middle_of, tell_apart

CLAIMS = [*direction.CLAIMS, *carried.CLAIMS, *senses.CLAIMS, *used.CLAIMS, *controls.CLAIMS]


@probe(claims=CLAIMS)
def context_enrichment(lab: Lab, *, n_perm: Annotated[int, Least(39)] = 200) -> Iterator[Finding | NotAsked]:
    """Find the direction of size, judge it on held-out words, and ask who carries it and what it does.

    Args:
        n_perm: deals of the adjectives to two classes, for the null; 39 or more, to show that 2.5 % reach a number
    """
    model = lab.model
    words, ages = choose_words(model, lab.quick), choose_age(model, lab.quick)
    layers, middle = depths(model.n_layers, lab.quick), middle_of(model.n_layers)
    vectors = read_vectors(lab, model, words.sized, words.nouns, layers, "reading phrases")
    plain = read_vectors(lab, model, words.neutral, words.nouns, (middle,), "reading neutral phrases")
    sized, neutral = vectors.of(words.sized, middle), plain.of(words.neutral, middle)
    apart = {}
    for i, layer in enumerate(layers):
        apart[layer] = tell_apart(vectors.of(words.sized, layer), n_perm, lab.seed)
        lab.progress("telling large from small", i + 1, len(layers))
    first = direction.generalises(apart, middle, words)
    yield first
    yield direction.in_between(sized, neutral, words, first)
    yield direction.alike(lab, vectors, words, middle, n_perm)
    kinds = {"size": (words.sized, sized)}
    if len(ages) < 2 * LEAST_AGE:
        yield from direction.specific_not_asked(TOO_FEW_OF_AGE)
    else:
        nouns = words.nouns[:8]
        kinds["age"] = ages, read_vectors(lab, model, ages, nouns, (middle,), "reading of age").of(ages, middle)
        yield from direction.specific({kind: at[:, :, : len(nouns)] for kind, (_, at) in kinds.items()}, middle)
    yield from carried.carried(lab, carried.admit(model, words, vectors, middle))
    yield carried.features(lab, words, lab.sae_folder or shipped_sae(model), n_perm)
    random_weights = with_random_weights(model, lab.seed)
    yield senses.read_senses(lab, layers, middle, random_weights, n_perm)
    yield from used.what_it_does(lab, words, neutral, kinds, middle)
    yield controls.beginning(apart[0])
    yield controls.planted(lab, sized, neutral, n_perm)
    yield controls.untrained(lab, choose_words(model, False), middle, random_weights)
