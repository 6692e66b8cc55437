"""Whose requests an NFS server's disk works for, where it has many of them at once.

A disk that is quick with few requests and has many one behind the other, or moves far more than
then, is not slow: who asked for most of what it does is in the others' way. The server knows for
which client it works; which process of the client it was, the client's own capture tells, by what
it wrote or read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from tracer.blame.charge import Charge, Culprit, Link, Mix, charge_to, through
from tracer.blame.disks import Work
from tracer.blame.hosts import Host
from tracer.blame.intervals import Span
from tracer.blame.programs import identity
from tracer.blame.units import human_bytes, human_us
from tracer.model import Operation, ProcessKey

if TYPE_CHECKING:
    from tracer.blame.ledger import Ledger

# Who had less than this part of it is not whom the others wait for.
_MOST: Final = 0.5

# What is written goes to the disk so much later at most, dirty_expire_centisecs; what is read
# counts when the RPC has ended, in its interval.
_WRITTEN_BACK_US: Final = 30_000_000
_READ_US: Final = 1_000_000


class Load:
    """Resolves such waits for the ledger. ``server`` is the server capture's index."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def mix(
        self, server: int, op: Operation, span: Span, disk: str, work: Mapping[Work, float]
    ) -> Mix:
        """Return what a wait for a disk went to, of what it did for clients: parts of 1.

        ``work``: for whom which part of its work was. What it does for whoever waits is nobody's,
        unless it is in others' way as well, see own.py.
        """
        for_whom, part = max(work.items(), key=lambda one: one[1], default=(None, 0.0))
        if for_whom is None or part < _MOST:
            return {}
        culprit = self._who(server, span, for_whom)
        is_own = self._is_own(server, op, for_whom.client, culprit)
        if is_own is None:
            return {}
        if is_own:
            return {Charge("disk", own=culprit): part}
        return {through(Link(disk, None, "disk"), charge_to("disk", culprit)): part}

    def evidence(self, culprit: Culprit) -> Iterator[str]:
        """Yield what a client's process moved, and what disks did for the client."""
        for host in self._ledger.hosts:
            if host.capture.host == culprit.host and culprit.process is not None:
                yield from _moved(host, culprit.process)
                yield from self._worked_for(host)

    def _worked_for(self, client: Host) -> Iterator[str]:
        for server in self._ledger.hosts:
            for address in sorted(client.capture.addresses):
                for disk, (us, requests) in server.storage.for_client(address).items():
                    yield (
                        f"{disk} on {server.capture.host} worked {human_us(us)} for "
                        f"{client.capture.host}, on {requests} requests"
                    )

    def _who(self, server: int, span: Span, for_whom: Work) -> Culprit:
        """Return the client's process that asked for most, or the client if that is not known."""
        client = self._ledger.join.client_at(server, for_whom.client)
        offset = None
        if client is not None:
            offset = self._ledger.join.offset_us(client, server, span.start)
        if client is None or offset is None:
            return self._ledger.client(server, for_whom.client)
        before = _WRITTEN_BACK_US if for_whom.write else _READ_US
        start, end = span.start - offset - before, span.end - offset
        process = self._moved_most(client, server, for_whom.write, start, end)
        if process is None:
            return self._ledger.client(server, for_whom.client)
        return self._ledger.hosts[client].suspects.process(process)

    def _moved_most(
        self, client: int, server: int, write: bool, start: float, end: float
    ) -> ProcessKey | None:
        """Return the process of the program that wrote, or read, most then; None if none did."""
        known = self._ledger.hosts[client].capture.processes
        programs: Counter[object] = Counter()
        processes: dict[object, Counter[ProcessKey]] = {}
        for row, part in self._ledger.hosts[client].transfers.during(start, end):
            if row.write != write or self._ledger.join.server_at(client, row.peer) != server:
                continue
            moved = round(row.moved_bytes * part)
            process = known.get(row.process) if row.process else None
            program: object = identity(process) if process else row.process
            programs[program] += moved
            if row.process is not None:
                processes.setdefault(program, Counter())[row.process] += moved
        for program, moved in programs.most_common(1):
            if program in processes and moved >= _MOST * programs.total():
                return processes[program].most_common(1)[0][0]
        return None

    def _is_own(self, server: int, op: Operation, address: str, culprit: Culprit) -> bool | None:
        """Return whether an operation waits for what its own program asked for; None if unsure."""
        if op.layer != "rpc" or op.peer is None:
            return False
        at, asker_at = (self._ledger.join.client_at(server, one) for one in (address, op.peer))
        if op.peer != address and (at is None or at != asker_at):
            return False
        located = self._ledger.join.client_rpc(server, op)
        if located is None or culprit.process is None:
            return None
        index, rpc = located
        asker = rpc.process or rpc.writer
        if asker is None:
            return None
        return self._ledger.hosts[index].suspects.are_one_program(asker, culprit.process)


def _moved(client: Host, process: ProcessKey) -> Iterator[str]:
    moved: Counter[bool] = Counter()
    for row in client.transfers.rows:
        if row.process and client.suspects.are_one_program(row.process, process):
            moved[row.write] += row.moved_bytes
    if moved:
        yield (
            f"wrote {human_bytes(moved[True])} to NFS servers and read "
            f"{human_bytes(moved[False])} from them"
        )
