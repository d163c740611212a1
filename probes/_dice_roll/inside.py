"""What goes on inside: where the favourite is settled, which heads and features write it, how to steer it away.

All of it is about one number a prompt, the favourite's *lead*: its logit less the mean of the other five's, in nats.
Half of the prompts choose heads, features and directions; the other half is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import Control, Edit, Figure, Finding, Lab, Model, Row, steer
from interp.analysis import (
    attribute_features,
    attribute_logits,
    last_tokens,
    logit_difference,
    mean_outputs,
    others_like,
    read_logits,
)
from interp.edits import ablate_heads, clamp_features
from interp.saes import attach_sae, site_of
from interp.stats import estimate_crossed, estimate_mean, known

from . import DIGITS, SHARE, SIDES, UNIFORM
from .answers import Asked, shares
from .prompts import NULL

PART = "(c) Inside the model"
NATS = "nats"
CHOSEN = 0.03  # of all heads
FEATURES = 5
LATE = 2 / 3  # of the layers
STEERED = 3 / 4  # of the layers: behind it little is computed
DOSES = (0.0, 0.05, 0.1, 0.2, 0.4)  # of the residual vector's length
DOSE = 0.2  # that the verdict is about
LEAD = "The favourite's logit less the mean of the other five's, at the token before the answer."


@dataclass(frozen=True)
class DiePrompts:
    """Prompts as token ids up to where the six answers part; `sides`: the token of each; `side`: the favourite."""

    prompts: list[list[int]]
    null: list[list[int]]
    sides: list[int]
    side: int

    @property
    def others(self) -> list[int]:
        return [token for i, token in enumerate(self.sides) if i != self.side]

    def lead(self, n: int) -> tuple[list[int], list[list[int]]]:
        """Right and wrong tokens of `n` prompts."""
        return [self.sides[self.side]] * n, [self.others] * n


def admit(model: Model, asked: Asked) -> DiePrompts | None:
    """None where the tokenizer writes the six answers so that they do not part at one token."""
    prompts, null = (last_tokens(model, some, DIGITS) for some in (asked.prompts, NULL))
    return None if prompts is None or null is None else DiePrompts(prompts[0], null[0], prompts[1], asked.favourite)


def look_inside(lab: Lab, die_prompts: DiePrompts, sae_folder: Path | None) -> Iterator[Finding]:
    """Part (c)."""
    yield settled(lab, die_prompts)
    yield heads_that_write(lab, die_prompts)
    if sae_folder is not None:
        yield from features_that_write(lab, die_prompts, sae_folder)
    yield steered_away(lab, die_prompts)


def settled(lab: Lab, die_prompts: DiePrompts) -> Finding:
    """The first layer from which on the lens reads the final favourite, prompt by prompt."""
    layers = list(range(lab.model.n_layers + 1))
    acts = lab.model.capture(die_prompts.prompts, [lab.model.residual(layer) for layer in layers])
    read = torch.stack([lab.model.unembed(acts.last(lab.model.residual(layer))) for layer in layers], 1)
    share = read[..., die_prompts.sides].float().softmax(-1).cpu().numpy()  # [prompt, layer, side]
    best = share.argmax(-1)
    stays = (best == best[:, -1:])[:, ::-1].cumprod(1).sum(1)  # layers, from the last one down, that agree
    depth = (len(layers) - stays) / lab.model.n_layers
    rows: list[Row] = []
    for side in range(SIDES):
        for layer in layers:
            at = shares(share[:, layer, side], lab)
            rows.append({"side": str(side + 1), "layer": layer, SHARE: at.mean, "low": at.low, "high": at.high})
    return Finding(
        claim="Which side it will be is settled late, in the last third of the layers.",
        estimate=estimate_mean(depth, unit="share of the layers", over="prompt", bounds=(0, 1), seed=lab.seed),
        control=Control("two thirds of the way", known(LATE, unit="share of the layers", why="set beforehand")),
        expects="greater",
        part=PART,
        measure="How far up, as a share of the layers, the logit lens begins to read the side that the model then "
        "prefers, and reads it in every layer above.",
        caveat="Early layers are not written in the language of the last: what the lens cannot read may be there.",
        table=rows,
        figure=Figure(
            "lines",
            x="layer",
            y=SHARE,
            group="side",
            low="low",
            high="high",
            chance=UNIFORM,
            caption="What the logit lens reads behind each layer, as shares of the six sides; 0 is the embedding. "
            "Bands over prompts; dashed: a fair die.",
        ),
    )


def _lead(model: Model, die_prompts: DiePrompts, prompts: list[list[int]]) -> Float[Tensor, " prompt"]:
    return model.measure(prompts, logit_difference(*die_prompts.lead(len(prompts)))).cpu()


def _lost(model: Model, die_prompts: DiePrompts, edits: Mapping[str, Edit]) -> np.ndarray:
    """How much of the lead each judging prompt loses under an edit."""
    prompts = die_prompts.prompts[1::2]
    with model.edit(edits):
        edited = _lead(model, die_prompts, prompts)
    return (_lead(model, die_prompts, prompts) - edited).numpy()


def heads_that_write(lab: Lab, die_prompts: DiePrompts) -> Finding:
    """The heads of the largest direct effect, silenced, beside as many others of their layers."""
    model, choosing = lab.model, die_prompts.prompts[::2]
    lab.progress("attributing the lead to heads", 0, 1)
    found = attribute_logits(model, choosing, *die_prompts.lead(len(choosing)), by="head")
    places = [i for i, part in enumerate(found.parts) if part.count(".") == 2 and not part.endswith("bias")]
    mean = found.effect[:, places].mean(0)
    names = [tuple(int(n) for n in found.parts[i].split(".attn.")) for i in places]
    shape = (model.n_layers, 1 + max(head for _, head in names))
    best = mean.argsort(descending=True)[: max(2, round(CHOSEN * len(names)))].tolist()
    heads = [(names[i][0], names[i][1]) for i in best]
    silence = mean_outputs(model, die_prompts.null)
    ours = _lost(model, die_prompts, ablate_heads(heads, silence))
    others = []
    for i in range(4 if lab.quick else 8):
        others.append(
            _lost(model, die_prompts, ablate_heads(others_like(heads, shape, seed=lab.seed * 100 + i), silence))
        )
        lab.progress("silencing other heads", i + 1, 4 if lab.quick else 8)
    rows: list[Row] = [
        {"part": f"head {layer}.{head}", "direct effect (nats)": float(mean[i])}
        for i, (layer, head) in zip(best, heads, strict=True)
    ]
    parts = [i for i, part in enumerate(found.parts) if part.endswith(".mlp")]
    ranked = sorted(parts, key=lambda i: -float(found.effect[:, i].mean().abs()))[:6]
    rows += [
        {"part": f"MLP {found.parts[i].split('.')[0]}", "direct effect (nats)": float(found.effect[:, i].mean())}
        for i in ranked
    ]
    return Finding(
        claim="A few attention heads raise the favourite more than others do.",
        estimate=estimate_mean(ours, unit=NATS, over="prompt", seed=lab.seed),
        control=Control(
            "as many other heads of the same layers",
            estimate_crossed([np.stack(others)], unit=NATS, over="prompt"),
        ),
        paired=estimate_crossed([ours - np.stack(others)], unit=NATS, over="prompt"),
        expects="greater",
        part=PART,
        measure=f"{LEAD} What it loses when the {len(heads)} heads of the largest direct effect in other prompts are "
        "held at what they read, on average, in prompts without a die.",
        caveat="Later layers may step in for what is silenced. MLPs are shown beside the heads: they may write more.",
        table=rows,
        figure=Figure(
            "effect_bars",
            x="direct effect (nats)",
            y="part",
            caption="What the chosen heads, and the MLPs of the largest effect, write for the favourite and against "
            "the others, in the prompts that chose them.",
        ),
    )


def features_that_write(lab: Lab, die_prompts: DiePrompts, folder: Path) -> Iterator[Finding]:
    """The SAE features of the largest direct effect, held at zero, beside as many others that fire there."""
    sae, choosing = attach_sae(folder, lab.model), die_prompts.prompts[::2]
    found = attribute_features(lab.model, sae, choosing, *die_prompts.lead(len(choosing)))
    firing = [i for i, part in enumerate(found.parts) if part.startswith("feature ")]
    if len(firing) < 3 * FEATURES:  # no others to compare with
        return
    mean = found.effect.mean(0)
    ranked = sorted(firing, key=lambda i: -float(mean[i]))
    ids = [int(found.parts[i].split()[1]) for i in ranked]
    best, rest = ids[:FEATURES], ids[FEATURES:]

    def lost(some: Sequence[int]) -> np.ndarray:
        return _lost(lab.model, die_prompts, {site_of(sae): clamp_features(sae, dict.fromkeys(some, 0.0))})

    rng = np.random.default_rng(lab.seed)
    sets = [rng.choice(rest, FEATURES, replace=False).tolist() for _ in range(4 if lab.quick else 8)]
    rows: list[Row] = [
        {"feature": f"feature {i}", "direct effect (nats)": float(mean[at])}
        for i, at in zip(best, ranked[:FEATURES], strict=True)
    ]
    silenced, others = lost(best), np.stack([lost(some) for some in sets])
    yield Finding(
        claim="A few features of the sparse autoencoder raise the favourite more than others do.",
        estimate=estimate_mean(silenced, unit=NATS, over="prompt", seed=lab.seed),
        control=Control(
            f"{FEATURES} others that fire at the same tokens",
            estimate_crossed([others], unit=NATS, over="prompt"),
        ),
        paired=estimate_crossed([silenced - others], unit=NATS, over="prompt"),
        expects="greater",
        part=PART,
        measure=f"{LEAD} What it loses when the {FEATURES} features of the largest direct effect in other prompts are "
        f"held at zero at {site_of(sae)}.",
        caveat="What the autoencoder misses is left as it is, and may hold the favourite, too. What "
        "a feature fires on, an index of the autoencoder says (interp features show).",
        table=rows,
        figure=Figure(
            "effect_bars",
            x="direct effect (nats)",
            y="feature",
            caption="The features, in the prompts that chose them.",
        ),
    )


def steered_away(lab: Lab, die_prompts: DiePrompts) -> Finding:
    """Push the residual stream against the direction that reads the lead; beside random directions as long."""
    model = lab.model
    site = model.residual(max(1, round(STEERED * model.n_layers)))
    choosing, judged = die_prompts.prompts[::2], die_prompts.prompts[1::2]
    reading = read_logits(model, choosing, *die_prompts.lead(len(choosing)), [site])
    length = float(reading.acts.last(site).norm(dim=-1).mean())
    away = -torch.nn.functional.normalize(reading.direction.mean(0), dim=0).cpu()
    generator = torch.Generator().manual_seed(lab.seed)
    noise = torch.nn.functional.normalize(torch.randn(3 if lab.quick else 8, len(away), generator=generator), dim=1)

    def share(direction: Tensor, dose: float) -> np.ndarray:
        with model.edit({site: steer(direction, dose * length, pos=-1)}):
            logits = model.last_logits(judged)
        return logits[:, die_prompts.sides].float().softmax(-1)[:, die_prompts.side].cpu().numpy()

    rows: list[Row] = []
    kept: dict[str, np.ndarray] = {}
    for done, dose in enumerate(DOSES):
        for name, values in (
            ("against the favourite", share(away, dose)[None]),
            ("random directions", np.stack([share(one, dose) for one in noise])),
        ):
            at = shares(values.mean(0), lab)
            rows.append({"pushed": name, "dose (share of its length)": dose, SHARE: at.mean})
            rows[-1] |= {"low": at.low, "high": at.high}
            if dose == DOSE:
                kept[name] = values
        lab.progress("steering", done + 1, len(DOSES))
    return Finding(
        claim="Pushed against the direction of the favourite, the model gives it up.",
        estimate=shares(kept["against the favourite"][0], lab),
        control=Control(
            "random directions of the same length",
            estimate_crossed([kept["random directions"]], unit=SHARE, over="prompt", bounds=(0.0, 1.0)),
        ),
        expects="less",
        part=PART,
        answers=True,
        measure=f"The favourite's share of the six, with a fifth of the residual vector's length added at {site}, at "
        "the last token. The direction is the one along which the favourite's lead is read, in other prompts.",
        caveat="That a push moves the answer does not say that the model uses this direction by itself.",
        table=rows,
        figure=Figure(
            "lines",
            x="dose (share of its length)",
            y=SHARE,
            group="pushed",
            low="low",
            high="high",
            chance=UNIFORM,
            caption="The favourite's share by how hard the residual stream is pushed. Bands over prompts; dashed: a "
            "fair die.",
        ),
    )
