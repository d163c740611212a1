"""`interp explore`: an index of features in the browser, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interp.cli.loading import LoadingOptions, refuse_other_bos
from interp.cli.terminal import Positional, parse
from interp.errors import UserError

if TYPE_CHECKING:
    from interp.features.live import LiveModel
    from interp.features.read.index import Index


@dataclass(kw_only=True)
class ExploreOptions(LoadingOptions):
    """See the features of an index in the browser; with a model also prompts of yours, read, explained and steered."""

    index: Positional[Path]
    """The index: a folder that `interp features build` wrote."""
    model: str = ""
    """The model it was built with, for prompts; without it no torch is loaded."""
    sae: str | None = None
    """Its SAE, with --model; by default the one that ships with the model."""
    beside: Path | None = None
    """A second index, of the same text, to compare with."""
    runs: Path = Path("runs")
    """Folder of saved runs of probes to show."""
    host: str = "127.0.0.1"
    """Address to serve at; on any but this machine's own a token is demanded."""
    port: int = 8050
    """Port to serve at; 0 takes a free one."""


def explore(arguments: list[str]) -> int:
    """An index of features in the browser: table, map, examples, prompts of yours"""
    options: ExploreOptions = parse(ExploreOptions, arguments, "explore")
    from interp.features.read.index import open_index
    from interp.views.explorer.context import Context
    from interp.views.explorer.serve import prepare

    if options.runs != ExploreOptions.runs and not options.runs.is_dir():
        raise UserError(f"--runs {options.runs} is no folder; expected one that holds runs of probes")
    for flag in ("sae", "device", "dtype", "quantize", "bos"):
        if not options.model and getattr(options, flag) != ExploreOptions.__dataclass_fields__[flag].default:
            raise UserError(f"--{flag} came without --model; expected both, to read prompts")
    index = open_index(options.index)
    beside = None if options.beside is None else _beside(index, options.beside)
    context = Context(index, beside, _live(index, options), runs=options.runs)
    server, address = prepare(context, options.host, options.port)
    print(f"exploring {options.index} at {address} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("the explorer is closed")
    finally:
        server.server_close()
    return 0


def _beside(index: Index, folder: Path) -> Index:
    from interp.features.read.compare import check_same_text
    from interp.features.read.index import open_index

    other = open_index(folder)
    check_same_text(index, other)
    return other


def _live(index: Index, options: ExploreOptions) -> LiveModel | None:
    if not options.model:
        return None
    from interp.features.live import attach_live

    model = options.load()
    refuse_other_bos(index.record["plan"]["capture"]["cut"], model, f"{options.index} was built")
    live = attach_live(index, options.model, options.sae, model=model)
    return live
