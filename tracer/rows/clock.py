"""The one offset between the kernel's clocks and wall time, taken when recording starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """CLOCK_MONOTONIC ``mono_ns`` was CLOCK_REALTIME ``wall_ns``; one pair for a recording."""

    mono_ns: int
    wall_ns: int
    boot_minus_mono_ns: int

    def wall_us(self, mono_ns: int) -> int:
        """Return wall time, microseconds since 1970, of a CLOCK_MONOTONIC time."""
        return (self.wall_ns + mono_ns - self.mono_ns) // 1000

    def boot_wall_us(self, boot_ns: int) -> int:
        """Return wall time, microseconds since 1970, of a CLOCK_BOOTTIME time."""
        return self.wall_us(boot_ns - self.boot_minus_mono_ns)
