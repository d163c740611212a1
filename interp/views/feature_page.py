"""An index of features as one HTML file: the table, the map and every feature's page, opened from disk, no network.

Numbers and examples are packed as arrays, compressed, and unpacked by the browser when they are first needed. Token
texts are kept once each, and reach the page only as text.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from interp.errors import UserError
from interp.features.read.index import Index
from interp.paths import expand
from interp.views import feature_figures as figures
from interp.views.explorer.table import COLUMNS
from interp.views.feature_words import HINTS, MEANINGS, band_title
from interp.views.one_file import check_out, for_script, hash_of, write_html
from interp.views.token_text import visible

WINDOW = 10  # tokens on either side of an example's
EXAMPLES = 12  # of the strongest
NAMES = {"float32": "Float32Array", "int32": "Int32Array", "uint32": "Uint32Array", "uint16": "Uint16Array",
         "uint8": "Uint8Array"}  # fmt: skip
PLAIN = ("mean", "by_position", "by_word", "effect_n", "histogram", "effect", "typical_share", "up_logit", "down_logit",
         "with_feature", "with_count", "with_phi", "near_feature", "near_cosine")  # fmt: skip
_HERE = Path(__file__).parent


def write_page(index: Index, out: str | Path, features: Sequence[int] | None = None) -> Path:
    """Write the page of `features`, by default all, to `out`, whole or not at all. Returns `out`.

    Raises UserError for a place that cannot be written, and for no feature or one that there is not.
    """
    out = expand(out)
    check_out(out)
    chosen = np.array(range(len(index)) if features is None else [index.check(f) for f in features], np.int64)
    if len(chosen) == 0:
        raise UserError("no feature came; expected one or more; leave --features out for all")
    return write_html(out, render(index, np.unique(chosen)))


def render(index: Index, chosen: NDArray[np.int64]) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shared = _HERE / "explorer" / "assets"
    own = [shared / "examples.js", _HERE / "feature_page.js"]
    scripts = [get_plotlyjs(), *(path.read_text(encoding="utf-8") for path in own)]
    css = [shared / "explorer.css", _HERE / "feature_page.css"]
    shown = figures.feature_map(index, chosen if len(chosen) < len(index) else None)
    first = index.feature(int(chosen[0]), top=0)
    pictures = {
        "map": shown,
        "histogram": figures.activation_histogram(first),
        "logits": figures.logit_bars(first),
        "cofiring": figures.cofiring_bars(first, {}),
    }
    return environment.get_template("feature_page.html.j2").render(
        told=_told(index),
        css=Markup("\n".join(path.read_text(encoding="utf-8") for path in css)),
        scripts=[Markup(script) for script in scripts],
        hashes=[hash_of(script) for script in scripts],
        figures={name: for_script(figure.to_plotly_json()) for name, figure in pictures.items()},
        words=for_script(_words(index)),
        table=Markup(_packed(_table(index, chosen))),
        pages=Markup(_packed(_pages(index, chosen))),
    )


def _words(index: Index) -> dict[str, Any]:
    """The texts that the page shares with the explorer."""
    bands = index.sizes["band"]
    return {
        "columns": {column.key: [column.head, column.meaning] for column in COLUMNS},
        "hints": HINTS,
        "meanings": MEANINGS,
        "bands": [band_title(i, bands) for i in range(bands)],
    }


def _told(index: Index) -> dict[str, str]:
    plan, sizes, summary = index.record["plan"], index.sizes, index.record["summary"]
    libraries = index.record["libraries"]
    return {
        "model": str(plan["capture"]["model"]["name"]),
        "site": str(plan["sae"]["site"]),
        "dictionary": f"{plan['sae']['kind']}, {len(index):,} features, {summary['l0']:.0f} active at a token",
        "text": f"{sizes['row']:,} tokens of {sizes['document']:,} documents",
        "made with": f"interp-probes {libraries.get('interp-probes', '?')}",
    }


def _table(index: Index, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """What the table shows and is searched by."""
    labels = [index.labels[i] for i in chosen.tolist()]
    typical = [
        " · ".join(visible(index.text(t)).strip() or "␣" for t in row[:5] if t >= 0)
        for row in index["typical_token"][chosen].tolist()
    ]
    return {
        "number": chosen.astype(np.uint32),
        "label": [visible(one.text) for one in labels],
        "by": [visible(one.by) for one in labels],
        "tokens": typical,
        "words": [index.words[i] for i in chosen.tolist()],
        "score": index["label_score"][chosen],
        "precision": np.array([one.precision for one in labels], np.float32),
        "recall": np.array([one.recall for one in labels], np.float32),
        "rate": index["rate"][chosen],
        "maximum": index["maximum"][chosen],
        "effect": np.ascontiguousarray(index["effect"][chosen, 0]),
        "control": index["effect_random"][chosen],
        "token": index["by_token"][chosen],
    }


def _pages(index: Index, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """What the features' own pages show."""
    out: dict[str, Any] = {name: np.ascontiguousarray(index[name][chosen]) for name in PLAIN}
    out["firings"] = np.diff(index["firing_start"])[chosen].astype(np.uint32)
    starts, tokens, shades, peaks, values, groups = _examples(index, chosen)
    ids = {name: index[name][chosen] for name in ("typical_token", "up_token", "down_token")}
    used = np.unique(np.concatenate([tokens, *(one[one >= 0].ravel() for one in ids.values())]))
    small = np.uint16 if len(used) < 0xFFFF else np.uint32
    out["vocabulary"] = [visible(index.text(int(t))) for t in used.tolist()]
    out["example_start"], out["example_token"] = starts, np.searchsorted(used, tokens).astype(small)
    out["example_shade"], out["example_peak"], out["example_value"] = shades, peaks, values
    out["group_start"] = groups
    for name, one in ids.items():
        out[name] = np.where(one >= 0, np.searchsorted(used, one.clip(0)), -1).astype(np.int32)
    return out


