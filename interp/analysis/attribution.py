"""Who wrote the answer? Direct logit attribution: a logit difference as a sum over what was written to the residual.

The last block's output is the embedding plus what every attention head and every MLP neuron added. The final norm
divides by one number a token; with that number held, norm and unembedding are linear, so that each part's share of a
logit difference is one product and the shares add up exactly (Elhage et al. 2021; nostalgebraist 2020). "Direct" means
what is read from the residual stream at the end: what a part does through later ones is not in it.

Where the model caps or scales its logits (Gemma 2, Granite), shares are in the model's own logits: times the secant of
the cap between a right and a wrong answer's logit, (capped difference) / (difference before it). The slope at one point
would be off by what the cap bends in between; with the secant the parts still sum to the model's own difference. Where
a norm stands between a module and the residual stream (OLMo-2, Gemma 2), its scale is held as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analysis.linear_path import behind, read_out
from interp.analysis.metrics import Ids, logit_difference
from interp.errors import UserError
from interp.model.hooks.captured import Activations
from interp.model.hooks.plain import output_of, plain_module
from interp.model.hooks.shown import Shown
from interp.model.hooks.tokens import Prompts
from interp.model.hooks.wide import widen, widest
from interp.model.model import Model

Unit = Literal["component", "head", "neuron"]
RELATIVE = 1e-4  # how far a sum may be from the whole in fp32, as a share of the sum of sizes
ULPS = 16  # roundings of a logit in fp32
NOTHING = 1e-3  # parts of a prompt that are smaller than this share of another prompt's
ROUGH = 0.05  # the same in half precision, where the model itself rounds as it adds


@dataclass(frozen=True)
class Attribution:
    """`effect` [prompt, part], in nats: what each of `parts` adds to the logit difference at the last token.

    Parts are called `embedding`, `3.attn` (attention of layer 3), `3.attn.5` (its head 5), `3.attn.bias`, `3.mlp`,
    `3.mlp.17` (a neuron), `final bias`; with an SAE also `feature 42`, `sae bias` and `sae error`.
    `total` [prompt]: the model's own logit difference. `error` [prompt]: what the parts do not explain; rounding.
    """

    parts: tuple[str, ...]
    effect: Float[Tensor, "prompt part"]
    total: Float[Tensor, " prompt"]

    def __repr__(self) -> str:
        largest = ", ".join(f"{part} {effect:+.3g}" for part, effect in self.top(3))
        return f"Attribution({len(self.total)} prompts, {len(self.parts)} parts; {largest}, …)"

    @property
    def error(self) -> Float[Tensor, " prompt"]:
        """The model's logit difference less the sum of the parts."""
        return self.total - self.effect.sum(1)

    def top(self, n: int = 10) -> list[tuple[str, float]]:
        """The parts of the largest mean effect, whatever its sign."""
        mean = self.effect.mean(0)
        return [(self.parts[i], float(mean[i])) for i in mean.abs().argsort(descending=True)[:n].tolist()]


def attribute_logits(
    model: Model,
    prompts: Prompts,
    right: Ids,
    wrong: Ids,
    *,
    by: Unit = "component",
    batch_size: int = 16,
) -> Attribution:
    """Logit of each prompt's `right` token less that of its `wrong` one (or the mean of several), part by part.

    `by`: "component" is embedding, attention and MLP of every layer; "head" parts attention into heads and the bias
    that they share; "neuron" parts MLPs into neurons and their bias.
    Raises UserError for a model whose logits are not made that way, told by the sum, and for one that has no attention,
    MLP, heads or neurons in some layer.
    """
    if by not in ("component", "head", "neuron"):
        raise UserError(f"by={by!r}; expected component, head or neuron")
    _written_sites(model)  # where even components cannot be told apart, this is what to say
    inner = _inner_sites(model, by)
    reading = read_logits(model, prompts, right, wrong, inner, batch_size=batch_size)
    columns: dict[str, Tensor] = {}
    for name, written in reading.components(model.n_layers).items():
        layer, _, what = name.partition(".")
        if what and what == _PARTED.get(by):
            acts = reading.acts.last(f"blocks.{layer}.{_INNER[by]}")
            whole = reading.acts.last(f"blocks.{layer}.hook_{what}_out")
            shares, bias = parts_written(model, acts, int(layer), what, reading.direction, whole)
            check_sum(model, shares.sum(1) + bias, written, shares.abs().sum(1) + bias.abs(), name, "component")
            columns |= {f"{name}.{i}": shares[:, i] for i in range(shares.shape[1])} | {f"{name}.bias": bias}
        else:
            columns[name] = written
    return add_up(model, columns, reading)


