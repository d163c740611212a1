"""The probe itself: it finds the curse where it was planted, its absence where it was not, and refuses bad pairs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from fact_files import write_facts

from interp.analysis.answers import AnswerScores
from interp.analysis.facts import align
from interp.analysis.metrics import logit_difference
from interp.analysis.patching import attribution_patch, correlation, patch_sweep
from interp.errors import UserError
from interp.lab.findings import Finding
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.text.data import data
from interp.text.facts import FactSet, load_facts
from interp.views.figures import draw
from probes._reversal_curse import exceptions
from probes._reversal_curse import in_context as part_b_control
from probes._reversal_curse import pretrained as part_b
from probes._reversal_curse import trained as part_a
from probes._reversal_curse import where as part_c
from probes._reversal_curse.exceptions import PLAIN, Remedy
from probes._reversal_curse.mechanism import mechanism
from probes._reversal_curse.pretrained import family, split_by_surname
from probes._reversal_curse.trained import Student
from probes._reversal_curse.where import models_to_examine
from probes.reversal_curse import BUNDLED, reversal_curse

T = TypeVar("T")


def run(generator: Generator[Finding, None, T]) -> tuple[list[Finding], T]:
    """The findings of a part and what it returns."""
    found: list[Finding] = []
    while True:
        try:
            found.append(next(generator))
        except StopIteration as stop:
            return found, stop.value


@pytest.fixture(scope="module")
def taught(tiny_gpt2: Model) -> tuple[list[Finding], list[Student]]:
    return run(part_a.trained(Lab(tiny_gpt2, quick=True), seeds=2, steps=400))


def test_the_curse_shows_on_models_taught_one_order(taught: tuple[list[Finding], list[Student]]) -> None:
    forward, both, backward, *_ = taught[0]
    assert forward.verdict == "yes"
    assert forward.estimate.mean >= 0.95
    assert backward.verdict == "yes"
    assert backward.estimate.mean <= 0.02
    assert both.verdict == "yes"
    rows = backward.table
    assert {r["seed"] for r in rows} == {0, 1}
    for row in rows:
        if row["learned"] != "both orders":
            assert (row["exact match"] >= 0.9) == (row["asked"] == "as taught")  # type: ignore[operator]


def test_one_gradient_tells_what_patching_would_on_these_models(taught: tuple[list[Finding], list[Student]]) -> None:
    """Attribution patching against patching, over every layer and token, of questions in the order taught."""
    agreed = []
    for student in taught[1]:
        asked = align(student.model, student.groups["name first"], "forward", "held_out")
        answers = asked.answer_ids
        lead = logit_difference(answers, answers[1:] + answers[:1])
        pair = asked.prompts, asked.prompts[1:] + asked.prompts[:1], lead, ["blocks.*.hook_resid_post"]
        agreed.append(correlation(attribution_patch(student.model, *pair), patch_sweep(student.model, *pair)))
        if not (student.tied and student.name_tokens == 2):  # there .75 and .79 were seen, with .92 to .97 elsewhere
            assert agreed[-1] >= 0.8, student.condition
    assert sum(agreed) / len(agreed) >= 0.8


def test_one_word_names_leak_through_tied_embeddings_and_two_word_names_do_not(
    taught: tuple[list[Finding], list[Student]],
) -> None:
    leaks = [f for f in taught[0] if "leak" in f.claim]
    assert [f.control.name[:16] for f in leaks] == ["untied embedding", "tied embeddings,"]
    for leak in leaks:
        assert leak.estimate.mean > 0.2 > leak.control.estimate.mean


def test_models_taught_both_orders_show_no_curse(tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: everybody learns both orders, and the probe must say that there is no curse."""
    true_teach = part_a.teach

    def teach_both(*arguments: object) -> Student:
        with monkeypatch.context() as during:
            during.setattr(part_a, "TAUGHT_AS", dict.fromkeys(part_a.TAUGHT_AS, ("forward", "reversed")))
            return true_teach(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(part_a, "teach", teach_both)
    monkeypatch.setattr(part_a, "KINDS", ((False, 2),))
    found = list(islice(part_a.trained(Lab(tiny_gpt2), seeds=2, steps=400), 3))
    assert [f.verdict for f in found] == ["yes", "yes", "no"]
    assert found[2].claim.startswith("Asked in the other order")


def test_untrained_models_know_nothing_in_either_order(tiny_gpt2: Model) -> None:
    found, students = run(part_a.trained(Lab(tiny_gpt2), seeds=2, steps=1))
    assert [f.verdict for f in found] == ["no", "no"]  # and no claim about the other order is made
    assert students == []


def test_students_that_learned_a_little_are_not_asked_for_more(
    tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_a, "KINDS", ((False, 2),))
    found, students = run(part_a.trained(Lab(tiny_gpt2), seeds=2, steps=120))
    assert len(found) == 2
    assert 0 < found[0].estimate.mean < 0.9
    assert {f.verdict for f in found} != {"yes"}
    assert students == []


def test_reading_backwards_lifts_the_curse_and_nothing_more_does_not(
    tiny_gpt2: Model, taught: tuple[list[Finding], list[Student]], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Remedy("nothing", "0", "Nothing helps.", lambda groups: [], "")
    monkeypatch.setattr(exceptions, "REMEDIES", (exceptions.REMEDIES[0], nothing))
    backwards, null = exceptions.exceptions(Lab(tiny_gpt2, quick=True), taught[1], 1, 400)
    assert backwards.estimate.mean > 0.4 > 0.05 > backwards.control.estimate.mean
    assert null.estimate.mean < 0.05
    assert {row["taught"] for row in null.table} == {PLAIN, "reversed sentences too", "nothing"}
    assert draw(backwards)


def test_attention_carries_the_answer_in_the_order_that_was_taught_alone(
    tiny_gpt2: Model, taught: tuple[list[Finding], list[Student]]
) -> None:
    lab = Lab(tiny_gpt2, quick=True)
    found = list(mechanism(lab, models_to_examine(lab, taught[1], None), 300))
    carried = {("forward" in f.claim): f for f in found if "carries" in f.claim}
    assert [carried[True].verdict, carried[False].verdict] == ["yes", "no"]
    assert carried[True].estimate.mean > 3
    assert all(draw(f) for f in found)


def test_a_model_that_knows_no_fact_gets_no_verdict_on_the_curse(tiny_gpt2: Model) -> None:
    found = list(part_b.pretrained(Lab(tiny_gpt2), [load_facts(data("facts/capitals.csv"))], 200))
    assert len(found) == 2
    assert all(f.verdict != "yes" for f in found)


def test_too_few_facts_are_refused_before_anything_is_trained(tiny_gpt2: Model, tmp_path: Path) -> None:
    file = write_facts(tmp_path, "subject,object\nRhine,Basel\nSeine,Paris\n")
    with pytest.raises(UserError, match="towns has 2 facts; expected 8 or more"):
        next(reversal_curse(Lab(tiny_gpt2), facts=file))


def test_facts_that_their_spelling_gives_away_are_told_apart() -> None:
    elements = load_facts(data("facts/elements.csv"))
    whole, same, other = part_b._by_spelling(elements).values()
    assert sorted([*same, *other]) == list(whole) == list(range(24))
    assert {elements.facts[i].object for i in other} == {"Na", "K", "Fe", "Ag", "Sn", "Sb"} | {
        f.object for f in elements.facts if f.subject[0] != f.object[0].lower()
    }
    assert list(part_b._by_spelling(load_facts(data("facts/capitals.csv")))) == ["capitals"]


def test_facts_in_the_prompt_are_told_from_guesses(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def reader(lean: float) -> Callable[..., AnswerScores]:
        """Reads the facts off the prompt and scores the right answer `lean` above the others."""

        def score(_: Model, prompts: list[str], answers: list[str]) -> AnswerScores:
            stated = [s.removeprefix(" ").split(" is the painter of ") for s in prompts[0].split(".")[1:-1]]
            scores = torch.zeros(len(prompts), len(answers))
            for i, prompt in enumerate(prompts):
                asked = prompt.rpartition(". ")[2]
                for pair in stated:
                    for given, wanted in (pair, pair[::-1]):
                        if given in asked:
                            scores[i, answers.index(f" {wanted}")] += lean
            return AnswerScores(scores, scores > 0, torch.ones(len(answers)))

        return score

    for lean, verdict in ((1.0, "yes"), (-1.0, "no")):
        monkeypatch.setattr(part_b_control, "score_answers", reader(lean))
        found = list(part_b_control.in_context(Lab(smol)))
        assert [f.verdict for f in found] == [verdict, verdict]
        assert [f.estimate.mean for f in found] == [float(lean > 0)] * 2

    def guess(_: Model, prompts: list[str], answers: list[str]) -> AnswerScores:
        scores = torch.randn(len(prompts), len(answers), generator=generator)
        return AnswerScores(scores, scores > 0, torch.ones(len(answers)))

    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(part_b_control, "score_answers", guess)
    assert all(f.verdict != "yes" for f in part_b_control.in_context(Lab(smol)))


def test_a_context_too_short_for_the_facts_leaves_that_part_out(tiny_gpt2: Model) -> None:
    assert list(part_b_control.in_context(Lab(tiny_gpt2))) == []


HEADER = "child,parent,parent_type\n"
PAIRS = HEADER + "".join(
    f"{child},{parent},{kind}\n"
    for child, parent, kind in [
        ("Tom Cruise", "Mary Lee Pfeiffer", "mother"),
        ("Drake", "Sandi Graham", "mother"),
        ("Adele", "Penny Adkins", "mother"),
        ("Eminem", "Debbie Nelson", "mother"),
        ("Rihanna", "Monica Braithwaite", "mother"),
        ("Will Smith", "Carolyn Smith", "mother"),
        ("Kanye West", "Donda West", "mother"),
        ("Taylor Swift", "Andrea Swift", "mother"),
        ("Paris Hilton", "Kathy Hilton", "mother"),
        ("Miley Cyrus", "Tish Cyrus", "mother"),
    ]
)


@pytest.mark.slow
def test_a_users_pairs_are_asked_by_surname(smol: Model, tmp_path: Path) -> None:
    from interp.text.pairs import load_pairs

    file = tmp_path / "pairs.csv"
    file.write_text(PAIRS)
    families, left_out = split_by_surname(load_pairs(file).fact_sets(), 40, 0)
    assert {f.surname for f in families} == {"different", "same"}
    assert left_out == ""
    found = list(family(Lab(smol), families, 200))
    assert len(found) == 4
    leaked = next(f for f in found if "same surname" in f.claim and "forward" in f.claim)
    assert leaked.estimate.mean > leaked.control.estimate.mean + 0.5  # the surname alone gives it away


def test_pairs_that_are_not_asked_are_counted(tmp_path: Path) -> None:
    from interp.text.pairs import load_pairs

    file = tmp_path / "pairs.csv"
    more = ["Ann Bee,Eve Cox,mother", "Ann Bee,Pat Dow,mother", "Tim Fox,Jo Fox,father"]
    file.write_text(PAIRS + "".join(f"{line}\n" for line in more))
    families, left_out = split_by_surname(load_pairs(file).fact_sets(), 5, 0)
    assert {f.surname: [len(s) for s in f.sets] for f in families} == {"different": [5], "same": [5]}
    asked_or_not = sum(len(s) for f in families for s in f.sets) + sum(map(int, re.findall(r"\b(\d+) with", left_out)))
    assert asked_or_not == 13
    for reason in ("whose names come again", "a group needs 5", "--max-pairs"):
        assert reason in left_out


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"kid,parent,parent_type\nA,B,mother\n", "child"),
        (b"child,parent,parent_type\nA,,mother\n", "empty"),
        (b"child,parent,parent_type\nA\xff,B,mother\n", "UTF-8"),
        (b"child,parent,parent_type\n", "row"),
        (b"child,parent,parent_type\nA B,A B,mother\n", "two different names"),
    ],
)
def test_bad_pairs_are_refused_before_anything_is_trained(
    tiny_gpt2: Model, tmp_path: Path, content: bytes, word: str
) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(content)
    answers = iter(reversal_curse(Lab(tiny_gpt2), pairs=file))
    with pytest.raises(UserError, match=word) as caught:
        next(answers)
    assert "\n" not in str(caught.value)


