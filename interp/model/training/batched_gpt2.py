"""Batched training of many small GPT-2s of one size, side by side as one: each parameter has a leading axis, the model.

For questions that need a grid (learning rates, seeds, amounts of data): one step of twelve models costs little more
than a step of one, for at this size a step is mostly the time it takes to call a kernel. The arithmetic is GPT-2's, and
`extract` gives any member as transformers' own class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from interp.errors import UserError
from interp.progress import Progress, silent

Parameters = dict[str, Float[Tensor, "member ..."]]
BETAS, EPSILON, CLIP = (0.9, 0.95), 1e-8, 1.0
BLOCK = {  # ours: transformers'
    "norm1": "ln_1",
    "qkv": "attn.c_attn",
    "out": "attn.c_proj",
    "norm2": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


@dataclass(frozen=True)
class Size:
    """One GPT-2. Embeddings are tied, as in GPT-2; `context` is both what it can read and what it is trained on."""

    d_model: int
    n_layers: int = 2
    n_heads: int = 4
    context: int = 64

    def parameters(self, vocabulary: int, *, embeddings: bool) -> int:
        """How many weights: of the blocks and the last norm, and with `embeddings` of tokens and positions as well."""
        d = self.d_model
        block = 4 * d * d + 8 * d * d + 9 * d + 4 * d  # attention, MLP, their biases, two norms
        inside = self.n_layers * block + 2 * d
        return inside + (vocabulary + self.context) * d * embeddings


@dataclass(frozen=True)
class Member:
    """How one model of a population is trained. `seed` draws its weights and its batches."""

    lr: float
    seed: int


@dataclass(frozen=True)
class TrainingSchedule:
    """What all members share: AdamW for `steps` batches of `batch` windows, linear warm-up, cosine decay to a tenth."""

    steps: int
    batch: int = 8
    warmup: float = 0.05


@dataclass(frozen=True)
class Population:
    """Trained models of one size. `parameters` have the member as their first axis."""

    size: Size
    vocabulary: int
    members: tuple[Member, ...]
    parameters: Parameters

    @torch.no_grad()
    def losses(self, ids: Int[Tensor, " token"], *, at_once: int = 16) -> Float[Tensor, "member window"]:
        """Mean cross-entropy of every member in every window of a text, in nats a token; windows do not overlap."""
        width = self.size.context + 1
        windows = ids[: len(ids) // width * width].view(-1, width).long().to(self.parameters["wte.weight"].device)
        if not len(windows):
            raise UserError(f"{len(ids)} tokens to measure on came; expected {width} or more")
        parts = []
        for some in windows.split(at_once):
            batch = some.expand(len(self.members), *some.shape)
            logits = forward(self.parameters, self.size, batch[..., :-1])
            parts.append(_surprise(logits, batch[..., 1:]).mean(-1))
        return torch.cat(parts, 1).cpu()

    def part(self, members: Sequence[int]) -> Population:
        """A few of them."""
        chosen = list(members)
        few = {name: value[chosen] for name, value in self.parameters.items()}
        return Population(self.size, self.vocabulary, tuple(self.members[i] for i in chosen), few)

    def extract(self, member: int) -> GPT2LMHeadModel:
        """One of them as transformers' GPT-2."""
        size = self.size
        config = GPT2Config(
            vocab_size=self.vocabulary, n_positions=size.context, n_embd=size.d_model, n_layer=size.n_layers,
            n_head=size.n_heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        hf = GPT2LMHeadModel(config).eval()
        state = {name: value[member].detach().cpu() for name, value in self.parameters.items()}
        told = {f"transformer.{_theirs(name)}": value for name, value in state.items()}
        hf.load_state_dict(told, strict=False)
        hf.tie_weights()
        return hf


def _theirs(name: str) -> str:
    """Their name of a parameter: `0.qkv.weight` is `h.0.attn.c_attn.weight`."""
    layer, _, rest = name.partition(".")
    if not layer.isdigit():
        return name
    part, _, kind = rest.partition(".")
    return f"h.{layer}.{BLOCK[part]}.{kind}"


def begin(size: Size, vocabulary: int, members: Sequence[Member], device: torch.device | str = "cpu") -> Parameters:
    """Weights before training, each member's drawn by its own seed.

    GPT-2's initialisation at its own width, 768; a narrower model's numbers are larger, so that what they add up to is
    as large: with 0.02 at a width of 16 a model stays at pairs of letters for a thousand steps.
    """
    if size.d_model % size.n_heads:
        raise UserError(f"d_model={size.d_model} does not divide into n_heads={size.n_heads}; pick a multiple")
    d, shrink, spread = size.d_model, 1 / math.sqrt(2 * size.n_layers), 0.02 * math.sqrt(768 / size.d_model)
    shapes: dict[str, tuple[tuple[int, ...], float]] = {
        "wte.weight": ((vocabulary, d), spread),
        "wpe.weight": ((size.context, d), spread),
    }
    for layer in range(size.n_layers):
        for part, (n_in, n_out, scale) in {
            "qkv": (d, 3 * d, 1.0), "out": (d, d, shrink), "up": (d, 4 * d, 1.0), "down": (4 * d, d, shrink),
        }.items():  # fmt: skip
            shapes[f"{layer}.{part}.weight"] = ((n_in, n_out), spread * scale)
            shapes[f"{layer}.{part}.bias"] = ((n_out,), 0.0)
        for part in ("norm1", "norm2"):
            shapes |= {f"{layer}.{part}.weight": ((d,), -1.0), f"{layer}.{part}.bias": ((d,), 0.0)}
    shapes |= {"ln_f.weight": ((d,), -1.0), "ln_f.bias": ((d,), 0.0)}
    drawn = [torch.Generator().manual_seed(member.seed) for member in members]

    def one(shape: tuple[int, ...], scale: float, generator: torch.Generator) -> Tensor:
        if scale < 0:  # a norm's weights
            return torch.ones(shape)
        return torch.randn(shape, generator=generator) * scale if scale else torch.zeros(shape)

    return {
        name: torch.stack([one(shape, scale, generator) for generator in drawn]).to(device)
        for name, (shape, scale) in shapes.items()
    }


def forward(
    w: Parameters, size: Size, ids: Int[Tensor, "member batch pos"]
) -> Float[Tensor, "member batch pos vocabulary"]:
    """Logits of every member for its own tokens."""
    n, batch, length = ids.shape
    d, heads, vocabulary = size.d_model, size.n_heads, w["wte.weight"].shape[1]
    place = ids + vocabulary * torch.arange(n, device=ids.device)[:, None, None]
    x = functional.embedding(place, w["wte.weight"].flatten(0, 1)) + w["wpe.weight"][:, None, :length]
    x = x.view(n, batch * length, d)
    future = torch.full((length, length), -torch.inf, device=ids.device, dtype=x.dtype).triu(1)

    def norm(x: Tensor, name: str) -> Tensor:
        return torch.addcmul(w[f"{name}.bias"][:, None], functional.layer_norm(x, (d,)), w[f"{name}.weight"][:, None])

    def linear(x: Tensor, name: str) -> Tensor:
        return torch.baddbmm(w[f"{name}.bias"][:, None], x, w[f"{name}.weight"])

    for layer in range(size.n_layers):
        qkv = linear(norm(x, f"{layer}.norm1"), f"{layer}.qkv").view(n * batch, length, 3, heads, d // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # written out: for so short a context PyTorch's fused kernel takes twice as long on a CPU
        flat = [part.reshape(-1, length, d // heads) for part in (q, k, v)]
        scores = torch.baddbmm(future, flat[0], flat[1].mT, alpha=(d // heads) ** -0.5)
        mixed = (scores.softmax(-1) @ flat[2]).view(n * batch, heads, length, d // heads)
        x = x + linear(mixed.transpose(1, 2).reshape(n, batch * length, d), f"{layer}.out")
        inner = functional.gelu(linear(norm(x, f"{layer}.norm2"), f"{layer}.up"), approximate="tanh")
        x = x + linear(inner, f"{layer}.down")
    return (norm(x, "ln_f") @ w["wte.weight"].mT).view(n, batch, length, vocabulary)


def train_population(
    size: Size,
    vocabulary: int,
    members: Sequence[Member],
    texts: Sequence[Int[Tensor, " _"]],
    schedule: TrainingSchedule,
    *,
    device: torch.device | str = "cpu",
    watch: Callable[[int, Population], None] | None = None,
    progress: Progress = silent,
) -> Population:
    """Train every member on windows of its own text in `texts`, at places that its seed draws.

    `watch` is called with the steps done and the models as they are, ten times on the way and at the end.
    Same members, same weights on one machine and number of threads. Raises UserError for a text shorter than a window.
    """
    width = size.context + 1
    if len(texts) != len(members) or min(map(len, texts)) < width:
        raise UserError(f"{len(texts)} texts of {min(map(len, texts))} tokens or more came; expected one a member, of "
                        f"{width} tokens or more")  # fmt: skip
    begun = begin(size, vocabulary, members, device)
    flat = torch.cat([value.flatten(1) for value in begun.values()], 1).requires_grad_(True)
    moments = torch.zeros_like(flat), torch.zeros_like(flat)
    lr = torch.tensor([member.lr for member in members], device=device)
    draws = [torch.Generator().manual_seed(member.seed + 1_000_003) for member in members]
    for step in range(schedule.steps):
        batch = torch.stack(
            [_windows(text, width, schedule.batch, draw) for text, draw in zip(texts, draws, strict=True)]
        )
        batch = batch.to(device)
        logits = forward(_parted(flat, begun), size, batch[..., :-1])
        loss = _surprise(logits, batch[..., 1:]).mean((-1, -2)).sum()  # members do not touch
        (grad,) = torch.autograd.grad(loss, flat)
        _step(flat, grad, moments, lr * _rate_at(step, schedule), step + 1)
        if watch is not None and (step + 1) % max(1, schedule.steps // 10) == 0:
            watch(step + 1, _population(size, vocabulary, members, _parted(flat, begun)))
        progress("training small GPT-2s", step + 1, schedule.steps)
    return _population(size, vocabulary, members, _parted(flat, begun))


def _parted(flat: Float[Tensor, "member weight"], like: Parameters) -> Parameters:
    """One row of weights a member, seen as its matrices: a step on one long row calls a tenth of the kernels."""
    parts = flat.split([value[0].numel() for value in like.values()], 1)
    return {name: part.view(value.shape) for part, (name, value) in zip(parts, like.items(), strict=True)}


def _population(size: Size, vocabulary: int, members: Sequence[Member], w: Parameters) -> Population:
    return Population(size, vocabulary, tuple(members), {name: value.detach() for name, value in w.items()})


def _windows(text: Int[Tensor, " token"], width: int, n: int, draw: torch.Generator) -> Int[Tensor, "n width"]:
    first = torch.randint(len(text) - width + 1, (n,), generator=draw)
    return text[first[:, None] + torch.arange(width)].long()


def _surprise(logits: Float[Tensor, "... vocabulary"], ids: Int[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    flat = functional.cross_entropy(logits.flatten(0, -2), ids.flatten(), reduction="none")
    return flat.view(ids.shape)


def _rate_at(step: int, schedule: TrainingSchedule) -> float:
    warm = max(1, round(schedule.warmup * schedule.steps))
    if step < warm:
        return (step + 1) / warm
    along = (step - warm) / max(1, schedule.steps - warm)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * along))


@torch.no_grad()
def _step(
    weights: Float[Tensor, "member weight"],
    grad: Float[Tensor, "member weight"],
    moments: tuple[Tensor, Tensor],
    lr: Float[Tensor, " member"],
    t: int,
) -> None:
    """Adam (Kingma and Ba 1412.6980), each member's gradient clipped to length 1 by itself."""
    grad = grad * (CLIP / grad.norm(dim=1)).clamp(max=1.0)[:, None]
    (first, second), (mean, square) = BETAS, moments
    mean.lerp_(grad, 1 - first)
    square.mul_(second).addcmul_(grad, grad, value=1 - second)
    spread = (square / (1 - second**t)).sqrt_().add_(EPSILON)
    weights.addcdiv_(mean * (-lr / (1 - first**t))[:, None], spread)
