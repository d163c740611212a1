"""Streams: queues of work whose order only waits decide. What is read too early, or freed too early, is a `RaceError`.

A vector clock a stream: how far it has come, and how far others had when it last waited for them. A copy to pinned
memory runs as late as it may: until somebody waits for it, the memory holds no number.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch

from .cards import HERE, current, place

LOCK = threading.RLock()  # of clocks and of late copies


class RaceError(RuntimeError):
    """What on a GPU would be a wrong number, now and then."""


class Stream:
    """A queue of work. `clock` counts its work; `seen` [stream]: how far others were when it waited for them."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = place(device)
        self.clock = 0
        self.seen: dict[Stream, int] = {}
        self.late: list[LateCopy] = []
        _all.add(self)

    def wait_stream(self, other: Stream) -> None:
        self._wait({**other.seen, other: other.clock})

    def wait_event(self, event: Event) -> None:
        self._wait(event.seen)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        finish({**self.seen, self: self.clock})

    def query(self) -> bool:
        return not self.late

    def _wait(self, seen: dict[Stream, int]) -> None:
        with LOCK:
            for stream, clock in seen.items():
                self.seen[stream] = max(self.seen.get(stream, 0), clock)


class Event:
    """A place in a stream's queue."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self.seen: dict[Stream, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        self.seen = {**stream.seen, stream: stream.clock}

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def synchronize(self) -> None:
        finish(self.seen)

    def query(self) -> bool:
        return not any(late.tick <= clock for stream, clock in self.seen.items() for late in stream.late)

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds: nothing is timed here, so one."""
        return 1.0


class Memory:
    """An allocation: the stream that it was made on, its last writer and when, who read it since, and for which other
    streams it is kept."""

    def __init__(self, home: Stream) -> None:
        self.home = self.writer = home
        self.tick = home.clock
        self.readers: dict[Stream, int] = {}
        self.kept_for: set[Stream] = set()

    def touched(self, stream: Stream, *, writes: bool) -> None:
        """Raises RaceError where `stream` uses what another wrote, or overwrites what another reads, without a wait.

        What this thread of the host has waited for is done, too.
        """
        if not _waited(stream, self.writer, self.tick):
            raise RaceError(
                f"a stream of {stream.device} uses what another wrote, and did not wait: wait_stream is missing"
            )
        if not writes:
            self.readers[stream] = stream.clock
            return
        if any(not _waited(stream, reader, tick) for reader, tick in self.readers.items()):
            raise RaceError(f"a stream of {stream.device} overwrites what another may still read: a copy is missing")
        self.writer, self.tick, self.readers = stream, stream.clock, {}


def _waited(stream: Stream, other: Stream, tick: int) -> bool:
    return stream is other or max(stream.seen.get(other, 0), _host().get(other, 0)) >= tick


def _host() -> dict[Stream, int]:
    """How far the streams were when this thread of the host last waited for them."""
    if not hasattr(HERE, "waited"):
        HERE.waited = {}
    return HERE.waited


class LateCopy:
    """A copy to pinned memory that has not run yet. What the same stream does later, it does after the copy."""

    def __init__(self, stream: Stream, to: torch.Tensor, held: torch.Tensor, memory: Memory) -> None:
        self.stream, self.to, self.held, self.tick = stream, to, held.clone(), stream.clock
        self.memory, self.home, self.kept_for = weakref.ref(memory), memory.home, memory.kept_for

    def run(self) -> None:
        if self.memory() is None and self.stream is not self.home and self.stream not in self.kept_for:
            raise RaceError("the source of a copy was freed before its stream ran the copy: record_stream is missing")
        self.to.copy_(self.held)


_all: weakref.WeakSet[Stream] = weakref.WeakSet()
_defaults: dict[int, Stream] = {}
_memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
_pinned: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def finish(seen: dict[Stream, int]) -> None:
    """The host waits: run every late copy up to these clocks."""
    with LOCK:
        for stream, clock in seen.items():
            _host()[stream] = max(_host().get(stream, 0), clock)
            due = [late for late in stream.late if late.tick <= clock]
            stream.late = [late for late in stream.late if late.tick > clock]
            for late in due:
                late.run()


def synchronize(device: Any = None) -> None:
    """Wait for all streams of a card."""
    card = place(device)
    for stream in list(_all):
        if stream.device == card:
            stream.synchronize()


def current_stream(device: Any = None) -> Stream:
    """The one that this thread's work goes to; each card has its own when none was chosen."""
    chosen = getattr(HERE, "stream", None)
    return chosen if chosen is not None and chosen.device == place(device) else default_stream(device)


def default_stream(device: Any = None) -> Stream:
    """A card's own."""
    card = place(device)
    if card.index not in _defaults:
        _defaults[card.index] = Stream(card)
    return _defaults[card.index]


class on_stream:  # noqa: N801 - it stands in torch.cuda.stream's place
    """Inside, work goes to this stream, and to its card."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        self.before = getattr(HERE, "stream", None), current()
        if self.stream is not None:
            HERE.stream, HERE.index = self.stream, self.stream.device.index

    def __exit__(self, *_: object) -> None:
        HERE.stream, HERE.index = self.before


def memory_of(held: torch.Tensor, card: torch.device) -> Memory:
    """The allocation that these numbers lie in; new where nobody has seen it."""
    key = held.untyped_storage()._cdata
    memory = _memories.get(key)
    if memory is None:
        memory = _memories[key] = Memory(current_stream(card))
    return memory


def pin(t: torch.Tensor) -> torch.Tensor:
    """Say of a CPU tensor that its memory is pinned."""
    storage = t.untyped_storage()
    _pinned[storage._cdata] = storage
    t._pinned_storage = storage  # type: ignore[attr-defined]  # the storage's Python object lives as long as the tensor
    return t


def is_pinned(t: torch.Tensor) -> bool:
    return t.untyped_storage()._cdata in _pinned


def unwritten(t: torch.Tensor) -> None:
    """What memory holds that nobody wrote yet: no number, or one that no program can mean."""
    t.fill_(torch.nan if t.is_floating_point() else True if t.dtype == torch.bool else torch.iinfo(t.dtype).max // 3)
