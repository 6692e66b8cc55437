"""Durations and shares as they are written on the command line."""

from __future__ import annotations

import math
import re
from typing import Final

_UNITS_US: Final = {"us": 1.0, "ms": 1e3, "s": 1e6, "min": 60e6, "m": 60e6, "h": 3600e6}
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z%]*)", re.IGNORECASE)


def parse_duration_us(text: str, default_unit: str = "") -> int:
    """Return microseconds of ``500ms``, ``2s``, ``1.5 min``.

    A bare number is of ``default_unit``. Raises ValueError saying the mend.
    """
    match = _NUMBER.fullmatch(text.strip())
    unit = _UNITS_US.get(match[2].lower() or default_unit) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is no duration; write a number and us, ms, s, min or h: 500ms")
    time_us = float(match[1]) * unit
    if time_us == math.inf:
        raise ValueError(f"{text[:20]!r}... is no duration anyone can wait for")
    return round(time_us)


def parse_limit(text: str) -> tuple[int | None, float | None]:
    """Return ``(microseconds, None)`` of a duration or ``(None, share)`` of a percentage.

    Raises ValueError saying the mend.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is not None and match[2] == "%":
        share = float(match[1]) / 100
        if share > 1:
            raise ValueError(f"{text!r} is more than the whole; write 0% to 100%")
        return None, share
    return parse_duration_us(text), None


def short_duration(time_us: int) -> str:
    """Return a duration as one would type it: ``90s``, ``100ms``."""
    for unit in ("h", "m", "s", "ms"):
        count, rest = divmod(time_us, round(_UNITS_US[unit]))
        if count and not rest:
            return f"{count}{unit}"
    return f"{time_us}us"
