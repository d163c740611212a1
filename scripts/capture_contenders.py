"""The contenders of `bench_capture.py`: each a function that runs on token ids [prompt, pos] and gives activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORWARDS = 12  # how often a capture to disk runs its tokens: it lasts, as captures do
Contender = Callable[[Tensor], Any]


def load(name: str, device: str) -> Any:
    """The bundled model, or a GPT-2 of GPT-2-small's shape with random weights."""
    from interp import Model, load_model

    model = load_model("smollm2-135m", device)
    if name == "smollm2-135m":
        return model
    import transformers

    torch.manual_seed(0)
    hf: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    hf = hf.to(device)
    return Model(hf, model.tokenizer, replace(model.provenance, name=name, architecture="GPT2LMHeadModel"))


def residual(model: Any, layers: Sequence[int]) -> list[str]:
    """The residual stream after these blocks."""
    return [f"blocks.{layer}.hook_resid_post" for layer in layers]


def bare(model: Any, **settings: Any) -> Contender:
    """The limit: a forward of the trunk and nothing else."""

    def run(ids: Tensor) -> None:
        model.hf.base_model(ids, use_cache=False, **settings)

    return run


def bare_in_parts(model: Any) -> Contender:
    """The limit at the batches that ours chooses."""

    def run(ids: Tensor) -> None:
        for part in ids.split(prompts_at_once(ids)):
            model.hf.base_model(part, use_cache=False)

    return run


def prompts_at_once(ids: Tensor) -> int:
    """How many of these prompts a capture runs in one forward."""
    from interp.activations.plan import BATCH_TOKENS

    return max(1, BATCH_TOKENS[ids.device.type] // ids.shape[1])


def full(model: Any) -> Contender:
    """A forward with logits, as a user without a trunk runs it."""

    def run(ids: Tensor) -> None:
        model.hf(ids, use_cache=False)

    return run


def ours_to_memory(model: Any, sites: list[str]) -> Contender:
    """The trunk with hooks, copies kept."""
    from interp.activations.offload import Offload
    from interp.model.hooks.forward import engine_for, stream
    from interp.model.hooks.tokens import Tokens

    assert engine_for(model.tree, sites) == "plain"

    def run(ids: Tensor) -> dict[str, list[Tensor]]:
        kept: dict[str, list[Tensor]] = {site: [] for site in sites}

        def keep(site: str, value: Tensor) -> None:
            kept[site].append(value if value.is_pinned() else value.clone())

        with Offload(keep, model.hf.dtype) as offload:
            for part in ids.split(prompts_at_once(ids)):
                real = torch.ones_like(part, dtype=torch.bool)
                stream(model.tree, Tokens(part, real, torch.arange(len(part)), len(part)), sites, offload.put)
        return kept

    return run


def ours_to_disk(model: Any, sites: list[str], folder: Path) -> Contender:
    """A whole capture of these tokens, `FORWARDS` times over: set-up, shards written, hashed, fsynced and sealed."""
    from interp.activations.capture import capture_store
    from interp.activations.plan import Plan, cut_shards
    from interp.activations.store import Store
    from interp.activations.token_table import Tokens

    shapes = {site: [model.d_model] for site in sites}
    count = 0

    def run(ids: Tensor) -> Store:
        nonlocal count
        count += 1
        n, length = ids.shape[0] * FORWARDS, ids.shape[1]
        rows = torch.arange(n * length, dtype=torch.int32)
        tokens = Tokens(
            ids=ids.repeat(FORWARDS, 1).flatten().cpu().int().numpy(),
            document=(rows // length).numpy(),
            position=(rows % length).numpy(),
            starts=torch.arange(0, n * length + 1, length).numpy(),
            file=torch.zeros(n, dtype=torch.int32).numpy(),
            row=torch.arange(n).numpy(),
            files=("bench",),
        )
        shards = cut_shards(tokens, 4 * model.d_model * len(sites))
        numerics = {"compute": "float32", "stored": "fp32", "path": "plain model"}
        corpus = {"documents": n, "tokens": n * length}
        plan = Plan(
            {"name": "bench", "weights": ""}, numerics, {}, shapes, prompts_at_once(ids) * length, corpus, shards
        )
        return capture_store(model, folder / str(count), plan, tokens)

    return run


def cached(model: Any, **settings: Any) -> Contender:
    """run_with_cache of TransformerLens' TransformerBridge or HookedTransformer."""

    def run(ids: Tensor) -> Any:
        return model.run_with_cache(ids, **settings)[1]

    return run


def hooked(model: Any) -> Any:
    """TransformerLens' HookedTransformer with these weights; it knows GPT-2 and not this SmolLM2: None there."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

    if model.provenance.name != "gpt2-small":
        return None
    c = model.hf.config
    theirs = HookedTransformer(
        HookedTransformerConfig(
            n_layers=c.n_layer,
            d_model=c.n_embd,
            n_ctx=c.n_positions,
            d_head=c.n_embd // c.n_head,
            n_heads=c.n_head,
            d_mlp=4 * c.n_embd,
            d_vocab=c.vocab_size,
            act_fn="gelu_new",
            normalization_type="LN",
            eps=c.layer_norm_epsilon,
            device=str(model.device),
        )
    )
    theirs.load_state_dict(convert_gpt2_weights(model.hf, theirs.cfg), strict=False)
    return theirs


def nnsight(model: Any, layers: Sequence[int]) -> Contender | None:
    """nnsight, where it is installed."""
    try:
        from nnsight import NNsight  # type: ignore[import-not-found]
    except ImportError:
        return None
    wrapped = NNsight(model.hf.base_model)
    blocks = "h" if hasattr(model.hf.base_model, "h") else "layers"

    def run(ids: Tensor) -> dict[str, Tensor]:
        with wrapped.trace(ids, use_cache=False):
            saved = list().save()  # type: ignore[attr-defined] # noqa: C408 - nnsight adds the method
            for layer in layers:
                saved.append(getattr(wrapped, blocks)[layer].output)
        outputs = [value[0] if isinstance(value, tuple) else value for value in saved]
        return dict(zip(residual(model, layers), outputs, strict=True))

    return run
