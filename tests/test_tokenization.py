"""Tokenization: tokenizers of known behaviour are counted right, and pieces are told from wholes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from answered import drawn
from hypothesis import given
from hypothesis import strategies as st
from know_nothing import know_nothing
from refusals import the_line

from interp import Finding, Lab, Model, NotAsked, UserError
from interp.lab.discover import load_probe
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.text.corpus import prose, prose_sources, split_corpus
from probes import tokenization as the_probe
from probes._tokenization import cost, together
from probes._tokenization import words as the_words
from probes._tokenization.cost import cost_findings, costs, cut_by_force
from probes._tokenization.pieces import _nearest, _places, best_layer, halve, read_as_whole, read_surprises
from probes._tokenization.running import in_text, known_tokenizers
from probes._tokenization.words import (
    COMMON,
    FORMS,
    LETTERS,
    WHOLE_WORDS,
    Word,
    at_equal_length,
    count_pieces,
    english,
    frequencies,
    is_split,
    languages,
    made_up,
    split_as_met,
    split_in_text,
    words_of,
)


def findings_of(model: Model) -> list[Finding]:
    return drawn(load_probe("tokenization")(Lab(model, quick=True), tokens=60))


@pytest.mark.slow
def test_the_bundled_model(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_probe, "corpus_or_prose", lambda _: prose()[:60])
    monkeypatch.setattr(the_probe, "prose_sources", lambda: prose_sources()[:60])
    found = findings_of(smol)
    told = {finding.claim: finding for finding in found}
    for words in (
        "Rare words", "In capitals", "other scripts", "second piece", "made-up words", "random weights do not",
        "knows every word", "knows letters alone", "cut by force costs",
    ):  # fmt: skip
        (finding,) = [f for claim, f in told.items() if words in claim]
        assert finding.verdict == "yes", words
    assert sum(finding.answers for finding in found) == 6
    (scripts,) = [f for claim, f in told.items() if "other scripts" in claim]
    assert (scripts.estimate.n, scripts.estimate.over) == (5, "language"), "the unit is the language"
    for words in ("running text", "second piece", "cut by force costs"):
        (finding,) = [f for claim, f in told.items() if words in claim]
        assert "which people wrote" in finding.measure, words


def test_running_words_of_real_prose_are_seldom_cut_and_babble_is_not_prose(smol: Model) -> None:
    """Known for this tokenizer: 6.8 % of English as it is met, 4.3 % of the 20,000 most frequent words."""
    lab = Lab(smol)
    in_prose, as_met = in_text(lab, prose()[:60], "prose", prose_sources()[:60])
    assert in_prose.verdict != "yes", "sixty pieces may hide a kind of text that is cut more: it is not ruled out"
    assert as_met.verdict == "no"
    assert as_met.estimate.mean == pytest.approx(0.068, abs=0.002)
    share = {str(row["words"]): float(str(row["cut (share of words)"])) for row in in_prose.table}
    (common,) = [value for name, value in share.items() if f"{COMMON:,} most frequent" in name]
    assert common == pytest.approx(0.043, abs=0.003)
    assert 0.03 < in_prose.estimate.mean < 0.055
    assert "over the 5 sources" in in_prose.caveat
    babble = split_in_text(smol, split_corpus()[1], 0)
    assert babble.low > 0.1, "the negative control: without a list, on what the model wrote, it would be a yes"
    assert split_in_text(smol, split_corpus()[1], 0, {w for w, _ in frequencies()}).mean < 0.085


def test_pieces_of_one_source_do_not_vouch_for_others() -> None:
    """Forty pieces of four books cut few words, all pieces of a fifth cut half: five books say little of a sixth."""
    cut = the_words.KnownTokenizer(r" ?the| ?tow| ?.")
    few, half = "the the the tower " * 10, "the tower tower tower " * 10
    texts, source = [few] * 40 + [half] * 10, [*("ABCD" * 10), *("E" * 10)]
    model: Any = SimpleNamespace(tokenizer=cut.tokenizer)
    (running, _) = in_text(Lab(model), texts, "five books", source)
    share = {str(row["words"]): (row["cut (share of words)"], row["high"]) for row in running.table}
    assert [share[f"in the list, {one}"][0] for one in "ABCDE"] == pytest.approx([0.25] * 4 + [0.75])
    assert running.estimate.high < 0.45
    over = re.search(r"over the 5 sources 35.0% \[([\d.]+)%, ([\d.]+)%\]", running.caveat)
    assert over is not None
    assert float(over[2]) > 55, "wider than over pieces"
    plain, _ = in_text(Lab(model), texts, "a user's text")
    assert "over the" not in plain.caveat


def test_strings_that_are_no_words_do_not_count() -> None:
    text = "the tower " * 20 + "narlbi infintes CaCuRepToState " * 10
    cut = the_words.KnownTokenizer(r" ?(?:the|tower)| ?.")
    assert split_in_text(cut, [text] * 4, 0, {"the", "tower"}).mean == 0.0
    assert split_in_text(cut, [text] * 4, 0).mean == pytest.approx(30 / 70), "the planted fault"
    with pytest.raises(UserError) as few:
        split_in_text(cut, ["narlbi infintes " * 30] * 4, 0, {"the", "tower"})
    assert "20 English words" in the_line(few)


def test_running_words_are_whole_and_without_contractions() -> None:
    assert words_of("'Don't,' she said--\u2018the dogs\u2019 well\u2019 isn\u2019t U.S. 3rd na\u00efve") == [
        "she", "said", "the", "dogs", "well", "U", "S", "rd", "na", "ve",
    ]  # fmt: skip


def test_a_word_counts_as_often_as_it_is_met() -> None:
    split, zipf = np.array([False, True, True]), np.array([6.0, 5.0, 4.0])
    assert split_as_met(split, zipf) == pytest.approx((10 + 1) / (100 + 10 + 1))
    assert split_as_met(split, zipf, 2) == pytest.approx(10 / 110)
    assert split.mean() == pytest.approx(2 / 3), "each once is another number"


def test_the_frequency_list_is_the_list_of_words_beside_it() -> None:
    listed = dict(frequencies())
    assert len(listed) == sum(1 for _ in frequencies()) == 93_628
    assert [zipf for _, zipf in frequencies()] == sorted(listed.values(), reverse=True)
    common = [word for word in english() if word.zipf >= 3]
    assert all(listed[word.text] == word.zipf for word in common)


def test_tokenizers_of_known_behaviour_are_findings_and_a_wrong_count_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    none, all_of_them = known_tokenizers(english())
    assert (none.verdict, all_of_them.verdict) == ("yes", "yes")
    assert none.arithmetic, "made to cut none, whatever the model: it shows that the count is right, and no more"
    assert all_of_them.arithmetic
    assert (none.estimate.mean, all_of_them.estimate.mean) == (0.0, 1.0)
    count = the_words.count_pieces
    for wrong, verdicts in ((1, ("no", "yes")), (-20, ("yes", "no"))):
        monkeypatch.setattr(the_words, "count_pieces", lambda *given, wrong=wrong: [n + wrong for n in count(*given)])
        assert tuple(f.verdict for f in known_tokenizers(english())) == verdicts, wrong
    assert count(WHOLE_WORDS, [" tower", "tower"]) == [1, 1]
    assert count(LETTERS, [" tower", "tower"]) == [5, 5]


def test_cutting_by_force_leaves_the_text_as_it_was(smol: Model) -> None:
    texts = [str(smol.tokenizer.decode([i])) for i in range(len(smol.tokenizer))]
    (row,) = smol.encode(prose()[0], cut=120)
    forced = cut_by_force(smol, row, texts)
    assert smol.tokenizer.decode(forced.ids) == smol.tokenizer.decode(row)
    assert len(forced.ids) > len(row)
    assert forced.is_cut.sum() > 4
    for place, (start, end) in enumerate(zip(forced.at[:-1], forced.at[1:], strict=True)):
        pieces = forced.ids[start:end]
        assert smol.tokenizer.decode(pieces) == texts[row[place]]
        assert (len(pieces) > 1) == bool(forced.is_cut[place])
        if forced.is_cut[place]:
            assert texts[row[place]].strip().islower()
            assert len(texts[row[place]].strip()) >= cost.LONG


def test_the_cost_of_cutting_is_that_of_the_pieces_less_that_of_the_whole(
    smol: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of known losses: each token costs its length in letters, twice that behind a cut word."""
    texts = [str(smol.tokenizer.decode([i])) for i in range(len(smol.tokenizer))]
    rows = smol.encode(prose()[:4], cut=80)

    def known_loss(prompts: list[list[int]], **_: int) -> torch.Tensor:
        losses = torch.full((len(prompts), max(map(len, prompts))), torch.nan)
        for loss, ids in zip(losses, prompts, strict=True):
            loss[1 : len(ids)] = (1.0 if ids in rows else 1.5) * torch.tensor([len(texts[i]) for i in ids[1:]])
        return losses

    monkeypatch.setattr(smol, "loss", known_loss)
    lab = Lab(smol)
    found = costs(lab, smol, read_surprises(lab, smol, rows, "reading"), "reading")
    for row, (at_cut, elsewhere) in zip(rows, found, strict=True):
        forced = cut_by_force(smol, row, texts)
        first = int(forced.is_cut.argmax())
        lengths = np.array([len(texts[i]) for i in row])
        assert at_cut == pytest.approx(0.5 * lengths[forced.is_cut].mean())
        rest = [n for i, n in enumerate(lengths) if i > first and not forced.is_cut[i]]
        assert elsewhere == pytest.approx(0.5 * np.mean(rest))


