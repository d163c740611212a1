"""How much of the activations, and of the model's loss, is left when an SAE's rewriting stands in for them."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import torch

from interp import (
    Claim,
    Control,
    Estimate,
    Figure,
    Finding,
    Lab,
    NotAsked,
    Row,
    Rows,
    bundled_corpus,
    prose,
    set_beforehand,
    text_read,
    with_random_weights,
)
from interp.saes import (
    SAE,
    SAEReport,
    coordinates_as_sae,
    default_plan,
    ensure_default_sae,
    evaluate_saes,
    load_sae,
    paired_gap,
    plan_sae,
    site_of,
)
from interp.stats import Interval

from . import BESIDE, CONTROLS, RANDOM, RECOVERED, REWRITES, VARIANCE

WORTH, WHOLE = 0.2, 0.99  # shares
ALL, DEALT = "all coordinates", "directions dealt to other features"
NO_SCALE = "because the model loses nothing even with every activation but the sinks' at its mean: there is no scale"

EXPLAINS = Claim(
    "The SAE at {site} explains over 20 points more of the variance than random directions do.",
    expects="greater",
    margin=WORTH,
    unit=VARIANCE,
    part=REWRITES,
    answers=True,
    measure="One minus the squared error of the rewriting over the squared distance from the mean, over all tokens but "
    "attention sinks (the table has the number with them).",
    caveat="A rewriting can explain much and still lose what the model uses: read the next claim beside it.",
    subject="SAE",
)
RECOVERS = Claim(
    "Its rewriting recovers over 20 points more of the model's loss than random directions do.",
    expects="greater",
    margin=WORTH,
    unit=RECOVERED,
    part=REWRITES,
    answers=True,
    measure="1 is the model's own loss, 0 is its loss with every activation but the sinks' set to their mean.",
    caveat="Random directions recover much of it already, so the number means nothing without them.",
    subject="SAE",
)
ON_PROSE = Claim(
    "On prose that people wrote it also explains over 20 points more of the variance than random directions.",
    expects="greater",
    margin=WORTH,
    unit=VARIANCE,
    part=REWRITES,
    measure="As before, on half as many tokens of another text.",
    caveat="The prose is older and more even than what most models read: another text gives another number.",
    subject="SAE",
)
UNTRAINED = Claim(
    "The SAE explains more of the variance than one of the same model with random weights.",
    expects="greater",
    unit=VARIANCE,
    part=REWRITES,
    caveat="Random weights keep the structure of the tokens, which an SAE finds there too: that numbers are alike says "
    "that they do not measure what the model learned.",
    subject="SAE",
)
MORE = Claim(
    "{name} recovers more of the model's loss than {other}.",
    expects="greater",
    unit=RECOVERED,
    part=BESIDE,
    measure="Both on the same documents.",
    caveat="More active features recover more: compare SAEs that lie one above the other in the picture.",
    subject="SAE",
)
WHOLE_VARIANCE = Claim(
    "Positive control: all coordinates together, a feature upwards and one downwards each, explain all variance.",
    expects="greater",
    unit=VARIANCE,
    part=CONTROLS,
    measure="A dictionary that is known to hold everything, measured as the SAE is.",
    subject="SAE",
)
WHOLE_LOSS = Claim(
    "Positive control: and with them in the activations' place, the model has its own loss.",
    expects="greater",
    unit=RECOVERED,
    part=CONTROLS,
    subject="SAE",
)
NOTHING = Claim(
    "Negative control: with its directions dealt to other features, the SAE explains no more than random directions.",
    expects="less",
    unit=VARIANCE,
    part=CONTROLS,
    measure="The same features fire as strongly, and write directions that have nothing to do with what they fire on.",
    subject="SAE",
)


def controls_of(lab: Lab, sae: SAE[Any], rows: Rows) -> dict[str, SAE[Any]]:
    """A dictionary that holds everything, and one that fires as this one does and writes what does not belong to it."""
    everything = coordinates_as_sae(lab.model, site_of(sae), rows.clean, rows.values.shape[1])
    dealt = copy.deepcopy(sae)
    with torch.no_grad():
        order = torch.randperm(sae.cfg.d_sae, generator=torch.Generator().manual_seed(lab.seed)).to(sae.device)
        dealt.W_dec[order] = sae.W_dec[order.roll(1)]  # round a circle: none keeps its own
    return {ALL: everything, DEALT: dealt}


def measure_all(
    lab: Lab, saes: Mapping[str, SAE[Any]], documents: list[str], tokens: int, *, silent: Collection[str] = ()
) -> dict[str, SAEReport]:
    """Each SAE on the same documents; those of one site share the passes without an SAE.

    `silent`: those that nothing asks the model's loss of.
    """
    reports: dict[str, SAEReport] = {}
    for site in dict.fromkeys(map(site_of, saes.values())):
        here = {name: sae for name, sae in saes.items() if site_of(sae) == site}
        tell = lab.tell(f"measuring {len(here)} SAEs at {site}")
        losses = [name not in silent for name in here]
        measured_here = evaluate_saes(
            list(here.values()), lab.model, documents, max_tokens=tokens, progress=tell, losses=losses
        )
        reports |= dict(zip(here, measured_here, strict=True))
    return reports


def rewrites(name: str, reports: Mapping[str, SAEReport]) -> Iterator[Finding | NotAsked]:
    """The SAE, and the others, beside random directions."""
    shown = {label: report for label, report in reports.items() if label not in (ALL, DEALT)}
    table, sae, random = [row_of(*one) for one in shown.items()], reports[name], reports[RANDOM]
    yield EXPLAINS.answer(
        share(sae, sae.explained_variance, VARIANCE),
        Control(RANDOM, share(random, random.explained_variance, VARIANCE)),
        paired=gap(sae, random, "explained_variance", VARIANCE),
        about={"site": sae.site},
        measure=f"Text: held-out documents of {bundled_corpus('sample').name}.",
        table=table,
        figure=_dots("explained variance (share)", "ev"),
    )
    if sae.ce_recovered and random.ce_recovered:
        yield RECOVERS.answer(
            share(sae, sae.ce_recovered, RECOVERED),
            Control(RANDOM, share(random, random.ce_recovered, RECOVERED)),
            paired=gap(sae, random, "ce_recovered", RECOVERED),
            table=table,
            figure=_dots("loss recovered (share)", "ce"),
        )
    else:
        yield RECOVERS.not_asked(NO_SCALE)


def on_prose(
    lab: Lab, name: str, saes: Mapping[str, SAE[Any]], reports: Mapping[str, SAEReport], tokens: int
) -> Finding:
    """The same on text that the model did not write, half as much of it, for it only checks the number before."""
    text = bundled_corpus("prose").name
    asked = {label: saes[label] for label in (name, RANDOM)}
    here = measure_all(lab, asked, prose(), max(1, tokens // 2), silent=asked)
    sae, random = here[name], here[RANDOM]
    rows = [("held-out sample", row_of(name, reports[name])), *((text, row_of(*one)) for one in here.items())]
    return ON_PROSE.answer(
        share(sae, sae.explained_variance, VARIANCE),
        Control(RANDOM, share(random, random.explained_variance, VARIANCE)),
        paired=gap(sae, random, "explained_variance", VARIANCE),
        measure=f"Text: {text_read()}.",
        table=[{"text": which, **row} for which, row in rows],
    )


def beside_others(name: str, reports: Mapping[str, SAEReport]) -> Iterator[Finding | NotAsked]:
    """The SAE beside each of the others that were asked for."""
    shown = {label: report for label, report in reports.items() if label not in (ALL, DEALT)}
    others = [label for label in shown if label not in (name, RANDOM)]
    table, sae = [row_of(*one) for one in shown.items()], reports[name]
    if not others:
        yield MORE.not_asked("because no other came: --beside FOLDER", about={"name": "The SAE", "other": "another"})
    for label in others:
        about, other = {"name": f"SAE {name}", "other": f"SAE {label}"}, reports[label]
        if not (sae.ce_recovered and other.ce_recovered):
            yield MORE.not_asked(NO_SCALE, about=about)
            continue
        yield MORE.answer(
            share(sae, sae.ce_recovered, RECOVERED),
            Control(label, share(other, other.ce_recovered, RECOVERED)),
            paired=gap(sae, other, "ce_recovered", RECOVERED),
            about=about,
            table=table,
            figure=Figure(
                "points",
                x="features active per token",
                y="loss recovered (share)",
                group="dictionary",
                low="ce low",
                high="ce high",
                caption="Held-out documents; intervals over documents. Up and to the left is better. Random directions "
                "are as many and as sparse as the first SAE's.",
            )
            if label == others[0]  # once is enough
            else None,
        )


def untrained(lab: Lab, sae: SAE[Any], report: SAEReport, documents: list[str], tokens: int) -> Finding:
    """An SAE as wide and as sparse of the same architecture with random weights (Heap et al. 2501.17727)."""
    model = with_random_weights(lab.model, lab.seed)
    plan, training = default_plan(lab.model)
    plan = plan_sae(site_of(sae), "topk", sae.cfg.d_sae, k=max(1, round(report.l0)))
    folder = ensure_default_sae(model, lab.progress, (plan, training))
    saes = {"random weights": load_sae(folder, model)}
    random = measure_all(dataclasses.replace(lab, model=model), saes, documents, tokens)["random weights"]
    return UNTRAINED.answer(
        share(report, report.explained_variance, VARIANCE),
        Control("random weights", share(random, random.explained_variance, VARIANCE)),
        measure=f"The control is {plan.settings.k} of {plan.d_sae} features of a model that was never trained, learned "
        f"from {training.steps * training.batch:,} rows.",
        table=[row_of("trained", report), row_of("random weights", random)],
        figure=_dots("explained variance (share)", "ev"),
    )


def controls(reports: Mapping[str, SAEReport]) -> Iterator[Finding | NotAsked]:
    """What is whole is found to be whole, and what does not belong to what it fires on explains nothing."""
    everything, dealt, random = reports[ALL], reports[DEALT], reports[RANDOM]
    nearly = "nearly all"
    yield WHOLE_VARIANCE.answer(
        share(everything, everything.explained_variance, VARIANCE), set_beforehand(WHOLE, VARIANCE, nearly)
    )
    if everything.ce_recovered:
        yield WHOLE_LOSS.answer(
            share(everything, everything.ce_recovered, RECOVERED), set_beforehand(WHOLE, RECOVERED, nearly)
        )
    else:
        yield WHOLE_LOSS.not_asked(NO_SCALE)
    yield NOTHING.answer(
        share(dealt, dealt.explained_variance, VARIANCE),
        Control(RANDOM, share(random, random.explained_variance, VARIANCE)),
        paired=gap(dealt, random, "explained_variance", VARIANCE),
        table=[row_of(name, reports[name]) for name in (ALL, DEALT, RANDOM)],
    )


def share(report: SAEReport, interval: Interval, unit: str) -> Estimate:
    """A number of a report, over its documents."""
    return Estimate(interval.mean, interval.low, interval.high, report.n_documents, unit, "document")


def gap(
    report: SAEReport, other: SAEReport, of: Literal["explained_variance", "ce_recovered"], unit: str
) -> Estimate | None:
    """One less the other, over the documents of both; None where those differ."""
    interval = paired_gap(report, other, of)
    return None if interval is None else share(report, interval, unit)


def row_of(name: str, report: SAEReport) -> Row:
    """Everything that was measured of one dictionary."""
    variance, recovered = report.explained_variance, report.ce_recovered
    return {
        "dictionary": name,
        "explained variance (share)": variance.mean,
        "ev low": variance.low,
        "ev high": variance.high,
        "with sinks (share)": report.explained_variance_with_sinks,
        "loss recovered (share)": recovered.mean if recovered else None,
        "ce low": recovered.low if recovered else None,
        "ce high": recovered.high if recovered else None,
        "loss, model itself (nats)": _asked(report.ce_clean),
        "loss, rewritten (nats)": _asked(report.ce_reconstruction),
        "loss, mean instead (nats)": _asked(report.ce_mean_ablation),
        "loss, zero instead (nats)": _asked(report.ce_zero_ablation),
        "features active per token": report.l0,
        "never fire (share)": report.dead_share,
        "tokens": report.n_tokens,
        "sinks left out": report.n_sinks,
    }


def _asked(loss: float) -> float | None:
    """None for a loss that was not asked for."""
    return None if math.isnan(loss) else loss


def _dots(x: str, prefix: str) -> Figure:
    return Figure(
        "interval_dots",
        x=x,
        y="dictionary",
        low=f"{prefix} low",
        high=f"{prefix} high",
        caption="Held-out documents; intervals over documents.",
    )
