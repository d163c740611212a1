"""Does a direction in embedding space carry meaning, and do bigger embeddings hold more?

Paper: Mikolov et al. 2013, arXiv:1301.3781 (king − man + woman); Linzen 2016, arXiv:1606.07736 (why that can fool us).

Question. A word enters a model as a list of numbers, its embedding. A beginner's course says that directions among
these numbers carry meaning: from "man" to "woman" is the way from "king" to "queen"; and that the longer the list, the
more it holds. Are there such directions, does the model use them, and how many numbers does what they hold need?

(a) Analogies. Questions a : b = c : ? of thirteen families of up to ten pairs (gender, plural, capitals, opposites and
so on). The answer is the word nearest to c + b − a, in the embedding and in the residual stream at the word behind a
fixed text.

(b) One direction? The offsets of a family's pairs, compared with each other.

(c) What is held: the kind of a noun, and which word of a pair it is, read by linear classifiers from words that they
have not seen; with 1, 2, 4, … up to all directions of the embedding.

(d) Cause: the plural direction is added at a singular noun. Does "are" become likelier beside "is"?

What counts as yes, at the middle layer, which was chosen before any run:

- the offset finds the fourth word in 10 points more of the questions than what is no offset, over families: the best,
  in each family, of the words nearest to c, to b, and to c + b;
- offsets of right pairs have a cosine 0.05 above that of wrong pairs, and above 97.5 % of the cosines that come of
  pairing the words at random;
- with all directions 5 points more is read than with the quarter of largest variance;
- the plural direction moves "are" against "is" by 0.5 nats more than random directions of its length may.

What could fool us:

- The exclusion. The question's own three words are usually left out of the answers; then the nearest neighbour of c is
  often right without any offset. So c alone, b alone and a random offset are asked too, and all with those words kept.
- The minus. "Something like king that is a woman" is c + b, without a direction from man to woman. It is asked too.
- Wrong pairs. Second words share something with each other whatever the pairing. The pairing is dealt anew many times.
- Families. Plurals work and opposites do not: pairs of a family are no independent tests of "directions". The interval
  is over families, and pairs are shown inside them.
- Tokens. Words that the tokenizer splits are left out and named. "King" and " king" are one word here.
- Spelling. A classifier may read how long or how common a word is; what these give is told beside it.
- Any push changes a model. Random directions of the same length stand beside the plural one, whose length and sign
  come from nouns that are not judged.
- One embedding cut short is no small embedding: this is one model, not a family of them.
- A blind method, or one that finds directions everywhere: planted ones must be found always, and random weights, and
  words dealt at random, must give nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from interp import Finding, Lab, Least, NotAsked, probe, with_random_weights

from ._embedding_directions import analogies as by_offset
from ._embedding_directions import controls as known_vectors
from ._embedding_directions import held, one_direction, steering
from ._embedding_directions.words import choose_words, depths, read_vectors


@probe(
    paper="arXiv:1606.07736",
    claims=[
        *by_offset.CLAIMS,
        *one_direction.CLAIMS,
        *held.CLAIMS,
        *steering.CLAIMS,
        held.NO_KIND,
        steering.PLURAL,
        *known_vectors.CLAIMS,
    ],
)
def embedding_directions(
    lab: Lab, *, n_perm: Annotated[int, Least(40)] = 200, n_deals: Annotated[int, Least(40)] = 40
) -> Iterator[Finding | NotAsked]:
    """Ask analogies, compare offsets, read what is held, and steer.

    Args:
        n_perm: deals of second words to first ones, for the nulls; 40 or more, to show that 2.5 % reach a number
        n_deals: deals of kinds to words for the classifiers, which are slower; 40 or more
    """
    words = choose_words(lab.model, lab.quick)
    layers, middle = depths(lab.model.n_layers, lab.quick)
    lab.progress("reading words", 0, 1)
    vectors = read_vectors(lab.model, words, layers)
    lab.progress("asking analogies", 0, 1)
    yield from by_offset.analogies(lab, words, vectors, middle, n_perm)
    yield from one_direction.one_direction(lab, words, vectors, middle, n_perm)
    random_weights = with_random_weights(lab.model, lab.seed)
    kind, no_kind = held.kinds(lab, words, layers, random_weights, n_deals)
    yield kind
    yield from held.more_directions(lab, words, vectors)
    noun_sentences = steering.admit(lab.model, words, lab.quick)
    steers, plural = steering.steering(lab, words, vectors, middle, noun_sentences)
    yield from (steers, no_kind, plural)
    yield from known_vectors.controls(lab, words, vectors, random_weights, middle, n_perm)
