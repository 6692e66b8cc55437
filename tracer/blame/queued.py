"""How many requests waited for an nfsd thread, and how long they had one."""

from __future__ import annotations

from collections.abc import Iterator

from tracer.blame.evidence import held_times
from tracer.blame.intervals import queued_us, served_from, wall_us
from tracer.blame.ledger import Ledger
from tracer.blame.units import human_us


def queue_lines(ledger: Ledger, index: int) -> Iterator[str]:
    """Yield what the slow requests to a server waited for a thread, and what they took on one.

    More threads help if the first is much and the second is little.
    """
    ops = [op for op in ledger.hosts[index].served if queued_us(op)]
    if not ops:
        return
    most, _ = held_times(((op.begin_mono_us, served_from(op)) for op in ops), 1)
    queued = sum(map(queued_us, ops)) / len(ops)
    taken = sum(wall_us(op) - queued_us(op) for op in ops) / len(ops)
    what = "request" if most == 1 else "requests"
    yield (
        f"up to {most} {what} waited at once for one of {ledger.occupancy(index).threads} "
        f"threads: {human_us(queued)} on average, to be at work for {human_us(taken)}"
    )
