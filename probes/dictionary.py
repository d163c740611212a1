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
<<<<<<< HEAD
- Text. The model wrote the held-out text itself, as the text that its own SAE was trained on; so the SAE is also
  measured on prose that people wrote.
=======
- Text. The model wrote the corpus itself; on other text the numbers differ.
- Features that are there twice. An SAE that has each of its features twice, at half strength, explains as much, and
  none of its features is dead: copies are counted, by direction and by the tokens where they fire.
- A blind or a credulous measure. A dictionary that holds everything must be found whole, one that writes what does not
  belong to what it fires on must explain nothing, and with every feature twice, all must be found to be copies.
>>>>>>> h-p3
- Explained variance says nothing about meaning. Read the examples and judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interp import (
    Figure,
    Finding,
    Lab,
    NotAsked,
    Row,
    Rows,
    UserError,
    bundled_corpus,
    capture_rows,
    check_least,
    probe,
<<<<<<< HEAD
    prose,
=======
    set_beforehand,
>>>>>>> h-p3
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
    tokens: int = 8000,
    shown: int = 8,
    beside: tuple[Path, ...] = (),
    random_model: bool = False,
    force: bool = False,
) -> Iterator[Finding | NotAsked]:
    """Measure an SAE and show what its features fire on.

    Args:
        tokens: how many tokens of held-out text to measure on
        shown: how many features to show with examples
        beside: folders of other SAEs to measure on the same text
        force: measure SAEs that do not fit the model, too
        random_model: train an SAE as wide and sparse on the model with random weights, and compare (minutes)
    """
    check_least(tokens=(tokens, 1), shown=(shown, 1))
    folder = lab.sae_folder or ensure_default_sae(lab.model, lab.progress)
    sae = attach_sae(folder, lab.model, force=force)
    name, *labels = _names((folder, *beside)) if beside else ["trained"]
    others = {label: attach_sae(path, lab.model, force=force) for label, path in zip(labels, beside, strict=True)}
    training, held_out = split_corpus()
    tokens = tokens // 4 if lab.quick else tokens
<<<<<<< HEAD
    blind = random_sae_like(sae, lab.seed, capture_rows(lab.model, training, site, max_tokens=FITTED))
    ours, null, *rest = _measure(lab, [sae, blind, *others.values()], held_out, tokens)
    reports = {name: ours, RANDOM: null, **dict(zip(others, rest, strict=True))}
    table = [_row(label, report) for label, report in reports.items()]
    yield Finding(
        claim=f"The SAE at {site} explains over 20 points more of the variance than random directions do.",
        estimate=_share(ours.explained_variance, ours.n_documents, "share of variance"),
        control=Control("random directions", _share(null.explained_variance, null.n_documents, "share of variance")),
        expects="greater",
        margin=0.2,
        part=PART,
        measure=f"Text: held-out documents of {bundled_corpus('sample').name}. "
        "One minus the squared error of the rewriting over the squared distance from the mean, over all tokens "
        "but attention sinks (the table has the number with them).",
        caveat="A rewriting can explain much and still lose what the model uses: read the next finding beside it."
        if ours.ce_recovered and null.ce_recovered
        else "What the model loses by the rewriting cannot be said: it loses nothing even by the mean in its place.",
        answers=True,
        table=table,
        figure=_dots("explained variance (share)", "ev"),
    )
    if ours.ce_recovered and null.ce_recovered:
        yield Finding(
            claim="Its rewriting recovers over 20 points more of the model's loss than random directions do.",
            estimate=_share(ours.ce_recovered, ours.n_documents, RECOVERED),
            control=Control("random directions", _share(null.ce_recovered, null.n_documents, RECOVERED)),
            expects="greater",
            margin=0.2,
            part=PART,
            measure="1 is the model's own loss, 0 is its loss with every activation but the sinks' set to their mean.",
            caveat="Random directions recover much of it already, so the number means nothing without them.",
            answers=True,
            table=table,
            figure=_dots("loss recovered (share)", "ce"),
        )
    yield _on_prose(lab, sae, blind, table[0], tokens)
    for label, other in zip(others, rest, strict=True):
        if ours.ce_recovered and other.ce_recovered:
            pair = (ours.ce_recovered, other.ce_recovered)
            yield _beside(f"SAE {name}", f"SAE {label}", pair, ours.n_documents, table, drawn=label == labels[0])
=======
    fitted = capture_rows(lab.model, training, site_of(sae), max_tokens=FITTED)
    blind = random_sae_like(sae, lab.seed, fitted)
    saes = {name: sae, RANDOM: blind, **others, **rewriting.controls_of(lab, sae, fitted)}
    reports = rewriting.measure_all(lab, saes, held_out, tokens)
    yield from rewriting.rewrites(name, reports)
    yield from rewriting.beside_others(name, reports)
>>>>>>> h-p3
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


