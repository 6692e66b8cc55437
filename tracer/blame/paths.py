"""RPCs under a client's wait: which one it waited for at each moment, and its phases."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tracer.blame.intervals import wall_us
from tracer.model import Operation


class Phase(NamedTuple):
    """A phase of a client's RPC: slot, send, remote, wake, or unknown."""

    name: str
    start: int
    end: int


class Leg(NamedTuple):
    """A part of a window: the RPC that was waited for, None in a gap."""

    start: int
    end: int
    rpc: Operation | None


class RpcPath:
    """The critical path through a set of RPCs, walked backwards from the end of a wait.

    At any moment the RPC to blame is one under way; of several, the one that began
    first, since nothing but it was missing at the end of a wait for all of them. In
    a gap the walk goes on with the RPC that ended last before it.
    """

    def __init__(self, rpcs: Iterable[Operation]) -> None:
        self._by_end = sorted(rpcs, key=lambda rpc: rpc.begin_mono_us + wall_us(rpc))
        self._ends = [rpc.begin_mono_us + wall_us(rpc) for rpc in self._by_end]
        # earliest[i]: the RPC that began first among those from i on.
        self._earliest: list[Operation] = []
        for rpc in reversed(self._by_end):
            first = self._earliest[-1] if self._earliest else rpc
            self._earliest.append(rpc if rpc.begin_mono_us <= first.begin_mono_us else first)
        self._earliest.reverse()

    def walk(self, start: int, end: int) -> Iterator[Leg]:
        """Yield legs from ``end`` back to ``start`` which cover the window without overlap."""
        at = end
        while at > start:
            index = bisect_left(self._ends, at)
            rpc = self._earliest[index] if index < len(self._earliest) else None
            if rpc is not None and rpc.begin_mono_us < at:
                lower = max(start, rpc.begin_mono_us)
                yield Leg(lower, at, rpc)
            else:
                lower = max(start, self._ends[index - 1]) if index else start
                yield Leg(lower, at, None)
            at = lower


def walk_levels(levels: Iterable[RpcPath], start: int, end: int) -> Iterator[Leg]:
    """Walk a window; gaps of one level are filled from the next."""
    gaps = [(start, end)]
    for path in levels:
        remaining = []
        for lower, upper in gaps:
            for leg in path.walk(lower, upper):
                if leg.rpc is None:
                    remaining.append((leg.start, leg.end))
                else:
                    yield leg
        gaps = remaining
    for lower, upper in gaps:
        yield Leg(lower, upper, None)


def phases(rpc: Operation) -> list[Phase]:
    """Return the phases of an RPC in order; they cover its wall time without overlap.

    What the recorded phases leave over is the phase it is in, if in flight.
    """
    at, end = rpc.begin_mono_us, rpc.begin_mono_us + wall_us(rpc)
    out: list[Phase] = []
    following = "send" if rpc.xid is not None else "slot"
    for name, duration, then in (
        ("slot", rpc.slot_us, "send"),
        ("send", rpc.send_us, "remote"),
        ("remote", rpc.remote_us, "wake" if not rpc.in_flight else "remote"),
        ("wake", rpc.wake_us, "wake"),
    ):
        if duration is None:
            continue
        upper = min(end, at + max(0, duration))
        out.append(Phase(name, at, upper))
        at, following = upper, then
    if at < end:
        out.append(Phase(following if rpc.in_flight else "unknown", at, end))
    return out


def remote_window(rpc: Operation) -> tuple[int, int] | None:
    """Return when the RPC was on the wire or in the server, None if it was never sent."""
    windows = [phase for phase in phases(rpc) if phase.name == "remote"]
    return (windows[0].start, windows[-1].end) if windows else None
