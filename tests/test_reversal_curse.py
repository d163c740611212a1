"""The probe itself: it finds the curse where it was planted, its absence where it was not, and refuses bad pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
import warm
from answered import answer_of, drawn, findings, not_asked
from fact_files import write_facts
from know_nothing import know_nothing

from interp.analysis.answers import AnswerScores
from interp.analysis.facts import Asked, align
from interp.analysis.metrics import logit_difference
from interp.analysis.patching import attribution_patch, correlation, patch_sweep
from interp.analysis.students import Course, Student, gap_over_seeds, teach_students
from interp.errors import UserError
from interp.lab.claims import NotAsked, check_declared, not_reached
from interp.lab.findings import Finding
from interp.lab.probe import Lab
from interp.model.model import Model
from interp.model.training.small import SmallGPT2
from interp.text.data import data
from interp.text.facts import Direction, FactSet, load_facts
from interp.text.pairs import by_surname, load_pairs
from interp.text.people import Learned
from interp.views.figures import draw
from probes._reversal_curse import asked as part_b
from probes._reversal_curse import inside as part_c
from probes._reversal_curse import taught as part_a
from probes.reversal_curse import BUNDLED, CLAIMS, reversal_curse

pytestmark = pytest.mark.usefixtures("trained_once")

T = TypeVar("T")
Yielded = Finding | NotAsked


def run(generator: Generator[Yielded, None, T]) -> tuple[list[Yielded], T]:
    """What a part yields and what it returns."""
    yielded: list[Yielded] = []
    while True:
        try:
            yielded.append(next(generator))
        except StopIteration as stop:
            return yielded, stop.value


@pytest.fixture(scope="module")
def population(trained_once: None) -> list[Student]:
    """All that these tests teach, trained side by side: two seeds of each kind, and one that also reads backwards."""
    kinds = [
        Course(f"{tying} embeddings, {words} names", SmallGPT2(tied=tying == "tied"), (0, 1), tokens)
        for tying, words, tokens in part_a.KINDS
    ]
    backwards = Course("reversed sentences too", SmallGPT2(tied=False), (0,), more=part_a.turned_round)
    return teach_students([*kinds, backwards])


@pytest.fixture(scope="module")
def students(population: list[Student]) -> list[Student]:
    return population[:-1]


def with_groups(students: Sequence[Student], **groups: Learned) -> list[Student]:
    """Students whose group of one name is passed off as another: what they were taught is not what they are said to."""
    return [
        replace(s, groups=s.groups | {name.replace("_", " "): s.groups[of] for name, of in groups.items()})
        for s in students
    ]


def part_a_of(students: Sequence[Student], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Yielded], list[Student]]:
    with monkeypatch.context() as during:
        during.setattr(part_a, "teach_students", lambda *_, **__: list(students))
        return run(part_a.trained(Lab(None), seeds=2, steps=400))  # type: ignore[arg-type]


def test_the_curse_shows_on_models_taught_one_order(students: list[Student], monkeypatch: pytest.MonkeyPatch) -> None:
    yielded, _ = part_a_of(students, monkeypatch)
    forward, both, backward, *_ = findings(yielded)
    assert [f.verdict for f in (forward, both, backward)] == ["yes"] * 3
    assert forward.estimate.mean >= 0.95
    assert backward.estimate.mean <= 0.02
    rows = backward.table
    assert {r["seed"] for r in rows} == {0, 1}
    for row in rows:
        if row["learned"] != "both orders":
            assert (row["exact match"] >= 0.9) == (row["asked"] == "as taught")  # type: ignore[operator]
    assert drawn(yielded)


def test_one_gradient_tells_what_patching_would_on_these_models(students: list[Student]) -> None:
    """Attribution patching against patching, over every layer and token, of questions in the order taught."""
    agreed = []
    for student in students:
        asked = align(student.model, student.groups["name first"], "forward", "held_out")
        wanted = asked.answer_ids
        lead = logit_difference(wanted, wanted[1:] + wanted[:1])
        pair = asked.prompts, asked.prompts[1:] + asked.prompts[:1], lead, ["blocks.*.hook_resid_post"]
        agreed.append(correlation(attribution_patch(student.model, *pair), patch_sweep(student.model, *pair)))
        if student.course.name != "tied embeddings, two-word names":  # there .75 and .79 were seen, else .92 to .97
            assert agreed[-1] >= 0.8, student.course.name
    assert sum(agreed) / len(agreed) >= 0.8


def test_one_word_names_leak_through_tied_embeddings_and_two_word_names_do_not(
    students: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    leaks = [f for f in findings(part_a_of(students, monkeypatch)[0]) if "leak" in f.claim]
    assert len(leaks) == 2
    for leak in leaks:
        chosen = {True: [], False: []}
        for row in leak.table:
            chosen[row["condition"] == part_a.LEAKY].append(float(row["multiple choice"] or 0))
        assert np.mean(chosen[True]) > 0.2 > np.mean(chosen[False])
        assert leak.gap.mean == pytest.approx(np.mean(chosen[True]) - np.mean(chosen[False]))


def test_models_taught_both_orders_show_no_curse(students: list[Student], monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: people that were learned in both orders are said to be learned in one."""
    both = with_groups(students, name_first="both orders", description_first="both orders")
    yielded = findings(part_a_of(both, monkeypatch)[0])
    assert [f.verdict for f in yielded[:3]] == ["yes", "yes", "no"]
    assert yielded[2].claim.startswith("Asked in the other order")


