"""A change that was planted must be found where it is; answers of other questions must teach none."""

from __future__ import annotations

import numpy as np
import torch

from interp import (
    Claim,
    Control,
    Finding,
    Lab,
    Model,
    Row,
    SmallGPT2,
    copy_model,
    set_beforehand,
    train_small_gpt2,
)
from interp.analysis import (
    effective_rank,
    energies,
    layer_of_parameter,
    relative_change,
    score_completions,
    weight_changes,
)
from interp.stats import estimate_gap, proportion

from . import CONTROLS, ONE_SEED, SHARE
from .behaviour import sit
from .layers import OUTSIDE, blocks_of, scores_with
from .questions import Exam
from .small import make_world

LAYERS, RANK = 6, 2
LOUD = 0.5  # length of what is planted, over the weights'
QUIET = 0.01  # of every other weight, at random: no layer is left as it was
PLANTS = "share of plants"

PLANTED = Claim(
    "Positive control: an update of two directions, planted in one layer, is found there by all measures.",
    expects="greater",
    margin=0.5,
    unit=PLANTS,
    part=CONTROLS,
    measure="Weights must have moved most in that layer, in two directions, and of all layers put back one by one that "
    "one must bring the model nearest to what it was. GPT-2s of six layers.",
    subject="trained here",
)
OTHER_ANSWERS = Claim(
    "Negative control: answers of other questions teach no right ones: as many as before, within 10 points.",
    expects="equal",
    margin=0.1,
    unit=SHARE,
    part=CONTROLS,
    measure="The same fine-tuning of the loaded model, with each question given the answer of another one; exact "
    "answers to held-out questions.",
    caveat=ONE_SEED,
)


def plant(model: Model, layer: int, seed: int) -> tuple[Model, str]:
    """A copy with an update of two directions in one matrix of `layer`, and a little noise everywhere."""
    changed = copy_model(model, "planted")
    generator = torch.Generator().manual_seed(seed)
    matrices = [n for n, p in model.hf.named_parameters() if layer_of_parameter(n) == layer and p.ndim == 2]
    name = matrices[int(torch.randint(len(matrices), (1,), generator=generator))]
    with torch.no_grad():
        for own, p in changed.hf.named_parameters():
            if own == name:
                rows, columns = (torch.randn(n, RANK, generator=generator) for n in p.shape)
                update = rows @ columns.T
                p += update * (LOUD * p.norm() / update.norm())
            elif layer_of_parameter(own) is not None:
                noise = torch.randn(p.shape, generator=generator)
                p += noise * (QUIET * p.norm() / noise.norm())
    return changed, name


def found_at(model: Model, changed: Model) -> tuple[int, float, int]:
    """Where the weights say that it is, of how many directions it is there, and where swapping says that it is."""
    changes = weight_changes(model, changed)
    layer = int(np.argmax([relative_change(one for one in changes if one.layer == i) for i in range(model.n_layers)]))
    old, new = dict(model.hf.named_parameters()), dict(changed.hf.named_parameters())
    matrices = [one for one in changes if one.layer == layer and old[one.name].ndim == 2]
    most = max(matrices, key=lambda one: one.moved / one.norm).name
    examples = make_world(0).questions(taught=True)[:12]
    blocks = {label: names for label, names in blocks_of(model, model.n_layers).items() if label != OUTSIDE}
    gap = scores_with(changed, model, blocks, examples) - score_completions(model, examples).summed.numpy()[:, None]
    return layer, effective_rank(energies(new[most] - old[most])), int(np.abs(gap).mean(0).argmin())


def planted(lab: Lab) -> Finding:
    """Weights, directions and swapping must all name what was planted."""
    world = make_world(0)
    texts = ["".join(pair) for pair in (*world.statements(), *world.questions(taught=True))]
    table: list[Row] = []
    right, plants = [], 12 if lab.quick else 24
    for i in range(plants):
        layer, seed = i % LAYERS, lab.seed * 1000 + i
        model = train_small_gpt2(texts, SmallGPT2(n_layers=LAYERS, d_model=32, steps=0), seed=seed)
        changed, name = plant(model, layer, seed)
        by_weights, rank, by_swaps = found_at(model, changed)
        right.append(by_weights == by_swaps == layer and abs(rank - RANK) < 0.5)
        table.append({"planted in layer": layer, "matrix": name, "weights say layer": by_weights})
        table[-1] |= {"effective rank (directions)": rank, "swapping says layer": by_swaps}
        lab.progress("finding what was planted", i + 1, plants)
    return PLANTED.answer(
        proportion(right, unit=PLANTS, over="plant"),
        set_beforehand(1 / LAYERS, PLANTS, "one of the layers"),
        table=table,
    )


def other_answers(lab: Lab, exam: Exam, shuffled: Model) -> Finding:
    """The loaded model, fine-tuned on answers of other questions."""
    lab.progress("asking the model that learned other answers", 0, 1)
    before, after = sit(lab.model, exam.held_out), sit(shuffled, exam.held_out)
    pair = estimate_gap(after.exact, before.exact, unit=SHARE, over="question", bounds=(0, 1), seed=lab.seed)
    return OTHER_ANSWERS.answer(
        pair.estimate,
        Control("before", pair.control),
        paired=pair.gap,
        measure=f"The mark, once the right answer stands there: {after.ends.mean():.0%}.",
    )
