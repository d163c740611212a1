"""Enrichment: a planted direction is found at its layer, noise and random weights are not, and chance is chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from know_nothing import know_nothing
from refusals import the_line

from interp import Claim, Control, Finding, Lab, Model, NotAsked, UserError, load_probe, set_beforehand
from interp.edits import steer
from interp.lab.claims import not_reached
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.stats import estimate_crossed, estimate_mean
from interp.views.figures import draw
from probes._context_enrichment import RIGHT, carried, controls, direction, phrases, used
from probes._context_enrichment.senses import WORDS, left_out
from probes._context_enrichment.size import (
    dealt_likeness,
    length_between,
    likeness,
    place_between,
    tell_apart,
    told_by,
)

SHAPE = (4, 12, 6, 16)  # template, adjective, noun, d_model


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def every_word() -> list[str]:
    """Sentences that give a word-level tokenizer all that the probe says."""
    adjectives = (*phrases.SMALL, *phrases.LARGE, *phrases.NEUTRAL, *phrases.NEW, *phrases.OLD)
    templates = (*phrases.TEMPLATES, phrases.SAID)
    spoken = [template.format(" ".join(adjectives), " ".join(phrases.NOUNS)) for template in templates]
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


def findings_of(model: Model) -> list[Finding | NotAsked]:
    answers = list(load_probe("context-enrichment")(Lab(model, quick=True), n_perm=60))
    for answer in answers:
        if isinstance(answer, Finding) and answer.figure:
            draw(answer)
    return answers


def by_claim(answers: list[Finding | NotAsked], claim: Claim) -> Finding:
    return next(one for one in answers if isinstance(one, Finding) and one.declared == claim.text)


@pytest.fixture(scope="module")
def answers(enriched: Model) -> list[Finding | NotAsked]:
    return findings_of(enriched)


def test_where_size_must_be_known_it_is_found(enriched: Model, answers: list[Finding | NotAsked]) -> None:
    for claim in (direction.GENERALISES, direction.ALIKE, carried.BY_ATTENTION, controls.BEGINNING, controls.PLANTED):
        assert by_claim(answers, claim).verdict == "yes", claim.text
    assert by_claim(answers, direction.GENERALISES).estimate.mean > 0.95
    assert by_claim(answers, carried.NOT_THE_CUT).estimate.mean > 0.7
    assert by_claim(answers, controls.UNTRAINED).verdict != "no"
    assert answers == findings_of(enriched), "the same seed, the same findings"


def test_every_claim_is_answered_or_said_not_to_be_asked(answers: list[Finding | NotAsked]) -> None:
    assert not not_reached(load_probe("context-enrichment").claims, answers)


@pytest.mark.parametrize("kind", ["random_weights", "last_word", "token_copier"])
def test_every_claim_is_reached_in_models_that_know_nothing_and_none_is_believed(smol: Model, kind: str) -> None:
    """One has no attention, another one layer: parts that cannot be asked are said not to be."""
    answers = findings_of(know_nothing(kind, smol, seed=1))
    assert not not_reached(load_probe("context-enrichment").claims, answers)
    if kind == "last_word":
        believed = [one for one in answers if isinstance(one, Finding) and one.verdict == "yes" and not one.arithmetic]
        assert {one.declared for one in believed} <= {claim.text for claim in controls.CLAIMS}


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
    told = tell_apart(noise(0)[:, :1].expand(SHAPE).contiguous(), 60, 0)
    np.testing.assert_array_equal(told.right, 0.5)


def test_pairs_are_counted_as_a_loop_counts_them() -> None:
    at = noise(3)
    at[:, 6:] += 0.4
    told = told_by(at, at)
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


def world(seed: int, adjectives: int = 12) -> torch.Tensor:
    """Adjectives with nothing but vectors of their own, which every noun takes on."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, adjectives, 1, 64), (1, 1, 8, 64), (4, 1, 1, 64))
    own, noun, sentence = (torch.randn(shape, generator=generator) for shape in shapes)
    return own + noun + sentence + 0.3 * torch.randn(4, adjectives, 8, 64, generator=generator)


