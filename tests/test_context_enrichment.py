"""Enrichment: a planted direction is found at its layer, noise and random weights are not, and chance is chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from answered import drawn
from refusals import the_line

from interp import Finding, Lab, Model, UserError
from interp.lab.discover import load_probe
from interp.model.training.small import SmallGPT2, train_small_gpt2
from probes._context_enrichment import phrases
from probes._context_enrichment.senses import WORDS, _left_out
from probes._context_enrichment.size import place_between, size_direction, tell_apart

SHAPE = (4, 12, 6, 16)  # template, adjective, noun, d_model


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def every_word() -> list[str]:
    """Sentences that give a word-level tokenizer all that the probe says."""
    adjectives = (*phrases.SMALL, *phrases.LARGE, *phrases.NEUTRAL)
    spoken = [template.format(" ".join(adjectives), " ".join(phrases.NOUNS)) for template in phrases.TEMPLATES]
    return [*spoken, "We saw the", *(s for senses in WORDS.values() for some in senses for s in some)]


@pytest.fixture(scope="module")
def enriched() -> Model:
    """A small GPT-2 that must know at the noun whether it is large: what comes next depends on it."""
    known = [
        f"{template.format(adjective, noun)} {answer}"
        for adjectives, answer in ((phrases.SMALL, "minus"), (phrases.LARGE, "plus"))
        for template, adjective, noun in product(phrases.TEMPLATES, adjectives, phrases.NOUNS[:12])
    ]
    return train_small_gpt2([*known, *every_word()], SmallGPT2(n_layers=3, d_model=48, steps=160))


def findings_of(model: Model) -> list[Finding]:
    return drawn(load_probe("context-enrichment")(Lab(model, quick=True), n_perm=60))


def by_claim(found: list[Finding], words: str) -> Finding:
    (one,) = [finding for finding in found if words in finding.claim]
    return one


def test_where_size_must_be_known_it_is_found(enriched: Model) -> None:
    found = findings_of(enriched)
    for words in ("one direction tells large", "more alike", "by attention to its adjective", "Self-test", "Positive"):
        assert by_claim(found, words).verdict == "yes", words
    assert by_claim(found, "one direction").estimate.mean > 0.95
    assert by_claim(found, "Negative control").verdict != "no"
    assert found == findings_of(enriched), "the same seed, the same findings"


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_direction_is_found_and_noise_is_not(seed: int) -> None:
    at = noise(seed)
    nothing = tell_apart(at, 100, seed)
    assert nothing.null.low - 0.02 <= nothing.estimate.mean <= nothing.null.high + 0.02
    at[:, 6:] += 6 * torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(9)), dim=0)
    planted = tell_apart(at, 100, seed)
    assert planted.estimate.mean > planted.null.high
    assert planted.estimate.low > 0.5
    assert planted.null.mean == pytest.approx(0.5, abs=0.06)


def test_equal_vectors_are_ties() -> None:
    told = tell_apart(noise(0)[:, :1].expand(SHAPE).contiguous(), 20, 0)
    np.testing.assert_array_equal(told.right, 0.5)


def test_pairs_are_counted_as_a_loop_counts_them() -> None:
    at = noise(3)
    at[:, 6:] += 0.4
    told = tell_apart(at, 1, 0).right
    label = [0] * 6 + [1] * 6
    halves = [list(range(0, 12, 2)), list(range(1, 12, 2))]
    nouns = [[0, 1, 2], [3, 4, 5]]
    for adjective, noun in product(range(12), range(6)):
        shares = []
        own = next(h for h in halves if adjective in h)
        seen = next(h for h in halves if adjective not in h)
        trained = next(n for n in nouns if noun not in n)
        for t in range(4):
            rest = [u for u in range(4) if u != t]
            direction = sum((1 if label[b] else -1) * at[u, b, trained].mean(0) for u in rest for b in seen)
            assert isinstance(direction, torch.Tensor)
            mine = float(at[t, adjective, noun] @ direction)
            others = [float(at[t, b, noun] @ direction) for b in own if label[b] != label[adjective]]
            shares.append(np.mean([(mine > o) == bool(label[adjective]) for o in others]))
        assert told[adjective, noun] == pytest.approx(np.mean(shares), abs=1e-9)


def test_what_lies_between_lies_between() -> None:
    at = noise(1) * 0.1
    at[:, 6:] += 2.0
    between = noise(2)[:, :3] * 0.1 + 1.0
    np.testing.assert_allclose(place_between(at, between, size_direction(at)), 0.5, atol=0.1)


def test_senses_are_told_where_they_differ() -> None:
    sense = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    vectors = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)) * 0.1
    vectors[4:] += 1
    assert _left_out(vectors, sense) == 1.0
    assert _left_out(vectors[:1].expand(8, 12), sense) == 0.5


def test_sentences_end_in_their_word() -> None:
    for word, senses in WORDS.items():
        assert [len(some) for some in senses] == [4, 4]
        assert all(s.split()[-1] == word for some in senses for s in some)
    assert not set(phrases.SMALL) & set(phrases.LARGE)


def test_a_model_that_splits_the_words_is_refused(tiny_gpt2: Model) -> None:
    with pytest.raises(UserError, match="are one token") as refused:
        next(iter(load_probe("context-enrichment")(Lab(tiny_gpt2))))
    the_line(refused)
