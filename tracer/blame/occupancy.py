"""What a server's nfsd threads were doing while requests lay in the queue.

A request is queued because every thread is at work. So its queue time is charged to
what the threads were waiting for meanwhile, in proportion, but only for the time in
which all threads are seen at work: for the rest the reason is not known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TypeAlias

from tracer.blame.charge import (
    QUEUE_LINK,
    Charge,
    Culprit,
    Mix,
    add,
    charge_to,
    scaled,
    through,
)
from tracer.blame.intervals import Stretch

# Fixed point for rates: adding and taking away must cancel out exactly.
_ONE = 1 << 24

# Rows of operations in flight are taken one after the other: they end this far apart.
_END_SKEW_US = 1_000_000

# Time, charge (None counts threads at work), change of the rate from then on.
_Event: TypeAlias = tuple[int, Charge | None, int]

THREADS = "nfsd threads"
STOPPED = "stopped nfsd"


@dataclass(slots=True)
class _Curve:
    """Charged microseconds up to a time: piecewise linear, never falling."""

    times: list[int] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)

    def grow(self, start: int, end: int, amount: float) -> None:
        before = self.sums[-1] if self.sums else 0.0
        if not self.times or self.times[-1] != start:
            self.times.append(start)
            self.sums.append(before)
        self.times.append(end)
        self.sums.append(before + amount)

    def at(self, time: float) -> float:
        right = bisect_right(self.times, time)
        if right == 0:
            return 0.0
        if right == len(self.times):
            return self.sums[-1]
        t0, t1 = self.times[right - 1], self.times[right]
        s0, s1 = self.sums[right - 1], self.sums[right]
        return s0 + (s1 - s0) * (time - t0) / (t1 - t0)


@dataclass(frozen=True, slots=True)
class FastWaits:
    """Waits of operations too fast to be recorded one by one, in one interval.

    ``rates``: how many threads were in such a wait on average.
    """

    start: int
    end: int
    rates: Mapping[Charge, float]


class Occupancy:
    """The threads of one server over time."""

    def __init__(
        self,
        threads: int | None,
        served: Iterable[Sequence[Stretch]],
        fast: Sequence[FastWaits] = (),
        host: str | None = None,
        stopped: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Take the served time of every recorded operation, each on one thread.

        ``threads``: how many there are. If not known, the most that were seen at
        work at one time stand in for it: there are at least that many. ``stopped``:
        when there were none at all.
        """
        events = list(_events(served))
        # No elementary interval may straddle two intervals of fast operations.
        events += [(edge, None, 0) for row in fast for edge in (row.start, row.end)]
        events.sort(key=itemgetter(0))
        self.most_busy = _most_busy(events)
        self.threads = threads if threads else max(1, self.most_busy)
        self._curves: dict[Charge, _Curve] = {}
        self._last: Mix = {}
        self._last_end = self._end = events[-1][0] if events else 0
        self._fast = fast
        self._too_few = Culprit("setting", THREADS, host)
        self._sweep(events)
        nobody = charge_to("threads", Culprit("setting", STOPPED, host))
        for start, end in stopped:
            self._curves.setdefault(nobody, _Curve()).grow(start, end, end - start)

    def charged(self, start: float, end: float) -> Mix:
        """Return what queue time in a window is charged to: at most ``end - start`` in all."""
        mix: Mix = {}
        for charge, curve in self._curves.items():
            amount = curve.at(end) - curve.at(start)
            if amount > 0:
                mix[charge] = amount
        return mix

    def at_end(self) -> Mix:
        """Return the proportions when the capture ended, empty unless all threads were held."""
        return dict(self._last) if self._end - self._last_end <= _END_SKEW_US else {}

    def _sweep(self, events: Sequence[_Event]) -> None:
        active: dict[Charge, int] = {}
        busy = 0
        fast = iter(self._fast)
        now_fast = next(fast, None)
        previous = events[0][0] if events else 0
        for time, group in groupby(events, key=itemgetter(0)):
            while now_fast and now_fast.end <= previous:
                now_fast = next(fast, None)
            if time > previous:
                covers = now_fast if now_fast and now_fast.start <= previous else None
                self._charge(previous, time, active, busy, covers)
            for _, charge, change in group:
                if charge is None:
                    busy += change
                    continue
                rate = active.get(charge, 0) + change
                if rate:
                    active[charge] = rate
                else:
                    active.pop(charge, None)
            previous = self._end = time

    def _charge(
        self, start: int, end: int, active: Mapping[Charge, int], busy: int, fast: FastWaits | None
    ) -> None:
        fast_rates = fast.rates if fast and busy < self.threads else {}
        # Half a thread is the rounding of the averages.
        rounding = 0.5 if fast_rates else 0
        if busy + sum(fast_rates.values()) < self.threads - rounding:
            return
        mix: Mix = {charge: rate / _ONE for charge, rate in active.items()}
        add(mix, fast_rates)
        queue_mix: Mix = {}
        for charge, rate in mix.items():
            add(queue_mix, {self._queue_charge(charge): rate})
        for charge, amount in scaled(queue_mix, end - start).items():
            self._curves.setdefault(charge, _Curve()).grow(start, end, amount)
        self._last, self._last_end = queue_mix, end

    def _queue_charge(self, charge: Charge) -> Charge:
        """Return how the time of a queued request is charged, given what a thread does.

        A thread that works is a thread too few; one that waits passes the blame on.
        """
        if charge.cause == "running":
            return through(QUEUE_LINK, charge_to("threads", self._too_few))
        if charge.cause == "unknown":
            return Charge("threads", None, (QUEUE_LINK,))
        return through(QUEUE_LINK, charge)


def _events(served: Iterable[Sequence[Stretch]]) -> Iterator[_Event]:
    """Yield the beginnings and ends of served time and of every charge in it."""
    for stretches in served:
        if not stretches or stretches[-1].end <= stretches[0].start:
            continue
        yield stretches[0].start, None, 1
        yield stretches[-1].end, None, -1
        for stretch in stretches:
            for charge, rate in stretch.rates.items():
                fixed = round(rate * _ONE)
                if fixed:
                    yield stretch.start, charge, fixed
                    yield stretch.end, charge, -fixed


def _most_busy(events: Sequence[_Event]) -> int:
    busy = most = 0
    for _, group in groupby(events, key=itemgetter(0)):
        busy += sum(change for _, charge, change in group if charge is None)
        most = max(most, busy)
    return most
