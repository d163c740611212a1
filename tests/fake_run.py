"""A run as a probe would leave it."""

from __future__ import annotations

from pathlib import Path

from interp.lab.findings import Finding
from interp.lab.runs import RunInfo, RunWriter, Status

METHOD = """Why does a model that learned "A is B" not know "B is A"?

The reversal curse (Berglund et al., arXiv:2309.12288): a model fine-tuned on `Daphne Barrington directed A Journey
Through Time` completes that sentence, and yet is at chance when asked who directed the film.

What counts as yes:

- exact match in the trained direction is above the shuffled pairing, with the whole interval;
- the double-centred log-probability of the right answer in the reversed direction is equal to the shuffled one
  within 0.1 nats.

What could fool us:
1. names that share tokens, which leak the answer;
2. tied embeddings.

The exact sentence that was trained on:

    <name> is the director of <film>.
"""

PROVENANCE = {
    "model": {"name": "smollm2-135m", "revision": "12fd25f77366fa6b3b4b768ec3050bf629380bac", "dtype": "float32"},
    "sae": {
        "path": "data/sae/smollm2-135m/blocks.12.hook_resid_post",
        "d_sae": 4608,
        "site": "blocks.12.hook_resid_post",
    },
    "environment": {"python": "3.11.7", "torch": "2.8.0", "transformer_lens": "3.9.0", "device": "cpu", "threads": 2},
}


def run_info(**changes: object) -> RunInfo:
    """The run.json of the fake run, with any of its fields changed."""
    fields: dict[str, object] = {
        "probe": "reversal_curse",
        "method": METHOD,
        "paper": "arXiv:2309.12288",
        "command": "interp probe reversal_curse --model smollm2-135m --seed 0 --facts data/facts/people.csv",
        "arguments": {"facts": "data/facts/people.csv", "n_boot": 2000, "templates": ["plain", "question"]},
        "seed": 0,
        "started": "2026-11-24T02:00:00+00:00",
        "provenance": PROVENANCE,
    }
    return RunInfo(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def write_run(folder: Path, findings: list[Finding], info: RunInfo | None = None, status: Status = "finished") -> Path:
    """Write a run folder as the runner does, and return it."""
    writer = RunWriter(folder, info or run_info())
    for finding in findings:
        writer.add(finding)
    writer.finish(status, seconds=212.4, error="OSError: the disk is full" if status == "failed" else "")
    return folder
