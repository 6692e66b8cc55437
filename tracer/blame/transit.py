"""Time between a client and a server: packets that lie on a host, others' data, the network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, TypeAlias

from tracer.blame.charge import (
    UNKNOWN,
    Charge,
    Culprit,
    Mix,
    add,
    charge_to,
    filled,
    scaled,
)
from tracer.blame.connection import Ahead, Connection
from tracer.blame.intervals import wall_us
from tracer.blame.network import Evidence, is_lossy
from tracer.blame.paths import remote_window
from tracer.model import Operation

if TYPE_CHECKING:
    from tracer.blame.hosts import Host
    from tracer.blame.ledger import Ledger

# How long after a server was started anew its clients may still try to connect: their first
# pause before that is 3 s, XS_TCP_INIT_REEST_TO.
_RECONNECT_US: Final = 5_000_000

# What a client's kernel asks daemons of the other host: rpc.mountd, rpcbind, rpc.statd. The
# server's kernel sees none of it.
_FOR_DAEMONS: Final = frozenset(
    {"MOUNT", "UMOUNT", "SET", "UNSET", "GETPORT", "GETADDR", "MONITOR", "UNMONITOR"}
)

# Kernels that preempt themselves lose an event now and then, see losses.MISSED_EVENT.
_FEW_LOST: Final = 0.1

# From when to when, by the client's clock.
Part: TypeAlias = tuple[float, float]


class Transit:
    """Resolves such time for the ledger. ``host`` is the client capture's index."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lossy: dict[tuple[int, int], bool] = {}
        self._connections: dict[tuple[int, str | None], Connection] = {}

    def network(self, host: int, rpc: Operation) -> Charge:
        """Return the charge for time on the wire: it has no process, but two ends.

        It is the client's if a server's threads could not send it their replies, else the
        server's, which is where one looks first. A connection that is lost as nfsd is started
        anew, and made again later, is no network's doing.
        """
        if self._was_restarted(host, rpc):
            return in_grace(rpc.peer)
        receiver = self._ledger.replies.slow(self._ledger.hosts[host].capture.host)
        server = Culprit("host", rpc.peer, rpc.peer) if rpc.peer else None
        return charge_to("network", receiver or server)

    def unseen(self, host: int, server: int, rpc: Operation, start: float, end: float) -> Charge:
        """Return where an RPC was that the server shows no operation for.

        On the wire, if the server was recorded all the while, lost no operation, and
        would have recorded one as long as this. Of before recording it shows what it still
        has: for an RPC that has not ended that is enough.
        """
        offset = self._ledger.join.offset_us(host, server, start)
        there = self._ledger.hosts[server]
        # One that was put off is no operation until it is taken up again.
        deferred = any(row.kind == "deferred" for row in there.capture.counts)
        if offset is None or deferred or self._may_lack(there) or rpc.op in _FOR_DAEMONS:
            return UNKNOWN
        first, last = there.recorded
        here = self._ledger.hosts[host]
        both_show_all = here.shows_all_in_flight and there.shows_all_in_flight
        was_there = start + offset >= first or (rpc.in_flight and both_show_all)
        if not was_there or end + offset > last:
            return UNKNOWN
        coarser = there.capture.threshold_us > 2 * here.capture.threshold_us
        return UNKNOWN if coarser else self.network(host, rpc)

    def _may_lack(self, there: Host) -> bool:
        """Return whether a server's operation may have been lost, and not be on the wire.

        Few losses are not what is behind it where the network is plainly at fault.
        """
        if not there.lost_part:
            return False
        return there.lost_part > _FEW_LOST or self._ledger.shows_in_network < Evidence.PLAIN

    def to_server(
        self, host: int, rpc: Operation, server: int, sent: float, part: Part, rest: Charge
    ) -> Mix:
        """Return what a part of a request's way went to; ``rest``: what nothing accounts for."""
        mix = self.mix(host, rpc, server, *part, rest)
        ahead = self._connection(host, rpc).requests(sent, *part)
        return self._behind(host, host, mix, rest, ahead)

    def to_client(
        self, host: int, rpc: Operation, server: int, answered: float, part: Part, rest: Charge
    ) -> Mix:
        """Return what a part of a reply's way went to."""
        mix = self.mix(host, rpc, server, *part, rest)
        ahead = self._connection(host, rpc).replies(answered, *part)
        return self._behind(host, server, mix, rest, ahead)

    def into_socket(self, host: int, rpc: Operation, mix: Mix, part: Part, rest: Charge) -> Mix:
        """Return a mix of what waiting to be written to the socket went to, with who was ahead."""
        ahead = self._connection(host, rpc).into_socket.ahead(part[1], *part)
        return self._behind(host, host, mix, rest, ahead)

    def mix(
        self,
        host: int,
        rpc: Operation,
        server: int | None,
        start: float,
        end: float,
        rest: Charge,
    ) -> Mix:
        """Return what time on the wire went to: packets may lie on a host.

        It has no CPU for them, or a process has to decide on them. ``rest``: what else
        it was.
        """
        mix: Mix = {}
        gaps = [(start, end)]
        for index in dict.fromkeys((host, server)):
            offset = None if index is None else self._ledger.join.offset_us(host, index, start)
            if index is None or offset is None:
                continue
            delays = self._ledger.hosts[index].delays
            for op, _ in delays.during(start + offset, end + offset):
                if not self._concerns(index, op, host, rpc):
                    continue
                # A packet found in a queue holds up all that came after it in its connection:
                # RPCs that were under way when recording began have waited since they were sent.
                first = op.begin_mono_us - offset if op.begin_known else start
                last = op.end_mono_us - offset
                for lower, upper in [(max(a, first), min(b, last)) for a, b in gaps]:
                    if lower < upper:
                        add(mix, self._delayed(index, op, lower + offset, upper + offset))
                gaps = [
                    (a, b)
                    for lower, upper in gaps
                    for a, b in ((lower, min(upper, first)), (max(lower, last), upper))
                    if a < b
                ]
        left = sum(upper - lower for lower, upper in gaps)
        return filled(mix, sum(mix.values()) + left, rest) if left > 0 else mix

    def behind_us(self, host: int, rpc: Operation) -> float:
        """Return how long an RPC was behind the data of others on its way."""
        return self._connection(host, rpc).behind_us(rpc)

    def rtt_us(self, host: int, rpc: Operation) -> int | None:
        """Return the longest round trip that TCP took while an RPC was on its way, if known."""
        window = remote_window(rpc)
        return self._connection(host, rpc).rtt_us(*window) if window else None

    def _delayed(self, index: int, delay: Operation, start: float, end: float) -> Mix:
        """Return what a delay's part of a time on the wire went to."""
        if delay.begin_known:
            return self._ledger.window(index, delay, start, end)
        return scaled(self._ledger.bill(index, delay), end - start)

    def _concerns(self, index: int, delay: Operation, host: int, rpc: Operation) -> bool:
        """Return whether an RPC of a client's host may have waited for a delay on a host."""
        if delay.peer is None:
            return True
        if index == host and delay.peer == rpc.peer:
            return True
        return delay.peer in self._ledger.hosts[host].capture.addresses

    def _connection(self, host: int, rpc: Operation) -> Connection:
        """Return the connection of a client's host to the server of an RPC."""
        key = host, rpc.peer
        if key not in self._connections:
            rpcs = (one for one in self._ledger.hosts[host].rpcs if one.peer == rpc.peer)
            self._connections[key] = Connection(self._ledger.join, host, rpcs)
        return self._connections[key]

    def _behind(
        self, host: int, sender: int, mix: Mix, network: Charge, ahead: Iterable[Ahead]
    ) -> Mix:
        """Return a mix in which the processes whose data was ahead have their part of the network.

        Not if much of what its sender sends is lost: then all of that is late, the data as well.
        """
        left = mix.get(network, 0.0)
        if network.cause != "network" or not left or self._is_lossy(host, sender):
            return mix
        suspects = self._ledger.hosts[host].suspects
        theirs: Mix = {}
        for other, us in ahead:
            who = other.process or other.writer
            if who is not None:
                add(theirs, {charge_to("slot", suspects.process(who)): us})
        part = min(left, sum(theirs.values()))
        if part <= 0:
            return mix
        rest = {**mix, network: left - part}
        add(rest, scaled(theirs, part))
        return rest

    def _is_lossy(self, host: int, sender: int) -> bool:
        key = host, sender
        if key not in self._lossy:
            client, sends = (self._ledger.hosts[index].capture for index in key)
            self._lossy[key] = is_lossy(sends, client)
        return self._lossy[key]

    def _was_restarted(self, host: int, rpc: Operation) -> bool:
        """Return whether the server was started anew while an RPC was under way, or just before."""
        server = self._ledger.join.server_at(host, rpc.peer)
        if server is None:
            return False
        starts = self._ledger.hosts[server].nfsd_starts_us
        offset = self._ledger.join.offset_us(host, server, rpc.begin_mono_us) if starts else None
        if offset is None:
            return False
        begin, end = rpc.begin_mono_us + offset, rpc.begin_mono_us + wall_us(rpc) + offset
        return any(begin - _RECONNECT_US <= start <= end for start in starts)


def in_grace(address: str | None) -> Charge:
    """Return the charge to a server that was started anew: it has to be told its clients' state."""
    return charge_to("grace", Culprit("host", address, address) if address else None)
