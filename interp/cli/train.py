"""`interp sae train`: sparse autoencoders from a store, or straight from a model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from interp.cli.loading import LoadingOptions, ReadingOptions
from interp.cli.terminal import parse, shown_progress, stoppable
from interp.errors import UserError
from interp.progress import Progress

if TYPE_CHECKING:
    from interp.saes.training.plan import SAEPlan, Training
    from interp.saes.training.processes import Ranks
    from interp.saes.training.sources import Source

SPARSITY = "l1_coefficient=… (standard, gated), l0_coefficient=… or target_l0=… (jumprelu)"


@dataclass(kw_only=True)
class SAETrainOptions(ReadingOptions, LoadingOptions):
    """Train sparse autoencoders and save them in SAELens' format. Run it again to go on where it stopped.

    Several --site, --width or --k train every combination, from one pass over the rows.
    """

    out: Annotated[Path, tyro.conf.arg(help="Folder to create; with several SAEs, one with a folder for each.")]
    store: Annotated[Path | None, tyro.conf.arg(help="Rows from a store of `interp capture`.")] = None
    model: Annotated[str, tyro.conf.arg(help="Rows from a model as it reads; by default smollm2-135m.")] = ""
    corpus: Annotated[
        str | None, tyro.conf.arg(help="With a model: its text, as for `interp capture`; by default a bundled sample.")
    ] = None
    context: Annotated[
        int | None,
        tyro.conf.arg(help="With a model: tokens of a sequence, at most; by default 128, or what the model takes."),
    ] = None
    site: Annotated[
        list[str], tyro.conf.arg(help="Where; by default the store's only site, or the residual stream in the middle.")
    ] = field(default_factory=list)
    site_out: Annotated[str | None, tyro.conf.arg(help="Train a transcoder: reconstruct this site instead.")] = None
    arch: Annotated[str, tyro.conf.arg(help="topk, batchtopk, matryoshka_batchtopk, jumprelu, standard or gated.")] = (
        "topk"
    )
    width: Annotated[list[int], tyro.conf.arg(help="Number of features.")] = field(default_factory=lambda: [2304])
    k: Annotated[list[float], tyro.conf.arg(help="Features active at a token: by default 32 (topk kinds).")] = field(
        default_factory=list
    )
    set: Annotated[
        list[str], tyro.conf.arg(help="Other settings of the architecture: l1_coefficient=2 target_l0=32 …")
    ] = field(default_factory=list)
    raw: Annotated[bool, tyro.conf.arg(help="Leave rows unscaled; else their mean norm is sqrt(d).")] = False
    tokens: Annotated[
        int | None, tyro.conf.arg(help="Rows to train on, repeated where there are fewer; by default each once.")
    ] = None
    batch: Annotated[int | None, tyro.conf.arg(help="Rows of a step; by default 1,024, and 4,096 on a CUDA GPU.")] = (
        None
    )
    lr: Annotated[
        float | None, tyro.conf.arg(help="Adam's learning rate: by default .035 / sqrt(steps), 3e-3 at most.")
    ] = None
    lr_warm_up: Annotated[int, tyro.conf.arg(help="Steps over which the learning rate rises.")] = 0
    sparsity_warm_up: Annotated[int, tyro.conf.arg(help="Steps over which a sparsity penalty rises.")] = 0
    dead_after: Annotated[int, tyro.conf.arg(help="Steps without firing after which a feature is dead.")] = 1000
    split: Annotated[
        Literal["batch", "saes"],
        tyro.conf.arg(help="Under torchrun: what the processes share, each batch or the SAEs."),
    ] = "batch"
    resample_every: Annotated[
        int | None, tyro.conf.arg(help="Steps between resamplings of dead features (standard, gated).")
    ] = None
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], tyro.conf.arg(help="In what latents are looked for; results are fp32's.")
    ] = "auto"
    checkpoint_minutes: Annotated[float, tyro.conf.arg(help="Minutes between checkpoints.")] = 5.0
    log: Annotated[list[str], tyro.conf.arg(help="Metrics also to: tensorboard, wandb.")] = field(default_factory=list)
    loss_tokens: Annotated[
        int,
        tyro.conf.arg(
            help="With a model: tokens of held-out text that the loss recovered is measured on, 10 "
            "times: the bundled prose with --corpus, else the bundled sample's held-out part."
        ),
    ] = 0
    seed: Annotated[int, tyro.conf.arg(help="Decides the first weights and the order of rows.")] = 0


def sae_train(arguments: list[str]) -> int:
    """Train one, or several at once, from a store or straight from a model"""
    options: SAETrainOptions = parse(SAETrainOptions, arguments, "sae train")
    _check(options)
    from interp.saes.training.trainer import check_names

    with _together(options) as ranks, shown_progress() as say:
        source, sites = _open_store(options) if options.store else _open_model(options, say)
        plans = [
            _plan(options, site, width, k)
            for site, width, k in product(sites, options.width, options.k or _default_k(options.arch))
        ]
        check_names(plans)
        if options.split == "saes" and ranks.count > 1:
            return _train_share(options, plans[ranks.rank :: ranks.count], source, say)
        return _train(options, plans, source, ranks, say)


def _train_share(options: SAETrainOptions, plans: list[SAEPlan], source: Source, say: Progress) -> int:
    """Train this process' SAEs one after the other, each towards a folder of its own; nobody waits for anybody."""
    from interp.saes.training.processes import Ranks

    for plan in plans:
        if code := _train(replace(options, out=options.out / plan.name), [plan], source, Ranks(), say):
            return code
    return 0


