"""Temperature 0: rounding is seen, nothing else is, and the model is left as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from refusals import the_line

from interp import Finding, Lab, Model, UserError
from interp.lab.discover import load_probe
from interp.views.figures import draw
from probes._temperature_zero import ways
from probes._temperature_zero.compare import compare, compare_ways, leads, parts, share
from probes._temperature_zero.sums import add_in_orders, products_of, whole_numbers
from probes._temperature_zero.ways import PROMPTS, Text, Way, alone, cast, padded, padded_left, with_mates, write_texts


@pytest.fixture(scope="module")
def found(tiny_gpt2: Model) -> list[Finding]:
    """The findings on a tiny model, which must be left as it was."""
    before = {name: value.clone() for name, value in tiny_gpt2.hf.state_dict().items()}
    threads, attention = torch.get_num_threads(), tiny_gpt2.hf.config._attn_implementation
    findings = list(load_probe("temperature-zero")(Lab(tiny_gpt2, quick=True), new_tokens=6))
    assert all(torch.equal(before[name], value) for name, value in tiny_gpt2.hf.state_dict().items())
    assert (torch.get_num_threads(), tiny_gpt2.hf.config._attn_implementation) == (threads, attention)
    return findings


def test_rounding_is_found_and_randomness_is_not(found: list[Finding]) -> None:
    told = {finding.claim: finding.verdict for finding in found}
    for words in ("The same call again", "own sums depend", "Positive control", "takes the one", "in fp64, no text"):
        (verdict,) = [verdict for claim, verdict in told.items() if words in claim]
        assert verdict == "yes", words
    for finding in found:
        if finding.figure:
            draw(finding)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_every_way_computes_the_same_in_fp64(tiny_of: Any, architecture: str) -> None:
    """Padding, masks, positions, cache and batch mates are right: with fine rounding they agree."""
    model = tiny_of(architecture)
    hf = cast(model, torch.float64)
    compared = compare_ways(model, hf, "fp64", PROMPTS[:4], 5, ways.ways_for(model), lambda *_: None)
    assert {one.way for one in compared} >= {"cache, token by token", "three batch mates", "padding on the left"}
    for one in compared:
        fine = 1e-4 if one.way == ways.KERNEL.name else 1e-10  # transformers' eager softmax of a Llama has 32 bits
        assert max(pair.largest for pair in one.pairs) < fine, one.way
        assert not any(one.parted)


def test_a_wrong_mask_would_be_seen(tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the ways: the same padding without its positions, as bare GPT-2 is often called."""
    hf = cast(tiny_gpt2, torch.float64)
    texts, _ = write_texts(tiny_gpt2, hf, PROMPTS[:3], 5)

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

    (_, compared) = compare_ways(tiny_gpt2, hf, "fp32", PROMPTS[:6], 8, [Way("disturbed", disturbed)], lambda *_: None)
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
    """Up to the final norm's own weights: an RMS norm's direction times the best token's row."""
    terms = products_of(tiny_gpt2, [PROMPTS[0]], 1)
    site = f"blocks.{tiny_gpt2.n_layers - 1}.hook_resid_post"
    x = tiny_gpt2.capture([PROMPTS[0]], site).last(site)[0]
    best = int(tiny_gpt2.unembed(x[None]).argmax())
    row = tiny_gpt2.hf.get_output_embeddings().weight[best]  # type: ignore[union-attr,index]
    assert float(terms.sum()) == pytest.approx(float(x @ row.detach() / x.square().mean().sqrt()), rel=1e-4)


def test_shares_are_over_prompts(tiny_gpt2: Model) -> None:
    hf = cast(tiny_gpt2, torch.float32)
    compared = compare_ways(tiny_gpt2, hf, "fp32", PROMPTS[:5], 4, [Way("mates", with_mates)], lambda *_: None)
    assert share(compared, lambda _: True).mean == 1.0
    assert share(compared, parts).n == 5
    assert leads(compared, 0) is None
    assert len(list(padded(hf, write_texts(tiny_gpt2, hf, PROMPTS[:2], 4)[0]))) == 2


@pytest.mark.parametrize("tokens", [0, 3, -1])
def test_too_few_tokens_are_refused(tiny_gpt2: Model, tokens: int) -> None:
    with pytest.raises(UserError, match="4 or more") as refused:
        next(iter(load_probe("temperature-zero")(Lab(tiny_gpt2), new_tokens=tokens)))
    the_line(refused)
