"""From the model to wherever rows go: on a GPU, the copy and what follows it run beside the forward.

A captured activation is cast on the GPU, and whatever else is wanted of it computed there; all is copied to pinned
memory on a stream of its own and handed on by threads, so that the model waits for neither the bus nor the disk. On a
CPU there is nothing to gain: it is handed on at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from types import TracebackType
from typing import Generic, TypeVar

import torch
from torch import Tensor

IN_FLIGHT = 8  # activations that may wait in pinned memory; then the model waits for the slowest part
Where = TypeVar("Where")


class Offload(Generic[Where]):
    """Hands activations to `receive(where, values, …)` in main memory as `dtype`; of one thread, in order.

    `also(where, values)`: what is to be computed of the cast values where they are, and handed on behind them.
    `threads`: how many receive at once. Leave the context to wait for the last one. What `receive` raises comes out of
    `put`, or there.
    """

    def __init__(
        self,
        receive: Callable[..., None],
        dtype: torch.dtype,
        *,
        also: Callable[[Where, Tensor], Sequence[Tensor]] = lambda where, values: (),
        threads: int = 1,
    ) -> None:
        self._receive, self._dtype, self._also = receive, dtype, also
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._room = BoundedSemaphore(IN_FLIGHT)
        self._beside = ThreadPoolExecutor(threads)
        self._waiting: list[Future[None]] = []

    def put(self, where: Where, values: Tensor) -> None:
        """Take the values as they are now: the model may go on and overwrite its tensor."""
        if values.device.type != "cuda":
            cast = values.to(self._dtype)
            self._receive(where, *(tensor.cpu() for tensor in (cast, *self._also(where, cast))))
            return
        self._collect(only_done=True)
        self._room.acquire()
        try:
            kept = values.to(self._dtype, copy=True)  # on the model's stream, at the speed of the GPU's memory
            whole = [kept, *self._also(where, kept)]
            stream = self._stream_of(kept.device)
            stream.wait_stream(torch.cuda.current_stream(kept.device))
            with torch.cuda.stream(stream):
                there = [_beside(tensor) for tensor in whole]
                copied = torch.cuda.Event()
                copied.record()
            for tensor in whole:
                tensor.record_stream(stream)
            self._waiting.append(self._beside.submit(self._hand_on, where, there, copied))
        except BaseException:
            self._room.release()
            raise

    def _stream_of(self, device: torch.device) -> torch.cuda.Stream:
        """The stream of the copies from a card; a model may lie on several."""
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]

    def _hand_on(self, where: Where, values: Sequence[Tensor], copied: torch.cuda.Event) -> None:
        try:
            copied.synchronize()
            self._receive(where, *values)
        finally:
            self._room.release()

    def _collect(self, *, only_done: bool) -> None:
        while self._waiting and (self._waiting[0].done() or not only_done):
            self._waiting.pop(0).result()

    def __enter__(self) -> Offload[Where]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._collect(only_done=False)
        finally:
            self._beside.shutdown(wait=True, cancel_futures=True)


def _beside(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, which torch keeps and reuses; it is there when the stream has come so far."""
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return there.copy_(tensor, non_blocking=True)
