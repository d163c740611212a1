"""Who gets the drink? A model that reads "Mary and John went out, John gave a drink to" should say "Mary".

Paper: Wang et al. 2022, arXiv:2211.00593 (indirect object identification in GPT-2 small).

Question. The sentence names two people and one of them again; the other one is the answer. Wang et al. found in GPT-2
small that a few attention heads in late layers (name movers) write the answer, and that what decides between the
names is read where one of them comes the second time. Does this model do the task, which heads write the name, and
at which layer is the decision where?

What counts as yes:

- of the two names, the right one's logit is above the other's by 0.5 more than where a third person gives;
- the right name's logit is above that of a name that is not in the sentence, by 0.5;
- the heads that make the difference between the names in some prompts make it in others, by 0.5 nats more than as many
  other heads;
- these heads also move the answer when they alone are patched from the sentence where the other one gives;
- which name it is stands at its second mention in the first third of the layers, and at the last token in the last
  third (without the last block, behind which nothing but the last token can count).

What could fool us:

- A name may be likelier, or the first one named. The answer is the first name as often as the second, no two prompts
  share both names, and the third person's sentences have the same ones.
- A difference between two names grows when the wrong one is pushed down, too. So the right name is also compared with
  one that is not in the sentence.
- Choice. The best of hundreds of heads looks good by chance: heads are chosen on some prompts and judged on others.
- Direct effects add up exactly, but a head may matter through later ones only. Patching sees those, too.
- One wording. Three templates are used; the maps of positions need one layout and show the first.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from interp.analysis.attribution import Attribution, attribute_logits
from interp.analysis.layouts import Layout, lay_out, single_tokens
from interp.analysis.lens import residual_site
from interp.analysis.metrics import logit_difference
from interp.analysis.patching import Sweep, attribution_patch, patch_sweep
from interp.analysis.statistics import estimate_mean, known
from interp.errors import UserError
from interp.lab.findings import Control, Figure, Finding, Row
from interp.lab.probe import Lab, probe
from interp.model.model import Model

TEMPLATES = (
    "When {first} and {second} went to the {place}, {giver} gave a {thing} to",
    "After {first} and {second} met at the {place}, {giver} handed a {thing} to",
    "While {first} and {second} sat in the {place}, {giver} offered a {thing} to",
)
NAMES = (
    "Mary", "John", "Tom", "Anna", "James", "Paul", "Sarah", "David", "Laura", "Mark", "Emma", "Peter", "Alice",
    "Robert", "Susan", "Michael", "Kate", "Daniel", "Jane", "Simon", "Julia", "Adam", "Rachel", "Henry", "Lucy",
    "Jack", "Helen", "George", "Maria", "Frank",
)  # fmt: skip
PLACES = ("store", "garden", "school", "office", "park", "station")
THINGS = ("drink", "book", "ring", "key", "letter", "ball")
UNIT = "nats"


@dataclass(frozen=True)
class Sentences:
    """Prompts of one layout, with who is right and wrong: `flipped` names the other giver, `third` a third person.

    `absent`: that third person, who is not in the prompt.
    """

    layout: Layout
    flipped: list[str]
    third: list[str]
    right: list[int]
    wrong: list[int]
    absent: list[int]


@probe(paper="arXiv:2211.00593")
def indirect_object(lab: Lab, *, pairs: int = 48, share: float = 0.05, swept: int = 8) -> Iterator[Finding]:
    """Ask for the indirect object, attribute the answer to heads, and patch.

    Args:
        pairs: prompts in all, a multiple of 12; half of them choose the heads, the other half judge them
        share: which part of all heads is chosen, those with the largest direct effect; up to 0.4
        swept: prompts of the first template that are patched, none of which chooses heads; a sixth of all at most
    """
    for name, value, right, told in (
        ("pairs", pairs, pairs >= 12 and pairs % 12 == 0, "a multiple of 12"),
        ("share", share, 0 < share <= 0.4, "more than 0, up to 0.4"),
        ("swept", swept, swept >= 2 and swept % 2 == 0 and swept <= pairs // 6, f"an even number up to {pairs // 6}"),
    ):
        if not right:
            raise UserError(f"--{name} {value}; expected {told}")
    model = lab.model
    made = [make_sentences(model, template, pairs // 3, lab.seed + i) for i, template in enumerate(TEMPLATES)]
    yield _prefers(lab, made)
    yield _names(lab, made)

    lab.progress("attributing", 0, 1)
    parts = [attribute_logits(model, s.layout.prompts, s.right, s.wrong, by="head") for s in made]
    chosen = _choose(parts, share)
    yield _writes(lab, parts, chosen)

    first = made[0]
    metric = logit_difference(first.right[-swept:], first.wrong[-swept:])
    runs = first.layout.prompts[-swept:], first.flipped[-swept:], metric  # these did not choose the heads
    tell = lab.tell("patching heads")
    heads = patch_sweep(model, *runs, "blocks.*.attn.hook_z", by=("pos", "head"), positions=[-1], progress=tell)
    yield _patched_heads(lab, heads, chosen)
    stream = patch_sweep(model, *runs, _streams(lab), progress=lab.tell("patching the residual stream"))
    yield from _where(lab, stream, first.layout)
    yield _estimated(lab, attribution_patch(model, *runs, _streams(lab)), stream)


def make_sentences(model: Model, template: str, n: int, seed: int) -> Sentences:
    """`n` prompts, the answer being the first name in every other one; no two share both names.

    Raises UserError for too few names of one token.
    """
    rng = random.Random(seed)
    names, places, things = (single_tokens(model, words) for words in (NAMES, PLACES, THINGS))
    couples = list(combinations(names, 2))
    if len(couples) < n or len(names) < 3 or not places or not things:
        raise UserError(
            f"{model.provenance.name}: only {len(names)} names, {len(places)} places and {len(things)} things are one "
            f"token each; expected names for {n} couples and one of the others: this model cannot be asked with these "
            "sentences"
        )
    fillings, answers = [], []
    for i, couple in enumerate(rng.sample(couples, n)):
        first, second = rng.sample(couple, 2)
        other = rng.choice([name for name in names if name not in couple])
        giver, right = (second, first) if i % 2 == 0 else (first, second)
        scene = {"first": first, "second": second, "place": rng.choice(places), "thing": rng.choice(things)}
        fillings.append([scene | {"giver": who} for who in (giver, right, other)])
        answers.append([_token(model, who) for who in (right, giver, other)])
    layouts = [lay_out(model, template, list(some)) for some in zip(*fillings, strict=True)]
    right_ids, wrong_ids, absent_ids = (list(part) for part in zip(*answers, strict=True))
    return Sentences(layouts[0], layouts[1].prompts, layouts[2].prompts, right_ids, wrong_ids, absent_ids)


def _token(model: Model, name: str) -> int:
    return model.encode(f"I saw {name}")[0][-1]


def _streams(lab: Lab) -> list[str]:
    """The residual stream before every third block, or every one in a small model.

    Neither the embedding, where the second mention is all that differs, nor the last block's output, behind which only
    the last token counts: there the answer is known beforehand.
    """
    n = lab.model.n_layers
    stride = max(1, min(6 if lab.quick else 3, n // 4))
    return [residual_site(lab.model, layer) for layer in range(n - 1, 0, -stride)][::-1]


def _prefers(lab: Lab, made: list[Sentences]) -> Finding:
    leads: dict[str, list[float]] = {"one of the two gives": [], "a third person gives": []}
    rows: list[Row] = []
    for template, s in zip(TEMPLATES, made, strict=True):
        metric = logit_difference(s.right, s.wrong)
        for who, prompts in zip(leads, (s.layout.prompts, s.third), strict=True):
            values = lab.model.measure(prompts, metric).cpu().numpy()
            leads[who] += values.tolist()
            at = estimate_mean(values, unit=UNIT, over="prompt", seed=lab.seed)
            rows.append(
                {"template": template, "giver": who, "lead of the name (nats)": at.mean, "low": at.low, "high": at.high}
            )
    ours, theirs = (estimate_mean(v, unit=UNIT, over="prompt", seed=lab.seed) for v in leads.values())
    return Finding(
        claim="Of the two names, the model prefers the one that has not been repeated.",
        estimate=ours,
        control=Control("a third person gives, and neither name is right", theirs),
        expects="greater",
        margin=0.5,
        answers=True,
        measure=f"Logit of the right name less that of the other, at the last token. The right name leads in "
        f"{100 * np.mean(np.array(leads['one of the two gives']) > 0):.0f} % of {ours.n} prompts.",
        table=rows,
        figure=Figure(
            "interval_dots",
            x="lead of the name (nats)",
            y="template",
            group="giver",
            low="low",
            high="high",
            chance=0.0,
            caption="How far the name that has not been repeated is ahead; intervals over prompts.",
        ),
    )


def _names(lab: Lab, made: list[Sentences]) -> Finding:
    leads = [lab.model.measure(s.layout.prompts, logit_difference(s.right, s.absent)).cpu().numpy() for s in made]
    return Finding(
        claim="The right name is likelier than one that is not in the sentence.",
        estimate=estimate_mean(np.concatenate(leads), unit=UNIT, over="prompt", seed=lab.seed),
        control=Control("no difference", known(0.0, unit=UNIT, why="no difference")),
        expects="greater",
        margin=0.5,
        answers=True,
        measure="Logit of the right name less that of another name drawn at random, at the last token.",
        caveat="Any name in the sentence may be likelier: the finding before this one tells the two apart.",
    )


def _heads(parts: Attribution) -> tuple[list[str], NDArray[np.float64]]:
    """Names (layer.head) and direct effects [prompt, head] of attention heads alone."""
    places = [i for i, part in enumerate(parts.parts) if part.count(".") == 2 and not part.endswith("bias")]
    names = [parts.parts[i].replace(".attn", "") for i in places]
    return names, parts.effect[:, places].double().numpy()


def _halves(parts: list[Attribution]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Direct effects [prompt, head] of the first half of every template's prompts, and of the second."""
    tables = [_heads(p)[1] for p in parts]
    first, second = ([t[: len(t) // 2] for t in tables], [t[len(t) // 2 :] for t in tables])
    return np.concatenate(first), np.concatenate(second)


def _choose(parts: list[Attribution], share: float) -> list[int]:
    """The heads with the largest mean direct effect in the first half of the prompts."""
    means = _halves(parts)[0].mean(0)
    return np.argsort(-means)[: max(2, round(share * len(means)))].tolist()


def _writes(lab: Lab, parts: list[Attribution], chosen: list[int]) -> Finding:
    names, judged = _heads(parts[0])[0], _halves(parts)[1]
    rest = [i for i in range(len(names)) if i not in set(chosen)]
    ours = estimate_mean(judged[:, chosen].sum(1), unit=UNIT, over="prompt", seed=lab.seed)
    theirs = estimate_mean(judged[:, rest].mean(1) * len(chosen), unit=UNIT, over="prompt", seed=lab.seed)
    effects = {name: judged[:, i] for i, name in enumerate(names)}
    shown = sorted(effects, key=lambda name: -abs(effects[name].mean()))[:16]
    rows: list[Row] = []
    for name in shown:
        at = estimate_mean(effects[name], unit=UNIT, over="prompt", seed=lab.seed)
        rows.append({"head (layer.head)": name, "direct effect (nats)": at.mean, "low": at.low, "high": at.high})
    return Finding(
        claim="A few attention heads make the difference between the names.",
        estimate=ours,
        control=Control("as many of the other heads, on average", theirs),
        expects="greater",
        margin=0.5,
        answers=True,
        measure=f"Direct effect on the logit difference, summed over the {len(chosen)} heads of most effect in other "
        f"prompts (layer.head): {', '.join(names[i] for i in chosen)}.",
        caveat="A head may raise the right name or lower the other. Only what it writes to the end of the residual "
        "stream counts; a head that works through later ones is not in it.",
        table=rows,
        figure=Figure(
            "effect_bars",
            x="direct effect (nats)",
            y="head (layer.head)",
            low="low",
            high="high",
            caption="The heads with the largest direct effects; negative ones write against the right name. Intervals "
            "over prompts.",
        ),
    )


def _patched_heads(lab: Lab, swept: Sweep, chosen: list[int]) -> Finding:
    effect = swept.effect[:, :, 0].numpy()  # [pair, layer, head], at the last token
    flat = effect.reshape(len(effect), -1)
    rest = [i for i in range(flat.shape[1]) if i not in set(chosen)]
    ours = estimate_mean(flat[:, chosen].mean(1), unit="nats per head", over="prompt", seed=lab.seed)
    theirs = estimate_mean(flat[:, rest].mean(1), unit="nats per head", over="prompt", seed=lab.seed)
    rows: list[Row] = [
        {"layer": layer, "head": head, "moved (nats)": float(effect[:, layer, head].mean())}
        for layer in range(effect.shape[1])
        for head in range(effect.shape[2])
    ]
    return Finding(
        claim="These heads move the answer when they alone are patched, too.",
        estimate=ours,
        control=Control("the other heads", theirs),
        expects="greater",
        answers=True,
        measure="Change of the logit difference when one head's output at the last token is copied into the sentence "
        f"where the other one gives; everything together moves it by {float(swept.total.mean()):.2g} nats.",
        table=rows,
        figure=Figure(
            "head_grid",
            x="head",
            y="layer",
            z="moved (nats)",
            caption="What patching each head at the last token moves.",
        ),
    )


def _where(lab: Lab, swept: Sweep, layout: Layout) -> Iterator[Finding]:
    """Where the decision stands, by patching one token's residual stream."""
    effect = swept.effect.numpy()
    layers = [int(site.split(".")[1]) + (1 if site.endswith("post") else 0) for site in swept.sites]
    rows: list[Row] = [
        {"layer": layer, "token": layout.labels[pos], "moved (nats)": float(effect[:, i, pos].mean())}
        for i, layer in enumerate(layers)
        for pos in range(len(layout.labels))
    ]
    second, last, n = layout.at("giver"), len(layout.labels) - 1, lab.model.n_layers
    early = [i for i, layer in enumerate(layers) if layer <= n / 3]
    late = [i for i, layer in enumerate(layers) if layer >= 2 * n / 3]
    for claim, where, some, ours, theirs, control in (
        ("In early layers, which name it is stands at its second mention.", "first", early, second, last, "last token"),
        ("In late layers it stands at the last token.", "last", late, last, second, "second mention"),
    ):
        if not some:  # a model of two or three blocks has no such third
            continue
        yield Finding(
            claim=claim,
            estimate=estimate_mean(effect[:, some, ours].mean(1), unit=UNIT, over="prompt", seed=lab.seed),
            control=Control(
                f"the {control} in the same layers",
                estimate_mean(effect[:, some, theirs].mean(1), unit=UNIT, over="prompt", seed=lab.seed),
            ),
            expects="greater",
            margin=0.5,
            measure="Change of the logit difference when the residual stream of one token is copied from the sentence "
            f"with the right giver: the mean over the {where} third of the layers.",
            caveat="Shown for the first template only.",
            table=rows if where == "first" else [],
            figure=Figure(
                "layer_position_map",
                x="token",
                y="layer",
                z="moved (nats)",
                caption="Copying one token's residual stream into the sentence where the other one gives. Layer l is "
                "the stream after l blocks.",
            )
            if where == "first"
            else None,
        )


def _estimated(lab: Lab, guessed: Sweep, measured: Sweep) -> Finding:
    """How far the gradient's estimate of the same map can be believed here."""
    maps = zip(guessed.effect.numpy(), measured.effect.numpy(), strict=True)
    agreed = [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in maps]
    agreed = np.nan_to_num(agreed).tolist()  # a map that is all zeros agrees with nothing
    rows: list[Row] = [{"prompt": i + 1, "correlation": value} for i, value in enumerate(agreed)]
    return Finding(
        claim="One gradient estimates that map well enough to search with (attribution patching).",
        estimate=estimate_mean(agreed, unit="correlation", over="prompt", bounds=(-1.0, 1.0), seed=lab.seed),
        control=Control("no relation", known(0.0, unit="correlation", why="no relation")),
        expects="greater",
        margin=0.5,
        measure="Correlation, over layers and tokens, of the estimate with the patching itself.",
        caveat="A gradient is blind where attention or a norm saturates, which is worst in early layers.",
        table=rows,
    )


if __name__ == "__main__":
    from interp.cli import run_probe_file

    run_probe_file(__file__)
