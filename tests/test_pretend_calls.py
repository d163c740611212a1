"""The public calls of every folder, on a card and on a second one: what they give is what the CPU's twin gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from indexes import built
from torch import Tensor
from word_sae import SENTENCES, SITE

from interp import Model, analysis, edits
from interp.activations.capture import capture_store
from interp.activations.plan import plan_capture
from interp.activations.rows import Rows, capture_rows
from interp.activations.store import open_store
from interp.activations.token_table import Cut
from interp.activations.verify import verify_store
from interp.features.live import attach_live
from interp.model.checking.parity import check_parity
from interp.model.training.batched_gpt2 import Member, Size, TrainingSchedule, train_population
from interp.model.training.copies import copy_model
from interp.model.training.finetune import fine_tune
from interp.model.training.random_weights import with_random_weights
from interp.saes.edits import clamp_features, mean_ablate, reconstruct, steer_features
from interp.saes.evaluate import evaluate_sae
from interp.saes.loading.attach import attach_sae
from interp.saes.loading.sae import load_sae
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.sources import MemoryRows, ModelRows, StoreRows
from interp.saes.training.trainer import train

pytestmark = pytest.mark.pretend
PROMPTS = ["the cat sat", "a dog ran far", "the cat"]
PAIRS = [[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 9, 3, 4], [5, 10, 7, 8]]
RIGHT, WRONG = [5, 6], [8, 9]
METRIC = analysis.logit_difference(RIGHT, WRONG)
LAST, POSTS, HEADS = "blocks.1.hook_resid_post", "blocks.*.hook_resid_post", "blocks.0.attn.hook_z"
CARDS = [pytest.param("cuda", marks=pytest.mark.slow), "cuda:1"]  # what is forgotten goes to the first one
SPREAD = "auto"  # half of the blocks on each of two cards
Call = Callable[[Model, Path], Any]


@pytest.fixture(scope="module", params=[*CARDS, SPREAD])
def there(request: pytest.FixtureRequest, tiny_gpt2: Model) -> Model:
    """The same model on a card."""
    return on(request.param, tiny_gpt2)


def on(device: str, model: Model) -> Model:
    """A copy of the model on a card, or spread over two; the model stays where it is."""
    copied = copy_model(model, model.provenance.name)
    if device == SPREAD:
        spread_over_two(copied.hf)
        return Model(copied.hf, copied.tokenizer, replace(model.provenance, device="cuda:0, cuda:1"))
    return Model(copied.hf.to(device), copied.tokenizer, replace(model.provenance, device=device))  # type: ignore[arg-type]


def spread_over_two(hf: Any) -> None:
    """As transformers' device_map does it, in the middle of the blocks; the final norm behind the last of them."""
    ends = {"wte": 0, "wpe": 0, "ln_f": 1}
    half = (len(hf.transformer.h) + 1) // 2
    places: dict[str, Any] = {f"h.{i}": int(i >= half) for i in range(len(hf.transformer.h))} | ends
    dispatch_model(
        hf,
        {f"transformer.{name}": card for name, card in places.items()} | {"lm_head": 0},
        main_device=torch.device("cuda:0"),
    )


def edited(make: Callable[[Model], Any], site: str = "blocks.0.hook_resid_post") -> Call:
    """The logits with an edit."""

    def run(model: Model, folder: Path) -> Tensor:
        with model.edit({site: make(model)}):
            return model.last_logits(PROMPTS)

    return run


def frozen(model: Model, folder: Path) -> Tensor:
    with model.edit(edits.freeze(model.capture(PROMPTS[:1], "blocks.*.attn.hook_pattern"))):
        return model.last_logits(PROMPTS[:1])


def stored(model: Model, folder: Path) -> Any:
    plan, ids = plan_capture(model, PROMPTS * 10, "blocks.*.hook_resid_post", batch_tokens=128)
    store = capture_store(model, folder / "store", plan, ids)
    assert verify_store(open_store(store.folder)) == []
    lens = analysis.train_lens(model, store, steps=3)
    return store.rows(LAST), store.norms(LAST), [*analysis.lens_divergence(model, lens, store).values()]


def tuned(model: Model, folder: Path) -> Tensor:
    examples = [(prompt, f" {word}") for prompt, word in zip(PROMPTS, ("one", "two", "three"), strict=True)]
    return fine_tune(model, examples, steps=3).last_logits(PROMPTS)


def population(model: Model, folder: Path) -> Any:
    text = torch.arange(300) % 7
    size, members = Size(8, n_layers=1, n_heads=2, context=8), [Member(1e-2, seed) for seed in (0, 1)]
    made = train_population(size, 7, members, [text, text], TrainingSchedule(3, 2), device=model.device)
    return made.losses(text)


