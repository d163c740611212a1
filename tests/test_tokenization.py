"""Tokenization: tokenizers of known behaviour are counted right, and pieces are told from wholes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import the_line

from interp import Finding, Lab, Model, UserError
from interp.lab.discover import load_probe
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.text.corpus import split_corpus
from interp.views.figures import draw
from probes import tokenization as the_probe
from probes._tokenization import words as the_words
from probes._tokenization.pieces import _nearest, _places, best_layer, halve
from probes._tokenization.words import (
    FORMS,
    Word,
    at_equal_length,
    count_pieces,
    english,
    is_split,
    languages,
    made_up,
    split_in_text,
)


def findings_of(model: Model) -> list[Finding]:
    found = list(load_probe("tokenization")(Lab(model, quick=True), tokens=60))
    for finding in found:
        if finding.figure:
            draw(finding)
    return found


def test_the_bundled_model(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_probe, "split_corpus", lambda: ([], split_corpus()[1][:6]))
    found = findings_of(smol)
    told = {finding.claim: finding for finding in found}
    for words in ("Rare words", "In capitals", "other scripts", "second piece", "Positive", "Negative"):
        (finding,) = [f for claim, f in told.items() if words in claim]
        assert finding.verdict == "yes", words
    assert sum(finding.answers for finding in found) == 4


def test_pieces_are_those_of_the_tokenizer(smol: Model) -> None:
    texts = [" tower", "tower", " Tower", " TOWER", " antidisestablishmentarianism"]
    for text, n in zip(texts, count_pieces(smol, texts), strict=True):
        lead = "a" if text.startswith(" ") else ""
        ids = smol.tokenizer(lead + text).input_ids
        assert n == len(ids) - len(lead)
        assert "".join(str(smol.tokenizer.decode([i])) for i in ids[len(lead) :]) == text


def test_a_tokenizer_that_knows_every_word_cuts_none_and_one_that_knows_letters_cuts_all(tiny_gpt2: Model) -> None:
    texts = [w.text for w in english()]
    whole = train_small_gpt2([" ".join(["a", *texts])], SmallGPT2(steps=1, d_model=16))
    assert not is_split(whole, texts).any()
    byte_by_byte = is_split(tiny_gpt2, [w for w in texts if len(w) > 8])
    assert byte_by_byte.mean() > 0.9, "the tiny tokenizer has learned a few dozen merges"
    assert split_in_text(whole, [" ".join(texts[:50])] * 4, 0).mean == 0.0
    with pytest.raises(UserError) as few:
        split_in_text(whole, [" ".join(texts[:50])] * 3, 0)
    assert "3 documents of the corpus have 20 words" in the_line(few)


def test_equal_lengths_are_weighed_as_a_loop_does() -> None:
    words = [Word("abc", 6.0), Word("abd", 6.0), Word("abe", 3.0), Word("abf", 3.0), Word("abg", 3.0)]
    words += [
        Word("abcdef", 6.0),
        Word("abcdeg", 6.0),
        Word("abcdeh", 3.0),
        Word("abcdei", 3.0),
        Word("abcdefghi", 3.0),
    ]
    split = np.array([False, False, True, False, False, False, True, True, True, True])
    rare, frequent, used = at_equal_length(words, split)
    assert used == [(3, 3, 2), (6, 2, 2)]
    assert rare.mean == pytest.approx((3 * (1 / 3) + 2 * 1.0) / 5)
    assert frequent.mean == pytest.approx((3 * 0.0 + 2 * 0.5) / 5)
    assert 0 <= rare.low < rare.mean < rare.high <= 1


@pytest.mark.parametrize("seed", range(3))
def test_where_length_is_all_no_frequency_is_found(seed: int) -> None:
    """Rare words are longer here and long ones are cut, whatever their frequency."""
    rng = np.random.default_rng(seed)
    words, split = [], []
    for zipf, low, high in ((6.0, 3, 8), (3.0, 5, 10)):
        for _ in range(200):
            n = int(rng.integers(low, high))
            words.append(Word("x" * n, zipf))
            split.append(bool(rng.random() < (n - 2) / 8))
    rare, frequent, _ = at_equal_length(words, np.array(split))
    naive = np.mean(split[200:]) - np.mean(split[:200])
    assert naive > 0.15
    assert abs(rare.mean - frequent.mean) < 0.1


@given(st.lists(st.text("abc", min_size=2, max_size=6), min_size=5, max_size=20, unique=True), st.integers(0, 9))
def test_made_up_words_are_as_long_and_none_of_the_list(words: list[str], seed: int) -> None:
    words = [w + "xyz" for w in words]
    made = made_up(words, seed)
    assert [len(w) for w in made] == [len(w) for w in words]
    assert not set(made) & set(words)


def test_pieces_have_their_places() -> None:
    texts = [" to", "wer", "s", " ", ".", " of", "the"]
    starts = np.array([not t[:1].isalpha() or t[:1] == " " for t in texts])
    letters = np.array([t.strip().isalpha() for t in texts])
    ids = np.array([0, 1, 2, 4, 5, 3, 6, 1, 1, 1])  # " towers. of" and then "the" + "wer" * 3 behind a blank
    assert _places(ids, starts, letters).tolist() == [1, 2, 3, -1, 0, -1, 1, 2, 3, 3]


def test_a_vector_is_nearest_to_its_own() -> None:
    whole = torch.eye(5) * 3 + 1
    assert _nearest(whole + 0.1, whole).tolist() == [1.0] * 5
    assert _nearest(whole.roll(1, 0), whole).tolist() == [0.0] * 5
    right = {
        "cut in two": np.tile([0.1, 0.9, 0.5], (6, 1)),
        "behind another word's half": np.tile([0.1, 0.2, 0.5], (6, 1)),
    }
    layer, ours, theirs = best_layer(right)
    assert (layer, ours.tolist(), theirs.tolist()) == (1, [0.9] * 3, [0.2] * 3)


def test_forced_halves_spell_the_word(smol: Model) -> None:
    halves = halve(smol, [w.text for w in english() if w.zipf >= 4], 30)
    for word, whole, (first, second) in zip(halves.words, halves.whole, halves.parts, strict=True):
        assert str(smol.tokenizer.decode(whole)) == f" {word}"
        assert str(smol.tokenizer.decode([*first, *second])) == f" {word}"
        assert len(first) + len(second) > 1
    assert len({tuple(second[-1:]) for _, second in halves.parts}) == len(halves.words)


def test_the_lists_are_what_they_say() -> None:
    words = english()
    assert len({w.text for w in words}) == len(words)
    assert {w.band for w in words} == {name for _, name in the_words.BANDS}
    assert {len(some) for some in languages().values()} == {100}
    assert FORMS["all capitals"]("tower") == " TOWER"


def test_bad_input_is_one_line(tiny_gpt2: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="40 or more") as refused:
        next(iter(load_probe("tokenization")(Lab(tiny_gpt2), tokens=39)))
    the_line(refused)
    with pytest.raises(UserError, match="expected 20 or more") as few:
        halve(tiny_gpt2, ["tower", "bridge"], 10)
    the_line(few)
