"""Python processes that have imported torch already: what `subprocess` does, begun in hundredths of a second.

A new interpreter imports torch, transformers and TransformerLens for seconds before it does what the test is about.
Here a server has imported them once, and each process is a fork of it: with a number of its own, which can be killed,
and with nothing of the test's own process in it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

INTERP = "import sys; from interp.cli import main; main(sys.argv[1:])"
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "torch",
        "transformers.models.gpt2.modeling_gpt2",
        "transformer_lens.model_bridge.sources._bridge_builder",
        "sae_lens",
        "scipy.stats",
        "plotly.graph_objects",
        "tyro",
        "safetensors.torch",
    ]
)


class Process:
    """A process that runs `script`, with `arguments` in sys.argv; the methods are those of `subprocess.Popen`."""

    def __init__(
        self,
        script: str,
        arguments: Sequence[object] = (),
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.args = [str(argument) for argument in arguments]
        self._told = [tempfile.NamedTemporaryFile(mode="r", encoding="utf-8") for _ in ("output", "error")]  # noqa: SIM115 - as long as this
        job = (script, self.args, str(cwd or Path.cwd()), dict(env or os.environ), [file.name for file in self._told])
        self._process = _SERVER.Process(target=_become, args=job)
        self._process.start()
        atexit.register(self._process.kill)  # or a test that failed would be waited for at the end
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and error, once it has ended."""
        self.wait(timeout)
        return self.told("output"), self.told("error")

    def told(self, where: Literal["output", "error"]) -> str:
        """What it wrote there so far."""
        file = self._told[where == "error"]
        file.seek(0)
        return file.read()


def run(
    script: str,
    arguments: Sequence[object] = (),
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Wait for its end; one that takes longer than `timeout` seconds is killed."""
    process = Process(script, arguments, cwd=cwd, env=env)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def _become(script: str, arguments: list[str], cwd: str, env: dict[str, str], told: list[str]) -> None:
    """What a new interpreter would have: its own directory, variables, outputs, and the usual answer to Ctrl-C."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, file in enumerate(told, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *arguments]
    exec(compile(script, "<warm>", "exec"), {"__name__": "__main__"})
