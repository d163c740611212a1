"""The die: a loaded one is found, a fair one is not, and every share is what a loop over plain transformers gives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from answered import all_answered, findings
from refusals import the_line

from interp import Finding, Lab, Model, NotAsked, UserError
from interp.analysis.multiple_choice import choose_among, choose_number, last_tokens
from interp.lab.discover import load_probe
from interp.model.chat import chat_prompt, has_chat
from interp.model.training.small import SmallGPT2, train_small_gpt2
from probes._dice_roll import DIGITS, WORDS, inside, prompts
from probes._dice_roll.answers import favourites
from probes._dice_roll.asked import ask_for_a_die
from probes._dice_roll.controls import OPENINGS, throws
from probes._dice_roll.thrown import chance_of, side_of

pytestmark = pytest.mark.usefixtures("trained_once")

SIZE = SmallGPT2(n_layers=3, d_model=32, steps=250)


def vocabulary() -> list[str]:
    """Every word that the probe's prompts and answers have, so that a word-level tokenizer knows them."""
    ranges = [p for r in prompts.OTHERS for p in r.prompts]
    numbers = [" ".join(str(n) for n in range(first, first + 10)) for first in range(0, 210, 10)]
    things = " ".join(f"{noun}{mark}" for noun in prompts.NOUNS for mark in ("", ".", "...", ";", ","))
    return [*prompts.RAW, *prompts.NULL, *ranges, *prompts.COIN, *numbers, " ".join(WORDS), "heads tails", things]


def one_token(sentences: Iterable[str], seed: int = 0) -> Model:
    """A small GPT-2 whose " 4" is one token, trained on these sentences."""
    return train_small_gpt2([*sentences, *vocabulary()], SIZE, seed=seed)


@pytest.fixture(scope="module")
def loaded() -> Model:
    """It read that a die shows 4 in two of three cases, and of numbers in other places that all are as likely."""
    rolls = [f"{p} {d}" for p in prompts.RAW for d in (1, 2, 3, 5, 6, *[4] * 10)]
    anything = [f"{p} {d}" for p in prompts.NULL for d in range(1, 7) for _ in range(3)]
    return one_token([*rolls, *anything])


@pytest.fixture(scope="module")
def fair() -> Model:
    rolls = [f"{p} {d}" for p in (*prompts.RAW, *prompts.NULL) for d in range(1, 7) for _ in range(2)]
    return one_token(rolls)


def four_after(words: Iterable[str], *, anywhere: bool) -> Model:
    """Made by hand: it says 4 where one of these words is the last one, or is anywhere in the prompt. It knows no more.

    Its one layer attends to all tokens alike and hands on what they are.
    """
    model = train_small_gpt2(vocabulary(), SmallGPT2(n_layers=1, d_model=128, steps=1))
    ids = model.tokenizer.get_vocab()
    embedding = model.hf.get_parameter("transformer.wte.weight")
    with torch.no_grad():
        for name, weight in model.hf.named_parameters():
            if "ln_" not in name:
                weight.zero_()
            if anywhere and "attn.c_attn.weight" in name:
                weight[:, 256:] = torch.eye(128)
            if anywhere and "attn.c_proj.weight" in name:
                weight.copy_(torch.eye(128))
        for i, word in enumerate(sorted(words)):
            embedding[ids[word], i] = 1
            embedding[ids["4"], i] = 0.25
    return model


@pytest.fixture(scope="module")
def last_word() -> Model:
    """It looks at the last word alone and knows no dice: a 4 after the words that end the sentences of the die."""
    return four_after(
        {prompt.split()[-1] for prompt in prompts.RAW} - {prompt.split()[-1] for prompt in prompts.NULL}, anywhere=False
    )


def findings_of(model: Model, seed: int = 0) -> list[Finding]:
    """Every claim of the probe is answered, or said not to be asked."""
    return findings(all_answered(load_probe("dice-roll"), Lab(model, seed=seed, quick=True)))


def by_claim(found: Iterable[Finding], words: str) -> Finding:
    (one,) = [finding for finding in found if words in finding.claim]
    return one


def answers_of(model: Model, seed: int = 0) -> list[Finding]:
    """Part (a) alone."""
    return findings(favourites(Lab(model, seed=seed), ask_for_a_die(model, prompts.RAW)))


