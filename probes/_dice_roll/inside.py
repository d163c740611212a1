"""What goes on inside: where the favourite is settled, which heads and features write it, how to steer it away.

All of it is about one number a prompt, the favourite's *lead*: its logit less the mean of the other five's, in nats.
Half of the prompts choose heads, features and directions; the other half is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import (
    Claim,
    Edit,
    Figure,
    Finding,
    Lab,
    Model,
    NotAsked,
    Row,
    halves,
    measured,
    same_as,
    set_beforehand,
    steer,
)
from interp.analysis import (
    ReadAhead,
    attribute_features,
    attribute_logits,
    last_tokens,
    logit_difference,
    mean_outputs,
    read_logits,
    sets_like,
)
from interp.edits import ablate_heads, clamp_features
from interp.saes import attach_sae, site_of
from interp.stats import estimate_crossed, estimate_mean

from . import DIGITS, SHARE, SIDES, UNIFORM
from .asked import DieAnswers, Floats, over_sentences
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
LEAST_LEAD = 0.5  # nats: of less, no share can be told
CARRIED = "share of the favourite's lead"
MUCH = 0.2  # of the lead
DEPTH = "share of the layers"

LATE_SETTLED = Claim(
    "Which side it will be is settled late, in the last third of the layers.",
    expects="greater",
    unit=DEPTH,
    part=PART,
    measure="How far up, as a share of the layers, the logit lens begins to read the side that the model then "
    "prefers, and reads it in every layer above.",
    caveat="Early layers are not written in the language of the last: what the lens cannot read may be there.",
)
HEADS, OF_THE_SAE = (
    Claim(text, expects="greater", unit=CARRIED, margin=MUCH, part=PART, measure=LEAD, caveat=caveat)
    for text, caveat in (
        (
            "A few attention heads carry much of the favourite: without them it loses more of its lead than without as "
            f"many others, by {MUCH:.0%} of it.",
            "Later layers may step in for what is silenced. MLPs are shown beside the heads: they may write more.",
        ),
        (
            "A few features of the sparse autoencoder carry much of the favourite: without them it loses more of its "
            f"lead than without as many others, by {MUCH:.0%} of it.",
            "What the autoencoder misses is left as it is, and may hold the favourite, too. What a feature fires on, "
            "an index of the autoencoder says (interp features show).",
        ),
    )
)
GIVEN_UP = Claim(
    "Pushed against the direction of the favourite, the model gives it up.",
    expects="less",
    unit=SHARE,
    part=PART,
    measure="The favourite's share of the six, with a fifth of the residual vector's length added at the last token, "
    "less that with random directions of the same length.",
    caveat="The direction is the one along which the favourite's lead is read, in other prompts: a push along it must "
    "move the answer, in a model that knows nothing too. It says how far, and not that the model uses it by itself.",
    arithmetic=True,
)
CLAIMS = [LATE_SETTLED, HEADS, OF_THE_SAE, GIVEN_UP]


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


def admit(model: Model, asked: DieAnswers) -> DiePrompts | None:
    """None where the tokenizer writes the six answers so that they do not part at one token."""
    prompts, null = (last_tokens(model, some, DIGITS) for some in (asked.prompts, NULL))
    return None if prompts is None or null is None else DiePrompts(prompts[0], null[0], prompts[1], asked.favourite)


def look_inside(lab: Lab, die_prompts: DiePrompts | None, sae_folder: Path | None) -> Iterator[Finding | NotAsked]:
    """Part (c)."""
    if die_prompts is None:
        for claim in CLAIMS:
            yield claim.not_asked("because the tokens of the six answers do not part at one place")
        return
    yield settled(lab, die_prompts)
    clean = _lead(lab.model, die_prompts, halves(die_prompts.prompts)[1]).numpy()
    yield heads_that_write(lab, die_prompts, clean)
    if sae_folder is None:
        yield OF_THE_SAE.not_asked("because no sparse autoencoder came with --sae, and none is shipped for this model")
    else:
        yield features_that_write(lab, die_prompts, clean, sae_folder)
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
    bounded: Any = {"over": "prompt", "bounds": (0.0, 1.0), "seed": lab.seed}
    lens = measured(
        {(str(side + 1), layer): share[:, layer, side] for side in range(SIDES) for layer in layers},
        by=("side", "layer"),
        value=SHARE,
        **bounded,
    )
    return LATE_SETTLED.answer(
        estimate_mean(depth, unit=DEPTH, **bounded),
        set_beforehand(LATE, DEPTH, "two thirds of the way"),
        table=lens.rows(),
        figure=lens.lines(
            x="layer",
            chance=UNIFORM,
            caption="What the logit lens reads behind each layer, as shares of the six sides; 0 is the embedding. "
            "Bands over prompts; dashed: a fair die.",
        ),
    )


def _lead(model: Model, die_prompts: DiePrompts, prompts: list[list[int]]) -> Float[Tensor, " prompt"]:
    return model.measure(prompts, logit_difference(*die_prompts.lead(len(prompts)))).cpu()


def _carried(
    lab: Lab, die_prompts: DiePrompts, clean: Floats, claim: Claim, edits: Sequence[Mapping[str, Edit]], **told: Any
) -> Finding | NotAsked:
    """What the first edit takes from the judging prompts' lead, less what each of the others takes [set, prompt]."""
    if clean.mean() < LEAST_LEAD:
        return claim.not_asked(
            f"because the favourite leads by {clean.mean():.2g} nats only; a share of less than {LEAST_LEAD:g} says "
            "nothing"
        )
    lost: list[Floats] = []
    for edit in edits:
        with lab.model.edit(edit):
            lost.append((clean - _lead(lab.model, die_prompts, halves(die_prompts.prompts)[1]).numpy()) / clean.mean())
        lab.progress("silencing", len(lost), len(edits))
    chosen, others = lost[0], np.stack(lost[1:])
    measure = told.pop("measure")
    return claim.answer(
        estimate_crossed([chosen[None] - others], unit=CARRIED, over="prompt", across="set of others"),
        same_as(CARRIED, "by as many others"),
        measure=f"{measure} They take {chosen.mean():.2f} of it, the others {others.mean():.2f}.",
        **told,
    )


