"""Do more parameters, more data and more compute lower the test loss, as a power of each?

Paper: Kaplan et al. 2020, arXiv:2001.08361; Hoffmann et al. 2022, arXiv:2203.15556 (redone in 2404.10102).

Question. A scaling law says that the loss on new text falls as a power of the number of weights, of the amount of
text and of the computation: each doubling takes off the same share. It cannot be seen in one model. So many are trained
here, each in seconds: GPT-2s of two blocks, from a few thousand weights, that read characters.

- Parameters: one duration, several widths. Data: one width, growing parts of the text. Compute: widths and durations
  together; what nothing cheaper beats is the frontier. (Four points or more make a law: a frontier of three is not
  asked about.) A frontier falls along the losses that chose it even where nothing does: half of the seeds choose its
  points, the other half are fitted.
- Parameters and data in one law, E + A / parameters^a + B / data^b, fitted to all models that read no more text than
  there is (for --full the bundled text is too short). The exponents are also how the best size grows with compute.
- `--models gpt2,gpt2-medium,gpt2-large`: the losses of trained models on one text.

What counts as yes:

- the exponent's whole interval lies above zero;
- it equals the published one within 0.02 (0.076, 0.095 and 0.050; the last is of the least compute that reaches a loss,
  at the best batch; counted as here, at one batch for all, Kaplan et al. have 0.057);
- the line through the smaller models foretells the largest within 0.01 nats;
- the joint law foretells the largest and the longest trained models better than laws in one variable; its best size
  grows with compute to the power 0.50 (Hoffmann et al.: 0.46 to 0.50) or 0.73 (Kaplan et al.), within 0.1.

What could fool us:

- The learning rate. A rate that suits one size ruins another, by more than the seeds differ: each size takes the best
  of three, on text that it is not tested on.
- One seed. Every point is the mean of two or more; intervals of exponents are over sizes.
- Too little training, text read twice. The widths read no more characters than the text has (at random places; with
  --full and the bundled text several times as many); the parts of the text are read again and again, and stopped where
  other text says that it is best.
- Counting. With or without embeddings the same models give other exponents: both are shown.
- Belief. A line through seven points looks good. The bend, a floor, and the miss at the largest model are shown, and
  nothing is foretold beyond them.
- A law of anything. On shuffled characters there is nothing to learn, and no law must show; nor must a joint law where
  the losses are dealt to the models at random.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from interp import Finding, Lab, NotAsked, UserError, probe

from ._scaling_laws import joint, laws
from ._scaling_laws.family import FAMILY, measure_family
from ._scaling_laws.grid import FULL, QUICK, USUAL, train_on_shares, train_sizes
from ._scaling_laws.laws import FALLS, KAPLAN, PUBLISHED, falls, has_frontier, law_of, no_frontier
from ._scaling_laws.text import read_characters


@probe(paper="arXiv:2001.08361", claims=[*laws.CLAIMS, *joint.CLAIMS, FAMILY], long=True)
def scaling_laws(lab: Lab, *, corpus: Path | None = None, models: str = "") -> Iterator[Finding | NotAsked]:
    """Train the grid, fit the laws, and say where not to believe them.

    Args:
        corpus: text of yours instead of the bundled sample; 200,000 characters or more
        models: names of trained models, parted by commas, to measure on one text beside the models trained here
    """
    names = [name.strip() for name in models.split(",") if name.strip()]
    if len(names) == 1:
        raise UserError(f"--models {models}; expected two names or more, parted by commas, or none")
    plan = QUICK if lab.quick else FULL if lab.full else USUAL
    text = read_characters(corpus)
    longest = train_sizes(lab, text, plan, plan.widths, plan.durations[-1], "training")
    by_size = law_of("parameters", longest)
    yield falls(by_size, ())
    fitting = next(point.lr for point in longest if point.size.d_model == plan.data_width)
    by_text = law_of("text", train_on_shares(lab, text, plan, fitting))
    yield falls(by_text, ())
    every = [
        point for steps in plan.durations[:-1] for point in train_sizes(lab, text, plan, plan.widths, steps, "training")
    ] + longest
    if has_frontier(every):
        by_compute = law_of("compute", every)
        yield falls(by_compute, every)
        yield from laws.compare_published([by_size, by_text, by_compute])
    else:
        yield no_frontier(FALLS["compute"])
        yield from laws.compare_published([by_size, by_text])
        yield no_frontier(PUBLISHED, of="compute", exponent=f"{KAPLAN['compute']:g}")
    yield from laws.doubt(by_size)
    yield laws.planted(lab, by_size)
    steps = plan.shorter[-1]  # how common each character is, is soon learned, and nothing else is there
    bare = train_sizes(lab, text.shuffled(lab.seed), plan, plan.widths[:5], steps, "on shuffled characters")
    yield laws.nothing_to_learn(law_of("parameters", bare).fit)
    shorter = plan.shorter if any(point.read_once for point in every) else ()
    short = [point for steps in shorter for point in train_sizes(lab, text, plan, plan.widths, steps, "training")]
    yield from joint.joint_law(lab, [*short, *every])
    if names:
        yield measure_family(lab, names, corpus)
    else:
        yield FAMILY.not_asked("because no --models came: it trains its own")
