"""Who gets the drink? A model that reads "Mary and John went out, John gave a drink to" should say "Mary".

Paper: Wang et al. 2022, arXiv:2211.00593 (indirect object identification in GPT-2 small).

Question. The sentence names two people and one of them again; the other one is the answer. Wang et al. found in GPT-2
small that a few attention heads in late layers (name movers) write the answer, and that what decides between the
names is read where one of them comes the second time. Does this model do the task, which heads write the name, and
at which layer is the decision where?

What counts as yes:

- of the two names, the right one's logit is above the other's by 0.5 more than where the other one is said again, too,
  but a third person gives;
- the right name's logit is above that of the other one, and of a name that is not in the sentence, by 0.5;
- the few heads that write most for the right name in some prompts write more than half of what heads write for it in
  others;
- these heads also move the answer when they alone are patched from the sentence where the other one gives, by a tenth
  of what patching everything moves more than as many others;
- which name it is stands at its second mention in the first third of the layers, and at the last token in the last
  third (without the last block, behind which nothing but the last token can count).

What could fool us:

- A name may be likelier, or the first one named. The answer is the first name as often as the second, no two prompts
  share both names, and the third person's sentences have the same ones.
- A difference between two names grows when the wrong one is pushed down, too; and any name of the sentence may be
  likelier than others. So the right name is also compared with the likelier of the wrong one and an absent one.
- Choice. The best of hundreds of heads looks good by chance: heads are chosen on some prompts and judged on others.
- Direct effects add up exactly, but a head may matter through later ones only. Patching sees those, too.
- Many heads that all help a little. Any few of them beat the rest on average, so the share of the whole is asked for.
- One wording. Three templates are used; the maps of positions need one layout and show the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Finding, Lab, NotAsked, UserError, measured, probe, same_as, zero
from interp.analysis import attribute_logits, attribution_patch, logit_difference, patch_sweep
from interp.stats import estimate_mean

from ._indirect_object import UNIT, controls, heads, places
from ._indirect_object.sentences import TEMPLATES, Sentences, ahead, make_sentences, third_gives

PREFERS = Claim(
    "Of the two names, the model prefers the one that has not been repeated.",
    expects="greater",
    unit=UNIT,
    margin=0.5,
    answers=True,
    measure="Logit of the right name less that of the other, at the last token; less the same where the other is said "
    "again, too, and a third person gives: no name is right there, and who shuns what was said twice gains nothing.",
)
NAMES = Claim(
    "The right name is likelier than the other one and than one that is not in the sentence.",
    expects="greater",
    unit=UNIT,
    margin=0.5,
    answers=True,
    measure="Logit of the right name less that of the likelier of two: the other name, and one drawn at random, prompt "
    "by prompt, at the last token.",
    caveat="A name that was not repeated may be likelier whoever gives: the finding before this one asks that.",
)


@probe(paper="arXiv:2211.00593", claims=[PREFERS, NAMES, *heads.CLAIMS, *places.CLAIMS, *controls.CLAIMS])
def indirect_object(lab: Lab, *, pairs: int = 48, share: float = 0.05, swept: int = 8) -> Iterator[Finding | NotAsked]:
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
    other, absent = ahead(model, made, "wrong", "absent")
    yield _prefers(lab, made, other)
    named = _names(lab, other, absent)
    yield named
    if named.verdict == "no":
        why = "because the model does not name the right one: there is nothing that heads write or places hold"
        yield from (claim.not_asked(why) for claim in (*heads.CLAIMS, *places.CLAIMS))
    else:
        yield from _inside(lab, made, share, swept)
    yield from controls.controls(lab, made)


def _inside(lab: Lab, made: list[Sentences], share: float, swept: int) -> Iterator[Finding | NotAsked]:
    """Which heads write the name, and where it stands which one it is."""
    model = lab.model
    lab.progress("attributing", 0, 1)
    parts = [attribute_logits(model, s.layout.prompts, s.right, s.wrong, by="head") for s in made]
    chosen = heads.choose_heads(parts, share)
    yield heads.write_the_name(lab, parts, chosen)

    first = made[0]
    metric = logit_difference(first.right[-swept:], first.wrong[-swept:])
    runs = first.layout.prompts[-swept:], first.flipped[-swept:], metric  # these did not choose the heads
    tell = lab.tell("patching heads")
    by_head = patch_sweep(model, *runs, "blocks.*.attn.hook_z", by=("pos", "head"), positions=[-1], progress=tell)
    yield heads.move_the_answer(lab, by_head, chosen)
    if streams := places.streams_to_patch(lab):
        stream = patch_sweep(model, *runs, streams, progress=lab.tell("patching the residual stream"))
        yield from places.where_it_stands(lab, stream, first.layout)
        yield places.how_well_estimated(lab, attribution_patch(model, *runs, streams), stream)
    else:
        yield from (
            claim.not_asked("because a model of one block has no stream between two") for claim in places.CLAIMS
        )


def _prefers(lab: Lab, made: list[Sentences], one_of_the_two: NDArray[np.float64]) -> Finding:
    a_third = third_gives(lab.model, made)
    by_template = measured(
        {
            (template, giver): part
            for giver, values in (("one of the two gives", one_of_the_two), ("said again, a third gives", a_third))
            for template, part in zip(TEMPLATES, np.split(values, len(made)), strict=True)
        },
        by=("template", "giver"),
        value="lead of the name (nats)",
        over="prompt",
        seed=lab.seed,
    )
    return PREFERS.answer(
        estimate_mean(one_of_the_two - a_third, unit=UNIT, over="prompt", seed=lab.seed),
        same_as(UNIT, "where the other is said again and a third person gives"),
        measure=f"The lead is {one_of_the_two.mean():.2f}, and {a_third.mean():.2f} where a third gives. The "
        f"right name leads in {np.mean(one_of_the_two > 0):.0%} of {len(a_third)} prompts.",
        table=by_template.rows(),
        figure=by_template.dots(
            y="template",
            chance=0.0,
            caption="How far the name that has not been repeated is ahead; intervals over prompts.",
        ),
    )


def _names(lab: Lab, other: NDArray[np.float64], absent: NDArray[np.float64]) -> Finding:
    """The likelier rival counts: to name anybody of the sentence, or anybody but who was repeated, is not enough."""
    return NAMES.answer(
        estimate_mean(np.minimum(other, absent), unit=UNIT, over="prompt", seed=lab.seed),
        zero(UNIT, "no further ahead than of the likelier of the two"),
        measure=f"It is ahead of the other one by {other.mean():.2f}, of the third by {absent.mean():.2f}.",
    )
