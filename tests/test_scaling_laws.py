"""The laws: found where they were planted or trained, not found on noise, and every number one of a plain count."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from answered import drawn, findings
from refusals import the_line

from interp import Finding, Lab, Model, NotAsked, UserError
from interp.lab.discover import load_probe
from interp.model.training.batched_gpt2 import Size
from interp.stats.joint_law import joint_law_by_chance
from interp.views.figures import draw
from probes import scaling_laws as the_probe
from probes._scaling_laws import joint
from probes._scaling_laws import text as text_part
from probes._scaling_laws.family import count_parameters, measure_family
from probes._scaling_laws.grid import Plan, Point, train_on_shares, train_sizes
from probes._scaling_laws.joint import BEST_SIZE, CLAIMS, joint_law
from probes._scaling_laws.laws import NOISE, doubt, falls, law_of, planted
from probes._scaling_laws.text import read_characters

TINY = Plan((4, 8, 12, 16), (40, 80), (1 / 16, 1 / 8, 1 / 4, 1.0), 8, (10, 20), lrs=(1e-2, 3e-2), batch=2)


@pytest.fixture
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of the text to choose by and to test on: reading it costs more than training so small a grid."""
    monkeypatch.setattr(text_part, "ENOUGH", 500)


@pytest.fixture(scope="module")
def lab(tiny_gpt2: Model) -> Lab:
    return Lab(tiny_gpt2, quick=True)


def made_up(exponent: float, noise: float = 0.0, widths: tuple[int, ...] = (8, 16, 32, 64, 96, 128)) -> list[Point]:
    """Points that no model was trained for."""
    rng = np.random.default_rng(0)
    out = []
    for width in widths:
        size = Size(width)
        inside = size.parameters(100, embeddings=False)
        losses = 3 * (inside / 1e4) ** -exponent * np.exp(rng.normal(0, noise, 2))
        out.append(Point(size, 100, 1000, 512_000, 600_000, 1e-2, False, losses))
    return out


def test_a_law_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    assert falls(law_of("parameters", made_up(0.07, 0.002)), ()).verdict == "yes"
    for seed_noise in (0.002, 0.01):
        flat = falls(law_of("parameters", made_up(0.0, seed_noise)), ())
        assert flat.verdict != "yes"


def test_doubt_is_cast_where_it_is_due(lab: Lab) -> None:
    straight = doubt(law_of("parameters", made_up(0.07)))
    assert [finding.verdict for finding in straight[:2]] == ["yes", "yes"]
    assert straight[2].paired is not None, "the same points in both"
    assert straight[2].gap.mean > 0, "the same losses over a narrower range of sizes"
    points = made_up(0.0)
    bent = [
        Point(p.size, 100, 1000, 512_000, 600_000, 1e-2, False, 1.0 + p.losses * 40 / p.size.d_model) for p in points
    ]
    foretold, line, _ = doubt(law_of("parameters", bent))
    assert foretold.verdict != "yes", "a line through bent points foretells little, and its interval says so"
    assert abs(foretold.gap.mean) > 0.01
    assert line.verdict != "yes"
    assert planted(lab, law_of("parameters", points)).verdict == "yes"


def made_up_grid(floor: float, a: float, b: float, *, steps: tuple[int, ...] = (125, 250, 500, 1000)) -> list[Point]:
    """A grid that follows a joint law, with the noise of seeds."""
    rng = np.random.default_rng(0)
    return [
        replace(
            point,
            steps=n,
            characters=512 * n,
            losses=(floor + (point.parameters(embeddings=False) / 2e4) ** -a + (n / 400) ** -b)
            * np.exp(rng.normal(0, 0.003, 2)),
        )
        for n in steps
        for point in made_up(0.0)
    ]


