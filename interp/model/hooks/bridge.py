"""TransformerLens, and nothing else: the only file that imports it.

`TransformerBridge` swaps the submodules of the model it wraps for hooked ones, so the bridge gets a module tree of its
own that shares the plain model's parameters; the plain model stays as Hugging Face made it. The bridge runs the raw
weights with eager attention (no folding, no centring): SAEs are tied to that choice, so it is recorded.

What is believed of a model is asked of it: that it never looks ahead, that its bridge gives the plain model's logits,
which hooks fire, and whether an edit at a hook changes anything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import UserError
from interp.model.hooks.fused import Part, SplitWithoutCopies
from interp.model.hooks.quantized import packed_state
from interp.model.hooks.spread import check_in_memory, detach_dispatchers, devices_of, dispatchers, hand_over
from interp.model.hooks.tolerance import of_logits, of_values
from interp.model.hooks.unchanged import mark_own, user_hooks

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge

Attach = Callable[[Callable[[Tensor], "Tensor | None"]], AbstractContextManager[None]]
NUMERICS = "raw Hugging Face weights, eager attention (TransformerBridge, no compatibility mode)"


def build_bridge(hf: PreTrainedModel) -> tuple[TransformerBridge, dict[str, torch.nn.Module]]:
    """Hook a copy of `hf`'s module tree; parameters are shared, nothing is downloaded, no tokenizer is needed.

    Returns the bridge, and the copy's modules by their names in `hf`: those that the bridge did not replace still run.
    Raises UserError when TransformerLens has no adapter for the architecture, or one that computes something else.
    """
    # boot_transformers() would ask the hub for a tokenizer; its builder takes the module alone.
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

    check_in_memory(hf)
    plain = check_decoder(hf)
    shared = [*hf.parameters(), *packed_state(hf), *user_hooks(hf), *dispatchers(hf)]  # a hook's state is one in both
    tree = copy.deepcopy(hf, memo={id(thing): thing for thing in shared})
    detach_dispatchers(tree)
    modules: dict[str, torch.nn.Module] = dict(tree.named_modules())
    tree.config.architectures = tree.config.architectures or [type(hf).__name__]  # a model made in memory names none
    for blocks in tree.modules():
        for block in blocks if isinstance(blocks, torch.nn.ModuleList) else ():
            # GPT-1's blocks give a list, whose content the bridge does not show
            block.register_forward_hook(lambda _, __, made: tuple(made) if isinstance(made, list) else made)
    with suppress(ValueError, AttributeError, NotImplementedError):  # one that knows a single way of attention
        tree.set_attn_implementation("eager")  # else no pattern exists where the adapter calls transformers' module
    try:
        architecture = determine_architecture_from_hf_config(tree.config)
        with _shared_parts():
            bridge = build_bridge_from_module(
                tree, architecture, hf_config=tree.config, dtype=hf.dtype, device=hf.device
            )
        if len(devices_of(hf)) > 1:
            hand_over(bridge.original_model)
        hooked = run_dummy(bridge.eval())
        _cut_heads_of_latent_attention(bridge)
    except (ValueError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition(" Available architectures")[0][:200]
        raise UserError(
            f"TransformerLens has no hooks for architecture {type(hf).__name__} ({reason or type(error).__name__}); "
            "expected a decoder that its TransformerBridge supports, such as gpt2, llama, qwen or pythia; generate, "
            "logits and scores work without hooks"
        ) from error
    gap = relative_gap(hooked, plain)
    if gap > of_logits(hf.dtype):
        raise UserError(
            f"TransformerLens computes {type(hf).__name__} wrongly: its logits differ from plain transformers' by "
            f"{gap:.1%} of the largest, so no number from its hooks can be trusted; {_way_out(hf)}"
        )
    return bridge, modules


@contextmanager
def _shared_parts() -> Iterator[None]:
    """Inside, bridges are built whose fused matrices (q, k and v in one; gate and up in one) are not copied."""
    from transformer_lens.model_bridge.generalized_components.joint_gate_up_mlp import JointGateUpMLPBridge
    from transformer_lens.model_bridge.generalized_components.joint_qkv_attention import JointQKVAttentionBridge

    splits: dict[Any, str] = {JointQKVAttentionBridge: "split_qkv_matrix", JointGateUpMLPBridge: "split_gate_up_matrix"}
    before = {component: component.set_original_component for component in splits}
    for component, name in splits.items():
        component.set_original_component = _sharing(before[component], name, SplitWithoutCopies())
    try:
        yield
    finally:
        for component, usual in before.items():
            component.set_original_component = usual


def _sharing(
    usual: Callable[[Any, torch.nn.Module], None], name: str, splits: SplitWithoutCopies
) -> Callable[[Any, torch.nn.Module], None]:
    def set_original_component(component: Any, original: torch.nn.Module) -> None:
        split = getattr(component, name)
        setattr(component, name, partial(splits, split))
        try:
            usual(component, original)
        finally:
            setattr(component, name, split)
        for whole in {part.whole for part in component.modules() if isinstance(part, Part)}:
            component.register_forward_pre_hook(mark_own(partial(whole.forget)))
            component.register_forward_hook(mark_own(partial(whole.forget)), always_call=True)

    return set_original_component


def _cut_heads_of_latent_attention(bridge: TransformerBridge) -> None:
    """Give `hook_z` the heads of multi-head latent attention (DeepSeek), whose values have a width of their own.

    The bridge cuts by the width of d_model over heads, so that half a head, or none, would be edited as one. It learns
    the right width in its first forward.
    """
    module: Any
    for module in bridge.modules():
        width = getattr(module, "_v_head_dim", None)
        conversion = module.o.hook_in.hook_conversion if width and hasattr(module, "o") else None
        if conversion is not None:
            conversion.n_heads, conversion.d_head = bridge.cfg.n_heads, width


def _way_out(hf: PreTrainedModel) -> str:
    if any("lora_" in name for name, _ in hf.named_parameters()):
        return "it splits matrices that an adapter changes: merge the adapter first (load_model(..., adapter=FOLDER))"
    return "use another model; generate, logits and scores work without hooks"


def check_decoder(hf: PreTrainedModel) -> Tensor:
    """The plain model's logits on the dummy prompts. Raises UserError for a model that is no causal decoder."""
    ids = dummy_ids(text_config(hf).vocab_size, hf.device)
    training = hf.training
    try:
        with torch.no_grad():
            logits = hf.eval()(ids, use_cache=False).logits
    except (ValueError, TypeError, AttributeError) as error:  # an encoder-decoder wants a second input
        raise UserError(f"{type(hf).__name__} does not run as a decoder ({error}); expected a causal model") from error
    finally:
        hf.train(training)
    if bool(logits.isnan().any()):
        raise UserError(f"the weights of this {type(hf).__name__} give NaN for logits; fetch the model again")
    if relative_gap(logits[1, :-1], logits[0, :-1]) > of_values(hf.dtype):
        raise UserError(
            f"{type(hf).__name__} looks ahead: a later token changes the logits before it; "
            "expected a causal language model, not an encoder such as BERT"
        )
    return logits


