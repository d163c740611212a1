"""Which layers carry the new behaviour: old weights are put back, and new ones put in, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Finding, Lab, Model, NotAsked, copy_model, measured, same_as, weights_from, zero
from interp import TuningExample as Example
from interp.analysis import layer_of_parameter, score_completions
from interp.stats import estimate_mean

from . import CARRIES, CONTROLS, NATS, ONE_SEED
from .questions import Question

OUTSIDE = "embeddings, last norm"

ONE_BLOCK = Claim(
    "One block of layers carries more of the new behaviour than the others do, by half a nat.",
    expects="greater",
    margin=0.5,
    unit=NATS,
    part=CARRIES,
    measure="What answer and mark lose in log-probability when one block's weights are put back to what they were, "
    "less the mean of the other blocks of layers. One half of the held-out questions chose the block, the other half "
    "judges.",
    caveat=f"{ONE_SEED} Blocks stand in for each other: what each loses alone need not add up to the whole.",
)
NONE_ALONE = Claim(
    "No block does it alone: the best one's new weights give the old model less than half of the gain.",
    expects="less",
    unit=NATS,
    part=CARRIES,
    measure="What the block that is best by itself, chosen on the other half of the questions, gives, less half of "
    "what all weights give. Embeddings and last norm count as one.",
    caveat=ONE_SEED,
)
LOWER_HALF = Claim(
    "With the lower half of the layers as they were, more than half of the gain is left.",
    expects="less",
    unit=NATS,
    part=CARRIES,
    measure="What answer and mark lose when embeddings, last norm and the lower half of the blocks get their old "
    "weights back, less half of what was gained.",
    caveat=ONE_SEED,
)
EXACT_SWAPS = Claim(
    "Swapping is exact: no weights put back change nothing, all of them give the model as it was.",
    expects="equal",
    margin=1e-9,
    unit=NATS,
    part=CONTROLS,
    arithmetic=True,
    measure="Differences between log-probabilities, question by question, in both cases.",
)
CLAIMS = [ONE_BLOCK, NONE_ALONE, LOWER_HALF, EXACT_SWAPS]


def blocks_of(model: Model, most: int) -> dict[str, list[str]]:
    """Parameters in at most `most` blocks of neighbouring layers, and those outside the layers."""
    n = model.n_layers
    edges = [round(i * n / min(most, n)) for i in range(min(most, n) + 1)]
    out: dict[str, list[str]] = {}
    names = [name for name, _ in model.hf.named_parameters()]
    for low, high in pairwise(edges):
        label = f"layer {low}" if high == low + 1 else f"layers {low} to {high - 1}"
        out[label] = [name for name in names if layer_of_parameter(name) in range(low, high)]
    return out | {OUTSIDE: [name for name in names if layer_of_parameter(name) is None]}


def scores_with(
    model: Model, source: Model, blocks: dict[str, list[str]], examples: Sequence[Example], lab: Lab | None = None
) -> NDArray[np.float64]:
    """Log-probability of each completion with one block's weights from `source` at a time: [example, block]."""
    work = copy_model(model, f"{model.provenance.name} with weights swapped")
    out = []
    with work.tree.settled():  # other numbers in the same matrices: what was asked of the model once holds
        for i, names in enumerate(blocks.values()):
            with weights_from(work, source, names):
                out.append(score_completions(work, examples).summed.double().numpy())
            if lab is not None:
                lab.progress("swapping weights", i + 1, len(blocks))
    return np.stack(out, 1)


def layers_that_carry(lab: Lab, questions: Sequence[Question], tuned: Model) -> Iterator[Finding | NotAsked]:
    """Part (d), and that swapping is exact."""
    examples = [question.example for question in questions]
    blocks = blocks_of(lab.model, 3 if lab.quick else 6)
    n = len(blocks)
    before, after = (score_completions(one, examples).summed.double().numpy() for one in (lab.model, tuned))
    back = scores_with(tuned, lab.model, blocks | _piled(blocks), examples, lab)
    lost, gained = after[:, None] - back[:, :n], scores_with(lab.model, tuned, blocks, examples, lab) - before[:, None]
    yield from _block_by_block(lab, list(blocks), lost, gained, after - before)
    if lab.model.n_layers > 1:
        yield _many_blocks(lab, list(blocks), after[:, None] - back[:, n:], after - before)
    else:
        yield LOWER_HALF.not_asked("because the model has one layer")
    gaps = np.concatenate([back[:, n] - after, back[:, 2 * n - 1] - before])
    yield EXACT_SWAPS.answer(
        estimate_mean(np.abs(gaps), unit=NATS, over="score", exact=True, seed=lab.seed), zero(NATS, "no difference")
    )


