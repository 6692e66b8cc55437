"""From a wait to its cause and culprit, by evidence only.

A process is named when the wait itself leads to it: it answers the fanotify group
the thread waits for, it woke the thread in its own context while giving up the lock,
or it had the very CPU in whose queue the thread was. A module or a BPF program is named
when the thread was in its code. That a process was busy at the same time is no evidence
here.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from tracer.blame.causes import OF_STORAGE, Cause
from tracer.blame.charge import UNKNOWN, Charge, Culprit, Link, charge_to, through
from tracer.blame.names import executable, name_of
from tracer.blame.programs import identity
from tracer.blame.signatures import (
    WaitClass,
    answers_fanotify,
    asked_caches,
    classify,
    in_interrupt,
    is_frozen_filesystem,
    module_of,
    module_waiting,
    releases,
)
from tracer.model import HostCapture, Listener, Operation, ProcessKey, Side, Wait
from tracer.owners import owner_of

# Waits whose kind is their cause.
_OF_KIND: Final[Mapping[str, Cause]] = {
    "throttled": "throttle",
    "reclaiming": "reclaim",
    "limited": "reclaim",
}
# The kernel's threads that do nothing else than to free memory, one for each node, or what
# interrupts have left to be done, one for each CPU.
_DOES: Final[tuple[tuple[re.Pattern[str], Cause], ...]] = (
    (re.compile(r"(kswapd|kcompactd)\d+"), "reclaim"),
    (re.compile(r"ksoftirqd/\d+"), "irq"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a wait is: its class, and who is proven to be behind it."""

    wait_class: WaitClass
    culprit: Culprit | None = None
    via: Link | None = None
    """What stands between the wait and the culprit."""

    @property
    def charge(self) -> Charge:
        """Return the charge of the wait's time; internal classes are unknown as causes."""
        if self.wait_class == "rpc" or self.wait_class == "idle":  # noqa: PLR1714 - narrows the type
            return UNKNOWN
        charge = charge_to(self.wait_class, self.culprit)
        return through(self.via, charge) if self.via else charge


