"""Part (b) of the reversal curse: what the loaded model knows, judged on made-up scores, and on facts in its prompt."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from answered import findings, not_asked
from know_nothing import know_nothing
from reversal_students import Yielded

from interp.analysis.answers import AnswerScores
from interp.analysis.facts import Asked
from interp.lab.claims import NotAsked
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.text.data import data
from interp.text.facts import Direction, FactSet, load_facts
from interp.views.figures import draw
from probes._reversal_curse import asked as part_b
from probes._reversal_curse import stated
from probes.reversal_curse import BUNDLED


def answering(score: Callable[[FactSet, Direction], np.ndarray]) -> Callable[..., Asked]:
    """A model that scores as told: [prompt, answer], with a little noise in each of five wordings."""
    rng = np.random.default_rng(0)

    def ask(model: Model, facts: FactSet, direction: Direction, **_: object) -> Asked:
        scores = score(facts, direction) + rng.normal(0, 0.1, (5, len(facts), len(facts)))
        right = scores.argmax(-1) == np.arange(len(facts))
        return Asked(direction, scores, right, np.ones(len(facts), dtype=np.int64))

    return ask


def likes_first_letters(nats: float) -> Callable[[FactSet, Direction], np.ndarray]:
    def score(facts: FactSet, direction: Direction) -> np.ndarray:
        letters = [{word[0].casefold() for word in re.findall(r"\w+", item)} for item in facts.given(direction)]
        return nats * np.array(
            [[answer[1].casefold() in own for answer in facts.answers(direction)] for own in letters]
        )

    return score


def pretrained(monkeypatch: pytest.MonkeyPatch, score: Callable[[FactSet, Direction], np.ndarray]) -> list[Yielded]:
    class Named:
        provenance = type("Provenance", (), {"name": "a model"})

    monkeypatch.setattr(part_b, "ask_facts", answering(score))
    sets = [load_facts(data(f"facts/{name}.csv")) for name in BUNDLED]
    return list(part_b.pretrained(Lab(Named()), sets, 300))  # type: ignore[arg-type]


@pytest.mark.parametrize("nats", [1.0, 3.0, 8.0])
def test_a_model_that_only_likes_first_letters_pairs_nothing(monkeypatch: pytest.MonkeyPatch, nats: float) -> None:
    yielded = pretrained(monkeypatch, likes_first_letters(nats))
    assert [f.verdict for f in findings(yielded)] == ["no", "no"]
    assert [one.declared for one in not_asked(yielded)] == [part_b.CHOOSES.text, part_b.WRITES.text]
    # the trap is one: over all facts, and without a margin, these letters alone match the pairs
    elements = load_facts(data("facts/elements.csv"))
    all_facts = answering(likes_first_letters(nats))(None, elements, "forward")
    assert all_facts.matched.mean() > 0.3 * nats


def test_a_model_of_weights_that_copies_first_letters_or_words_pairs_nothing(smol: Model) -> None:
    for kind in ("first_letter", "token_copier"):
        lab = Lab(know_nothing(kind, smol), quick=True)
        yielded = list(part_b.pretrained(lab, [load_facts(data("facts/elements.csv"))], 200))
        assert [one.verdict for one in findings(yielded) if one.verdict == "yes"] == [], kind


def test_a_model_that_knows_the_facts_pairs_them_and_its_gap_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def knows(facts: FactSet, direction: Direction) -> np.ndarray:
        return 3.0 * np.eye(len(facts)) if direction == "forward" else 1.5 * np.eye(len(facts))

    forward, backward, chooses, writes = findings(pretrained(monkeypatch, knows))
    assert [forward.verdict, backward.verdict] == ["yes", "yes"]
    assert forward.estimate.mean == pytest.approx(3.0, abs=0.1)
    assert "Permutation p = 0.0033" in forward.measure
    assert [chooses.estimate.mean, writes.verdict] == [0.0, "no"]
    assert all(draw(one) for one in (forward, chooses))


def test_a_gap_that_first_letters_make_is_no_gap_of_knowledge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both directions are known as well; where letters agree, the own answer is worst of all when asked reversed."""

    def knows(facts: FactSet, direction: Direction) -> np.ndarray:
        alike = np.diag([0.0 if i in part_b.unlike(facts) else 9.0 for i in range(len(facts))])
        return 3.0 * np.eye(len(facts)) - (direction == "reversed") * alike

    _, _, chooses, writes = findings(pretrained(monkeypatch, knows))
    assert (chooses.estimate.mean, writes.estimate.mean) == (0.0, 0.0)
    sets = [load_facts(data(f"facts/{name}.csv")) for name in BUNDLED]
    assert chooses.estimate.n == sum(len(part_b.unlike(facts)) for facts in sets)
    assert {row["n"] for row in chooses.table} >= {len(facts) for facts in sets}, "all facts are still in the table"


