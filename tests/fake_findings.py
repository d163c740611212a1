"""16 findings in 3 parts as a probe would yield them: every figure kind, labels long enough to hurt."""

from __future__ import annotations

import random

from fake_rows import (
    contexts_rows,
    dictionaries_rows,
    effects_rows,
    groups_rows,
    heads_rows,
    layers_rows,
    lens_rows,
    many_rows,
    matrix_rows,
    patching_rows,
    templates_rows,
    tokens_rows,
    wide_bars_rows,
)

from interp.lab.findings import Control, Estimate, Expects, Figure, Finding, Row


def fake_findings() -> list[Finding]:
    """Sixteen findings over three parts."""
    rng = random.Random(0)
    part = "Does it happen, and how strongly?"
    where = "Where in the model is the answer written?"
    which = "Through which features?"
    return [
        _finding(
            "The model completes facts in the trained direction",
            part,
            (0.93, 0.86, 0.98),
            (0.04, 0.01, 0.09),
            "share of facts",
            "shuffled pairing of names and films",
            table=templates_rows(rng),
            caveat="One template can prove either sign; the spread over templates is the interval.",
            figure=Figure(
                "interval_dots",
                x="exact match (share of facts)",
                y="template",
                group="direction",
                low="low",
                high="high",
                chance=0.05,
                caption="Exact match per template, with 95 % bootstrap intervals.",
            ),
        ),
        _finding(
            "The model is at chance in the reversed direction, although it answers the same facts in the trained one",
            part,
            (0.03, 0.0, 0.08),
            (0.04, 0.01, 0.09),
            "share of facts",
            "shuffled pairing",
            expects="equal",
            margin=0.05,
            table=groups_rows(rng),
            figure=Figure(
                "bars",
                x="group of facts",
                y="exact match (share of facts)",
                group="direction",
                low="low",
                high="high",
                chance=0.05,
                caption="Facts learned in one order, in the other, and in both.",
            ),
        ),
        _finding(
            "The right answer gains log-probability in the trained direction",
            part,
            (4.21, 3.77, 4.68),
            (0.02, -0.31, 0.36),
            "nats",
            "permuted pairings, double-centred",
            margin=0.1,
            table=matrix_rows(rng, 24),
            figure=Figure(
                "matrix",
                x="answer",
                y="prompt",
                z="double-centred log-prob (nats)",
                caption="Each prompt (row) against each answer; the diagonal holds the right pairs.",
            ),
        ),
        _finding(
            "The fact in the context lifts the curse",
            part,
            (0.88, 0.79, 0.95),
            (0.81, 0.7, 0.9),
            "share of facts",
            "the same fact, trained direction",
            expects="equal",
            margin=0.1,
            table=contexts_rows(rng),
            figure=Figure(
                "interval_dots",
                x="exact match (share of facts)",
                y="condition",
                facet="direction",
                low="low",
                high="high",
                caption="With and without the fact in the context window.",
            ),
        ),
        _finding(
            "The answer is written at the last subject token, in the trained direction only",
            where,
            (2.8, 2.2, 3.5),
            (0.12, -0.2, 0.41),
            "nats",
            "patching a random position",
            margin=0.1,
            table=patching_rows(rng, 30),
            caveat="Patching finds where an answer is sufficient, not where it is necessary.",
            figure=Figure(
                "layer_position_map",
                x="position",
                y="layer",
                z="effect (nats)",
                facet="direction",
                caption="Effect of restoring one residual stream, by layer and token position.",
            ),
        ),
        _finding(
            "The subject's representation carries the answer from layer 9 on",
            where,
            (0.61, 0.41, 0.8),
            (0.33, 0.22, 0.45),
            "nats",
            "random names",
            margin=0.1,
            table=layers_rows(rng),
            figure=Figure(
                "lines",
                x="layer",
                y="log-prob gain (nats)",
                group="direction",
                low="low",
                high="high",
                chance=0.0,
                caption="Logit lens at the last subject token; bands are 95 % intervals over facts.",
            ),
        ),
        _finding(
            "Attention heads at the last token move the name",
            where,
            (0.2, -0.1, 0.5),
            (0.1, 0.0, 0.2),
            "nats",
            "heads of the same layers picked at random",
            table=layers_rows(rng, facets=True),
            figure=Figure(
                "lines",
                x="layer",
                y="effect of ablation (nats)",
                group="direction",
                low="low",
                high="high",
                facet="component",
                caption="Mean ablation, per component.",
            ),
        ),
        _finding(
            "MLPs matter less than attention",
            where,
            (1.9, 1.2, 2.6),
            (0.9, 0.5, 1.1),
            "nats",
            "attention at the same layers",
            expects="less",
            table=many_rows(rng),
            figure=Figure(
                "interval_dots",
                x="effect (nats)",
                y="site",
                low="low",
                high="high",
                chance=0.0,
                caption="All sites, ranked.",
            ),
        ),
        _finding(
            "Some heads look at the name",
            where,
            (0.7, 0.6, 0.8),
            (0.1, 0.05, 0.2),
            "share of attention",
            "the same heads, other places",
            margin=0.2,
            table=heads_rows(rng),
            figure=Figure(
                "head_grid",
                x="head",
                y="layer",
                z="score (share of attention)",
                facet="kind",
                caption="Where each head looks.",
            ),
        ),
        _finding(
            "A few heads write the name",
            where,
            (1.9, 1.2, 2.6),
            (0.1, -0.1, 0.3),
            "nats",
            "as many other heads",
            table=effects_rows(rng),
            figure=Figure(
                "effect_bars", x="direct effect (nats)", y="part", low="low", high="high", caption="The largest ones."
            ),
        ),
        _finding(
            "More parameters, lower loss",
            where,
            (0.04, 0.03, 0.05),
            (0.0, -0.01, 0.01),
            "exponent",
            "no law",
            table=[
                {"parameters": 10.0**k, "test loss (nats)": 3 * 10 ** (-0.04 * k), "drawn": name}
                for name in ("measured", "power")
                for k in range(3, 7)
            ],
            figure=Figure("log_lines", x="parameters", y="test loss (nats)", group="drawn", caption="A power law."),
        ),
        _finding(
            "More neurons tell more",
            where,
            (0.2, 0.1, 0.3),
            (0.0, -0.1, 0.1),
            "AUC",
            "one neuron",
            table=[{"how many": 2**k, "AUC": 0.9 - 0.3 / 2**k} for k in range(7)],
            figure=Figure("doubling_lines", x="how many", y="AUC", caption="Each step is twice the last."),
        ),
        _finding(
            "The name is readable early",
            where,
            (1.9, 1.2, 2.6),
            (0.1, -0.1, 0.3),
            "nats",
            "other names",
            table=lens_rows(rng),
            figure=Figure(
                "lens_grid",
                x="token",
                y="layer",
                z="probability",
                group="reads",
                caption="What the logit lens reads at each layer and token.",
            ),
        ),
        _finding(
            "Some feature fires on the trained name and on nothing else",
            which,
            (0.74, 0.6, 0.86),
            (0.5, 0.42, 0.58),
            "AUC",
            "features matched for firing rate",
            table=tokens_rows(rng),
            figure=Figure(
                "token_strip",
                x="token",
                y="example",
                z="activation",
                facet="feature",
                caption="The three features that separate the names best, on their top examples.",
            ),
        ),
        _finding(
            "Ablating that feature removes the answer",
            which,
            (1450.0, 1100.0, 1800.0),
            (90.0, -20.0, 200.0),
            "rank",
            "random features of equal norm",
            table=wide_bars_rows(rng),
            figure=Figure(
                "bars", x="feature", y="change of rank", low="low", high="high", caption="Change of the answer's rank."
            ),
        ),
        _finding(
            "The feature is absent in the reversed direction",
            which,
            (0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0),
            "share of prompts",
            "trained direction",
            expects="less",
            table=[{"note": "no picture", "share": 0.0}],
        ),
        _finding(
            "The dictionary recovers more of the loss than others of its sparsity",
            which,
            (0.96, 0.95, 0.97),
            (0.91, 0.89, 0.93),
            "share of loss recovered",
            "batchtopk-4608-k32-trained-on-the-first-half",
            table=dictionaries_rows(rng),
            figure=Figure(
                "points",
                x="features active per token",
                y="loss recovered (share)",
                group="dictionary",
                low="low",
                high="high",
                caption="Held-out documents. Up and to the left is better.",
            ),
        ),
        _finding(
            "Steering with it brings the name back",
            which,
            (0.31, 0.12, 0.52),
            (0.05, 0.0, 0.11),
            "share of prompts",
            "a random direction of equal norm",
            margin=0.05,
            caveat="Large steps break the text before they help.",
        ),
    ]


def finding_with(table: list[Row], figure: Figure | None, claim: str = "a claim") -> Finding:
    one = Estimate(1.0, 0.5, 1.5, n=3, unit="nats", over="seed")
    return Finding(claim, one, Control("shuffled", one), "greater", table=table, figure=figure)


def _finding(
    claim: str,
    part: str,
    ours: tuple[float, float, float],
    theirs: tuple[float, float, float],
    unit: str,
    control: str,
    *,
    expects: Expects = "greater",
    margin: float = 0.0,
    caveat: str = "",
    table: list[Row] | None = None,
    figure: Figure | None = None,
) -> Finding:
    estimate = Estimate(*ours, n=30, unit=unit, over="fact")
    beside = Control(control, Estimate(*theirs, n=1000, unit=unit, over="permutation"))
    measure = f"The mean in {unit}, over 30 facts."
    return Finding(claim, estimate, beside, expects, margin, part, caveat, table or [], figure, measure=measure)