def along(places: list[float]) -> torch.Tensor:
    """Phrases [template, adjective, noun, 1 dimension] whose adjectives lie there, the nouns all alike."""
    return torch.tensor(places)[None, :, None, None].expand(2, len(places), 8, 1).contiguous()


def test_what_lies_between_lies_between() -> None:
    at = noise(1) * 0.1
    at[:, 6:] += 2.0
    between = noise(2)[:, :3] * 0.1 + 1.0
    np.testing.assert_allclose(place_between(at, between), 0.5, atol=0.1)


def asked_where(between: list[float]) -> Finding | NotAsked:
    small_and_large = along([0.0] * 6 + [1.0] * 6)
    words = phrases.Words(("s",) * 6, ("l",) * 6, tuple(map(str, range(len(between)))), ("n",) * 8)
    first = direction.generalises({0: tell_apart(small_and_large, 60, 0)}, 0, words)
    return direction.in_between(small_and_large, along(between), words, first)


def test_a_claim_on_adjectives_is_judged_over_adjectives() -> None:
    scattered = asked_where([0.15, 0.2, 0.25, 0.3, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.68, 0.2])
    assert isinstance(scattered, Finding)
    assert scattered.estimate.mean == pytest.approx(0.36, abs=0.01)
    assert scattered.estimate.low < 0.3, "over nouns, which are all alike, it would be a certainty"
    assert scattered.verdict == "unclear"
    together = asked_where([0.46, 0.5, 0.54, 0.48, 0.52, 0.5, 0.47, 0.53, 0.5, 0.49])
    assert isinstance(together, Finding)
    assert together.verdict == "yes"


def test_nothing_lies_between_where_there_is_no_direction() -> None:
    at = world(0)
    words = phrases.Words(("s",) * 6, ("l",) * 6, ("x",) * 12, ("n",) * 8)
    first = direction.generalises({0: tell_apart(at, 100, 0)}, 0, words)
    assert first.verdict != "yes"
    assert isinstance(direction.in_between(at, world(1), words, first), NotAsked)
    inside = [abs(place_between(world(i), world(100 + i)).mean() - 0.5) < 0.17 for i in range(20)]
    assert sum(inside) < 10, "ends that the direction was made from lie apart even where it is noise"


def test_adjectives_with_vectors_of_their_own_are_no_direction_of_size() -> None:
    """36 worlds: with 2.5 % each, more than 4 false ones come in less than 1 of 400 studies of a sound method."""
    false = {"told": 0, "alike": 0, "alike over nouns": 0, "specific": 0}
    for seed in range(36):
        at, other = world(seed), world(1000 + seed)
        apart = tell_apart(at, 200, seed)
        false["told"] += apart.estimate.low > apart.null.mean and apart.estimate.mean > apart.null.high
        centred = at - at.mean((0, 1, 2))
        gap = np.subtract(*likeness(centred))
        over_both = estimate_crossed([gap.T], unit="cosine", over="adjective")
        null = dealt_likeness(centred, 200, seed, "cosine")
        false["alike"] += over_both.low > null.mean and over_both.mean > null.high
        false["alike over nouns"] += estimate_mean(gap.mean(0), unit="cosine", over="noun").low > 0
        answers = list(direction.specific({"size": at, "age": other}, 0))
        false["specific"] += isinstance(answers[0], Finding) and answers[0].verdict == "yes"
    assert max(false["told"], false["alike"], false["specific"]) <= 4, false
    assert false["alike over nouns"] > 8, "the unit that was taken before says yes to nothing"


def verdicts_of(sized: torch.Tensor, aged: torch.Tensor) -> list[str]:
    answers = direction.specific({"size": sized, "age": aged}, 3)
    return [one.verdict if isinstance(one, Finding) else "not asked" for one in answers]


