"""Labels and their scores on planted features, and a language model's labels with a test that noise cannot pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from indexes import built
from numpy.typing import NDArray
from refusals import the_line
from sae_lens import SAE
from sklearn.metrics import matthews_corrcoef, precision_score, recall_score

from interp.cli import dispatch
from interp.errors import UserError
from interp.features.build.labels import HELD_OUT, TokenRules
from interp.features.build.llm_labels import examination, label_features, load_ask, name_feature
from interp.features.build.statistics import row_facts
from interp.features.read.index import Index, open_index
from interp.features.read.search import search
from interp.model.model import Model
from interp.saes.loading.sae import load_sae

VOCABULARY = [" the", " cat", " dog", "s", ".", " Rome", " 7", "\n", " of", " Paris", " Berlin"]
DOCUMENTS, LENGTH = 200, 12


@pytest.fixture(scope="module")
def text() -> tuple[TokenRules, NDArray[np.int32], NDArray[np.int32]]:
    """(a rules, token of every row, document of every row) of made-up text."""
    rng = np.random.default_rng(0)
    token = rng.integers(0, len(VOCABULARY), DOCUMENTS * LENGTH).astype(np.int32)
    starts = np.arange(0, len(token) + 1, LENGTH)
    document = np.repeat(np.arange(DOCUMENTS), LENGTH).astype(np.int32)
    is_sink = np.zeros(len(token), bool)
    is_sink[starts[:-1]] = True
    return TokenRules(row_facts(token, starts, is_sink, VOCABULARY), document, VOCABULARY), token, document


def _fires(which: NDArray[np.bool_]) -> NDArray[np.int32]:
    which = which.copy()
    which[::LENGTH] = False  # sinks never fire
    return np.flatnonzero(which).astype(np.int32)


def test_planted_features_get_the_label_they_were_planted_by(text: Any):
    rules, token, _ = text
    before = np.concatenate([[-1], token[:-1]])
    place = np.arange(len(token)) % LENGTH
    for which, label in (
        (token == 1, "“ cat”"),
        (np.isin(token, [5, 9]), "“ Rome”, “ Paris”"),
        (before == 8, "after “ of”"),
        ((token == 1) & (before == 0), "“ the cat”"),
        (place == 3, "place in the text: 4"),
    ):
        found = rules.name(_fires(which))
        assert set(re.findall(r"“[^”]*”|\w+", found.text)) == set(re.findall(r"“[^”]*”|\w+", label)), label
        assert found.score > 0.99
        assert (found.precision, found.recall) == (1, 1)


def test_noise_gets_a_score_near_zero(text: Any):
    """Negative control: whatever rule was found, it predicts nothing elsewhere."""
    rules, token, _ = text
    rng = np.random.default_rng(1)
    scores = [rules.name(_fires(rng.random(len(token)) < 0.1)).score for _ in range(60)]
    assert abs(np.mean(scores)) < 0.03
    assert np.mean(np.array(scores) > 0.3) < 0.05


def test_a_score_is_the_correlation_on_held_out_documents(text: Any):
    rules, token, document = text
    rng = np.random.default_rng(2)
    rows = _fires((token == 1) & (rng.random(len(token)) < 0.6) | (rng.random(len(token)) < 0.03))
    found = rules.name(rows)
    assert found.text.startswith("“ cat”")
    kept = (document % HELD_OUT == HELD_OUT - 1) & (np.arange(len(token)) % LENGTH > 0)
    keys = [VOCABULARY.index(one) for one in re.findall(r"“([^”]*)”", found.text)]
    said, fires = np.isin(token, keys)[kept], np.isin(np.arange(len(token)), rows)[kept]
    assert found.score == pytest.approx(matthews_corrcoef(fires, said))
    assert found.precision == pytest.approx(precision_score(fires, said))
    assert found.recall == pytest.approx(recall_score(fires, said))


def test_features_without_evidence_say_so(text: Any):
    rules, *_ = text
    assert rules.name(np.empty(0, np.int32)).text == "never fires here"
    assert np.isnan(rules.name(np.empty(0, np.int32)).score)
    assert rules.name(np.array([5], np.int32)).text == "no rule found"


# --- a language model's labels ---------------------------------------------------------------------------------------


@pytest.fixture
def index(word_model: Model, word_sae: Path, tmp_path: Path) -> Index:
    sae: SAE[Any] = load_sae(word_sae, word_model)
    return built(word_model, sae, tmp_path / "index")


def _busy(index: Index, n: int = 6) -> list[int]:
    """Features that fire on some held-out tokens and not on most."""
    good = [f for f in range(len(index)) if 0.02 < index["rate"][f] < 0.4]
    return sorted(good, key=lambda f: -index["rate"][f])[:n]


class Oracle:
    """Knows which contexts fire; says so. Asked for a label it says what it was asked last."""

    def __init__(self, index: Index, feature: int, wrong: bool = False) -> None:
        self.truth = {one.text: one.fires for one in examination(index, feature)}
        self.wrong, self.questions = wrong, []

    def __call__(self, question: str) -> str:
        self.questions.append(question)
        if question.startswith("Below"):
            return "  a label\nof two lines "
        lines = re.findall(r"^(\d+)\. (.*)$", question, re.MULTILINE)
        return ", ".join(number for number, text in lines if self.truth[text] != self.wrong) or "none"


def test_an_oracle_scores_one_its_opposite_minus_one_and_a_mute_zero(index: Index):
    for feature in _busy(index):
        found = name_feature(index, Oracle(index, feature), feature, "oracle")
        assert found[:4] == ("a label of two lines", 1.0, 1.0, 1.0)
        assert name_feature(index, Oracle(index, feature, wrong=True), feature, "liar").score == -1
        assert name_feature(index, lambda question: "none", feature, "mute").score == 0
        assert name_feature(index, lambda question: "1 2 3 all of them", feature, "x").score < 0.6


def test_the_examination_is_half_firing_half_not_and_from_documents_that_were_not_shown(index: Index):
    feature = _busy(index)[0]
    exam = examination(index, feature)
    assert exam == examination(index, feature), "every labeller is asked the same"
    assert sum(one.fires for one in exam) > 2
    assert sum(not one.fires for one in exam) == 10
    oracle = Oracle(index, feature)
    name_feature(index, oracle, feature, "oracle")
    shown = re.findall(r"^- (.*)$", oracle.questions[0], re.MULTILINE)
    assert shown
    tops = [one for one in index.feature(feature).top if one.document % HELD_OUT == HELD_OUT - 1]
    assert all("<<" in line for line in shown)
    assert len(shown) + len(tops) == len(index.feature(feature).top)


def test_labels_are_written_where_they_are_searched_and_sorted_by(index: Index):
    feature = _busy(index)[0]
    before = index.labels
    label_features(index.folder, Oracle(index, feature), [feature], "oracle.py:ask")
    after = open_index(index.folder)
    assert after.labels[feature] == ("a label of two lines", 1.0, 1.0, 1.0, "oracle.py:ask")
    others = [i for i in range(len(index)) if i != feature]
    assert [after.labels[i][0] for i in others] == [before[i][0] for i in others]
    assert after["label_score"][feature] == 1
    assert search(after, "label of two")[0].feature == feature
    assert after.verify() == []


def test_a_name_that_scores_worse_is_not_written(index: Index):
    feature = _busy(index)[0]
    label_features(index.folder, Oracle(index, feature), [feature], "good")
    good = open_index(index.folder).labels[feature]
    (made,) = label_features(index.folder, Oracle(index, feature, wrong=True), [feature], "liar")
    assert (made.label.score, made.before, made.written) == (-1, good, False)
    assert open_index(index.folder).labels[feature] == good
    (made,) = label_features(index.folder, Oracle(index, feature, wrong=True), [feature], "liar", replace=True)
    assert made.written
    assert open_index(index.folder).labels[feature].by == "liar"


def test_a_labelling_function_that_fails_keeps_the_labels_before(index: Index):
    first, second = _busy(index, 2)
    oracle, calls = Oracle(index, first), 0

    def ask(question: str) -> str:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise ConnectionError("the line is dead")
        return oracle(question)

    with pytest.raises(UserError) as raised:
        label_features(index.folder, ask, [first, second], "x")
    assert "the line is dead" in the_line(raised)
    assert open_index(index.folder).labels[first].text == "a label of two lines"
    with pytest.raises(UserError, match="returned int"):
        name_feature(index, lambda question: 3, first, "x")  # type: ignore[arg-type,return-value]


def test_the_command_takes_a_function_from_a_file(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "mine.py"
    file.write_text("def ask(question):\n    return 'words about <b>hats</b>' if 'Below' in question else '1, 2'\n")
    feature = _busy(index)[0]
    line = ["features", "label", str(index.folder), "--ask", f"{file}:ask", "--features", str(feature)]
    assert dispatch(line) == 0
    assert "words about <b>hats</b>" in capsys.readouterr().out
    for where, told in ((f"{file}:tell", "has no function 'tell'"), ("nothing.py:ask", "nothing.py does not exist")):
        with pytest.raises(UserError) as raised:
            load_ask(where)
        assert told in the_line(raised)
