"""A finding's intervals on one scale, as a small SVG: measurement, control, gap, and the line that decides."""

from __future__ import annotations

import math
from typing import NamedTuple

from markupsafe import Markup

from interp.lab.findings import Estimate, Finding
from interp.views.style import GRID, MUTED
from interp.views.wording import amount

_MEASURED, _CONTROL = "#0b5c8a", "#6e7781"


class _Scale(NamedTuple):
    low: float
    high: float
    width: int

    def at(self, value: float) -> float:
        return round(10 + (value - self.low) / (self.high - self.low) * (self.width - 20), 1)


def decision_lines(finding: Finding) -> list[float]:
    """Where the verdict turns: what the whole thin interval must lie above, below or between."""
    control = finding.control.estimate.mean
    below, above = control - finding.margin, control + finding.margin
    return {"equal": [below, above], "greater": [above], "less": [below]}[finding.expects]


def small_strip(finding: Finding) -> Markup:
    """The strip without numbers, for a table row."""
    return _strip(finding, width=170, gap=12, ticks=False)


def strip(finding: Finding) -> Markup:
    """The strip with its scale."""
    return _strip(finding, width=340, gap=26, ticks=True)


def _strip(finding: Finding, width: int, gap: int, ticks: bool) -> Markup:
    ours, theirs, turns = finding.estimate, finding.control.estimate, decision_lines(finding)
    # The gap's interval, drawn from the control's mean: the estimate's own with the control's uncertainty added.
    gap_low, gap_high = (theirs.mean + end for end in (finding.gap.low, finding.gap.high))
    ends = [gap_low, gap_high, theirs.low, theirs.high, ours.low, ours.high, ours.mean, theirs.mean, *turns]
    pad = (max(ends) - min(ends)) * 0.08 or abs(ours.mean) * 0.1 or 1.0
    scale = _Scale(min(ends) - pad, max(ends) + pad, width)
    top, floor = gap / 2 + 4, gap * 2 + 8
    parts = [_axis(scale, floor) if ticks else Markup("")]
    parts += [
        Markup('<line x1="{0}" x2="{0}" y1="2" y2="{1}" stroke="{2}" stroke-dasharray="3 3"/>').format(
            scale.at(turn), floor, MUTED
        )
        for turn in turns
    ]
    parts += [
        Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" stroke="{3}" stroke-width="1"/>').format(
            scale.at(gap_low), scale.at(gap_high), top, _MEASURED
        ),
        _interval(ours, scale, top, _MEASURED, round_=True),
        _interval(theirs, scale, top + gap, _CONTROL, round_=False),
    ]
    return Markup(
        '<svg class="intervals" width="{0}" height="{1}" viewBox="0 0 {0} {1}" aria-hidden="true">{2}</svg>'
    ).format(width, floor + (24 if ticks else 0), Markup("").join(parts))


def _interval(estimate: Estimate, scale: _Scale, y: float, colour: str, round_: bool) -> Markup:
    mark = '<circle cx="{x}" cy="{y}" r="5" fill="{c}"/>'
    if not round_:
        mark = '<rect x="{left}" y="{top}" width="9" height="9" fill="{c}"/>'
    x = scale.at(estimate.mean)
    return Markup('<line x1="{a}" x2="{b}" y1="{y}" y2="{y}" stroke="{c}" stroke-width="3"/>' + mark).format(
        a=scale.at(estimate.low), b=scale.at(estimate.high), x=x, y=y, c=colour, left=x - 4.5, top=y - 4.5
    )


def _axis(scale: _Scale, y: float) -> Markup:
    step = 10 ** math.floor(math.log10((scale.high - scale.low) / 2))
    step = next(step * k for k in (1, 2, 5, 10) if (scale.high - scale.low) / (step * k) <= 5)
    decimals = max(0, -math.floor(math.log10(step)))
    first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
    line = Markup('<line x1="0" x2="{}" y1="{y}" y2="{y}" stroke="{}"/>').format(scale.width, GRID, y=y)
    label = Markup(
        '<line x1="{x}" x2="{x}" y1="{y}" y2="{end}" stroke="{c}"/>'
        '<text x="{x}" y="{text}" font-size="13" text-anchor="middle" fill="{c}">{label}</text>'
    )
    return line + Markup("").join(
        label.format(x=scale.at(i * step), y=y, end=y + 5, text=y + 20, c=MUTED, label=amount(i * step, decimals))
        for i in range(first, last + 1)
    )
