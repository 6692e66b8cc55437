"""Intervals on their way to the writer, over a pipe that never blocks us.

When the writer lags (its disk hangs behind the very agent we observe), intervals
are merged: sums are added, in-flight snapshots replaced by newer ones, finished
operations kept up to a bound and counted beyond it. Counts stay exact.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tracer import wire
from tracer.losses import OUTBOX_FULL
from tracer.records import (
    CountKey,
    LatencyKey,
    LatencyVal,
    OpRec,
    RpcRec,
    UseKey,
    UseVal,
    WaitKey,
    WaitVal,
)
from tracer.rows.packed import layout

# Finished operations kept while the writer hangs; about 40,000 of them.
BOUND_BYTES: Final = 32 << 20

_RECORD_BYTES: Final = {wire.OPS: ctypes.sizeof(OpRec), wire.RPCS: ctypes.sizeof(RpcRec)}


class _Sums(NamedTuple):
    """How two values of one key become one: added, the greatest taken at ``greatest``."""

    key_bytes: int
    value: struct.Struct
    greatest: int | None


_SUMS: Final = {
    wire.LATENCY: _Sums(ctypes.sizeof(LatencyKey), layout(LatencyVal), 2),
    wire.USES: _Sums(ctypes.sizeof(UseKey), layout(UseVal), 2),
    wire.WAITS: _Sums(ctypes.sizeof(WaitKey), layout(WaitVal), 2),
    wire.COUNTS: _Sums(ctypes.sizeof(CountKey), layout(ctypes.c_uint64), None),
}


@dataclass(slots=True)
class Interval:
    """What one interval brought, ready to be framed."""

    tick: dict[str, Any]
    sums: dict[int, bytes] = field(default_factory=dict)
    finished: list[tuple[int, bytes]] = field(default_factory=list)
    in_flight: dict[int, bytes] = field(default_factory=dict)
    facts: list[tuple[int, bytes]] = field(default_factory=list)

    def frames(self) -> Iterable[bytes]:
        """Yield the interval's frames, the TICK last."""
        for kind, payload in self.facts:
            yield wire.frame(kind, payload)
        for kind, payload in self.finished:
            yield wire.frame(kind, payload)
        for kind, payload in (*self.sums.items(), *self.in_flight.items()):
            yield wire.frame(kind, payload)
        yield wire.frame(wire.TICK, json.dumps(self.tick).encode())


def merge(older: Interval, newer: Interval) -> Interval:
    """Return one interval that says what both said."""
    losses = dict(older.tick["losses"])
    for name, count in newer.tick["losses"].items():
        losses[name] = losses.get(name, 0) + count
    finished = older.finished + newer.finished
    size = sum(len(payload) for _, payload in finished)
    while size > BOUND_BYTES:
        kind, payload = finished.pop(0)
        size -= len(payload)
        dropped = len(payload) // _RECORD_BYTES[kind]
        losses[OUTBOX_FULL] = losses.get(OUTBOX_FULL, 0) + dropped
    return Interval(
        tick={
            **newer.tick,
            "intervals": older.tick["intervals"] + newer.tick["intervals"],
            "losses": losses,
        },
        sums={
            kind: _add(kind, older.sums.get(kind, b""), newer.sums.get(kind, b""))
            for kind in older.sums.keys() | newer.sums.keys()
        },
        finished=finished,
        in_flight={**older.in_flight, **newer.in_flight},
        facts=_latest_samples(older.facts + newer.facts),
    )


def _latest_samples(facts: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Keep of the host's samples and listeners, which are totals, only the newest."""
    kept: list[tuple[int, bytes]] = []
    seen: set[int] = set()
    for kind, payload in reversed(facts):
        if kind in (wire.SAMPLE, wire.LISTENERS):
            if kind in seen:
                continue
            seen.add(kind)
        kept.append((kind, payload))
    return kept[::-1]


def _add(kind: int, older: bytes, newer: bytes) -> bytes:
    sums = _SUMS[kind]
    size = sums.key_bytes + sums.value.size
    total: dict[bytes, tuple[int, ...]] = {}
    for data in (older, newer):
        for at in range(0, len(data), size):
            key = data[at : at + sums.key_bytes]
            value = sums.value.unpack_from(data, at + sums.key_bytes)
            known = total.get(key)
            total[key] = value if known is None else _merged(known, value, sums.greatest)
    return b"".join(key + sums.value.pack(*value) for key, value in total.items())


def _merged(one: tuple[int, ...], other: tuple[int, ...], greatest: int | None) -> tuple[int, ...]:
    return tuple(
        max(a, b) if i == greatest else a + b
        for i, (a, b) in enumerate(zip(one, other, strict=True))
    )


class Outbox:
    """The sending end ``fd``. ``closed`` turns true when the writer is gone."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._sending = memoryview(b"")
        self._waiting: Interval | None = None
        self.closed = False
        self.merged_intervals = 0
        os.set_blocking(fd, False)

    @property
    def behind(self) -> bool:
        """Whether something is not yet in the pipe."""
        return bool(self._sending) or self._waiting is not None

    def put(self, interval: Interval) -> None:
        """Send an interval as far as the pipe takes it; keep the rest."""
        if self._waiting is None:
            self._waiting = interval
        else:
            self.merged_intervals += 1
            self._waiting = merge(self._waiting, interval)
        self.flush()

    def put_frame(self, kind: int, payload: bytes) -> None:
        """Send a frame of its own (HELLO, END) after what is waiting."""
        if self._waiting is not None:
            self._sending = memoryview(bytes(self._sending) + b"".join(self._waiting.frames()))
            self._waiting = None
        self._sending = memoryview(bytes(self._sending) + wire.frame(kind, payload))
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now."""
        while self.behind and not self.closed:
            if not self._sending and self._waiting is not None:
                self._sending = memoryview(b"".join(self._waiting.frames()))
                self._waiting = None
            try:
                self._sending = self._sending[os.write(self.fd, self._sending) :]
            except BlockingIOError:
                return
            except BrokenPipeError:
                self.closed = True

    def close(self) -> None:
        """End the stream, if that has not been done."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
        self.closed = True