CALLS: dict[str, Call] = {
    "capture": lambda m, _: dict(m.capture(PROMPTS, ["blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern"])),
    "logits": lambda m, _: m.logits(PROMPTS),
    "loss": lambda m, _: m.loss(PROMPTS),
    "measure": lambda m, _: m.measure(PAIRS[0], METRIC),
    "generate": lambda m, _: m.generate(PROMPTS, max_new_tokens=6),
    "sample": lambda m, _: len(m.generate(PROMPTS, max_new_tokens=6, temperature=1.0).texts),  # a card draws its own
    "matrices": lambda m, _: [m.W_E, m.W_U, m.W_Q, m.W_K, m.W_V, m.W_O, m.W_in, m.W_out],
    "products": lambda m, _: m.OV(0, 1).svd()[1],
    "steer": edited(lambda m: edits.steer(torch.ones(m.d_model), 2.0, pos=-1)),
    "ablate": edited(lambda m: edits.ablate(pos=[0, -1])),
    "a slice": edited(lambda m: edits.ablate(pos=slice(1, None))),
    "scale": edited(lambda m: edits.scale(0.5)),
    "project out": edited(lambda m: edits.project_out(torch.eye(m.d_model)[:2])),
    "resample": edited(lambda m: edits.resample(m.capture(PROMPTS, LAST).rows(LAST))),
    "patch": edited(lambda m: edits.patch(m.capture(PROMPTS, "blocks.0.hook_resid_post")["blocks.0.hook_resid_post"])),
    "compose": edited(lambda m: edits.compose(edits.scale(2.0), edits.only(edits.ablate(), features=[1, 2]))),
    "heads": edited(lambda m: edits.only(edits.ablate(), heads=1, prompts=[0, 2]), "blocks.0.attn.hook_z"),
    "knock out": edited(lambda m: edits.knock_out(-1, 0), "blocks.0.attn.hook_pattern"),
    "freeze": frozen,
    "gradients": lambda m, _: analysis.gradients_of(m, PAIRS[0], LAST, METRIC).gradients[LAST],
    "answers": lambda m, _: analysis.score_answers(m, PROMPTS, [" one", " two or three"]).summed,
    "choices": lambda m, _: analysis.choose_among(m, PROMPTS, [" one", " two"]).share,
    "windows": lambda m, _: analysis.windowed_losses(m, [[*range(1, 12)]], 4),
    "patching": lambda m, _: analysis.patch_sweep(m, *PAIRS, METRIC, POSTS).effect,
    "heads patched": lambda m, _: analysis.patch_sweep(m, *PAIRS, METRIC, "blocks.*.attn.hook_z", by=("head",)).effect,
    "attribution patching": lambda m, _: analysis.attribution_patch(m, *PAIRS, METRIC, POSTS).effect,
    "paths": lambda m, _: analysis.path_patch(m, *PAIRS, METRIC, HEADS, "blocks.1.attn.hook_q", heads=0),
    "direct logits": lambda m, _: analysis.attribute_logits(m, PAIRS[0], RIGHT, WRONG).effect,
    "direct logits of heads": lambda m, _: analysis.attribute_logits(m, PAIRS[0], RIGHT, WRONG, by="head").effect,
    "direct logits of neurons": lambda m, _: analysis.attribute_logits(m, PAIRS[0], RIGHT, WRONG, by="neuron").effect,
    "a lens": lambda m, _: analysis.answer_lead(m, PROMPTS, [5, 6, 7]),
    "a trajectory": lambda m, _: analysis.trace_prediction(m, PROMPTS[0]).divergence,
    "analogies": lambda m, _: analysis.ask_analogies(m.W_E[:40], [(0, 1), (2, 3), (4, 5), (6, 7)]).right("offset"),
    "offsets": lambda m, _: analysis.every_cosine(m.W_E[:40], [(0, 1), (2, 3), (4, 5)]),
    "readouts": lambda m, _: analysis.read_accuracy(
        m.capture([PROMPTS[0]] * 12, LAST).last(LAST), [0, 1] * 6, [*range(12)]
    ).n,
    "rows": lambda m, _: capture_rows(m, PROMPTS, LAST).values,
    "a store, and a lens trained on it": stored,
    "fine-tuning": tuned,
    "random weights": lambda m, _: with_random_weights(m).last_logits(PROMPTS).isfinite().all(),
    "a population": population,
    "parity": lambda m, _: check_parity(m).ok,
}  # fmt: skip


