"""What a probe yields: a claim, the number measured for it, the control beside it, and the rule that decides.

No torch here: reports are rebuilt from these on machines that have none.

A verdict is computed, never written by hand. `expects` and `margin` are fixed in the probe's source before anything
runs. What decides is the interval of the *gap*, estimate minus control (`Finding.gap`):

- `greater`: yes when the whole interval of the gap lies above `margin`; no when it lies at or below it, so that a
  larger effect is ruled out; else unclear. `less` is the mirror image.
- `equal`: yes when the whole interval lies within `margin` of zero (an equivalence test: a wide interval is never a
  yes); no when it lies wholly outside; else unclear.
- Where the control is a null (permutations), a yes to `greater` or `less` also needs an estimate beyond the null's
  range: one more permutation reaches it in 2.5 % of studies or fewer (`interp.stats.null_of`).
- An estimate or control from a single unit has no interval, and one from units that are all alike (with nothing that
  bounds them) shows none: always unclear.

A margin is a choice, and few are argued for. So beside each verdict stand those that half and twice the margin would
have given (`Finding.other_margins`): a yes that twice the margin keeps does not hang on it.

Where estimate and control are of the same units, or parts of one whole, the gap is the mean of the differences unit by
unit, and its own interval decides: `paired`, as `interp.stats.estimate_gap` gives it.

So a false yes, and a false no, come in about 2.5 % of claims, each taken by itself, however noisy the control is, where
the intervals hold what they promise. A run has many claims: of 32 that do not hold, one or more says yes in 56 % of
runs. `interp.lab.summary` counts that, and says which claims stand when all that answer are taken together. The
intervals hold less for what few units cannot show (`interp/stats/README.md` has the figures): if one seed in five is
unlike the others, five seeds miss it in a third of all studies.

A table may hold what could not be measured: NaN is stored as null and shown as a gap. An infinite value is stored as
null too, and the caveat says where it stood, so that no finding is lost for one cell.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import hypot
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args

from interp.errors import UserError
from interp.stats.estimate import HUGE, Estimate

__all__ = [
    "Control",
    "Estimate",
    "Expects",
    "Figure",
    "Finding",
    "Row",
    "Scalar",
    "Verdict",
    "finding_from_json",
    "finding_to_json",
    "plain_scalar",
    "storable",
]

Scalar = str | int | float | bool | None
Row = dict[str, Scalar]
Expects = Literal["greater", "less", "equal"]
Verdict = Literal["yes", "no", "unclear"]
LEVEL = 0.95  # of every interval that decides
EDGE = 1e-9  # relative: nearer to a margin counts as on it, for a sum of two tenths is not three tenths
T = TypeVar("T")


@dataclass(frozen=True)
class Control:
    """The number that the estimate must beat (or match) to mean anything, and what it is, in words."""

    name: str
    estimate: Estimate


@dataclass(frozen=True)
class Figure:
    """Names a picture kind of `interp.views` and the columns of the finding's table that it reads."""

    kind: str
    x: str
    y: str
    z: str | None = None
    group: str | None = None
    low: str | None = None
    high: str | None = None
    facet: str | None = None
    chance: float | None = None
    caption: str = ""
    chance_is: str = "chance"  # what stands beside the dashed line