class Suspects:
    """Finds cause and culprit of waits on one host."""

    def __init__(self, capture: HostCapture) -> None:
        self._capture = capture
        self._findings: dict[tuple[object, ...], Finding] = {}
        self._groups: dict[str | None, ProcessKey | None] = {}
        self._listeners = _last_rows(capture.listeners)
        self._frozen = [row for row in capture.holders if row.kind == "frozen"]
        self._channels = [row for row in capture.holders if row.kind == "channel"]
        self._answers = _answers(capture)
        self._deciders = set(_deciders(capture))

    def finding(self, wait: Wait, side: Side) -> Finding:
        """Return cause class and culprit of a wait."""
        key: tuple[object, ...] = (
            *(wait.kind, wait.stack, wait.waker, wait.waker_stack, wait.fanotify_group, side),
            wait.owner,
            *self._frozen_by(wait, side),
        )
        found = self._findings.get(key)
        if found is None:
            found = self._findings[key] = self._find(wait, side)
        return found

    def process(self, key: ProcessKey) -> Culprit:
        """Return a process of this host as a culprit."""
        name = name_of(self._capture, key)
        return Culprit("process", name, self._capture.host, key)

    @cached_property
    def leaseholder(self) -> Culprit | None:
        """Return the one program that did not give up a lease that nfsd asked for."""
        rows = (row.process for row in self._capture.holders if row.kind == "lease")
        key = self._one_program(rows)
        return self.process(key) if key else None

    def is_own(self, op: Operation, culprit: Culprit | None) -> bool:
        """Return whether a culprit is the process of an operation, or another of its program."""
        if op.process is None or culprit is None or culprit.process is None:
            return False
        return self.are_one_program(op.process, culprit.process)

    def are_one_program(self, one: ProcessKey, other: ProcessKey) -> bool:
        """Return whether two processes are one, or two of one program."""
        if one == other:
            return True
        here, there = map(self._capture.processes.get, (one, other))
        return here is not None and there is not None and identity(here) == identity(there)

    def _find(self, wait: Wait, side: Side) -> Finding:
        if wait.kind == "runnable":
            return self._ran(wait)
        if wait.kind in _OF_KIND:
            return Finding(_OF_KIND[wait.kind])
        if wait.kind == "held":
            return Finding("packet-filter", self._decides(wait))
        if wait.kind == "running":
            return self._runs(wait)
        module = module_waiting(wait.stack, side)
        if module is not None:
            return self._in_module(module, wait)
        wait_class = classify(wait.stack, side)
        if wait_class == "unknown" and wait.fanotify_group:
            wait_class = "fanotify"
        if wait_class in OF_STORAGE and wait.waker and releases("upcall", wait.waker_stack):
            # A page of a filesystem in user space is waited for as one of a disk is.
            wait_class = "upcall"
        if wait_class == "network" and wait.waker and releases("lock", wait.waker_stack):
            # A connection's mutex: who had it may have waited for its client, or for a CPU.
            wait_class = "lock"
        key: ProcessKey | None = None
        if wait_class == "fanotify":
            key = self._responder(wait) or self._listener(wait.fanotify_group)
        elif frozen_by := self._frozen_by(wait, side):
            key = frozen_by[0]
        elif wait.waker and releases(wait_class, wait.waker_stack):
            key = wait.waker
        elif wait_class == "upcall":
            key = self._daemon(wait.stack)
        return Finding(wait_class, self.process(key) if key else None)

    def _runs(self, wait: Wait) -> Finding:
        """Return whose code a thread was in on a CPU."""
        owner = owner_of(wait.owner)
        if owner is None:
            return Finding("running")
        if owner.kind == "irq":
            return Finding("irq")
        return Finding(owner.kind, Culprit(owner.kind, owner.name, self._capture.host))

    def _in_module(self, module: str, wait: Wait) -> Finding:
        """Return who is behind a module's wait: the process that answered it, or itself."""
        answers = module in map(module_of, wait.waker_stack) and not in_interrupt(wait.waker_stack)
        if wait.waker and answers:
            return Finding("module", self.process(wait.waker), Link(module, None, "module"))
        return Finding("module", Culprit("module", module, self._capture.host))

    def _frozen_by(self, wait: Wait, side: Side) -> tuple[ProcessKey, ...]:
        """Return who kept a filesystem frozen during a wait for that, nothing if unsure."""
        if not self._frozen or not is_frozen_filesystem(wait.stack):
            return ()
        held = {
            holder.process
            for holder in self._frozen
            if (holder.since_mono_us or 0) < wait.last_mono_us
            and (holder.until_mono_us is None or holder.until_mono_us > wait.first_mono_us)
        }
        return tuple(held) if len(held) == 1 else ()

    def _daemon(self, stack: tuple[str, ...]) -> ProcessKey | None:
        """Return the one process whose answer the kernel waits for by its caches, if it is one."""
        caches = asked_caches(stack)
        holders = {row.process for row in self._channels if row.what in caches}
        return self._one_program(holders)

    def _decides(self, wait: Wait) -> Culprit | None:
        """Return the process that decided on a packet, or on all others and has the queues."""
        if wait.waker:
            decided = releases("packet-filter", wait.waker_stack)
            return self.process(wait.waker) if decided else None
        key = self._one_program(self._deciders)
        return self.process(key) if key else None

    def _ran(self, wait: Wait) -> Finding:
        """Return who had the CPU meanwhile; the kernel's own threads work for others."""
        process = self._capture.processes.get(wait.waker) if wait.waker else None
        if process is None:
            return Finding("cpu")
        if process.kthread:
            found = (cause for name, cause in _DOES if name.fullmatch(process.comm or ""))
            return Finding(next(found, "cpu"))
        return Finding("cpu", self.process(process.key))

    def _responder(self, wait: Wait) -> ProcessKey | None:
        """Return the waker if it answered: seen doing so, or a listener awake by itself."""
        if wait.waker is None or in_interrupt(wait.waker_stack):
            return None
        if answers_fanotify(wait.waker_stack):
            return wait.waker
        holders = {row.process for row in self._rows(wait.fanotify_group)}
        return wait.waker if wait.waker in holders else None

    def _listener(self, group: str | None) -> ProcessKey | None:
        if group not in self._groups:
            self._groups[group] = self._find_listener(group)
        return self._groups[group]

    def _find_listener(self, group: str | None) -> ProcessKey | None:
        """Return the one process that answers a group, None if it cannot be told.

        In this order: seen answering; answered or read most; holds the group alone;
        is the host's only permission listener; the only one that something waits for.
        """
        if group and self._answers[group]:
            return _top(self._answers[group])
        rows = self._rows(group)
        if group:
            for figure in (_writes, _reads):
                busiest = _top(Counter({row.process: figure(row) for row in rows if figure(row)}))
                if busiest:
                    return busiest
            alone = self._one_program(row.process for row in rows)
            if rows:
                return alone
        # The group is not known by its address: only elimination can tell.
        alone = self._one_program(row.process for row in self._listeners)
        waited_for = (row.process for row in self._listeners if row.blocked)
        return alone or self._one_program(waited_for)

    def _rows(self, group: str | None) -> list[Listener]:
        return [row for row in self._listeners if group is None or row.group == group]

    def _one_program(self, keys: Iterable[ProcessKey]) -> ProcessKey | None:
        """Return the eldest of processes that are one program: its workers inherit the group."""
        eldest_first = sorted(set(keys), key=lambda key: (key.start_us, key.pid))
        if len(eldest_first) <= 1:
            return eldest_first[0] if eldest_first else None
        processes = [self._capture.processes.get(key) for key in eldest_first]
        programs = {executable(process) if process else None for process in processes}
        return eldest_first[0] if len(programs) == 1 and None not in programs else None


def _deciders(capture: HostCapture) -> Iterator[ProcessKey]:
    """Yield who had a netfilter queue when recording began, and who decided on a packet since."""
    yield from (row.process for row in capture.holders if row.kind == "queue")
    for op in capture.operations:
        for wait in op.waits if op.layer == "kernel" else ():
            if wait.kind == "held" and wait.waker:
                yield wait.waker


def _last_rows(listeners: Iterable[Listener]) -> list[Listener]:
    """Keep one row per process and group, the last: the counts in it are the newest."""
    rows = {(row.process, row.group): row for row in listeners}
    return list(rows.values())


def _answers(capture: HostCapture) -> defaultdict[str, Counter[ProcessKey]]:
    """Count by group who was seen answering it."""
    answers: defaultdict[str, Counter[ProcessKey]] = defaultdict(Counter)
    for wait in _all_waits(capture):
        if wait.fanotify_group and wait.waker and answers_fanotify(wait.waker_stack):
            answers[wait.fanotify_group][wait.waker] += max(1, wait.count)
    return answers


def _all_waits(capture: HostCapture) -> Iterator[Wait]:
    for op in capture.operations:
        yield from op.waits
    for row in capture.interval_waits:
        yield row.wait


def _top(counts: Counter[ProcessKey]) -> ProcessKey | None:
    """Return who leads the count, None if two share the lead."""
    leaders = counts.most_common(2)
    if not leaders or (len(leaders) == 2 and leaders[0][1] == leaders[1][1]):
        return None
    return leaders[0][0]


_Figure = Callable[[Listener], int]


def _writes(row: Listener) -> int:
    return row.writes or 0


def _reads(row: Listener) -> int:
    return row.reads or 0
