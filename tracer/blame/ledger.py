"""The ledger: what the wall time of an operation went to, adding up to it exactly.

Time outside any wait is ``running``. Queue time is charged to what the server's
threads were waiting for; time in RPCs is followed to the server's own ledger where
its capture is there; a lock's time is followed into the operation that held it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import Final

from tracer.blame.causes import OF_STORAGE
from tracer.blame.chains import Chains
from tracer.blame.charge import (
    QUEUE_LINK,
    RUNNING,
    UNKNOWN,
    Bill,
    Charge,
    Culprit,
    Link,
    Mix,
    add,
    bill,
    charge_to,
    filled,
    merged,
    scaled,
    through,
)
from tracer.blame.crew import stopped
from tracer.blame.culprits import Finding
from tracer.blame.hosts import Host, nfsd_restarted
from tracer.blame.intervals import (
    Span,
    Stretch,
    lost_us,
    queue_spans,
    queued_us,
    served_from,
    spans,
    stretches,
    taking_up,
    wall_us,
)
from tracer.blame.join import Join
from tracer.blame.load import Load
from tracer.blame.network import Evidence, evidence
from tracer.blame.occupancy import FastWaits, Occupancy
from tracer.blame.paths import RpcPath
from tracer.blame.remote import Remote
from tracer.blame.replies import Replies, charge_for
from tracer.blame.signatures import asks_for_lock, is_frozen_filesystem
from tracer.blame.transit import Transit, in_grace
from tracer.model import HostCapture, Operation, Wait
from tracer.nfs_status import EJUKEBOX, NFS4ERR_DELAY, NFS4ERR_GRACE

# How far lock holders are followed: each step is one more operation to look into.
_MAX_DEPTH: Final = 32
# Convoys of hundreds of threads must neither make chains nor mixes of that length.
_MAX_LINKS: Final = 8
_MAX_PARTS: Final = 12
# NFS4ERR_STALE_CLIENTID, STALE_STATEID, BADSESSION and DEADSESSION.
_FORGOTTEN: Final = frozenset({10022, 10023, 10052, 10078})
_ASKED_TO_WAIT: Final = frozenset({NFS4ERR_DELAY, EJUKEBOX})
_PUT_OFF: Final = _ASKED_TO_WAIT | _FORGOTTEN | {NFS4ERR_GRACE}

# Stands for blocked time that found no free slot in the record.
_LOST_WAIT: Final = Wait("blocked", 0, 0, 0, 0)


class Ledger:
    """Bills of all operations of a set of captures. ``host`` is a capture's index."""

    def __init__(self, captures: Sequence[HostCapture]) -> None:
        self.hosts = [Host(capture) for capture in captures]
        self.join = Join(captures)
        self.transit = Transit(self)
        self.remote = Remote(self)
        self.replies = Replies(self.hosts, self.join)
        self.load = Load(self)
        self._chains = Chains(self)
        self._bills: dict[int, Bill] = {}
        self._parts: dict[int, list[tuple[Span, Mix]]] = {}
        self._stretches: dict[int, list[Stretch]] = {}
        self._occupancies: dict[int, Occupancy] = {}
        self._open: set[int] = set()
        self._warm: set[int] = set()

    @cached_property
    def network(self) -> Evidence:
        """How plainly a network is at fault: something shows there, or RPCs went unanswered."""
        return Evidence.PLAIN if self.unanswered else self.shows_in_network

    @cached_property
    def shows_in_network(self) -> Evidence:
        """How plainly something shows in the network itself, beside time left over."""
        captures = [host.capture for host in self.hosts]
        threshold_us = min((one.threshold_us for one in captures), default=0)
        return evidence(
            captures, self.join, threshold_us, self.transit.behind_us, self.transit.rtt_us
        )

    @cached_property
    def unanswered(self) -> list[Operation]:
        """The clients' RPCs that have not ended for long and never came to a recorded server."""
        return [
            rpc
            for index, host in enumerate(self.hosts)
            for rpc in host.rpcs
            if self.remote.is_unanswered(index, rpc)
        ]

    def bill(self, host: int, op: Operation) -> Bill:
        """Return what the operation's wall time is charged to; the sum is the wall time."""
        if id(op) not in self._bills:
            self._warm_up(host)
            self._bills[id(op)] = self._make_bill(host, op)
        return self._bills[id(op)]

    def occupancy(self, host: int) -> Occupancy:
        """Return what this server's threads were doing over time."""
        if host not in self._occupancies:
            server = self.hosts[host]
            self._warm_up(host)
            self._occupancies[host] = Occupancy(
                server.capture.nfsd_threads,
                self._all_held(host),
                _fast_waits(server),
                server.capture.host,
                stopped(server.capture),
            )
        return self._occupancies[host]

    def _make_bill(self, host: int, op: Operation) -> Bill:
        if op.side == "client" and op.layer == "rpc":
            end = op.begin_mono_us + wall_us(op)
            return bill(wall_us(op), self.remote.rpc_mix(host, op, op.begin_mono_us, end))
        queued, lost = queued_us(op), lost_us(op)
        bills: list[Bill] = []
        if queued:
            begin = op.begin_mono_us
            bills.append(bill(queued, self._queue_mix(host, op, begin, begin + queued)))
        waited = 0
        for span, mix in self._waits(host, op):
            bills.append(bill(span.total_us, mix))
            waited += span.total_us
        bills.append({UNKNOWN: lost} if lost else {})
        rest = wall_us(op) - queued - waited - lost
        bills.append({RUNNING: rest} if rest else {})
        return merged(bills)

    def _queue_mix(self, host: int, op: Operation, start: int, end: int) -> Mix:
        """Return what a part of the queue time went to.

        A thread was free and got no CPU to take the request up; else none was free.
        """
        early: Mix = {}
        for span in queue_spans(op):
            if us := span.within_us(start, end):
                add(early, {self.direct(host, op, span): us})
        rest = max(0.0, end - start - sum(early.values()))
        mix = self.occupancy(host).charged(start, end)
        room = end - start - sum(mix.values())
        if room > 0:
            add(mix, self._late_mix(host, op, start, end, room))
        unknown = Charge("unknown", None, (QUEUE_LINK,))
        add(early, scaled(filled(mix, end - start, unknown), rest))
        return early

    def _late_mix(self, host: int, op: Operation, start: int, end: int, room: float) -> Mix:
        """Return what threads waited for that came too late for a request; at most ``room``."""
        late: Mix = {}
        self._add_woken(late, host, start, end)
        self._add_ahead(late, host, op, start, end)
        queued: Mix = {}
        for charge, us in late.items():
            add(queued, {through(QUEUE_LINK, charge): us})
        return scaled(queued, min(room, sum(queued.values()))) if queued else {}

    def _add_woken(self, mix: Mix, host: int, start: int, end: int) -> None:
        """Add what threads waited for that were to take a request up, and then found none.

        Another had come first: one that was free, too, or is now.
        """
        for op, _ in self.hosts[host].woken.during(start, end):
            for span, waited_for in self._waits(host, op):
                if us := span.within_us(start, end):
                    add(mix, scaled(waited_for, us))

    def _add_ahead(self, mix: Mix, host: int, op: Operation, start: int, end: int) -> None:
        """Add how long threads had no CPU that had to read the requests ahead of one.

        Those of a connection are read one after the other, by one thread at a time; only then is
        the next woken, which may have to wait for a CPU itself.
        """
        for (other, span), part in self.hosts[host].starved.during(start, end):
            if other is op or other.peer != op.peer or served_from(other) > served_from(op):
                continue
            add(mix, {self.direct(host, other, span): span.total_us * part})

    def window(self, host: int, op: Operation, start: float, end: float) -> Mix:
        """Return what ``start``..``end`` of an operation (on its own clock) went to."""
        begin, served = op.begin_mono_us, served_from(op)
        mix: Mix = {}
        lower, upper = max(start, begin), min(end, served)
        if lower < upper:
            add(mix, self._queue_mix(host, op, round(lower), round(upper)))
        for stretch in self._served(host, op):
            overlap = min(end, stretch.end) - max(start, stretch.start)
            if overlap > 0:
                add(mix, stretch.rates, overlap)
        return mix

    def _served(self, host: int, op: Operation) -> list[Stretch]:
        """Return the operation's time on a thread, cut into stretches of constant mix."""
        if id(op) not in self._stretches:
            end = op.begin_mono_us + wall_us(op)
            parts = self._parts_of(host, op)
            self._stretches[id(op)] = stretches(served_from(op), end, parts)
        return self._stretches[id(op)]

    def _parts_of(self, host: int, op: Operation) -> list[tuple[Span, Mix]]:
        """Return the operation's waits with their mixes, those that were lost as well."""
        parts = self._waits(host, op)
        lost = lost_us(op)
        if lost:
            end = op.begin_mono_us + wall_us(op)
            span = Span(_LOST_WAIT, served_from(op), end, lost)
            parts = [*parts, (span, {UNKNOWN: 1.0})]
        return parts

    def _all_held(self, host: int) -> Iterator[list[Stretch]]:
        """Yield for what a server's threads were not free: operations, and waits between them."""
        for op in self.hosts[host].served:
            yield self._held(host, op)
            if early := taking_up(op):
                parts: list[tuple[Span, Mix]] = [
                    (span, {self.direct(host, op, span): 1.0}) for span in early
                ]
                yield stretches(min(span.start for span in early), served_from(op), parts)
        for op in self.hosts[host].between:
            yield self._served(host, op)

    def _held(self, host: int, op: Operation) -> list[Stretch]:
        """Return for what an operation's thread was not free for the next one.

        One that is no stall by itself, and waits for a disk that has nobody else to work for,
        is at its work: what waits for its thread meanwhile waits for a thread.
        """
        start, end = served_from(op), op.begin_mono_us + wall_us(op)
        server = self.hosts[host]
        if end - start >= server.capture.threshold_us:
            return self._served(host, op)
        parts = [
            (span, {RUNNING: 1.0} if self._is_at_work(host, op, span) else mix)
            for span, mix in self._parts_of(host, op)
        ]
        return stretches(start, end, parts)

    def _is_at_work(self, host: int, op: Operation, span: Span) -> bool:
        cause = self._finding(host, op, span).wait_class
        return cause in OF_STORAGE and self.hosts[host].storage.is_free(op, span, cause)

    def _waits(self, host: int, op: Operation) -> list[tuple[Span, Mix]]:
        """Return the operation's waits and what each of them went to."""
        if id(op) in self._parts:
            return self._parts[id(op)]
        if id(op) in self._open or len(self._open) >= _MAX_DEPTH:
            # A loop of locks, or a chain longer than anyone reads: it ends here.
            return [(span, {self.direct(host, op, span): 1.0}) for span in spans(op)]
        self._open.add(id(op))
        parts = [(span, self._wait_mix(host, op, span)) for span in spans(op)]
        self._open.discard(id(op))
        self._parts[id(op)] = parts
        return parts

    def _finding(self, host: int, op: Operation, span: Span) -> Finding:
        # What a process waits for while others wait for it is of its own host.
        side = "server" if op.layer == "answer" else op.side
        suspects = self.hosts[host].suspects
        found = suspects.finding(span.wait, side)
        if found.wait_class == "cpu" and op.layer == "vfs" and suspects.is_own(op, found.culprit):
            # An application that keeps its CPUs busy by itself is the load: nobody to name.
            return Finding("cpu")
        return found

    def direct(self, host: int, op: Operation, span: Span) -> Charge:
        """Return what a wait is put down to by itself: nothing behind it is looked into."""
        if span.wait.kind == "throttled":
            return charge_to("throttle", self._quota(host, op))
        finding = self._finding(host, op, span)
        if finding.wait_class == "frozen" and finding.culprit is None:
            return charge_to("frozen", self._frozen(host, op, span))
        if finding.wait_class == "lock" and self.hosts[host].is_nfsd(finding.culprit):
            # A server's thread at work under a lock is the load itself: nobody to name.
            return Charge("lock")
        if finding.wait_class != "reclaim":
            return finding.charge
        memory = self.hosts[host].memory
        return memory.charge(span.wait, op.process, span.start, span.end, finding.charge)

    def _frozen(self, host: int, op: Operation, span: Span) -> Culprit | None:
        """Return the frozen filesystem that an operation waits for, by its device.

        Nobody knows who froze it if that was before recording.
        """
        if op.device is None or not is_frozen_filesystem(span.wait.stack):
            return None
        return Culprit("device", op.device, self.hosts[host].capture.host)

    def _wait_mix(self, host: int, op: Operation, span: Span) -> Mix:
        if op.layer == "answer":
            between = self._chains.between(host, op, span)
            if between is not None:
                return between
        finding = self._finding(host, op, span)
        elsewhere = self._elsewhere(host, op, span, finding)
        if elsewhere is not None:
            return elsewhere
        if span.wait.kind == "throttled" or finding.wait_class == "reclaim":
            return {self.direct(host, op, span): 1.0}
        if finding.wait_class == "lock" and finding.culprit:
            return self._held_mix(host, op, span, finding.culprit)
        if finding.wait_class in OF_STORAGE:
            asked = partial(self.load.mix, host, op, span)
            return self.hosts[host].storage.mix(op, span, finding.charge, asked)
        return self._chains.behind(host, span, self.direct(host, op, span))

    def _elsewhere(self, host: int, op: Operation, span: Span, finding: Finding) -> Mix | None:
        """Return what a wait for another host went to, None if it was for none."""
        if op.layer == "vfs":
            return self._remote_mix(host, op, span, finding)
        receiver = self.replies.receiver(host, op, span.wait)
        return None if receiver is None else {charge_for(receiver): 1.0}

    def _remote_mix(self, host: int, op: Operation, span: Span, finding: Finding) -> Mix | None:
        """Return what a client's wait for its server went to, None if it was for none."""
        if finding.wait_class == "rpc":
            return self.remote.wait_mix(host, op, span)
        if finding.wait_class == "lock" and not finding.culprit and asks_for_lock(span.wait.stack):
            return {self._in_the_way(host, op): 1.0}
        if finding.wait_class == "delay":
            return {self._pause(host, op, self._said(host, op)): 1.0}
        if finding.wait_class == "grace":
            return {in_grace(self.hosts[host].server_address(op)): 1.0}
        if finding.wait_class == "unknown" and not span.wait.stack:
            # No stack: only an RPC of this very call can tell what it waited for.
            return self.remote.walk(host, op, span, [RpcPath(self.hosts[host].children(op))])
        return None

    def _quota(self, host: int, op: Operation) -> Culprit | None:
        """Return the limit that held an operation's process back, by its cgroup."""
        capture = self.hosts[host].capture
        process = capture.processes.get(op.process) if op.process else None
        if process is None or process.cgroup is None:
            return None
        return Culprit("setting", f"CPU quota of {process.cgroup}", capture.host)

    def pause_before(self, host: int, rpc: Operation) -> Charge | None:
        """Return why an RPC that is sent again was not sent at once, None if it was."""
        said = {abs(rpc.status_before or 0)}
        if not said & _PUT_OFF:
            return None
        return self._pause(host, rpc, said)

    def _said(self, host: int, op: Operation) -> set[int]:
        """Return with which statuses a call was put off.

        Of RPCs that were not recorded one by one, that of all by which any was, if it is one.
        """
        here = self.hosts[host]
        said = {abs(rpc.status) for rpc in here.children(op) if rpc.status}
        if said & _PUT_OFF:
            return said
        counted = (
            row for row in here.capture.counts if row.kind == "status" and row.side == "client"
        )
        others = {abs(row.status) for row in counted if row.status} & _PUT_OFF
        return others if len(others) == 1 else said

    def _pause(self, host: int, op: Operation, said: set[int]) -> Charge:
        """Return why the server asked the client to try again later, as far as it says so."""
        address = self.hosts[host].server_address(op)
        server = self.join.server_at(host, address)
        restarted = server is not None and nfsd_restarted(self.hosts[server].capture)
        if NFS4ERR_GRACE in said or (said & _FORGOTTEN and restarted):
            return in_grace(address)
        if not said & _ASKED_TO_WAIT or server is None:
            return Charge("delay")
        recalled_from = self._recalled_from(server)
        leaseholder = self.hosts[server].suspects.leaseholder
        if recalled_from is not None and leaseholder is None:
            return charge_to("delegation", self.client(server, recalled_from))
        return charge_to("delay", leaseholder if recalled_from is None else None)

    def _in_the_way(self, host: int, op: Operation) -> Charge:
        """Return the charge for a byte-range lock that a client's call did not get.

        It is another client's, if that was the only one whose locks were in others' way.
        """
        server = self.join.server_at(host, self.hosts[host].server_address(op))
        if server is None:
            return Charge("lock")
        own = self.hosts[host].capture.addresses
        holders = {
            row.peer
            for row in self.hosts[server].capture.counts
            # Of those within a client its own only, and of those between two the other's.
            if row.kind == "conflict" and bool(row.status) == (row.peer in own)
        }
        holder = holders.pop() if len(holders) == 1 else None
        if holder is None or holder in own:
            return Charge("lock")
        return charge_to("lock", self.client(server, holder))

    def client(self, server: int, address: str) -> Culprit:
        """Return a client of a server by the name under which it was recorded, if it was."""
        client = self.join.client_at(server, address)
        name = address if client is None else self.hosts[client].capture.host
        return Culprit("host", name, name)

    def _recalled_from(self, server: int) -> str | None:
        """Return the one client that had to give back delegations, None if several or none."""
        peers = {row.peer for row in self.hosts[server].capture.counts if row.kind == "recall"}
        return next(iter(peers)) if len(peers) == 1 else None

    def _held_mix(self, host: int, op: Operation, span: Span, holder: Culprit) -> Mix:
        """Return what a lock's wait went to, given who released it.

        If the holder was in an operation itself, the wait is what that operation went
        to meanwhile. Time before that operation had a thread is an earlier holder's.
        """
        assert holder.process is not None
        direct = charge_to("lock", holder)
        held_by = self.hosts[host].operation_at(holder.process, span.end, op)
        if held_by is None:
            return self._chains.behind(host, span, self.direct(host, op, span))
        start = max(span.start, served_from(held_by))
        end = min(span.end, held_by.end_mono_us)
        if end <= start:
            return {direct: 1.0}
        working = Charge("lock", None, direct.chain) if held_by.side == "server" else direct
        mix: Mix = {}
        for charge, weight in self.window(host, held_by, start, end).items():
            # Work under the lock, and waits of unknown cause, end the chain at the holder.
            ends_here = charge.cause in ("running", "unknown")
            add(mix, {working if ends_here else _behind(direct.chain[0], charge): weight})
        return _main_parts(filled(mix, span.end - span.start, Charge("lock")))

    def _warm_up(self, host: int) -> None:
        """Look into a host's lock waits in the order in which they ended.

        A holder's own wait for the lock ended before the wait for the holder, so a
        long convoy is walked in steps of one instead of by deep recursion.
        """
        if host in self._warm:
            return
        self._warm.add(host)
        locked = [
            (span.end, op)
            for op in self.hosts[host].capture.operations
            for span in spans(op)
            if (finding := self._finding(host, op, span)).wait_class == "lock" and finding.culprit
        ]
        for _, op in sorted(locked, key=lambda one: one[0]):
            self._waits(host, op)


