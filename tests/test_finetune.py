"""Fine-tuning: the loss is the completions' alone, the copy learns, the original stays, a seed decides everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from refusals import the_line

from interp import Model, UserError
from interp.analysis.completions import score_completions
from interp.model.edits import ablate
from interp.model.training.finetune import completion_loss, encode_pairs, fine_tune, pad_pairs

EXAMPLES = [("the cat sat on the", " mat"), ("a dog", " barks at the moon"), ("the big house is", " red")]


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.hf.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def tuned(tiny_gpt2: Model) -> Model:
    before, flags = weights(tiny_gpt2), [p.requires_grad for p in tiny_gpt2.hf.parameters()]
    out = fine_tune(tiny_gpt2, EXAMPLES, steps=80, batch=3, lr=1e-2, seed=1)
    assert same(before, weights(tiny_gpt2)), "the model that came is changed"
    assert flags == [p.requires_grad for p in out.hf.parameters()]
    return out


def brute_force(model: Model, prompt: str, completion: str) -> tuple[float, list[bool]]:
    """Token by token with a loop, in plain transformers."""
    ids, total, agrees = model.encode([prompt])[0], 0.0, []
    for token in model.encode([prompt + completion])[0][len(ids) :]:
        with torch.no_grad():
            logits = model.hf(torch.tensor([ids])).logits[0, -1]
        total += float(logits.log_softmax(-1)[token])
        agrees.append(int(logits.argmax()) == token)
        ids = [*ids, token]
    return total, agrees


def test_it_learns_the_completions_and_they_alone(tiny_gpt2: Model, tuned: Model) -> None:
    assert score_completions(tuned, EXAMPLES).greedy.all()
    assert not score_completions(tiny_gpt2, EXAMPLES).greedy.any()
    others = [("the cat sat on the", " moon"), ("a dog", " red")]
    assert not score_completions(tuned, others).greedy.any()
    assert not tuned.hf.training


@pytest.mark.parametrize("which", ["before", "after"])
def test_scores_are_those_of_a_loop(tiny_gpt2: Model, tuned: Model, which: str) -> None:
    model = {"before": tiny_gpt2, "after": tuned}[which]
    found = score_completions(model, EXAMPLES, batch_size=2)
    for i, pair in enumerate(EXAMPLES):
        total, agrees = brute_force(model, *pair)
        assert float(found.summed[i]) == pytest.approx(total, abs=1e-4)
        assert found.agrees[i, : found.lengths[i]].tolist() == agrees
        assert found.agrees[i, found.lengths[i] :].all()
        assert bool(found.greedy[i]) == all(agrees)


def test_the_loss_is_the_surprise_at_completion_tokens(tiny_gpt2: Model) -> None:
    batch = pad_pairs(encode_pairs(tiny_gpt2, EXAMPLES), tiny_gpt2.device)
    scores = score_completions(tiny_gpt2, EXAMPLES)
    surprise = -float(scores.summed.sum() / scores.lengths.sum())
    assert completion_loss(tiny_gpt2.hf, *batch).item() == pytest.approx(surprise, rel=1e-5)


def test_fine_tuning_counts_its_steps(tiny_gpt2: Model) -> None:
    seen: list[tuple[str, int, int]] = []
    fine_tune(tiny_gpt2, EXAMPLES, steps=2, batch=3, progress=lambda *step: seen.append(step))
    assert seen == [("fine-tuning", 1, 2), ("fine-tuning", 2, 2)]


def test_labels_hide_prompts_and_padding() -> None:
    ids, labels = pad_pairs([([1, 2, 3, 4], 2), ([5, 6], 1)], torch.device("cpu"))
    assert ids.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert labels.tolist() == [[-100, 3, 4], [6, -100, -100]]


def test_the_first_step_is_adams(tiny_gpt2: Model) -> None:
    """With one batch of all examples, the first step moves each weight by the rate along its gradient's sign."""
    one = fine_tune(tiny_gpt2, EXAMPLES, steps=1, batch=3, lr=1e-3)
    hf: Any = fine_tune(tiny_gpt2, EXAMPLES, steps=0).hf
    for p in hf.parameters():
        p.requires_grad_(True)
    total, count = torch.zeros(()), 0
    for prompt, completion in EXAMPLES:
        ids = tiny_gpt2.encode([prompt + completion])[0]
        start = len(tiny_gpt2.encode([prompt])[0])
        logp = hf(torch.tensor([ids])).logits[0].log_softmax(-1)
        total = total - sum(logp[i - 1, ids[i]] for i in range(start, len(ids)))
        count += len(ids) - start
    (total / count).backward()
    for old, new in zip(hf.parameters(), one.hf.parameters(), strict=True):
        large = old.grad.abs() > 1e-4
        assert torch.allclose((new - old)[large], -1e-3 * old.grad.sign()[large], rtol=0.02, atol=1e-6)