def test_a_joint_law_is_found_where_it_was_planted_and_its_best_size_is_held_against_both_papers(lab: Lab) -> None:
    answers = drawn(joint_law(lab, made_up_grid(1.0, 0.4, 0.4)))
    assert [answer.verdict for answer in answers] == ["yes", "yes", "yes", "yes", "yes", "no", "yes"]
    assert [answer.claim for answer in answers if "power 0.5" in answer.claim]
    by_law = {row["law"]: float(row["miss (nats)"] or 0) for row in answers[2].table}
    assert by_law["both, added (joint)"] < 0.02 < by_law["parameters alone"]
    assert answers[2].control.estimate.mean == min(miss for law, miss in by_law.items() if "alone" in str(law))


def test_a_joint_law_is_not_found_where_nothing_falls(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: losses that depend on nothing, or on parameters alone."""
    monkeypatch.setattr(joint, "joint_law_by_chance", partial(joint_law_by_chance, n_deals=4))
    nothing = {answer.claim: answer for answer in joint_law(lab, made_up_grid(1.0, 0.0, 0.0))}
    assert not [answer for answer in findings(nothing.values()) if answer.verdict == "yes" and answer.answers]
    parameters, data, *_ = findings(joint_law(lab, made_up_grid(1.0, 0.4, 0.0)))
    assert (parameters.verdict, data.verdict != "yes") == ("yes", True)
    rises = list(joint_law(lab, made_up_grid(1.0, 0.4, -0.4)))
    assert findings(rises)[1].verdict == "no", "more data are worse"
    left_out = [answer for answer in rises if isinstance(answer, NotAsked)]
    assert [answer.declared for answer in left_out] == [BEST_SIZE.text] * 2
    assert "no size is best" in left_out[0].because


def test_a_joint_law_is_not_asked_for_where_text_is_read_again(lab: Lab) -> None:
    answers = list(joint_law(lab, made_up_grid(1.0, 0.4, 0.4, steps=(500, 1000, 2000, 4000))))
    assert all(isinstance(answer, NotAsked) for answer in answers)
    assert list(dict.fromkeys(answer.declared for answer in answers)) == [claim.text for claim in CLAIMS]
    because = {answer.because for answer in answers if isinstance(answer, NotAsked)}
    (line,) = because
    assert "there are 2; a --corpus of 2,048,000 characters" in line


def test_compute_and_sizes_are_counted_by_hand() -> None:
    point = made_up(0.07)[1]
    d = 16
    block = (d * 3 * d + 3 * d) + (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 4 * d
    assert point.parameters(embeddings=False) == 2 * block + 2 * d
    assert point.parameters(embeddings=True) == 2 * block + 2 * d + (100 + 64) * d
    assert point.compute == 6 * (2 * block + 2 * d) * 512_000


def test_the_grid_takes_the_rate_that_other_text_chose(lab: Lab, little_text: None) -> None:
    text = read_characters(None)
    (point, _) = train_sizes(lab, text, TINY, (8, 12), 80, "training")
    assert point.lr in TINY.lrs
    assert point.at_edge
    assert 2.0 < point.losses.mean() < np.log(text.vocabulary)
    again = train_sizes(lab, text, TINY, (8,), 80, "training")[0]
    np.testing.assert_array_equal(point.losses, again.losses)
    shares = train_on_shares(lab, text, TINY, 1e-2)
    assert [p.text for p in shares] == [int(s * len(text.train)) for s in TINY.shares]


def test_documents_do_not_cross_from_training_to_test() -> None:
    text = read_characters(None)
    assert len(text.train) > 8 * (len(text.choose) + len(text.test))
    sample = bytes(text.test[2000:2080].tolist())
    assert sample not in bytes(text.train.tolist())
    shuffled = text.shuffled(0)
    assert sorted(shuffled.test.tolist()) == sorted(text.test.tolist())
    assert shuffled.test.tolist() != text.test.tolist()


def test_the_whole_probe_runs_small(lab: Lab, little_text: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_probe, "QUICK", TINY)
    scaling = load_probe("scaling-laws")
    answers = list(scaling(lab))
    assert list(dict.fromkeys(answer.declared for answer in answers)) == [claim.text for claim in scaling.claims]
    for answer in answers:
        if isinstance(answer, Finding) and answer.figure:
            draw(answer)
    assert [answer.answers for answer in answers[:3]] == [True] * 3
    (found_again,) = [answer for answer in answers if isinstance(answer, Finding) and "put into" in answer.claim]
    assert found_again.verdict == "yes", "the planted exponent"
    assert f"noise of {NOISE:.1%}" in found_again.measure
    assert len(findings(answer for answer in answers if answer.part.startswith("The joint law"))) >= 5
    assert sum("the published one" in answer.claim for answer in answers) == 3
    family = answers[-1]
    assert isinstance(family, NotAsked)
    assert "no --models" in family.because


def test_a_frontier_of_three_is_said_not_to_be_asked_about(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer training that makes everything worse: nothing but the shortest is on the frontier."""
    points = made_up(0.05)[:4]
    monkeypatch.setattr(the_probe, "read_characters", lambda _: SimpleNamespace(shuffled=lambda _: None))
    monkeypatch.setattr(the_probe, "QUICK", replace(TINY, data_width=points[0].size.d_model, durations=(40, 80)))
    monkeypatch.setattr(
        the_probe, "train_on_shares", lambda *_: [replace(p, text=1000 * 2**i) for i, p in enumerate(points)]
    )
    monkeypatch.setattr(
        the_probe,
        "train_sizes",
        lambda lab, text, plan, widths, steps, what: [
            replace(p, losses=p.losses * 0 + (3.0 if steps == 40 else 4.0) + 0.1 * i) for i, p in enumerate(points)
        ],
    )
    left_out = [answer for answer in load_probe("scaling-laws")(lab) if isinstance(answer, NotAsked)]
    assert [answer.claim for answer in left_out[:2]] == [
        "More compute: lower test loss, as a power of it.",
        "The exponent of compute is the published one, 0.05, within 0.02.",
    ]
    assert all("fewer than 4 points" in answer.because for answer in left_out[:2])


def test_a_family_is_measured_a_character(lab: Lab, monkeypatch: pytest.MonkeyPatch, word_model: Model) -> None:
    import torch

    from probes._scaling_laws import family

    models = {"small": lab.model, "other": word_model}
    monkeypatch.setattr(family, "load_model", lambda name, device: models[name])
    monkeypatch.setattr(family, "corpus_or_prose", lambda _: ["the cat sat on the mat"] * 8)
    monkeypatch.setattr(word_model, "encode", lambda texts, cut=None: [[1, 5, 6, 7]])
    finding = measure_family(lab, ["small", "other"], None)
    draw(finding)
    means = [float(row["loss (nats per character)"] or 0) for row in finding.table]
    assert finding.estimate.mean == pytest.approx(means[-1] - means[0]), "document by document"
    assert finding.control.estimate.mean == 0
    hf: Any = lab.model.hf
    ids = lab.model.encode(["the cat sat on the mat"])[0]
    with torch.no_grad():
        logs = hf(torch.tensor([ids])).logits[0].log_softmax(-1)
    nats = -sum(float(logs[i, ids[i + 1]]) for i in range(len(ids) - 1))
    row = next(row for row in finding.table if row["model"] == "small")
    assert row["loss (nats per character)"] == pytest.approx(nats / len("the cat sat on the mat"), rel=0.06)
    total, inside = count_parameters(lab.model)
    assert total == hf.num_parameters()
    tables = hf.transformer
    assert inside == total - tables.wte.weight.numel() - tables.wpe.weight.numel()


@pytest.mark.parametrize("models", ["gpt2", "gpt2,", " ,"])
def test_a_family_of_one_is_refused(lab: Lab, models: str) -> None:
    if models.strip(", "):
        with pytest.raises(UserError, match="two names") as refused:
            next(iter(load_probe("scaling-laws")(lab, models=models)))
        the_line(refused)


def test_too_little_text_is_refused(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a short text\n\nand another")
    with pytest.raises(UserError, match="holds 2 documents; expected 20 or more") as refused:
        next(iter(load_probe("scaling-laws")(lab, corpus=tmp_path / "short.txt")))
    the_line(refused)
