"""`interp models`, `interp doctor`, `interp parity`: what can be loaded, and whether it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from interp.cli.loading import LoadingOptions
from interp.cli.terminal import Positional, parse, print_table, shown_progress
from interp.errors import unknown

if TYPE_CHECKING:
    from interp.model.hooks.captured import Activations

Action = Literal["list", "prepare", "sites"]


@dataclass
class ModelsOptions:
    """What can be loaded, what is cached, what it takes in memory, and the sites that a model has."""

    action: Positional[Action] = "list"
    """list, prepare (download or unpack now, so that later loads need no network), or sites (to read and edit)."""
    name: Positional[str] = "smollm2-135m"
    """The model to prepare, or whose sites to show."""


def models(arguments: list[str]) -> int:
    """What can be loaded, what is cached, what it costs in memory"""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in get_args(Action):
        raise unknown("action", arguments[0], get_args(Action), f"for a model: interp models sites {arguments[0]}")
    options: ModelsOptions = parse(ModelsOptions, arguments, "models")
    if options.action == "prepare":
        from interp.model.loading.load import load_model

        load_model(options.name)
        return 0
    if options.action == "sites":
        _print_sites(options.name)
        return 0
    from interp.model.loading.doctor import loadable_models

    rows = [(m.name, m.where, f"{m.memory / 1e6:,.0f} MB", m.note) for m in loadable_models()]
    print_table(("model", "where", "weights in fp32", "what"), rows)
    print("also: any decoder by its Hugging Face name (gpt2, name@revision), a folder, a .gguf file")
    return 0


def _print_sites(name: str) -> None:
    from interp.model.hooks.sites import kind_of
    from interp.model.loading.load import load_model

    model = load_model(name)
    table = model.site_table
    kinds: dict[str, list[str]] = {}
    for site in table.listed:
        kinds.setdefault(kind_of(site), []).append(site)
    acts = model.capture([[0, 0]], [sites[0] for sites in kinds.values()])
    rows = [(kind, str(len(sites)), _shape(acts, sites[0])) for kind, sites in kinds.items()]
    print_table(("site (* is the layer)", "n", "shape of what is read there"), rows)


def _shape(acts: Activations, site: str) -> str:
    sizes = zip(acts.axes[site], acts[site].shape, strict=True)
    return ", ".join({"feature": f"{size}", "head": f"{size} heads"}.get(axis, axis) for axis, size in sizes)


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
class ParityOptions(LoadingOptions):
    """Hooks against plain transformers, site by site. Exit code 1 when one is off or a planted fault stays unseen."""


def parity(arguments: list[str]) -> int:
    """Hooks against plain transformers, site by site"""
    options: ParityOptions = parse(ParityOptions, arguments, "parity")
    from interp.model.checking.parity import check_parity

    model = options.load()
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
    for what, reason in result.not_asked.items():
        print(f"not asked: {what}: {reason}")
    sites = len({k.kind for k in result.kinds})
    worst = max(k.relative for k in result.kinds)
    verdict = "parity holds" if result.ok else "parity does NOT hold"
    print(f"{verdict}: {sites} kinds of site; largest difference, relative to the site's largest value, {worst:.1e}")
    return int(not result.ok)
