"""Time that a client spent in RPCs, followed phase by phase into the server's ledger."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from tracer.blame.charge import (
    CPU,
    RUNNING,
    SLOT,
    SLOT_LINK,
    UNKNOWN,
    Charge,
    Culprit,
    Mix,
    add,
    charge_to,
    filled,
    scaled,
    through,
)
from tracer.blame.connection import Ahead, Connection
from tracer.blame.intervals import Span, wall_us
from tracer.blame.join import Located
from tracer.blame.paths import Leg, Phase, RpcPath, phases, remote_window, walk_levels
from tracer.blame.signatures import bare
from tracer.blame.slots import Held, Sums
from tracer.model import Operation, ProcessKey

if TYPE_CHECKING:
    from tracer.blame.ledger import Ledger

# Handing a request to the socket takes the thread's own time; longer is the network.
_TINY_SEND_US: Final = 1000

# The longest pause before an RPC that was refused is sent again: NFS4_POLL_RETRY_MAX. That of
# NFSv3 is 5 s, NFS_JUKEBOX_RETRY_TIME.
_LONGEST_PAUSE_US: Final = 15_000_000

# How long after a server was started anew its clients may still try to connect: their first
# pause before that is 3 s, XS_TCP_INIT_REEST_TO.
_RECONNECT_US: Final = 5_000_000

# No reply in that time, from a server that has not got the request, is none on its way.
_LONG_US: Final = 5_000_000

# Who has this part of the slots is whom those wait for who have none.
_MOST: Final = 0.5

# Whom an RPC that had a slot was for and what its time went to; and how long that was.
_Holder: TypeAlias = tuple[ProcessKey | None, Charge]
_Taken: TypeAlias = tuple[_Holder, float]

_WRITEBACK_FRAMES: Final = frozenset(
    {
        "wait_on_commit",
        "nfs_wait_on_request",
        "folio_wait_writeback",
        "wait_on_page_writeback",
        "filemap_fdatawait_range",
        "__filemap_fdatawait_range",
        "file_write_and_wait_range",
        "filemap_write_and_wait_range",
        "balance_dirty_pages",
    }
)


class Remote:
    """Resolves clients' RPCs for the ledger. ``host`` is the client capture's index."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._used: defaultdict[int, set[int]] = defaultdict(set)
        self._held: dict[tuple[int, int], list[_Taken]] = {}
        self._sums: dict[tuple[int, str | None], Sums[_Holder]] = {}
        self._connections: dict[tuple[int, str | None], Connection] = {}

    def waited_for(self, calls: Iterable[Operation]) -> set[int]:
        """Return the ``id()`` of each RPC that one of these calls, already billed, waited for."""
        return {rpc for call in calls for rpc in self._used[id(call)]}

    def wait_mix(self, host: int, op: Operation, span: Span) -> Mix:
        """Return what a call's wait for NFS went to, by the RPCs that it can have waited for."""
        view = self._ledger.hosts[host]
        levels = [RpcPath(view.children(op)), view.leftovers(op.process)]
        if any(bare(frame) in _WRITEBACK_FRAMES for frame in span.wait.stack):
            levels.append(view.writeback(op.mount))
        return self.walk(host, op, span, levels)

    def behind_us(self, host: int, rpc: Operation) -> float:
        """Return how long an RPC was behind the data of others on its way."""
        return self._connection(host, rpc.peer).behind_us(rpc)

    def walk(self, host: int, op: Operation, span: Span, levels: Sequence[RpcPath]) -> Mix:
        """Return what a wait went to, given RPCs in order of how surely they were its own."""
        mix: Mix = {}
        for leg in walk_levels(levels, span.start, span.end):
            if leg.rpc is None:
                add(mix, self._gap_mix(host, op, leg))
            else:
                self._used[id(op)].add(id(leg.rpc))
                add(mix, self.rpc_mix(host, leg.rpc, leg.start, leg.end))
        return mix or {UNKNOWN: 1.0}

    def _gap_mix(self, host: int, op: Operation, leg: Leg) -> Mix:
        """Return a wait for an RPC that was not seen.

        If the call began before recording did, so did its RPC: it is at the server.
        """
        duration = leg.end - leg.start
        address = None if op.begin_known else self._ledger.hosts[host].server_address(op)
        if address is None:
            return {UNKNOWN: duration}
        server = self._ledger.join.server_at(host, address)
        if server is None:
            return {_at_server(address): duration}
        busy = self._busy_mix(host, server, leg.start, leg.end, in_flight=op.in_flight)
        return filled(busy, duration, UNKNOWN)

    def rpc_mix(self, host: int, rpc: Operation, start: int, end: int) -> Mix:
        """Return what ``start``..``end`` of a client's RPC went to, phase by phase.

        Nobody is to blame for what his own program's requests do to him.
        """
        mix = self._any_mix(host, rpc, start, end)
        whose = rpc.process or rpc.writer
        suspects = self._ledger.hosts[host].suspects
        for charge in list(mix):
            who = charge.culprit.process if charge.culprit else None
            if charge.cause != "slot" or who is None:
                continue
            if whose is None or suspects.are_one_program(whose, who):
                nobody = SLOT if charge.chain[0] == SLOT_LINK else self._network(host, rpc)
                add(mix, {nobody: mix.pop(charge)})
        return mix

    def _any_mix(self, host: int, rpc: Operation, start: int, end: int) -> Mix:
        """Return the same, with who was in the way even if that is who waited."""
        mix: Mix = {}
        for phase in phases(rpc):
            lower, upper = max(start, phase.start), min(end, phase.end)
            if lower >= upper:
                continue
            if phase.name == "remote":
                add(mix, self._remote_mix(host, rpc, phase, lower, upper))
            elif phase.name == "send":
                add(mix, self._send_mix(host, rpc, phase, lower, upper))
            elif phase.name == "slot":
                add(mix, self._unsent_mix(host, rpc, lower, upper))
            elif phase.name == "wake":
                add(mix, self._delay_mix(host, rpc, None, lower, upper, CPU))
            else:
                add(mix, {UNKNOWN: upper - lower})
        return mix

    def _unsent_mix(self, host: int, rpc: Operation, start: int, end: int) -> Mix:
        """Return what time without a slot went to: one that was refused pauses first."""
        mix: Mix = {}
        pause = self._ledger.pause_before(host, rpc)
        if pause is not None:
            paused = min(end, rpc.begin_mono_us + _LONGEST_PAUSE_US) - start
            if paused > 0:
                add(mix, {pause: paused})
                start += paused
        if start < end:
            add(mix, self._slot_mix(host, rpc, start, end))
        return mix

    def _slot_mix(self, host: int, rpc: Operation, start: int, end: int) -> Mix:
        """Return what those who had the slots waited for, as far as that has a culprit.

        Else, or if that was but a disk, it is theirs who had most of the slots; not for
        their own RPCs and what the kernel writes back for them.
        """
        holders = self._ledger.hosts[host].slots.holders(rpc, start, end)
        taken = [one for held in holders.cut for one in self._held_mix(host, held)]
        if holders.whole:
            taken += self._slot_sums(host, holders.peer).of(holders.whole)
        most = _has_most(taken)
        own = most == (rpc.process or rpc.writer)
        mix: Mix = {}
        for (who, charge), us in taken:
            if who and who == most and not own and not self._leads_on(charge):
                suspects = self._ledger.hosts[host].suspects
                add(mix, {charge_to("slot", suspects.process(who)): us})
            else:
                add(mix, {through(SLOT_LINK, charge) if charge.culprit else SLOT: us})
        return filled(scaled(mix, holders.end - start) if mix else {}, end - start, SLOT)

    def _held_mix(self, host: int, held: Held) -> list[_Taken]:
        """Return what the time in which an RPC had a slot went to, and for whom it was."""
        known = self._held.get((host, id(held.rpc)))
        if known is not None and not held.for_longer:
            return known
        who = held.rpc.process or held.rpc.writer
        mix = self._any_mix(host, held.rpc, held.start, held.end)
        taken = [((who, charge), us) for charge, us in mix.items()]
        if not held.for_longer:
            self._held[host, id(held.rpc)] = taken
        return taken

    def _slot_sums(self, host: int, peer: str | None) -> Sums[_Holder]:
        """Return the same for all that had slots of a server: thousands may have waited."""
        key = host, peer
        if key not in self._sums:
            held = self._ledger.hosts[host].slots.of_peer(peer)
            self._sums[key] = Sums(self._held_mix(host, one) for one in held)
        return self._sums[key]

    def _leads_on(self, charge: Charge) -> bool:
        """Return whether time is somebody's; not a disk's that is busy, nor what is left over.

        What is unknown may be anybody's.
        """
        if charge.culprit is None or charge.culprit.kind == "device":
            return charge.cause == "unknown"
        return charge.cause != "network" or self._ledger.network_is_at_fault

    def _send_mix(self, host: int, rpc: Operation, phase: Phase, start: int, end: int) -> Mix:
        if phase.end - phase.start < _TINY_SEND_US:
            return {RUNNING: end - start}
        server = self._ledger.join.server_at(host, rpc.peer)
        if server is None:
            return {self._network(host, rpc): end - start}
        # A server whose threads are all held reads no socket: the sender waits for that.
        busy = self._busy_mix(host, server, start, end, in_flight=False)
        rest = self._network(host, rpc)
        mix = filled(busy, end - start, rest)
        ahead = self._connection(host, rpc.peer).into_socket.ahead(end, start, end)
        return self._behind(host, mix, rest, ahead)

    def _remote_mix(self, host: int, rpc: Operation, phase: Phase, start: int, end: int) -> Mix:
        located = self._ledger.join.server_operation(host, rpc)
        if located is not None:
            return self._joined_mix(host, rpc, phase, located, start, end)
        server = self._ledger.join.server_at(host, rpc.peer)
        if server is None:
            address = rpc.peer or "server of " + (rpc.mount or "an unknown mount")
            return self._delay_mix(host, rpc, None, start, end, _at_server(address))
        busy = self._busy_mix(host, server, start, end, in_flight=rpc.in_flight)
        if sum(busy.values()) > 0:
            return filled(busy, end - start, self._unseen_at(host, server, rpc, start, end))
        rest = self._unseen_at(host, server, rpc, start, end)
        delays = self._delay_mix(host, rpc, server, start, end, rest)
        ahead = self._connection(host, rpc.peer).requests(phase.start, start, end)
        return self._behind(host, delays, rest, ahead)

    def _joined_mix(
        self, host: int, rpc: Operation, phase: Phase, located: Located, start: int, end: int
    ) -> Mix:
        """Lay the server's operation into the client's remote phase; around it is network."""
        server, op = located
        if not op.begin_known:
            # It was there before recording, and so was all of this.
            return scaled(self._ledger.bill(server, op), end - start)
        connection = self._connection(host, rpc.peer)
        lead = self._lead(host, phase, located)
        arrives, replies = phase.start + lead, phase.start + lead + wall_us(op)
        mix: Mix = {}
        lower, upper = max(start, arrives), min(end, replies)
        if lower < upper:
            shift = op.begin_mono_us - arrives
            if upper - lower >= wall_us(op):
                add(mix, scaled(self._ledger.bill(server, op), upper - lower))
            else:
                there = self._ledger.window(server, op, lower + shift, upper + shift)
                add(mix, scaled(there, upper - lower))
        before = min(end, arrives) - start
        if before > 0:
            # If its arrival was not seen it may have lain in the queue for this time.
            rest = UNKNOWN if op.queue_us is None else self._network(host, rpc)
            busy: Mix = {}
            if before >= _TINY_SEND_US:
                busy = self._busy_mix(host, server, start, start + before, in_flight=False)
            left = before - sum(busy.values())
            if left > 0:
                delays = self._delay_mix(host, rpc, server, start, start + before, rest)
                ahead = connection.requests(phase.start, start, start + before)
                add(busy, scaled(self._behind(host, delays, rest, ahead), left))
            add(mix, scaled(busy, before))
        after = end - max(start, replies)
        if after > 0:
            # Still in flight when the server's capture ended: what followed is not known.
            # Without a common clock, what came before it may stand here.
            unsure = op.queue_us is None and self._ledger.join.offset_us(host, server, end) is None
            rest = UNKNOWN if op.in_flight or unsure else self._network(host, rpc)
            delays = self._delay_mix(host, rpc, server, end - after, end, rest)
            ahead = connection.replies(replies, end - after, end)
            add(mix, self._behind(host, delays, rest, ahead))
        return mix

    def is_unanswered(self, host: int, rpc: Operation) -> bool:
        """Return whether an RPC has not ended for long and the server has not got it."""
        server = self._ledger.join.server_at(host, rpc.peer)
        window = remote_window(rpc)
        if server is None or window is None or not rpc.in_flight:
            return False
        if window[1] - window[0] < _LONG_US or self._ledger.join.server_operation(host, rpc):
            return False
        if sum(self._busy_mix(host, server, *window, in_flight=True).values()) > 0:
            return False
        return self._unseen_at(host, server, rpc, *window).cause == "network"

    def _connection(self, host: int, peer: str | None) -> Connection:
        """Return the connection of a client's host to a server."""
        key = host, peer
        if key not in self._connections:
            rpcs = (rpc for rpc in self._ledger.hosts[host].rpcs if rpc.peer == peer)
            self._connections[key] = Connection(self._ledger.join, host, rpcs)
        return self._connections[key]

    def _behind(self, host: int, mix: Mix, network: Charge, ahead: Iterable[Ahead]) -> Mix:
        """Return a mix in which the processes whose data was ahead have their part of the network.

        Not if the network loses some: then all that is behind it is late, the data as well.
        """
        left = mix.get(network, 0.0)
        if network.cause != "network" or not left or self._ledger.network_is_lossy:
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

    def _lead(self, host: int, phase: Phase, located: Located) -> float:
        """Return how long after sending the request arrived, as exactly as can be told."""
        server, op = located
        spare = phase.end - phase.start - wall_us(op)
        if spare <= 0:
            return 0
        offset = self._ledger.join.offset_us(host, server, phase.start)
        if offset is not None:
            return min(max(0, op.begin_mono_us - offset - phase.start), spare)
        return 0 if op.in_flight else spare / 2

    def _busy_mix(
        self, host: int, server: int, start: float, end: float, *, in_flight: bool
    ) -> Mix:
        """Return what held all of a server's threads in a window of the client's time.

        Without a common clock only the end of the capture can stand in, for what was
        in flight then.
        """
        occupancy = self._ledger.occupancy(server)
        offset = self._ledger.join.offset_us(host, server, start)
        if offset is not None:
            return occupancy.charged(start + offset, end + offset)
        at_end = occupancy.at_end() if in_flight else {}
        return scaled(at_end, end - start) if at_end else {}

    def _delay_mix(
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

    def _network(self, host: int, rpc: Operation) -> Charge:
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

    def _unseen_at(
        self, host: int, server: int, rpc: Operation, start: float, end: float
    ) -> Charge:
        """Return where an RPC was that the server shows no operation for.

        On the wire, if the server was recorded all the while, lost no operation, and
        would have recorded one as long as this. Of what it has from before recording it
        shows only what has not ended: to that nothing else comes from then on.
        """
        offset = self._ledger.join.offset_us(host, server, start)
        there = self._ledger.hosts[server]
        # One that was put off is no operation until it is taken up again.
        deferred = any(row.kind == "deferred" for row in there.capture.counts)
        if offset is None or deferred or there.may_lack_operations:
            return UNKNOWN
        first, last = there.recorded
        was_there = start + offset >= first or (rpc.in_flight and there.shows_all_in_flight)
        if not was_there or end + offset > last:
            return UNKNOWN
        coarser = there.capture.threshold_us > 2 * self._ledger.hosts[host].capture.threshold_us
        return UNKNOWN if coarser else self._network(host, rpc)


def _has_most(taken: Iterable[_Taken]) -> ProcessKey | None:
    """Return the process that had most of the slots, None if none had."""
    times: Counter[ProcessKey | None] = Counter()
    for (who, _), us in taken:
        times[who] += round(us)
    who, us = next(iter(times.most_common(1)), (None, 0))
    return who if us >= _MOST * times.total() else None


def in_grace(address: str | None) -> Charge:
    """Return the charge to a server that was started anew: it has to be told its clients' state."""
    return charge_to("grace", Culprit("host", address, address) if address else None)


def _at_server(address: str) -> Charge:
    return charge_to("remote", Culprit("host", address, address))
