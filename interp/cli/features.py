"""`interp features`: look at an index of features, search it, name them, give it away."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.cli.features_build import features_build
from interp.cli.terminal import Positional, parse, print_table, shown_progress
from interp.errors import UserError, unknown

if TYPE_CHECKING:
    from interp.features.read.feature import Example, Feature
    from interp.features.read.index import Index


@dataclass
class ShowOptions:
    """What an index holds, or one feature of it."""

    index: Positional[Path]
    """The index: a folder that `interp features build` wrote."""
    feature: Positional[str] = ""
    """Number of a feature, or error for what the dictionary misses; without it, what the index is of."""
    n: int = 5
    """Examples to show."""
    json: bool = False
    """Print JSON, for another program."""


def show(arguments: list[str]) -> int:
    """An index, or one feature of it: examples, neighbours, logits, effect"""
    options: ShowOptions = parse(ShowOptions, arguments, "features show")
    if options.n < 1:
        raise UserError(f"--n {options.n}; expected 1 or more")
    from interp.features.read.index import ERROR, open_index

    index = open_index(options.index)
    if not options.feature:
        told = describe(index)
        print(json.dumps(told, indent=1)) if options.json else print_table(("", ""), _flat(told))
    elif options.feature == ERROR:
        rows = [(f"{share:.0%}", marked(example)) for share, example in index.errors()[: options.n]]
        mean, low, high = (float(v) for v in index["error_effect"])
        print(f"where the dictionary misses most, as a share of the activation's norm; in all it misses "
              f"{index.record['summary']['missed']:.1%} of the squared norm")  # fmt: skip
        if not np.isnan(mean):
            print(f"without what it misses, the loss at a token rises by {mean:.3f} nats [{low:.3f}, {high:.3f}]")
        print_table(("missed", "at the token in brackets"), rows)
    else:
        feature = index.feature(index.check(options.feature))
        print(json.dumps(_jsonable(feature), indent=1)) if options.json else print_feature(index, feature, options.n)
    return 0


def describe(index: Index) -> dict[str, str]:
    """What an index is of, in a few lines."""
    plan, sizes, summary = index.record["plan"], index.sizes, index.record["summary"]
    measured = int(np.count_nonzero(index["effect_n"]))
    return {
        "dictionary": f"{plan['sae']['kind']}, {len(index):,} features at {plan['sae']['site']}",
        "model": str(plan["capture"]["model"]["name"]),
        "text": f"{sizes['row']:,} tokens of {sizes['document']:,} documents, {summary['sinks']:,} attention sinks out",
        "active at a token": f"{summary['l0']:.1f} features",
        "never fire here": f"{summary['silent']:,} features",
        "missed": f"{summary['missed']:.1%} of the activations' squared norm",
        "effects": f"measured for {measured:,} features",
    }


def _flat(told: dict[str, str]) -> list[tuple[str, ...]]:
    return list(told.items())


def marked(example: Example) -> str:
    """An example as one line, its token in brackets."""
    pieces = [f"[{t}]" if i == example.peak else t for i, t in enumerate(example.tokens)]
    return printable("".join(pieces))


def printable(text: str) -> str:
    """Text from a corpus as a terminal may show it: no control characters, line breaks as ⏎."""
    return "".join("⏎" if c == "\n" else c if c.isprintable() else "�" for c in text)


def print_feature(index: Index, feature: Feature, n: int) -> None:
    """One feature on the terminal."""
    label, effect = feature.label, feature.effect
    print(f"feature {feature.number}: {printable(label.text)}")
    rows = [
        ("label's score", f"{label.score:.2f}: how well it predicts firing on held-out text (0 chance, 1 always)"),
        ("fires on", f"{feature.rate:.3%} of tokens, up to {feature.maximum:.3g}, {feature.mean:.3g} on average"),
        ("its tokens", ", ".join(f"{printable(repr(t))} {share:.0%}" for t, share in feature.typical[:5])),
        ("explained by", f"the token {feature.by_token:.0%} of its variance; correlation with the place in the text "
         f"{feature.by_position:+.2f}, with being a later piece of a word {feature.by_word:+.2f}"),
        ("raises", ", ".join(f"{printable(repr(t))} {v:+.2f}" for t, v in feature.raises[:6]) or "not known here"),
        ("lowers", ", ".join(f"{printable(repr(t))} {v:+.2f}" for t, v in feature.lowers[:6]) or "not known here"),
        ("fires with", _listed(index, feature.fires_with, "correlation")),
        ("points like", _listed(index, feature.near, "cosine")),
    ]  # fmt: skip
    if effect.n:
        ends = "" if np.isnan(effect.low) else f" [{effect.low:+.3f}, {effect.high:+.3f}]"
        told = f"loss rises by {effect.mean:+.3f} nats{ends} over {effect.n} firings"
        rows.append(("ablated", f"{told}; a random direction of that length: {effect.random:+.3f}"))
    print_table(("", ""), rows)
    print_table(
        ("activation", "at the token in brackets"),
        [(f"{one.activations[one.peak]:.2f}", marked(one)) for one in feature.top[:n]],
    )


def _listed(index: Index, neighbours: Any, unit: str) -> str:
    told = [
        f"{one.feature} ({unit} {one.closeness:.2f}, {index.labels[one.feature].text:.40})" for one in neighbours[:3]
    ]
    return printable(", ".join(told)) or "none"


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {k: _jsonable(v) for k, v in asdict(value).items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_jsonable(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value


@dataclass
class SearchOptions:
    """Features by words: in their labels, their tokens, and the text around their strongest examples."""

    index: Positional[Path]
    """The index: a folder that `interp features build` wrote."""
    query: Positional[str]
    """Words to look for, such as: "capital cities"."""
    n: int = 10
    """Features to list."""
    json: bool = False
    """Print JSON, for another program."""


def search(arguments: list[str]) -> int:
    """Features by words, exact and alike"""
    options: SearchOptions = parse(SearchOptions, arguments, "features search")
    if options.n < 1:
        raise UserError(f"--n {options.n}; expected 1 or more")
    from interp.features.read.index import open_index
    from interp.features.read.search import search as find

    index = open_index(options.index)
    hits = find(index, options.query, options.n)
    if options.json:
        print(json.dumps([hit._asdict() for hit in hits], indent=1))
        return 0
    if not hits:
        print(f"nothing like {options.query!r} in labels, tokens or examples; try one word, or another spelling")
        return 1
    labels = index.labels
    rows = [
        (str(h.feature), f"{h.score:.1f}", f"{labels[h.feature].score:.2f}", printable(f"{labels[h.feature].text:.48}"),
         printable(around(h.where, options.query)))
        for h in hits
    ]  # fmt: skip
    print_table(("feature", "fit", "label's score", "label", "found in"), rows)
    return 0


def around(text: str, query: str, width: int = 60) -> str:
    """`width` characters of `text` with the first word of `query` that is in it."""
    places = [text.casefold().find(word) for word in query.casefold().split()]
    start = max(0, min((place for place in places if place >= 0), default=0) - width // 3)
    return ("…" if start else "") + text[start : start + width]


@dataclass
class ExportOptions:
    """Give an index away: one HTML file that opens without a network, or Neuronpedia's JSON."""

    index: Positional[Path]
    """The index: a folder that `interp features build` wrote."""
    html: Path | None = None
    """The file to write: table, map and every feature's page in one."""
    neuronpedia: Path | None = None
    """The folder to write: batches of features in Neuronpedia's format."""
    features: tuple[int, ...] = ()
    """Only these features; by default all."""


