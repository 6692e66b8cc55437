"""Reads clocks, and notices that the wall clock was set, or the host suspended, while recording.

Times of a capture follow CLOCK_MONOTONIC from where the wall clock stood when
recording began. After either they differ from the wall clock, and that is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

# NTP slews by less than this between two looks; what it steps is more.
_LEAST_NS: Final = 500_000_000
# A look during which we were not on a CPU for this long proves nothing.
_MOST_LOOK_NS: Final = 100_000_000
_LOOKS: Final = 5


class Clocks(NamedTuple):
    """One look at the clocks of the kernel, in ns, ``end_ns`` monotonic again."""

    mono_ns: int
    boot_ns: int
    wall_ns: int
    end_ns: int


def read_clocks() -> Clocks:
    """Look at the clocks."""
    return Clocks(
        time.monotonic_ns(),
        time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        time.time_ns(),
        time.monotonic_ns(),
    )


def read_clocks_closely(read: Callable[[], Clocks] = read_clocks) -> Clocks:
    """Look at the clocks several times and return the look in which least came between."""
    return min((read() for _ in range(_LOOKS)), key=lambda look: look.end_ns - look.mono_ns)


def cpu_ns(pid: int) -> int:
    """Return the CPU time of a process, its threads' in all; 0 if there is none such.

    Opens no file, which could hang. The clock's number is MAKE_PROCESS_CPUCLOCK(pid,
    CPUCLOCK_SCHED) of include/linux/posix-timers_types.h, as clock_getcpuclockid(3) makes it.
    """
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return 0


class ClockWatch:
    """Compares each look with the last one."""

    def __init__(self, read: Callable[[], Clocks] = read_clocks) -> None:
        self._read = read
        self._last = read()

    def changes(self) -> Iterator[str]:
        """Yield in words what happened to the clocks since the last look."""
        now = self._read()
        if now.end_ns - now.mono_ns > _MOST_LOOK_NS:
            return
        last, self._last = self._last, now
        passed_ns = now.boot_ns - last.boot_ns
        slept_ns = passed_ns - (now.mono_ns - last.mono_ns)
        stepped_ns = now.wall_ns - last.wall_ns - passed_ns
        if slept_ns > _LEAST_NS:
            yield (
                f"the host was suspended for {slept_ns / 1e9:.1f} s, which is left out: "
                "times after it are earlier than the wall clock by as much"
            )
        if abs(stepped_ns) > _LEAST_NS:
            way, apart = ("forward", "earlier") if stepped_ns > 0 else ("back", "later")
            yield (
                f"the wall clock was set {way} by {abs(stepped_ns) / 1e9:.1f} s; times go on as "
                f"before and are {apart} than it by as much"
            )
