"""Which words are cut: rare ones, those in capitals, those in other scripts, made-up ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp import Claim, Control, Figure, Finding, Lab, Measured, measured
from interp.stats import estimate_gap, estimate_mean, proportion

from . import CONTROLS, CUT, SPLIT
from .words import FORMS, Word, at_equal_length, count_pieces, is_split, languages, made_up

MORE = 0.1
RATE = "tokens per character"

RARE = Claim(
    "Rare words are cut more often than frequent ones of the same length, by 10 points.",
    expects="greater",
    margin=MORE,
    unit=SPLIT,
    part=CUT,
    answers=True,
    caveat="Among the rare ones are names and abbreviations in small letters, as nobody writes them.",
    subject="tokenizer",
)
CAPITALS = Claim(
    "In capitals, words are cut more often than in small letters, by 10 points.",
    expects="greater",
    margin=MORE,
    unit=SPLIT,
    part=CUT,
    measure="Words that are met ten times in a million or more.",
    subject="tokenizer",
)
SCRIPTS = Claim(
    "Words in other scripts take more tokens per character than English ones.",
    expects="greater",
    unit=RATE,
    part=CUT,
    measure="Frequent words in Cyrillic, Greek, Arabic, Devanagari and Chinese characters; the mean of a language.",
    caveat="Scripts differ in how much a character says: a Chinese one says more than a letter.",
    subject="tokenizer",
)

MADE_UP = Claim(
    "Positive control: made-up words are cut more often than real ones of the same lengths, by 10 points.",
    expects="greater",
    margin=MORE,
    unit=SPLIT,
    part=CONTROLS,
    measure="Random letters, as frequent as in the words and as many.",
    subject="tokenizer",
)


def by_bands(lab: Lab, words: Sequence[Word]) -> Finding:
    """How often words are met, and how they are written."""
    cut = {}
    for form in FORMS:
        split = is_split(lab.model, [w.text for w in words], form)
        for band in dict.fromkeys(w.band for w in words):
            of_band = [bool(s) for s, w in zip(split, words, strict=True) if w.band == band]
            cut[band, form] = proportion(of_band, unit=SPLIT, over="word")
    shown = Measured(("occurrences in a million words", "written"), "cut (share of words)", cut)
    split = is_split(lab.model, [w.text for w in words])
    rare, frequent, lengths = at_equal_length(words, split)
    return RARE.answer(
        rare,
        Control("frequent words, with the rare ones' lengths", frequent),
        measure="Words met less than 10 times in a million, and more than 100 times, at lengths of "
        f"{lengths[0][0]} to {lengths[-1][0]} letters, weighted alike.",
        table=shown.rows(),
        figure=Figure(
            "bars",
            x="occurrences in a million words",
            y="cut (share of words)",
            group="written",
            low="low",
            high="high",
            caption="Words that are cut, by how often they are met and how they are written. Intervals over words.",
        ),
    )


def in_capitals(lab: Lab, words: Sequence[Word]) -> Finding:
    """The same words in capitals and in small letters."""
    texts = [w.text for w in words if w.zipf >= 4]
    plain, upper = (is_split(lab.model, texts, form) for form in ("in a sentence", "all capitals"))
    pair = estimate_gap(upper, plain, unit=SPLIT, over="word", bounds=(0.0, 1.0), seed=lab.seed)
    return CAPITALS.answer(pair.estimate, Control("the same words in small letters", pair.control), paired=pair.gap)


def by_scripts(lab: Lab, words: Sequence[Word]) -> Finding:
    """Frequent words of several languages."""
    frequent = [w.text for w in words if w.zipf >= 5][:160]
    words_of = {"English": frequent, **languages()}
    rates = {
        language: np.array(count_pieces(lab.model, [f" {w}" for w in some])) / [len(w) for w in some]
        for language, some in words_of.items()
    }
    cut = [float(is_split(lab.model, some).mean()) for some in words_of.values()]
    by_language = measured(rates, by=("language",), value=RATE, over="word", seed=lab.seed)
    others = [rate.mean() for language, rate in rates.items() if language not in ("English", "German", "Spanish")]
    return SCRIPTS.answer(
        estimate_mean(others, unit=RATE, over="language", seed=lab.seed),
        Control("frequent English words", by_language["English"]),
        table=[row | {"cut (share of words)": share} for row, share in zip(by_language.rows(), cut, strict=True)],
        figure=by_language.dots(
            y="language",
            caption="Frequent words of each language; intervals over words. At 1 every character is a token.",
        ),
    )


def of_made_up(lab: Lab, words: Sequence[Word]) -> Finding:
    """Letter strings that are no words, beside the words whose letters they have."""
    texts = [w.text for w in words if w.zipf >= 3]
    return MADE_UP.answer(
        proportion(is_split(lab.model, made_up(texts, lab.seed)), unit=SPLIT, over="word"),
        Control("the real ones", proportion(is_split(lab.model, texts), unit=SPLIT, over="word")),
    )
