"""What a client's RPCs that have a slot were doing while others waited for one.

A session has as many slots as the server grants, and an RPC without one is not sent. So
the time without a slot is charged to those that had one all the while: if no other RPC
ended meanwhile, no other had one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from tracer.blame.paths import remote_window
from tracer.model import Operation, ProcessKey

# Intervals end when the collector gets to it, and a stamp is taken before what it stamps.
_INTERVAL_SKEW_US: Final = 250_000

_K = TypeVar("_K")


class Held(NamedTuple):
    """An RPC that had a slot from ``start`` to ``end`` of a window, and perhaps for longer."""

    start: int
    end: int
    rpc: Operation
    for_longer: bool = False


class Holders(NamedTuple):
    """Who had slots in a window: of most only where they stand in ``of_peer``, all of them."""

    end: int
    """Up to when it is known."""
    cut: list[Held]
    whole: range
    peer: str | None


class Sums(Generic[_K]):
    """Amounts of many kinds in a row of things, added up for any stretch of that row."""

    def __init__(self, things: Iterable[Iterable[tuple[_K, float]]]) -> None:
        self._places: defaultdict[_K, list[int]] = defaultdict(list)
        self._sums: defaultdict[_K, list[float]] = defaultdict(lambda: [0.0])
        for place, amounts in enumerate(things):
            for kind, amount in amounts:
                self._places[kind].append(place)
                self._sums[kind].append(self._sums[kind][-1] + amount)

    def of(self, stretch: range) -> Iterator[tuple[_K, float]]:
        """Yield the amount of each kind in a stretch that has any of it."""
        for kind, places in self._places.items():
            first, last = bisect_left(places, stretch.start), bisect_left(places, stretch.stop)
            if first < last:
                yield kind, self._sums[kind][last] - self._sums[kind][first]


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
        for held in self._held.values():
            held.sort(key=lambda one: one.end)
        self._held_ends = {peer: [one.end for one in held] for peer, held in self._held.items()}
        self._longest = max(
            (one.end - one.start for held in self._held.values() for one in held), default=0
        )
        self._ends = sorted(rpc.end_mono_us for rpc in rpcs if not rpc.in_flight)
        self._fast = [
            (begin, end) for begin, end, count in answered if self._lacks(begin, end, count)
        ]

    def of_peer(self, peer: str | None) -> Sequence[Held]:
        """Return all that had slots of a server, by their ends."""
        return self._held.get(peer, ())

    def holders(self, waiting: Operation, start: int, end: int) -> Holders:
        """Return who had slots while an RPC waited for one, each with its part of the window.

        Nobody for the time in which RPCs not recorded one by one may have had others, or
        if it is not certain which server's slots they are. An RPC that was never sent has
        no peer: it can only be that of all others.
        """
        peer = waiting.peer
        if peer is None and len(self._held) == 1:
            peer = next(iter(self._held))
        until = self._quiet_until(start, end)
        held, ends = self._held.get(peer, ()), self._held_ends.get(peer, ())
        # What ended so late that it cannot have begun before the window lies within it.
        first, last = bisect_left(ends, start + self._longest), bisect_right(ends, until)
        whole = range(first, max(first, last))
        beside = (
            *held[bisect_right(ends, start) : whole.start],
            *held[whole.stop : bisect_left(ends, until + self._longest)],
        )
        cut = list(_overlapping(beside, start, until))
        known = [one.end for one in cut] + [ends[index] for index in whole[-1:]]
        return Holders(max([start, *known]), cut, whole, peer)

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
            within = start <= one.start and one.end <= end
            yield (
                one
                if within
                else Held(max(one.start, start), min(one.end, end), one.rpc, for_longer=True)
            )
