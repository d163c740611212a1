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

- the offset finds the fourth word in 10 points more of the questions than the word nearest to c alone, over families;
- offsets of right pairs have a cosine 0.05 above that of wrong pairs, and above 97.5 % of the cosines that come of
  pairing the words at random;
- with all directions 5 points more is read than with the quarter of largest variance;
- the plural direction moves "are" against "is" by 0.5 nats more than random directions of its length.

What could fool us:

- The exclusion. The question's own three words are usually left out of the answers; then the nearest neighbour of c is
  often right without any offset. So c alone, b alone and a random offset are asked too, and all with those words kept.
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

from interp import Finding, Lab, UserError, probe, with_random_weights

from ._embedding_directions.analogies import analogies
from ._embedding_directions.controls import controls
from ._embedding_directions.held import kinds, more_directions
from ._embedding_directions.one_direction import one_direction
from ._embedding_directions.steering import NounSentences, admit, steering
from ._embedding_directions.words import Words, choose_words, depths, read_vectors


@probe(paper="arXiv:1606.07736")
def embedding_directions(lab: Lab, *, n_perm: int = 200, n_deals: int = 40) -> Iterator[Finding]:
    """Ask analogies, compare offsets, read what is held, and steer.

    Args:
        n_perm: deals of second words to first ones, for the nulls; 40 or more
        n_deals: deals of kinds to words for the classifiers, which are slower; 40 or more
    """
    for name, value in (("n-perm", n_perm), ("n-deals", n_deals)):
        if value < 40:
            raise UserError(
                f"--{name} {value}; expected 40 or more: fewer cannot show that 2.5 % of deals reach a number"
            )
    words = choose_words(lab.model, lab.quick)
    noun_sentences = admit(lab.model, words, lab.quick)
    layers, middle = depths(lab.model.n_layers, lab.quick)
    lab.progress("reading words", 0, 1)
    vectors = read_vectors(lab.model, words, layers)
    lab.progress("asking analogies", 0, 1)
    yield from analogies(lab, words, vectors, middle, n_perm, _left_out(words, noun_sentences))
    yield from one_direction(lab, words, vectors, middle, n_perm)
    random_weights = with_random_weights(lab.model, lab.seed)
    later: list[Finding] = []
    if len(words.kinds) > 1:
        told, control = kinds(lab, words, layers, random_weights, n_deals)
        later.append(control)
        yield told
    yield from more_directions(lab, words, vectors)
    if noun_sentences is not None:
        steered, control = steering(lab, words, vectors, middle, noun_sentences)
        later.append(control)
        yield steered
    yield from (*later, *controls(lab, words, vectors, random_weights, middle, n_perm))


def _left_out(words: Words, noun_sentences: NounSentences | None) -> str:
    """What this model cannot be asked, in sentences that begin with a space."""
    told = ""
    if len(words.kinds) < 2:
        told += " Kinds of nouns are not read: too few of them are one token each."
    if noun_sentences is None:
        told += ' The plural direction is not added: nouns, or "is" and "are", are not one token each.'
    return told
