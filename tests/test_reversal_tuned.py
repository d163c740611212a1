"""Part (d) of the reversal curse, the fine-tuning of a loaded model, and the pieces that (e) and (f) are made of."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from people_folder import write_people

from interp.analysis.lens import lead_without_priors
from interp.lab.findings import Finding
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.text.facts import Fact
from interp.text.invented import people_set
from interp.text.people_files import read_people
from interp.views.figures import draw
from probes._reversal_curse import TAUGHT_AS, exceptions, novelists, tuned
from probes._reversal_curse.exceptions import same_again, turned_round
from probes._reversal_curse.mechanism import best_of_other_half

STEPS, LR = 360, 3e-3


@pytest.fixture(scope="module")
def reader() -> Model:
    """A small GPT-2 that has read all the sentences' words, about other people, in all wordings and both orders."""
    lines = []
    for seed in (11, 12, 13):
        for group in novelists.novelists(novelists.MOST, seed):
            people = list(zip(group.people, (b.strip() for b in group.asked["forward"].answers[0]), strict=True))
            for direction in ("forward", "reversed"):
                for text in (*novelists.TAUGHT[direction], *novelists.ASKED[direction]):
                    lines += ["".join(line) for line in novelists._ask(people, direction, text)]
                lines += [novelists.STATED[direction].format(*pair) for pair in in_order(people, direction)]
    lines += [re.sub("“(.*)”", lambda book: book[1].lower(), line) for line in lines]
    return train_small_gpt2(lines, SmallGPT2(tied=False, steps=150))


def in_order(people: list[tuple[str, str]], direction: str) -> list[tuple[str, str]]:
    return people if direction == "forward" else [(book, name) for name, book in people]


@pytest.fixture(scope="module")
def found(reader: Model) -> list[Finding]:
    return list(tuned.tuned(Lab(reader), [], STEPS, LR))


def test_a_model_fine_tuned_in_one_order_shows_the_curse(found: list[Finding]) -> None:
    taught, both, curse, *_ = found
    assert [f.verdict for f in (taught, both, curse)] == ["yes"] * 3
    assert taught.estimate.mean > 0.9
    assert curse.control.estimate.mean < 0.1
    rows = taught.table
    assert [r["exact match (share of people)"] for r in rows if "before" in str(r["model and people"])] == [0.0] * 6
    assert sorted(float(r["exact match (share of people)"] or 0) for r in rows if "GPT-3" in str(r)) == [
        0.0, 0.001, 0.5, 0.967,
    ]  # fmt: skip


def test_all_of_it_can_be_drawn(found: list[Finding]) -> None:
    assert sum(finding.figure is not None and bool(draw(finding)) for finding in found) == 2


def test_a_model_that_learned_both_orders_is_not_said_to_have_the_curse(
    reader: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novelists, "TAUGHT_AS", dict.fromkeys(TAUGHT_AS, ("forward", "reversed")))
    monkeypatch.setattr(tuned, "_stated", lambda *_: iter(()))
    taught, both, curse, _ = tuned.tuned(Lab(reader), [], STEPS, LR)
    assert [taught.verdict, both.verdict, curse.verdict] == ["yes", "yes", "no"]


def test_a_model_that_has_not_learned_is_not_asked_further(reader: Model) -> None:
    found = list(tuned.tuned(Lab(reader), [], 1, LR))
    assert len(found) == 2
    assert all(finding.verdict != "yes" for finding in found)


def test_the_papers_files_give_what_the_same_people_give(
    reader: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = novelists.novelists(novelists.MOST, 0)
    folder = write_people(tmp_path / "paper", people)
    for file in folder.iterdir():  # a word with its quotation mark is another word to this tokenizer
        file.write_text(re.sub("“(.*?)”", lambda book: book[1].lower(), file.read_text()))
    taught, _, curse, trace = tuned.tuned(Lab(reader), read_people(folder), STEPS, LR)
    assert taught.verdict == curse.verdict == "yes"
    assert trace.estimate.n == 2 * novelists.MOST


def test_names_that_a_tokenizer_cannot_tell_apart_leave_the_part_out(word_model: Model) -> None:
    assert list(tuned.tuned(Lab(word_model), [], STEPS, LR)) == []


def test_no_two_novelists_share_a_word() -> None:
    groups = novelists.novelists(novelists.MOST, 3)
    names = [word for group in groups for name in group.people for word in name.split()]
    assert len(set(names)) == len(names) == 6 * novelists.MOST
    assert novelists.novelists(4, 3) == novelists.novelists(4, 3) != novelists.novelists(4, 4)
    for group in groups:
        asked = {prompt for sheet in group.asked.values() for row in sheet.prompts for prompt in row}
        assert not asked & {line.prompt for line in group.taught}


def test_backward_sentences_are_the_sentences_backward() -> None:
    groups: exceptions.Groups = {
        "name first": people_set([Fact("ann bee", "red hat")]),
        "both orders": people_set([Fact("cy", "dee")]),
    }
    turned = turned_round(groups)
    assert "red hat of painter the is ann bee that said is it" in turned
    assert len(turned) == 4 + 8
    assert "everybody agrees red hat goes by the name red hat" in same_again(groups)


def test_the_best_layer_of_noise_is_not_above_chance() -> None:
    rng = np.random.default_rng(0)
    noise = [best_of_other_half(rng.normal(size=(20, 30))).mean() for _ in range(200)]
    assert abs(np.mean(noise)) < 0.05
    values = rng.normal(size=(20, 30))
    values[:, 7] += 5
    assert best_of_other_half(values) == pytest.approx(values[:, 7])


def test_a_planted_lead_is_read_whatever_the_answers_own_likelihood() -> None:
    """Left in, the priors of the answers are noise in every lead, and choosing a layer on the other half biases it."""
    rng = np.random.default_rng(0)
    n, layers = 20, 12
    read: dict[str, list[float]] = {"priors out": [], "priors in": []}
    for _ in range(60):
        scores = rng.normal(0, 2.5, size=(1, layers, n)) + rng.normal(0, 0.5, size=(n, layers, n))
        scores[np.arange(n), -3:, np.arange(n)] += 2.0
        table = torch.tensor(scores)
        out = lead_without_priors(table, torch.arange(n)).numpy()
        own = scores[np.arange(n), :, np.arange(n)]
        left_in = own - (scores.sum(2) - own) / (n - 1)
        read["priors out"].append(best_of_other_half(out).mean())
        read["priors in"].append(best_of_other_half(left_in).mean())
    assert np.mean(read["priors out"]) == pytest.approx(2.0, abs=0.1)
    assert np.std(read["priors out"]) < 0.3
    assert np.mean(read["priors in"]) < 1.9, "the fault"


def test_answers_that_start_alike_count_as_one() -> None:
    scores = torch.zeros(4, 1, 2)
    own = torch.tensor([0, 0, 1, 1])
    scores[torch.arange(4), 0, own] += 3.0
    assert lead_without_priors(scores, own).flatten().tolist() == [3.0] * 4
