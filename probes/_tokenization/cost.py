"""What cutting costs: the loss of the same text where its words are cut by force into more pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Finding, Lab, Model, NotAsked, Row, same_as, zero
from interp.stats import estimate_mean

from . import CONTROLS, MET
from .pieces import Surprises, read_surprises

LONG = 6  # letters of a word that is cut, at least
LEAST_CUT, LEAST_DOCUMENTS = 4, 4
COST, HARDER = 1.0, 0.05  # nats
AT_CUT, WHOLE = "nats a word that is cut", "nats a token"


DEARER = Claim(
    "A word that is cut by force costs the model more than 1 nat above the same word whole.",
    expects="greater",
    margin=COST,
    unit=AT_CUT,
    part=MET,
    caveat="The tokenizer never cuts these words, so the model has hardly met these pieces together: a word that "
    "it always cuts costs less. Who knows nothing pays for two pieces as for any two tokens, and so more as well: "
    "whether the model minds, the next claim says.",
)
ELSEWHERE = Claim(
    "Where other words are cut by force, the tokens left whole are harder to predict, by 0.05 nats.",
    expects="greater",
    margin=HARDER,
    unit=WHOLE,
    part=MET,
    answers=True,
)
BLIND = Claim(
    "Negative control: with random weights, cutting other words costs the tokens left whole nothing.",
    expects="equal",
    margin=HARDER,
    unit=WHOLE,
    part=CONTROLS,
    measure="The same for the same architecture with random weights, which have learned nothing of any word.",
)


@dataclass(frozen=True)
class Forced:
    """A text's token ids with some words cut in two.

    `at`: for each token of the text as it is, its first place there (one more at the end); `is_cut`: which tokens, each
    a word, were cut.
    """

    ids: list[int]
    at: NDArray[np.int64]
    is_cut: NDArray[np.bool_]


def cut_by_force(model: Model, row: Sequence[int], texts: Sequence[str]) -> Forced:
    """Cut every word of six small letters or more that is one token in its middle. `texts`: of each token id.

    The first token of a text stays, for nothing foretells it.
    """
    words = [texts[i] for i in row]
    ids: list[int] = []
    at, is_cut = [], []
    for place, (token, text) in enumerate(zip(row, words, strict=True)):
        follows = place + 1 < len(words) and words[place + 1][:1].isalpha()
        pieces = None if follows or place == 0 else _halves(model, text)
        at.append(len(ids))
        is_cut.append(pieces is not None)
        ids += [token] if pieces is None else pieces
    return Forced(ids, np.array([*at, len(ids)]), np.array(is_cut))


def _halves(model: Model, text: str) -> list[int] | None:
    """The tokens of a word's two halves, cut apart; None for what is no long word with a space before it."""
    word = text[1:]
    if text[:1] != " " or len(word) < LONG or not (word.isascii() and word.isalpha() and word.islower()):
        return None
    start = model.tokenizer("a", add_special_tokens=False).input_ids
    half = len(word) // 2
    first = model.tokenizer(f"a {word[:half]}", add_special_tokens=False).input_ids[len(start) :]
    pieces = [*first, *model.tokenizer(word[half:], add_special_tokens=False).input_ids]
    return pieces if len(pieces) > 1 and model.tokenizer.decode(pieces) == text else None


def costs(lab: Lab, model: Model, texts_read: Sequence[Surprises], what: str) -> NDArray[np.float64]:
    """[document, (at a word that is cut, at a token that is left whole)]: what more it costs in nats.

    Behind a document's first cut; a cut word's cost is that of its pieces together less that of the whole. Documents
    with too few words to cut are left out.
    """
    names = model.vocabulary
    forced = [(text, cut_by_force(model, text.ids, names)) for text in texts_read]
    chosen = [(text, cut) for text, cut in forced if cut.is_cut.sum() >= LEAST_CUT and _left_whole(cut).any()]
    out = []
    for (text, cut), again in zip(
        chosen, read_surprises(lab, model, [cut.ids for _, cut in chosen], what), strict=True
    ):
        more = np.add.reduceat(np.nan_to_num(again.loss), cut.at[:-1]) - np.nan_to_num(text.loss)
        out.append((more[cut.is_cut].mean(), more[_left_whole(cut)].mean()))
    return np.array(out).reshape(-1, 2)


def _left_whole(forced: Forced) -> NDArray[np.bool_]:
    """Tokens behind the first cut that are the same in both."""
    behind = np.arange(len(forced.is_cut)) > int(forced.is_cut.argmax())
    return behind & ~forced.is_cut


def cost_findings(
    lab: Lab, texts_read: Sequence[Surprises], source: str, untrained: Callable[[], Model]
) -> Iterator[Finding | NotAsked]:
    """The cost at the words that are cut, at those that are left whole, and the latter with random weights.

    `untrained` gives the model that has these.
    """
    cost = costs(lab, lab.model, texts_read, "cutting words by force")
    if len(cost) < LEAST_DOCUMENTS:
        for claim in (DEARER, ELSEWHERE, BLIND):
            yield claim.not_asked(
                f"because {len(cost)} documents have {LEAST_CUT} words of {LONG} letters or more that are one token; "
                f"{LEAST_DOCUMENTS} are needed"
            )
        return
    at_cut, elsewhere = (
        estimate_mean(cost[:, i], unit=unit, over="document", seed=lab.seed) for i, unit in enumerate((AT_CUT, WHOLE))
    )
    rows: list[Row] = [
        {"tokens": name, "cost of cutting (nats)": at.mean, "low": at.low, "high": at.high}
        for name, at in (("words cut by force", at_cut), ("tokens left whole behind them", elsewhere))
    ]
    text = f"Text: {source}; every word of {LONG} small letters or more that is one token is cut in its middle. "
    yield DEARER.answer(
        at_cut,
        same_as(AT_CUT, "those words whole"),
        measure=f"{text}Surprise of a word's pieces together less that of the word as one token, in the same text.",
        table=rows,
    )
    yield ELSEWHERE.answer(
        elsewhere,
        same_as(WHOLE, "where no word is cut"),
        measure=f"{text}Surprise of the tokens behind the first cut that are the same in both, punctuation included.",
    )
    model = untrained()
    what = "with random weights"
    bare = costs(lab, model, read_surprises(lab, model, [text.ids for text in texts_read], what), what)
    yield BLIND.answer(
        estimate_mean(bare[:, 1], unit=WHOLE, over="document", seed=lab.seed),
        zero(WHOLE, "nothing"),
    )
