"""`interp sae`: train a sparse autoencoder, measure it, see what fires."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from interp.cli.loading import LoadingOptions, ReadingOptions
from interp.cli.probes import probe
from interp.cli.terminal import Positional, parse, print_table, shown_progress
from interp.cli.train import sae_train
from interp.errors import UserError, unknown
from interp.progress import labelled

if TYPE_CHECKING:
    from interp.model.model import Model
    from interp.saes.loading.sae import SAE


@dataclass(kw_only=True)
class SAEShowOptions(ReadingOptions, LoadingOptions):
    """What an SAE's features are: which fire on a prompt of yours, or what one of them fires on."""

    folder: Positional[str]
    """The SAE: a folder, or a name such as gpt2-small-res-jb:blocks.8.hook_resid_pre."""
    prompt: str | None = None
    """Text to read: shows the features that fire on each of its tokens."""
    feature: int | None = None
    """Number of a feature: shows the tokens of a corpus on which it is strongest."""
    corpus: str | None = None
    """Text for --feature, as for `interp capture`; by default the bundled prose, which people wrote."""
    tokens: int = 4000
    """How many tokens of the corpus to read."""
    n: int = 5
    """Features to show per token, or examples to show of the feature."""
    force: bool = False
    """Use an SAE that does not fit the model."""


def sae_show(arguments: list[str]) -> int:
    """Which features fire on a prompt, or what one feature fires on"""
    options: SAEShowOptions = parse(SAEShowOptions, arguments, "sae show")
    if (options.prompt is None) == (options.feature is None):
        raise UserError(
            "expected --prompt TEXT (which features fire on it) or --feature NUMBER (what it fires on), one of the two"
        )
    if options.n < 1 or options.tokens < 1:
        raise UserError(f"--n {options.n}, --tokens {options.tokens}; expected 1 or more")
    options.refuse_without(options.corpus)
    from interp.saes.loading.attach import attach_sae

    model = options.load()
    sae = attach_sae(options.folder, model, force=options.force)
    if options.prompt is None:
        _show_feature(options, sae, model)
    else:
        _show_prompt(options.prompt, options.n, sae, model)
        print(f"what a feature fires on: interp sae show {options.folder} --feature NUMBER")
    return 0


def _show_feature(options: SAEShowOptions, sae: SAE[Any], model: Model) -> None:
    from interp.activations.rows import capture_rows
    from interp.features.read.examples import top_examples
    from interp.saes.loading.sae import site_of
    from interp.text.corpus import bundled_corpus

    if not 0 <= int(options.feature or 0) < sae.cfg.d_sae:
        raise UserError(f"--feature {options.feature}; this SAE has features 0 to {sae.cfg.d_sae - 1}")
    corpus = options.open(options.corpus) if options.corpus else bundled_corpus("prose")
    documents = [d.text for d in corpus]
    with shown_progress() as say:
        tell = labelled(say, "reading the corpus")
        rows = capture_rows(model, documents, site_of(sae), max_tokens=options.tokens, progress=tell)
    (found,) = top_examples(sae, rows, [options.feature or 0], model, n=options.n)
    fires = f"fires on {found.rate:.2%} of {len(rows):,} tokens of {corpus.name}"
    print(f"feature {found.feature} {fires}{f', up to {found.maximum:.1f}' if found.examples else ''}")
    table = []
    for example in found.examples:
        pieces = [f"[{t}]" if i == example.peak else t for i, t in enumerate(example.tokens)]
        table.append((f"{example.activations[example.peak]:.1f}", "".join(pieces).replace("\n", "⏎")))
    if table:
        print_table(("activation", "at the token in brackets"), table)


def _show_prompt(prompt: str, n: int, sae: SAE[Any], model: Model) -> None:
    from interp.features.read.examples import most_active

    (found,) = most_active(sae, model, [prompt], n)
    rows = []
    for token, is_sink, active in zip(found.tokens, found.is_sink, found.per_token, strict=True):
        text = "attention sink: left out" if is_sink else ", ".join(f"{a.feature} ({a.activation:.1f})" for a in active)
        rows.append((repr(token), text))
    print_table(("token", "features (activation), strongest first"), rows)


@dataclass
class SAEInfoOptions:
    """What an SAE is and where it comes from."""

    folder: Positional[str]
    """The SAE: a folder, or a name such as gpt2-small-res-jb:blocks.8.hook_resid_pre."""
    json: bool = False
    """Print JSON, for another program."""


def sae_info(arguments: list[str]) -> int:
    """Site, sizes and lineage"""
    from interp.saes.loading.sae import describe_sae, load_sae

    options: SAEInfoOptions = parse(SAEInfoOptions, arguments, "sae info")
    described = describe_sae(load_sae(options.folder))
    if options.json:
        print(json.dumps(described, indent=1))
    else:
        print_table(("", ""), list(_flat(described)))
    return 0


def _flat(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """(`training: steps`, `200`) for every value of a nested record."""
    for key, value in record.items():
        name = f"{before}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, "not recorded" if value is None else str(value)


def sae_evaluate(arguments: list[str]) -> int:
    """Explained variance, loss recovered, dead features, top examples (the probe dictionary)"""
    if arguments[:1] in (["-h"], ["--help"]):
        print("interp sae evaluate FOLDER…: the probe dictionary on the first SAE, the others beside it.")
        print("Further flags are the probe's:\n")
        return probe(["dictionary", *arguments])
    folders = list(takewhile(lambda one: not one.startswith("-"), arguments))
    if not folders:
        raise UserError(
            "no SAE came; expected a folder: interp sae evaluate FOLDER… [flags of `interp probe dictionary`]"
        )
    beside = ["--beside", *folders[1:]] if folders[1:] else []
    return probe(["dictionary", "--sae", folders[0], *beside, *arguments[len(folders) :]])


def sae(arguments: list[str]) -> int:
    """Train a sparse autoencoder, measure it, see what fires"""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("Sparse autoencoders in SAELens' format.\n")
        print("\n".join(f"  interp sae {name:<9} {f.__doc__}" for name, f in SAE_COMMANDS.items()))
        return 0
    if arguments[0] not in SAE_COMMANDS:
        raise unknown("sae command", arguments[0], SAE_COMMANDS)
    return SAE_COMMANDS[arguments[0]](arguments[1:])


SAE_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": sae_train,
    "evaluate": sae_evaluate,
    "show": sae_show,
    "info": sae_info,
}
