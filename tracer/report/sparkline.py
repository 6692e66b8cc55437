"""Histograms in a few characters: one column per power of two of the latency."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from tracer.histogram import bounds_us

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ASCII: Final = " .:-=+*#@"


def octaves(counts: Mapping[int, int]) -> dict[int, int]:
    """Return ``{n: count}`` of durations in 2**n..2**(n+1) us, from log-linear buckets."""
    sums: dict[int, int] = {}
    for bucket, count in counts.items():
        octave = max(1, bounds_us(bucket)[0]).bit_length() - 1
        sums[octave] = sums.get(octave, 0) + count
    return sums


def bounds(histograms: Iterable[Mapping[int, int]]) -> tuple[int, int]:
    """Return the lowest and highest octave in use, so that lines share their columns."""
    used = [octave for counts in histograms for octave in octaves(counts)]
    return (min(used), max(used)) if used else (0, 0)


def sparkline(counts: Mapping[int, int], low: int, high: int, *, ascii_only: bool = False) -> str:
    """Return one character per octave; heights are logarithmic, so rare slow ones show."""
    glyphs = _ASCII if ascii_only else _BLOCKS
    sums = octaves(counts)
    top = max(sums.values(), default=0)
    return "".join(glyphs[_height(sums.get(n, 0), top)] for n in range(low, high + 1))


def _height(count: int, top: int) -> int:
    if count <= 0:
        return 0
    full = len(_BLOCKS) - 1
    return max(1, round(full * math.log1p(count) / math.log1p(top)))