def _train(options: SAETrainOptions, plans: list[SAEPlan], source: Source, ranks: Ranks, say: Progress) -> int:
    from interp.saes.training.checkpoint import folder_of
    from interp.saes.training.log import sinks_of
    from interp.saes.training.report import TrainingCallbacks
    from interp.saes.training.trainer import train

    training = _training(options, source.count(list(dict.fromkeys(s for plan in plans for s in plan.sites))))
    with stoppable("saving a checkpoint") as asked, sinks_of(options.log, options.out.name) as sinks:
        written = train(
            plans,
            source,
            options.out,
            training,
            device=options.device,
            checkpoint_seconds=60 * options.checkpoint_minutes,
            callbacks=TrainingCallbacks(_watch(options, source), sinks, say, _say_once(ranks)),
            stop=lambda: bool(asked()),
            ranks=ranks,
        )
        if written is None:
            if ranks.rank == 0:
                kept = folder_of(options.out)
                print(f"interp: stopped; all is kept in {kept}; the same command goes on", file=sys.stderr)
            return 128 + asked()
    if ranks.rank == 0:
        print("\n".join(str(path.resolve()) for path in written))
    return 0


def _say_once(ranks: Ranks) -> Callable[[str], None]:
    """To stderr, by one of the processes."""
    return lambda line: print(f"interp: {line}", file=sys.stderr, flush=True) if ranks.rank == 0 else None


def _check(options: SAETrainOptions) -> None:
    if wrong := [k for k in options.k if not 0 < k < float("inf")]:
        raise UserError(f"--k {wrong[0]}; expected a number above 0")
    if not 0 <= options.checkpoint_minutes < float("inf"):
        raise UserError(f"--checkpoint-minutes {options.checkpoint_minutes}; expected 0 or more")
    if options.loss_tokens and options.loss_tokens < 256:
        raise UserError(f"--loss-tokens {options.loss_tokens}; expected 256 or more, or 0 for no such measurement")
    if options.store and (options.model or options.corpus):
        raise UserError("--store and --model or --corpus came; expected rows from one or the other")
    if not options.store:
        options.refuse_without(options.corpus)
    for name in ("dtype", "quantize", "bos", "text_column", "skip_empty", "context"):
        if options.store and getattr(options, name) != SAETrainOptions.__dataclass_fields__[name].default:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} came with --store, whose rows were captured with its own; leave it out")
    if options.store and options.loss_tokens:
        raise UserError("--loss-tokens came with --store; the loss needs the model: use --model, or sae evaluate later")
    for name in ("batch", "context", "tokens"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}; expected 1 or more")


