"""What threads did that others waited for.

A thread that lets another go on is recorded from then on, from one answer to the next. Of a
wait for it that tells what it went to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tracer.blame.intervals import Span
from tracer.blame.timeline import Timeline
from tracer.model import HostCapture, Operation, ProcessKey


class Piece(NamedTuple):
    """What a thread did from ``start`` to ``end``."""

    op: Operation
    start: int
    end: int


class Answers:
    """What threads of one host did that others waited for."""

    def __init__(self, capture: HostCapture) -> None:
        by_thread: defaultdict[tuple[ProcessKey, int], list[Operation]] = defaultdict(list)
        self._asked: defaultdict[ProcessKey, list[Operation]] = defaultdict(list)
        for op in capture.answers:
            if op.process is not None and op.tid is not None:
                by_thread[op.process, op.tid].append(op)
                if op.in_flight:
                    self._asked[op.process].append(op)
        # What such a thread did in operations of its own stands there.
        for op in capture.operations:
            if op.layer == "vfs" and op.process is not None and op.tid is not None:
                thread = (op.process, op.tid)
                if thread in by_thread:
                    by_thread[thread].append(op)
        self._by_thread = {thread: Timeline(ops) for thread, ops in by_thread.items()}

    def during(self, process: ProcessKey, span: Span) -> Iterator[Piece]:
        """Yield what a process did while it was waited for, as far as it was seen."""
        tid = span.wait.waker_tid if span.wait.waker else self._only_asked(process)
        thread = self._by_thread.get((process, tid or 0))
        for op, _ in thread.during(span.start, span.end) if thread else ():
            yield Piece(op, max(op.begin_mono_us, span.start), min(op.end_mono_us, span.end))

    def _only_asked(self, process: ProcessKey) -> int | None:
        """Return the thread that has an event to answer; of several nobody knows which.

        But if all of them wait for one other process, any will do: the last to do so.
        """
        asked = self._asked.get(process, ())
        if len(asked) == 1:
            return asked[0].tid
        waits = [(wait, op.tid) for op in asked for wait in op.waits if wait.in_flight]
        whom = {wait.waker for wait, _ in waits}
        if len(waits) != len(asked) or len(whom) != 1 or None in whom:
            return None
        return max(waits, key=lambda one: one[0].first_mono_us)[1]
