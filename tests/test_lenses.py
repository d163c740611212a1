"""Lenses: what they read, against the model's own numbers and plain formulas; a tuned lens learns, and is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stores import TEXTS

from interp import Model, UserError
from interp.activations.capture import capture_store
from interp.activations.plan import plan_capture
from interp.activations.store import Store
from interp.analysis.trajectory import trace_prediction
from interp.analysis.tuned_lens import lens_divergence, load_lens, train_lens

PROMPT = "Mary walked to the sea"
STREAMS = ["blocks.0.hook_resid_pre", "blocks.*.hook_resid_post"]


def store_of(model: Model, folder: Path, texts: list[str], sites: list[str] = STREAMS) -> Store:
    return capture_store(model, folder, *plan_capture(model, texts, sites))


@pytest.fixture(scope="module")
def loud(make_tiny: Callable[..., Model]) -> Model:
    """Weights so wide that layers disagree."""
    return make_tiny("gpt2")


@pytest.fixture(scope="module")
def streams(loud: Model, tmp_path_factory: pytest.TempPathFactory) -> Store:
    texts = [f"{text} {i} times and {other}" for i, text in enumerate(TEXTS) for other in TEXTS]
    return store_of(loud, tmp_path_factory.mktemp("streams") / "s", texts)


def test_the_last_layer_reads_what_the_model_says(loud: Model) -> None:
    answer = 7
    found = trace_prediction(loud, PROMPT, answer=answer)
    logs = loud.logits([PROMPT])[0].log_softmax(-1)
    assert found.best[-1].tolist() == logs.argmax(-1).tolist()
    assert found.answer is not None
    torch.testing.assert_close(found.answer[-1], logs[:, answer], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.log_prob[-1], logs.max(-1).values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.entropy[-1], -(logs.exp() * logs).sum(-1), atol=1e-4, rtol=1e-4)
    assert float(found.divergence[-1].abs().max()) < 1e-5
    assert float(found.divergence[0].min()) > 0.01
    assert len(found.rows()) == len(found.layers) * len(found.tokens) == 3 * len(loud.encode(PROMPT)[0])


def test_an_early_layer_reads_its_own_stream_through_the_plain_model(loud: Model) -> None:
    hf = loud.hf
    states = hf(torch.tensor(loud.encode(PROMPT)), output_hidden_states=True).hidden_states
    logs = hf.lm_head(hf.transformer.ln_f(states[1][0])).log_softmax(-1)  # type: ignore[union-attr,operator]
    found = trace_prediction(loud, PROMPT, layers=[1])
    assert found.words[0] == tuple(loud.vocabulary[i] for i in logs.argmax(-1).tolist())
    torch.testing.assert_close(found.log_prob[0], logs.max(-1).values.detach(), atol=1e-4, rtol=1e-4)


def test_a_tuned_lens_reads_text_it_has_not_seen_better_than_the_logit_lens(
    loud: Model, streams: Store, tmp_path: Path
) -> None:
    unseen = store_of(loud, tmp_path / "unseen", [f"Kim saw {text[::-1]}" for text in TEXTS])
    plain = lens_divergence(loud, lambda h, layer: loud.unembed(h), unseen)
    fitted = lens_divergence(loud, train_lens(loud, streams, steps=0), unseen)
    steps: list[tuple[str, int, int]] = []
    tuned = train_lens(loud, streams, steps=60, batch=64, lr=3e-3, progress=lambda *step: steps.append(step))
    found = lens_divergence(loud, tuned, unseen)
    assert list(found) == tuned.layers == [0, 1]
    for layer in found:
        assert max(found[layer], fitted[layer]) < plain[layer] / 4
    assert found[0] < fitted[0], "layer 1 is nearly linear in the last one, so that least squares is hard to beat there"
    assert steps == [("training the tuned lens", step, 60) for step in range(1, 61)]
    assert all(parameter.grad is None for parameter in loud.hf.parameters())
    last = streams.rows(loud.residual(2), 0, 5)
    assert torch.equal(tuned(last, 2), loud.unembed(last)), "the last layer is read as it is"
    again = train_lens(loud, streams, steps=60, batch=64, lr=3e-3)
    assert all(torch.equal(again.maps[layer], tuned.maps[layer]) for layer in tuned.layers), "one seed, one lens"
    assert (
        trace_prediction(loud, PROMPT, lens=tuned).divergence[1].mean()
        < trace_prediction(loud, PROMPT).divergence[1].mean()
    )


def test_least_squares_finds_a_map_that_is_there(loud: Model, streams: Store) -> None:
    """Against numpy's own solver, on the rows that are no sinks."""
    sites = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    x, y = (streams.rows(site).double() for site in sites)
    keep = ~torch.stack([streams.is_sink(site) for site in sites]).any(0)
    with torch.no_grad():  # a caller's own context is none of our business
        lens = train_lens(loud, streams, steps=0, layers=[1])
    design = torch.cat([x[keep], torch.ones(int(keep.sum()), 1)], 1)
    best = torch.linalg.lstsq(design, y[keep]).solution
    ours = x @ (lens.maps[1].double() + torch.eye(32)) + lens.shifts[1].double()
    left, least = (float((y[keep] - guess[keep]).square().mean()) for guess in (ours, design.new_zeros(len(x), 32) + 0))
    assert least > left
    optimal = float((y[keep] - design @ best).square().mean())
    assert optimal <= left < 1.05 * optimal


