"""`interp capture`: activations of a corpus to a store on disk, begun anew, gone on with, or joined."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from interp.cli.loading import SHIPPED, LoadingOptions, ReadingOptions
from interp.cli.terminal import parse, print_table, shown_progress, stoppable
from interp.cli.worker import choose_worker
from interp.errors import UserError

if TYPE_CHECKING:
    from interp.activations.capture import Worker
    from interp.activations.cost import Cost
    from interp.activations.plan import Plan
    from interp.activations.store import Store
    from interp.activations.token_table import Tokens
    from interp.model.model import Model

Dtype = Literal["fp32", "bf16", "fp16"]
# what a store's plan decides, and a worker that joins is not to say
PLANNED = ("corpus", "sites", "store", "context", "packing", "max_tokens", "batch_tokens", "shard_bytes", "register")
PLANNED += ("compile", "plan_only", "text_column", "skip_empty")


@dataclass(kw_only=True)
class CaptureOptions(ReadingOptions, LoadingOptions):
    """Activations of a corpus to a store on disk. Run it again to go on where it stopped."""

    corpus: Annotated[
        str,
        tyro.conf.arg(
            help="Text (documents parted by blank lines), .jsonl, .parquet, each also .gz or .zst; a folder; hf:NAME. "
            "Needed, but with --join."
        ),
    ] = ""
    sites: Annotated[
        tuple[str, ...], tyro.conf.arg(help="Sites or patterns, such as blocks.*.hook_resid_post. Needed, as --corpus.")
    ] = ()
    out: Annotated[Path, tyro.conf.arg(help="The store: a folder to create, or one to go on with.")]
    store: Annotated[Dtype, tyro.conf.arg(help="What is stored.")] = "fp32"
    context: Annotated[
        int | None, tyro.conf.arg(help="Tokens of a sequence, at most; by default 128, or what the model takes.")
    ] = None
    packing: Annotated[
        Literal["documents", "packed"],
        tyro.conf.arg(help="Every document by itself, or one after the other without padding."),
    ] = "documents"
    max_tokens: Annotated[int | None, tyro.conf.arg(help="Stop after so many tokens; by default at the end.")] = None
    batch_tokens: Annotated[
        int | None,
        tyro.conf.arg(help="Tokens of a forward, at most; by default 1024 on a CPU. Decides the last bits."),
    ] = None
    shard_bytes: Annotated[
        int | None,
        tyro.conf.arg(help="Bytes of a shard, at most, or one sequence: what a kill can cost. By default 256 MiB."),
    ] = None
    register: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help="NAME=MODULE: sites of your own, as blocks.*.mlp.hook_act=model.layers.*.mlp.act_fn."),
    ] = ()
    shard: Annotated[
        str | None,
        tyro.conf.arg(
            help="I/N: only every Nth shard from I on; by default RANK/WORLD_SIZE or SLURM's array, else all."
        ),
    ] = None
    compile: Annotated[
        bool,
        tyro.conf.arg(help="Compile the model's blocks first (torch.compile): for long captures; see --plan-only."),
    ] = False
    plan_only: Annotated[bool, tyro.conf.arg(help="Say what it will take, and stop.")] = False
    join: Annotated[
        bool,
        tyro.conf.arg(help="Help to finish the store at --out: plan and tokens come from there, the text is not read."),
    ] = False
    mixed: Annotated[
        bool,
        tyro.conf.arg(
            help="Join on another device, number of threads or version, too: values then differ by some 1e-6 of the "
            "largest, and every shard says what computed it."
        ),
    ] = False

    def __post_init__(self) -> None:
        """Raise UserError where text and sites are missing, or came beside a plan that names them already."""
        if self.join:
            planned = [name for name in PLANNED if getattr(self, name) != getattr(type(self), name, ())]
            if planned:
                flags = ", ".join(f"--{name.replace('_', '-')}" for name in planned)
                raise UserError(f"--join came with {flags}; the plan in --out says that already; leave it out")
            self._take_planned()
        else:
            for name in ("corpus", "sites"):
                if not getattr(self, name):
                    raise UserError(f"--{name} is missing; expected it, or --join to help to finish the store at --out")
            if self.mixed:
                raise UserError("--mixed came without --join; a capture that is begun anew has nothing to differ from")
        super().__post_init__()

    def _take_planned(self) -> None:
        """The model as it was planned, where the flags do not name another place or precision of it."""
        from interp.activations.store import open_store

        plan = open_store(self.out).plan
        if self.model == SHIPPED:
            self.model = plan.model["name"]
        compute, _, packed = plan.numerics["compute"].partition(", weights in ")
        self.dtype = self.dtype or compute
        for way in ("4bit", "8bit"):
            if f"bitsandbytes {way}" in packed and self.quantize is None:
                self.quantize = way


def capture(arguments: list[str]) -> int:
    """Activations of a corpus to a store on disk; any number of workers, never a shard lost"""
    options: CaptureOptions = parse(CaptureOptions, arguments, "capture")
    from interp.activations.capture import capture_store
    from interp.activations.cost import measure_cost
    from interp.activations.create import refuse_other
    from interp.activations.store import open_store
    from interp.paths import check_place

    check_place(options.out, "--out")
    worker = choose_worker(options.shard)
    if options.join:
        return _join(options, worker)
    model, plan, tokens = _plan_of(options)
    if options.plan_only:
        if (options.out / "plan.json").exists():
            refuse_other(options.out, open_store(options.out).plan, plan)
        return _print_plan(plan, tokens, measure_cost(model, plan, tokens, options.out), worker)
    _tell_what_is_there(options.out, plan)
    with shown_progress() as say, stoppable("finishing the shard in hand") as asked_to_stop:
        store = capture_store(
            model, options.out, plan, tokens, worker=worker, progress=say, stop=lambda: bool(asked_to_stop())
        )
        stopped = asked_to_stop()
    return _told_at_the_end(store, stopped)


def _join(options: CaptureOptions, worker: Worker) -> int:
    """Take plan and tokens from the folder; without --shard the workers share what is left as they come."""
    from interp.activations.join import join_store

    model = options.load()
    with shown_progress() as say, stoppable("finishing the shard in hand") as asked_to_stop:
        store = join_store(
            model,
            options.out,
            mixed=options.mixed,
            worker=worker if worker.count > 1 else None,
            progress=say,
            stop=lambda: bool(asked_to_stop()),
        )
        stopped = asked_to_stop()
    return _told_at_the_end(store, stopped)


def _told_at_the_end(store: Store, stopped: int) -> int:
    """Say what there is now, and what is left to do."""
    missing, shards = store.missing, len(store.plan.shards)
    whole = shards - len(missing)
    if stopped and missing:
        print(
            f"interp: stopped; {whole} of {shards} shards kept in {store.folder}; the same command goes on",
            file=sys.stderr,
        )
        return 128 + stopped
    print(f"{whole} of {shards} shards of {len(store):,} tokens: {store.folder.resolve()}")
    if missing:
        print(f"{len(missing)} to go, which are other workers': run them with --shard, or the command without it")
    return 0


def _plan_of(options: CaptureOptions) -> tuple[Model, Plan, Tokens]:
    """Load the model, read the corpus, and plan; what is left out of the corpus is said on stderr."""
    from interp.activations.plan import SHARD_BYTES, fit_context, plan_capture
    from interp.activations.token_table import Cut

    cut = Cut(Cut.context if options.context is None else options.context, options.packing, options.max_tokens)
    corpus = options.open(options.corpus)
    if corpus.ignored:
        others = ", ".join(path.name for path in corpus.ignored[:3]) + ", …" * (len(corpus.ignored) > 3)
        print(f"interp: not read, for their endings ({len(corpus.ignored)}): {others}", file=sys.stderr)
    model = options.load()
    cut = replace(cut, context=fit_context(model, options.context))
    for one in options.register:
        name, equals, where = one.partition("=")
        if not equals:
            raise UserError(
                f"--register {one}; expected NAME=MODULE, as blocks.*.mlp.hook_act=model.layers.*.mlp.act_fn"
            )
        model.register_site(name, where)
    with shown_progress() as say:
        plan, tokens = plan_capture(
            model,
            corpus,
            options.sites,
            cut=cut,
            dtype=options.store,
            batch_tokens=options.batch_tokens or _batch_there(options.out, cut.context),
            shard_bytes=SHARD_BYTES if options.shard_bytes is None else options.shard_bytes,
            compiled=options.compile,
            progress=say,
        )
    if left_out := plan.corpus.get("left_out"):
        print(f"interp: {left_out:,} rows without text left out", file=sys.stderr)
    return model, plan, tokens


def _tell_what_is_there(folder: Path, plan: Plan) -> None:
    """Say where a capture goes on. What is damaged is the capture's to fix, and to speak of."""
    from interp.activations.store import describe_kernels, open_store

    with suppress(UserError):
        there = open_store(folder)
        if there.plan.is_same(plan):
            done = len(plan.shards) - len(there.missing)
            print(f"interp: going on: {done} of {len(plan.shards)} shards are there", file=sys.stderr)
            machines = [describe_kernels(one.numerics) for one in (there.plan, plan)]
            if machines[0] != machines[1]:
                print(
                    f"interp: begun on {machines[0]}, this is {machines[1]}: fp32 values differ by some 1e-6 of the "
                    "largest; every shard says what it was computed on",
                    file=sys.stderr,
                )


