"""On a CUDA device the numbers are the CPU's, up to the rounding of fp32 (TF32 is off unless somebody turns it on)."""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import Model, UserError, ablate, load_model, patch
from interp.activations.capture import capture_store
from interp.activations.plan import plan_capture
from interp.activations.rows import Rows, capture_rows
from interp.activations.shards import ShardWriter
from interp.analysis.answers import score_answers
from interp.analysis.lens import answer_lead
from interp.model.checking.parity import check_parity
from interp.saes.evaluate import evaluate_sae
from interp.saes.loading.sae import load_sae
from interp.saes.neuron_basis import coordinates_as_sae
from interp.saes.training.learner import Learner, fresh
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.processes import Ranks

pytestmark = pytest.mark.gpu
PROMPTS = ["Here is a fact. The capital of France is", "Once upon a time", "def add(a, b):\n    return a"]
SITES = ["blocks.*.hook_resid_post", "blocks.3.attn.hook_pattern", "blocks.29.mlp.hook_post"]


@pytest.fixture(scope="module")
def there() -> Model:
    if not torch.cuda.is_available():
        pytest.fail("`-m gpu` was asked for, and there is no CUDA device here")
    return load_model("smollm2-135m", "cuda")


def test_capture_and_logits_are_those_of_the_cpu(smol: Model, there: Model) -> None:
    here, on_gpu = smol.capture(PROMPTS, SITES), there.capture(PROMPTS, SITES)
    assert list(here) == list(on_gpu)
    for site in here:
        largest = float(here[site].nan_to_num().abs().max())
        torch.testing.assert_close(on_gpu[site].cpu(), here[site], atol=1e-5 * largest, rtol=0, equal_nan=True)
    last = SITES[2]
    torch.testing.assert_close(on_gpu.last(last).cpu(), here.last(last), atol=1e-3, rtol=0)
    torch.testing.assert_close(there.logits(PROMPTS).cpu(), smol.logits(PROMPTS), atol=1e-3, rtol=0, equal_nan=True)


def test_edits_take_effect_and_a_models_own_values_change_nothing(there: Model) -> None:
    site = "blocks.12.hook_resid_post"
    own, before = there.capture(PROMPTS, site)[site], there.last_logits(PROMPTS)
    with there.edit({site: patch(own)}) as receipts:
        torch.testing.assert_close(there.last_logits(PROMPTS), before, atol=1e-4, rtol=0)
    assert receipts[site].norm_change < 1e-2
    with there.edit({site: ablate(pos=-1)}):
        assert float((there.last_logits(PROMPTS) - before).abs().max()) > 1


def test_parity_holds_and_planted_faults_are_found(there: Model) -> None:
    result = check_parity(there)
    assert result.ok, [k for k in result.kinds if not k.ok]


def test_answers_and_lens_are_those_of_the_cpu(smol: Model, there: Model) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    here, on_gpu = (score_answers(m, prompts, [" Paris", " Rome", " Addis Ababa"]) for m in (smol, there))
    torch.testing.assert_close(on_gpu.summed, here.summed, atol=1e-3, rtol=0)
    assert torch.equal(on_gpu.greedy, here.greedy)
    ids = [smol.tokenizer(a).input_ids[0] for a in (" Paris", " Rome")]
    lenses = [answer_lead(m, prompts, ids, layers=[0, 15, 30]) for m in (smol, there)]
    torch.testing.assert_close(lenses[1], lenses[0], atol=1e-3, rtol=0, equal_nan=True)


def test_an_sae_is_measured_alike(word_model: Model, word_sae: Path) -> None:
    from word_sae import SENTENCES

    twin = Model(word_model.hf.to("cuda"), word_model.tokenizer, replace(word_model.provenance, device="cuda"))  # type: ignore[arg-type]
    try:
        on_gpu = evaluate_sae(load_sae(word_sae, twin), twin, SENTENCES[1::2])
        rows = capture_rows(twin, SENTENCES[1::2], on_gpu.site)
    finally:
        word_model.hf.to("cpu")  # type: ignore[arg-type]
    here = evaluate_sae(load_sae(word_sae, word_model), word_model, SENTENCES[1::2])
    assert on_gpu.explained_variance.mean == pytest.approx(here.explained_variance.mean, abs=1e-4)
    assert on_gpu.ce_reconstruction == pytest.approx(here.ce_reconstruction, abs=1e-4)
    assert rows.values.device.type == "cpu", "rows wait in main memory"


