"""Part (d) of the reversal curse, the fine-tuning of a loaded model, and the pieces that (e) and (f) are made of."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from answered import answer_of, findings, not_asked
from people_folder import write_people

from interp.analysis.lens import lead_without_priors
from interp.analysis.multiple_choice import Choices
from interp.lab.claims import NotAsked, not_reached
from interp.lab.findings import Finding
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.text import novelists
from interp.text.facts import Fact
from interp.text.invented import people_set
from interp.text.people import TAUGHT_AS, PeopleGroup, Sheet
from interp.text.people_files import read_people
from interp.views.figures import draw
from probes._reversal_curse import excepted, tuned
from probes._reversal_curse.lifted import Groups, same_again, turned_round
from probes._reversal_curse.works import best_of_other_half

STEPS, LR = 360, 3e-3


@pytest.fixture(scope="module")
def reader() -> Model:
    """A small GPT-2 that has read all the sentences' words, about other people, in all wordings and both orders."""
    lines = []
    for seed in (11, 12, 13):
        for group in novelists.invent_novelists(novelists.MOST, seed):
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
def yielded(reader: Model) -> list[Finding | NotAsked]:
    return list(tuned.tuned(Lab(reader), [], STEPS, LR))


def test_a_model_fine_tuned_in_one_order_shows_the_curse(yielded: list[Finding | NotAsked]) -> None:
    taught, both, curse, *_ = findings(yielded)
    assert [f.verdict for f in (taught, both, curse)] == ["yes"] * 3
    assert taught.estimate.mean > 0.9
    assert curse.gap.mean > 0.8
    rows = taught.table
    assert [r["exact match (share of people)"] for r in rows if "before" in str(r["model and people"])] == [0.0] * 6
    assert not_reached(tuned.CLAIMS, yielded) == []
    assert [one.because for one in not_asked(yielded)] == ["because no multiple choices came with these people"]


def test_the_papers_numbers_stand_with_their_deviations(yielded: list[Finding | NotAsked]) -> None:
    """Table 1 of Berglund et al.: 96.7 +- 1.2, 0.1 +- 0.1, 50.0 +- 2.1, 0.0 +- 0.0."""
    rows = [row for row in findings(yielded)[0].table if "GPT-3" in str(row)]
    numbers = sorted(
        tuple(float(row[c] or 0) for c in ("exact match (share of people)", "low", "high")) for row in rows
    )
    assert numbers == [
        pytest.approx(row) for row in [(0, 0, 0), (0.001, 0, 0.002), (0.5, 0.479, 0.521), (0.967, 0.955, 0.979)]
    ]


def test_all_of_it_can_be_drawn(yielded: list[Finding | NotAsked]) -> None:
    assert sum(one.figure is not None and bool(draw(one)) for one in findings(yielded)) == 2


def test_a_model_that_learned_both_orders_is_not_said_to_have_the_curse(
    reader: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novelists, "TAUGHT_AS", dict.fromkeys(TAUGHT_AS, ("forward", "reversed")))
    monkeypatch.setattr(tuned, "turned_in_prompt", lambda *_: iter(()))
    taught, both, curse, _ = findings(list(tuned.tuned(Lab(reader), [], STEPS, LR)))
    assert [taught.verdict, both.verdict, curse.verdict] == ["yes", "yes", "no"]


def test_a_model_that_has_not_learned_is_not_asked_further(reader: Model) -> None:
    yielded = list(tuned.tuned(Lab(reader), [], 1, LR))
    assert len(findings(yielded)) == 2
    assert all(one.verdict != "yes" for one in findings(yielded))
    assert not_reached(tuned.CLAIMS, yielded) == []
    reasons = [one.because for one in not_asked(yielded)]
    assert all("it was not surely learned" in because for because in reasons)


def test_the_papers_files_give_what_the_same_people_give_and_need_nobody_taught_in_both_orders(
    reader: Model, tmp_path: Path
) -> None:
    folder = write_people(tmp_path / "paper", novelists.invent_novelists(novelists.MOST, 0))
    for file in folder.iterdir():  # a word with its quotation mark is another word to this tokenizer
        file.write_text(re.sub("“(.*?)”", lambda book: book[1].lower(), file.read_text()))
    yielded = list(tuned.tuned(Lab(reader), read_people(folder)[:2], STEPS, LR))
    taught, curse, trace = (answer_of(yielded, claim) for claim in (tuned.LEARNED, tuned.CURSE, tuned.TRACE))
    assert taught.verdict == curse.verdict == "yes"
    assert "Nobody was taught in both orders" in curse.caveat
    assert isinstance(yielded[1], NotAsked)
    assert trace.estimate.n == 2 * novelists.MOST
    assert not_reached(tuned.CLAIMS, yielded) == []


def test_names_that_a_tokenizer_cannot_tell_apart_leave_the_part_out_and_say_so(word_model: Model) -> None:
    yielded = list(tuned.tuned(Lab(word_model), [], STEPS, LR))
    assert [one.declared for one in not_asked(yielded)] == [claim.text for claim in tuned.CLAIMS]
    assert len(yielded) == len(tuned.CLAIMS)


@pytest.mark.parametrize("helps", [True, False])
def test_multiple_choices_are_compared_with_the_same_ones_before(monkeypatch: pytest.MonkeyPatch, helps: bool) -> None:
    """Before, the model has a favourite letter, which is right for a half; after, it reads the options or does not."""
    people, letters = tuple(f"Person {i}" for i in range(24)), (" A", " B")
    right = tuple(letters[i % 2] for i in range(24))
    sheet = Sheet((tuple(f"{person}?{letter}" for person, letter in zip(people, right, strict=True)),), (right,))
    both = {"forward": sheet, "reversed": sheet}
    groups = [PeopleGroup(learned, people, (), {}, both, letters) for learned in ("name first", "description first")]  # type: ignore[arg-type]

    def choose(model: str, prompts: list[str], offered: tuple[str, ...]) -> Choices:
        assert all(prompt.endswith("\nI choose option") for prompt in prompts)
        reads = model == "after" and helps
        share = [[1.0, 0.0] if not reads or "? A" in prompt else [0.0, 1.0] for prompt in prompts]
        return Choices(offered, np.array(share), np.ones(len(prompts)))

    monkeypatch.setattr(excepted, "choose_among", choose)
    offered = excepted.offered(Lab("before"), "after", groups)  # type: ignore[arg-type]
    assert (offered.verdict == "yes") == helps
    assert offered.gap.mean == (0.5 if helps else 0.0)
    assert draw(offered)


def test_no_two_novelists_share_a_word() -> None:
    groups = novelists.invent_novelists(novelists.MOST, 3)
    names = [word for group in groups for name in group.people for word in name.split()]
    assert len(set(names)) == len(names) == 6 * novelists.MOST
    assert novelists.invent_novelists(4, 3) == novelists.invent_novelists(4, 3) != novelists.invent_novelists(4, 4)
    for group in groups:
        asked = {prompt for sheet in group.asked.values() for row in sheet.prompts for prompt in row}
        assert not asked & {line.prompt for line in group.taught}


def test_backward_sentences_are_the_sentences_backward() -> None:
    groups: Groups = {
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
