"""Whose requests a server's threads were at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from tracer.blame.intervals import queued_us, wall_us
from tracer.blame.ledger import Ledger
from tracer.blame.units import percent

_SHOWN: Final = 4


def clients_lines(ledger: Ledger, index: int) -> Iterator[str]:
    """Yield which clients' slow requests the threads of a server were at; nothing for one.

    A slow disk, or too few threads, may be a client's that asks for more than all others.
    """
    times: Counter[str] = Counter()
    for op in ledger.hosts[index].served:
        client = ledger.join.client_at(index, op.peer)
        name = op.peer if client is None else ledger.hosts[client].capture.host
        if name is not None:
            times[name] += wall_us(op) - queued_us(op)
    if len(times) < 2:
        return
    whole = times.total()
    parts = [f"{name} {percent(us / whole)}" for name, us in times.most_common(_SHOWN) if whole]
    yield f"nfsd's threads were at slow requests of {', '.join(parts)} of that time"