def test_sinks_are_left_out_of_training_and_of_the_measure(loud: Model, streams: Store) -> None:
    """By the store's own rule: the first row of each sequence, and rows of ten times the median norm."""
    sites = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    sinks = torch.stack([streams.is_sink(site) for site in sites]).any(0)
    x, y = (streams.rows(site)[~sinks] for site in sites)
    (found,) = lens_divergence(loud, lambda h, layer: loud.unembed(h), streams, layers=[1], rows=len(streams)).values()
    goal, read = (loud.unembed(rows).log_softmax(-1) for rows in (y, x))
    assert found == pytest.approx(float((goal.exp() * (goal - read)).sum(-1).mean()), rel=1e-4)
    seen = torch.cat([rows[sites[0]] for rows in streams.shuffled(sites[:1], 50, keep=~sinks)])
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, x.tolist()))


def test_a_lens_is_saved_and_loaded(
    loud: Model, make_tiny: Callable[..., Model], streams: Store, tmp_path: Path
) -> None:
    lens = train_lens(loud, streams, steps=2, layers=[1])
    file = tmp_path / "new" / "lens.safetensors"
    lens.save(file)
    assert set(load_file(file)) == {"map.1", "shift.1"}
    back = load_lens(file, loud)
    rows = streams.rows("blocks.0.hook_resid_post", 0, 9)
    assert torch.equal(lens(rows, 1), back(rows, 1))
    assert back.made_of["store"] == streams.plan.hash
    other = make_tiny("gpt2", seed=1)
    other.provenance = replace(other.provenance, weights="sha256:other")
    for call, told in (
        (lambda: load_lens(tmp_path, loud), "cannot read"),
        (lambda: load_lens(file.with_name("none"), loud), "cannot read"),
        (lambda: load_lens(streams.shard_path(0), loud), "expected a file that was saved here"),
        (lambda: load_lens(file, other), "trained on other weights"),
        (lambda: train_lens(other, streams), "captured from other weights"),
        (lambda: train_lens(loud, streams, layers=[5]), "expected some of 0, 1"),
        (lambda: train_lens(loud, streams, layers=[2]), "the last, which is read as it is"),
        (lambda: train_lens(loud, streams, layers=[]), "expected some of 0, 1"),
        (lambda: train_lens(loud, streams, layers=1), "expected some of 0, 1"),  # type: ignore[arg-type]
        (lambda: train_lens(loud, "streams"), "expected what open_store"),  # type: ignore[arg-type]
        (lambda: train_lens(loud, streams, steps=-1), "steps=-1; expected 0 or more"),
        (lambda: lens_divergence(loud, back, streams, rows=0), "rows=0; expected 1 or more"),
        (lambda: trace_prediction(loud, PROMPT, layers=1), "layers=1; expected several"),  # type: ignore[arg-type]
        (lambda: trace_prediction(loud, PROMPT, answer=" sea"), "expected a token id"),  # type: ignore[arg-type]
        (lambda: back(rows, 0), "this lens has no layer 0"),
        (lambda: store_without_end(loud, tmp_path), "capture --sites"),
        (lambda: trace_prediction(loud, PROMPT, layers=[]), "no layer came"),
        (lambda: trace_prediction(loud, PROMPT, layers=[3]), "layer 3 came"),
        (lambda: trace_prediction(loud, PROMPT, answer=10**6), "came as the answer"),
    ):
        with pytest.raises(UserError, match=told):
            call()


def store_without_end(model: Model, folder: Path) -> None:
    train_lens(model, store_of(model, folder / "half", TEXTS, ["blocks.0.hook_resid_post"]))


def test_any_changed_byte_of_a_lens_is_found(loud: Model, streams: Store, tmp_path: Path) -> None:
    file = tmp_path / "lens.safetensors"
    train_lens(loud, streams, steps=0, layers=[1]).save(file)
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for at in [*range(0, header, 7), *range(header, len(whole), 97), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(UserError) as refused:
            load_lens(file, loud)
        assert "\n" not in str(refused.value)
