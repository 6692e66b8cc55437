"""Chains: what a process waited for while others waited for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.blame.charge import Charge, Culprit, Link, Mix, add, filled
from tracer.blame.intervals import Span, spans
from tracer.blame.means import comes_by_tcp, looked_for, looks, means_of, read_from
from tracer.blame.programs import Program, program_of
from tracer.model import Operation, ProcessKey

if TYPE_CHECKING:
    from tracer.blame.hosts import Host
    from tracer.blame.ledger import Ledger

# A process that waits for a CPU or its quota does nothing meanwhile, whoever is behind that.
_NOBODYS: Final = frozenset({"cpu", "throttle"})
# Longer ones nobody reads.
_MAX_LINKS: Final = 8


class Chains:
    """Follows waits for processes into what these did meanwhile."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._programs: dict[Culprit, Program | None] = {}

    def behind(self, host: int, span: Span, direct: Charge) -> Mix:
        """Return what a wait went to, given the charge to the process that it was for.

        What that process did itself is put down to it, and so is what is not known.
        """
        mix: Mix = {}
        culprit = direct.culprit
        if culprit is None or culprit.process is None or span.wait.kind != "blocked":
            return {direct: 1.0}
        answers = self._ledger.hosts[host].answers
        for piece in answers.during(culprit.process, span):
            for charge, us in self._ledger.window(host, *piece).items():
                own = self._is_own(direct, charge)
                add(mix, {direct if own else _further(direct, charge): us})
        return filled(mix, span.total_us, direct)

    def _is_own(self, direct: Charge, charge: Charge) -> bool:
        """Return whether a process that others wait for waits for its own program's doings.

        Workers of a program that hold a lock in turn have its disk and CPUs in turn, too: those
        who wait for the lock wait for the program, by the lock.
        """
        if charge.cause == direct.cause or direct.culprit is None or charge.culprit is None:
            return False
        program = self._program(direct.culprit)
        return program is not None and program == self._program(charge.culprit)

    def _program(self, culprit: Culprit) -> Program | None:
        if culprit not in self._programs:
            captures = (host.capture for host in self._ledger.hosts)
            self._programs[culprit] = program_of(culprit, captures)
        return self._programs[culprit]

    def between(self, host: int, op: Operation, span: Span) -> Mix | None:
        """Return what a process's wait for another process went to, None if it was for none."""
        asked = asked_in(self._ledger.hosts[host], op, span)
        if asked is None:
            return None
        culprit = self._ledger.hosts[host].suspects.process(asked.process)
        return self.behind(host, span, _by(asked.means, culprit))


class Asked(NamedTuple):
    """A process that another waited for, and by what means."""

    process: ProcessKey
    means: str


def asked_in(host: Host, op: Operation, span: Span) -> Asked | None:
    """Return for whom a process waited, None if that is not proven."""
    wait = span.wait
    if wait.kind != "blocked":
        return None
    process, means = wait.waker, None
    looked = looks(wait.stack) and _is_last(op, span)
    if wait.in_flight:
        # Nobody has woken it yet: the waker is who has the other end of what it reads, or polls.
        means = read_from(wait.stack) or ("message" if looks(wait.stack) else None)
    elif comes_by_tcp(wait.waker_stack):
        process = host.peers.sender(op.process, wait) if op.process else None
        means = "tcp" if looked or read_from(wait.stack) == "tcp" else None
    else:
        means = means_of(wait.stack, wait.waker_stack)
        if means is None and looked:
            means = looked_for(wait.stack, wait.waker_stack)
    return Asked(process, means) if process and means else None


def _by(means: str, culprit: Culprit) -> Charge:
    """Return the charge to a process for which another waits; what for is the other's affair."""
    pid = culprit.process.pid if culprit.process else None
    return Charge("unknown", culprit, (Link(culprit.name, pid, means),))


def _further(direct: Charge, charge: Charge) -> Charge:
    """Return the charge behind a process; its own if that leads to nobody else, or in a circle."""
    if charge.culprit is None and charge.cause in _NOBODYS:
        return Charge(charge.cause, None, direct.chain)
    if charge.culprit is None or charge.culprit == direct.culprit:
        return direct
    links = charge.chain
    # Threads of one process that wait for each other are one link.
    if _who(links[0]) == _who(direct.chain[-1]):
        links = links[1:]
    passed = {_who(link) for link in direct.chain}
    if len(links) > _MAX_LINKS or any(_who(link) in passed for link in links):
        return direct
    cause = direct.cause if charge.cause == "unknown" else charge.cause
    return Charge(cause, charge.culprit, direct.chain + links)


def _who(link: Link) -> tuple[str, int | None]:
    return link.name, link.pid


def _is_last(op: Operation, span: Span) -> bool:
    """Return whether this was one wait, and none came after it: then it let the thread go on."""
    blocked = (other for other in spans(op) if other.wait.kind == "blocked")
    return span.wait.count == 1 and all(other.end <= span.end for other in blocked)
