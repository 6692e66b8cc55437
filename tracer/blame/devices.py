"""Whether a disk or volume was slow itself, by the kernel's own figures of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Final

from tracer.blame.intervals import Span
from tracer.blame.timeline import Timeline
from tracer.model import HostCapture, Sample

# A wait is for requests one after the other: a device is behind it if one took this part of it,
# or if it was never without.
_PART_OF_WAIT: Final = 1 / 8
# Shorter ones a healthy disk has as well, if it has several to do.
_SLOW_US: Final = 50_000
_BUSY: Final = 0.9
# A volume has all that is asked of the disk below it; the disk is as busy if it is the slow one.
_AS_BUSY: Final = 0.5
# So many requests at once lie one behind the other, and so many do not.
_MANY: Final = 4.0
_FEW: Final = 2.0
# A disk that is asked too much moves this part at least of what it mostly moves while it is
# quick.
_AS_MUCH: Final = 0.5
# One that moves so many times as much is asked more, and not slower, however few its requests.
_FAR_MORE: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Interval:
    """What a device did between two looks; ``busy`` is a part of the time."""

    begin_mono_us: float
    end_mono_us: float
    busy: float
    await_us: float
    queue: float
    bytes_per_s: float
    suspended: bool


class Devices:
    """How busy the disks and volumes of one host were, and how long their requests took."""

    def __init__(self, capture: HostCapture) -> None:
        self._intervals = {
            name: Timeline(_intervals(capture, samples))
            for name, samples in _by_device(capture).items()
        }

    def behind(self, volume: str | None, disk: str | None, span: Span) -> str | None:
        """Return which of a volume and the disk below it was slow itself during a wait for it.

        None if neither is known to have been.
        """
        start, end = span.start, span.end
        wait_us = span.total_us / max(1, span.wait.count)
        if volume is None or not self._is_slow(volume, start, end, wait_us):
            return None
        if disk is None or disk == volume:
            return volume
        lower, upper = (
            self._average(device, start, end, lambda one: one.busy) for device in (disk, volume)
        )
        return disk if lower >= upper * _AS_BUSY else volume

    def is_crowded(self, disk: str, start: int, end: int) -> bool:
        """Return whether a disk that is quick with few requests had many at once.

        And did much: one that does less than it mostly does while it is quick is slow itself. For
        a moment a disk may do far more than for long.
        """
        mostly = self._moves_while_quick.get(disk)
        if mostly is None or self._average(disk, start, end, lambda one: one.queue) < _MANY:
            return False
        moved = self._average(disk, start, end, lambda one: one.bytes_per_s)
        return moved >= _AS_MUCH * mostly

    def moves_far_more(self, disk: str, bytes_per_s: float) -> bool:
        """Return whether this is far more than what a disk mostly moves while it is quick."""
        mostly = self._moves_while_quick.get(disk)
        return mostly is not None and bytes_per_s >= _FAR_MORE * mostly

    @cached_property
    def _moves_while_quick(self) -> dict[str, float]:
        """Return the bytes a second that each device mostly moves while it is quick, if it is."""
        quick = {
            name: [
                one.bytes_per_s
                for one in timeline.rows
                if 0 < one.await_us < _SLOW_US and one.queue < _FEW
            ]
            for name, timeline in self._intervals.items()
        }
        return {name: median(moved) for name, moved in quick.items() if moved}

    def suspended(self, volume: str | None, span: Span) -> float:
        """Return for which part of a wait a volume let no I/O through, by the looks in it.

        0 if there was none: of a wait shorter than an interval that is not known.
        """
        # A look at the very start of it counts.
        during = self._during(volume or "", span.start - 1, span.end)
        looks = [one.suspended for one, _ in during if span.start <= one.end_mono_us <= span.end]
        return sum(looks) / len(looks) if looks else 0.0

    def times_suspended(self, device: str) -> int:
        """Return how many looks found it suspended."""
        seen = self._intervals.get(device)
        return sum(one.suspended for one in seen.rows) if seen else 0

    def worst(self, device: str) -> tuple[float, float] | None:
        """Return how busy it was at most, as a part of the time, and its requests' longest us."""
        seen = self._intervals.get(device)
        if not seen or not seen.rows:
            return None
        return max(one.busy for one in seen.rows), max(one.await_us for one in seen.rows)

    def _is_slow(self, device: str, start: int, end: int, wait_us: float) -> bool:
        seen = self._during(device, start, end)
        slowest = max((one.await_us for one, _ in seen), default=0.0)
        return (
            slowest > max(wait_us * _PART_OF_WAIT, _SLOW_US)
            or self._average(device, start, end, lambda one: one.busy) >= _BUSY
        )

    def _average(
        self, device: str, start: int, end: int, figure: Callable[[_Interval], float]
    ) -> float:
        """Return a figure's average, 0 if it is not known."""
        total = known = 0.0
        for one, part in self._during(device, start, end):
            overlap = part * (one.end_mono_us - one.begin_mono_us)
            total += figure(one) * overlap
            known += overlap
        return total / known if known else 0.0

    def _during(self, device: str, start: int, end: int) -> Iterator[tuple[_Interval, float]]:
        if device in self._intervals:
            yield from self._intervals[device].during(start, end)


def _by_device(capture: HostCapture) -> dict[str, list[Sample]]:
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in capture.samples:
        if sample.scope == "disk" and sample.name is not None:
            samples[sample.name].append(sample)
    return dict(samples)


def _intervals(capture: HostCapture, samples: Sequence[Sample]) -> Iterator[_Interval]:
    """Yield a device's figures; none where the clocks do not tell when they were true."""
    begin = capture.mono_us(capture.start)
    if begin is None:
        return
    looks: defaultdict[float, dict[str, float]] = defaultdict(dict)
    for sample in samples:
        at_us = capture.mono_us(sample.ts)
        if at_us is not None:
            looks[at_us][sample.metric] = sample.value
    for end, figures in sorted(looks.items()):
        await_us = figures.get("await_ms", 0.0) * 1000
        busy = figures.get("busy_percent", 0.0) / 100
        queue = figures.get("queue_length", 0.0)
        moved = sum(figures.get(f"{way}_bytes_per_s", 0.0) for way in ("read", "write"))
        yield _Interval(begin, end, busy, await_us, queue, moved, "suspended" in figures)
        begin = end
