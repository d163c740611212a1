"""Directions in embedding space: planted ones are found, noise has none, and each number is that of a plain loop."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from answered import all_answered, findings
from refusals import the_line

from interp import Finding, Lab, Model, NotAsked, UserError
from interp.analysis.analogies import alike, ask_analogies, every_cosine
from interp.lab.discover import load_probe
from interp.model.training.small import SmallGPT2, train_small_gpt2
from probes._embedding_directions import CONTROLS, held, words
from probes._embedding_directions import analogies as by_offset
from probes._embedding_directions import steering as steering_part
from probes._embedding_directions.analogies import ask_all, best_baseline, over_families, shares
from probes._embedding_directions.controls import _found, measured_size, planted
from probes._embedding_directions.held import _principal, _random, attributes_of, more_directions
from probes._embedding_directions.one_direction import read_alike
from probes._embedding_directions.steering import (
    PLURAL,
    STEERS,
    TEMPLATES,
    NounSentences,
    _directions,
    admit,
    another,
)
from probes._embedding_directions.words import FAMILIES, KINDS, PREFIX, Vectors, Words, choose_words, read_vectors

PAIRS = [(0, 5), (1, 6), (2, 7), (3, 8)]


def noise(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_questions_are_answered_as_a_loop_answers_them() -> None:
    vectors = noise(12, 6, 0)
    vectors[5:9] = vectors[:4] + 0.8 * noise(1, 6, 1)
    spelt = [*range(10), 7, 0]  # candidates 10 and 11 are words 7 and 0, spelt otherwise
    vectors[10], vectors[11] = vectors[7] * 1.01, vectors[0] * 0.99
    x = (vectors - vectors.mean(0)).double().numpy()
    order = [1, 2, 3, 0]
    found = ask_analogies(vectors, PAIRS, words=spelt)
    for keep, way in product(
        (True, False), ("offset", "third word alone", "second word alone", "second and third word", "wrong pairs")
    ):
        if keep and way == "wrong pairs":
            continue
        ours = found.dealt(order) if way == "wrong pairs" else found.right(way, keep=keep)
        for i, j in product(range(4), range(4)):
            (a, b), (c, right) = PAIRS[i], PAIRS[j]
            b = PAIRS[order[i]][1] if way == "wrong pairs" else b
            if i == j or b == right:
                assert np.isnan(ours[i, j])
                continue
            others = {"third word alone": x[c], "second word alone": x[b], "second and third word": x[c] + x[b]}
            query = others.get(way, x[c] + x[b] - x[a])
            best, answer = -np.inf, None
            for k in range(12):
                cosine = float(query @ x[k] / np.linalg.norm(query) / np.linalg.norm(x[k]))
                if cosine > best and (keep or spelt[k] not in (a, b, c)):
                    best, answer = cosine, spelt[k]
            assert ours[i, j] == (answer == right), (way, keep, i, j)


def test_a_random_offset_is_as_long_and_drawn_by_the_seed() -> None:
    vectors = noise(12, 64, 0)
    drift = [ask_analogies(vectors, PAIRS, seed=seed)._drift() for seed in (0, 0, 1)]
    assert torch.equal(drift[0], drift[1])
    assert not torch.equal(drift[0], drift[2])
    x = vectors - vectors.mean(0)
    back = torch.linalg.lstsq((x / x.norm(dim=1, keepdim=True)), drift[0][2, 3][:, None]).solution[:, 0]
    assert float(back.norm()) <= float((x[7] - x[2]).norm()) + 1e-3, "what 12 directions of 64 see of it is no longer"


def test_cosines_of_offsets_are_those_of_a_loop() -> None:
    vectors = noise(9, 5, 2)
    table = every_cosine(vectors, PAIRS)
    for order in ([0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 1, 0]):
        ours = alike(table, order)
        for i, j in product(range(4), range(4)):
            if i == j or order[i] == j or order[j] == i:
                assert np.isnan(ours[i, j])
                continue
            one, two = (vectors[PAIRS[order[k]][1]] - vectors[PAIRS[k][0]] for k in (i, j))
            assert ours[i, j] == pytest.approx(float(one @ two / one.norm() / two.norm()), abs=1e-6)


def test_questions_need_pairs_of_different_words() -> None:
    for pairs in ([(0, 1), (2, 3)], [(0, 1), (1, 2), (3, 4)]):
        with pytest.raises(ValueError, match="three pairs or more"):
            ask_analogies(noise(6, 4, 0), pairs)
    with pytest.raises(ValueError, match="each of them once"):
        ask_analogies(noise(12, 4, 0), PAIRS).dealt([0, 0, 1, 2])


def listed(n_rivals: int = 600) -> Words:
    """The lists of the probe, every word known."""
    told = {name: [words._pair(text) for text in some.split(", ")] for name, some in FAMILIES.items()}
    known: dict[str, list[tuple[str, str]]] = {}
    for name, pairs in told.items():  # a word is planted once
        seen = {word for some in known.values() for pair in some for word in pair}
        known[name] = [pair for pair in pairs if not seen & set(pair)]
    known = {name: pairs for name, pairs in known.items() if len(pairs) > 4}
    kinds = {name: some.split() for name, some in KINDS.items()}
    rivals = [f"rival{i}" for i in range(n_rivals)]
    everything = [
        *(w for some in known.values() for pair in some for w in pair),
        *(w for some in kinds.values() for w in some),
        *rivals,
    ]
    return Words(known, kinds, rivals, [], {word: i for i, word in enumerate(dict.fromkeys(everything))})


@pytest.mark.parametrize("seed", range(2))
def test_planted_directions_are_found_and_noise_has_none(seed: int) -> None:
    told = listed()
    rng = np.random.default_rng(seed)
    orders = [[rng.permutation(len(pairs)).tolist() for pairs in told.families.values()] for _ in range(60)]
    made, nothing = planted(told, 256, seed), Vectors((0,), noise(len(told.ids), 256, seed)[None])
    for keep in (False, True):
        assert shares(ask_all(made, told, 0, seed), keep=keep).min() == 1.0
    assert best_baseline(ask_all(made, told, 0, seed)).mean() < 0.3, "none of c, b and c + b finds what is planted"
    assert shares(ask_all(nothing, told, 0, seed)).mean() < 0.05
    found, none = (read_alike(some, told, 0, orders) for some in (made, nothing))
    assert found.gaps.min() > 0.1
    assert found.means.min() > 0.9
    assert np.abs(none.gaps).max() < 0.1


def test_what_c_and_b_find_together_without_the_minus_is_no_offset() -> None:
    """Pairs of one family whose two words share more with each other than with all the rest: c + b is right always."""
    told = listed(0)
    made = planted(told, 256, 0, strong=3.0)
    asked = ask_all(made, told, 0, 0)
    offset, alone, best = shares(asked), shares(asked, "third word alone"), best_baseline(asked)
    assert (offset - alone).mean() > 0.3, "beside c alone the offset looks as if it did much"
    assert (offset - best).mean() < 0.05
    assert [claim.text for claim in by_offset.CLAIMS if "best of c, b and c + b" in claim.text and claim.answers]


def test_the_size_of_the_models_own_offsets_is_measured() -> None:
    told = listed(0)
    for strong, noise in ((0.7, 0.1), (0.4, 0.5)):
        shared, own = measured_size(told, planted(told, 512, 0, strong=strong, noise=noise))
        assert shared == pytest.approx(strong, abs=0.1)
        assert own == pytest.approx(noise, abs=0.1)


def test_no_control_is_a_certainty_where_nothing_is_found() -> None:
    """Questions without one right answer still leave room for a few in a hundred."""
    told = listed()
    none = _found(Vectors((0,), noise(len(told.ids), 512, 3)[None]), told, 0, 0)
    assert none.high > none.mean


def speaker(texts: list[str], steps: int) -> Model:
    """A small GPT-2 that knows every word of the probe as a token."""
    every = " ".join([*FAMILIES.values(), *KINDS.values()]).replace(",", "").split()
    lists = [" ".join(every[i : i + 6]) for i in range(0, len(every), 6)]
    said = [template.format("dog") for template in TEMPLATES]
    return train_small_gpt2([*texts, *said, PREFIX, *lists], SmallGPT2(n_layers=2, d_model=48, steps=steps))


@pytest.fixture(scope="module")
def numbered() -> Model:
    """It must tell singular from plural, and animals from places: what comes next depends on it."""
    pairs = [pair.split() for pair in FAMILIES["plural"].split(", ")]
    verbs = ("is", "are")
    texts = [f"{t.format(word)} {verb}" for t in TEMPLATES for p in pairs for word, verb in zip(p, verbs, strict=True)]
    texts += [f"{PREFIX} {word} {kind}" for kind, some in KINDS.items() for word in some.split()]
    texts += [f"{PREFIX} {word} {verb}" for pair in pairs for word, verb in zip(pair, verbs, strict=True)]
    return speaker(texts, 150)


def reached_by(model: Model, seed: int = 0) -> list[Finding | NotAsked]:
    """Of two kinds of nouns, which is enough and sooner done. Every claim is answered, or said not to be asked."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(words, "KINDS", {kind: KINDS[kind] for kind in ("animal", "place")})
        return all_answered(load_probe("embedding-directions"), Lab(model, seed=seed, quick=True), n_perm=40)