def _examples(index: Index, chosen: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """All examples one after the other: (where each begins, tokens, activations of 255, peaks, values, groups).

    A feature has a group of its strongest and one for every band; `groups` says where each begins.
    """
    token, sequence_start = np.asarray(index["token"]), np.asarray(index["sequence_start"])
    pieces: list[NDArray[Any]] = []
    shades: list[NDArray[Any]] = []
    starts, peaks, values, groups = [0], [], [], [0]
    for feature in chosen.tolist():
        rows, acts = (np.asarray(part) for part in index.firings(feature))
        largest = float(index["maximum"][feature]) or 1.0
        for some in (index["top_row"][feature][:EXAMPLES], *index["band_row"][feature]):
            there = some[(some >= 0) & (some < len(token))]
            sequence = np.searchsorted(sequence_start, there, side="right") - 1
            lows = np.maximum(sequence_start[sequence], there - WINDOW)
            highs = np.minimum(sequence_start[sequence + 1], there + WINDOW + 1)
            for row, low, high in zip(there.tolist(), lows.tolist(), highs.tolist(), strict=True):
                first, stop = np.searchsorted(rows, [low, high])
                shade = np.zeros(high - low, np.uint8)
                shade[rows[first:stop] - low] = np.clip(np.ceil(255 * acts[first:stop] / largest), 1, 255)
                pieces.append(token[low:high])
                shades.append(shade)
                starts.append(starts[-1] + high - low)
                peaks.append(row - low)
                values.append(acts[np.searchsorted(rows, row)])
            groups.append(len(peaks))
    empty = [np.empty(0, np.int32)]
    return (
        np.array(starts, np.uint32), np.concatenate(pieces or empty), np.concatenate(shades or empty).astype(np.uint8),
        np.array(peaks, np.uint16), np.array(values, np.float32), np.array(groups, np.uint32),
    )  # fmt: skip


def _packed(parts: Mapping[str, Any]) -> str:
    """Arrays and lists of text as one block: a line of JSON says what lies where, the arrays follow; gzip, base64."""
    head: dict[str, Any] = {}
    body = bytearray()
    for name, value in parts.items():
        if isinstance(value, list):
            head[name] = value
            continue
        body += bytes(-len(body) % 4)
        head[name] = {"type": NAMES[value.dtype.name], "at": len(body), "length": value.size}
        body += np.ascontiguousarray(value).tobytes()
    line = json.dumps(head, ensure_ascii=True, allow_nan=False).encode()
    line += b" " * (-(len(line) + 1) % 4) + b"\n"
    return base64.b64encode(gzip.compress(line + bytes(body), 6, mtime=0)).decode()
