"""Does the model copy what it has seen before, and which heads do it?

Paper: Olsson et al. 2022, arXiv:2209.11895 (induction heads); Elhage et al. 2021, "A Mathematical Framework".

Question. After "… A B … A" a model can guess B without knowing anything about A: it looks for the last A and repeats
what came next. An attention head that does this is called an induction head. To see it alone, the text is random
tokens, shown twice: in the second copy nothing but the repetition can help.

What counts as yes:

- the second copy's tokens are more likely than the first's by 1 nat more than when the second copy is shuffled;
- the heads that look at "the token behind the last A" in some sequences do so in others, more than where the second
  copy is shuffled, by 0.2 of their attention;
- with these heads silenced the second copy loses 0.5 nats a token more than with as many others.

As a control, models in which an induction head was planted by hand are asked the same, and this model's own shape with
random weights.

What could fool us:

- Frequency. A token that was seen once may be likelier everywhere. The shuffled second copy has the same tokens.
- Position. A head may copy what stands a fixed number of tokens back, whatever it is. Copies have four lengths, so that
  one distance fits a quarter of the sequences.
- Choice. The best of hundreds of heads looks good by chance: heads are chosen on some sequences and judged on others.
- Damage. Silencing any head hurts a little: as many others, drawn at random from the same layers while there are any,
  are silenced too. "Silenced" means held at what it reads on average, which keeps a head's constant part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch

from interp import Finding, Lab, Least, NotAsked, UserError, probe

from ._induction import controls
from ._induction.heads import LOOK_BACK, choose_heads, look_back, mean_scores
from ._induction.sequences import COPIES, copies, log_probs, make_sequences
from ._induction.silenced import OTHERS, SILENCED, silenced


@probe(paper="arXiv:2209.11895", claims=[COPIES, LOOK_BACK, SILENCED, OTHERS, *controls.CLAIMS])
def induction(
    lab: Lab, *, length: int = 25, sequences: Annotated[int, Least(16)] = 16, share: float = 0.05, random_sets: int = 12
) -> Iterator[Finding | NotAsked]:
    """Repeat random tokens, find the heads that look back, silence them.

    Args:
        length: tokens of the longest copy, 10 or more
        sequences: sequences in all, a multiple of 8 from 16 on; half of them choose the heads, the others judge them
        share: which part of all heads is chosen, those of the highest score; up to 0.4
        random_sets: sets of other heads to silence for comparison, 2 or more
    """
    for name, value, right, told in (
        ("length", length, length >= 10, "10 or more"),
        ("sequences", sequences, sequences >= 16 and sequences % 8 == 0, "a multiple of 8, 16 or more"),
        ("share", share, 0 < share <= 0.4, "more than 0, up to 0.4"),
        ("random-sets", random_sets, random_sets >= 2, "2 or more"),
    ):
        if not right:
            raise UserError(f"--{name} {value}; expected {told}")
    model = lab.model
    if lab.quick:
        sequences, random_sets = 16, min(random_sets, 4)  # four sequences that judge would be too few to say
    choosing, judging, shuffled = make_sequences(model, length, sequences // 8, lab.seed)
    lab.progress("reading repeated tokens", 0, 1)
    judged = log_probs(model, judging)
    yield copies(judged, log_probs(model, shuffled), lab.seed)

    lab.progress("scoring heads", 0, 1)
    scores = mean_scores(model, choosing)
    heads = choose_heads(scores, share)
    yield look_back(lab, heads, judging, shuffled, scores)
    clean = torch.stack([logs[1, 1:].mean() for logs in judged])
    yield from silenced(lab, heads, scores, choosing, judging, clean, random_sets)
    yield from controls.controls(lab, length, share)