def _batch_there(folder: Path, context: int) -> int | None:
    """The tokens of a forward in the store that lies there: another device's default would be another capture."""
    from interp.activations.store import PLAN, plan_in, read_record

    with suppress(UserError):
        if (folder / PLAN).exists():
            return max(plan_in(read_record(folder)).batch_tokens, context)
    return None


def _print_plan(plan: Plan, tokens: Tokens, cost: Cost, worker: Worker) -> int:
    hours, minutes = divmod(round(cost.seconds / 60), 60)
    left_out = f"; {plan.corpus['left_out']:,} without text left out" if "left_out" in plan.corpus else ""
    more = "" if plan.corpus["whole"] else " (the corpus holds more)"
    rows = [
        ("documents", f"{len(tokens.row):,}{more}{left_out}"),
        ("tokens", f"{len(tokens):,} in {len(tokens.starts) - 1:,} sequences of at most {plan.cut['context']}"),
        ("sites", f"{len(plan.sites)}, read from the {plan.path}"),
        ("shards", f"{len(plan.shards)}"),
        ("on disk", f"{cost.size / 1e9:.2f} GB as {plan.numerics['stored']}; {cost.free / 1e9:.2f} GB are free"),
        ("peak memory", f"{cost.memory / 1e9:.2f} GB, the model included"),
        *((f"on {c.card}", f"{c.needed / 1e9:.2f} of {c.there / 1e9:.2f} GB, the model included") for c in cost.cards),
        ("time", f"{hours} h {minutes} min on this machine" + (f", shared by {worker.count}" * (worker.count > 1))),
    ]
    print_table(("", ""), [*rows, ("faster", _faster(plan, cost))])
    if cost.size > cost.free:
        raise UserError(
            "the store does not fit the disk; store bf16, or fewer sites or tokens, or choose another --out"
        )
    return 0


def _faster(plan: Plan, cost: Cost) -> str:
    """What would make it faster, or did."""
    hints = []
    if cost.cards and plan.numerics["compute"] == "float32":
        hints.append("--dtype bf16: products in fp32 are most of the time on a GPU")
    if cost.compiling is None:
        hints.append("--compile takes up to a minute at first; with --plan-only it is measured whether that pays")
        return "; ".join(hints)
    made = f"compiled {cost.compiling.speedup:.2f} times as fast, after {cost.compiling.seconds:.0f} s of compiling"
    pays = cost.compiling.pays_from
    when = f"pays for captures of {max(1, round(pays / 60))} min or more" if isfinite(pays) else "does not pay here"
    return "; ".join([f"{made}: {when}", *hints])
