"""Does the model pick the most probable next token, and does temperature scale it?

Paper: Guo et al. 2017, arXiv:1706.04599 (calibration).

Question. A language model gives every token of its vocabulary a probability of coming next. A beginner's course says
that it picks the most probable one, and that a temperature scales the probabilities: a low one makes it sure, a high
one bold. How often is its best guess right, are the probabilities honest, and what does the temperature do to them?

- Calibration: of the best guesses that were given 70 %, are 70 % right? On text that the model did not write, and on
  text that it wrote itself.
- Rank and surprise of the true token, by how much text stands before it.
- Temperature: the one that predicts best, chosen on half of the documents; entropy; and whether sampled tokens come as
  often as the scaled probabilities say.

What counts as yes (intervals over documents):

- the best guess is right as often as it says, within 5 points, whatever it says;
- it is right 10 points more often than always guessing the commonest token;
- the temperature that predicts a text best is 1, within 0.2;
- sampled at a temperature, tokens come as often as they should, within 5 points.

What could fool us:

- Whose text it is. The bundled sample was written by the bundled model: there its probabilities are nearly honest by
  construction. The verdicts are about other text: the bundled prose, which people wrote, or a corpus of yours. A model
  may have learnt passages of old books by heart.
- Misses in both directions, and misses by chance. Each group of probabilities counts by itself, and only what other
  documents miss in the same direction. The usual calibration error is shown beside the errors of worlds in which each
  guess comes true as often as it says.
- Who knows nothing and says so is honest, too, and who knows only how common each token is predicts best at a
  temperature of 1: a model whose best guess is not seen to be 10 points better than the commonest token is asked
  neither.
- The first token of a text has nothing before it and is left out.
- A method that sees nothing: with all logits doubled the model is too sure, and that must be found. Or too much: where
  the truth is drawn from the model itself, no error may be found. Random weights must predict nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from interp import (
    Finding,
    Lab,
    Least,
    NotAsked,
    bundled_corpus,
    corpus_or_prose,
    probe,
    split_corpus,
    text_read,
)

from ._prediction import OTHER, OWN, guesses, honest, temperature
from ._prediction import controls as method
from ._prediction.read import By, read_documents

DULL = "because its best guess was not seen to be 10 points better than the commonest token"


@probe(paper="arXiv:1706.04599", claims=[*honest.CLAIMS, *guesses.CLAIMS, *temperature.CLAIMS, *method.CLAIMS])
def prediction(
    lab: Lab,
    *,
    corpus: Path | None = None,
    documents: Annotated[int, Least(8)] = 36,
    tokens: Annotated[int, Least(48)] = 200,
) -> Iterator[Finding | NotAsked]:
    """Read every token of two kinds of text, and ask how honest the probabilities are.

    Args:
        corpus: text of yours in place of the bundled prose
        documents: how many documents of each kind, 8 or more
        tokens: how many tokens of each, 48 or more
    """
    n = min(documents, 8) if lab.quick else documents
    other = corpus_or_prose(corpus)
    sources = {
        OTHER: text_read(corpus),
        OWN: f"held-out documents of {bundled_corpus('sample').name}",
    }
    texts: By = {
        kind: read_documents(lab, lab.model, source, tokens, n, f"reading {kind}")
        for kind, source in ((OTHER, other), (OWN, split_corpus()[1]))
    }
    best = guesses.best_guess(lab, texts, sources[OTHER])
    knows = best.verdict == "yes"
    if knows:
        yield honest.honest(lab, OTHER, texts, sources[OTHER])
    else:
        yield honest.HONEST.not_asked(f"{DULL}: who knows nothing and says so is honest")
    yield honest.honest(lab, OWN, texts, sources[OWN])
    yield honest.error_beyond_chance(lab, texts[OTHER])
    yield best
    yield guesses.more_context(lab, texts)
    if knows:
        yield temperature.best_temperature(lab, texts)
    else:
        yield temperature.BEST_TEMPERATURE.not_asked(f"{DULL}: who knows how common tokens are needs no other than 1")
    yield temperature.sampled(lab)
    yield from method.controls(lab, texts[OTHER], other, tokens)