def findings_of(model: Model, seed: int = 0) -> list[Finding]:
    return findings(reached_by(model, seed))


def by_claim(found: list[Finding], start: str) -> Finding:
    (one,) = [finding for finding in found if start in finding.claim]
    return one


def test_a_model_that_needs_number_is_steered_by_it(numbered: Model) -> None:
    found = findings_of(numbered)
    assert by_claim(found, "Added to a singular noun").verdict == "yes"
    assert all(f.verdict == "yes" for f in found if "Positive" in f.claim)
    assert all(f.verdict != "no" for f in found if f.part == CONTROLS)
    assert sum(finding.answers for finding in found) == 4
    assert found == findings_of(numbered), "the same seed, the same findings"


@pytest.mark.parametrize("seed", range(2))
def test_an_untrained_model_gets_no_yes(seed: int) -> None:
    model = speaker([f"{t.format('dog')} {verb}" for t in TEMPLATES for verb in ("is", "are")], 1)
    with torch.no_grad():
        for i, weight in enumerate(model.hf.parameters()):
            if weight.ndim > 1:
                weight.copy_(0.05 * noise(*weight.shape, seed=seed * 100 + i))
    found = findings_of(model, seed)
    assert "yes" not in [f.verdict for f in found if f.answers]
    assert "yes" not in [f.verdict for f in found if f.part != CONTROLS and "leaving" not in f.claim]
    assert by_claim(found, "Positive control: planted directions are found every time.").verdict == "yes"