def _piled(blocks: dict[str, list[str]]) -> dict[str, list[str]]:
    """None, then more and more: all outside the layers and the first layers. The last but one is all; then from above.

    `n` blocks give n entries from below (none, …, all) and n - 2 from above.
    """
    outside, layers = blocks[OUTSIDE], [names for label, names in blocks.items() if label != OUTSIDE]
    parts = [[], *(layers[:i] for i in range(1, len(layers) + 1))]
    below = [sum(some, [*outside]) if some else [] for some in parts]
    above = [sum(layers[i:], [*outside]) for i in range(len(layers) - 1, 0, -1)]
    return {f"below {i}": names for i, names in enumerate(below)} | {f"above {i}": n for i, n in enumerate(above, 1)}


def _block_by_block(
    lab: Lab, names: list[str], lost: NDArray[np.float64], gained: NDArray[np.float64], gain: NDArray[np.float64]
) -> Iterator[Finding | NotAsked]:
    """`lost` and `gained` [question, block], OUTSIDE the last; `gain` [question] is that of all weights together."""
    swaps = {"old weights into the fine-tuned": lost, "new weights into the model before": gained}
    swapped = measured(
        {
            (label, swap): values
            for swap, effects in swaps.items()
            for label, values in zip(names, effects.T, strict=True)
        },
        by=("weights", "swap"),
        value="log-probability lost or gained (nats)",
        unit=NATS,
        over="question",
        seed=lab.seed,
    )
    figure = swapped.bars(
        y="weights", caption=f"All weights together: {gain.mean():.1f} nats. Intervals over held-out questions."
    )
    of_blocks = lost[:, :-1]  # what is outside loses next to nothing: beside it every block would stand out
    best = int(of_blocks[::2].mean(0).argmax())
    of_best, rest = of_blocks[1::2, best], np.delete(of_blocks[1::2], best, axis=1)
    if rest.shape[1]:
        yield ONE_BLOCK.answer(
            estimate_mean(of_best - rest.mean(1), unit=NATS, over="question", seed=lab.seed),
            same_as(NATS, "the other blocks, mean"),
            measure=f"{names[best]}: {of_best.mean():.2f} nats, the others {rest.mean():.2f}.",
            table=swapped.rows(),
            figure=figure,
        )
    else:
        yield ONE_BLOCK.not_asked("because the model has one layer")
    alone = int(gained[::2].mean(0).argmax())
    of_alone, half = gained[1::2, alone], gain[1::2] / 2
    yield NONE_ALONE.answer(
        estimate_mean(of_alone - half, unit=NATS, over="question", seed=lab.seed),
        same_as(NATS, "half of the gain"),
        measure=f"{names[alone]}: {of_alone.mean():.1f} nats; all weights give {gain[1::2].mean():.1f}.",
        table=swapped.rows(),
    )


def _many_blocks(lab: Lab, names: list[str], lost: NDArray[np.float64], gain: NDArray[np.float64]) -> Finding:
    """`lost` [question, what was put back], in the order of `_piled`."""
    n = len([name for name in names if name != OUTSIDE])
    piles: dict[tuple[float, str], NDArray[np.float64]] = {}
    for i, values in enumerate(lost.T):
        sides = ("from below",) if 0 < i < n else ("from above",) if i > n else ("from below", "from above")
        piles |= {((i if i <= n else i - n) / n, side): values for side in sides}
    put_back = measured(
        piles,
        by=("layers put back (share)", "put back"),
        value="log-probability lost (nats)",
        unit=NATS,
        over="question",
        seed=lab.seed,
    )
    half = n // 2
    return LOWER_HALF.answer(
        estimate_mean(lost[:, half] - gain / 2, unit=NATS, over="question", seed=lab.seed),
        same_as(NATS, "half of the gain"),
        measure=f"The lower {half} of {n} blocks: {lost[:, half].mean():.1f} nats lost of {gain.mean():.1f} gained.",
        table=put_back.rows(),
        figure=put_back.lines(
            x="layers put back (share)",
            caption="Old weights put back layer upon layer, from the first up or from the last down; embeddings and "
            "last norm always with them. Bands over questions.",
        ),
    )