def test_the_file_runs_by_its_path() -> None:
    file = Path(__file__).parents[1] / "probes" / "reversal_curse.py"
    command = [sys.executable, "-m", "interp.cli", "probe", str(file), "--help"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--pairs" in done.stdout
    assert "--seeds" in done.stdout


@pytest.mark.parametrize(("moves", "verdict"), [("direction", "yes"), ("wording", "no"), ("neither", "unclear")])
def test_features_that_move_with_the_wording_alone_are_no_features_of_the_direction(
    smol: Model, word_sae: Path, monkeypatch: pytest.MonkeyPatch, moves: str, verdict: str
) -> None:
    rng = np.random.default_rng(0)

    def activations(model: Model, sae: object, facts: FactSet, direction: str) -> np.ndarray:
        acts = rng.normal(size=(len(facts), 2, 64))  # [fact, wording, feature]
        acts[:, :, :12] += 3.0 * (moves == "direction" and direction == "forward")
        acts[:, 0, 12:24] += 3.0 * (moves == "wording")
        return acts

    monkeypatch.setattr(part_c, "_feature_activations", activations)
    monkeypatch.setattr(part_c, "load_sae", lambda folder, model: None)
    monkeypatch.setattr(part_c, "site_of", lambda sae: "blocks.0.hook_resid_post")
    monkeypatch.setattr(part_c, "_strongest_words", lambda lab, sae, chosen: dict.fromkeys(chosen, "a word"))
    (found,) = part_c.features(Lab(smol, sae_folder=word_sae), load_facts(data("facts/capitals.csv")), 500)
    assert found.verdict == verdict
    assert len(found.table) == 2 * part_c.TOP_FEATURES


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_facts_can_tell_directions_by_features(smol: Model, name: str) -> None:
    facts = load_facts(data(f"facts/{name}.csv"))
    assert part_c._end_alike(smol, facts)
    other = replace(facts, reversed=replace(facts.reversed, held_out="In short, {} belongs to"))
    assert not part_c._end_alike(smol, other)
