"""Prediction: honest probabilities are found honest, tampered ones are not, and every number is a plain loop's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from know_nothing import always_the_same
from refusals import the_line

from interp import Finding, Lab, Model, NotAsked, UserError, with_random_weights
from interp.lab.discover import load_probe
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.stats.calibration import calibration_error, honest_errors, reliability
from interp.views.figures import draw
from probes import prediction as the_probe
from probes._prediction import OTHER
from probes._prediction import temperature as temperature_part
from probes._prediction.controls import controls
from probes._prediction.guesses import more_context
from probes._prediction.honest import HONEST, honest, misses
from probes._prediction.read import TEMPERATURES, Read, read_documents
from probes._prediction.temperature import BEST_TEMPERATURE, PROMPTS, best_temperature, finest

WORDS = [f"w{i}" for i in range(12)]


def chain(n: int, length: int, seed: int) -> list[str]:
    """Sentences of a Markov chain: each word is followed by one of two, in seven of ten cases by the first."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        at, words = int(rng.integers(12)), []
        for _ in range(length):
            words.append(WORDS[at])
            at = (at * 5 + (1 if rng.random() < 0.7 else 7)) % 12
        out.append(" ".join(words))
    return out


@pytest.fixture(scope="module")
def chained() -> Model:
    """A small GPT-2 that has learned the chain: its best guess is right in seven of ten cases, and it knows it."""
    return train_small_gpt2([*chain(300, 30, 0), *PROMPTS], SmallGPT2(d_model=48, steps=250))


@pytest.fixture
def on_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_probe, "corpus_or_prose", lambda _: chain(40, 60, 1))
    monkeypatch.setattr(the_probe, "split_corpus", lambda: ([], chain(40, 60, 2)))


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is said of what is sampled."""
    monkeypatch.setattr(temperature_part, "DRAWS", 20)


def answers_of(model: Model, **flags: Any) -> list[Finding | NotAsked]:
    """Every declared claim is answered or said not to be asked, in the order of the declaration."""
    prediction = load_probe("prediction")
    answers = list(prediction(Lab(model), **{"documents": 20, "tokens": 48, **flags}))
    assert [answer.declared for answer in answers] == [claim.text for claim in prediction.claims]
    for answer in answers:
        if isinstance(answer, Finding) and answer.figure:
            draw(answer)
    return answers


def by_claim(answers: list[Finding | NotAsked], words: str) -> Finding:
    (finding,) = [answer for answer in answers if words in answer.claim]
    assert isinstance(finding, Finding)
    return finding


def read_of(sure: list[float], right: list[bool]) -> Read:
    """A document of which a model said these probabilities, and the best guess was right there."""
    n = len(sure)
    flat = np.ones((len(TEMPERATURES), n))
    said, was_right = np.array(sure), np.array(right)
    return Read(
        np.arange(n), said, was_right, np.where(was_right, 1, 2), flat, flat, np.stack([said] * len(flat)), was_right
    )


def test_what_is_known_of_a_chain_is_found(chained: Model, on_the_chain: None) -> None:
    answers = answers_of(chained)
    best = by_claim(answers, "10 points more often")
    shares = {row["among the best"]: row["true token (share of tokens)"] for row in best.table if row["text"] == OTHER}
    assert shares[1] == pytest.approx(0.7, abs=0.06)
    assert best.estimate.mean == pytest.approx(0.7 - 1 / 12, abs=0.1), "each of 12 words is as common"
    for words in ("10 points more often", "text best is 1", "comes as often", "doubled"):
        assert by_claim(answers, words).verdict == "yes", words
    for words in ("it did not write, its best", "drawn from the model itself"):
        assert by_claim(answers, words).verdict != "no", words
        assert abs(by_claim(answers, words).estimate.mean) < 0.06
    assert by_claim(answers, "Negative control: random weights").estimate.mean < 0.1
    assert answers == answers_of(chained), "the same seed, the same findings"


def test_a_quick_run_reads_eight_documents(chained: Model, on_the_chain: None, few_draws: None) -> None:
    answers = list(load_probe("prediction")(Lab(chained, quick=True), tokens=48))
    assert by_claim(answers, "10 points more often").estimate.n == 8


def test_who_knows_nothing_is_not_called_honest(chained: Model, on_the_chain: None, few_draws: None) -> None:
    """Random weights say of every guess that it is hardly right, and they are right about that."""
    answers = answers_of(with_random_weights(chained, 0), documents=8)
    (asked,) = [answer for answer in answers if answer.declared == HONEST.text]
    assert isinstance(asked, NotAsked)
    assert "knows nothing" in asked.because
    yes = [answer.claim for answer in answers if isinstance(answer, Finding) and answer.answers]
    assert not [claim for claim in yes if by_claim(answers, claim).verdict == "yes"]


def test_who_knows_only_how_common_words_are_is_not_asked_for_a_temperature(
    chained: Model, few_draws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words after every text, as likely as they are common: no other temperature predicts better than 1."""
    shares = np.array([1 / (1 + i) for i in range(12)])
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 120, p=shares / shares.sum())) for _ in range(30)]
    logits = torch.full((len(chained.tokenizer),), -20.0)
    for word, share in zip(WORDS, shares, strict=True):
        logits[chained.encode([f"w0 {word}"])[0][-1]] = float(np.log(share))
    unigram = Model(always_the_same(logits).eval(), chained.tokenizer, chained.provenance, chained.bos)
    reads = read_documents(Lab(unigram), unigram, texts, 100, 30, "reading")
    assert best_temperature(Lab(unigram), {OTHER: reads}).verdict == "yes", "which says nothing"
    monkeypatch.setattr(the_probe, "corpus_or_prose", lambda _: texts)
    monkeypatch.setattr(the_probe, "split_corpus", lambda: ([], texts))
    (asked,) = [a for a in answers_of(unigram, documents=30) if a.declared == BEST_TEMPERATURE.text]
    assert isinstance(asked, NotAsked)
    assert "commonest token" in asked.because


