"""Numbers, dates and a probe's docstring as a reader should see them."""

from __future__ import annotations

import inspect
import math
import re
from datetime import UTC, datetime

from markupsafe import Markup, escape

from interp.lab.findings import Estimate

_ITEM = re.compile(r"^(?P<indent>\s*)(?:[-*•]|(?P<number>\d+)[.)])\s+(?P<text>.*)$")
_CODE = re.compile(r"`+([^`]+)`+")


def amount(value: float, decimals: int) -> str:
    """A number with fixed decimals, a true minus sign and thin groups of three."""
    text = f"{value:,.{decimals}f}".replace(",", "\u202f")
    return text.replace("-", "−") if float(f"{value:.{decimals}f}") else text.lstrip("-")


def interval(estimate: Estimate) -> tuple[str, str]:
    """The mean and `[low, high]`, both to the digits that the interval's width supports.

    No interval for a number known beforehand, for a single unit, nor for units that are all alike.
    """
    if estimate.is_known:
        return f"{estimate.mean:.4g}".replace("-", "−"), ""
    if not estimate.has_interval:
        return f"{estimate.mean:.4g}".replace("-", "−"), "[no interval]"
    width = estimate.high - estimate.low or abs(estimate.mean) / 10
    decimals = min(max(1 - math.floor(math.log10(width)), 0), 6) if width else 0
    low, high = amount(estimate.low, decimals), amount(estimate.high, decimals)
    return amount(estimate.mean, decimals), f"[{low}, {high}]"


def counted(estimate: Estimate) -> str:
    """What was resampled, counted: `30 facts`, with thin groups of three; of a number known beforehand, why."""
    if estimate.is_known:
        return estimate.over
    return estimate.counted.replace(",", "\u202f", estimate.counted.partition(" ")[0].count(","))


def p_value(p: float) -> str:
    """A p-value to two digits: `= 0.013`, `< 0.0001`."""
    return "< 0.0001" if p < 0.0001 else f"= {p:.2g}"


def when(iso: str) -> str:
    """`2026-11-24T02:00:00+00:00` as `24 November 2026, 02:00`; what is no such date stays as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def lasted(seconds: float) -> str:
    """A duration in the two units that matter."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def headline(method: str) -> str:
    """The first line of a docstring, without its full stop."""
    lines = method.strip().splitlines()
    return lines[0].strip().removesuffix(".") if lines else "Untitled probe"


def question(method: str) -> str:
    """The paragraph of a docstring that asks the question: `Question. Does it …?`; empty where there is none."""
    found = re.search(r"^Question\.\s+(.+?)(?:\n\s*\n|\Z)", inspect.cleandoc(method), re.MULTILINE | re.DOTALL)
    return " ".join(found.group(1).split()) if found else ""


def prose(method: str) -> Markup:
    """A docstring's text below its first line as safe HTML: paragraphs, lists, indented code, `code`."""
    body = inspect.cleandoc(method).partition("\n")[2]
    blocks = re.split(r"\n\s*\n", body.strip("\n"))
    return Markup("\n").join(_block(block) for block in blocks if block.strip())


def _block(block: str) -> Markup:
    lines = block.splitlines()
    first = next((i for i, line in enumerate(lines) if _ITEM.match(line)), len(lines))
    if first == len(lines) and all(line.startswith("    ") for line in lines):
        return Markup("<pre><code>{}</code></pre>").format(inspect.cleandoc(block))
    lead = Markup("<p>{}</p>").format(_inline(lines[:first])) if first else Markup("")
    return lead + _list(lines[first:]) if lines[first:] else lead


def _list(lines: list[str]) -> Markup:
    """One list; a line that starts no item continues the one above."""
    items: list[list[str]] = []
    for line in lines:
        match = _ITEM.match(line)
        if match:
            items.append([match["text"]])
        else:
            items[-1].append(line)
    number = re.match(r"\s*\d", lines[0])
    tag = Markup("<ol>{}</ol>") if number else Markup("<ul>{}</ul>")
    return tag.format(Markup("").join(Markup("<li>{}</li>").format(_inline(item)) for item in items))


def _inline(lines: list[str]) -> Markup:
    text = str(escape(" ".join(line.strip() for line in lines)))
    return Markup(_CODE.sub(r"<code>\1</code>", text))  # safe: escaped one line above