@dataclass(frozen=True, repr=False)
class Reading(Shown):
    """What every attribution starts from. `acts`: the residual stream's parts, with those that were asked for besides.

    `direction` [prompt, d_model]: d logit difference / d residual at the last token, the final norm's scale held.
    `constant` [prompt]: what the biases behind it add. `total` [prompt]: the model's own logit difference.
    """

    acts: Activations
    direction: Float[Tensor, "prompt d_model"]
    constant: Float[Tensor, " prompt"]
    total: Float[Tensor, " prompt"]
    largest: float = 0.0  # logit: what `total`, a difference of two, is rounded by

    def along(self, written: Float[Tensor, "prompt d_model"]) -> Float[Tensor, " prompt"]:
        """What a vector written to the residual stream adds to the logit difference."""
        return (written.to(self.direction) * self.direction).sum(-1)

    def components(self, n_layers: int) -> dict[str, Float[Tensor, " prompt"]]:
        """What embedding, every attention and every MLP add, and the biases behind them, in the order of writing."""
        parts = {"embedding": self.along(self.acts.last("blocks.0.hook_resid_pre"))}
        for layer in range(n_layers):
            for what in ("attn", "mlp"):
                parts[f"{layer}.{what}"] = self.along(self.acts.last(f"blocks.{layer}.hook_{what}_out"))
        return parts | {"final bias": self.constant}


def read_logits(
    model: Model, prompts: Prompts, right: Ids, wrong: Ids, sites: Sequence[str] = (), *, batch_size: int = 16
) -> Reading:
    """Capture what is written to the residual stream, and `sites`, and find the direction that the answers read."""
    ids = model.encode(prompts)
    total = model.measure(ids, logit_difference(right, wrong), batch_size=batch_size)  # refuses answers that do not fit
    last_block = f"blocks.{model.n_layers - 1}.hook_resid_post"
    written = ["blocks.0.hook_resid_pre", *_written_sites(model), last_block]
    acts = model.capture(ids, [*written, *sites], batch_size=batch_size)
    logits = model.last_logits(ids, batch_size=batch_size)
    direction, constant = read_out(model, acts.last(last_block), logits, right, wrong)
    return Reading(acts, direction, constant, total, float(logits.abs().max()))


def _written_sites(model: Model) -> list[str]:
    """What each layer's attention and MLP add. Raises UserError for a model with a layer that has none."""
    sites: list[str] = []
    for what, word in (("attn", "attention"), ("mlp", "MLP")):
        here = [f"blocks.{layer}.hook_{what}_out" for layer in range(model.n_layers)]
        if missing := [i for i, site in enumerate(here) if site not in model.site_table.axes]:
            raise UserError(
                f"this {type(model.hf).__name__} has no {word} in {_layers(missing)}: what such a layer writes has no "
                "site of its own, so that its parts cannot be told apart; use patch_sweep at blocks.*.hook_resid_post"
            )
        sites += here
    return sites


def _inner_sites(model: Model, by: str) -> list[str]:
    """Where heads or neurons are read, in every layer. Raises UserError where a layer has none."""
    if by not in _INNER:
        return []
    sites = [f"blocks.{layer}.{_INNER[by]}" for layer in range(model.n_layers)]
    if missing := [i for i, site in enumerate(sites) if site not in model.site_table.axes]:
        raise UserError(
            f"this {type(model.hf).__name__} has no {by}s in {_layers(missing)} that can be told apart; attribute by "
            "component"
        )
    return sites


