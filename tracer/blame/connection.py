"""Who was ahead on a connection: its requests go one behind the other, and so do its replies.

What a request spends on its way beyond a round trip of the network, it spends behind those that
were sent before it and arrive before it does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Final, NamedTuple

from tracer.blame.join import Join
from tracer.blame.paths import phases, remote_window
from tracer.model import Operation

# What carries data, and so fills a connection: to the server, and back.
_TO_SERVER: Final = frozenset({"WRITE"})
_TO_CLIENT: Final = frozenset({"READ", "READ_PLUS"})

# TCP smooths its round trip time over several; so long it may stand for an RPC.
_NEAR_US: Final = 2_000_000


class Ahead(NamedTuple):
    """An RPC with data that was ahead of another, and for how long."""

    rpc: Operation
    us: float


class Passage(NamedTuple):
    """An RPC on its way through one place, by the client's clock."""

    begin: float
    end: float
    rpc: Operation


class Lane:
    """A place through which RPCs come one after another."""

    def __init__(self, passages: Iterable[Passage], full: frozenset[str]) -> None:
        """``full``: the operations that carry data."""
        self._full = full
        self._passages = sorted(passages, key=lambda one: one.end)
        self._ends = [one.end for one in self._passages]

    def ahead(self, since: float, start: float, end: float) -> Iterator[Ahead]:
        """Yield what carries data, came through in a window, and had begun before ``since``.

        Each takes the time since the one before it was through, of that in the window.
        """
        at = start
        for one in self._passages[bisect_right(self._ends, start) : bisect_right(self._ends, end)]:
            # What began later came another way, on a connection of its own.
            if one.begin < since and one.rpc.op in self._full:
                yield Ahead(one.rpc, one.end - at)
            at = one.end


class _Way(NamedTuple):
    """When an RPC was sent, was there, was answered, and was back; by the client's clock."""

    rpc: Operation
    sent: float
    arrived: float
    answered: float
    replied: float
    rtt_us: int | None


class Connection:
    """The way between a client and a server, both of which were recorded."""

    def __init__(self, join: Join, client: int, rpcs: Iterable[Operation]) -> None:
        """``rpcs``: all of the client's to the server."""
        self._rpcs = list(rpcs)
        self._ways = [way for rpc in self._rpcs if (way := _way(join, client, rpc))]
        self._way_of = {one.rpc.op_id: one for one in self._ways}
        self._rtts = sorted((one.answered, one.rtt_us) for one in self._ways if one.rtt_us)

    @cached_property
    def _to_server(self) -> Lane:
        """Return the requests, from being sent to being there."""
        ways = (Passage(one.sent, one.arrived, one.rpc) for one in self._ways)
        return Lane(ways, _TO_SERVER)

    @cached_property
    def _to_client(self) -> Lane:
        """Return the replies, from the server's handing them over to their being there."""
        ways = (Passage(one.answered, one.replied, one.rpc) for one in self._ended)
        return Lane(ways, _TO_CLIENT)

    @cached_property
    def into_socket(self) -> Lane:
        """Return the requests as they are written to the socket, until the next one is."""
        begun = sorted(
            (
                (phase.end, rpc)
                for rpc in self._rpcs
                for phase in phases(rpc)
                if phase.name == "send" and rpc.remote_us is not None
            ),
            # Not by the RPCs themselves: a broken capture may have two of one id at one time.
            key=lambda one: (one[0], one[1].op_id),
        )
        ways = (Passage(begin, following, rpc) for (begin, rpc), (following, _) in pairwise(begun))
        return Lane(ways, _TO_SERVER)

    def rtt_us(self, start: float, end: float) -> int | None:
        """Return the longest round trip that TCP took then or just before or after.

        It is of what was on its way, not of what lay in a socket: that is what is behind others'
        data. None if it is not known; then the network itself may have been slow.
        """
        first = bisect_left(self._rtts, (start - _NEAR_US,))
        last = bisect_left(self._rtts, (end + _NEAR_US,))
        return max((rtt for _, rtt in self._rtts[first:last]), default=None)

    def behind_us(self, rpc: Operation) -> float:
        """Return how long an RPC was behind data on the way to the server and back."""
        window, way = remote_window(rpc), self._way_of.get(rpc.op_id)
        if window is None:
            return 0.0
        sent, replied = window
        ahead = [*self.requests(sent, sent, way.arrived if way else replied)]
        if way is not None:
            ahead += self.replies(way.answered, way.answered, replied)
        return sum(one.us for one in ahead)

    def requests(self, sent: float, start: float, end: float) -> Iterator[Ahead]:
        """Yield the requests with data that one was behind in a part of its way."""
        return self._ahead(self._to_server, sent, start, end)

    def replies(self, answered: float, start: float, end: float) -> Iterator[Ahead]:
        """Yield the replies with data that one was behind in a part of its way."""
        return self._ahead(self._to_client, answered, start, end)

    def _ahead(self, lane: Lane, since: float, start: float, end: float) -> Iterator[Ahead]:
        """Yield who was ahead, but for the time that the network takes by itself."""
        rtt_us = self.rtt_us(start, end)
        if rtt_us is not None:
            yield from lane.ahead(since, max(start, since + rtt_us), end)

    @property
    def _ended(self) -> Iterator[_Way]:
        return (one for one in self._ways if not one.rpc.in_flight)


def _way(join: Join, client: int, rpc: Operation) -> _Way | None:
    """Return the way of an RPC, None if it is not known at both ends or the clocks are not."""
    window, located = remote_window(rpc), join.server_operation(client, rpc)
    if window is None or located is None:
        return None
    server, op = located
    offset = join.offset_us(client, server, window[0])
    if offset is None or op.queue_us is None or not op.begin_known:
        return None
    arrived = op.begin_mono_us - offset
    answered = op.end_mono_us - (op.send_us or 0) - offset
    return _Way(rpc, window[0], arrived, answered, window[1], op.rtt_us)
