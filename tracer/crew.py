"""nfsd's threads: how many there are, and how long none of them was free.

The programs count those at work, see bpf/crew.h; they are told here how many there are.
Opens no file once it is made.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Final

from tracer.kernel import bpf
from tracer.procfs.changes import parse_threads
from tracer.procfs.held_open import Texts
from tracer.record_offsets import U32
from tracer.records import CrewRec, CrewSize

_STATS: Final = ("/proc/net/rpc/nfsd",)
_THE_ONE: Final = U32.pack(0)


class Crew:
    """The threads of this host's server; on one without nfsd nothing is known of any."""

    def __init__(self, maps: Mapping[str, int], paths: Sequence[str] = _STATS) -> None:
        self._maps = maps
        self._stats = Texts(paths)
        self._size = CrewSize()
        # What is told are sums, of which the first is where counting begins: nothing yet.
        self._told = False
        self._full_at_first = False
        self._none_ns = 0

    def were_at_work(self, count: int) -> None:
        """Take note of threads that were at work when recording began, and are in no count."""
        self._size.before = count
        if self._threads() is not None and count >= self._size.threads > 0:
            self._size.begun_ns = time.monotonic_ns()
            self._full_at_first = True
        self._tell()

    def figures(self, now_ns: int) -> dict[str, int] | None:
        """Return how they are, and in sum since recording began; None if it is not known."""
        threads = self._threads()
        if threads is None:
            return None
        rec = self._read()
        busy = _signed(rec.busy + self._size.before)
        if self._size.begun_ns and busy < threads:
            self._size.begun_ns = 0
        self._tell()
        # Two stamps are not read at once: it may seem to go back by what has just ended.
        self._none_ns = max(self._none_ns, rec.none_ns + self._going_on_ns(rec, busy, now_ns))
        first, self._told = not self._told, True
        return {
            "threads": threads,
            "busy": max(0, min(busy, threads)),
            "none_free_us": 0 if first else self._none_ns // 1000,
            "none_free_times": 0 if first else rec.times + self._full_at_first,
        }

    def _going_on_ns(self, rec: CrewRec, busy: int, now_ns: int) -> int:
        """Return for how long none has been free; 0 if one is."""
        since_ns = rec.since_ns or (self._size.begun_ns if busy >= self._size.threads else 0)
        return max(0, now_ns - since_ns) if since_ns else 0

    def _threads(self) -> int | None:
        texts = self._stats.read()
        found = None if texts is None else parse_threads(texts[0])
        self._size.threads = found or 0
        return found

    def _tell(self) -> None:
        bpf.update(self._maps["crew_size"], _THE_ONE, bytes(self._size))

    def _read(self) -> CrewRec:
        value = bpf.lookup(self._maps["crew"], _THE_ONE, ctypes.sizeof(CrewRec))
        return CrewRec() if value is None else CrewRec.from_buffer_copy(value)


def _signed(value: int) -> int:
    """Return a count of 64 bits that may have gone below zero."""
    return ctypes.c_int64(value).value
