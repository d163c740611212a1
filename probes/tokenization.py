"""Are real words often broken into several tokens, and what does the model do with the pieces?

Paper: Kaplan et al. 2024, arXiv:2410.05864 (From Tokens to Words).

Question. A model does not read letters or words but tokens, pieces that a tokenizer has learned: frequent words are one
token, others are cut. How often are real words cut, which ones, and how does the model put the pieces together?

(a) How words are cut. The words of running text that people wrote (`--corpus` names another); all 93,628 words of a
list, each counted as often as English has it; 717 words in five bands of frequency, with and without the space before
them, with a capital letter and in capitals; frequent words of seven other languages.

(b) What the model does. How much does a second piece surprise it? What does cutting cost: the same text is read again
with its long words cut by force. And where are pieces put together: words that are one token are cut in two. At which
layer is the vector at the last piece nearest, of all words, to the vector that the whole word has as one token?

What counts as yes:

- more than one in ten of the words in the running text are cut, and of English as it is met. A sentence has some twenty
  words: at one in ten it has two cut words, and "often" is true of every sentence; at one in twenty, of every second
  sentence at most. The table shows the shares, so that another line can be drawn;
- rare words are cut more often than frequent ones of the same length, by 10 points;
- words in capitals are cut more often than the same words in small letters, by 10 points;
- a second piece surprises less than a first one;
- a word cut by force costs 1 nat more than whole, as if it were 2.7 times less likely; the tokens that stay whole cost
  0.05 nats more, a fiftieth or so of what a token costs;
- at the layer that half of the words chose, the last piece is read as the whole word 20 points more often than behind
  the first half of another word.

What could fool us:

- Whose text it is. A sample that a model wrote at temperature 1 holds strings that are no words, and these are cut.
  Running words count only where they stand in the list, and the bundled model's own sample is shown beside the prose.
- The prose is pieces of five sources, and an interval over pieces says nothing of a sixth: they are shown apart.
- Rare words are longer, and long words are cut. They are compared at the same lengths.
- The list holds words in small letters, names and abbreviations among them, which text writes with capitals.
- A last piece may tell a word by itself ("…oplane"), or with the word's first letter. Behind another word's first half,
  which begins with the same letter, they tell as much.
- Made-up words should nearly always be cut, a tokenizer that knows every word must cut none, one that knows letters
  alone must cut all: these are the controls. Random weights must not put pieces together, and must not mind that other
  words are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated

from interp import (
    Finding,
    Lab,
    Least,
    NotAsked,
    corpus_or_prose,
    probe,
    prose_sources,
    text_read,
    with_random_weights,
)

from ._tokenization import kinds, together
from ._tokenization.cost import BLIND, DEARER, ELSEWHERE, cost_findings
from ._tokenization.pieces import read_surprises, surprise_by_piece
from ._tokenization.running import KNOWS_ALL, KNOWS_LETTERS, MET_WORDS, RUNNING, in_text, known_tokenizers
from ._tokenization.words import english

CLAIMS = [RUNNING, MET_WORDS, kinds.RARE, kinds.CAPITALS, kinds.SCRIPTS, together.SECOND, DEARER, ELSEWHERE]
CLAIMS += [together.TOGETHER, BLIND, together.APART, kinds.MADE_UP, KNOWS_ALL, KNOWS_LETTERS]


@probe(paper="arXiv:2410.05864", claims=CLAIMS)
def tokenization(
    lab: Lab, *, corpus: Path | None = None, tokens: Annotated[int, Least(40)] = 200
) -> Iterator[Finding | NotAsked]:
    """Count the pieces of words, then see what the model does with them.

    Args:
        corpus: running English text of yours instead of the bundled prose
        tokens: how many tokens of each document the model reads, 40 or more; at most 100 in a quick run
    """
    words = english()
    documents = corpus_or_prose(corpus)
    source = text_read(corpus)
    yield from in_text(lab, documents, source, () if corpus else prose_sources())
    documents = documents[: 16 if lab.quick else 32]
    tokens = min(tokens, 100) if lab.quick else tokens
    yield kinds.by_bands(lab, words)
    yield kinds.in_capitals(lab, words)
    yield kinds.by_scripts(lab, words)
    untrained = cache(lambda: with_random_weights(lab.model, lab.seed))  # made where it is asked first
    texts_read = read_surprises(lab, lab.model, lab.model.encode(documents, cut=tokens), "reading text")
    yield together.second_pieces(lab, surprise_by_piece(lab.model, texts_read), source)
    yield from cost_findings(lab, texts_read, source, untrained)
    yield from together.put_together(lab, words, untrained)
    yield kinds.of_made_up(lab, words)
    yield from known_tokenizers(words)
