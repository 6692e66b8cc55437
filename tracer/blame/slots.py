"""What a client's RPCs that have a slot were doing while others waited for one.

A session has as many slots as the server grants, and an RPC without one is not sent. So
the time without a slot is charged to those that had one all the while: if no other RPC
ended meanwhile, no other had one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tracer.blame.paths import remote_window
from tracer.model import Operation, ProcessKey

# Intervals end when the collector gets to it, and a stamp is taken before what it stamps.
_INTERVAL_SKEW_US: Final = 250_000


class Held(NamedTuple):
    """An RPC that had a slot from ``start`` to ``end`` of a window."""

    start: int
    end: int
    rpc: Operation


class Slots:
    """The RPCs of one client that were sent and not answered.

    ``rpcs``: those recorded one by one; ``answered``: how many of all of them ended in
    each interval, see HostCapture.
    """

    def __init__(self, rpcs: Sequence[Operation], answered: Sequence[tuple[int, int, int]]) -> None:
        self._held: defaultdict[str | None, list[Held]] = defaultdict(list)
        for rpc in rpcs:
            window = remote_window(rpc)
            if window is not None and window[0] < window[1]:
                self._held[rpc.peer].append(Held(*window, rpc))
        self._ends = sorted(rpc.end_mono_us for rpc in rpcs if not rpc.in_flight)
        self._fast = [
            (begin, end) for begin, end, count in answered if self._lacks(begin, end, count)
        ]

    def holders(self, waiting: Operation, start: int, end: int) -> list[Held]:
        """Return who had slots while an RPC waited for one, each with its part of the window.

        Nobody for the time in which RPCs not recorded one by one may have had others, or
        if it is not certain which server's slots they are. An RPC that was never sent has
        no peer: it can only be that of all others.
        """
        peer = waiting.peer
        if peer is None and len(self._held) == 1:
            peer = next(iter(self._held))
        until = self._quiet_until(start, end)
        return list(_overlapping(self._held.get(peer, ()), start, until))

    def total(self, process: ProcessKey) -> tuple[int, int]:
        """Return how many RPCs for a process had slots, and for how many us in all."""
        theirs = [
            held
            for one in self._held.values()
            for held in one
            if process in (held.rpc.process, held.rpc.writer)
        ]
        return len(theirs), sum(held.end - held.start for held in theirs)

    def _quiet_until(self, start: int, end: int) -> int:
        """Return up to when, from ``start``, all RPCs that ended are recorded one by one.

        Of the interval in which the wait began, others may have ended before it.
        """
        for begins, ends in self._fast:
            if ends > start and (begins >= start or ends >= end):
                return max(start, min(end, begins))
        return end

    def _lacks(self, begin: int, end: int, count: int) -> bool:
        """Return whether more RPCs ended in an interval than are recorded one by one."""
        first = bisect_left(self._ends, begin - _INTERVAL_SKEW_US)
        return count > bisect_right(self._ends, end + _INTERVAL_SKEW_US) - first


def _overlapping(held: Sequence[Held], start: int, end: int) -> Iterator[Held]:
    for one in held:
        if one.start < end and one.end > start:
            yield Held(max(one.start, start), min(one.end, end), one.rpc)
