"""Figures as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def human_us(microseconds: float) -> str:
    """Return a duration with its unit: 850 us, 45 ms, 1.23 s, 2 min 5 s, 3 h 20 min."""
    us = max(0, round(microseconds))
    if us < 1000:
        return f"{us} us"
    if us < 999_500:
        return f"{us / 1000:.3g} ms"
    if us < 99_950_000:
        return f"{us / 1_000_000:.3g} s"
    seconds = round(us / 1_000_000)
    if seconds < 3600:
        minutes, rest = divmod(seconds, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(seconds, 3600)
    minutes = rest // 60
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def human_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit: 512 B, 1.2 kB, 34 MB."""
    value, unit = max(0.0, count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def percent(share: float) -> str:
    """Return a share (0..1) as a percentage that never rounds to a false 0 or 100."""
    if 0 < share < 0.01:
        return "under 1 %"
    if 0.99 < share < 1:
        return "over 99 %"
    return f"{share * 100:.0f} %"


def utc(moment: datetime) -> str:
    """Return a time in UTC, to the second, as ISO 8601."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
