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

- the best guess is right as often as it says, within 5 points;
- it is right 10 points more often than always guessing the commonest token;
- the temperature that predicts a text best is 1, within 0.2;
- sampled at a temperature, tokens come as often as they should, within 5 points.

What could fool us:

- Whose text it is. The bundled sample was written by the bundled model: there its probabilities are nearly honest by
  construction. The verdicts are about other text: the bundled prose, which people wrote, or a corpus of yours. A model
  may have learnt passages of old books by heart.
- Even honest probabilities miss by chance. The calibration error is shown beside the errors of worlds in which each
  guess comes true as often as it says.
- The first token of a text has nothing before it and is left out.
- A method that sees nothing: with all logits doubled the model is too sure, and that must be found. Or too much: where
  the truth is drawn from the model itself, no error may be found. Random weights must predict nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from interp import Finding, Lab, UserError, bundled_corpus, load_corpus, probe, prose, split_corpus

from ._prediction import OTHER, OWN
from ._prediction.controls import controls
from ._prediction.guesses import best_guess, more_context
from ._prediction.honest import error_beyond_chance, honest
from ._prediction.read import By, read_documents
from ._prediction.temperature import best_temperature, sampled


@probe(paper="arXiv:1706.04599")
def prediction(lab: Lab, *, corpus: Path | None = None, documents: int = 36, tokens: int = 200) -> Iterator[Finding]:
    """Read every token of two kinds of text, and ask how honest the probabilities are.

    Args:
        corpus: text of yours in place of the bundled prose
        documents: how many documents of each kind, 8 or more
        tokens: how many tokens of each, 48 or more
    """
    for name, value, least in (("documents", documents, 8), ("tokens", tokens, 48)):
        if value < least:
            raise UserError(f"--{name} {value}; expected {least} or more")
    n = min(documents, 8) if lab.quick else documents
    sources = {
        OTHER: str(corpus) if corpus else bundled_corpus("prose").name,
        OWN: f"held-out documents of {bundled_corpus('sample').name}",
    }
    other = list(load_corpus(corpus)) if corpus else prose()
    texts: By = {
        kind: read_documents(lab, lab.model, some, tokens, n, f"reading {kind}")
        for kind, some in ((OTHER, other), (OWN, split_corpus()[1]))
    }
    for kind in texts:
        found = honest(lab, kind, texts)
        yield replace(found, measure=f"Text: {sources[kind]}. {found.measure}")
    yield error_beyond_chance(lab, texts[OTHER])
    yield best_guess(lab, texts)
    yield more_context(lab, texts)
    yield best_temperature(lab, texts)
    yield sampled(lab)
    yield from controls(lab, texts[OTHER], other, tokens)