def _open_store(options: SAETrainOptions) -> tuple[Source, list[str]]:
    from interp.activations.store import open_store
    from interp.errors import unknown
    from interp.saes.training.sources import StoreRows

    store = open_store(Path(str(options.store)))
    if not options.site and len(store.sites) > 1:
        raise UserError(f"{options.store} holds {', '.join(store.sites[:4])} …; say which with --site")
    sites = options.site or store.sites
    for site in [*sites, *([options.site_out] if options.site_out else [])]:
        if site not in store.sites:
            raise unknown("site", site, store.sites, f"`interp store info {options.store}` lists what it holds")
    return StoreRows(store), sites


def _open_model(options: SAETrainOptions, say: Progress) -> tuple[Source, list[str]]:
    from interp.activations.plan import fit_context, plan_capture
    from interp.activations.token_table import Cut
    from interp.saes.loading.default import default_site
    from interp.saes.training.sources import ModelRows
    from interp.text.corpus import from_texts, split_corpus

    model = options.load()
    sites = model.tree.match(options.site) if options.site else [default_site(model)]
    wanted = [*sites, *([options.site_out] if options.site_out else [])]
    corpus = options.open(options.corpus) if options.corpus else from_texts(split_corpus()[0], "the bundled sample")
    cut = Cut(fit_context(model, options.context), max_tokens=options.tokens)
    plan, tokens = plan_capture(model, corpus, wanted, cut=cut, progress=say)
    return ModelRows(model, plan, tokens), sites


def _default_k(arch: str) -> list[Any]:
    return [32] if arch in ("topk", "batchtopk", "matryoshka_batchtopk") else [None]


def _plan(options: SAETrainOptions, site: str, width: int, k: float | None) -> SAEPlan:
    from interp.saes.training.plan import plan_sae, read_settings

    settings = read_settings(options.arch, options.set)
    if k is not None and _default_k(options.arch) == [None]:
        raise UserError(f"--k came with --arch {options.arch}, whose sparsity is set otherwise: by --set {SPARSITY}")
    if k is not None:
        settings["k"] = int(k) if k == int(k) else k
    return plan_sae(
        site,
        options.arch,
        width,
        site_out=options.site_out,
        normalize="none" if options.raw else "expected_average_only_in",
        **settings,
    )


def _training(options: SAETrainOptions, rows: int) -> Training:
    from interp.model.loading.device import pick_device
    from interp.saes.training.plan import Training, usual_batch

    batch = options.batch or usual_batch(pick_device(options.device))
    same = ("lr", "lr_warm_up", "sparsity_warm_up", "dead_after", "resample_every", "precision", "seed")
    wanted = rows if options.tokens is None else options.tokens
    return Training(steps=max(1, wanted // batch), batch=batch, **{name: getattr(options, name) for name in same})


def _watch(options: SAETrainOptions, source: Source) -> Callable[[Any], dict[str, float]] | None:
    """The loss recovered on held-out text, where it is asked for."""
    if not options.loss_tokens:
        return None
    from interp.saes.evaluate import evaluate_sae
    from interp.saes.training.sources import ModelRows
    from interp.text.corpus import prose, split_corpus

    assert isinstance(source, ModelRows)
    # held-out text of the sample for what is trained on the sample; for any other text, what no model wrote
    model, held_out = source.model, prose() if options.corpus else split_corpus()[1]

    def measure(sae: Any) -> dict[str, float]:
        report = evaluate_sae(sae, model, held_out, max_tokens=options.loss_tokens, n_boot=0)
        recovered = report.ce_recovered
        return {
            "held_out_explained_variance": report.explained_variance.mean,
            "ce_clean": report.ce_clean,
            "ce_reconstruction": report.ce_reconstruction,
            "ce_mean_ablation": report.ce_mean_ablation,
            **({"ce_recovered": recovered.mean} if recovered else {}),
        }

    return measure


@contextmanager
def _together(options: SAETrainOptions) -> Iterator[Ranks]:
    """The rank of this process among those that torchrun started; alone without it.

    Where each trains SAEs of its own, nobody has to know of the others but which are whose.
    """
    from interp.model.loading.device import pick_device, process_of_torchrun
    from interp.saes.training.processes import Apart, Ranks, Together

    process = process_of_torchrun()
    if process is None:
        yield Ranks()
        return
    device = pick_device(options.device)
    if options.split == "saes":
        yield Apart(process.rank, process.world)
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Together()
    finally:
        dist.destroy_process_group()
