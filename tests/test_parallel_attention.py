"""Windows: the mask of the plain model and the edit agree, and a planted distance is found to the token."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from know_nothing import know_nothing
from refusals import the_line

from interp import Finding, Lab, Model, NotAsked, UserError, with_random_weights
from interp.lab.discover import load_probe
from interp.model.attention_window import in_sight, windowed, windowed_losses
from interp.model.training.planted import plant_induction
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.views.figures import draw
from probes import parallel_attention as the_probe
from probes._parallel_attention import context, heads
from probes._parallel_attention.heads import distances

ROWS = [torch.randint(5, 200, (14,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(5)]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("window", [1, 3, 14])
def test_the_mask_and_the_edit_are_the_same_window(tiny_of: Any, architecture: str, first: bool, window: int) -> None:
    model = tiny_of(architecture)
    ours = windowed_losses(model, ROWS, window, first=first, batch_size=2)
    with model.edit({"blocks.*.attn.hook_pattern": windowed(window, first=first)}):
        logits = model.logits(ROWS)[:, :-1]
    wanted = torch.tensor(ROWS)[:, 1:]
    theirs = -logits.log_softmax(-1).gather(2, wanted[..., None])[..., 0]
    torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-3, atol=1e-4)


def test_everything_in_sight_is_the_plain_model(tiny_gpt2: Model) -> None:
    with torch.no_grad():
        logits = tiny_gpt2.hf(torch.tensor(ROWS)).logits[:, :-1]
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(ROWS)[:, 1:].flatten(), reduction="none"
    )
    for window in (None, 14, 99):
        torch.testing.assert_close(windowed_losses(tiny_gpt2, ROWS, window).flatten(), plain, rtol=1e-4, atol=1e-5)


def test_what_is_out_of_sight_changes_nothing(tiny_gpt2: Model) -> None:
    """One layer's window of 3 and two layers: what lies more than 4 back cannot matter, without the first token."""
    other = [[9, 9, *row[2:]] for row in ROWS]
    ours, theirs = (windowed_losses(tiny_gpt2, some, 3, first=False)[:, 6:] for some in (ROWS, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(windowed_losses(tiny_gpt2, other, 3)[:, 6:], ours, atol=1e-5), (
        "the first token is in sight"
    )


def test_what_is_in_sight() -> None:
    assert in_sight(4, 2, first=False).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert in_sight(4, 1, first=True).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_distance_is_found_to_the_token(tiny_gpt2: Model, seed: int) -> None:
    finding = the_probe._planted(Lab(tiny_gpt2, seed=seed))
    assert finding.verdict == "yes"
    losses = {row["tokens in sight"]: float(row["surprise (nats per token)"] or 0) for row in finding.table}
    assert losses[the_probe.COPY] < 0.5
    assert losses[the_probe.COPY - 1] > 2


def test_heads_that_look_back_are_measured(tiny_gpt2: Model) -> None:
    planted = plant_induction(0)
    rows = [[1, *range(3, 13), *range(3, 13)] for _ in range(2)]
    far, sink = distances(Lab(planted.model), rows)
    layer, head = planted.reader
    assert float(far[0, layer, head]) == pytest.approx(9, abs=0.5), "to the place behind the last time"
    writer = planted.writer
    assert float(far[0, writer[0], writer[1] or 0]) == pytest.approx(1, abs=0.5)
    assert float(sink.max()) <= 1


def test_the_probe_on_a_model_that_needs_near_context_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Markov chain: the token before is all that helps."""
    rng = torch.Generator().manual_seed(0)
    texts = []
    for _ in range(150):
        at, words = int(torch.randint(10, (1,), generator=rng)), []
        for _ in range(66):
            words.append(f"w{at}")
            at = (at * 3 + int(torch.randint(2, (1,), generator=rng))) % 10
        texts.append(" ".join(words))
    model = train_small_gpt2(texts[:120], SmallGPT2(d_model=48, steps=60, batch=16))
    monkeypatch.setattr(the_probe, "corpus_or_prose", lambda _: texts[120:])
    verdicts = verdicts_of(Lab(model, quick=True))
    assert verdicts["What lies more than 16 tokens back matters as well, by 0.05 nats."] == "no"
    assert verdicts["What lies far back is needed by the middle layers more than by the last ones."] == "not asked"
    for words in ("One pass", "No token sees", "Positive control", "Negative control"):
        (verdict,) = [v for claim, v in verdicts.items() if words in claim]
        assert verdict == "yes", words
    blind = verdicts_of(Lab(with_random_weights(model, 0), quick=True))
    claims = load_probe("parallel-attention").claims
    assert not [claim.text for claim in claims if claim.answers and blind[claim.text] == "yes"], "it knows nothing"
    assert {claim.text for claim in claims if claim.arithmetic} == {
        claim for claim in verdicts if claim.startswith(("One pass", "No token sees"))
    }


def verdicts_of(lab: Lab) -> dict[str, str]:
    """Every declared claim with its verdict, each answered or said not to be asked; the pictures can be drawn."""
    probe = load_probe("parallel-attention")
    answers = list(probe(lab, tokens=64))
    assert [answer.declared for answer in answers] == [claim.text for claim in probe.claims]
    for answer in answers:
        if isinstance(answer, Finding) and answer.figure:
            draw(answer)
    return {answer.claim: answer.verdict if isinstance(answer, Finding) else "not asked" for answer in answers}


@pytest.mark.parametrize("kind", ["token_copier", "first_letter"])
def test_a_copier_that_more_text_makes_less_sure_is_not_believed(tiny_gpt2: Model, kind: str) -> None:
    """Words drawn at random: none tells of another, but the fewer a copier sees, the surer and the more wrong it is."""
    model = know_nothing(kind, tiny_gpt2)
    texts = [str(tiny_gpt2.tokenizer.decode([i])) for i in range(len(tiny_gpt2.tokenizer))]
    words = torch.tensor([i for i, text in enumerate(texts) if text.startswith(" ") and text.strip()[:1].isalpha()])
    assert len(words) > 10
    draws = [torch.randint(len(words), (64,), generator=torch.Generator().manual_seed(i)) for i in range(12)]
    rows = [words[draw].tolist() for draw in draws]
    lab, whole = Lab(model), windowed_losses(model, rows, None, start=32)
    for window, margin in ((context.NEAR, context.CLEAR), (context.FAR, context.SOME)):
        cut = context.mean_surprise(model, rows, window, 32)
        assert context.over_documents(whole.mean(1) - cut, lab).high < -margin, "cut off alone, it is believed"
    answers = [one for one in context.windows(lab, rows, 32, whole, "made up") if one.answers]
    assert [one.declared for one in answers] == [context.WHOLE.text, context.FAR_BACK.text]
    for answer in answers:
        assert isinstance(answer, Finding)
        assert answer.verdict != "yes", answer.claim


@pytest.mark.parametrize("seed", range(2))
def test_context_that_is_needed_is_seen_beside_another_document(seed: int) -> None:
    """A planted model copies what stands ten tokens back: neither nothing nor another text in its place will do."""
    rows = [
        [1, *copy, *copy]
        for copy in (
            torch.randperm(20, generator=torch.Generator().manual_seed(i))[:10].add(3).tolist() for i in range(10)
        )
    ]
    model = plant_induction(seed).model
    whole, *_ = context.windows(Lab(model), rows, 12, windowed_losses(model, rows, None, start=12), "made up")
    assert isinstance(whole, Finding)
    assert whole.verdict == "yes"
    assert whole.estimate.high < -2


def test_texts_that_are_too_short_are_said_to_be(tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that reads 24 tokens at once: no half of 16, and nothing behind the first 32."""
    lab = Lab(tiny_gpt2)
    rows = [row * 2 for row in ROWS]
    *_, far, sink = context.windows(lab, rows, 14, windowed_losses(tiny_gpt2, rows, None, start=14), "made up")
    for left_out in (far, sink, the_probe._no_future(lab, rows)):
        assert isinstance(left_out, NotAsked)
        assert "28 tokens" in left_out.because


def test_middle_layers_are_compared_within_each_document(make_tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost differs between documents by far more than between layers: the pairs see it all the same."""
    model = make_tiny("gpt2")
    monkeypatch.setattr(type(model), "n_layers", property(lambda _: 4))
    levels = torch.linspace(0, 9, 10)
    lost = iter([levels, levels + 0.2, levels + 0.2, levels + 0.1])
    monkeypatch.setattr(heads, "windowed_losses", lambda *_, **__: next(lost)[:, None])
    monkeypatch.setattr(type(model), "edit", lambda *_: contextlib.nullcontext())
    finding = heads.cut_layers(Lab(model), [list(range(8)) for _ in range(10)], 4, levels[:, None] * 0)
    assert isinstance(finding, Finding)
    assert finding.estimate.mean == pytest.approx(0.1, abs=1e-6)
    assert finding.verdict == "yes"


@pytest.mark.parametrize(("flag", "value"), [("documents", 7), ("tokens", 63)])
def test_bad_flags_are_one_line(tiny_gpt2: Model, flag: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{flag} {value}") as refused:
        next(iter(load_probe("parallel-attention")(Lab(tiny_gpt2), **{flag: value})))
    the_line(refused)
    with pytest.raises(UserError, match="one length"):
        windowed_losses(tiny_gpt2, [[1, 2, 3], [1, 2]], 2)
    with pytest.raises(UserError, match="1 \\(only the token itself\\) or more"):
        in_sight(3, 0, first=True)