def assert_alike(here: Any, there: Any) -> None:
    """Equal up to the order of sums, wherever the numbers lie."""
    if isinstance(here, dict):
        assert list(here) == list(there)
        here, there = list(here.values()), list(there.values())
    if isinstance(here, list | tuple) and not all(isinstance(one, int | float | str) for one in here):
        assert len(here) == len(there)
        for mine, its in zip(here, there, strict=True):
            assert_alike(mine, its)
    elif isinstance(here, Tensor | np.ndarray | float) or (isinstance(here, list) and isinstance(here[0], float)):
        mine, its = (
            (one.detach().cpu() if isinstance(one, Tensor) else torch.tensor(np.array(one))).double()
            for one in (here, there)
        )
        room = 2e-4 * float(mine.nan_to_num().abs().max()) if mine.numel() else 0.0
        torch.testing.assert_close(its, mine, rtol=0, atol=room + 1e-6, equal_nan=True)
    else:
        assert here == there


@pytest.mark.parametrize(
    "call", [pytest.param(call, marks=pytest.mark.slow) if call == "parity" else call for call in CALLS]
)
def test_a_card_gives_what_the_cpu_gives(call: str, there: Model, tiny_gpt2: Model, tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    ours = CALLS[call](tiny_gpt2, tmp_path / "here")
    assert_alike(ours, CALLS[call](there, tmp_path / "there"))


SAES = ["topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "standard", "gated"]


def settings_of(kind: str) -> dict[str, Any]:
    more = {"matryoshka_widths": (8, 24, 64)} if kind.startswith("matry") else {}
    return {"k": 4, **more} if "topk" in kind else more


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", SAES)
def test_an_sae_trains_alike_stops_and_goes_on(
    kind: str, precision: Any, word_rows: Rows, word_model: Model, tmp_path: Path
) -> None:
    """Forty steps: the CPU's weights within the order of sums; stopped half-way and resumed, the same bits."""
    plan = plan_sae(SITE, kind, 64, **settings_of(kind))
    training = Training(steps=40, batch=128, lr=1e-3, precision=precision, dead_after=10)
    source = MemoryRows(word_rows, word_model)

    def weights(name: str, device: str, stop_at: int | None = None) -> dict[str, Tensor]:
        asked = iter(range(1, 1000))
        stops = (lambda: next(asked) == stop_at) if stop_at else (lambda: False)
        if stop_at:
            assert train(plan, source, tmp_path / name, training, device=device, stop=stops) is None
        written = train(plan, source, tmp_path / name, training, device=device)
        assert written
        return dict(load_sae(written[0]).state_dict())

    here, whole, resumed = weights("cpu", "cpu"), weights("whole", "cuda"), weights("parts", "cuda", stop_at=20)
    for name, tensor in here.items():
        torch.testing.assert_close(whole[name].cpu(), tensor, rtol=1e-3, atol=2e-3)
        assert torch.equal(whole[name].cpu(), resumed[name].cpu()), name


@pytest.mark.parametrize("device", [*CARDS, pytest.param(SPREAD, marks=pytest.mark.slow)])
def test_a_trained_sae_serves_on_a_card(
    device: str, word_model: Model, word_sae: Path, word_rows: Rows, tmp_path: Path
) -> None:
    """Measured, attached, edited with, indexed and read live; rows from the model, from a store and from memory."""
    card = on(device, word_model)
    found = []
    for model in (word_model, card):
        folder = tmp_path / str(model.device).replace(":", "")
        sae = load_sae(word_sae, model)
        report = evaluate_sae(sae, model, SENTENCES[1::2], n_boot=0)
        attach_sae(word_sae, model, sample=SENTENCES[:8])
        numbers: list[Any] = [report.ce_reconstruction, report.explained_variance.mean]
        for edit in (
            reconstruct(sae),
            steer_features(sae, {3: 2.0}),
            clamp_features(sae, {1: 0.0}),
            mean_ablate(word_rows.clean.mean(0)),
        ):
            with model.edit({SITE: edit}):
                numbers.append(model.last_logits(SENTENCES[:4]))
        index = built(model, sae, folder / "index", texts=SENTENCES[:20])
        numbers += [index["rate"], index["up_logit"]]
        live = attach_live(index, "", word_sae, model=model)
        live.change(SENTENCES[0], {3: 2.0}, new_tokens=3)
        numbers.append([part.effect for part in live.attribute(SENTENCES[0], 3)][:1])
        plan, ids = plan_capture(model, SENTENCES[:40], [SITE], cut=Cut(10))
        store = capture_store(model, folder / "store", plan, ids)
        training = Training(steps=5, batch=64, lr=1e-3, precision="fp32")
        for name, source in (("model", ModelRows(model, plan, ids)), ("store", StoreRows(store))):
            plan_of_it = plan_sae(SITE, "topk", 64, k=4)
            written = train(plan_of_it, source, folder / f"from {name}", training, device=model.device)
            assert written
            numbers.append(load_sae(written[0]).W_dec)
        found.append(numbers)
    assert_alike(*found)
