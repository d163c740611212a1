"""`interp features build`: an index of what a dictionary's features do, from a corpus or a store."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from interp.cli.loading import LoadingOptions, ReadingOptions, refuse_other_bos
from interp.cli.terminal import parse, shown_progress, stoppable
from interp.cli.worker import choose_worker
from interp.errors import UserError
from interp.progress import Progress, Stop

if TYPE_CHECKING:
    from interp.activations.store import Store
    from interp.features.build.inputs import Building
    from interp.model.model import Model
    from interp.saes.loading.sae import SAE

OF_THE_CORPUS = (
    "context",
    "max_tokens",
    "batch_tokens",
    "text_column",
    "skip_empty",
)  # options that a store has decided
SAMPLE, SAMPLE_ROWS = 256, 8192  # sequences that an SAE is tried on, rows that tell a coordinate's mean and spread


@dataclass(kw_only=True)
class BuildOptions(ReadingOptions, LoadingOptions):
    """An index of what each feature fires on and does. Run it again to go on where it stopped."""

    out: Annotated[Path, tyro.conf.arg(help="The index: a folder to create, or one to go on with.")]
    sae: Annotated[
        str | None,
        tyro.conf.arg(help="The SAE: a folder or a name on the hub; by default the one that ships with the model."),
    ] = None
    basis: Annotated[
        str | None,
        tyro.conf.arg(
            help="Instead of an SAE, the coordinates at a site, as a baseline: blocks.14.mlp.hook_post for neurons."
        ),
    ] = None
    k: Annotated[int, tyro.conf.arg(help="With --basis: how many coordinates fire at a token.")] = 32
    corpus: Annotated[
        str | None,
        tyro.conf.arg(help="Text, .jsonl, .parquet, a folder, hf:NAME; by default the bundled sample."),
    ] = None
    store: Annotated[
        Path | None, tyro.conf.arg(help="Instead of a corpus, activations that `interp capture` wrote.")
    ] = None
    context: Annotated[
        int | None, tyro.conf.arg(help="Tokens of a sequence, at most; by default 128, or what the model takes.")
    ] = None
    max_tokens: Annotated[int | None, tyro.conf.arg(help="Stop after so many tokens; by default at the end.")] = None
    top: Annotated[int, tyro.conf.arg(help="Strongest examples of a feature.")] = 20
    effects: Annotated[
        int, tyro.conf.arg(help="Firings of a feature that are ablated, to measure its effect on the loss; 0: none.")
    ] = 8
    batch_tokens: Annotated[int | None, tyro.conf.arg(help="Tokens of a forward, at most.")] = None
    shard: Annotated[
        str | None, tyro.conf.arg(help="I/N: only every Nth piece from I on, beside other workers; as in capture.")
    ] = None
    force: Annotated[bool, tyro.conf.arg(help="Use an SAE that does not fit the model.")] = False


def features_build(arguments: list[str]) -> int:
    """What every feature fires on, with what, and what it does: one pass over a corpus"""
    options: BuildOptions = parse(BuildOptions, arguments, "features build")
    from interp.features.build.passes import build_index, missing_pieces
    from interp.paths import check_place

    for one, other in (("sae", "basis"), ("corpus", "store")):
        if getattr(options, one) is not None and getattr(options, other) is not None:
            raise UserError(f"both --{one} and --{other} came; expected one of them")
    ignored = [
        name for name in OF_THE_CORPUS if getattr(options, name) != BuildOptions.__dataclass_fields__[name].default
    ]
    if options.store is not None and ignored:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        raise UserError(f"{flags} came with --store, whose text was cut when it was captured; leave it out")
    if options.store is None:
        options.refuse_without(options.corpus)
    check_place(options.out, "--out")
    worker = choose_worker(options.shard)
    with shown_progress() as say, stoppable("finishing the piece in hand") as asked_to_stop:
        building = _building(options, say, lambda: bool(asked_to_stop()))
        index = build_index(building, worker)
        stopped = asked_to_stop()
    if index is not None:
        print(f"{len(index):,} features over {index.tokens_counted:,} tokens: {options.out.resolve()}")
        print(f"look at it: interp explore {options.out}")
        return 0
    missing = missing_pieces(options.out, building.plan)
    whole = len(building.plan.pieces) - len(missing)
    if stopped:
        kept = f"{whole} of {len(building.plan.pieces)} pieces and what was ablated are kept in {options.out}"
        print(f"interp: stopped; {kept}; the same command goes on")
        return 128 + stopped
    print(f"{whole} of {len(building.plan.pieces)} pieces are there; the last of the other workers finishes the index")
    return 0


def _building(options: BuildOptions, say: Progress, stop: Stop) -> Building:
    """Load what a build needs, and plan it."""
    from interp.activations.plan import fit_context, plan_capture
    from interp.activations.store import open_store
    from interp.activations.token_table import Cut
    from interp.features.build.inputs import Building
    from interp.features.build.plan import Settings, plan_index
    from interp.saes.loading.sae import site_of
    from interp.text.data import data

    settings = Settings(top=options.top, effects=options.effects)
    model = options.load()
    context = fit_context(model, options.context)
    if options.store is not None:
        store = open_store(options.store)
        _check_store(store, model)
        sample = [store.tokens.sequence(i).tolist() for i in range(min(SAMPLE, len(store.tokens.starts) - 1))]
        sae = _dictionary(options, model, sample, context)
        return Building(
            model, sae, options.out, plan_index(sae, store.plan, store.tokens, settings), store.tokens, store, say, stop
        )
    corpus = options.open(options.corpus or data("corpus/smollm2_sample.jsonl"))
    texts = [document.text for document in islice(corpus.read(), SAMPLE) if document.text.strip()]
    sae = _dictionary(options, model, model.encode(texts, cut=context), context)
    cut = Cut(context, max_tokens=options.max_tokens)
    plan, tokens = plan_capture(model, corpus, [site_of(sae)], cut=cut, batch_tokens=options.batch_tokens, progress=say)
    return Building(model, sae, options.out, plan_index(sae, plan, tokens, settings), tokens, None, say, stop)


def _dictionary(options: BuildOptions, model: Model, sample: list[list[int]], context: int) -> SAE[Any]:
    """The SAE that the options name, checked on the sample, or the coordinates at a site."""
    from interp.activations.rows import capture_rows
    from interp.saes.loading.attach import attach_sae
    from interp.saes.loading.default import shipped_sae
    from interp.saes.neuron_basis import coordinates_as_sae

    if options.basis is not None:
        site, *more = model.sites(options.basis)
        if more:
            raise UserError(f"--basis {options.basis} matches {len(more) + 1} sites; expected one, such as {site}")
        rows = capture_rows(model, sample, site, max_tokens=SAMPLE_ROWS, context=context)
        return coordinates_as_sae(model, site, rows.clean, options.k)
    source = options.sae or shipped_sae(model)
    if source is None:
        raise UserError(
            f"no SAE ships for {model.provenance.name}; expected --sae FOLDER (train one: interp sae train), or "
            "--basis SITE for its plain coordinates"
        )
    return attach_sae(source, model, force=options.force, sample=sample)


def _check_store(store: Store, model: Model) -> None:
    from interp.activations.join import refuse_other_model

    refuse_other_model(store.plan.model, model, f"{store.folder} was captured")
    refuse_other_bos(store.plan.cut, model, f"{store.folder} was captured")
    if store.missing:
        raise UserError(f"{store.folder} lacks {len(store.missing)} shards; finish it with the same `interp capture`")
