"""Who filled the journal that an operation waited for.

What a filesystem commits is what all have changed since the commit before: whoever waits
for his own change waits for theirs, too. Who asked for the commit is no measure: it may
be he who has hardly changed anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Final

from tracer.blame.intervals import Span
from tracer.blame.timeline import Timeline
from tracer.model import HostCapture, JournalUse, ProcessKey

# Of a filesystem's blocks for each wait: no disk takes long for fewer, unless it is slow itself.
_FEW_BLOCKS: Final = 16


class Fillers:
    """Who filled which journals of one host, and when."""

    def __init__(self, capture: HostCapture) -> None:
        self._capture = capture
        uses: defaultdict[str, list[JournalUse]] = defaultdict(list)
        for use in capture.journal_use:
            uses[use.device].append(use)
        self._uses = {device: Timeline(rows) for device, rows in uses.items()}

    def know(self, device: str | None) -> bool:
        """Return whether it is recorded who fills a device's journal."""
        return device in self._uses

    def shares(self, device: str | None, span: Span) -> dict[ProcessKey, float]:
        """Return who filled which part of what was committed during a wait; nfsd's is left out.

        What is committed first has been changed while the commit before it ran: that is taken
        to have lasted as long as the wait. Nobody, if all of them have filled next to nothing.
        """
        if device is None or device not in self._uses:
            return {}
        blocks: defaultdict[ProcessKey, float] = defaultdict(float)
        for use, part in self._uses[device].during(2 * span.start - span.end, span.end):
            blocks[use.process] += use.blocks * part
        whole = sum(blocks.values())
        rows = self._capture.processes
        others = {
            process: count
            for process, count in blocks.items()
            if count and not (process in rows and rows[process].is_nfsd)
        }
        if sum(others.values()) < _FEW_BLOCKS * max(1, span.wait.count):
            return {}
        return {process: count / whole for process, count in others.items()}

    def totals(self, processes: Collection[ProcessKey]) -> dict[str, tuple[int, int]]:
        """Return how many blocks they filled of each device's journal, in how many changes."""
        totals: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for device, uses in self._uses.items():
            for use in uses.rows:
                if use.process in processes:
                    blocks, handles = totals[device]
                    totals[device] = (blocks + use.blocks, handles + use.handles)
        return dict(totals)
