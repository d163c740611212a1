"""Ten minutes on a GPU: is everything right there, and how fast? For anybody with a card: `make gpu-check`.

    python scripts/gpu_check.py [--device cuda:0] [--out gpu-check] [--only capture edits] [--pretend]

Every step is a process of its own with a limit in seconds, and writes its line to OUT/lines.jsonl at once: a stop loses
nothing. At the end stand a table and OUT/table.json. Needs no network; models have random weights, for neither parity
nor speed needs trained ones. `--pretend`: on a machine without a GPU, at tiny sizes, to see that the steps run; its
times say nothing. Ends with 1 where a step went wrong. The steps
are in `gpu_right.py` and `gpu_fast.py`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
sys.path[:0] = [str(HERE), str(TESTS)]
MARK = "RESULT "  # what a step's process prints before its line
SLOW = 4  # times as long may a step take where the GPU is pretended
OK, ABSENT, WRONG = "ok", "not here", "WRONG"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", default="cuda:0", help="the card that is checked; by default cuda:0")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder of the table; by default gpu-check")
    parser.add_argument("--only", nargs="*", metavar="STEP", help="these steps alone")
    parser.add_argument("--pretend", action="store_true", help="a pretended GPU, and tiny sizes")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # run this one here, in this process
    limits = {} if "--step" in sys.argv else limits_of_steps()
    parser.epilog = f"steps: {', '.join(limits)}"
    options = parser.parse_args()
    if options.step:
        print(MARK + json.dumps(run_here(options.step, options.device, options.pretend)), flush=True)
        return
    for name in set(options.only or ()) - set(limits):
        parser.error(f"no step {name!r}; there are {', '.join(limits)}")
    if not options.pretend and not has_card():
        print("there is no CUDA device here; try --pretend")
        sys.exit(1)
    if options.pretend:
        print("a pretended GPU: shows that each step runs to its end; its times and ratios say nothing of a card")
    options.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in options.only or limits:
        line = run_apart(name, limits[name] * (SLOW if options.pretend else 1), options)
        lines.append(line)
        with (options.out / "lines.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{line['state']:>9}  {name:12} {line['seconds']:6.1f} s  {line['said']}", flush=True)
        for row in line["rows"]:
            print(" " * 24 + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    (options.out / "table.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    wrong = [line["step"] for line in lines if line["state"] == WRONG]
    print(
        f"{len(lines) - len(wrong)} of {len(lines)} steps as they should be"
        + f"; wrong: {', '.join(wrong)}" * bool(wrong)
    )
    sys.exit(bool(wrong))


def has_card() -> bool:
    """Asked in a process of its own, so that this one holds no memory of the card."""
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def limits_of_steps() -> dict[str, float]:
    """Seconds that each step may take, in the order of the steps; read without torch, which takes seconds itself."""
    for steps in ("gpu_right", "gpu_fast"):  # each adds its own, in this order
        importlib.import_module(steps)
    from gpu_setting import STEPS

    return {name: step.limit for name, step in STEPS.items()}


def run_apart(name: str, limit: float, options: argparse.Namespace) -> dict[str, Any]:
    """A step in a process of its own."""
    command = [sys.executable, __file__, "--step", name, "--device", options.device, *["--pretend"] * options.pretend]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, env=dict(os.environ))
        told = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
        line = json.loads(told[-1].removeprefix(MARK)) if told else None
        error = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode} and said nothing"]
    except subprocess.TimeoutExpired:
        line, error = None, [f"took longer than its {limit:g} s"]
    line = line or {"state": WRONG, "said": error[0], "rows": []}
    return {"step": name, "seconds": round(time.perf_counter() - started, 1), **line}


def run_here(name: str, device: str, pretend: bool) -> dict[str, Any]:
    """A step in this process: its state, a sentence and rows of numbers."""
    if pretend:
        import pretend_gpu  # type: ignore[import-not-found] - in tests/

        pretend_gpu.install(count=2)
    limits_of_steps()
    import gpu_setting

    try:
        said, rows = gpu_setting.run(name, device, pretend)
    except gpu_setting.NotHereError as error:
        return {"state": ABSENT, "said": f"because {error}", "rows": []}
    except Exception as error:  # whatever a step meets belongs into the table, and the next step runs
        return {"state": WRONG, "said": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "rows": []}
    return {"state": OK, "said": said, "rows": rows}


if __name__ == "__main__":
    main()