def test_untrained_models_know_nothing_in_either_order(tiny_gpt2: Model) -> None:
    yielded, taught = run(part_a.trained(Lab(tiny_gpt2), seeds=2, steps=1))
    assert [f.verdict for f in findings(yielded)] == ["no", "no"]  # and no claim about the other order is made
    assert taught == []


def test_students_that_learned_a_little_are_not_asked_for_more(
    students: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = with_groups(students, name_first="description first")
    yielded, taught = part_a_of(half, monkeypatch)
    first, second = findings(yielded)
    assert 0.1 < first.estimate.mean < 0.9
    assert (first.verdict, second.verdict) == ("unclear", "yes")
    assert taught == []


def test_where_the_positive_control_is_unclear_the_curse_is_said_not_to_be_judged(
    students: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is said to know both orders knows one: the table shows a curse, and the line says why none is claimed."""
    yielded, taught = part_a_of(with_groups(students, both_orders="name first"), monkeypatch)
    learned, control, *rest = yielded
    assert [f.verdict for f in findings([learned, control])] == ["yes", "unclear"]
    assert [type(one) for one in rest] == [NotAsked] * 5
    assert {one.because for one in not_asked(rest)} == {"because the positive control is unclear: it is not judged"}
    assert rest[0].declared == part_a.CURSE.text
    assert taught == []


def test_a_gap_is_taken_seed_by_seed_and_no_narrower_than_its_people_allow() -> None:
    def rows(*shares: float) -> list[part_a.Row]:
        common = {"learned": "name first", "direction": "forward", "words of a name": 1, "people": 20}
        return [common | {"seed": seed, "right": share} for seed, share in enumerate(shares)]

    far = gap_over_seeds(rows(0.9, 0.5, 0.7), "right", rows(0.6, 0.2, 0.4), "right", "share")
    assert [far.estimate.mean, far.control.mean, far.gap.mean] == pytest.approx([0.7, 0.4, 0.3])
    assert (
        0.05 < far.gap.low < 0.2 < 0.4 < far.gap.high < 0.5
    )  # seeds agree on the gap to the last digit; 60 people do not
    apart = gap_over_seeds(rows(0.9, 0.5, 0.7), "right", rows(0.2, 0.6, 0.4), "right", "share")
    assert apart.gap.low < -0.5
    one = gap_over_seeds(rows(0.9), "right", rows(0.6, 0.0), "right", "share")
    assert (one.gap.mean, one.gap.n) == (pytest.approx(0.3), 1)  # of the seed that both have


def test_seeds_that_agree_in_all_are_judged_by_their_people() -> None:
    """Without their people, equal values show no spread, and every claim of a perfect model would be unclear."""
    common = {"learned": "name first", "direction": "forward", "words of a name": 1, "people": 20}
    rows = [common | {"seed": seed, "right": 1.0, "dealt": 0.0} for seed in range(3)]
    gap = gap_over_seeds(rows, "right", rows, "dealt", "share")
    assert not any(one.alike for one in gap)
    assert 0.85 < gap.gap.low < gap.gap.high == 1.0
    assert 0.9 < gap.estimate.low < 1.0


def test_claims_about_students_are_told_from_those_about_the_loaded_model() -> None:
    assert {claim.subject for claim in (*part_a.CLAIMS, *part_a.REMEDIES)} == {"trained here"}
    assert {claim.subject for claim in part_b.CLAIMS} == {"model"}
    inside = [*part_c.CLAIMS_WHERE, *part_c.CLAIMS_WORKS]
    for claim in inside:
        assert (claim.subject == "trained here") == ("trained here" in claim.text) == ("{model}" not in claim.text) or (
            claim is part_c.MOVES_FEATURES
        )
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS)


def test_no_answers_own_likelihood_is_read_as_a_lead(
    tiny_gpt2: Model, students: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 nats are planted under favourites of 3 nats, which halves of the prompts do not share."""
    rng = np.random.default_rng(0)

    def lead(model: Model, prompts: list[str], ids: list[int], *, layers: list[int], **how: object) -> torch.Tensor:
        values = rng.normal(2.0, 0.1, (len(prompts), len(layers), len(model.encode(prompts[0])[0])))
        favourites = rng.normal(0, 3, (len(prompts), len(layers), 1))
        return torch.tensor(values if how.get("priors_out") else values + favourites)

    monkeypatch.setattr(part_c, "answer_lead", lead)
    lab = Lab(tiny_gpt2, quick=True)
    examined = part_c.models_to_examine(lab, students, [load_facts(data("facts/capitals.csv"))])[0]
    read = [*part_c._readable(lab, examined, 300), *part_c._written(lab, examined, 300)]
    assert [one.verdict for one in findings(read)] == ["yes"] * 4
    assert [one.estimate.mean for one in findings(read)] == pytest.approx([2.0] * 4, abs=0.1)


def test_reading_backwards_lifts_the_curse_and_nothing_more_does_not(
    population: list[Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    *plain, backwards = population
    nothing = replace(plain[0], course=replace(plain[0].course, name="identity bridge"))  # a plain one passed off
    monkeypatch.setattr(part_a, "teach_students", lambda *_, **__: [backwards, nothing])
    lab = Lab(None, quick=True)  # type: ignore[arg-type]
    *asked, left_out = part_a.exceptions(lab, plain, part_a.remedies(lab, 1, 400))
    lifted, null = findings(asked)
    assert lifted.gap.mean > 0.4
    assert abs(null.gap.mean) < 0.05
    assert {row["condition"] for row in null.table} == {part_a.PLAIN, "reversed sentences too", "identity bridge"}
    assert isinstance(left_out, NotAsked)
    assert draw(lifted)


def test_attention_carries_the_answer_in_the_order_that_was_taught_alone(
    tiny_gpt2: Model, students: list[Student]
) -> None:
    lab, facts = Lab(tiny_gpt2, quick=True), load_facts(data("facts/capitals.csv"))
    examined = part_c.models_to_examine(lab, students, [facts])[:1]
    yielded = findings(list(part_c.works(lab, examined, 300)))
    carried = {("forward" in f.claim): f for f in yielded if "carries" in f.claim}
    assert [carried[True].verdict, carried[False].verdict] == ["yes", "no"]
    assert carried[True].gap.mean > 3
    assert all(draw(f) for f in yielded)


@pytest.mark.parametrize("learned", [True, False])
def test_no_declared_claim_is_passed_over(
    tiny_gpt2: Model,
    population: list[Student],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    learned: bool,
) -> None:
    """Of a model with too few words for nearly everything: each claim is answered, or it is said why not."""
    taught = population if learned else with_groups(population, both_orders="name first")
    nothing = replace(taught[0], course=replace(taught[0].course, name="identity bridge"))
    batches = iter([taught[:-1], [taught[-1], nothing]])
    monkeypatch.setattr(part_a, "teach_students", lambda *_, **__: next(batches))
    more = {}
    if learned:
        (tmp_path / "pairs.csv").write_text(PAIRS)
        more = {"pairs": tmp_path / "pairs.csv"}
    yielded = list(reversal_curse(Lab(tiny_gpt2, quick=True), seeds=2, n_boot=100, **more))
    for one in yielded:
        check_declared(one, CLAIMS, "reversal-curse")
    assert not_reached(CLAIMS, yielded) == []
    asked = {one.declared for one in findings(yielded)}
    assert (part_a.CURSE.text in asked, part_b.EXAMPLE.text in asked) == (learned, learned)


# What the loaded model knows, judged on made-up scores ----------------------------------------------------------------


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


def test_too_few_facts_are_refused_before_anything_is_trained(tiny_gpt2: Model, tmp_path: Path) -> None:
    file = write_facts(tmp_path, "subject,object\nRhine,Basel\nSeine,Paris\n")
    with pytest.raises(UserError, match="towns has 2 facts; expected 8 or more"):
        next(reversal_curse(Lab(tiny_gpt2), facts=file))


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
            stated = [s.removeprefix(" ").split(" is the painter of ") for s in prompts[0].split(".")[1:-1]]
            scores = torch.zeros(len(prompts), len(answers))
            for i, prompt in enumerate(prompts):
                asked = prompt.rpartition(". ")[2]
                for pair in stated:
                    for given, wanted in (pair, pair[::-1]):
                        if given in asked:
                            scores[i, answers.index(f" {wanted}")] += lean
            return AnswerScores(scores, scores > 0, torch.ones(len(answers), dtype=torch.long))

        return score

    for lean, verdict in ((1.0, "yes"), (-1.0, "no")):
        monkeypatch.setattr(part_b, "score_answers", reader(lean))
        picked = findings(list(part_b.in_context(Lab(smol))))
        assert [f.verdict for f in picked] == [verdict, verdict]
        assert [f.estimate.mean for f in picked] == [float(lean > 0)] * 2

    def guess(_: Model, prompts: list[str], answers: list[str]) -> AnswerScores:
        scores = torch.randn(len(prompts), len(answers), generator=generator)
        return AnswerScores(scores, scores > 0, torch.ones(len(answers), dtype=torch.long))

    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(part_b, "score_answers", guess)
    assert all(f.verdict != "yes" for f in findings(list(part_b.in_context(Lab(smol)))))


def test_a_context_too_short_for_the_facts_leaves_that_part_out(tiny_gpt2: Model) -> None:
    yielded = list(part_b.in_context(Lab(tiny_gpt2)))
    assert [type(one) for one in yielded] == [NotAsked, NotAsked]


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


def write_pairs(folder: Path, text: str = PAIRS) -> Path:
    file = folder / "pairs.csv"
    file.write_text(text)
    return file


@pytest.mark.slow
def test_a_users_pairs_are_asked_by_surname(smol: Model, tmp_path: Path) -> None:
    kinds, left_out = by_surname(load_pairs(write_pairs(tmp_path)), part_b.LEAST, 40, 0)
    assert {kind.surname for kind in kinds} == {"different", "same"}
    assert left_out == ""
    yielded = findings(list(part_b.families(Lab(smol), kinds, 200)))
    leaked = next(f for f in yielded if "same surname" in f.claim and "forward" in f.claim)
    assert leaked.estimate.mean > leaked.control.estimate.mean + 0.5  # the surname alone gives it away
    example = [f for f in yielded if "Tom Cruise" in f.claim]
    assert len(example) == 2
    assert "smollm2-135m writes “" in example[0].measure


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS.replace("Tom Cruise,Mary Lee Pfeiffer", "Ana Poe,Zoe Quill")])
def test_every_pair_and_the_papers_example_has_a_row(tiny_gpt2: Model, tmp_path: Path, pairs: str) -> None:
    kinds, _ = by_surname(load_pairs(write_pairs(tmp_path, pairs)), part_b.LEAST, 40, 0)
    yielded = list(part_b.families(Lab(tiny_gpt2), kinds, 100))
    assert not_reached([part_b.PAIRS_FAMILY, part_b.BY_NAME, part_b.EXAMPLE], yielded) == []
    rows = [row for one in findings(yielded) for row in one.table]
    asked = {(row["pair"], row["direction"]) for row in rows}
    listed = [line.rpartition(",")[0].replace(",", ", ") for line in pairs.splitlines()[1:]]
    assert asked == {
        (pair, way) for pair in (*listed, "Tom Cruise, Mary Lee Pfeiffer") for way in ("forward", "reversed")
    }
    assert sum(row["pair"] == "Tom Cruise, Mary Lee Pfeiffer" and "the model writes" in row for row in rows) == 10
    assert drawn(yielded)


def test_pairs_that_are_not_asked_are_counted(tmp_path: Path) -> None:
    more = ["Ann Bee,Eve Cox,mother", "Ann Bee,Pat Dow,mother", "Tim Fox,Jo Fox,father"]
    file = write_pairs(tmp_path, PAIRS + "".join(f"{line}\n" for line in more))
    kinds, left_out = by_surname(load_pairs(file), 5, 5, 0)
    assert {kind.surname: [len(s) for s in kind.sets] for kind in kinds} == {"different": [5], "same": [5]}
    asked_or_not = sum(len(s) for kind in kinds for s in kind.sets) + sum(
        map(int, re.findall(r"\b(\d+) with", left_out))
    )
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
    with pytest.raises(UserError, match=word) as caught:
        next(reversal_curse(Lab(tiny_gpt2), pairs=file))
    assert "\n" not in str(caught.value)


def test_the_file_runs_by_its_path() -> None:
    file = Path(__file__).parents[1] / "probes" / "reversal_curse.py"
    done = warm.run(warm.INTERP, ["probe", file, "--help"])
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
    yielded = part_c.features(Lab(smol, sae_folder=word_sae), load_facts(data("facts/capitals.csv")), 500)
    one = answer_of(yielded, part_c.MOVES_FEATURES)
    assert one.verdict == verdict
    assert len(one.table) == 2 * part_c.TOP_FEATURES


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_facts_can_tell_directions_by_features(smol: Model, name: str) -> None:
    facts = load_facts(data(f"facts/{name}.csv"))
    assert part_c._end_alike(smol, facts)
    other = replace(facts, reversed=replace(facts.reversed, held_out="In short, {} belongs to"))
    assert not part_c._end_alike(smol, other)
