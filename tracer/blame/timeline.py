"""Rows that each hold for some time, looked up by time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """Something that was so from ``begin_mono_us`` to ``end_mono_us``."""

    @property
    def begin_mono_us(self) -> float:
        """CLOCK_MONOTONIC, as the end is."""

    @property
    def end_mono_us(self) -> float:
        """Not itself of that time any more."""


_T = TypeVar("_T", bound=Timed)


class Timeline(Generic[_T]):
    """Rows of any order; a row without duration holds at no time."""

    def __init__(self, rows: Iterable[_T] = ()) -> None:
        lasting = (row for row in rows if row.end_mono_us > row.begin_mono_us)
        self.rows = sorted(lasting, key=lambda row: row.end_mono_us)
        self._ends = [row.end_mono_us for row in self.rows]
        self._longest = max((row.end_mono_us - row.begin_mono_us for row in self.rows), default=0)

    def during(self, start: float, end: float) -> Iterator[tuple[_T, float]]:
        """Yield the rows that overlap ``start``..``end``, each with the part of it that does."""
        for index in range(bisect_right(self._ends, start), len(self.rows)):
            row = self.rows[index]
            if row.end_mono_us - self._longest >= end:
                return
            overlap = min(end, row.end_mono_us) - max(start, row.begin_mono_us)
            if overlap > 0:
                yield row, overlap / (row.end_mono_us - row.begin_mono_us)