def test_steering_is_what_a_plain_hook_does(numbered: Model) -> None:
    told = choose_words(numbered)
    vectors = read_vectors(numbered, told, (0, 1))
    noun_sentences = admit(numbered, told)
    assert noun_sentences is not None
    clean = noun_sentences.lean(noun_sentences.prompts(0))[0]
    directions = _directions(told, vectors, 1, 2, 0)
    shifts = noun_sentences.shift(1, directions, clean)
    places = np.array(told.places("plural"))
    for noun in (0, 3):
        others = [k for k in range(len(places)) if k % 2 != noun % 2]
        offset = torch.stack([vectors.of(1)[places[k, 1]] - vectors.of(1)[places[k, 0]] for k in others]).mean(0)
        torch.testing.assert_close(directions[0, noun], offset)
        assert float(directions[2, noun].norm()) == pytest.approx(float(offset.norm()), rel=1e-4)
        for which in (0, 2):
            ids = torch.tensor(numbered.encode(TEMPLATES[1].format(noun_sentences.nouns[noun][0])))
            block = numbered.hf.get_submodule("transformer.h.0")

            def push(
                _: object, __: object, out: torch.Tensor, by: torch.Tensor = directions[which, noun]
            ) -> torch.Tensor:
                out = out.clone()
                out[:, -1] += by
                return out

            handle = block.register_forward_hook(push)
            try:
                with torch.no_grad():
                    logits = numbered.hf(ids).logits[0, -1].double()
            finally:
                handle.remove()
            lean = float(logits[noun_sentences.verbs[1]] - logits[noun_sentences.verbs[0]])
            assert shifts[which, 1, noun] + clean[1, noun] == pytest.approx(lean, abs=1e-3)


def test_one_more_random_direction_may_reach_as_far_as_a_few_of_them_spread() -> None:
    """Each moves all nouns alike: what another one does lies within the reach in 95 % of draws."""
    generator = np.random.default_rng(0)
    held_by = []
    for _ in range(400):
        effects = generator.normal(0, 3, 9)
        reach = another(np.broadcast_to(effects[:8, None, None], (8, 3, 10)))
        held_by.append(abs(effects[8] - effects[:8].mean()) <= reach.high)
    assert np.mean(held_by) == pytest.approx(0.95, abs=0.035)


