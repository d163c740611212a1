"""What did the sparse autoencoder learn?

Paper: Gao et al. 2024, arXiv:2406.04093 (TopK autoencoders); Bricken et al. 2023, "Towards Monosemanticity".

Question. A sparse autoencoder (SAE) rewrites an activation as a sum of a few directions out of thousands. If the
directions mean something, the rewritten activation can stand in for the real one, and each direction fires on text that
has something in common. Does it, and more than directions drawn at random would?

What counts as yes. On text that was not used for training:

- it explains more of the activations' variance than an SAE of the same shape with random directions, by 20 points;
- with the activations replaced by their rewriting, the model's loss comes 20 points closer to its own than with theirs;
- at most one feature in ten never fires;
- under one firing in ten is of a feature that has a copy in the dictionary (a direction with a cosine of 0.9);
- a feature shares under half of its tokens with the feature that fires with it most.

What could fool us:

- Attention sinks. The first position holds a vector a hundred times longer than the rest and would drown every number.
  Sinks are left out, in training and here.
- Random directions overshoot: the sum of many that overlap is too long. One gain is fitted to them on training text.
- Loss recovered. Random directions recover much of it as well, so the number means nothing without them beside it.
- Text. The model wrote the held-out text itself, as the text that its own SAE was trained on; so the SAE is also
  measured on prose that people wrote.
- Features that are there twice. An SAE that has each of its features twice, at half strength, explains as much, and
  none of its features is dead: copies are counted, by direction and by the tokens where they fire.
- A blind or a credulous measure. A dictionary that holds everything must be found whole, one that writes what does not
  belong to what it fires on must explain nothing, and with every feature twice, all must be found to be copies.
- Explained variance says nothing about meaning. Read the examples and judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from interp import (
    Figure,
    Finding,
    Lab,
    Least,
    NotAsked,
    Row,
    Rows,
    UserError,
    capture_rows,
    probe,
    set_beforehand,
    split_corpus,
)
from interp.features import interesting, strip_rows, top_examples
from interp.saes import SAE, attach_sae, ensure_default_sae, random_sae_like, site_of

from ._dictionary import FEATURE_SHARE, RANDOM, firings, redundancy, rewriting

FIRINGS = 40  # of a feature, on average, before it is said to be dead
FITTED = 2000  # tokens of training text for the one number that is fitted to random directions
CLAIMS = [
    rewriting.EXPLAINS,
    rewriting.RECOVERS,
    rewriting.ON_PROSE,
    rewriting.MORE,
    rewriting.UNTRAINED,
    firings.ALIVE,
    redundancy.OWN_DIRECTIONS,
    redundancy.OWN_TOKENS,
    rewriting.WHOLE_VARIANCE,
    rewriting.WHOLE_LOSS,
    rewriting.NOTHING,
    redundancy.COPIES_FOUND,
    redundancy.PARTNERS_FOUND,
]


@probe(paper="arXiv:2406.04093", claims=CLAIMS)
def dictionary(
    lab: Lab,
    *,
    tokens: Annotated[int, Least(400)] = 6000,
    shown: Annotated[int, Least(1)] = 8,
    beside: tuple[Path, ...] = (),
    random_model: bool = False,
    force: bool = False,
) -> Iterator[Finding | NotAsked]:
    """Measure an SAE and show what its features fire on.

    Args:
        tokens: how many tokens of held-out text to measure on, 400 or more; a quarter of them with --quick
        shown: how many features to show with examples
        beside: folders of other SAEs to measure on the same text
        force: measure SAEs that do not fit the model, too
        random_model: train an SAE as wide and sparse on the model with random weights, and compare (minutes)
    """
    folder = lab.sae_folder or ensure_default_sae(lab.model, lab.progress)
    sae = attach_sae(folder, lab.model, force=force)
    name, *labels = _names((folder, *beside)) if beside else ["trained"]
    others = {label: attach_sae(path, lab.model, force=force) for label, path in zip(labels, beside, strict=True)}
    training, held_out = split_corpus()
    tokens = max(1, tokens // 4) if lab.quick else tokens
    fitted = capture_rows(lab.model, training, site_of(sae), max_tokens=FITTED)
    blind = random_sae_like(sae, lab.seed, fitted)
    saes = {name: sae, RANDOM: blind, **others, **rewriting.controls_of(lab, sae, fitted)}
    reports = rewriting.measure_all(lab, saes, held_out, tokens, silent=(rewriting.DEALT,))
    yield from rewriting.rewrites(name, reports)
    yield rewriting.on_prose(lab, name, saes, reports, tokens)
    yield from rewriting.beside_others(name, reports)
    if random_model:
        yield rewriting.untrained(lab, sae, reports[name], held_out, tokens)
    else:
        yield rewriting.UNTRAINED.not_asked("because it takes minutes to train one: --random-model asks it")
    enough = max(tokens, round(FIRINGS * sae.cfg.d_sae / max(reports[name].l0, 1.0)))
    rows = capture_rows(lab.model, held_out, site_of(sae), max_tokens=enough)
    fires = firings.firings_of(sae, rows)
    yield _alive(lab, sae, rows, fires, shown)
    yield from redundancy.redundancy(lab, fires, blind.W_dec.detach().float().cpu())
    yield from rewriting.controls(reports)
    yield from redundancy.redundancy_found(lab, fires)


def _names(folders: tuple[Path, ...]) -> list[str]:
    """The folders' names; where two are alike, or one is that of a control, numbered as they came."""
    names, taken = [path.name for path in folders], (RANDOM, rewriting.ALL, rewriting.DEALT)
    return [
        name if names.count(name) == 1 and name not in taken else f"{name} ({i})"
        for i, name in enumerate(names, start=1)
    ]


def _alive(lab: Lab, sae: SAE[Any], rows: Rows, fires: firings.Firings, shown: int) -> Finding:
    """How many features fire, and what some of them fire on."""
    examples = _examples(sae, lab, rows, shown)
    return firings.ALIVE.answer(
        firings.never_fire(fires, lab.seed),
        set_beforehand(firings.FEW, FEATURE_SHARE, "a limit set beforehand"),
        about={"tokens": f"{len(rows.clean):,}"},
        measure=f"{sae.cfg.d_sae:,} features, and enough tokens for {FIRINGS} firings of each on average where the "
        "text lasts.",
        table=examples,
        figure=Figure(
            "token_strip",
            x="token",
            y="example",
            z="activation",
            facet="feature",
            caption="Features firing on 0.1 to 5 % of tokens, most strongly active first: their strongest tokens.",
        )
        if examples
        else None,
    )


def _examples(sae: SAE[Any], lab: Lab, rows: Rows, shown: int) -> list[Row]:
    """Top examples in context, as rows for the figure."""
    try:
        chosen = interesting(sae, rows, shown)
    except UserError:  # too little text to choose by; the numbers stand without examples
        return []
    return [dict(row) for row in strip_rows(top_examples(sae, rows, chosen, lab.model, n=4))]
