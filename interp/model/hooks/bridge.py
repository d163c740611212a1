"""TransformerLens, and nothing else: the only file that imports it.

`TransformerBridge` swaps the submodules of the model it wraps for hooked ones, so the bridge gets a module tree of its
own that shares the plain model's parameters; the plain model stays as Hugging Face made it. The bridge runs the raw
weights with eager attention (no folding, no centring): SAEs are tied to that choice, so it is recorded.

What is believed of a model is asked of it: that it never looks ahead, that its bridge gives the plain model's logits,
which hooks fire, and whether an edit at a hook changes anything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import UserError
from interp.model.hooks.sites import SiteTable
from interp.model.hooks.tolerance import of_logits, of_values
from interp.model.hooks.unchanged import user_hooks

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge

Attach = Callable[[Callable[[Tensor], "Tensor | None"]], AbstractContextManager[None]]
HEADS: dict[tuple[str, ...], tuple[str, ...]] = {  # what has four axes is parted into heads
    ("prompt", "pos", "feature", "feature"): ("prompt", "pos", "head", "feature"),
    ("prompt", "feature", "pos", "pos"): ("prompt", "head", "pos", "pos"),
}
NUMERICS = "raw Hugging Face weights, eager attention (TransformerBridge, no compatibility mode)"


def build_bridge(hf: PreTrainedModel) -> tuple[TransformerBridge, dict[str, torch.nn.Module]]:
    """Hook a copy of `hf`'s module tree; parameters are shared, nothing is downloaded, no tokenizer is needed.

    Returns the bridge, and the copy's modules by their names in `hf`: those that the bridge did not replace still run.
    Raises UserError when TransformerLens has no adapter for the architecture, or one that computes something else.
    """
    # boot_transformers() would ask the hub for a tokenizer; its builder takes the module alone.
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

    plain = check_decoder(hf)
    shared = [*hf.parameters(), *user_hooks(hf)]  # a hook with a state of its own is one hook in both
    tree = copy.deepcopy(hf, memo={id(thing): thing for thing in shared})
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
        bridge = build_bridge_from_module(tree, architecture, hf_config=tree.config, dtype=hf.dtype, device=hf.device)
        hooked = _run_dummy(bridge.eval())
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
        return relative_gap(_run_dummy(bridge), hf(ids, use_cache=False).logits) <= of_logits(hf.dtype)


def relative_gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value of `theirs`, where these are finite; infinite if ours are not."""
    ours, theirs = ours.detach(), theirs.detach()
    finite = torch.isfinite(theirs)
    gap = (ours - theirs)[finite].abs()
    if not bool(finite.any()) or not bool(torch.isfinite(gap).all()):
        return float("inf")
    return float(gap.max()) / max(float(theirs[finite].abs().max()), 1e-12)


def text_config(hf: Any) -> Any:
    """The config of the language model: a multimodal model keeps it inside its own."""
    return hf.config.get_text_config(decoder=True)


def copies_weights(bridge: TransformerBridge, hf: PreTrainedModel) -> bool:
    """Does the bridge hold copies of some weights? It does where it splits a fused, interleaved q-k-v matrix."""
    shared = {p.untyped_storage().data_ptr() for p in hf.parameters()}
    own = (p for p in bridge.parameters() if p.untyped_storage().data_ptr() not in shared)
    return any(bool(p.any()) for p in own)  # a bias of zeros that the bridge adds is no copy