def test_a_random_direction_that_moves_all_nouns_alike_is_not_taken_for_the_plural(
    numbered: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its effect is large and the same for every noun; so is that of any random direction, whatever its sign."""
    told = choose_words(numbered)
    vectors, nouns = read_vectors(numbered, told, (1,)), admit(numbered, told, quick=True)
    assert nouns is not None
    n_nouns = len(nouns.nouns)
    assert n_nouns * len(TEMPLATES) <= 2 * len(told.families["plural"]), "no dearer than two wordings of every noun"

    def all_random(words: Words, vectors: Vectors, layer: int, n_random: int, seed: int) -> torch.Tensor:
        return torch.tensor([1.5, -2.0, 2.5, -1.0, 0.5, -1.5, 2.0])[:, None, None].expand(7, n_nouns, 48)

    def moved(self: NounSentences, layer: int, directions: torch.Tensor, clean: np.ndarray) -> np.ndarray:
        return directions[:, None, :, 0].expand(7, len(TEMPLATES), -1).double().numpy() + 0.01 * clean

    monkeypatch.setattr(steering_part, "_directions", all_random)
    monkeypatch.setattr(NounSentences, "shift", moved)
    steered, _ = steering_part.steering(Lab(numbered, quick=True), told, vectors, 1, nouns)
    assert isinstance(steered, Finding)
    assert steered.estimate.low > 0.5, "noun by noun it is surely more than random directions do on average"
    assert steered.verdict == "unclear"


def test_vectors_are_of_the_embedding_and_of_the_word_behind_the_prefix(numbered: Model) -> None:
    told = choose_words(numbered)
    vectors = read_vectors(numbered, told, (0, 2))
    where = told.all.index("queen")
    torch.testing.assert_close(
        vectors.of(0)[where], numbered.hf.get_parameter("transformer.wte.weight")[told.ids["queen"]]
    )
    site = numbered.residual(2)
    torch.testing.assert_close(vectors.of(2)[where], numbered.capture(f"{PREFIX} queen", site).last(site)[0])


def test_all_directions_are_all_whatever_the_basis(numbered: Model) -> None:
    told = choose_words(numbered)
    for basis in (_principal(numbered, told), _random(48, 0)):
        torch.testing.assert_close(basis.T @ basis, torch.eye(48), atol=1e-5, rtol=0)
    found = findings(more_directions(Lab(numbered, quick=True), told, read_vectors(numbered, told, (0,))))
    for finding in found[:2]:
        whole = [tuple(row.values())[2:] for row in finding.table if row["directions kept"] == "48"]
        assert len(whole) == 2
        assert whole[0] == whole[1]


def test_the_lists_are_what_they_say(smol: Model) -> None:
    told = choose_words(smol)
    for name, pairs in told.families.items():
        both = [word for pair in pairs for word in pair]
        assert len(set(both)) == len(both), name
        assert len(pairs) <= 10
    nouns = " ".join(KINDS.values()).split()
    assert len(set(nouns)) == len(nouns)
    for word, i in list(told.ids.items())[::40]:
        assert str(smol.tokenizer.decode([i])) == f" {word}"
    assert {"opposite"} == set(told.families) - {one.name for one in attributes_of(told)}


def test_the_bundled_embedding_has_directions(smol: Model) -> None:
    told = choose_words(smol)
    asked = ask_all(read_vectors(smol, told, (0,)), told, 0, 0)
    assert shares(asked).mean() > shares(asked, "third word alone").mean() + 0.1
    assert shares(asked, keep=True).mean() < 0.5


def test_what_cannot_be_asked_is_left_out_and_told() -> None:
    """A vocabulary with the families alone: neither kinds of nouns nor sentences."""
    every = " ".join(FAMILIES.values()).replace(",", "").split()
    lists = [" ".join(every[i : i + 6]) for i in range(0, len(every), 6)]
    model = train_small_gpt2([PREFIX, *lists], SmallGPT2(n_layers=1, d_model=16, n_heads=2, steps=1))
    left_out = [one for one in reached_by(model) if isinstance(one, NotAsked)]
    assert {one.declared for one in left_out} == {held.KIND.text, held.NO_KIND.text, STEERS.text, PLURAL.text}
    assert "nouns of 0 kinds are one token each" in left_out[0].because


@pytest.mark.parametrize(("flag", "value"), [("n_perm", 39), ("n_deals", 5)])
def test_bad_flags_are_one_line(tiny_gpt2: Model, flag: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')} {value}; expected 40 or more") as refused:
        next(iter(load_probe("embedding-directions")(Lab(tiny_gpt2), **{flag: value})))
    the_line(refused)


def test_a_model_that_splits_the_words_is_refused(tiny_gpt2: Model) -> None:
    with pytest.raises(UserError, match="one token each") as refused:
        next(iter(load_probe("embedding-directions")(Lab(tiny_gpt2))))
    the_line(refused)


def test_a_difference_of_cosines_may_reach_two() -> None:
    """Right pairs all one way, wrong ones the other: bounds of a share would refuse it, or cut its interval at 1."""
    lab = Lab(None, seed=0)  # type: ignore[arg-type]
    for values in (np.full(6, 1.5), np.array([0.9, 0.8, 1.2, 0.7, 1.4, 0.6])):
        with pytest.raises(UserError, match="outside their bounds"):
            over_families(values, lab, "cosine")
        assert over_families(values, lab, "cosine", (-2.0, 2.0)).high > 1
