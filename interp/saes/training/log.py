"""Where metrics of training go besides `metrics.jsonl`: to TensorBoard and to Weights & Biases, if asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from interp.errors import UserError, unknown

Sink = Callable[[Mapping[str, Any]], None]  # one line of metrics


@contextmanager
def sinks_of(names: Sequence[str], run: str) -> Iterator[list[Sink]]:
    """Where else metrics go: "tensorboard" writes to `runs/` here, "wandb" to the project interp-probes."""
    known = {"tensorboard": _tensorboard, "wandb": _wandb}
    if wrong := [name for name in names if name not in known]:
        raise unknown("log", wrong[0], known)
    with ExitStack() as stack:
        yield [stack.enter_context(known[name](run)) for name in names]


@contextmanager
def _tensorboard(run: str) -> Iterator[Sink]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--log tensorboard needs the package tensorboard; pip install tensorboard") from error
    writer = SummaryWriter(f"runs/tensorboard/{run}")

    def write(line: Mapping[str, Any]) -> None:
        for name, value in _numbers(line).items():
            writer.add_scalar(name, value, line["step"])

    try:
        yield write
    finally:
        writer.close()


@contextmanager
def _wandb(run: str) -> Iterator[Sink]:
    import wandb

    began = wandb.init(project="interp-probes", name=run)
    try:
        yield lambda line: began.log(_numbers(line), step=line["step"])
    finally:
        began.finish()


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn, by names that tell several SAEs apart."""
    numbers = {key: value for key, value in line.items() if isinstance(value, int | float) and key != "step"}
    return {f"{line['sae']}/{key}": value for key, value in numbers.items()}
