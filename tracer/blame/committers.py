"""How many commits of a server's filesystems others than nfsd asked for.

A commit writes out what everybody has changed: whoever asks for one makes all wait who
want another. A process asks by fsync, nfsd for its clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracer.blame.culprits import Suspects
from tracer.blame.intervals import spans
from tracer.blame.timeline import Timeline
from tracer.model import HostCapture


@dataclass(frozen=True, slots=True)
class _Asked:
    by_nfsd: bool
    begin_mono_us: int
    end_mono_us: int
    times: int


class Committers:
    """Who asked for commits on one host, by mount point."""

    def __init__(self, capture: HostCapture, suspects: Suspects) -> None:
        mounts = {row.mount for row in capture.syncs if row.mount}
        # Which filesystem nfsd's waits were on is not looked at: it may have asked for less.
        nfsd = list(_waits(capture, suspects)) if mounts else []
        self._asked = {
            mount: Timeline([*nfsd, *_syncs(capture, mount)]) for mount in sorted(mounts)
        }

    def others(self, mount: str | None, start: int, end: int) -> float:
        """Return for which part of the commits of ``start``..``end`` others than nfsd asked."""
        if mount not in self._asked:
            return 0.0
        times = {True: 0.0, False: 0.0}
        for one, part in self._asked[mount].during(start, end):
            times[one.by_nfsd] += one.times * part
        return times[False] / (sum(times.values()) or 1)


def _syncs(capture: HostCapture, mount: str) -> Iterator[_Asked]:
    for row in capture.syncs:
        if row.mount == mount:
            yield _Asked(False, row.begin_mono_us, row.end_mono_us, row.count)


def _waits(capture: HostCapture, suspects: Suspects) -> Iterator[_Asked]:
    """Yield the waits of nfsd's threads for a commit: each has asked for it."""
    for op in capture.operations:
        for span in spans(op) if op.side == "server" else ():
            if suspects.finding(span.wait, op.side).wait_class == "journal":
                yield _Asked(True, span.start, span.end, max(1, span.wait.count))
    for row in capture.interval_waits:
        wait = row.wait
        if row.side == "server" and suspects.finding(wait, row.side).wait_class == "journal":
            yield _Asked(True, wait.first_mono_us, row.end_mono_us, max(1, wait.count))