@pytest.mark.parametrize("seed", range(3))
def test_a_direction_of_size_is_told_from_one_of_age(seed: int) -> None:
    size, age = 8.0 * torch.eye(64)[:2]

    def kinds(large: torch.Tensor, old: torch.Tensor) -> list[str]:
        sized, aged = world(seed), world(50 + seed)
        sized[:, 6:] += large
        aged[:, 6:] += old
        return verdicts_of(sized, aged)

    assert kinds(size, age) == ["yes", "yes"]
    assert "yes" not in kinds(size, size), "one direction for both"
    assert "yes" not in kinds(size, -size), "and for both, the other way round"
    assert "yes" not in kinds(size, 0.7 * (size + age)), "and for both in part"
    assert verdicts_of(world(seed), world(50 + seed))[0] != "yes"


def test_random_weights_are_judged_over_models() -> None:
    """One world of a dozen adjectives tells 20 to 80 %; the mean of twelve of them lies near one half."""
    shares = np.array([told_by(world(i), world(i)).mean() for i in range(36)])
    assert shares.std() > 0.12
    verdicts = []
    for part in shares.reshape(3, 12):
        mean = estimate_mean(part, unit=RIGHT, over="model", bounds=(0.0, 1.0))
        verdicts.append(controls.UNTRAINED.answer(mean, set_beforehand(0.5, RIGHT, "chance")).verdict)
    assert "no" not in verdicts
    leaking = estimate_mean(np.clip(shares[:12] + 0.35, 0, 1), unit=RIGHT, over="model", bounds=(0.0, 1.0))
    assert controls.UNTRAINED.answer(leaking, set_beforehand(0.5, RIGHT, "chance")).verdict != "yes"


def test_the_planted_direction_is_as_long_as_the_measured_one_and_short_ones_are_missed(tiny_gpt2: Model) -> None:
    sized, neutral = world(0), world(1)
    nothing = [length_between(world(i)) for i in range(20)]
    assert abs(np.mean(nothing)) < 1.5, "what only one half of the adjectives shows is no length"
    direction = torch.zeros(64)
    direction[3] = 12.0
    sized[:, 6:] += direction
    assert length_between(sized) == pytest.approx(12.0, rel=0.15)
    lab = Lab(tiny_gpt2, quick=True)
    seen = controls.planted(lab, sized, neutral, 200)
    assert seen.verdict == "yes"
    assert "as long as the one" in seen.claim
    rows = [row[controls.FOUND] for row in seen.table]
    assert all(isinstance(share, float) for share in rows)
    rng = np.random.default_rng(0)
    missed = [controls.plant_and_find(neutral, 0.01, rng, 60) for _ in range(16)]
    assert sum(missed) <= 4, "a direction that is too short is not found: the power says how short"


def test_heads_that_all_help_a_little_are_not_a_few() -> None:
    rng = np.random.default_rng(0)
    chosen, others = rng.normal(0.15, 0.02, (5, 6)), rng.normal(0.05, 0.02, (4, 6))
    answered = carried.FEW_HEADS.answer(
        carried.over_adjectives(chosen),
        Control("others", carried.over_adjectives(others)),
        paired=carried.over_adjectives(chosen.mean(0) - others),
    )
    assert answered.verdict == "no"


def test_a_push_is_read_with_its_sign_and_at_the_noun(enriched: Model) -> None:
    pushes = used.Pushes(enriched, 1, ("red", "white"), ("tower", "house"), {"size": ["small", "large"]})
    direction = torch.randn(48, generator=torch.Generator().manual_seed(0))
    there, back = (effect["size"] for effect in pushes.effects([direction, -direction]))
    np.testing.assert_allclose(there, -back, atol=1e-6)
    assert np.abs(there).max() > 1e-4
    prompts = [phrases.SAID.format("red", "tower")]
    leads = []
    for by in (0.5, -0.5):
        with enriched.edit({enriched.residual(1): steer(direction, by, pos=-3)}):
            logs = enriched.last_logits(prompts).log_softmax(-1)[0]
        large, small = (logs[enriched.encode(f"We saw the {word}")[0][-1]] for word in ("large", "small"))
        leads.append(float(large - small))
    assert there[0, 0] == pytest.approx(leads[0] - leads[1], abs=1e-4)