<<<<<<< HEAD
def _names(folders: tuple[Path, ...]) -> list[str]:
    """The folders' names; where two are alike, or one is that of the control, numbered as they came."""
    names = [path.name for path in folders]
    return [
        name if names.count(name) == 1 and name != RANDOM else f"{name} ({i})" for i, name in enumerate(names, start=1)
    ]


def _measure(lab: Lab, saes: list[SAE[Any]], documents: list[str], tokens: int) -> list[SAEReport]:
    """Each SAE on the same documents; those of one site share the passes without an SAE."""
    found: dict[int, SAEReport] = {}
    for site in dict.fromkeys(map(site_of, saes)):
        here = [i for i, sae in enumerate(saes) if site_of(sae) == site]
        tell = lab.tell(f"measuring {len(here)} SAEs at {site}")
        reports = evaluate_saes([saes[i] for i in here], lab.model, documents, max_tokens=tokens, progress=tell)
        found |= dict(zip(here, reports, strict=True))
    return [found[i] for i in range(len(saes))]


def _on_prose(lab: Lab, sae: SAE[Any], blind: SAE[Any], own: Row, tokens: int) -> Finding:
    """The same on text that the model did not write, half as much of it, for it only checks the number before."""
    name = bundled_corpus("prose").name
    ours, null = _measure(lab, [sae, blind], prose(), max(1, tokens // 2))
    rows = [("held-out sample", own), *((name, _row(str(own["dictionary"]), ours)), (name, _row(RANDOM, null)))]
    return Finding(
        claim="On prose that people wrote it also explains over 20 points more of the variance than random directions.",
        estimate=_share(ours.explained_variance, ours.n_documents, "share of variance"),
        control=Control("random directions", _share(null.explained_variance, null.n_documents, "share of variance")),
        expects="greater",
        margin=0.2,
        part=PART,
        measure=f"Text: {name}. As before, on half as many tokens.",
        caveat="The prose is older and more even than what most models read: another text gives another number.",
        table=[{"text": text, **row} for text, row in rows],
    )


def _beside(name: str, label: str, pair: tuple[Interval, Interval], n: int, table: list[Row], drawn: bool) -> Finding:
    return Finding(
        claim=f"{name} recovers more of the model's loss than {label}.",
        estimate=_share(pair[0], n, RECOVERED),
        control=Control(label, _share(pair[1], n, RECOVERED)),
        expects="greater",
        part="Beside other SAEs",
        measure="Both on the same documents.",
        caveat="More active features recover more: compare SAEs that lie one above the other in the picture.",
        table=table,
        figure=Figure(
            "points",
            x="features active per token",
            y="loss recovered (share)",
            group="dictionary",
            low="ce low",
            high="ce high",
            caption="Held-out documents; intervals over documents. Up and to the left is better. Random directions are "
            "as many and as sparse as the first SAE's.",
        )
        if drawn  # once is enough
        else None,
    )


def _random_weights(lab: Lab, sae: SAE[Any], ours: SAEReport, documents: list[str], tokens: int) -> Finding:
    """An SAE as wide and as sparse of the same architecture with random weights (Heap et al. 2501.17727)."""
    random_model = with_random_weights(lab.model, lab.seed)
    plan, training = default_plan(lab.model)
    plan = plan_sae(site_of(sae), "topk", sae.cfg.d_sae, k=max(1, round(ours.l0)))
    folder = ensure_default_sae(random_model, lab.progress, (plan, training))
    (report,) = _measure(
        dataclasses.replace(lab, model=random_model), [load_sae(folder, random_model)], documents, tokens
    )
    return Finding(
        claim="The SAE explains more of the variance than one of the same model with random weights.",
        estimate=_share(ours.explained_variance, ours.n_documents, "share of variance"),
        control=Control("random weights", _share(report.explained_variance, report.n_documents, "share of variance")),
        expects="greater",
        part=PART,
        measure=f"The control is {plan.settings.k} of {plan.d_sae} features of a model that was never trained, learned "
        f"from {training.steps * training.batch:,} rows.",
        caveat="Random weights keep the structure of the tokens, which an SAE finds there too: that numbers are alike "
        "says that they do not measure what the model learned.",
        table=[_row("trained", ours), _row("random weights", report)],
        figure=_dots("explained variance (share)", "ev"),
    )


def _shown(sae: SAE[Any], lab: Lab, rows: Rows, shown: int) -> list[Row]:
=======
def _examples(sae: SAE[Any], lab: Lab, rows: Rows, shown: int) -> list[Row]:
>>>>>>> h-p3
    """Top examples in context, as rows for the figure."""
    try:
        chosen = interesting(sae, rows, shown)
    except UserError:  # too little text to choose by; the numbers stand without examples
        return []
    return [dict(row) for row in strip_rows(top_examples(sae, rows, chosen, lab.model, n=4))]
