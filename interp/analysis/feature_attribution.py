"""Direct logit attribution by SAE feature: which features wrote the answer, of what an SAE reads at a site.

What lies at the SAE's site is decode(features) plus what the SAE misses; both are written to the residual stream, so
that each feature's share of a logit difference is exact (Marks et al. 2403.19647 hold the error as a part of its own).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analysis.attribution import Attribution, add_up, check_sum, read_logits
from interp.analysis.metrics import Ids
from interp.errors import UserError
from interp.model.hooks.tokens import Prompts
from interp.model.model import Model
from interp.saes.loading.sae import SAE, site_of


def attribute_features(
    model: Model, sae: SAE[Any], prompts: Prompts, right: Ids, wrong: Ids, *, batch_size: int = 16
) -> Attribution:
    """`attribute_logits` by component, those that the SAE's site holds replaced by its features, bias and error.

    A residual site at layer l holds the embedding and all that was written up to there; `hook_attn_out` and
    `hook_mlp_out` hold one component. Features that fire at no prompt's last token are left out: they add nothing.
    Raises UserError for an SAE of another site, or whose decoder is not linear in its features.
    """
    site = site_of(sae)
    reading = read_logits(model, prompts, right, wrong, [site], batch_size=batch_size)
    columns = reading.components(model.n_layers)
    add_up(model, columns, reading)  # before an SAE's large parts, which cancel, can hide what is missing
    held = _held(site, columns)
    x = reading.acts.last(site)
    if x.shape[-1] != sae.cfg.d_in:
        raise UserError(
            f"this SAE has d_in={sae.cfg.d_in}, but {site} is {x.shape[-1]} wide; load the SAE of this model"
        )
    shares, bias, decoded = _shares(sae, x, reading.direction)
    size = shares.abs().sum(1) + bias.abs()
    check_sum(model, shares.sum(1) + bias, decoded, size, f"{site}'s reconstruction")
    whole = torch.stack([columns.pop(name) for name in held])
    check_sum(model, whole.sum(0), reading.along(x), whole.abs().sum(0), f"what {site} holds")
    active = (shares != 0).any(0).nonzero().flatten().tolist()
    parts = {f"feature {i}": shares[:, i] for i in active} | {"sae bias": bias}
    return add_up(model, {**parts, "sae error": reading.along(x) - decoded, **columns}, reading)


def _held(site: str, components: Iterable[str]) -> list[str]:
    """The components whose sum is the activation at `site`, in the order of writing."""
    names = [name for name in components if name != "final bias"]
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)", site)
    if found is None:
        raise UserError(
            f"this SAE reads {site}; expected a site whose value is added to the residual stream: hook_resid_pre, "
            "hook_resid_mid, hook_resid_post, hook_attn_out or hook_mlp_out"
        )
    layer, kind = found.groups()
    if kind.endswith("_out"):
        return [f"{layer}.{kind.removesuffix('_out')}"]
    if kind == "resid_pre":
        return names[: names.index(f"{layer}.attn")]
    return names[: names.index(f"{layer}.{'attn' if kind == 'resid_mid' else 'mlp'}") + 1]


def _shares(
    sae: SAE[Any], x: Float[Tensor, "prompt d_model"], direction: Float[Tensor, "prompt d_model"]
) -> tuple[Float[Tensor, "prompt d_sae"], Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
    """What each feature, and the decoder's bias, add along `direction`, and what the whole reconstruction does.

    A feature's activation times the slope of the decoder, which is linear, whatever it scales or subtracts.
    """

    def read(features: Tensor) -> Tensor:
        with torch.no_grad():
            sae.encode(x.to(sae.device, sae.dtype))  # an SAE that normalises keeps what its decoder undoes, and once
        return (sae.decode(features).to(direction) * direction).sum(-1)

    with torch.no_grad():
        features = sae.encode(x.to(sae.device, sae.dtype))
        bias = read(torch.zeros_like(features))
    start = features.detach().requires_grad_(True)
    with torch.enable_grad():
        decoded = read(start)
        (slope,) = torch.autograd.grad(decoded.sum(), start)
    return (features * slope).to(direction), bias, decoded.detach()