def test_a_store_holds_what_the_gpu_computes_however_slow_its_writer(
    there: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Activations wait in pinned memory while the model runs on; none may be lost, mixed up or overwritten."""
    texts, sites = [p * (1 + i % 7) for i in range(60) for p in PROMPTS], "blocks.*.hook_resid_post"
    plan, tokens = plan_capture(there, texts, sites, batch_tokens=512, shard_bytes=1 << 24)
    assert plan.numerics["device"] == torch.cuda.get_device_name()
    write = ShardWriter.write

    def late(self: ShardWriter, *what: Any) -> None:
        time.sleep(0.002)
        write(self, *what)

    fast = capture_store(there, tmp_path / "fast", plan, tokens)
    monkeypatch.setattr(ShardWriter, "write", late)
    slow = capture_store(there, tmp_path / "slow", plan, tokens)
    for site in fast.sites:
        assert torch.equal(fast.rows(site), slow.rows(site))
    for i in range(0, len(tokens.starts) - 1, 17):
        alone = there.capture([tokens.sequence(i).tolist()], sites)
        for site in (fast.sites[0], fast.sites[-1]):
            first, stop = int(tokens.starts[i]), int(tokens.starts[i + 1])
            largest = float(alone[site].abs().max())
            torch.testing.assert_close(fast.rows(site, first, stop), alone[site][0].cpu(), atol=1e-5 * largest, rtol=0)


def test_a_writer_that_fails_ends_the_capture(there: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, tokens = plan_capture(there, PROMPTS * 20, "blocks.*.hook_resid_post")

    def fail(self: ShardWriter, *what: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "write", fail)
    with pytest.raises(UserError, match="No space left on device"):
        capture_store(there, tmp_path / "s", plan, tokens)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_stays_what_was_asked_for(dtype: str) -> None:
    model = load_model("smollm2-135m", "cuda", dtype)
    acts = model.capture(PROMPTS, "blocks.0.hook_resid_post")
    assert acts["blocks.0.hook_resid_post"].dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert model.provenance.dtype == {"bf16": "bfloat16", "fp16": "float16"}[dtype]


@pytest.mark.parametrize(("kind", "settings"), [("topk", {"k": 4}), ("batchtopk", {"k": 4}), ("standard", {})])
def test_an_sae_trains_alike(word_rows: Rows, kind: str, settings: dict[str, Any]) -> None:
    """Twenty steps on both devices, in both precisions: within 1e-3, and twice on the GPU to the same bits."""
    from word_sae import SITE

    plan = plan_sae(SITE, kind, 64, **settings)
    rows = {SITE: word_rows.clean}
    found = []
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")):
        training = Training(steps=20, batch=128, lr=1e-3)
        learner = Learner(plan, training, fresh(plan, rows, 0), torch.device(device), precision, Ranks())  # type: ignore[arg-type]
        for step in range(20):
            learner.learn({SITE: word_rows.clean[:128]}, step)
        found.append(learner.weights["W_dec"].cpu())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-4)
    assert torch.equal(found[1], found[2])


def test_an_index_of_features_is_built_alike(smol: Model, there: Model, tmp_path: Path) -> None:
    """Firings, logits and ablations; near the threshold of a top k, rounding may choose otherwise."""
    from indexes import built

    site = "blocks.14.hook_resid_post"
    texts = [f"{prompt} {i}. And so it went on, and nobody knew why." for i, prompt in enumerate(PROMPTS * 4)]
    sae = coordinates_as_sae(smol, site, capture_rows(smol, texts, site).clean, 8)
    ours = built(smol, sae, tmp_path / "cpu", texts=texts, site=site)
    theirs = built(there, sae.to(there.device), tmp_path / "cuda", texts=texts, site=site)
    assert (abs(ours["rate"] - theirs["rate"]) < 0.01).all()
    torch.testing.assert_close(torch.tensor(theirs["up_logit"]), torch.tensor(ours["up_logit"]), rtol=1e-3, atol=1e-3)
    same = (ours["effect_n"] > 0) & (ours["rate"] == theirs["rate"])
    assert same.sum() > 100
    torch.testing.assert_close(
        torch.tensor(theirs["effect"][same, 0]), torch.tensor(ours["effect"][same, 0]), rtol=0, atol=5e-3
    )
