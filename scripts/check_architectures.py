"""Is interp right on every architecture that transformers builds offline? Tiny models, held to plain transformers.

    python scripts/check_architectures.py [NAME …]

A table of gaps, one row an architecture and one column a check: the largest difference over the largest value of plain,
eager, unpadded transformers, or the share of wrong tokens in generated text. `OFF` is a gap above 1e-4, `BLIND` a check
that did not find the fault planted for it, `BROKE` a traceback, `REFUSED` a refusal that nobody expects. `refused` is
one that tests/architectures.py gives a reason for, `-` nothing to compare. Ends with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch
from architecture_checks import CHECKS, check  # type: ignore[import-not-found] - in tests/
from architectures import ARCHITECTURES  # type: ignore[import-not-found]
from hub import tiny_gpt2  # type: ignore[import-not-found]
from transformers import AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures of tests/architectures.py; all of them")
    names: list[str] = parser.parse_args().names or list(ARCHITECTURES)
    for name in set(names) - set(ARCHITECTURES):
        near = ", ".join(difflib.get_close_matches(name, ARCHITECTURES, cutoff=0.3))
        parser.error(f"no architecture {name!r}; nearest: {near or ', '.join(ARCHITECTURES)}")
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(str(tiny_gpt2(Path(folder) / "tiny")))
    print(f"{'':20}", *(f"{what:>12}" for what in CHECKS))
    faulty: list[str] = []
    for name in names:
        verdict = check(name, tokenizer)
        print(f"{name:20}", *(f"{outcome!s:>12}" for outcome in verdict.outcomes.values()), flush=True)
        for line in verdict.lines():
            print(f"{'':20}  {line}")
        if not verdict.ok:
            faulty.append(name)
    print(f"{len(names) - len(faulty)} of {len(names)} architectures are right; wrong: {', '.join(faulty) or 'none'}")
    sys.exit(bool(faulty))


if __name__ == "__main__":
    main()
