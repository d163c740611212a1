"""The plain Hugging Face trunk with forward hooks: the fastest way to read activations, and nothing else.

No logits, no hooked module tree, the attention kernel that the model was loaded with (SDPA), no padding mask (models
are causal, so padding on the right cannot reach a real token), and the forward ends with the last block needed.

Which sites it can give is not read from a table: a site that the hooked tree takes from the input or output of a module
is tried on the plain one, and counts only if the numbers agree. All others (inside attention, mostly) go through the
hooked tree. The names are the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from interp.model.hooks.bridge import relative_gap
from interp.model.hooks.plain import find_tap
from interp.model.hooks.taps import Tap, tapped
from interp.model.model import Model

AGREE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}  # relative to the site's largest value
OnSite = Callable[[str, Tensor], None]  # site, activation [prompt, pos, d]; gone after the call


class _Enough(Exception):  # noqa: N818 - control flow, not a fault
    """Raised inside a forward once the last wanted site has been read."""


def find_taps(model: Model, sites: Sequence[str]) -> dict[str, Tap]:
    """Those of `sites` (full names) that the plain trunk gives, with the places to read them."""
    found = {site: tap for site in sites if (tap := _vector_tap(model, site)) is not None}
    if not found:
        return {}
    top = model.hf.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    ids = torch.linspace(1, min(len(model.tokenizer), int(top)) - 1, 14, device=model.device).long().view(2, 7)
    plain: dict[str, Tensor] = {}
    read_trunk(model, ids, found, lambda site, value: plain.update({site: value.clone()}), every=False)
    hooked = model.capture(ids, list(found))
    limit = AGREE.get(model.hf.dtype, 0.0)

    def agrees(site: str) -> bool:
        return (
            site in plain
            and plain[site].shape == hooked[site].shape
            and relative_gap(plain[site], hooked[site]) < limit
        )

    return {site: tap for site, tap in found.items() if agrees(site)}


def read_trunk(
    model: Model, ids: Int[Tensor, "prompt pos"], taps: dict[str, Tap], on: OnSite, *, every: bool = True
) -> None:
    """One forward over `ids`, padded on the right, calling `on(site, activation)` as each site is reached.

    A site's activation is the model's own tensor: copy what is to be kept. RuntimeError if a site is not reached and
    `every` is asked for.
    """
    model.check_plain("reading the trunk")
    missing = set(taps)

    def reader(site: str) -> Callable[[Tensor], None]:
        def read(value: Tensor) -> None:
            if site in missing:  # a module that runs twice shows its first run, as the hooked tree does
                on(site, value)
                missing.discard(site)
                if not missing:
                    raise _Enough

        return read

    with ExitStack() as stack, torch.no_grad():
        for site, tap in taps.items():
            stack.enter_context(tapped(tap, reader(site)))
        with suppress(_Enough):
            model.hf.base_model(ids.to(model.device), use_cache=False)
    if missing and every:
        raise RuntimeError(f"the plain trunk never reached {', '.join(sorted(missing))}")


@contextmanager
def watching(taps: dict[str, Tap], on: OnSite) -> Iterator[None]:
    """While it lasts, every forward of the plain model calls `on(site, activation)` at each tap."""
    with ExitStack() as stack:
        for site, tap in taps.items():
            stack.enter_context(tapped(tap, partial(on, site)))
        yield


def _vector_tap(model: Model, site: str) -> Tap | None:
    """Where `site` may be read when it carries one vector a token; not yet compared with the hooked tree."""
    if model.site_table.axes[site] != ("prompt", "pos", "feature"):
        return None
    return find_tap(model, model.site_table.origin[site])
