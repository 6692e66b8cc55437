"""Whom a disk worked for while an operation waited for it.

A disk does one thing after the other, as far as those who wait for it can tell: of the
time of a wait, the part in which it completed a process's requests is that process's.
Not so where its bandwidth is limited: the next request, be it ever so small, waits there
for what the one before it moved, and the time is his who had it moved.
What it did for nfsd at a client's request is told apart, by client; what it did for nfsd
besides is nobody's.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple, TypeAlias

from tracer.blame.timeline import Timeline
from tracer.model import DiskUse, HostCapture, Process, ProcessKey

# Threads of the kernel that commit what others have changed.
_JOURNALS: Final = re.compile(r"jbd2/.*|xfs.*|btrfs-.*")

# Of two disks neither of which did this part of it, nobody knows which was waited for.
_MOST: Final = 2 / 3


class Work(NamedTuple):
    """For which client, by its address, a disk wrote, or read."""

    client: str
    write: bool


_Figure: TypeAlias = Callable[[DiskUse], int]


def _busy_us(use: DiskUse) -> int:
    return use.busy_us


def _queued_us(use: DiskUse) -> int:
    return use.queued_us or 0


def _moved_bytes(use: DiskUse) -> int:
    return use.moved_bytes or 0


class DiskUsers:
    """Who used which disk of one host, and when."""

    def __init__(self, capture: HostCapture) -> None:
        uses: defaultdict[str, list[DiskUse]] = defaultdict(list)
        asked: defaultdict[str, list[DiskUse]] = defaultdict(list)
        besides: defaultdict[str, list[DiskUse]] = defaultdict(list)
        for use in capture.disk_use:
            process = capture.processes.get(use.process) if use.process else None
            if use.client is not None:
                asked[use.disk].append(use)
            elif process is None or not process.is_nfsd:
                uses[use.disk].append(use)
            else:
                besides[use.disk].append(use)
        self._uses, self._asked, self._besides = (
            {disk: Timeline(rows) for disk, rows in by_disk.items()}
            for by_disk in (uses, asked, besides)
        )

    def shares(self, disk: str | None, start: int, end: int) -> dict[ProcessKey | None, float]:
        """Return which part of ``start``..``end`` the disk worked for whom; at most 1 in all."""
        busy_us = self._by_process(disk, start, end, _busy_us)
        whole = max(end - start, sum(busy_us.values()))
        return {process: us / whole for process, us in busy_us.items()}

    def moved_shares(
        self, disk: str | None, start: int, end: int
    ) -> dict[ProcessKey | None, float]:
        """Return the same where the time goes into what the disk moves."""
        moved_bytes = self._by_process(disk, start, end, _moved_bytes)
        if disk is None or not moved_bytes:
            return {}
        whole = self.moved_bytes(disk, start, end)
        busy = min(1.0, self._sum(disk, start, end, _busy_us) / (end - start))
        return {process: busy * moved / whole for process, moved in moved_bytes.items() if whole}

    def queued_for(self, disk: str, start: int, end: int) -> dict[Work, float]:
        """Return which part of a disk's queue what which client had asked for was."""
        return self._parts(disk, start, end, _queued_us)

    def moved_for(self, disk: str, start: int, end: int) -> dict[Work, float]:
        """Return which part of what a disk moved which client had asked for."""
        return self._parts(disk, start, end, _moved_bytes)

    def moved_bytes(self, disk: str, start: int, end: int) -> float:
        """Return how many bytes a disk moved, as far as it is known for whom."""
        return self._sum(disk, start, end, _moved_bytes)

    def _by_process(
        self, disk: str | None, start: int, end: int, figure: _Figure
    ) -> Mapping[ProcessKey | None, float]:
        """Return the sums of a figure of what a disk did for whom but nfsd."""
        sums: defaultdict[ProcessKey | None, float] = defaultdict(float)
        if disk in self._uses and start < end:
            for use, part in self._uses[disk].during(start, end):
                sums[use.process] += figure(use) * part
        return sums

    def _parts(self, disk: str, start: int, end: int, figure: _Figure) -> dict[Work, float]:
        """Return which part of a figure's sum is of what was done for which client."""
        sums: defaultdict[Work, float] = defaultdict(float)
        for use, part in self._asked[disk].during(start, end) if disk in self._asked else ():
            if use.client:
                sums[Work(use.client, bool(use.write))] += figure(use) * part
        whole = self._sum(disk, start, end, figure)
        return {work: amount / whole for work, amount in sums.items() if whole}

    def _sum(self, disk: str, start: int, end: int, figure: _Figure) -> float:
        """Return the sum of a figure of all that a disk did."""
        return sum(
            figure(use) * part
            for uses in (self._uses, self._asked, self._besides)
            for use, part in (uses[disk].during(start, end) if disk in uses else ())
        )

    def main_disk(self, process: ProcessKey | None, start: int, end: int) -> str | None:
        """Return the disk that did most of what disks did for a process, None if none did.

        What the process has written is written back beside that, and not waited for.
        """
        busy_us: Counter[str] = Counter()
        for disk, uses in self._uses.items() if process else ():
            for use, part in uses.during(start, end):
                if use.process == process:
                    busy_us[disk] += round(use.busy_us * part)
        for disk, us in busy_us.most_common(1):
            if us and us >= _MOST * busy_us.total():
                return disk
        return None

    def totals(self, processes: Collection[ProcessKey]) -> dict[str, tuple[int, int]]:
        """Return for each disk how many us it worked for them, and on how many requests."""
        return _totals(self._uses, lambda use: use.process in processes)

    def totals_for(self, client: str) -> dict[str, tuple[int, int]]:
        """Return the same for the client with this address."""
        return _totals(self._asked, lambda use: use.client == client)


def _totals(
    uses: Mapping[str, Timeline[DiskUse]], is_meant: Callable[[DiskUse], bool]
) -> dict[str, tuple[int, int]]:
    totals: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for disk, timeline in uses.items():
        for use in filter(is_meant, timeline.rows):
            busy_us, requests = totals[disk]
            totals[disk] = (busy_us + use.busy_us, requests + use.requests)
    return dict(totals)


def is_journal(process: Process) -> bool:
    """Return whether a process is the kernel's own that writes a filesystem's journal."""
    return bool(process.kthread and _JOURNALS.fullmatch(process.comm or ""))
