"""Waits of an operation laid out in time, and their time within a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tracer.blame.charge import RUNNING, Mix, add, split
from tracer.model import Operation, Wait

# Nanoseconds are cut to microseconds when recorded: a wait's sum may exceed its span by this.
_ROUNDING_US = 1000


@dataclass(frozen=True, slots=True)
class Span:
    """A wait cut to its operation: ``total_us`` of it lie in ``start``..``end``."""

    wait: Wait
    start: int
    end: int
    total_us: int

    def within_us(self, start: float, end: float) -> float:
        """Return how much of it lies in a window, it being spread evenly."""
        overlap = min(end, self.end) - max(start, self.start)
        return self.total_us * overlap / (self.end - self.start) if overlap > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which a thread's mix of activities is constant; rates add up to 1."""

    start: int
    end: int
    rates: Mix = field(default_factory=dict)


def served_from(op: Operation) -> int:
    """Return when a thread took the operation up; a client's own thread always has it."""
    return op.begin_mono_us + queued_us(op)


def queued_us(op: Operation) -> int:
    """Return how long the operation lay in the server's queue, as far as that was seen."""
    return max(0, min(op.queue_us or 0, op.wall_us))


def wall_us(op: Operation) -> int:
    """Return the wall time, never negative."""
    return max(0, op.wall_us)


def spans(op: Operation) -> list[Span]:
    """Return the operation's waits, cut so that together they fit into its served time."""
    start, end = served_from(op), op.begin_mono_us + wall_us(op)
    waits = [wait for wait in op.waits if not _before(wait, op)]
    return _fitting(waits, start, end, end - start - lost_us(op))


def queue_spans(op: Operation) -> list[Span]:
    """Return the waits of the thread that was to take the operation up, while it was queued."""
    start, end = op.begin_mono_us, served_from(op)
    waits = [wait for wait in op.waits if _before(wait, op)]
    return _fitting(waits, start, end, end - start)


def taking_up(op: Operation) -> list[Span]:
    """Return a thread's waits for a CPU since it was last idle, until it took the operation up.

    It was to take something up then, and was not free: also before this operation came. A request
    that was put off has a wait as well, but no thread.
    """
    waits = [wait for wait in op.waits if _before(wait, op) and wait.kind != "blocked"]
    start, end = min((wait.first_mono_us for wait in waits), default=0), served_from(op)
    return _fitting(waits, start, end, end - start)


def _before(wait: Wait, op: Operation) -> bool:
    return wait.first_mono_us < wait.last_mono_us <= served_from(op)


def _fitting(waits: Sequence[Wait], start: int, end: int, budget: int) -> list[Span]:
    """Return waits cut to a window; together they take no more than the budget."""
    cut = [_span(wait, start, end) for wait in waits]
    asked = sum(span.total_us for span in cut)
    if asked <= budget:
        return cut
    totals = split(max(0, budget), [span.total_us for span in cut])
    return [
        Span(span.wait, span.start, span.end, total)
        for span, total in zip(cut, totals, strict=True)
    ]


def lost_us(op: Operation) -> int:
    """Return the blocked time that was not recorded, within the operation's bounds."""
    return max(0, min(op.waits_lost_us, wall_us(op) - queued_us(op)))


def _span(wait: Wait, start: int, end: int) -> Span:
    first = min(max(wait.first_mono_us, start), end)
    last = min(max(wait.last_mono_us, first), end)
    total = max(0, min(wait.total_us, end - start))
    if last - first + _ROUNDING_US < total:
        # The bounds are unknown or wrong: it lay somewhere in the operation.
        first, last = start, end
    return Span(wait, first, last, min(total, last - first))


def stretches(start: int, end: int, parts: Sequence[tuple[Span, Mix]]) -> list[Stretch]:
    """Cut ``start``..``end`` where waits begin and end; what is no wait is running.

    A part's mix gives the proportions of its wait. Sums of several waits lie spread
    over their spans; where they would add up to more than the time, they share it.
    """
    parts = [(span, mix) for span, mix in parts if span.total_us > 0 and span.end > span.start]
    cuts = sorted({start, end, *(s.start for s, _ in parts), *(s.end for s, _ in parts)})
    out: list[Stretch] = []
    for lower, upper in pairwise(cuts):
        rates: Mix = {}
        for span, mix in parts:
            whole = sum(mix.values())
            if whole > 0 and span.start <= lower and upper <= span.end:
                add(rates, mix, span.total_us / (span.end - span.start) / whole)
        busy = sum(rates.values())
        if busy > 1:
            rates = {charge: rate / busy for charge, rate in rates.items()}
        elif busy < 1:
            add(rates, {RUNNING: 1 - busy})
        out.append(Stretch(lower, upper, rates))
    return out
