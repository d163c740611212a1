"""Write `probes/RESULTS.md` and the README's table from a series: `python scripts/write_results.py runs/all-…`.

The argument is the folder of `interp probe all --out FOLDER`. Sentences, rules and their order come from the claims as
the probes declare them, numbers from the runs: nothing is written by hand, and a test compares both with the claims.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from interp.errors import UserError
from interp.lab.claims import Claim, NotAsked, Subject
from interp.lab.discover import list_probes, load_probe
from interp.lab.findings import Finding
from interp.lab.runs import Run, read_run
from interp.lab.series import Series, read_series
from interp.stats.estimate import Estimate
from interp.views.wording import interval

ROOT = Path(__file__).parents[1]
MARKS = "<!-- results: written by scripts/write_results.py -->", "<!-- end of results -->"
HEAD = "| verdict | claim | measured | control |", "|---|---|---|---|"
ABOUT: dict[Subject, str] = {  # what a claim is about that is not about the loaded model
    "model": "",
    "tokenizer": "*(its tokenizer)*",
    "SAE": "*(its SAE)*",
    "machine": "*(this machine)*",
    "trained here": "*(small models that the probe trains)*",
    "others": "*(models that are named to it)*",
}
Answer = Finding | NotAsked


def answers_of(claim: Claim, run: Run) -> list[Answer]:
    """What a run says of a claim: one answer for each thing that the claim was put to."""
    return [one for one in (*run.findings, *run.not_asked) if one.declared == claim.text]


def verdict(answer: Answer) -> str:
    return "not asked" if isinstance(answer, NotAsked) else answer.verdict


def results_page(series: Series) -> str:
    """The page: a part a probe, with a row for each answer to its question."""
    info = read_run(series.runs[0]).info
    model = info.provenance["model"].get("described") or info.provenance["model"]["name"]
    settings = "quick settings (`--quick`)" if info.provenance["settings"]["quick"] else "usual settings"
    lines = [
        "# What the probes say, run on the bundled model",
        "",
        f"{model}, {settings}, seed {info.seed}, {info.started[:10]}. Here are the claims that answer each probe's "
        "question; the report of a run has all the others, with tables, pictures and what could fool us. Numbers stand "
        "with their 95 % intervals, each beside its control; a claim is decided by the gap between the two, whose "
        "whole interval must lie beyond the margin (for “within”: inside it). Where a claim is not about the loaded "
        "model, it is said what it is about.",
    ]
    for name in list_probes():
        probe, run = load_probe(name), read_run(series.folder / name)
        lines += ["", f"## {name}", "", probe.title, "", *HEAD]
        lines += [_row(one, claim.subject) for claim in probe.claims if claim.answers for one in answers_of(claim, run)]
    return "\n".join(lines) + "\n"


def readme_table(series: Series) -> str:
    """The README's table: a row a probe, with its question, its first claim, and how many of its answers say what."""
    lines = ["| probe | its question | its first claim | all its answers |", "|---|---|---|---|"]
    for name in list_probes():
        probe, run = load_probe(name), read_run(series.folder / name)
        answering = [claim for claim in probe.claims if claim.answers]
        counts = Counter(verdict(answer) for claim in answering for answer in answers_of(claim, run))
        tally = ", ".join(f"{counts[word]} {word}" for word in ("yes", "no", "unclear", "not asked") if counts[word])
        first = answers_of(answering[0], run)[0]
        told = f"**{verdict(first)}**: {_cell(first.claim)}"
        if isinstance(first, Finding):
            told += f" {_number(first.estimate)}, control {_control(first)}"
        lines.append(f"| [`{name}`](probes/RESULTS.md#{name}) | {_cell(probe.title)} | {told} | {tally} |")
    return "\n".join(lines)


def between_marks(text: str, table: str) -> str:
    """`text` with the table in place of what stood between the marks."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{after}"


def _row(answer: Answer, subject: Subject) -> str:
    if isinstance(answer, NotAsked):
        return f"| not asked | {_cell(answer.claim)} | {_cell(answer.because)} | |"
    measured = f"{_number(answer.estimate)} {answer.estimate.unit}"
    about = f"{_cell(answer.claim)} {ABOUT[subject]}".strip()
    return f"| **{answer.verdict}** | {about} | {_cell(measured)} | {_cell(_control(answer))} |"


def _control(answer: Finding) -> str:
    margin = f"; margin {answer.margin:g}" if answer.margin else ""
    return f"{_number(answer.control.estimate)}: {answer.control.name}{margin}"


def _number(estimate: Estimate) -> str:
    return " ".join(filter(None, interval(estimate)))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def main(folder: str) -> None:
    series = read_series(folder)
    if series is None:
        raise UserError(f"{folder} is no series; expected the folder of `interp probe all --out FOLDER`")
    if missing := [name for name in list_probes() if not series.has(name)]:
        raise UserError(f"{folder} has no finished run of {', '.join(missing)}; expected every probe")
    (ROOT / "probes" / "RESULTS.md").write_text(results_page(series), encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(between_marks(readme.read_text(encoding="utf-8"), readme_table(series)), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except UserError as error:
        sys.exit(f"error: {error}")
