"""Client and server captures joined: RPCs by xid and address, clocks by what was joined."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeAlias

from tracer.blame.intervals import wall_us
from tracer.blame.paths import remote_window
from tracer.model import HostCapture, Operation

# The index of a capture in the list of captures, and one of its operations.
Located: TypeAlias = tuple[int, Operation]

# Two clocks read one after the other, and time cut to microseconds.
_SLACK_US = 50_000
# Bounds of a clock offset wider than this are no measurement.
_MAX_OFFSET_WIDTH_US = 1_000_000
# Clocks drift apart: what was measured in such a time is good for that time.
_DRIFT_US = 600_000_000
_NO_BOUNDS = (float("-inf"), float("inf"))


class Join:
    """Which server operation is which client RPC, and how the hosts' clocks differ."""

    def __init__(self, captures: Sequence[HostCapture]) -> None:
        self._captures = captures
        self._pairs: dict[tuple[int, int], Located] = {}
        self._joined: dict[tuple[int, int], Located] = {}
        self._offsets: dict[tuple[int, int, int], float | None] = {}
        self._bounds: defaultdict[tuple[int, int], dict[int, tuple[float, float]]] = defaultdict(
            dict
        )
        self._servers: dict[tuple[int, str], int | None] = {}
        self._match()

    def server_operation(self, client: int, rpc: Operation) -> Located | None:
        """Return the server's operation of a client's RPC, None if it was not recorded."""
        return self._pairs.get((client, rpc.op_id))

    def is_joined(self, server: int, op: Operation) -> bool:
        """Return whether a server operation belongs to a recorded client RPC."""
        return (server, op.op_id) in self._joined

    def client_rpc(self, server: int, op: Operation) -> Located | None:
        """Return the client's RPC of a server's operation, None if it was not recorded."""
        return self._joined.get((server, op.op_id))

    def server_at(self, client: int, address: str | None) -> int | None:
        """Return the index of the server capture that has this address, None if not here.

        A server that was restarted has two captures: the one recorded at the same time.
        """
        if address is None:
            return None
        key = (client, address)
        if key not in self._servers:
            found = [
                index
                for index, capture in enumerate(self._captures)
                if "server" in capture.sides and self._is_at(index, address, client)
            ]
            ours = self._captures[client]
            self._servers[key] = max(
                found, key=lambda index: _shared_time(ours, self._captures[index]), default=None
            )
        return self._servers[key]

    def client_at(self, server: int, address: str | None) -> int | None:
        """Return the index of the client capture that has this address, None if not here."""
        if address is None:
            return None
        for index, capture in enumerate(self._captures):
            if "client" in capture.sides and self._is_at(index, address, server):
                return index
        return None

    def offset_us(self, client: int, server: int, at_us: float) -> float | None:
        """Return what to add to the client's monotonic time to get the server's then.

        Measured from the joined operations: a request cannot arrive before it was
        sent, nor its reply be there before the server sent it. Without such pairs the
        hosts' wall clocks must do, if recorded. None if it cannot be told.
        """
        if client == server:
            return 0.0
        key = (client, server, int(at_us // _DRIFT_US))
        if key not in self._offsets:
            self._offsets[key] = self._find_offset(*key)
        return self._offsets[key]

    def _match(self) -> None:
        by_xid: defaultdict[int, list[Located]] = defaultdict(list)
        for index, op in _rpcs(self._captures, "server"):
            if op.xid is not None:
                by_xid[op.xid].append((index, op))
        for client, rpc in _rpcs(self._captures, "client"):
            if rpc.xid is None or rpc.xid not in by_xid:
                continue
            fits = self._fitting(client, rpc, by_xid[rpc.xid])
            if not fits:
                continue
            # A retransmitted request may be there twice: the longest is the one waited for.
            server, op = max(fits, key=lambda one: wall_us(one[1]))
            self._pairs[client, rpc.op_id] = (server, op)
            self._joined |= {(index, one.op_id): (client, rpc) for index, one in fits}
            self._note_bounds(client, rpc, server, op)

    def _fitting(self, client: int, rpc: Operation, same_xid: Sequence[Located]) -> list[Located]:
        """Return the operations that are this RPC: by address, else by duration if unique."""
        proven: list[Located] = []
        likely: list[Located] = []
        for server, op in same_xid:
            at_server = self._agrees(server, rpc.peer, client)
            at_client = self._agrees(client, op.peer, server)
            if at_server and at_client:
                proven.append((server, op))
            elif at_server is not False and at_client is not False and _may_contain(rpc, op):
                likely.append((server, op))
        if proven:
            return proven
        return likely if len({(server, op.peer) for server, op in likely}) == 1 else []

    def _agrees(self, host: int, address: str | None, other: int) -> bool | None:
        """Return whether an address is a host's; None if it is not known."""
        if address is None or not self._captures[host].addresses:
            return None
        return self._is_at(host, address, other)

    def _is_at(self, host: int, address: str, other: int) -> bool:
        if address in self._captures[host].addresses:
            return True
        return host == other and is_loopback(address)

    def _note_bounds(self, client: int, rpc: Operation, server: int, op: Operation) -> None:
        window = remote_window(rpc)
        if window is None:
            return
        sent, replied = window
        bounds = self._bounds[client, server]
        low, high = bounds.get(sent // _DRIFT_US, _NO_BOUNDS)
        high = min(high, op.begin_mono_us - sent)
        if not rpc.in_flight and not op.in_flight and _may_contain(rpc, op):
            low = max(low, op.end_mono_us - (op.send_us or 0) - replied)
        bounds[sent // _DRIFT_US] = (low, high)

    def _find_offset(self, client: int, server: int, period: int) -> float | None:
        """Return what the pairs of a period tell, or else those of the nearest measured one."""
        bounds = self._bounds[client, server]
        measured = [
            (abs(at - period), (low + high) / 2)
            for at, (low, high) in bounds.items()
            # Negative within a rounding: the pair took no time at all on the wire.
            if -_SLACK_US <= high - low <= _MAX_OFFSET_WIDTH_US
        ]
        if measured:
            return min(measured)[1]
        clocks = self._wall_offset(client, server)
        if clocks is None:
            return None
        low = max((low for low, _ in bounds.values()), default=_NO_BOUNDS[0])
        high = min((high for _, high in bounds.values()), default=_NO_BOUNDS[1])
        return clocks if low - _SLACK_US <= clocks <= high + _SLACK_US else None

    def _wall_offset(self, client: int, server: int) -> float | None:
        ours, theirs = self._captures[client], self._captures[server]
        if ours.wall_minus_mono_us is None or theirs.wall_minus_mono_us is None:
            return None
        if ours.end < theirs.start or theirs.end < ours.start:
            return None
        return ours.wall_minus_mono_us - theirs.wall_minus_mono_us


def _rpcs(captures: Sequence[HostCapture], side: str) -> Iterable[Located]:
    for index, capture in enumerate(captures):
        for op in capture.operations:
            if op.side == side and op.layer == "rpc":
                yield index, op


def _shared_time(one: HostCapture, other: HostCapture) -> timedelta:
    return min(one.end, other.end) - max(one.start, other.start)


def _may_contain(rpc: Operation, op: Operation) -> bool:
    """Return whether the RPC took at least as long as the server's part, as far as both ended."""
    if rpc.in_flight or op.in_flight:
        return True
    return wall_us(op) - (op.send_us or 0) <= wall_us(rpc) * 1.05 + _SLACK_US


def is_loopback(address: str) -> bool:
    """Return whether an address is of the host itself."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
