"""A running explorer, with saved runs beside its index, and single requests to it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from fake_findings import fake_findings
from fake_run import write_run

from interp.features.read.index import Index
from interp.views.explorer.context import Context
from interp.views.explorer.serve import prepare


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str


def with_runs(index: Index, runs: Path) -> Context:
    """The index, one good run and one that is damaged."""
    write_run(runs / "good", fake_findings())
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text("{ not JSON")
    return Context(index, runs=runs)


@contextmanager
def served(context: Context, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a server that runs while the block does."""
    server, address = prepare(context, host, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(address: str, path: str = "/", headers: Mapping[str, str] | None = None, body: str | None = None) -> Answer:
    """One request with exactly these headers, beside the Host that the address has."""
    there = urlsplit(address)
    connection = http.client.HTTPConnection(there.netloc, timeout=30)
    try:
        told = {"Host": there.netloc} | dict(headers or {})
        connection.request("GET" if body is None else "POST", path, body, told)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
    finally:
        connection.close()
