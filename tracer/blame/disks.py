"""Whom a disk worked for while an operation waited for it.

A disk does one thing after the other, as far as those who wait for it can tell: of the
time of a wait, the part in which it completed a process's requests is that process's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable

from tracer.model import DiskUse, HostCapture, ProcessKey


class DiskUsers:
    """Who used which disk of one host, and when."""

    def __init__(self, capture: HostCapture) -> None:
        self._uses: defaultdict[str, list[DiskUse]] = defaultdict(list)
        for use in capture.disk_use:
            process = capture.processes.get(use.process)
            # Kernel threads write for others: for whom is not known.
            if process is not None and not process.kthread:
                self._uses[use.disk].append(use)
        self._ends: dict[str, list[int]] = {}
        self._longest_us: dict[str, int] = {}
        for disk, uses in self._uses.items():
            uses.sort(key=lambda use: use.end_mono_us)
            self._ends[disk] = [use.end_mono_us for use in uses]
            self._longest_us[disk] = max(use.end_mono_us - use.begin_mono_us for use in uses)

    def shares(self, disk: str | None, start: int, end: int) -> dict[ProcessKey, float]:
        """Return which part of ``start``..``end`` the disk worked for whom; at most 1 in all."""
        if disk is None or disk not in self._uses or end <= start:
            return {}
        busy_us: defaultdict[ProcessKey, float] = defaultdict(float)
        for use in self._overlapping(disk, start, end):
            lasted = use.end_mono_us - use.begin_mono_us
            overlap = min(end, use.end_mono_us) - max(start, use.begin_mono_us)
            busy_us[use.process] += use.busy_us * overlap / lasted
        whole = max(end - start, sum(busy_us.values()))
        return {process: us / whole for process, us in busy_us.items()}

    def _overlapping(self, disk: str, start: int, end: int) -> Iterable[DiskUse]:
        uses = self._uses[disk]
        for index in range(bisect_right(self._ends[disk], start), len(uses)):
            use = uses[index]
            if use.end_mono_us - self._longest_us[disk] >= end:
                return
            if use.begin_mono_us < end:
                yield use

    def totals(self, process: ProcessKey) -> dict[str, tuple[int, int]]:
        """Return for each disk how many us it worked for a process, and on how many requests."""
        totals: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for disk, uses in self._uses.items():
            for use in uses:
                if use.process == process:
                    busy_us, requests = totals[disk]
                    totals[disk] = (busy_us + use.busy_us, requests + use.requests)
        return dict(totals)
