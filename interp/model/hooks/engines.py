"""The two ways to run a model: the plain Hugging Face model with taps, and the hooked tree with hooks.

Both take a padded batch, call functions at places on the way, and give logits and a cache. Which of the two serves, and
what is edited, is decided in `forward.py`; here nothing is decided.

Logits are wide: only those that are asked for are computed. For that the hidden states are cut in front of the
unembedding, which is the same in every architecture, caps and scales behind it included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.model.hooks.bridge import run, run_on_cache
from interp.model.hooks.taps import Tap, tapped
from interp.model.hooks.tokens import Tokens
from interp.model.hooks.unchanged import mark_own

if TYPE_CHECKING:  # importing transformer_lens is bridge.py's business
    from transformer_lens.model_bridge import TransformerBridge

Reader = Callable[[Tensor], "Tensor | None"]  # what it returns takes the activation's place
Keep = Literal["all", "last"] | int  # logits of every position, of each row's last token, of the last so many columns


@dataclass(frozen=True)
class Ran:
    """What a forward gave. `cache`: None where the model keeps none, or was not asked to."""

    logits: Tensor
    cache: Any


def run_plain(
    hf: PreTrainedModel,
    batch: Tokens,
    at: Sequence[tuple[Tap, Reader]],
    *,
    keep: Keep = "all",
    cache: Any = None,
    use_cache: bool = False,
) -> Ran:
    """One forward of the plain model, with the attention kernel that it was loaded with.

    No mask where padding stands at the right only: the models are causal, and the kernel is faster without one.
    """
    settings: dict[str, Any] = {"use_cache": use_cache or cache is not None}
    if cache is not None:
        settings["past_key_values"] = cache
    if batch.sees is not None:
        settings["attention_mask"] = _additive(batch.sees, hf.dtype)
    elif batch.sees_padding and not batch.pads_right_only:
        settings["attention_mask"] = batch.whole_mask.long()
    if cache is not None or "attention_mask" in settings or batch.places is not None:
        settings["position_ids"] = batch.position_ids
    known = signature(hf.forward).parameters
    if not any(p.kind is Parameter.VAR_KEYWORD for p in known.values()):
        settings = {name: value for name, value in settings.items() if name in known}
    with ExitStack() as stack:
        for tap, reader in at:
            stack.enter_context(tapped(tap, reader))
        kept = stack.enter_context(_cut(hf.get_output_embeddings(), batch, keep))
        out = hf(batch.ids, **settings)
    return Ran(kept(out.logits.to(batch.ids.device)), getattr(out, "past_key_values", None))


def run_hooked(
    bridge: TransformerBridge,
    batch: Tokens,
    hooks: Sequence[AbstractContextManager[None]],
    *,
    masked: bool,
    keep: Keep = "all",
    cache: Any = None,
    use_cache: bool = False,
) -> Ran:
    """One forward of the hooked tree. `masked`: is it told of padding at the right, as most models may be?"""
    mask: Tensor | None = None
    if batch.sees is not None:
        mask = _additive(batch.sees, next(bridge.parameters()).dtype)
    elif batch.sees_padding and (masked or not batch.pads_right_only):
        mask = batch.whole_mask.long()
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        kept = stack.enter_context(_cut(getattr(bridge, "unembed", None), batch, keep))
        if use_cache or cache is not None:
            logits, cache = run_on_cache(bridge, batch.ids, mask, batch.position_ids, cache)
        else:
            logits = run(bridge, batch.ids, mask, batch.position_ids)
    return Ran(kept(logits.to(batch.ids.device)), cache)  # the unembedding may lie on another card


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of keys as what is added to attention's scores: [1, 1, query, key]."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)[
        None, None
    ]


@contextmanager
def _cut(head: nn.Module | None, batch: Tokens, keep: Keep) -> Iterator[Callable[[Tensor], Tensor]]:
    """Cut the unembedding's input down to `keep`; yields what cuts the logits where that could not be done."""
    done = False

    def before(_: nn.Module, args: tuple[Any, ...]) -> Any:
        nonlocal done
        hidden = args[0] if args else None
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != batch.ids.shape or hidden.ndim != 3:
            return None
        done = True
        return (chosen(hidden, batch, keep), *args[1:])

    def after(logits: Tensor) -> Tensor:
        return logits if done or keep == "all" else chosen(logits, batch, keep)

    if keep == "all" or head is None:
        yield after
        return
    handle = head.register_forward_pre_hook(mark_own(before))
    try:
        yield after
    finally:
        handle.remove()


def chosen(values: Tensor, batch: Tokens, keep: Keep) -> Tensor:
    """The columns of [prompt, pos, …] that are kept."""
    if keep == "all":
        return values
    if keep == "last":
        last = batch.last.to(values.device)
        return values[torch.arange(len(last), device=values.device), last][:, None]
    return values[:, values.shape[1] - int(keep) :]
