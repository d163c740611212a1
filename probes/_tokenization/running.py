"""How often words are cut in running text and in English as it is met, and the same count of known tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from interp import Claim, Control, Estimate, Figure, Finding, Lab, Row, set_beforehand, split_corpus
from interp.stats import estimate_mean, known, proportion

from . import CONTROLS, CUT, SPLIT
from .words import COMMON, LETTERS, WHOLE_WORDS, Word, frequencies, is_split, split_as_met, split_in_text

OFTEN = 0.1


RUNNING = Claim(
    "More than one in ten of the words in the running text that was read are cut into pieces.",
    expects="greater",
    unit=SPLIT,
    part=CUT,
    answers=True,
    caveat="Most of a text's words are frequent ones, which are one token: of different words, far more are cut.",
    subject="tokenizer",
)
MET_WORDS = Claim(
    "More than one in ten of the words of English, each as often as it is met, are cut into pieces.",
    expects="greater",
    unit=SPLIT,
    part=CUT,
    answers=True,
    subject="tokenizer",
)

COUNTED = "The words of the five bands, counted as those of the model are."
KNOWS_ALL = Claim(
    "Negative control: a tokenizer that knows every word cuts none.",
    expects="equal",
    margin=0.01,
    unit=SPLIT,
    part=CONTROLS,
    arithmetic=True,  # made so: it shows that the counting is right, whatever the model
    measure=COUNTED,
    subject="trained here",
)
KNOWS_LETTERS = Claim(
    "Positive control: a tokenizer that knows letters alone cuts every word.",
    expects="equal",
    margin=0.01,
    unit=SPLIT,
    part=CONTROLS,
    arithmetic=True,  # made so: it shows that the counting is right, whatever the model
    measure=COUNTED,
    subject="trained here",
)


def in_text(lab: Lab, documents: Sequence[str], text: str, source: Sequence[str] = ()) -> Iterator[Finding]:
    """Shares of running words that are cut, beside those of English as it is met.

    `text` names the text, `source` [document] what each is a piece of, where that is known.
    """
    words, zipf = zip(*frequencies(), strict=True)
    listed, weights, split = frozenset(words), np.array(zipf), is_split(lab.model, words)
    of_list = split_in_text(lab.model, documents, lab.seed, listed)
    own = split_corpus()[1]
    by_source = {
        one: split_in_text(
            lab.model, [d for d, of in zip(documents, source, strict=True) if of == one], lab.seed, listed
        )
        for one in dict.fromkeys(source)
    }
    met, common = (split_as_met(split, weights, most) for most in (None, COMMON))
    rows: list[Row] = [
        {"words": name, "cut (share of words)": at.mean, "low": at.low, "high": at.high}
        for name, at in (
            ("of running text, in the list", of_list),
            *((f"in the list, {one}", at) for one, at in by_source.items()),
            ("of running text, all runs of letters", split_in_text(lab.model, documents, lab.seed)),
            ("of what the bundled model wrote, in the list", split_in_text(lab.model, own, lab.seed, listed)),
            ("of what the bundled model wrote, all", split_in_text(lab.model, own, lab.seed)),
            (f"of English, {len(words):,} words as often as met", known(met, unit=SPLIT, why="the whole list")),
            (f"of English, the {COMMON:,} most frequent as often as met", known(common, unit=SPLIT, why="the list")),
            ("of the list, each once", proportion(split, unit=SPLIT, over="word")),
        )
    ]
    yield RUNNING.answer(
        of_list,
        set_beforehand(OFTEN, of_list.unit, "one in ten"),
        measure=f"Text: {text}. Runs of letters that stand in a list of {len(words):,} English words, each with a "
        "space before it.",
        caveat=_over_sources(by_source, lab.seed) if by_source else "",
        table=rows,
        figure=Figure(
            "interval_dots",
            x="cut (share of words)",
            y="words",
            low="low",
            high="high",
            chance=OFTEN,
            chance_is="one in ten",
            caption="Words that are cut, by what is counted. Intervals over documents; a whole list has none.",
        ),
    )
    yield MET_WORDS.answer(
        known(met, unit=SPLIT, why="the whole list"),
        Control("one in ten", known(OFTEN, unit=SPLIT, why="set beforehand")),
        measure=f"All {len(words):,} words of the letters a to z among wordfreq's 100,000 most frequent, in small "
        "letters, weighted by how often they are met in many kinds of text.",
        caveat=f"The share grows with the list: {common:.1%} for the {COMMON:,} most frequent words. A list is not a "
        "sample, so there is no interval.",
    )


def _over_sources(by_source: Mapping[str, Estimate], seed: int) -> str:
    """Pieces of one book are alike: what they show of other text is what the sources show, and these are few."""
    shares = [at.mean for at in by_source.values()]
    at = estimate_mean(shares, unit=SPLIT, over="source", bounds=(0.0, 1.0), seed=seed)
    return (
        f"Source by source it is {min(shares):.1%} to {max(shares):.1%}; over the {len(shares)} sources {at.mean:.1%} "
        f"[{at.low:.1%}, {at.high:.1%}], which is all that these say of running text of other kinds."
    )


def known_tokenizers(words: Sequence[Word]) -> Iterator[Finding]:
    """A tokenizer that knows every word and one that knows letters alone, counted as the model's is."""
    for claim, model, name, right in ((KNOWS_ALL, WHOLE_WORDS, "none", 0.0), (KNOWS_LETTERS, LETTERS, "all", 1.0)):
        split = is_split(model, [w.text for w in words])
        yield claim.answer(
            proportion(split, unit=SPLIT, over="word"),
            Control(name, known(right, unit=SPLIT, why="by its making")),
        )
