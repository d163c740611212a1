"""Temperature 0: rounding is seen, nothing else is, and the model is left as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from refusals import the_line

from interp import Finding, Lab, Model, NotAsked, UserError
from interp.lab.discover import load_probe
from interp.views.figures import draw
from probes import temperature_zero as the_probe
from probes._temperature_zero import cause, ways
from probes._temperature_zero.compare import Compared, Pair, compare, compare_ways, leads, parts, share
from probes._temperature_zero.one_order import linear_layers, one_order
from probes._temperature_zero.sums import add_in_orders, products_of, whole_numbers
from probes._temperature_zero.ways import PROMPTS, Text, Way, alone, cast, padded, padded_left, with_mates, write_texts


@pytest.fixture(scope="module")
def answers(tiny_gpt2: Model) -> list[Finding | NotAsked]:
    """The answers on a tiny model, which must be left as it was."""
    before = {name: value.clone() for name, value in tiny_gpt2.hf.state_dict().items()}
    threads, attention = torch.get_num_threads(), tiny_gpt2.hf.config._attn_implementation
    answers = list(load_probe("temperature-zero")(Lab(tiny_gpt2, quick=True), new_tokens=6))
    assert all(torch.equal(before[name], value) for name, value in tiny_gpt2.hf.state_dict().items())
    assert (torch.get_num_threads(), tiny_gpt2.hf.config._attn_implementation) == (threads, attention)
    return answers


def test_rounding_is_found_and_randomness_is_not(answers: list[Finding | NotAsked]) -> None:
    verdicts = {answer.claim: answer.verdict for answer in answers if isinstance(answer, Finding)}
    for words in ("The same call again", "own sums depend", "Positive control", "takes the one", "in fp64, no text"):
        (verdict,) = [verdict for claim, verdict in verdicts.items() if words in claim]
        assert verdict == "yes", words
    for answer in answers:
        if isinstance(answer, Finding) and answer.figure:
            draw(answer)


def test_every_claim_is_answered_or_said_not_to_be_asked(answers: list[Finding | NotAsked]) -> None:
    claims = load_probe("temperature-zero").claims
    assert [answer.declared for answer in answers] == [claim.text for claim in claims]
    must_be_so = {cause.OWN_SUMS.text, the_probe.chance.TIES.text, the_probe.CLOSE.text}
    assert {claim.text for claim in claims if claim.arithmetic} == must_be_so
    assert not [claim.text for claim in claims if claim.arithmetic and claim.answers]


def inputs_of(layer: Any) -> int:
    """How many numbers a layer reads: GPT-2's keep their matrix the other way round."""
    return int(layer.weight.shape[1 if isinstance(layer, torch.nn.Linear) else 0])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_one_order_a_batch_changes_no_bit(tiny_of: Any, architecture: str, dtype: torch.dtype) -> None:
    """By itself, in a batch of seven, at any place in it: each product is the same to the last bit, and it is right."""
    hf = cast(tiny_of(architecture), dtype)
    layers = linear_layers(hf)
    assert len(layers) > 6
    ids = torch.randint(5, 200, (7, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        usual = hf(ids).logits
        with one_order(hf):
            together = hf(ids).logits
            for layer in layers:  # not the whole model: what stands between the products is not ours to order
                x = torch.randn(7, 9, inputs_of(layer), generator=torch.Generator().manual_seed(1)).to(dtype)
                for i in range(7):
                    assert torch.equal(layer(x[i : i + 1])[0], layer(x)[i])
        assert torch.equal(hf(ids).logits, usual), "the usual products are back"
    assert not any("forward" in vars(layer) for layer in layers)
    torch.testing.assert_close(together, usual, rtol=0, atol=0.1 if dtype == torch.bfloat16 else 1e-4)


def test_the_usual_products_are_back_after_a_failure(tiny_gpt2: Model) -> None:
    hf = cast(tiny_gpt2, torch.float32)
    with pytest.raises(RuntimeError), one_order(hf):
        raise RuntimeError
    assert not any("forward" in vars(layer) for layer in linear_layers(hf))


def pair_of(parted: bool, same_bits: bool = False, lead: float = 0.1, leads: tuple[float, ...] = (2.0,)) -> Pair:
    return Pair(same_bits, 0.1, 0.1, 1 if parted else None, lead if parted else None, leads)


def usual_of(pairs: list[Pair]) -> list[Compared]:
    return [Compared("bf16", ways.WITH_MATES.name, tuple(pairs))]


def test_one_order_is_the_cause_where_the_usual_products_differ(tiny_gpt2: Model) -> None:
    """Planted: the usual products changed every prompt's bits, and the texts of none, or of six."""
    hf, prompts = cast(tiny_gpt2, torch.bfloat16), PROMPTS[:8]
    usual = usual_of([pair_of(False)] * 8)
    bits, texts = (
        cause.in_one_order(Lab(tiny_gpt2), claim, hf, prompts, 4, usual)
        for claim in (cause.SAME_BITS, cause.SAME_TEXTS)
    )
    assert isinstance(bits, Finding)
    assert (bits.verdict, bits.estimate.mean) == ("yes", -1.0)
    assert isinstance(texts, NotAsked)
    draw(bits)
    usual = usual_of([pair_of(i < 6) for i in range(8)])
    texts = cause.in_one_order(Lab(tiny_gpt2), cause.SAME_TEXTS, hf, prompts, 4, usual)
    assert isinstance(texts, Finding)
    assert (texts.verdict, texts.estimate.mean) == ("yes", -0.75)


def test_where_batch_mates_change_nothing_no_cause_is_claimed(tiny_gpt2: Model) -> None:
    hf = cast(tiny_gpt2, torch.bfloat16)
    usual = usual_of([pair_of(False, same_bits=True)] * 8)
    for claim in (cause.SAME_BITS, cause.SAME_TEXTS):
        answer = cause.in_one_order(Lab(tiny_gpt2), claim, hf, PROMPTS[:8], 4, usual)
        assert isinstance(answer, NotAsked)
        assert "usual products" in answer.because


def test_a_product_that_batch_mates_change_is_not_called_invariant(
    tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: a cause elsewhere than in the products is left over, and the verdict is no yes."""

    def noisy(hf: Any, texts: Any) -> Any:
        return (logits + 1e-1 for logits in alone(hf, texts))

    monkeypatch.setattr(cause, "WITH_MATES", Way(ways.WITH_MATES.name, noisy))
    hf = cast(tiny_gpt2, torch.bfloat16)
    usual = usual_of([pair_of(False)] * 8)
    bits = cause.in_one_order(Lab(tiny_gpt2), cause.SAME_BITS, hf, PROMPTS[:8], 4, usual)
    assert isinstance(bits, Finding)
    assert bits.verdict != "yes"


def test_where_texts_part_is_judged_by_signs() -> None:
    """A single huge lead elsewhere decides nothing; leads that are alike on both sides are no yes."""
    close = the_probe._where_they_part(usual_of([pair_of(True)] * 9 + [pair_of(False)] * 9))
    assert isinstance(close, Finding)
    assert (close.verdict, close.estimate.n) == ("yes", 9)
    skewed = [pair_of(True, lead=1.0, leads=(0.5,))] * 6 + [pair_of(True, lead=1.0, leads=(1e4,))] * 3
    alike = the_probe._where_they_part(usual_of(skewed))
    assert isinstance(alike, Finding)
    assert alike.verdict != "yes"
    lone = the_probe._where_they_part(usual_of([pair_of(True), pair_of(False)]))
    assert isinstance(lone, NotAsked)
    assert "only 1 prompts" in lone.because


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_every_way_computes_the_same_in_fp64(tiny_of: Any, architecture: str) -> None:
    """Padding, masks, positions, cache and batch mates are right: with fine rounding they agree."""
    model = tiny_of(architecture)
    hf = cast(model, torch.float64)
    written = write_texts(model, hf, PROMPTS[:4], 5)
    compared = compare_ways("fp64", written, hf, ways.ways_for(model), lambda *_: None)
    assert {one.way for one in compared} >= {"cache, token by token", "three batch mates", "padding on the left"}
    for one in compared:
        fine = 1e-4 if one.way == ways.KERNEL.name else 1e-10  # transformers' eager softmax of a Llama has 32 bits
        assert max(pair.largest for pair in one.pairs) < fine, one.way
        assert not any(one.parted)


def test_a_wrong_mask_would_be_seen(tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the ways: the same padding without its positions, as bare GPT-2 is often called."""
    hf = cast(tiny_gpt2, torch.float64)
    texts = write_texts(tiny_gpt2, hf, PROMPTS[:3], 5).texts

    def careless(hf: Any, texts: Any) -> Any:
        def call(ids: torch.Tensor, **more: Any) -> Any:
            more.pop("position_ids", None)
            return hf(ids, **more)

        call.device = hf.device  # type: ignore[attr-defined]
        return padded_left(call, texts)

    for right, wrong, text in zip(alone(hf, texts), careless(hf, texts), texts, strict=True):
        assert compare(text, right, wrong).largest > 1e-4


def test_where_texts_part_is_where_a_loop_says(tiny_gpt2: Model) -> None:
    """A way that disturbs the logits: greedy decoding, token by token, parts at the token that was told."""
    hf = cast(tiny_gpt2, torch.float32)
    noise = torch.randn(len(tiny_gpt2.tokenizer), generator=torch.Generator().manual_seed(0)) * 0.05

    def disturbed(hf: Any, texts: Any) -> Any:
        return (logits + noise for logits in alone(hf, texts))

    written = write_texts(tiny_gpt2, hf, PROMPTS[:6], 8)
    (_, compared) = compare_ways("fp32", written, hf, [Way("disturbed", disturbed)], lambda *_: None)
    assert any(compared.parted)
    for prompt, pair in zip(PROMPTS, compared.pairs, strict=False):
        ids = tiny_gpt2.encode([prompt])[0]
        at = None
        for step in range(8):
            with torch.no_grad():
                logits = hf(torch.tensor([ids])).logits[0, -1]
            best = int(logits.argmax())
            if best != int((logits + noise).argmax()):
                at = step
                break
            ids = [*ids, best]
        assert pair.parts_at == at


def test_only_what_the_reference_writes_counts() -> None:
    text = Text((1, 0, 2, 0), 1)
    reference = torch.tensor([[3.0, 0, 1], [0, 2, 1], [5, 0, 0]])  # writes 0, then would write 1 where 2 was written
    other = torch.tensor([[3.0, 0, 1], [0, 2, 1], [0, 5, 0]])
    pair = compare(text, reference, other)
    assert pair.same_bits
    assert pair.parts_at is None
    other[1] = torch.tensor([0, 2, 2.5])
    pair = compare(text, reference, other)
    assert (pair.parts_at, pair.margin, pair.largest) == (1, 1.0, 1.5)
    assert pair.margins == (2.0,)
    assert not parts(compare(text, reference, reference))


def test_sums_of_whole_numbers_do_not_depend_on_their_order(tiny_gpt2: Model) -> None:
    terms = products_of(tiny_gpt2, list(PROMPTS[:6]), 6)
    whole = add_in_orders(whole_numbers(terms), torch.float32, "whole", orders=8, seed=0)
    assert not any(whole.differ)
    np.testing.assert_array_equal(whole.by_order[:, 0].double(), whole.exact)
    wild = add_in_orders(torch.tensor([[1e8, 1.0, -1e8, 1.0]]), torch.float32, "wild", orders=30, seed=0)
    assert wild.differ == [True]
    assert float(wild.exact) == 2.0


def test_the_logit_is_the_sum_of_its_terms(tiny_gpt2: Model) -> None:
    terms = products_of(tiny_gpt2, list(PROMPTS[:2]), 2)
    np.testing.assert_allclose(terms.sum(1), tiny_gpt2.last_logits(list(PROMPTS[:2])).amax(1), rtol=1e-4)


def test_shares_are_over_prompts(tiny_gpt2: Model) -> None:
    hf = cast(tiny_gpt2, torch.float32)
    written = write_texts(tiny_gpt2, hf, PROMPTS[:5], 4)
    compared = compare_ways("fp32", written, hf, [Way("mates", with_mates)], lambda *_: None)
    assert share(compared, lambda _: True).mean == 1.0
    assert share(compared, parts).n == 5
    assert leads(compared) == ([], [])
    assert len(list(padded(hf, written.texts[:2]))) == 2


@pytest.mark.parametrize("tokens", [0, 3, -1])
def test_too_few_tokens_are_refused(tiny_gpt2: Model, tokens: int) -> None:
    with pytest.raises(UserError, match="4 or more") as refused:
        next(iter(load_probe("temperature-zero")(Lab(tiny_gpt2), new_tokens=tokens)))
    the_line(refused)
