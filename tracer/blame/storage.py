"""Whom a wait for a server's storage is put down to.

Those whom the disk worked for meanwhile, on the server or through nfsd, and those who had filled
the journal that it wrote; or the disk or volume itself, if it was slow with nobody else on it, or
suspended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, TypeAlias

from tracer.blame.causes import OF_STORAGE
from tracer.blame.charge import Charge, Culprit, Link, Mix, add, charge_to, filled, through
from tracer.blame.committers import Committers
from tracer.blame.culprits import Suspects
from tracer.blame.devices import Devices
from tracer.blame.disks import DiskUsers, Work, is_journal
from tracer.blame.fillers import Fillers
from tracer.blame.intervals import Span
from tracer.blame.units import human_us, percent
from tracer.model import HostCapture, Operation, Process, ProcessKey

# Who fills less than this part of a journal is not whom those wait for who fill the rest.
_MOST: Final = 0.5
# A disk that works less than this part of the time for others is slow by itself.
_ALONE: Final = 0.1
# The probes without which it is not known who uses a disk.
_OF_USERS: Final = frozenset({"on_block_bio_queue", "on_block_rq_complete"})

Asked: TypeAlias = Callable[[str, Mapping[Work, float]], Mix]
"""(disk, part of its work that was for whom) -> what of a wait went to whom, see load.py."""


class Storage:
    """The disks of one host, and who uses them."""

    def __init__(self, capture: HostCapture, suspects: Suspects) -> None:
        self._capture = capture
        self._suspects = suspects
        self._users = DiskUsers(capture)
        self._fillers = Fillers(capture)
        self._committers = Committers(capture, suspects)
        self._devices = Devices(capture)
        self._sees_users = _sees_users(capture)

    def is_free(self, op: Operation, span: Span, cause: str) -> bool:
        """Return whether nobody but NFS was on the disk that an operation waited for.

        ``cause``: of this wait. For whom a journal is written is known only of some.
        """
        disk = op.disk or self._users.main_disk(op.process, span.start, span.end)
        if disk is None or not self._sees_users:
            return False
        shares = self._users.shares(disk, span.start, span.end)
        others = sum(share for one, share in shares.items() if not self._is_journal(one))
        of_journal = cause == "journal" or any(map(self._is_journal, shares))
        if of_journal and not self._fillers.know(op.device):
            return False
        filled = sum(self._fillers.shares(op.device, span).values())
        asked = self._committers.others(op.mount, span.start, span.end)
        return max(others, filled, asked) < _ALONE

    def mix(self, op: Operation, span: Span, rest: Charge, asked: Asked) -> Mix:
        """Return what an operation's wait for disk or journal went to; ``rest``: if to nobody.

        While a volume is suspended nobody has anything from it.
        """
        held = self._devices.suspended(op.device, span)
        if not held:
            return self._shared(op, span, rest, asked)
        volume = Culprit("device", op.device or "", self._capture.host)
        mix = {charge_to("disk", volume): held}
        add(mix, self._shared(op, span, rest, asked), 1 - held)
        return mix

    def for_client(self, address: str) -> dict[str, tuple[int, int]]:
        """Return for each disk how many us it worked for a client, and on how many requests."""
        return self._users.totals_for(address)

    def _shared(self, op: Operation, span: Span, rest: Charge, asked: Asked) -> Mix:
        """Return what a wait for a disk that does work went to."""
        disk = op.disk or self._users.main_disk(op.process, span.start, span.end)
        is_asked_more = self._is_asked_more(disk, span)
        by_what = self._users.moved_shares if is_asked_more else self._users.shares
        shares = by_what(disk, span.start, span.end)
        filled_by = self._fillers.shares(op.device, span)
        # Any worker of the kernel may write the log of XFS.
        any_writes = bool(filled_by) and rest.cause == "journal"
        is_journal = self._is_kernels if any_writes else self._is_journal
        others = sum(share for process, share in shares.items() if not is_journal(process))
        journal = 1 - others if rest.cause == "journal" else sum(shares.values()) - others
        mix = self._of_users(disk, shares)
        if journal > 0:
            theirs = sum(filled_by.values())
            if theirs >= _MOST:
                add(mix, self._fill(op, filled_by), journal)
            # Of a journal whose fillers are not told, who asked for commits.
            theirs = theirs or self._committers.others(op.mount, span.start, span.end)
            others += journal * theirs
        of_clients = self._of_clients(disk, span, is_asked_more, asked)
        add(mix, of_clients)
        is_alone = others < _ALONE and not of_clients
        slow = self._slow(op.device, disk, span) if is_alone else None
        return filled(mix, 1.0, slow or rest)

    def _of_users(self, disk: str | None, shares: Mapping[ProcessKey | None, float]) -> Mix:
        """Return what a disk did for processes; for whom the kernel's threads work is not known."""
        link = Link(disk or "", None, "disk")
        rows = ((self._row(process), share) for process, share in shares.items())
        return {
            through(link, charge_to("disk", self._suspects.process(row.key))): share
            for row, share in rows
            if row is not None and not row.kthread
        }

    def _is_asked_more(self, disk: str | None, span: Span) -> bool:
        """Return whether a disk is not slower than else, but has to move far more."""
        if disk is None or span.end <= span.start:
            return False
        moved = self._users.moved_bytes(disk, span.start, span.end)
        return self._devices.moves_far_more(disk, moved * 1e6 / (span.end - span.start))

    def _of_clients(self, disk: str | None, span: Span, is_asked_more: bool, asked: Asked) -> Mix:
        """Return what went to clients that ask a disk for much, or for much at once."""
        if disk is None:
            return {}
        then = disk, span.start, span.end
        mix = asked(disk, self._users.moved_for(*then)) if is_asked_more else {}
        if not mix and self._devices.is_crowded(*then):
            mix = asked(disk, self._users.queued_for(*then))
        return mix

    def _fill(self, op: Operation, filled_by: Mapping[ProcessKey, float]) -> Mix:
        """Return the charges to the processes that filled a journal, the kernel's own left out."""
        link = Link(f"journal of {op.device}", None, "journal")
        rows = ((self._row(process), share) for process, share in filled_by.items())
        return {
            through(link, charge_to("journal", self._suspects.process(row.key))): share
            for row, share in rows
            if row is not None and not row.kthread
        }

    def evidence(self, program: Collection[Culprit], cause: str) -> Iterator[str]:
        """Yield what was seen of who or what kept others waiting for storage.

        ``program``: the culprit, or the processes of its program.
        """
        processes = {one.process for one in program if one.process}
        if cause in OF_STORAGE:
            for device, (blocks, handles) in self._fillers.totals(processes).items():
                yield f"filled {blocks} blocks of the journal of {device}, in {handles} changes"
            for disk, (busy_us, requests) in self._users.totals(processes).items():
                yield f"{disk} worked {human_us(busy_us)} for it, on {requests} requests"
        for one in program:
            if one.kind == "device":
                yield from self._device(one.name)

    def _row(self, process: ProcessKey | None) -> Process | None:
        return self._capture.processes.get(process) if process else None

    def _is_journal(self, process: ProcessKey | None) -> bool:
        row = self._row(process)
        return row is not None and is_journal(row)

    def _is_kernels(self, process: ProcessKey | None) -> bool:
        row = self._row(process)
        return row is not None and row.kthread

    def _slow(self, device: str | None, disk: str | None, span: Span) -> Charge | None:
        """Return the charge to a disk or volume that was slow itself, None if none is known."""
        if disk is None or not self._sees_users:
            return None
        name = self._devices.behind(device or disk, disk, span)
        return charge_to("disk", Culprit("device", name, self._capture.host)) if name else None

    def _device(self, name: str) -> Iterator[str]:
        times = self._devices.times_suspended(name)
        if times:
            yield f"was suspended (dmsetup) when it was looked at, {times} times"
            return
        seen = self._devices.worst(name)
        if seen:
            busy, await_us = seen
            yield f"requests took {human_us(await_us)} on average at worst, {percent(busy)} busy"
        yield f"worked less than {percent(_ALONE)} of the time for others than NFS"


def _sees_users(capture: HostCapture) -> bool:
    """Return whether all were recorded whom the disks worked for."""
    lacking = {probe.probe for probe in capture.probes if not probe.attached}
    return not lacking & _OF_USERS and not capture.losses.get("uses_full")