def test_probabilities_that_are_right_on_average_alone_are_no_honest_ones(tiny_gpt2: Model) -> None:
    """.92 and .01 at random, 46 % right: the mean is right, every single one is off by .45."""
    rng = np.random.default_rng(0)
    reads = [read_of(rng.choice([0.92, 0.01], 150).tolist(), (rng.random(150) < 0.465).tolist()) for _ in range(36)]
    finding = honest(Lab(tiny_gpt2), OTHER, {OTHER: reads}, "a made-up text")
    assert finding.verdict == "no"
    assert finding.estimate.mean == pytest.approx(0.455, abs=0.03)
    doubled, drawn, _ = controls(Lab(tiny_gpt2), reads, chain(8, 40, 0), 30)
    assert doubled.estimate.mean == pytest.approx(0), "this fake says the same at every temperature"
    assert drawn.verdict == "no"


@pytest.mark.parametrize(("miss", "verdicts"), [(0.0, {"yes"}), (0.09, {"no", "unclear"}), (0.15, {"no"})])
def test_misses_in_both_directions_do_not_cancel(tiny_gpt2: Model, miss: float, verdicts: set[str]) -> None:
    """Too sure by as much at one probability as too modest at another."""
    seen = set()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        reads = []
        for _ in range(30):
            said = rng.choice([0.3, 0.7], 150)
            reads.append(
                read_of(said.tolist(), (rng.random(150) < np.where(said > 0.5, said - miss, said + miss)).tolist())
            )
        finding = honest(Lab(tiny_gpt2), OTHER, {OTHER: reads}, "a made-up text")
        assert finding.estimate.mean == pytest.approx(miss, abs=0.025)
        seen.add(finding.verdict)
    assert seen <= verdicts


def test_honest_probabilities_miss_by_nothing_on_average() -> None:
    """The usual error grows with chance; the mean of this one over honest worlds is 0, however few they are."""
    rng = np.random.default_rng(0)
    said, means = [], []
    for _ in range(300):
        said = [rng.random(40) for _ in range(6)]
        means.append(misses(said, [rng.random(40) < of_document for of_document in said]).mean())
    assert abs(np.mean(means)) < 4 * np.std(means) / np.sqrt(300)
    assert calibration_error(np.concatenate(said), rng.random(240) < np.concatenate(said)) > 0.03