def _behind(link: Link, charge: Charge) -> Charge:
    """Return the charge one link further out; of a very long chain both ends stay."""
    if len(charge.chain) >= _MAX_LINKS:
        return Charge(charge.cause, charge.culprit, (link, *charge.chain[2:]))
    return through(link, charge)


def _main_parts(mix: Mix) -> Mix:
    """Keep the greatest parts of a lock's wait; a convoy's many small ones are just a lock."""
    if len(mix) <= _MAX_PARTS:
        return mix
    ranked = sorted(mix.items(), key=lambda item: -item[1])
    kept = dict(ranked[:_MAX_PARTS])
    add(kept, {Charge("lock"): sum(weight for _, weight in ranked[_MAX_PARTS:])})
    return kept


def _fast_waits(server: Host) -> list[FastWaits]:
    """Return the waits of operations not recorded one by one, interval by interval."""
    sums: defaultdict[int, Mix] = defaultdict(dict)
    starts: dict[int, int] = {}
    for row in server.capture.interval_waits:
        finding = server.suspects.finding(row.wait, row.side)
        if row.side == "server" and finding.wait_class != "idle":
            charge = finding.charge
            if finding.wait_class == "reclaim":
                times = row.wait.first_mono_us, row.end_mono_us
                charge = server.memory.charge(row.wait, None, *times, charge)
            add(sums[row.end_mono_us], {charge: max(0, row.wait.total_us)})
            starts[row.end_mono_us] = row.wait.first_mono_us
    ends = sorted(sums)
    if not ends:
        return []
    # Intervals may have been merged: each begins where the one before it ended.
    bounds = [starts[ends[0]], *ends]
    return [
        FastWaits(start, end, {charge: us / (end - start) for charge, us in sums[end].items()})
        for start, end in pairwise(bounds)
        if start < end
    ]