def _layers(numbers: Sequence[int]) -> str:
    several = ", ".join(map(str, numbers[:6])) + (", …" if len(numbers) > 6 else "")
    return f"layer{'s' if len(numbers) > 1 else ''} {several}"


def add_up(model: Model, columns: Mapping[str, Float[Tensor, " prompt"]], reading: Reading) -> Attribution:
    """The parts as one table. Raises UserError where they do not sum to the model's own logit difference."""
    effect = torch.stack([part.float().cpu() for part in columns.values()], 1)
    found = Attribution(tuple(columns), effect, reading.total.cpu())
    size = effect.abs().sum(1)
    check_sum(model, effect.sum(1), found.total, size, "its logit difference", largest=reading.largest)
    return found


def check_sum(
    model: Model, parts: Tensor, whole: Tensor, size: Tensor, what: str, instead: str = "", largest: float = 0.0
) -> None:
    """Refuse a model in which the parts are not all that there is. `instead`: the unit to attribute by instead.

    `largest`: the size of the numbers of which `whole` is a difference; it is rounded as they are.
    """
    # where a prompt's parts are next to nothing, their sum is off by the rounding of what they were computed from
    least = max(1e-6, NOTHING * float(size.max()))
    whole_floats = model.hf.dtype in (torch.float32, torch.float64)
    rounding = ULPS * torch.finfo(torch.float32).eps * largest if whole_floats else 0.0
    off = float((((parts - whole).abs() - rounding) / size.clamp_min(least)).max())
    if off <= (RELATIVE if whole_floats else ROUGH):
        return
    if model.is_edited:
        raise UserError(f"the parts of {what} do not add up while an edit is active; attribute outside model.edit")
    way = f"attribute by {instead}" if instead else "use patch_sweep"
    raise UserError(
        f"in this {type(model.hf).__name__} the parts of {what} do not add up (off by {off:.1%} of their sizes): it "
        f"does more to them than matrices, norms and a cap; {way}"
    )


_INNER = {"head": "attn.hook_z", "neuron": "mlp.hook_post"}
_PARTED = {"head": "attn", "neuron": "mlp"}


def parts_written(
    model: Model,
    inner: Float[Tensor, "prompt ..."],
    layer: int,
    what: str,
    direction: Float[Tensor, "prompt d_model"],
    written: Float[Tensor, "prompt d_model"] | None = None,
) -> tuple[Float[Tensor, "prompt part"], Float[Tensor, " prompt"]]:
    """What each head, or neuron, adds, and what the bias does.

    A part's numbers times the slope of the logit difference through the output matrix: that map is linear, so the slope
    is exact, whichever way the module stores its matrix. `written`: what the layer adds to the residual stream, where a
    norm or a factor may stand between that and the matrix.
    """
    name = f"blocks.{layer}.attn.o" if what == "attn" else f"blocks.{layer}.mlp.out"
    module = plain_module(model.tree, name)
    if module is None:
        raise UserError(f"{type(model.hf).__name__} has no single matrix at {name}; attribute by component instead")
    weight = next(module.parameters())
    dtype = weight.dtype if weight.is_floating_point() else model.hf.dtype  # a quantised weight is packed bytes
    x = inner.to(dtype).flatten(1).detach().requires_grad_(True)
    with torch.no_grad():
        made = output_of(module, x)
    constant = torch.zeros(len(x), dtype=widest(x.device), device=x.device)
    if written is not None:
        direction, constant = behind(model, layer, what, made, written, direction)
    with torch.enable_grad():
        read = (output_of(module, x) * direction.to(dtype)).sum()
    (slope,) = torch.autograd.grad(read, x)
    share = widen(x.detach() * slope)
    with torch.no_grad():
        bias = widen((output_of(module, torch.zeros_like(x)) * direction.to(dtype)).sum(-1)) + constant
    return (share.view(*inner.shape).sum(-1) if what == "attn" else share), bias