def same_logits(bridge: TransformerBridge, hf: PreTrainedModel) -> bool:
    """Do the hooked tree and the plain model give the same logits?"""
    ids = dummy_ids(text_config(hf).vocab_size, hf.device)
    with torch.no_grad():
        return relative_gap(run_dummy(bridge), hf(ids, use_cache=False).logits) <= of_logits(hf.dtype)


def relative_gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value of `theirs`, where these are finite; infinite if ours are not."""
    ours, theirs = ours.detach().to(theirs.device), theirs.detach()
    finite = torch.isfinite(theirs)
    gap = (ours - theirs)[finite].abs()
    if not bool(finite.any()) or not bool(torch.isfinite(gap).all()):
        return float("inf")
    return float(gap.max()) / max(float(theirs[finite].abs().max()), 1e-12)


def text_config(hf: Any) -> Any:
    """The config of the language model: a multimodal model keeps it inside its own."""
    return hf.config.get_text_config(decoder=True)


def unembed(bridge: TransformerBridge, resid: Tensor) -> Tensor:
    """Final norm, unembedding and, where the model has one (Gemma 2), the cap on its logits."""
    logits = bridge.unembed(bridge.ln_final(resid)).to(resid.device)
    cap = getattr(text_config(bridge.original_model), "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def lens_gap(bridge: TransformerBridge, last_site: str) -> float:
    """How far the last block's output through `unembed` is from the model's logits, over the largest logit."""
    seen: list[Tensor] = []
    try:
        with attached(bridge.hook_dict[last_site], seen.append):
            logits = run_dummy(bridge)
        with torch.no_grad():
            return relative_gap(unembed(bridge, seen[0]), logits)
    except (AttributeError, KeyError, IndexError, RuntimeError):  # no final norm, another width, or no such site
        return float("inf")


def has_effect(bridge: TransformerBridge, name: str, attach: Attach, before: Tensor) -> bool:
    """Does what a hook returns here change the logits? Some hooks show a value that the model does not read back.

    `attach` puts a function at the site `name` while its context lasts; `before` are `run_dummy`'s logits without.

    Raises UserError where TransformerLens cannot take a value back.
    """

    def change(tensor: Tensor) -> Tensor:
        ramp = torch.linspace(0.5, 1.5, tensor.shape[-1], device=tensor.device)
        return tensor * ramp.to(tensor.dtype) + 0.01  # zeros change too

    try:
        with attach(change):
            return not torch.equal(run_dummy(bridge), before)
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise UserError(
            f"TransformerLens cannot edit {name} on this model ({error}); edit another site, see model.sites()"
        ) from error


def run(bridge: TransformerBridge, ids: Tensor, mask: Tensor | None, position_ids: Tensor) -> Tensor:
    """One forward through the hooked tree: logits [prompt, pos, d_vocab]."""
    return bridge(ids, attention_mask=mask, position_ids=position_ids, return_type="logits")


def run_on_cache(
    bridge: TransformerBridge, ids: Tensor, mask: Tensor | None, position_ids: Tensor, cache: Any
) -> tuple[Tensor, Any]:
    """The same on top of what attention kept of earlier tokens: logits of these tokens, and the longer cache."""
    return bridge(
        ids,
        attention_mask=mask,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
        return_type="logits_and_cache",
    )


@contextmanager
def attached(point: HookPoint, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Run `function` on the activation at a hook point while the context lasts; a returned tensor replaces it."""
    point.add_hook(lambda tensor, hook: function(tensor))  # type: ignore[arg-type]
    handle = point.fwd_hooks[-1]
    try:
        yield
    finally:
        handle.hook.remove()
        point.fwd_hooks.remove(handle)