def test_where_too_little_can_be_cut_its_cost_is_said_not_to_be_asked(smol: Model) -> None:
    lab = Lab(smol)
    texts_read = read_surprises(lab, smol, smol.encode(["the cat sat on the mat"] * 5), "reading")
    answers = list(cost_findings(lab, texts_read, "a made-up text", lambda: smol))
    assert len(answers) == 3
    assert all(isinstance(one, NotAsked) and "0 documents have 4 words" in one.because for one in answers)


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
    assert "3 documents of the corpus have 20 English words" in the_line(few)


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


def test_another_words_half_begins_with_the_same_letter(smol: Model) -> None:
    halves = halve(smol, [w.text for w in english() if w.zipf >= 3], 80)
    assert len(halves.words) > 60
    as_long = same_two = 0
    for word, (first, _), instead in zip(halves.words, halves.parts, halves.instead, strict=True):
        half = str(smol.tokenizer.decode(instead)).strip()
        assert half[0] == word[0], "else a model that copies first letters would put pieces together"
        assert not word.startswith(half)
        as_long += len(instead) == len(first)
        same_two += half[:2] == word[:2]
    assert min(as_long, same_two) > len(halves.words) / 2


def test_a_model_that_copies_first_letters_puts_no_pieces_together(smol: Model) -> None:
    model = know_nothing("first_letter", smol)
    halves = halve(model, [w.text for w in english() if w.zipf >= 3], 80)
    right = read_as_whole(Lab(model), model, halves, [0, 1], "cutting words in two")
    gap = right["cut in two"] - right["behind another word's half"]
    assert gap.mean(0).max() < 0.05
    other_letter = replace(halves, instead=halves.instead[40:] + halves.instead[:40])
    planted = read_as_whole(Lab(model), model, other_letter, [0, 1], "cutting words in two")
    fooled = planted["cut in two"] - planted["behind another word's half"]
    assert fooled.mean(0).max() > 0.15, "the fault: a half with another first letter"


def test_a_vocabulary_without_long_words_is_not_asked_to_put_them_together(tiny_gpt2: Model) -> None:
    answers = list(together.put_together(Lab(tiny_gpt2), english(), lambda: tiny_gpt2))
    assert [one.declared for one in answers] == [together.TOGETHER.text, together.APART.text]
    assert all(isinstance(one, NotAsked) and "one token of six letters" in one.because for one in answers)


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
