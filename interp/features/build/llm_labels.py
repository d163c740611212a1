"""Let a language model name features: any function from a question to an answer, local or remote.

It sees a feature's strongest examples and says in a few words what they share. Then it is examined: other contexts,
from documents that it was not shown, half of which fire, are put before it with its own label, and the correlation of
its answers with the truth is the label's score (detection scoring, Paulo et al. 2410.13928). No other score counts, and
an answer that cannot be read counts as no firing.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from interp.activations.files import read_sealed, write_sealed
from interp.errors import UserError
from interp.features.build.labels import HELD_OUT, match_score
from interp.features.build.search_words import searched
from interp.features.build.statistics import priority
from interp.features.build.write import IndexFiles
from interp.features.read.feature import Example, Label
from interp.features.read.index import Index, open_index
from interp.features.read.layout import RECORD, WORDS
from interp.paths import expand
from interp.progress import Progress, silent

Ask = Callable[[str], str]
SHOWN = 10  # examples in the question
EXAM = 10  # contexts that fire, and as many that do not
WINDOW = 12
LONGEST = 120  # characters of a label

NAME_IT = """Below are excerpts on which one feature of a language model is active, most strongly at the words in \
<< >>. In at most ten words, what do the marked places have in common? Answer with the description alone.

{examples}

Description:"""
TEST_IT = """A feature of a language model is described as: {label}
For each numbered excerpt, is the feature active at the place in << >>? Answer with the numbers of those where it is, \
parted by commas, or none.

{examples}

Numbers:"""


class Shown(NamedTuple):
    """A context of the examination, and whether the feature fires at its marked token."""

    text: str
    fires: bool


class Named(NamedTuple):
    """A label that was made, the one that was there, and whether the new one was written."""

    label: Label
    before: Label
    written: bool


def load_ask(where: str) -> Ask:
    """The function that `FILE.py:NAME` names. Raises UserError where there is none."""
    file, colon, name = where.rpartition(":")
    path = expand(file)
    if not colon or path.suffix != ".py":
        raise UserError(f"{where!r} names no function; expected FILE.py:NAME of a function from question to answer")
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected FILE.py:NAME of a function from question to answer")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{path} has no function {name!r}; expected one that takes a question and returns the answer")
    return cast(Ask, function)


def label_features(
    folder: str | Path,
    ask: Ask,
    features: Sequence[int],
    by: str,
    *,
    replace: bool = False,
    progress: Progress = silent,
) -> list[Named]:
    """Name `features` anew and write the labels to the index, one by one: a kill loses none that was written.

    A label that scores below the one that is there is not written, unless `replace`. A rule's score is over all
    tokens, this one's over contexts of which half fire, which is easier: a name that loses is worse. Raises UserError
    where `ask` fails or does not answer with text; the labels before are kept.
    """
    index = open_index(folder)
    made = []
    for done, feature in enumerate(features, start=1):
        label = name_feature(index, ask, index.check(feature), by)
        before = index.labels[feature]
        written = replace or not label.score < before.score  # nan, not known, loses against nothing
        if written:
            write_labels(index, {feature: label})
            index = open_index(folder)
        made.append(Named(label, before, written))
        progress("naming features", done, len(features))
    return made


def name_feature(index: Index, ask: Ask, feature: int, by: str) -> Label:
    """A label from the evidence, and its score on documents that `ask` was not shown."""
    evidence = [one for one in index.feature(feature, window=WINDOW).top if not _is_held_out(one)]
    exam = examination(index, feature)
    if not evidence or not any(one.fires for one in exam):
        nothing = float("nan")
        return Label("too few firings to name", nothing, nothing, nothing, by)
    examples = "\n".join(f"- {marked(one)}" for one in evidence[:SHOWN])
    text = " ".join(_answer(ask, NAME_IT.format(examples=examples)).split())[:LONGEST] or "no answer"
    listed = "\n".join(f"{number}. {one.text}" for number, one in enumerate(exam, start=1))
    said = {int(n) for n in re.findall(r"\d+", _answer(ask, TEST_IT.format(label=text, examples=listed)))}
    yes = np.array([number in said for number in range(1, len(exam) + 1)])
    fires = np.array([one.fires for one in exam])
    score = match_score(int((yes & fires).sum()), int(yes.sum()), int(fires.sum()), len(exam))
    return Label(text, *score, by)


def examination(index: Index, feature: int) -> list[Shown]:
    """Contexts from held-out documents: some where the feature fires, as many where it does not, mixed.

    Drawn by a hash, so that every labeller is asked the same.
    """
    rows, _ = index.firings(feature)
    held_out = np.flatnonzero((index["document"] % HELD_OUT == HELD_OUT - 1) & ~index["is_sink"])
    fires = np.isin(held_out, rows)
    chosen: list[tuple[int, bool]] = []
    for wanted in (True, False):
        pool = held_out[fires == wanted]
        first = pool[np.argsort(priority(pool, feature), kind="stable")[:EXAM]]
        chosen += [(int(row), wanted) for row in first]
    chosen.sort(key=lambda one: int(priority(np.array([one[0]]), -1)[0]))
    return [Shown(marked(index.context(row, WINDOW)), is_firing) for row, is_firing in chosen]


def marked(example: Example) -> str:
    """An example on one line, its token between << and >>."""
    before, peak, after = (
        "".join(part)
        for part in (example.tokens[: example.peak], example.tokens[example.peak : example.peak + 1],
                     example.tokens[example.peak + 1 :])
    )  # fmt: skip
    return " ".join(f"{before}<<{peak}>>{after}".split())


def write_labels(index: Index, labels: dict[int, Label]) -> None:
    """Put labels in the place of those that an index has, where it is searched and sorted by them too.

    Each file is whole before and after; a kill between them leaves hashes that do not fit, which `Index.verify` tells.
    """
    rows = [labels.get(number, old) for number, old in enumerate(index.labels)]
    lines = [
        "\t".join([searched(one.text), *line.split("\t")[1:]]) for one, line in zip(rows, index.words, strict=True)
    ]
    record = read_sealed(index.folder / RECORD) or {}
    files = IndexFiles(index.folder, record["hashes"])
    files.labels(rows)
    files.text(WORDS, "\n".join(lines) + "\n")
    write_sealed(index.folder / RECORD, record)


def _is_held_out(example: Example) -> bool:
    return example.document % HELD_OUT == HELD_OUT - 1


def _answer(ask: Ask, question: str) -> str:
    try:
        answer = ask(question)
    except Exception as error:  # a user's function, over a network: anything may happen
        raise UserError(
            f"the labelling function failed ({type(error).__name__}: {error}); the labels before are kept; run it again"
        ) from error
    if not isinstance(answer, str):
        raise UserError(f"the labelling function returned {type(answer).__name__}; expected text")
    return answer