@dataclass(frozen=True)
class Finding:
    """One claim of a probe with its evidence.

    `claim` says what a yes would mean, `measure` what the number is, `caveat` what could still fool us. `part` groups
    findings in the report. `table` holds the rows behind the number; `figure` names the picture that shows them.
    `paired`: estimate minus control, unit by unit, where both are of the same units (`interp.stats.estimate_gap`).
    `answers`: is this one of the few claims that answer the probe's question? The report opens with them.
    """

    claim: str
    estimate: Estimate
    control: Control
    expects: Expects
    margin: float = 0.0
    part: str = ""
    caveat: str = ""
    table: list[Row] = field(default_factory=list)
    figure: Figure | None = None
    answers: bool = False
    measure: str = ""
    paired: Estimate | None = None
    declared: str = ""  # the text of the `Claim` that it answers; "" in a probe that declares none
    arithmetic: bool = False  # holds by construction, whatever the model knows

    def __post_init__(self) -> None:
        if self.expects not in get_args(Expects):
            raise ValueError(f"expects must be one of {get_args(Expects)}, got {self.expects!r}")
        if self.estimate.unit != self.control.estimate.unit:
            raise ValueError(
                f"estimate is in {self.estimate.unit!r}, its control in {self.control.estimate.unit!r}: not comparable"
            )
        if wrong := [e.level for e in (self.estimate, self.control.estimate, self.paired) if e and e.level != LEVEL]:
            raise ValueError(
                f"an interval of {wrong[0]:.4g} came; expected {LEVEL:.0%} of all: else no verdict is one in 40"
            )
        if not 0 <= self.margin < HUGE:
            raise ValueError(f"margin must be 0 or more, got {self.margin}")
        if self.expects == "equal" and self.margin <= 0:
            raise ValueError("expects='equal' needs a margin above 0: how far apart still counts as equal")
        if self.paired is not None:
            _check_paired(self.paired, self.estimate, self.control.estimate)

    @property
    def gap(self) -> Estimate:
        """Estimate minus control, with its interval.

        Of the same units, it is `paired`. Else a number known beforehand, and the mean of a null, add no uncertainty,
        and a measured control adds its own as if it were independent (Newcombe 1998, method 10). The same units in both
        then make the interval too wide where they go up and down together, and too narrow in parts of one whole.
        """
        if self.paired is not None:
            return self.paired
        measured, control = self.estimate, self.control.estimate
        mean = measured.mean - control.mean
        below, above = measured.mean - measured.low, measured.high - measured.mean
        n, over, df = measured.n, measured.over, measured.df
        if not (control.is_known or control.is_null):
            below, above = hypot(below, control.high - control.mean), hypot(above, control.mean - control.low)
            counted = [one for one in (measured, control) if not one.is_known]
            n, over = min((one.n, one.over) for one in counted)
            df = min(one.freedom for one in counted)  # the sum of the two widens no faster than the one of fewer
        alike = measured.alike or (control.alike and not control.is_null)
        return Estimate(mean, mean - below, mean + above, n, measured.unit, over, measured.level, alike, df)

    @property
    def undecided(self) -> str:
        """Why no verdict can be had, whatever came; empty where one can."""
        decide = [self.paired] if self.paired is not None else [self.estimate, self.control.estimate]
        for one in decide:
            if one.n == 1:
                return f"a single {one.over} gives no interval"
            if one.alike:
                return f"{one.counted}, all alike, show no spread, and nothing bounds them"
        return ""

    @property
    def verdict(self) -> Verdict:
        """yes, no or unclear, by the rule in this module's docstring."""
        return self.verdict_at(self.margin)

    @property
    def other_margins(self) -> str:
        """The verdict at half and at twice the margin, which is a choice; empty where it cannot change anything."""
        if not self.margin or self.undecided:
            return ""
        half, twice = (self.verdict_at(self.margin * factor) for factor in (0.5, 2.0))
        return f"at half the margin: {half}; at twice: {twice}"

    def verdict_at(self, margin: float) -> Verdict:
        """The verdict that another margin would have given."""
        measured, control, gap = self.estimate, self.control.estimate, self.gap
        if self.undecided:
            return "unclear"
        beyond, rounding = True, EDGE * max(abs(measured.mean), abs(control.mean))  # a null can hold the estimate
        if self.expects == "greater":
            yes, no = gap.low > margin + rounding, gap.high <= margin + rounding
            beyond = not control.is_null or measured.mean > control.high + rounding
        elif self.expects == "less":
            yes, no = gap.high < -margin - rounding, gap.low >= -margin - rounding
            beyond = not control.is_null or measured.mean < control.low - rounding
        else:
            yes = -margin - rounding <= gap.low and gap.high <= margin + rounding
            no = gap.low > margin + rounding or gap.high < -margin - rounding
        return "yes" if yes and beyond else "no" if no else "unclear"

    @property
    def rule(self) -> str:
        """The verdict rule in words, for the report."""
        if self.undecided:
            return f"unclear, whatever came: {self.undecided}"
        gap = "gap" if self.paired is None else f"paired gap ({self.paired.over} by {self.paired.over})"
        return rule_in_words(self.expects, self.margin, self.estimate.unit, self.control.estimate.is_null, gap)


def rule_in_words(expects: Expects, margin: float, unit: str, null: bool = False, gap: str = "gap") -> str:
    """When the verdict is yes, no and unclear; `null`: the control is the range of a number under chance."""
    if expects == "equal":
        return (
            f"yes if the whole interval of the {gap} stays within {margin:g} {unit} of zero; no if it lies wholly "
            "outside; else unclear"
        )
    above, below = ("above", "below") if expects == "greater" else ("below", "above")
    size = margin if expects == "greater" else -margin
    line = f"{size:g} {unit}".replace("-", "−") if margin else "zero"
    beyond = f" and the estimate {above} the null's range" if null else ""
    yes = f"yes if the whole interval of the {gap} lies {above} {line}{beyond}"
    return f"{yes}; no if it lies wholly at or {below} {line}; else unclear"