def test_same_seed_same_weights_and_another_seed_others(tiny_gpt2: Model, tuned: Model) -> None:
    torch.manual_seed(0)
    again = fine_tune(tiny_gpt2, EXAMPLES, steps=6, batch=2, seed=1)
    torch.manual_seed(99)
    assert same(weights(again), weights(fine_tune(tiny_gpt2, EXAMPLES, steps=6, batch=2, seed=1)))
    assert not same(weights(again), weights(fine_tune(tiny_gpt2, EXAMPLES, steps=6, batch=2, seed=2)))
    assert tuned.provenance.weights != tiny_gpt2.provenance.weights
    assert "fine-tuned" in tuned.provenance.name


def test_hooks_of_the_copy_are_its_own(tiny_gpt2: Model, tuned: Model) -> None:
    prompt, site = EXAMPLES[0][0], "blocks.1.hook_resid_post"
    clean = tiny_gpt2.last_logits([prompt])
    with torch.no_grad():
        plain = tuned.hf(torch.tensor(tuned.encode([prompt]))).logits[0, -1]
    assert torch.allclose(tuned.last_logits([prompt])[0], plain, atol=1e-4)
    assert not torch.allclose(tuned.capture([prompt], site)[site], tiny_gpt2.capture([prompt], site)[site])
    with tuned.edit({"blocks.0.hook_mlp_out": ablate()}):
        assert torch.equal(tiny_gpt2.last_logits([prompt]), clean)
        assert not torch.allclose(tuned.last_logits([prompt])[0], plain, atol=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "opt", "bloom", "gemma2"])
def test_other_architectures_learn(tiny_of: Any, architecture: str) -> None:
    model = tiny_of(architecture)
    before = weights(model)
    tuned = fine_tune(model, EXAMPLES, steps=25, batch=3, lr=1e-2)
    gain = score_completions(tuned, EXAMPLES).summed - score_completions(model, EXAMPLES).summed
    assert float(gain.min()) > 1.0
    assert same(before, weights(model))


@pytest.mark.parametrize(
    ("examples", "more", "word"),
    [
        ([], {}, "none came"),
        ([("the cat",)], {}, "pairs of texts"),
        ([("the cat", "")], {}, "has none"),
        ([("the ", "cat")], {}, "melts"),
        (EXAMPLES, {"steps": -1}, "steps=-1"),
        (EXAMPLES, {"batch": 0}, "batch=0"),
        (EXAMPLES, {"lr": 0.0}, "lr=0"),
        (EXAMPLES, {"steps": 30, "lr": 1e30}, "not finite"),
    ],
)
def test_what_cannot_be_learned_is_one_line(tiny_gpt2: Model, examples: Any, more: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word) as refused:
        fine_tune(tiny_gpt2, examples, **more)
    the_line(refused)


def test_edited_and_half_precision_models_are_refused(tiny_gpt2: Model, tiny_of: Any) -> None:
    with tiny_gpt2.edit({"blocks.0.hook_mlp_out": ablate()}):
        with pytest.raises(UserError, match="would keep edited numbers") as refused:
            fine_tune(tiny_gpt2, EXAMPLES)
        the_line(refused)
        tiny_gpt2.last_logits(["a dog"])  # an edit that never ran is an error
    half = fine_tune(tiny_of("llama"), EXAMPLES, steps=0)
    half.hf.to(torch.bfloat16)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="fp32") as refused:
        fine_tune(half, EXAMPLES)
    the_line(refused)


def test_pairs_part_where_the_completion_begins(tiny_gpt2: Model) -> None:
    for (ids, start), (prompt, completion) in zip(encode_pairs(tiny_gpt2, EXAMPLES), EXAMPLES, strict=True):
        assert tiny_gpt2.tokenizer.decode(ids[:start]) == prompt
        assert tiny_gpt2.tokenizer.decode(ids[start:]) == completion