def export(arguments: list[str]) -> int:
    """One HTML file for everybody, or Neuronpedia's JSON"""
    options: ExportOptions = parse(ExportOptions, arguments, "features export")
    if (options.html is None) == (options.neuronpedia is None):
        raise UserError("expected --html FILE or --neuronpedia FOLDER, one of the two")
    from interp.features.read.index import open_index

    index = open_index(options.index)
    chosen = [index.check(one) for one in options.features] or None
    if options.html is not None:
        from interp.views.feature_page import write_page

        print(write_page(index, options.html, chosen).resolve())
    else:
        from interp.features.read.neuronpedia import write_neuronpedia

        assert options.neuronpedia is not None
        with shown_progress() as say:
            written = write_neuronpedia(index, options.neuronpedia, chosen, progress=say)
        print(f"{len(written)} files: {options.neuronpedia.resolve()}")
    return 0


@dataclass
class LabelOptions:
    """Let a language model of yours name features; each label is scored on text that it was not made from."""

    index: Positional[Path]
    """The index: a folder that `interp features build` wrote."""
    ask: str
    """FILE.py:NAME of a function that takes a question and returns the answer, from a local model or a remote one."""
    features: tuple[int, ...] = ()
    """Features to name; by default all, the most frequent first."""
    n: int | None = None
    """Only so many."""
    replace: bool = False
    """Write labels that score worse than those that are there, too."""


def label(arguments: list[str]) -> int:
    """Names by a language model of yours, each with its score"""
    options: LabelOptions = parse(LabelOptions, arguments, "features label")
    from interp.features.build.llm_labels import label_features, load_ask
    from interp.features.read.index import open_index

    index, ask = open_index(options.index), load_ask(options.ask)
    chosen = [index.check(one) for one in options.features] or np.argsort(-index["rate"], kind="stable").tolist()
    chosen = chosen[: options.n]
    with shown_progress() as say:
        made = label_features(
            options.index,
            ask,
            chosen,
            options.ask,
            replace=options.replace,
            progress=say,
        )
    rows = [
        (str(one), f"{new.score:.2f}", printable(new.text), f"{old.score:.2f}", printable(f"{old.text:.40}"),
         "new" if written else "before")
        for one, (new, old, written) in zip(chosen, made, strict=True)
    ]  # fmt: skip
    print_table(("feature", "score", "new label", "score", "label before", "kept"), rows[:40])
    kept = sum(not one.written for one in made)
    if kept:
        print(f"{kept} of {len(made)} new labels score worse than those that are there, which were kept; "
              "--replace writes them all the same")  # fmt: skip
    return 0


FEATURE_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "build": features_build,
    "show": show,
    "search": search,
    "export": export,
    "label": label,
}


def features(arguments: list[str]) -> int:
    """What every feature fires on and does: build an index, show, search and export it"""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("An index of a dictionary's features: what each fires on, with what, and what it does.\n")
        print("\n".join(f"  interp features {name:<8} {f.__doc__}" for name, f in FEATURE_COMMANDS.items()))
        return 0
    if arguments[0] not in FEATURE_COMMANDS:
        raise unknown("features command", arguments[0], FEATURE_COMMANDS)
    return FEATURE_COMMANDS[arguments[0]](arguments[1:])