def count_hooks(bridge: TransformerBridge) -> int:
    """How many hooks are attached anywhere: 0 outside every context."""
    return sum(len(p.fwd_hooks) + len(p.bwd_hooks) for p in {id(p): p for p in bridge.hook_dict.values()}.values())


@contextmanager
def opened(bridge: TransformerBridge, switches: Collection[str]) -> Iterator[None]:
    """Open gated sites while the context lasts. Raises UserError for a switch that this model does not take.

    An open site costs: `hook_result` and the inputs of q, k and v hold a residual stream a head.
    """
    if {"use_attn_in", "use_split_qkv_input"} <= set(switches):
        raise UserError(
            "hook_attn_in and hook_q_input (or hook_k_input, hook_v_input) cannot be open in one forward; use one kind"
        )
    try:
        for switch in switches:
            getattr(bridge, f"set_{switch}")(True)
    except (ValueError, NotImplementedError) as error:
        _close(bridge, switches)
        raise UserError(f"this model cannot open {', '.join(switches)} ({error}); use another site") from error
    try:
        yield
    finally:
        _close(bridge, switches)


def _close(bridge: TransformerBridge, switches: Collection[str]) -> None:
    for switch in switches:
        with suppress(ValueError, NotImplementedError):
            getattr(bridge, f"set_{switch}")(False)


def module_path(bridge: TransformerBridge, component: str) -> str | None:
    """Where a bridge component (`blocks.3.attn.o`) lives in the plain model (`model.layers.3.self_attn.o_proj`)."""
    try:
        return bridge.adapter.translate_transformer_lens_path(component)
    except ValueError:
        return None


def dummy_ids(d_vocab: int, device: torch.device, length: int = 6) -> Tensor:
    """Two prompts of so many tokens that differ in the last one only."""
    ids = torch.linspace(1, d_vocab - 1, length + 1, device=device).long()
    return torch.stack([ids[:-1], torch.cat([ids[:-2], ids[-1:]])])


def run_dummy(bridge: TransformerBridge) -> Tensor:
    """Logits of the dummy prompts, without gradients."""
    ids = dummy_ids(bridge.cfg.d_vocab, next(bridge.parameters()).device)
    with torch.no_grad():
        return run(bridge, ids, None, torch.ones_like(ids).cumsum(-1) - 1)
