"""`interp models`, `interp doctor`, `interp parity`: what can be loaded, and whether it can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from interp.cli.loading import SHIPPED, LoadingOptions
from interp.cli.terminal import Positional, parse, print_table, shown_progress
from interp.errors import UserError, unknown

if TYPE_CHECKING:
    from interp.model.hooks.captured import Activations
    from interp.model.model import Model

FULL_PRECISION = (None, "fp32", "float32")


@dataclass
class ListOptions:
    """What can be loaded, what is cached, and what it takes in memory."""


def list_models(arguments: list[str]) -> int:
    """What can be loaded, what is cached, what it takes in memory"""
    if arguments and not arguments[0].startswith("-"):
        raise UserError(
            f"interp models list takes no name, and {arguments[0]!r} came; to fetch a model: interp models prepare "
            f"{arguments[0]}; for its sites: interp models sites {arguments[0]}"
        )
    parse(ListOptions, arguments, "models list")
    from interp.model.loading.doctor import loadable_models

    rows = [(m.name, m.where, _size(m.parameters, 4), _size(m.parameters, 2), m.note) for m in loadable_models()]
    print_table(("model", "where", "in fp32", "in bf16", "what"), rows)
    print("with --quantize 4bit the matrices take about a seventh of fp32, with 8bit a quarter")
    print("also: any decoder by its Hugging Face name (gpt2, name@revision), a folder, a .gguf file")
    return 0


def _size(parameters: int | None, each: int) -> str:
    return "not known" if parameters is None else f"{each * parameters / 1e6:,.0f} MB"


@dataclass
class PrepareOptions:
    """Download or unpack a model now, so that later loads need no network."""

    name: Annotated[
        Positional[str],
        tyro.conf.arg(metavar="[NAME]", help="Bundled name, Hugging Face name, folder or .gguf file."),
    ] = SHIPPED


def prepare(arguments: list[str]) -> int:
    """Download or unpack a model now, so that later loads need no network"""
    options: PrepareOptions = parse(PrepareOptions, arguments, "models prepare")
    from interp.model.loading.places import check_model

    check_model(options.name)
    from interp.model.loading.load import load_model

    load_model(options.name)
    return 0


@dataclass(kw_only=True)
class NamedModelOptions(LoadingOptions):
    """A model by its name alone, or by --model."""

    name: Annotated[Positional[str], tyro.conf.arg(metavar="[NAME]", help="The model, as for --model.")] = ""

    def __post_init__(self) -> None:
        """Take the name for --model. Raises UserError where both came and differ."""
        if self.name and self.model not in (SHIPPED, self.name):
            raise UserError(f"two models came, {self.name} and --model {self.model}; expected one; leave one out")
        self.model = self.name or self.model
        super().__post_init__()


@dataclass(kw_only=True)
class SitesOptions(NamedModelOptions):
    """The sites of a model, to read and edit: those that match a pattern, or all, and what opens when it is named."""

    pattern: Annotated[
        Positional[str],
        tyro.conf.arg(
            metavar="[PATTERN]",
            help="Which sites, such as 'blocks.*.attn.*': in quotes, or the shell takes the stars. By default all.",
        ),
    ] = "*"

    def __post_init__(self) -> None:
        """Raise UserError for a pattern in the place of the model."""
        if "*" in self.name:
            raise UserError(
                f"{self.name!r} came in the place of the model; expected its name first, such as: "
                f"interp models sites {SHIPPED} {self.name!r}"
            )
        super().__post_init__()


def sites(arguments: list[str]) -> int:
    """The sites that a model has, to read and edit"""
    options: SitesOptions = parse(SitesOptions, arguments, "models sites")
    model = options.load()
    kinds = _by_kind(model.sites(options.pattern))
    acts = model.capture([[0, 0]], [names[0] for names in kinds.values()])
    rows = [(kind, str(len(names)), _shape(acts, names[0])) for kind, names in kinds.items()]
    print_table(("site (* is the layer)", "n", "shape of what is read there"), rows)
    if options.pattern == "*":
        _print_gated(model)
    return 0


def _print_gated(model: Model) -> None:
    """The sites that `*` does not mean, since each costs: they are read and edited like the others."""
    from interp.model.hooks.gated import list_gated

    for gated in list_gated(model.bridge, model.site_table, model.hf.dtype.itemsize):
        print(f"opened when named: {gated.kind} ({gated.n_sites}), {gated.cost}")


def _by_kind(names: list[str]) -> dict[str, list[str]]:
    from interp.model.hooks.sites import kind_of

    kinds: dict[str, list[str]] = {}
    for site in names:
        kinds.setdefault(kind_of(site), []).append(site)
    return kinds


def _shape(acts: Activations, site: str) -> str:
    sizes = zip(acts.axes[site], acts[site].shape, strict=True)
    return ", ".join({"feature": f"{size}", "head": f"{size} heads"}.get(axis, axis) for axis, size in sizes)


MODEL_COMMANDS: dict[str, Callable[[list[str]], int]] = {"list": list_models, "prepare": prepare, "sites": sites}


def models(arguments: list[str]) -> int:
    """What can be loaded, what is cached, what it costs in memory"""
    if not arguments:
        return list_models([])
    if arguments[0] in ("-h", "--help"):
        print("Models: what can be loaded, and where each can be read and edited.\n")
        print("\n".join(f"  interp models {name:<9} {f.__doc__}" for name, f in MODEL_COMMANDS.items()))
        return 0
    if arguments[0] not in MODEL_COMMANDS:
        raise unknown("action", arguments[0], MODEL_COMMANDS, f"for a model: interp models sites {arguments[0]}")
    return MODEL_COMMANDS[arguments[0]](arguments[1:])


@dataclass
class DoctorOptions:
    """Versions, device and caches; what is missing and the command that fixes it. Exit code 1 when something is."""


def doctor(arguments: list[str]) -> int:
    """Versions, device, caches, what is missing and how to get it"""
    parse(DoctorOptions, arguments, "doctor")
    from interp.model.loading.doctor import check_machine

    checks = check_machine()
    print_table(("", "", "found", "to fix it"), [(c.state, c.what, c.found, c.fix) for c in checks])
    missing = sum(c.state == "missing" for c in checks)
    print(f"{missing} to fix" if missing else "everything is there")
    return int(missing > 0)


@dataclass(kw_only=True)
class ParityOptions(NamedModelOptions):
    """Hooks against plain transformers, site by site. Exit code 1 when one is off or a planted fault stays unseen."""

    dtype: Annotated[
        str | None, tyro.conf.arg(help="fp32 alone: in a coarser type a fault of one part in 100,000 cannot be seen.")
    ] = None


def parity(arguments: list[str]) -> int:
    """Hooks against plain transformers, site by site"""
    options: ParityOptions = parse(ParityOptions, arguments, "parity")
    if options.dtype not in FULL_PRECISION:
        raise UserError(
            f"--dtype {options.dtype} came; parity compares to one part in 100,000, which only fp32 holds; "
            "leave --dtype out"
        )
    model = options.load()
    from interp.model.checking.parity import check_parity

    with shown_progress() as say:
        result = check_parity(model, progress=say)
    rows = [
        (k.kind, k.reference, str(k.n_sites), f"{k.absolute:.1e}", f"{k.relative:.1e}", "ok" if k.ok else "OFF")
        for k in result.kinds
    ]
    print_table(("sites", "checked against", "comparisons", "largest difference", "relative", ""), rows)
    for what, does in result.behaviour.items():
        print(f"{what}: {'ok' if does else 'NO'}")
    for fault, found in result.faults.items():
        print(f"planted fault, {fault}: {'found' if found else 'NOT FOUND'}")
    for site in result.unchecked:
        print(f"nothing checks {site}")
    for what, reason in result.not_editable.items():
        print(f"not editable here: {what}: {reason}")
    for what, reason in result.not_asked.items():
        print(f"not asked: {what}: {reason}")
    sites = len({k.kind for k in result.kinds})
    worst = max(k.relative for k in result.kinds)
    verdict = "parity holds" if result.ok else "parity does NOT hold"
    print(f"{verdict}: {sites} kinds of site; largest difference, relative to the site's largest value, {worst:.1e}")
    return int(not result.ok)
