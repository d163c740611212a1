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
from pathlib import Path

import numpy as np

from interp import (
    Claim,
    Control,
    Figure,
    Finding,
    Lab,
    NotAsked,
    Row,
    UserError,
    check_least,
    corpus_or_prose,
    probe,
    prose_sources,
    text_read,
    with_random_weights,
)
from interp.stats import estimate_gap, estimate_mean, known, proportion

from ._tokenization import CONTROLS, CUT, MET, NATS, SPLIT
from ._tokenization.cost import BLIND, DEARER, ELSEWHERE, cost_findings
from ._tokenization.pieces import KINDS, best_layer, halve, read_as_whole, read_surprises, surprise_by_piece
from ._tokenization.running import KNOWS_ALL, KNOWS_LETTERS, MET_WORDS, RUNNING, in_text, known_tokenizers
from ._tokenization.words import (
    FORMS,
    Word,
    at_equal_length,
    count_pieces,
    english,
    is_split,
    languages,
    made_up,
)

MORE, WHOLE = 0.1, 0.2
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
SECOND = Claim(
    "A word's second piece surprises less than its first.",
    expects="less",
    unit=NATS,
    part=MET,
    answers=True,
    caveat="The pieces of a word are not drawn alike: a second one has far fewer to choose from.",
)
TOGETHER = Claim(
    "In some layer the last piece of a word that was cut is read as the whole word.",
    expects="greater",
    margin=WHOLE,
    unit=SPLIT,
    part=MET,
    answers=True,
    caveat="Words that the tokenizer itself cuts have no whole to compare with; these were cut by force, as a "
    "misspelling or a hyphen would.",
)
APART = Claim(
    "Negative control: random weights do not put pieces together.",
    expects="equal",
    margin=0.15,
    unit=SPLIT,
    part=CONTROLS,
    measure="The same at the same layer, for the same architecture with random weights.",
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

CLAIMS = [RUNNING, MET_WORDS, RARE, CAPITALS, SCRIPTS, SECOND, DEARER, ELSEWHERE, TOGETHER, BLIND]
CLAIMS += [APART, MADE_UP, KNOWS_ALL, KNOWS_LETTERS]


@probe(paper="arXiv:2410.05864", claims=CLAIMS)
def tokenization(lab: Lab, *, corpus: Path | None = None, tokens: int = 200) -> Iterator[Finding | NotAsked]:
    """Count the pieces of words, then see what the model does with them.

    Args:
        corpus: running English text of yours instead of the bundled prose
        tokens: how many tokens of each document the model reads, 40 or more; at most 100 in a quick run
    """
    check_least(tokens=(tokens, 40))
    words = english()
    documents = corpus_or_prose(corpus)
    source = text_read(corpus)
    yield from in_text(lab, documents, source, () if corpus else prose_sources())
    documents = documents[: 16 if lab.quick else 48]
    tokens = min(tokens, 100) if lab.quick else tokens
    yield from _bands(lab, words)
    yield _capitals(lab, words)
    yield _scripts(lab, words)
    texts_read = read_surprises(lab, lab.model, lab.model.encode(documents, cut=tokens), "reading text")
    surprise = surprise_by_piece(lab.model, texts_read)
    if len(surprise[KINDS[2]]) >= 4:
        yield _second(lab, surprise, source)
    else:
        yield SECOND.not_asked("because this tokenizer cuts too few of the text's words to have second pieces")
    yield from cost_findings(lab, texts_read, source)
    yield from _together(lab, words)
    yield from _controls(lab, words)


def _bands(lab: Lab, words: list[Word]) -> Iterator[Finding]:
    rows: list[Row] = []
    for form in FORMS:
        split = is_split(lab.model, [w.text for w in words], form)
        for band in dict.fromkeys(w.band for w in words):
            at = proportion(
                [bool(s) for s, w in zip(split, words, strict=True) if w.band == band], unit=SPLIT, over="word"
            )
            rows.append({"occurrences in a million words": band, "written": form, "cut (share of words)": at.mean})
            rows[-1] |= {"low": at.low, "high": at.high, "words": at.n}
    split = is_split(lab.model, [w.text for w in words])
    rare, frequent, lengths = at_equal_length(words, split)
    yield RARE.answer(
        rare,
        Control("frequent words, with the rare ones' lengths", frequent),
        measure="Words met less than 10 times in a million, and more than 100 times, at lengths of "
        f"{lengths[0][0]} to {lengths[-1][0]} letters, weighted alike.",
        table=rows,
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


def _capitals(lab: Lab, words: list[Word]) -> Finding:
    texts = [w.text for w in words if w.zipf >= 4]
    plain, upper = (is_split(lab.model, texts, form) for form in ("in a sentence", "all capitals"))
    pair = estimate_gap(upper, plain, unit=SPLIT, over="word", bounds=(0.0, 1.0), seed=lab.seed)
    return CAPITALS.answer(pair.estimate, Control("the same words in small letters", pair.control), paired=pair.gap)


def _scripts(lab: Lab, words: list[Word]) -> Finding:
    frequent = [w.text for w in words if w.zipf >= 5][:160]
    rows: list[Row] = []
    rates: dict[str, np.ndarray] = {}
    for language, some in {"English": frequent, **languages()}.items():
        rates[language] = np.array(count_pieces(lab.model, [f" {w}" for w in some])) / [len(w) for w in some]
        at = estimate_mean(rates[language], unit=RATE, over="word", seed=lab.seed)
        rows.append({"language": language, "tokens per character": at.mean, "low": at.low, "high": at.high})
        rows[-1]["cut (share of words)"] = float(is_split(lab.model, some).mean())
    others = [rate.mean() for language, rate in rates.items() if language not in ("English", "German", "Spanish")]
    return SCRIPTS.answer(
        estimate_mean(others, unit=RATE, over="language", seed=lab.seed),
        Control(
            "frequent English words",
            estimate_mean(rates["English"], unit=RATE, over="word", seed=lab.seed),
        ),
        table=rows,
        figure=Figure(
            "interval_dots",
            x="tokens per character",
            y="language",
            low="low",
            high="high",
            caption="Frequent words of each language; intervals over words. At 1 every character is a token.",
        ),
    )


def _second(lab: Lab, found: dict[str, list[float]], source: str) -> Finding:
    at = {k: estimate_mean(v, unit=NATS, over="document", seed=lab.seed) for k, v in found.items() if len(v) >= 4}
    rows: list[Row] = [{"piece": k, "surprise (nats)": e.mean, "low": e.low, "high": e.high} for k, e in at.items()]
    pair = estimate_gap(found[KINDS[2]], found[KINDS[1]], unit=NATS, over="document", seed=lab.seed)
    return SECOND.answer(
        pair.estimate,
        Control("first pieces of the same documents", pair.control),
        paired=pair.gap,
        measure=f"Text: {source}. Minus the log-probability of the piece, given all that stands before it; the first "
        "token of a text is left out.",
        table=rows,
        figure=Figure(
            "interval_dots",
            x="surprise (nats)",
            y="piece",
            low="low",
            high="high",
            caption="Surprise by what piece of a word a token is; intervals over documents.",
        ),
    )


def _together(lab: Lab, words: list[Word]) -> Iterator[Finding | NotAsked]:
    model = lab.model
    try:
        halves = halve(model, [w.text for w in words if w.zipf >= 3], 40 if lab.quick else 80)
    except UserError as few:  # a small vocabulary: what was counted before still counts
        yield from (claim.not_asked(f"because {few}") for claim in (TOGETHER, APART))
        return
    layers = sorted({*range(0, model.n_layers, max(1, model.n_layers // (8 if lab.quick else 15))), model.n_layers})
    right = read_as_whole(lab, model, halves, layers, "cutting words in two")
    bare = read_as_whole(lab, with_random_weights(model, lab.seed), halves, layers, "with random weights")
    rows: list[Row] = []
    for name, values in (*right.items(), ("cut in two, random weights", bare["cut in two"])):
        for k, layer in enumerate(layers):
            at = estimate_mean(values[:, k], unit=SPLIT, over="word", bounds=(0.0, 1.0), seed=lab.seed)
            rows.append({"layer": layer, "written": name, "read as the word (share of words)": at.mean})
            rows[-1] |= {"low": at.low, "high": at.high}
    best, ours, theirs = best_layer(right)
    pair = estimate_gap(ours, theirs, unit=SPLIT, over="word", bounds=(0.0, 1.0), seed=lab.seed)
    yield TOGETHER.answer(
        pair.estimate,
        Control("behind another word's first half with the same first letter", pair.control),
        measure=f"Share of words for which the vector at the last piece is nearest, of {len(halves.words)} words, to "
        f"the one that the word has as a single token, at layer {layers[best]}, which every second word chose. Three "
        "contexts.",
        table=rows,
        figure=Figure(
            "lines",
            x="layer",
            y="read as the word (share of words)",
            group="written",
            low="low",
            high="high",
            chance=1 / len(halves.words),
            caption="How often the last piece is nearest to its own whole word, by layer; 0 is the embedding. Bands "
            "over words.",
        ),
        paired=pair.gap,
    )
    share = estimate_mean(bare["cut in two"][1::2, best], unit=SPLIT, over="word", bounds=(0.0, 1.0), seed=lab.seed)
    yield APART.answer(
        share,
        Control("chance", known(1 / len(halves.words), unit=SPLIT, why=f"1 in {len(halves.words)}")),
    )


def _controls(lab: Lab, words: list[Word]) -> Iterator[Finding]:
    texts = [w.text for w in words if w.zipf >= 3]
    yield MADE_UP.answer(
        proportion(is_split(lab.model, made_up(texts, lab.seed)), unit=SPLIT, over="word"),
        Control("the real ones", proportion(is_split(lab.model, texts), unit=SPLIT, over="word")),
    )
    yield from known_tokenizers(words)