def heads_that_write(lab: Lab, die_prompts: DiePrompts, clean: Floats) -> Finding | NotAsked:
    """The heads of the largest direct effect, silenced, beside as many others of their layers."""
    model, choosing = lab.model, halves(die_prompts.prompts)[0]
    lab.progress("attributing the lead to heads", 0, 1)
    found = attribute_logits(model, choosing, *die_prompts.lead(len(choosing)), by="head")
    places = [i for i, part in enumerate(found.parts) if part.count(".") == 2 and not part.endswith("bias")]
    mean = found.effect[:, places].mean(0)
    names = [tuple(int(n) for n in found.parts[i].split(".attn.")) for i in places]
    shape = (model.n_layers, 1 + max(head for _, head in names))
    best = mean.argsort(descending=True)[: max(2, round(CHOSEN * len(names)))].tolist()
    heads = [(names[i][0], names[i][1]) for i in best]
    silence = mean_outputs(model, die_prompts.null)
    others = sets_like(heads, shape, 4 if lab.quick else 8, seed=lab.seed * 100)
    if len(others) < 2:
        return HEADS.not_asked(f"because {len(others)} other sets of {len(heads)} heads can be drawn; 2 are needed")
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
    return _carried(
        lab,
        die_prompts,
        clean,
        HEADS,
        [ablate_heads(some, silence) for some in (heads, *others)],
        measure=f"The {len(heads)} heads of the largest direct effect in other prompts are held at what they read, on "
        "average, in prompts without a die; the others are of the same layers.",
        table=rows,
        figure=Figure(
            "effect_bars",
            x="direct effect (nats)",
            y="part",
            caption="What the chosen heads, and the MLPs of the largest effect, write for the favourite and against "
            "the others, in the prompts that chose them.",
        ),
    )


def features_that_write(lab: Lab, die_prompts: DiePrompts, clean: Floats, folder: Path) -> Finding | NotAsked:
    """The SAE features of the largest direct effect, held at zero, beside as many others that fire there."""
    sae, choosing = attach_sae(folder, lab.model), halves(die_prompts.prompts)[0]
    found = attribute_features(lab.model, sae, choosing, *die_prompts.lead(len(choosing)))
    firing = [i for i, part in enumerate(found.parts) if part.startswith("feature ")]
    if len(firing) < 3 * FEATURES:
        return OF_THE_SAE.not_asked(f"because {len(firing)} features fire there; {3 * FEATURES} are needed")
    mean = found.effect.mean(0)
    ranked = sorted(firing, key=lambda i: -float(mean[i]))
    ids = [int(found.parts[i].split()[1]) for i in ranked]
    best, rest = ids[:FEATURES], ids[FEATURES:]
    rng = np.random.default_rng(lab.seed)
    sets = [rng.choice(rest, FEATURES, replace=False).tolist() for _ in range(4 if lab.quick else 8)]
    rows: list[Row] = [
        {"feature": f"feature {i}", "direct effect (nats)": float(mean[at])}
        for i, at in zip(best, ranked[:FEATURES], strict=True)
    ]
    return _carried(
        lab,
        die_prompts,
        clean,
        OF_THE_SAE,
        [{site_of(sae): clamp_features(sae, dict.fromkeys(some, 0.0))} for some in (best, *sets)],
        measure=f"The {FEATURES} features of the largest direct effect in other prompts are held at zero at "
        f"{site_of(sae)}; the others fire at the same tokens.",
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
    choosing, judged = halves(die_prompts.prompts)
    reading = read_logits(model, choosing, *die_prompts.lead(len(choosing)), [site])
    length = float(reading.acts.last(site).norm(dim=-1).mean())
    away = -torch.nn.functional.normalize(reading.direction.mean(0), dim=0).cpu()
    generator = torch.Generator().manual_seed(lab.seed)
    noise = torch.nn.functional.normalize(torch.randn(3 if lab.quick else 8, len(away), generator=generator), dim=1)

    ahead = ReadAhead(model, judged)

    def share(direction: Tensor, dose: float) -> Floats:
        with model.edit({site: steer(direction, dose * length, pos=-1)}):
            logits = ahead.last_logits()
        return logits[:, die_prompts.sides].float().softmax(-1)[:, die_prompts.side].cpu().numpy()

    kept: dict[tuple[str, float], Floats] = {}  # [direction, prompt]
    for done, dose in enumerate(DOSES):
        kept["against the favourite", dose] = share(away, dose)[None]
        kept["random directions", dose] = np.stack([share(one, dose) for one in noise])
        lab.progress("steering", done + 1, len(DOSES))
    pushed = measured(
        {key: values.mean(0) for key, values in kept.items()},
        by=("pushed", "dose (share of its length)"),
        value=SHARE,
        over="prompt",
        bounds=(0.0, 1.0),
        seed=lab.seed,
    )
    gaps = kept["against the favourite", DOSE] - kept["random directions", DOSE]
    return GIVEN_UP.answer(
        over_sentences(gaps, lab),
        same_as(SHARE, "by random directions of the same length"),
        measure=f"Pushed at {site}.",
        table=pushed.rows(),
        figure=pushed.lines(
            x="dose (share of its length)",
            chance=UNIFORM,
            caption="The favourite's share by how hard the residual stream is pushed. Bands over prompts; dashed: a "
            "fair die.",
        ),
    )