def test_short_documents_are_not_asked_for_context(tiny_gpt2: Model) -> None:
    reads = [read_of([0.5] * n, [True] * n) for n in (20, 20, 32, 32, 33, 40, 99)]
    left_out = more_context(Lab(tiny_gpt2), {OTHER: reads})
    assert isinstance(left_out, NotAsked)
    assert "only 3 documents" in left_out.because
    assert isinstance(more_context(Lab(tiny_gpt2), {OTHER: [*reads, reads[-1]]}), Finding)


def test_a_model_that_is_too_sure_is_found_out(chained: Model, on_the_chain: None) -> None:
    def louder(module: Any, arguments: Any, out: Any) -> Any:
        out.logits = 4 * out.logits
        return out

    handle = chained.hf.register_forward_hook(louder)
    try:
        reads = read_documents(Lab(chained), chained, chain(20, 40, 3), 40, 20, "reading")
    finally:
        handle.remove()
    off = honest(Lab(chained), OTHER, {OTHER: reads}, "a made-up text")
    assert off.verdict == "no"
    assert off.estimate.mean > 0.15
    best = best_temperature(Lab(chained), {OTHER: reads})
    assert best.verdict == "no"


def test_what_is_read_is_what_a_loop_reads(tiny_gpt2: Model) -> None:
    texts = ["The quick brown fox jumps over the lazy dog, and the dog does not care at all." for _ in range(4)]
    read = read_documents(Lab(tiny_gpt2), tiny_gpt2, texts, 40, 4, "reading")[0]
    ids = tiny_gpt2.encode([texts[0]], cut=40)[0]
    with torch.no_grad():
        logits = tiny_gpt2.hf(torch.tensor([ids])).logits[0].double()
    for at in range(len(ids) - 1):
        p = logits[at].softmax(-1)
        assert read.sure[at] == pytest.approx(float(p.max()), rel=1e-4)
        assert read.right[at] == (int(p.argmax()) == ids[at + 1])
        assert read.rank[at] == 1 + int((p > p[ids[at + 1]]).sum())
        for i, temperature in enumerate(TEMPERATURES):
            q = (logits[at] / temperature).softmax(-1)
            assert read.loss[i, at] == pytest.approx(-float(q[ids[at + 1]].log()), rel=1e-4)
            assert read.entropy[i, at] == pytest.approx(-float((q * q.log()).sum()), rel=1e-4)
            assert read.sure_at[i, at] == pytest.approx(float(q.max()), rel=1e-4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 12), st.integers(0, 5))
def test_bins_hold_every_prediction_once(said: list[float], bins: int, seed: int) -> None:
    came = np.random.default_rng(seed).random(len(said)) < 0.5
    found = reliability(said, came, bins)
    assert sum(one.n for one in found) == len(said)
    assert sum(one.n * one.said for one in found) == pytest.approx(sum(said), abs=1e-9)
    assert sum(one.n * one.came_true for one in found) == pytest.approx(came.sum())
    assert len(found) <= bins


def test_calibration_errors_are_those_of_hand_made_bins() -> None:
    said = [0.1] * 10 + [0.9] * 10
    came = [True] * 3 + [False] * 7 + [True] * 8 + [False] * 2
    assert calibration_error(said, came, 2) == pytest.approx((0.2 + 0.1) / 2)
    honest = honest_errors(np.random.default_rng(0).random(2000), n=50)
    assert 0.005 < honest.mean() < 0.04
    with pytest.raises(ValueError, match="from 0 to 1"):
        reliability([1.5], [True])


def test_the_finest_temperature_is_the_parabolas() -> None:
    t = np.array(TEMPERATURES)
    assert finest(0.3 * (t - 1.07) ** 2 + 2) == pytest.approx(1.07)
    assert finest(t) <= 0.6
    assert finest(-t) >= 1.5


@pytest.mark.parametrize(("flag", "value"), [("documents", 7), ("tokens", 47)])
def test_bad_flags_are_one_line(tiny_gpt2: Model, flag: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{flag} {value}") as refused:
        next(iter(load_probe("prediction")(Lab(tiny_gpt2), **{flag: value})))
    the_line(refused)
