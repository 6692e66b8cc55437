"""Frames on the pipe from the collector to the writer.

A frame is a little-endian u32 length, a u8 type and the payload. All frames
before a TICK belong to the interval that the TICK ends. Payloads are either
packed records of ``records.py`` or JSON (UTF-8); which one stands beside the
type. Counts in records are those of the interval: they add up.

JSON payloads::

    HELLO  {"host", "kernel", "boot_id", "mono_ns", "wall_ns", "boot_minus_mono_ns",
            "sides": [..], "threshold_us", "interval_s", "command": [..], "command_lines": bool,
            "version", "addresses": [..], "nfsd_threads": int|null, "own_pids": [..],
            "probes": [{"probe","purpose","attached","target","reason","lost"}, ..],
            "there": what procfs.changes.Reading holds}
    NAMES  {"<address>": "<name>", ..}        operation name pointers (decimal)
    STACKS {"<stack id>": [address, ..], ..}  innermost first, as the kernel gave it
    KMSG   {"mono_us", "text"}
    OWNERS {"<address>": "module NAME" or "bpf NAME ID", ..}  foreign code by where it begins
    ASKED  [{"pid", "start_ns", "kind", "what"}, ..]  processes that the kernel asks
    MARKS  [{"pid", "start_ns", "group": int|null, "marks": str, "blocked": int|null}, ..]; no
           marks: ""
    SAMPLE {"mono_ns", "files": {"/proc/stat": "<text>", ..}, "nfsd": {..} or null}
    NOTE   {"mono_ns", "name", "text"}
    TICK   {"mono_ns", "intervals", "losses": {name: n}, "overhead": {name: value}}
    END    {"mono_ns", "reason"}
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

HELLO: Final = 1
NAMES: Final = 2
STACKS: Final = 3
KMSG: Final = 4
MARKS: Final = 5
SAMPLE: Final = 6
NOTE: Final = 7
TICK: Final = 8
END: Final = 9
ASKED: Final = 10
OWNERS: Final = 11

LATENCY: Final = 20  # (LatencyKey, LatencyVal) repeated
WAITS: Final = 21  # (WaitKey, WaitVal) repeated
OPS: Final = 22  # OpRec repeated; flag OP_IN_FLIGHT set on those still running
RPCS: Final = 23  # RpcRec repeated
PROCS: Final = 24  # (ProcId, ProcRec) repeated
LISTENERS: Final = 25  # (u64 group, ListenerRec) repeated, totals since start
COUNTS: Final = 26  # (CountKey, u64) repeated
HOLDERS: Final = 27  # HolderRec repeated; the last of a process and since_ns is valid
USES: Final = 28  # (UseKey, UseVal) repeated

_HEADER: Final = struct.Struct("<IB")


def frame(kind: int, payload: bytes) -> bytes:
    """Return one frame ready to be written."""
    return _HEADER.pack(len(payload), kind) + payload


class FrameParser:
    """Turns chunks as they come from the pipe into whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield ``(type, payload)`` of each frame completed by this chunk."""
        self._buffer += chunk
        offset = 0
        while len(self._buffer) - offset >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._buffer, offset)
            end = offset + _HEADER.size + length
            if len(self._buffer) < end:
                break
            yield kind, bytes(self._buffer[offset + _HEADER.size : end])
            offset = end
        del self._buffer[:offset]