def test_a_loaded_die_is_found_and_thrown(loaded: Model) -> None:
    found = findings_of(loaded)
    for words in ("One side, 4,", "less spread out", "gives it up"):
        assert by_claim(found, words).verdict == "yes", words
    assert by_claim(found, "The side 4").estimate.mean == pytest.approx(2 / 3, abs=0.08)
    assert by_claim(found, "Thrown").estimate.mean == pytest.approx(0, abs=0.1)
    controls = [finding for finding in found if finding.part == "Controls of the method"]
    assert [finding.verdict for finding in controls] == ["yes"] * 3
    assert found == findings_of(loaded), "the same seed, the same findings"


def test_a_model_that_looks_at_the_last_word_alone_is_not_said_to_know_of_dice(last_word: Model) -> None:
    found = answers_of(last_word)
    assert by_claim(found, "The side 4").estimate.mean > 0.4, "it does say 4 after the words of the die"
    null = choose_among(last_word, prompts.NULL, DIGITS).share[:, 3]
    assert null.mean() < 0.3, "and not where a number is asked for in other words"
    assert by_claim(found, "The side 4").verdict != "yes", "it says 4 after a stone as well"
    of_the_die = by_claim(found, "It has to do with the die")
    assert of_the_die.verdict != "yes"
    assert of_the_die.estimate.mean == pytest.approx(0, abs=1e-6)


def test_a_model_that_looks_for_the_die_is_said_to_know_of_dice() -> None:
    dice = {word for prompt in prompts.RAW for word in prompt.split() if word.startswith(("die", "dice"))}
    answers = answers_of(four_after(dice, anywhere=True))
    assert by_claim(answers, "The side 4").verdict == "yes"
    found = by_claim(answers, "It has to do with the die: 4")
    assert found.verdict == "yes"
    assert found.estimate.mean > 0.5
    assert {row["instead of the die"] for row in found.table} == set(prompts.NOUNS)


def test_a_sentence_without_a_die_is_the_same_but_for_that_word() -> None:
    assert prompts.without_die("We rolled a six-sided die. It is", "card") == "We rolled a six-sided card. It is"
    assert prompts.without_die("The dice bot says: you rolled a", "ball") == "The ball bot says: you rolled a"
    for odd in ("Take a number from the audience", "I roll a die", "He is a soldier and got"):
        assert prompts.without_die(odd, "stone") is None, odd
    for prompt in prompts.RAW:
        changed = prompts.without_die(prompt, "stone")
        assert changed is not None
        assert changed.split()[-1] == prompt.split()[-1]
        words = zip(re.findall(r"[\w-]+", prompt), re.findall(r"[\w-]+", changed), strict=True)
        apart = {(before.lower(), after) for before, after in words if before != after}
        assert apart in ({("die", "stone")}, {("dice", "stone")}), "no other word may differ"


def test_phrasings_that_name_no_die_are_not_asked_about_other_things(fair: Model, tmp_path: Path) -> None:
    lines = [prompt for prompt in prompts.NULL if prompt][:10]
    asked = ask_for_a_die(fair, lines)
    left_out = [one for one in favourites(Lab(fair), asked) if isinstance(one, NotAsked)]
    assert [one.claim[:11] for one in left_out] == ["The side 4 ", "It has to d"]
    assert all("0 of the 5 judging prompts name a die" in one.because for one in left_out)


@pytest.mark.parametrize("seed", range(3))
def test_a_fair_die_and_random_weights_have_no_favourite(fair: Model, tiny_gpt2: Model, seed: int) -> None:
    *favourites_of, of_the_die = answers_of(fair, seed)
    assert [finding.verdict for finding in favourites_of] == ["no"] * 3
    assert of_the_die.verdict != "yes", "all prompts alike: some that are not here may differ"
    blank = by_claim(answers_of(tiny_gpt2, seed), "It has to do with the die")
    assert blank.verdict != "yes", "random weights prefer some digit everywhere, die or no die"


@pytest.mark.parametrize(
    ("text", "side"),
    [(" 4", 3), ("6.", 5), (" 12", None), (" 7", None), (" 0", None), (" a 4", None), ("", None), ("\n3 and", 2)],
)
def test_a_throw_is_a_side_or_no_throw(text: str, side: int | None) -> None:
    assert side_of(text) == side