def unembed(bridge: TransformerBridge, resid: Tensor) -> Tensor:
    """Final norm, unembedding and, where the model has one (Gemma 2), the cap on its logits."""
    logits = bridge.unembed(bridge.ln_final(resid))
    cap = getattr(text_config(bridge.original_model), "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def lens_gap(bridge: TransformerBridge, last_site: str) -> float:
    """How far the last block's output through `unembed` is from the model's logits, over the largest logit."""
    seen: list[Tensor] = []
    try:
        with attached(bridge.hook_dict[last_site], seen.append):
            logits = _run_dummy(bridge)
        with torch.no_grad():
            return relative_gap(unembed(bridge, seen[0]), logits)
    except (AttributeError, KeyError, IndexError, RuntimeError):  # no final norm, another width, or no such site
        return float("inf")


def has_effect(bridge: TransformerBridge, name: str, attach: Attach) -> bool:
    """Does what a hook returns here change the logits? Some hooks show a value that the model does not read back.

    `attach` puts a function at the site `name` while its context lasts.

    Raises UserError where TransformerLens cannot take a value back.
    """

    def change(tensor: Tensor) -> Tensor:
        ramp = torch.linspace(0.5, 1.5, tensor.shape[-1], device=tensor.device)
        return tensor * ramp.to(tensor.dtype) + 0.01  # zeros change too

    before = _run_dummy(bridge)
    try:
        with attach(change):
            return not torch.equal(_run_dummy(bridge), before)
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


def read_site_table(bridge: TransformerBridge) -> SiteTable:
    """Ask the model which hooks fire and what they carry, by two dummy forwards of different size.

    Asking beats a table of architectures: an axis whose length follows the number of prompts is `prompt`, one that
    follows the number of tokens is `pos`, and a hook that stays silent is not a site of this model.
    """
    points = bridge.hook_dict
    empty = _mislabelled(bridge)
    small, large = _dummy_shapes(bridge, 2, 5), _dummy_shapes(bridge, 3, 7)
    aliases: dict[int, list[str]] = {}
    for name, point in points.items():
        aliases.setdefault(id(point), []).append(name)
    axes: dict[str, tuple[str, ...]] = {}
    gated: dict[str, str] = {}
    silent: set[str] = set()
    for name, point in points.items():
        first = aliases[id(point)][0]
        reason = bridge._gated_hook_reason(name)
        if reason is not None:
            gated[name] = reason
        elif first in empty or first not in small or first not in large:
            silent.add(name)
        else:
            axes[name] = _name_axes(small[first], large[first])
    usable = {name: ax for name, ax in axes.items() if ax[0] == "prompt"}
    silent |= {name for name in axes if name not in usable}
    misnomers = _misnomers(aliases.values())
    usable = {name: ax for name, ax in usable.items() if name not in misnomers}
    # The last name a hook point got is TransformerLens' traditional one (hook_resid_post), the first the bridge's own.
    names = [[name for name in group if name in usable] for group in aliases.values()]
    listed = [group[-1] for group in names if group]
    origin = {name: aliases[id(points[name])][0] for name in usable}
    return SiteTable(tuple(listed), usable, origin, gated, frozenset(silent), misnomers)


def _misnomers(aliases: Iterable[list[str]]) -> dict[str, str]:
    """Names of neurons (`mlp.hook_pre`, `mlp.hook_post`) that the bridge gives to a whole MLP's input or output.

    It does so where the MLP is a mixture of experts, which has no one layer of neurons.
    """
    named = {}
    for group in aliases:
        end = group[0].rpartition(".mlp.")[2]
        if end in ("hook_in", "hook_out"):
            what = "input" if end == "hook_in" else "output"
            reason = (
                f"it is the {what} of an MLP of several experts, {group[0]}, and no layer of neurons; use that name"
            )
            named |= {n: reason for n in group if n.rpartition(".")[2] in ("hook_pre", "hook_post", "hook_pre_linear")}
    return named


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


def measure_gated(
    bridge: TransformerBridge, names: Sequence[str], switch: str
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """The axes of gated sites of one switch, those that fire a prompt, and a shape; asked with the switch on."""
    with opened(bridge, [switch]):
        small, large = (_dummy_shapes(bridge, prompts, length, names) for prompts, length in ((2, 5), (3, 7)))
    both = [name for name in names if name in small and name in large]
    measured = {name: (_name_axes(small[name], large[name]), small[name]) for name in both}
    return {name: (axes, shape) for name, (axes, shape) in measured.items() if axes[0] == "prompt"}


def _mislabelled(bridge: TransformerBridge) -> set[str]:
    """Score hooks that carry the pattern: where TransformerLens cannot see the scores, it shows the pattern twice."""
    seen: dict[str, Tensor] = {}
    pairs = [(n, n.replace("hook_attn_scores", "hook_pattern")) for n in bridge.hook_dict if "hook_attn_scores" in n]
    with ExitStack() as stack:
        for name in {n for pair in pairs for n in pair if n in bridge.hook_dict}:
            stack.enter_context(attached(bridge.hook_dict[name], lambda t, name=name: seen.update({name: t.detach()})))
        _run_dummy(bridge)
    return {s for s, p in pairs if s in seen and p in seen and torch.equal(seen[s], seen[p])}


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


def _run_dummy(bridge: TransformerBridge) -> Tensor:
    ids = dummy_ids(bridge.cfg.d_vocab, next(bridge.parameters()).device)
    with torch.no_grad():
        return run(bridge, ids, None, torch.ones_like(ids).cumsum(-1) - 1)


def measure_axes(bridge: TransformerBridge, attach: Attach) -> tuple[str, ...] | None:
    """What each axis at a place is, by two dummy forwards of different size.

    None where nothing came by, something came by twice, or what came holds no fractions (token ids).
    """
    shapes: list[tuple[int, ...]] = []

    def look(tensor: Tensor) -> None:
        shapes.append(tuple(tensor.shape) if tensor.is_floating_point() else ())

    for prompts, length in ((2, 5), (3, 7)):
        with attach(look):
            _run_zeros(bridge, prompts, length)
    right = len(shapes) == 2 and 0 < len(shapes[0]) == len(shapes[1])
    return _name_axes(shapes[0], shapes[1]) if right else None


def _run_zeros(bridge: TransformerBridge, prompts: int, length: int) -> None:
    ids = torch.zeros((prompts, length), dtype=torch.long, device=next(bridge.parameters()).device)
    mask = torch.ones_like(ids)
    with torch.no_grad():  # with a mask in one of two: a site that carries ids in either is none
        run(bridge, ids, mask if prompts == 2 else None, mask.cumsum(-1) - 1)


def _dummy_shapes(
    bridge: TransformerBridge, prompts: int, length: int, only: Collection[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """Shape of the activation at each hook point's first name (or at `only`), in a forward of `prompts` x `length`."""
    shapes: dict[str, tuple[int, ...]] = {}

    def reader(name: str) -> Callable[[Tensor], None]:
        def read(tensor: Tensor) -> None:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():  # some hooks carry ids, tuples or None
                shapes[name] = tuple(tensor.shape)

        return read

    first_names = {id(point): name for name, point in reversed(bridge.hook_dict.items())}
    with ExitStack() as stack:
        for name, point in bridge.hook_dict.items():
            first = first_names[id(point)] == name and bridge._gated_hook_reason(name) is None
            if first if only is None else name in only:
                stack.enter_context(attached(point, reader(name)))
        _run_zeros(bridge, prompts, length)
    return shapes


def _name_axes(small: tuple[int, ...], large: tuple[int, ...]) -> tuple[str, ...]:
    def name(i: int, a: int, b: int) -> str:
        if i == 0:
            return "prompt" if (a, b) == (2, 3) else "shared"
        return "pos" if (a, b) == (5, 7) else "feature"

    names = tuple(name(i, a, b) for i, (a, b) in enumerate(zip(small, large, strict=True)))
    return HEADS.get(names, names)
