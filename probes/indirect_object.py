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

from collections.abc import Iterator

import numpy as np

from interp import Control, Figure, Finding, Lab, Row, UserError, probe
from interp.analysis import attribute_logits, attribution_patch, logit_difference, patch_sweep
from interp.stats import estimate_gap, estimate_mean, known

from ._indirect_object import UNIT
from ._indirect_object.heads import choose_heads, move_the_answer, write_the_name
from ._indirect_object.places import how_well_estimated, streams_to_patch, where_it_stands
from ._indirect_object.sentences import TEMPLATES, Sentences, make_sentences


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
    swept = min(swept, 4) if lab.quick else swept
    made = [make_sentences(model, template, pairs // 3, lab.seed + i) for i, template in enumerate(TEMPLATES)]
    yield _prefers(lab, made)
    yield _names(lab, made)

    lab.progress("attributing", 0, 1)
    parts = [attribute_logits(model, s.layout.prompts, s.right, s.wrong, by="head") for s in made]
    chosen = choose_heads(parts, share)
    yield write_the_name(lab, parts, chosen)

    first = made[0]
    metric = logit_difference(first.right[-swept:], first.wrong[-swept:])
    runs = first.layout.prompts[-swept:], first.flipped[-swept:], metric  # these did not choose the heads
    tell = lab.tell("patching heads")
    heads = patch_sweep(model, *runs, "blocks.*.attn.hook_z", by=("pos", "head"), positions=[-1], progress=tell)
    yield move_the_answer(lab, heads, chosen)
    stream = patch_sweep(model, *runs, streams_to_patch(lab), progress=lab.tell("patching the residual stream"))
    yield from where_it_stands(lab, stream, first.layout)
    yield how_well_estimated(lab, attribution_patch(model, *runs, streams_to_patch(lab)), stream)


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
    pair = estimate_gap(*leads.values(), unit=UNIT, over="prompt", seed=lab.seed)
    return Finding(
        claim="Of the two names, the model prefers the one that has not been repeated.",
        estimate=pair.estimate,
        control=Control("a third person gives, and neither name is right", pair.control),
        paired=pair.gap,
        expects="greater",
        margin=0.5,
        answers=True,
        measure=f"Logit of the right name less that of the other, at the last token. The right name leads in "
        f"{100 * np.mean(np.array(leads['one of the two gives']) > 0):.0f} % of {pair.gap.n} prompts.",
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
