"""The `interp` command: parse, call, print. Every error that a user can cause is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper

from interp import __version__
from interp.cli import capture, explore, features, models, probes, saes, store
from interp.errors import UserError, unknown

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": probes.demo,
    "probe": probes.probe,
    "report": probes.report,
    "capture": capture.capture,
    "store": store.store,
    "sae": saes.sae,
    "features": features.features,
    "explore": explore.explore,
    "models": models.models,
    "doctor": models.doctor,
    "parity": models.parity,
}


def main(argv: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    # Before torch starts its threads: waiting ones must not spin. Beside another busy process that costs a factor of 3.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no "…" must not end a run
    try:
        sys.exit(dispatch(arguments))
    except UserError as error:
        print(f"interp: {error}", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        from interp.model.loading.doctor import explain_import_error

        if (line := explain_import_error(error)) is None:
            raise
        print(f"interp: {line}", file=sys.stderr)
        sys.exit(2)
    except PermissionError as error:
        print(f"interp: no permission: {error.filename}; change its mode or choose another path", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interp: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `interp models | head`
        sys.stderr.close()
        sys.exit(0)


def dispatch(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(f"interp-probes {__version__}")
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS, "`interp --help` lists them")
    return COMMANDS[name](rest)


def usage() -> str:
    """The text of `interp --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  interp {name:<{width}}  {(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()]
    return "\n".join(
        [
            "Why does a language model do that? Probes with controls, on a laptop.",
            "",
            *lines,
            "",
            "interp COMMAND --help says what a command takes. Start with: interp demo",
        ]
    )
