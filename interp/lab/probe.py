"""What a probe is: one generator function in one file, whose docstring is the method and whose parameters are flags.

    CURSE = Claim("Asked in the other order, it answers no better than chance.", expects="equal", margin=0.05, …)

    @probe(paper="arXiv:2309.12288", claims=[CURSE])
    def reversal_curse(lab: Lab, *, n_boot: int = 2000) -> Iterator[Finding | NotAsked]:
        yield CURSE.answer(estimate, control)

No torch here: probes are listed, and their findings read, on machines without it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, get_args, get_origin, get_type_hints

from interp.errors import UserError
from interp.lab.claims import Claim, NotAsked
from interp.lab.findings import Finding, shown
from interp.progress import Progress, labelled, silent

if TYPE_CHECKING:
    from interp.model.model import Model

P = ParamSpec("P")


@dataclass(frozen=True)
class Lab:
    """What the runner hands to a probe.

    `model`: the loaded model. `seed`: everything random derives from it. `sae_folder`: a sparse autoencoder to use, or
    None. `quick`: fewer repeats for a first look; `full`: more, and larger models to train, for a GPU or a night.
    `progress(what, done, total)`: tell the user how far it is.
    """

    model: Model
    seed: int = 0
    sae_folder: Path | None = None
    quick: bool = False
    full: bool = False
    progress: Progress = field(default=silent, repr=False)

    def tell(self, what: str) -> Progress:
        """The `progress` of a long function, shown under the words `what` instead of the function's own."""
        return labelled(self.progress, what)


@dataclass(frozen=True)
class Least:
    """Least value of a flag: `steps: Annotated[int, Least(1)] = 400`. Lower ones are refused before a model loads."""

    value: float


def check_effort(quick: bool, full: bool) -> None:
    """Raise UserError where both are asked for."""
    if quick and full:
        raise UserError("--quick and --full both came; expected one of them, or neither")


@dataclass(frozen=True)
class Probe:
    """A phenomenon that can be run. Made by `@probe`. `claims`: what it sets out to test, in the report's order.

    `long`: does it take minutes more than others? Then a series begins with it.
    """

    function: Callable[..., Iterator[Finding | NotAsked]]
    paper: str | None
    claims: tuple[Claim, ...] = ()
    long: bool = False

    @property
    def name(self) -> str:
        """The name on the command line: the function's, with dashes."""
        return self.function.__name__.replace("_", "-")

    @property
    def method(self) -> str:
        """The module's docstring: question, paper, what counts as yes, what could fool us."""
        return inspect.cleandoc(sys.modules[self.function.__module__].__doc__ or self.function.__doc__ or "")

    @property
    def title(self) -> str:
        """The first line of the method."""
        return self.method.partition("\n")[0]

    def parameters(self) -> dict[str, tuple[Any, Any]]:
        """Keyword parameters as {name: (type, default)}: the probe's own flags."""
        hints = get_type_hints(self.function, include_extras=True)
        keywords = (
            p for p in inspect.signature(self.function).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY
        )
        return {p.name: (hints[p.name], p.default) for p in keywords}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise UserError for an argument below the `Least` that its parameter is annotated with."""
        for name, (kind, default) in self.parameters().items():
            value = arguments.get(name, default)
            bounds = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
            for least in (bound.value for bound in bounds if isinstance(bound, Least)):
                if value is not None and not value >= least:  # so that NaN is refused as well
                    raise UserError(f"--{name.replace('_', '-')} {value}; expected {least:,} or more")

    def __call__(self, lab: Lab, **arguments: Any) -> Iterator[Finding | NotAsked]:
        """Run it; answers come as they are reached. Raises UserError as `check` does, before it begins."""
        self.check(arguments)
        return self.function(lab, **arguments)


def probe(
    *, paper: str | None = None, claims: Sequence[Claim] = (), long: bool = False
) -> Callable[[Callable[Concatenate[Lab, P], Iterator[Finding | NotAsked]]], Probe]:
    """Make a generator function a probe. Its first parameter is the lab; the others are keyword-only, with defaults.

    `claims` are declared once each. Raises UserError for two of one text, and for a parameter without type or default.
    """
    if not isinstance(claims, Sequence) or not all(isinstance(claim, Claim) for claim in claims):
        raise UserError(f"@probe got claims={shown(claims)}; expected a list of them: claims=[Claim(…), …]")
    texts = [claim.text for claim in claims]
    if twice := [text for i, text in enumerate(texts) if text in texts[:i]]:
        raise UserError(
            f"the claim {twice[0]!r} is declared twice; expected each once: take one of the two out of claims=[…]"
        )

    def decorate(function: Callable[Concatenate[Lab, P], Iterator[Finding | NotAsked]]) -> Probe:
        first, *rest = inspect.signature(function).parameters.values()
        for p in rest:
            if p.annotation is inspect.Parameter.empty:
                raise UserError(
                    f"probe {function.__name__}: parameter {p.name!r} has no type; write {p.name}: int = 8, or what it "
                    "is, for the command line reads it so"
                )
            if p.kind is not inspect.Parameter.KEYWORD_ONLY or p.default is inspect.Parameter.empty:
                raise UserError(
                    f"probe {function.__name__}: parameter {p.name!r} must be keyword-only with a default; "
                    f"write ({first.name}, *, {p.name}=…)"
                )
        return Probe(function, paper, tuple(claims), long)

    return decorate