def test_words_that_are_read_make_no_direction() -> None:
    for n in (10, 12, 20):
        read, made = used.read_and_made(n)
        assert not set(read) & set(made)
        assert sum(i < n // 2 for i in read) * 2 == len(read)
        assert sum(i < n // 2 for i in made) * 2 == len(made)


def effects(mean: float, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"size": rng.normal(mean, 0.05, (4, 3)), "age": rng.normal(0.0, 0.05, (4, 3))}


def test_a_push_must_do_more_than_pushes_that_mean_nothing() -> None:
    rng = np.random.default_rng(1)
    dealt = [effects(mean, i) for i, mean in enumerate(rng.normal(0, 0.5, 40))]
    by_kind = {"size": effects(2.5, 100), "age": effects(0.0, 101)}
    answers = {
        one.claim: one.verdict for one in used._answers(by_kind, dealt, dealt[:4], "") if isinstance(one, Finding)
    }
    assert answers[used.FOLLOWS.about({"kind": "size"})] == "yes"
    assert answers[used.FOLLOWS.about({"kind": "age"})] == "no"
    assert answers[used.OWN_WORDS.about({"kind": "size", "other": "age"})] == "yes"
    by_kind["size"] = effects(0.6, 100)  # far from zero over phrases, and no farther than other directions push
    for one in used._answers(by_kind, dealt, dealt[:4], ""):
        assert isinstance(one, NotAsked) or one.verdict != "yes"


def test_the_control_of_a_push_is_passed_by_chance_as_rarely_as_it_says() -> None:
    """20 deals, as in a quick run: each counts both ways, for no more forward passes; a push by chance is one more."""
    rng = np.random.default_rng(2)
    beyond = {used.FOLLOWS.about({"kind": "size"}): 0, used.OWN_WORDS.about({"kind": "size", "other": "age"}): 0}
    studies = 300
    for _ in range(studies):
        pushes = [
            {kind: np.full((2, 2), rng.normal()) for kind in ("size", "age")} for _ in range(2 + used.QUICK_DEALT)
        ]
        by_kind: dict[str, used.Effects] = {"size": pushes[0], "age": pushes[1]}
        for one in used._answers(by_kind, pushes[2:], pushes[2:6], ""):
            if isinstance(one, Finding) and one.claim in beyond:
                assert one.control.estimate.n == 2 * used.QUICK_DEALT
                beyond[one.claim] += one.estimate.mean > one.control.estimate.high
    assert all(0 < count / studies <= 0.045 for count in beyond.values())


def test_too_few_deals_are_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match="--n-perm 38; expected 39 or more"):
        next(iter(load_probe("context-enrichment")(Lab(None), n_perm=38)))  # type: ignore[arg-type]


def test_senses_are_told_where_they_differ() -> None:
    sense = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    vectors = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)) * 0.1
    vectors[4:] += 1
    assert left_out(vectors, sense) == 1.0
    assert left_out(vectors[:1].expand(8, 12), sense) == 0.5


def test_sentences_end_in_their_word() -> None:
    for word, senses in WORDS.items():
        assert [len(some) for some in senses] == [4, 4]
        assert all(s.split()[-1] == word for some in senses for s in some)
    assert not set(phrases.SMALL) & set(phrases.LARGE)


def test_a_model_that_splits_the_words_is_refused(tiny_gpt2: Model) -> None:
    with pytest.raises(UserError, match="are one token") as refused:
        next(iter(load_probe("context-enrichment")(Lab(tiny_gpt2))))
    the_line(refused)