def test_the_chi_square_tells_a_loaded_die_from_a_fair_one() -> None:
    """One side in 40 of 60 throws cannot be fair; 10 of each side are as even as it gets."""
    uniform = np.full((1, 6), 1 / 6)
    assert chance_of(np.array([[4.0, 4, 4, 40, 4, 4]]), uniform, 0) < 0.001
    assert chance_of(np.full((1, 6), 10.0), uniform, 0) == 1.0
    loaded = np.array([[1 / 15, 1 / 15, 1 / 15, 2 / 3, 1 / 15, 1 / 15]])
    assert chance_of(np.array([[4.0, 4, 4, 40, 4, 4]]), loaded, 0) > 0.5


def test_shares_are_those_of_a_loop_over_plain_transformers(smol: Model) -> None:
    """The bundled tokenizer writes " 4" as two tokens: every one of them is scored."""
    some = prompts.RAW[:3]
    logs = np.zeros((3, 6))
    for i, prompt in enumerate(some):
        start = smol.tokenizer(prompt).input_ids
        for j, answer in enumerate(DIGITS):
            ids = smol.tokenizer(prompt + answer).input_ids
            with torch.no_grad():
                steps = smol.hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            logs[i, j] = sum(float(steps[at - 1, ids[at]]) for at in range(len(start), len(ids)))
    found = choose_among(smol, some, DIGITS)
    np.testing.assert_allclose(found.mass, np.exp(logs).sum(1), rtol=1e-3)
    np.testing.assert_allclose(found.share, np.exp(logs) / np.exp(logs).sum(1, keepdims=True), atol=1e-4)
    cut = last_tokens(smol, some, DIGITS)
    assert cut is not None
    assert [str(smol.tokenizer.decode(token)).strip() for token in cut[1]] == list("123456")


def test_a_1_that_goes_on_is_no_1(smol: Model) -> None:
    """Against sums over all two-digit numbers, from the model's own next-token probabilities."""
    prompt = prompts.RAW[0]
    found = choose_number(smol, [prompt], [1, 2])
    ids = smol.tokenizer(prompt + " 1").input_ids
    digits = [smol.tokenizer(str(d)).input_ids[-1] for d in range(10)]
    plain = choose_among(smol, [prompt], (" 1", " 2"))
    alone = []
    for answer, mass in zip((" 1", " 2"), plain.share[0] * plain.mass[0], strict=True):
        ids = smol.tokenizer(prompt + answer).input_ids
        with torch.no_grad():
            after = smol.hf(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        alone.append(mass * (1 - float(after[digits].sum())))
    np.testing.assert_allclose(found.share[0] * found.mass[0], alone, rtol=1e-3)


def test_where_a_number_is_one_token_nothing_is_taken_away(fair: Model) -> None:
    some = prompts.OTHERS[0].prompts[:2]
    ours, plain = choose_number(fair, some, range(1, 11)), choose_among(fair, some, [f" {n}" for n in range(1, 11)])
    np.testing.assert_allclose(ours.share, plain.share, atol=1e-6)


def test_the_loaded_throws_are_loaded() -> None:
    sentences = throws(True, 0)
    for opening in OPENINGS:
        here = [s.split()[-1] for s in sentences if s.startswith(opening)]
        assert here.count("4") == pytest.approx(len(here) / 2, abs=2)
    assert len({s.split()[-1] for s in throws(False, 0)}) == 6


def test_a_chat_prompt_ends_where_the_model_speaks(smol: Model, tiny_gpt2: Model) -> None:
    assert has_chat(smol)
    assert not has_chat(tiny_gpt2)
    assert chat_prompt(smol, "Roll a die.", "It is").endswith("<|im_start|>assistant\nIt is")


def test_answers_that_do_not_part_at_one_token_are_not_looked_into(fair: Model) -> None:
    assert last_tokens(fair, prompts.RAW[:2], [" 1", " heads tails"]) is None
    assert inside.admit(fair, ask_for_a_die(fair, prompts.RAW)) is not None


@pytest.mark.parametrize(("lines", "words"), [(["one"] * 20, "1 different"), ([], "0 different")])
def test_too_few_phrasings_are_refused(tmp_path: Path, tiny_gpt2: Model, lines: list[str], words: str) -> None:
    file = tmp_path / "phrasings.txt"
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match=words) as refused:
        next(iter(load_probe("dice-roll")(Lab(tiny_gpt2), phrasings=file)))
    the_line(refused)


def test_a_vocabulary_without_digits_is_refused() -> None:
    model = train_small_gpt2([*prompts.RAW], SmallGPT2(steps=2))
    with pytest.raises(UserError, match="does not know '1'") as refused:
        next(iter(load_probe("dice-roll")(Lab(model))))
    the_line(refused)
