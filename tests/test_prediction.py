"""Prediction: honest probabilities are found honest, tampered ones are not, and every number is a plain loop's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import the_line

from interp import Finding, Lab, Model, UserError
from interp.lab.discover import load_probe
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.stats.calibration import calibration_error, honest_errors, reliability
from interp.views.figures import draw
from probes import prediction as the_probe
from probes._prediction import OTHER
from probes._prediction.honest import honest
from probes._prediction.read import TEMPERATURES, read_documents
from probes._prediction.temperature import PROMPTS, best_temperature, finest

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
    monkeypatch.setattr(the_probe, "prose", lambda: chain(40, 60, 1))
    monkeypatch.setattr(the_probe, "split_corpus", lambda: ([], chain(40, 60, 2)))


def findings_of(model: Model) -> list[Finding]:
    found = list(load_probe("prediction")(Lab(model), documents=20, tokens=48))
    for finding in found:
        if finding.figure:
            draw(finding)
    return found


def by_claim(found: list[Finding], words: str) -> Finding:
    (one,) = [finding for finding in found if words in finding.claim]
    return one


def test_what_is_known_of_a_chain_is_found(chained: Model, on_the_chain: None) -> None:
    found = findings_of(chained)
    assert by_claim(found, "10 points more often").estimate.mean == pytest.approx(0.7, abs=0.06)
    for words in ("it did not write, its best", "10 points more often", "text best is 1", "comes as often", "doubled"):
        assert by_claim(found, words).verdict == "yes", words
    assert by_claim(found, "drawn from the model itself").verdict != "no"
    assert by_claim(found, "random weights").verdict != "yes" or by_claim(found, "random weights").estimate.mean < 0.2
    assert found == findings_of(chained), "the same seed, the same findings"


def test_a_quick_run_reads_eight_documents(chained: Model, on_the_chain: None) -> None:
    found = list(load_probe("prediction")(Lab(chained, quick=True), tokens=48))
    assert by_claim(found, "10 points more often").estimate.n == 8


def test_a_model_that_is_too_sure_is_found_out(chained: Model, on_the_chain: None) -> None:
    def louder(module: Any, arguments: Any, out: Any) -> Any:
        out.logits = 4 * out.logits
        return out

    handle = chained.hf.register_forward_hook(louder)
    try:
        some = read_documents(Lab(chained), chained, chain(20, 40, 3), 40, 20, "reading")
    finally:
        handle.remove()
    off = honest(Lab(chained), OTHER, {OTHER: some})
    assert off.verdict == "no"
    assert off.estimate.mean > 0.15
    best = best_temperature(Lab(chained), {OTHER: some})
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
