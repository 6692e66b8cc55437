"""Time that a client spent in RPCs, followed phase by phase into the server's ledger."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from tracer.blame.causes import OF_LOAD
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
        self._transit = ledger.transit

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

        Nobody is to blame for what his own program's requests do to him, unless he is for what
        they do to others, see own.py.
        """
        mix = self._any_mix(host, rpc, start, end)
        whose = rpc.process or rpc.writer
        here = self._ledger.hosts[host]
        for charge in list(mix):
            culprit = charge.culprit
            if charge.cause not in OF_LOAD or culprit is None or culprit.process is None:
                continue
            if culprit.host != here.capture.host:
                continue
            if whose is None or here.suspects.are_one_program(whose, culprit.process):
                own = replace(self._nobodys(host, rpc, charge), own=culprit if whose else None)
                add(mix, {own: mix.pop(charge)})
        return mix

    def _nobodys(self, host: int, rpc: Operation, charge: Charge) -> Charge:
        """Return what somebody's part of an RPC's time is if it is nobody's."""
        if charge.cause != "slot":
            return Charge(charge.cause)
        return SLOT if charge.chain[0] == SLOT_LINK else self._transit.network(host, rpc)

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
                add(mix, self._transit.mix(host, rpc, None, lower, upper, CPU))
            else:
                add(mix, {UNKNOWN: upper - lower})
        return mix

    def _unsent_mix(self, host: int, rpc: Operation, start: int, end: int) -> Mix:
        """Return what time without a slot went to: one that was refused pauses first.

        A kernel thread has to ask for the slot of what no process waits for itself, and to read
        the replies that set others free: somebody may have had its CPU.
        """
        mix: Mix = {}
        pause = self._ledger.pause_before(host, rpc)
        if pause is not None:
            paused = min(end, rpc.begin_mono_us + _LONGEST_PAUSE_US) - start
            if paused > 0:
                add(mix, {pause: paused})
                start += paused
        if start < end:
            way = self._transit.mix(host, rpc, None, start, end, SLOT)
            somebodys = {charge: us for charge, us in way.items() if charge.culprit}
            left = end - start - sum(somebodys.values())
            add(mix, somebodys)
            if left > 0:
                add(mix, scaled(self._slot_mix(host, rpc, start, end), left))
        return mix

    def _slot_mix(self, host: int, rpc: Operation, start: int, end: int) -> Mix:
        """Return what those who had the slots waited for, as far as that has a culprit.

        Else, or if that was but a disk, it is theirs who had most of the slots; for their own
        RPCs and what the kernel writes back for them only as a part of that, see own.py.
        """
        holders = self._ledger.hosts[host].slots.holders(rpc, start, end)
        taken = [one for held in holders.cut for one in self._held_mix(host, held)]
        if holders.whole:
            taken += self._slot_sums(host, holders.peer).of(holders.whole)
        most = _has_most(taken)
        own = most == (rpc.process or rpc.writer)
        mix: Mix = {}
        for (who, charge), us in taken:
            passed = through(SLOT_LINK, charge) if charge.culprit else SLOT
            if who and who == most and not self._leads_on(charge):
                culprit = self._ledger.hosts[host].suspects.process(who)
                passed = replace(passed, own=culprit) if own else charge_to("slot", culprit)
            add(mix, {passed: us})
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
        return charge.cause != "network" or bool(self._ledger.network)

    def _send_mix(self, host: int, rpc: Operation, phase: Phase, start: int, end: int) -> Mix:
        if phase.end - phase.start < _TINY_SEND_US:
            return {RUNNING: end - start}
        server = self._ledger.join.server_at(host, rpc.peer)
        if server is None:
            return {self._transit.network(host, rpc): end - start}
        # A server whose threads are all held reads no socket: the sender waits for that.
        busy = self._busy_mix(host, server, start, end, in_flight=False)
        rest = self._transit.network(host, rpc)
        mix = filled(busy, end - start, rest)
        return self._transit.into_socket(host, rpc, mix, (start, end), rest)

    def _remote_mix(self, host: int, rpc: Operation, phase: Phase, start: int, end: int) -> Mix:
        located = self._ledger.join.server_operation(host, rpc)
        if located is not None:
            return self._joined_mix(host, rpc, phase, located, start, end)
        server = self._ledger.join.server_at(host, rpc.peer)
        if server is None:
            address = rpc.peer or "server of " + (rpc.mount or "an unknown mount")
            return self._transit.mix(host, rpc, None, start, end, _at_server(address))
        busy = self._busy_mix(host, server, start, end, in_flight=rpc.in_flight)
        if sum(busy.values()) > 0:
            return filled(busy, end - start, self._transit.unseen(host, server, rpc, start, end))
        rest = self._transit.unseen(host, server, rpc, start, end)
        return self._transit.to_server(host, rpc, server, phase.start, (start, end), rest)

    def _joined_mix(
        self, host: int, rpc: Operation, phase: Phase, located: Located, start: int, end: int
    ) -> Mix:
        """Lay the server's operation into the client's remote phase; around it is network."""
        server, op = located
        if not op.begin_known:
            # It was there before recording, and so was all of this.
            return scaled(self._ledger.bill(server, op), end - start)
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
            rest = UNKNOWN if op.queue_us is None else self._transit.network(host, rpc)
            busy: Mix = {}
            if before >= _TINY_SEND_US:
                busy = self._busy_mix(host, server, start, start + before, in_flight=False)
            left = before - sum(busy.values())
            if left > 0:
                out = start, start + before
                way = self._transit.to_server(host, rpc, server, phase.start, out, rest)
                add(busy, scaled(way, left))
            add(mix, scaled(busy, before))
        after = end - max(start, replies)
        if after > 0:
            # Still in flight when the server's capture ended: what followed is not known.
            # Without a common clock, what came before it may stand here.
            unsure = op.queue_us is None and self._ledger.join.offset_us(host, server, end) is None
            rest = UNKNOWN if op.in_flight or unsure else self._transit.network(host, rpc)
            back = end - after, end
            add(mix, self._transit.to_client(host, rpc, server, replies, back, rest))
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
        rest = self._transit.unseen(host, server, rpc, *window)
        way = self._transit.mix(host, rpc, server, *window, rest)
        return rest.cause == "network" and way.get(rest, 0.0) >= _LONG_US

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


def _has_most(taken: Iterable[_Taken]) -> ProcessKey | None:
    """Return the process that had most of the slots, None if none had."""
    times: Counter[ProcessKey | None] = Counter()
    for (who, _), us in taken:
        times[who] += round(us)
    who, us = next(iter(times.most_common(1)), (None, 0))
    return who if us >= _MOST * times.total() else None


def _at_server(address: str) -> Charge:
    return charge_to("remote", Culprit("host", address, address))