def test_a_lead_of_less_than_a_nat_is_not_said_to_be_knowledge(monkeypatch: pytest.MonkeyPatch) -> None:
    yielded = pretrained(monkeypatch, lambda facts, direction: 0.5 * np.eye(len(facts)))
    assert [f.verdict for f in findings(yielded)] == ["no", "no"]


def test_facts_that_first_letters_give_away_are_not_judged_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_b, "unlike", lambda facts: [0, 1])
    yielded = pretrained(monkeypatch, lambda facts, direction: 5 * np.eye(len(facts)))
    assert [type(one) for one in yielded] == [NotAsked] * 4
    assert "begin like no word of their question" in str(yielded[0])


def test_a_model_that_knows_no_fact_gets_no_verdict_on_the_curse(tiny_gpt2: Model) -> None:
    yielded = list(part_b.pretrained(Lab(tiny_gpt2), [load_facts(data("facts/capitals.csv"))], 200))
    assert len(findings(yielded)) == 2
    assert all(f.verdict != "yes" for f in findings(yielded))
    assert [type(one) for one in yielded[2:]] == [NotAsked, NotAsked]


def test_facts_that_their_spelling_gives_away_are_told_apart() -> None:
    elements = load_facts(data("facts/elements.csv"))
    whole, same, other = part_b.by_spelling(elements).values()
    assert sorted([*same, *other]) == list(whole) == list(range(24))
    assert {elements.facts[i].object for i in other} == {"Na", "K", "Fe", "Ag", "Sn", "Sb"} | {
        f.object for f in elements.facts if f.subject[0] != f.object[0].lower()
    }
    assert list(part_b.by_spelling(load_facts(data("facts/capitals.csv")))) == ["capitals"]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_facts_are_asked_in_five_wordings_and_judged_on_enough(name: str) -> None:
    facts = load_facts(data(f"facts/{name}.csv"))
    assert len(facts.forward.training) == len(facts.reversed.training) == 5
    assert len(part_b.unlike(facts)) >= part_b.LEAST


def test_facts_in_the_prompt_are_told_from_guesses(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def reader(lean: float) -> Callable[..., AnswerScores]:
        """Reads the facts off the prompt and scores the right answer `lean` above the others."""

        def score(_: Model, prompts: list[str], answers: list[str]) -> AnswerScores:
            read = [s.removeprefix(" ").split(" is the painter of ") for s in prompts[0].split(".")[1:-1]]
            scores = torch.zeros(len(prompts), len(answers))
            for i, prompt in enumerate(prompts):
                asked = prompt.rpartition(". ")[2]
                for pair in read:
                    for given, wanted in (pair, pair[::-1]):
                        if given in asked:
                            scores[i, answers.index(f" {wanted}")] += lean
            return AnswerScores(scores, scores > 0, torch.ones(len(answers), dtype=torch.long))

        return score

    for lean, verdict in ((1.0, "yes"), (-1.0, "no")):
        monkeypatch.setattr(stated, "score_answers", reader(lean))
        picked = findings(list(stated.in_context(Lab(smol))))
        assert [f.verdict for f in picked] == [verdict, verdict]
        assert [f.estimate.mean for f in picked] == [float(lean > 0)] * 2
        quick = findings(list(stated.in_context(Lab(smol, quick=True))))  # each prompt in one wording, all in turn
        assert [(f.estimate.mean, f.estimate.n) for f in quick] == [(float(lean > 0), stated.QUICK_CONTEXTS)] * 2
        assert len(quick[0].table) == 6

    def guess(_: Model, prompts: list[str], answers: list[str]) -> AnswerScores:
        scores = torch.randn(len(prompts), len(answers), generator=generator)
        return AnswerScores(scores, scores > 0, torch.ones(len(answers), dtype=torch.long))

    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(stated, "score_answers", guess)
    assert all(f.verdict != "yes" for f in findings(list(stated.in_context(Lab(smol)))))


def test_a_context_too_short_for_the_facts_leaves_that_part_out(tiny_gpt2: Model) -> None:
    yielded = list(stated.in_context(Lab(tiny_gpt2)))
    assert [type(one) for one in yielded] == [NotAsked, NotAsked]