def _check_paired(paired: Estimate, measured: Estimate, control: Estimate) -> None:
    """Raises ValueError where a paired gap is not the gap of these two."""
    if paired.unit != measured.unit:
        raise ValueError(f"the paired gap is in {paired.unit!r}, its estimate in {measured.unit!r}: not comparable")
    if control.is_known or control.is_null:
        raise ValueError(
            f"a paired gap needs a control measured on the same units; the control is {control}; leave `paired` out"
        )
    apart = measured.mean - control.mean
    if abs(paired.mean - apart) > 1e-6 * max(abs(measured.mean), abs(control.mean), 1e-9):
        raise ValueError(
            f"the paired gap is {paired.mean:g}, but the estimate less its control {apart:g}; give `paired` the gap of "
            "these two, as interp.stats.estimate_gap returns it"
        )


def storable(finding: Finding) -> Finding:
    """`finding` with a table and a figure that JSON can hold: NaN and infinite values become None, which is a gap.

    Where an infinite value stood is added to the caveat. Scalars of numpy and torch become Python's.
    Raises UserError, with row and column, for a cell that is no scalar.
    """
    infinite: list[str] = []
    table: list[Row] = []
    for number, row in enumerate(finding.table):
        if not isinstance(row, Mapping):
            raise UserError(
                f"the table of {finding.claim!r}: row {number} is {shown(row)}; expected a dict {{column: value}}"
            )
        table.append({})
        for column, cell in row.items():
            try:
                value = plain_scalar(cell)
            except TypeError:
                raise UserError(
                    f"the table of {finding.claim!r}: row {number}, column {column!r} is {shown(cell)}; expected text, "
                    "a number, True, False or None"
                ) from None
            if isinstance(value, float) and math.isinf(value):
                infinite.append(f"row {number}, column {column!r} ({value})")
            table[-1][str(column)] = None if isinstance(value, float) and not math.isfinite(value) else value
    told = ""
    if infinite:
        more = f" and {len(infinite) - 3} more" if len(infinite) > 3 else ""
        told = f"Infinite, and left out of the table (rows counted from 0): {'; '.join(infinite[:3])}{more}."
    figure = finding.figure
    if figure is not None and figure.chance is not None and not math.isfinite(figure.chance):
        figure = replace(figure, chance=None)
    return replace(finding, table=table, figure=figure, caveat=" ".join(filter(None, [finding.caveat, told])))


def plain_scalar(value: object) -> Scalar:
    """A cell as Python's own str, int, float, bool or None. Raises TypeError for what is no scalar."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Real):  # a scalar of numpy is one, too
        return int(value) if isinstance(value, Integral) else float(value)
    try:
        item = value.item()  # type: ignore[attr-defined]  # of torch, or numpy's bool
    except (AttributeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{shown(value)} is no scalar") from error
    if item is not None and not isinstance(item, str | bool | int | float):
        raise TypeError(f"{shown(value)} is no scalar")
    return item


def shown(value: object) -> str:
    """Any value for an error message, cut short: `the tuple (1, 2)`."""
    text = " ".join(repr(value).split())
    return f"the {type(value).__name__} {text if len(text) <= 60 else text[:60] + '…'}"


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """A JSON-ready dict, verdict and rule included so that a reader needs no Python. The table is not in it."""
    out = {k: v for k, v in asdict(finding).items() if k != "table"}
    ruled = {name: getattr(finding, name) for name in ("verdict", "rule", "other_margins")}
    return {**out, "gap": asdict(finding.gap), **ruled}


def finding_from_json(record: dict[str, Any], table: list[Row]) -> Finding:
    """Inverse of `finding_to_json`; the verdict is computed again, not trusted. ValueError on a bad record.

    What has a default may be missing: a run of an earlier version stays readable.
    """
    return checked(Finding, {**record, "table": table})


def checked(kind: type[T], record: object) -> T:
    """A dataclass from decoded JSON that came from outside, every field's type checked; unknown keys are passed over.

    Raises ValueError, in one line, for a field that is missing or of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        # Strict about numbers and texts; in its JSON mode alone may a dict stand for a dataclass then. A lone
        # surrogate, from a path or a token that is no UTF-8, becomes a question mark: nothing could show it.
        text = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
