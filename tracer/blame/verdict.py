"""The verdict: culprits ranked by the stall time they account for, and who is cleared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tracer.blame.accounts import Account, Blame, Programs, accounts
from tracer.blame.catalogue import product_of, product_of_module
from tracer.blame.causes import ABOUT, OF_LOAD, Cause
from tracer.blame.charge import Culprit, Link
from tracer.blame.cleared import MIN_SHARE, Cleared, cleared, figures
from tracer.blame.clients import clients_lines
from tracer.blame.crew import crew_lines, stopped_lines
from tracer.blame.evidence import Direct, direct_waits, lines, taken_together
from tracer.blame.kthreads import works_for
from tracer.blame.ledger import Ledger
from tracer.blame.middlemen import Middlemen
from tracer.blame.names import executable
from tracer.blame.network import Evidence
from tracer.blame.occupancy import STOPPED
from tracer.blame.queued import queue_lines
from tracer.blame.stalls import Stall, Victim
from tracer.blame.summary import summary_of
from tracer.blame.units import human_us
from tracer.model import HostCapture, Process

# Below either of these a culprit is noise: it stays in the ledger only. Moments without a
# free thread or CPU and behind others' requests are normal, mountd is asked for what nfsd has
# forgotten, and drivers and filters take a little of each operation: they must matter more.
_NOISE_US: Final = 50_000
_NOISE_SHARE: Final = 0.01
_NOISE_SHARES: Final[Mapping[str, float]] = {
    "threads": 0.05,
    "upcall": 0.05,
    "cpu": 0.1,
    "disk": 0.05,
    "journal": 0.05,
    "reclaim": 0.05,
    "module": 0.05,
    "bpf": 0.05,
    "slot": 0.1,
}
# What nothing else accounts for is put down to the wire, so a network is named only where that is
# most of all, or something shows there plainly; never if nothing does.
_NETWORK_SHARES: Final[Mapping[Evidence, float]] = {
    Evidence.NONE: math.inf,
    Evidence.SOME: 0.5,
    Evidence.PLAIN: 0.2,
}
# A device has slow moments, too, and no one else is behind them.
_DEVICE_SHARE: Final = 0.25

# Replies to whoever asks for much wait a little to be sent.
_RECEIVER_SHARE: Final = 0.1

# More threads are no help where somebody has ended all of them.
_START_IT: Final = "start it again, and see who stopped it (systemctl status nfs-server)"

# A chain with less than this part of what a culprit accounts for does not tell how it did that.
_LEAST_OF_CHAINS: Final = 0.01

# Links from an operation to who it waits for without waiting to be woken by them: the disk, the
# queue, or another host, stands between.
_LINKS: Final[Mapping[str, int]] = {
    "cpu": 1,
    "slot": 1,
    "reclaim": 1,
    "delay": 1,
    "disk": 2,
    "journal": 2,
    "threads": 2,
}


@dataclass(frozen=True, slots=True)
class VictimShare:
    """How much one victim waited for a culprit."""

    victim: Victim
    operations: int
    stall_us: int
    process: Process | None = None
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkShare:
    """A link of a chain and the stall time that goes through it."""

    link: Link
    stall_us: int


@dataclass(frozen=True, slots=True)
class Blamed:
    """A culprit with what it accounts for. ``direct_us``: waits on it, each once."""

    rank: int
    culprit: Culprit
    cause: Cause
    stall_us: int
    share: float
    direct_us: int
    operations: int
    victims: tuple[VictimShare, ...]
    chain: tuple[LinkShare, ...]
    evidence: tuple[str, ...]
    exe: str | None = None
    start_time: datetime | None = None
    product: str | None = None
    process: Process | None = None
    works_for: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who it was, who it was not, and what to do first."""

    clear: bool
    summary: str
    culprits: tuple[Blamed, ...]
    cleared: tuple[Cleared, ...]
    advice: tuple[str, ...]


def verdict_of(ledger: Ledger, stalls: Sequence[Stall], which: str = "") -> Verdict:
    """Return the verdict on a set of stalls; ``which``: what was asked of them, in words."""
    total = sum(stall.stall_us for stall in stalls)
    captures = [host.capture for host in ledger.hosts]
    programs = Programs(stalls, captures)
    found = accounts(stalls, programs, _threshold(captures))
    direct = direct_waits(ledger)
    by_program = taken_together(direct, programs.first)
    middlemen = Middlemen(ledger.hosts)
    shown = (
        item
        for item in found.items()
        # Among those who wait for somebody else.
        if item[1].stall_us
        >= _least_share(item[0], item[0] in direct, ledger) * (total - item[1].own_us)
        and item[1].stall_us >= _NOISE_US
    )
    ranked = sorted(
        shown,
        key=lambda item: (-item[1].stall_us, item[0][0].name, item[0][1]),
    )
    culprits = tuple(
        _blamed(
            rank,
            key,
            account,
            total=total,
            captures=captures,
            direct=by_program.get(key),
            middlemen=middlemen,
            beside=_beside(key, ledger, programs),
        )
        for rank, (key, account) in enumerate(ranked, start=1)
    )
    by_cause = causes_of(stalls)
    named = [one for blamed in culprits for one in programs.members(blamed.culprit)]
    return Verdict(
        clear=not culprits,
        summary=summary_of(culprits, by_cause, _threshold(captures), by_program, which),
        culprits=culprits,
        cleared=tuple(cleared(ledger, by_cause, named, direct)),
        advice=tuple(_advice(culprits)),
    )


def causes_of(stalls: Iterable[Stall]) -> dict[str, int]:
    """Return the stall time by cause, the greatest first."""
    sums: defaultdict[str, int] = defaultdict(int)
    for stall in stalls:
        for charge, us in stall.bill.items():
            sums[charge.cause] += us
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _capture_of(culprit: Culprit, captures: Iterable[HostCapture]) -> HostCapture | None:
    """Return the capture that tells most of a culprit; a host may have several."""
    of_host = [capture for capture in captures if capture.host == culprit.host]
    knowing = [capture for capture in of_host if culprit.process in capture.processes]
    return next(iter(knowing or of_host), None)


def _least_share(key: Blame, seen: bool, ledger: Ledger) -> float:
    """Return the share of the stall time from which on a culprit is worth naming.

    ``seen``: it stands in waits themselves, and is not just what was left over.
    """
    culprit, cause = key
    if cause == "network":
        return _RECEIVER_SHARE if seen else _NETWORK_SHARES[ledger.network]
    if culprit.kind == "device":
        return _DEVICE_SHARE
    return _NOISE_SHARES.get(cause, _NOISE_SHARE)


def _blamed(
    rank: int,
    key: Blame,
    account: Account,
    *,
    total: int,
    captures: Sequence[HostCapture],
    direct: Direct | None,
    middlemen: Middlemen,
    beside: Iterable[str],
) -> Blamed:
    culprit, cause = key
    capture = _capture_of(culprit, captures)
    process = capture.processes.get(culprit.process) if capture and culprit.process else None
    exe = executable(process) if process else None
    victims = (
        VictimShare(
            victim,
            operations,
            stall_us,
            process=_process_of(victim, captures),
            volumes=tuple(sorted(account.volumes[victim])),
        )
        for victim, (operations, stall_us) in account.victims.items()
    )
    stacks = direct.waker_stacks if direct else ()
    between = {chain[-2].name for chain in account.chains if len(chain) > 1}
    return Blamed(
        rank=rank,
        culprit=culprit,
        cause=cause,
        stall_us=account.stall_us,
        share=account.stall_us / total if total else 0.0,
        direct_us=_direct_us(culprit, cause, account, direct)
        or middlemen.waited_us(culprit, between),
        operations=account.operations,
        victims=tuple(sorted(victims, key=lambda one: -one.stall_us)),
        chain=_chain(account.chains, cause),
        evidence=(
            *middlemen.lines(culprit, between),
            *lines(capture, culprit, cause, direct),
            *beside,
        ),
        exe=exe,
        start_time=process.start_time if process else None,
        product=_product(culprit, exe),
        process=process,
        works_for=works_for(culprit.name, stacks) if process and process.kthread else None,
    )


def _product(culprit: Culprit, exe: str | None) -> str | None:
    if culprit.kind == "process":
        return product_of(culprit.name, exe)
    return product_of_module(culprit.name) if culprit.kind == "module" else None


def _direct_us(culprit: Culprit, cause: str, account: Account, direct: Direct | None) -> int:
    """Return how long was waited for a culprit itself, and not for who waited for it."""
    of_host = culprit.kind in ("host", "device") and direct is None
    if of_host or cause in _LINKS:
        return sum(
            us
            for chain, us in account.chains.items()
            if chain and len(chain) == (1 if of_host else _LINKS.get(chain[-1].cause, 0))
        )
    return direct.total_us if direct else 0


def _beside(key: Blame, ledger: Ledger, programs: Programs) -> Iterator[str]:
    """Yield evidence that is not in the waits for a culprit."""
    culprit, cause = key
    count = len(programs.members(culprit))
    if count > 1:
        yield f"{count} processes of this program, of which this one is behind most"
    if cause == "network":
        yield from figures("network", ledger)
    if cause in OF_LOAD:
        yield from ledger.load.evidence(culprit)
    if cause == "lock" and culprit.kind == "host":
        times = sum(
            row.count
            for index, host in enumerate(ledger.hosts)
            for row in host.capture.counts
            if row.kind == "conflict" and not row.status and row.peer
            if ledger.client(index, row.peer) == culprit
        )
        yield f"{times} times another client's byte-range lock was refused for one that it had"
    for index, host in enumerate(ledger.hosts):
        if host.capture.host != culprit.host:
            continue
        yield from host.storage.evidence(programs.members(culprit), cause)
        yield from host.memory.evidence(culprit, cause)
        if culprit.kind in ("device", "setting") and cause in ("disk", "threads"):
            yield from clients_lines(ledger, index)
        if culprit.name == STOPPED:
            yield from stopped_lines(host.capture)
        elif cause == "threads":
            yield from queue_lines(ledger, index)
            yield from crew_lines(host.capture)
        if cause == "slot" and culprit.process:
            count, us = host.slots.total(culprit.process)
            yield f"{count} RPCs recorded for it had slots, {human_us(us)} in all"


def _process_of(victim: Victim, captures: Iterable[HostCapture]) -> Process | None:
    """Return what is known of a victim's process, None if nothing is."""
    if victim.process is None:
        return None
    for capture in captures:
        if capture.host == victim.host and victim.process in capture.processes:
            return capture.processes[victim.process]
    return None


def _chain(chains: Mapping[tuple[Link, ...], int], cause: Cause) -> tuple[LinkShare, ...]:
    """Return the chain to show: of those with links before the culprit, the one used most.

    Unless next to nothing went through any of them. It ends with the culprit's cause, if any does.

    A link's figure is the stall time through it on any chain; the culprit's is all.
    """
    chains = {one: us for one, us in chains.items() if one and one[-1].cause == cause} or chains
    through: defaultdict[Link, int] = defaultdict(int)
    for chain, us in chains.items():
        for link in set(chain):
            through[link] += us
    least = _LEAST_OF_CHAINS * sum(chains.values())
    longer = [chain for chain, us in chains.items() if len(chain) > 1 and us >= least]
    longer = longer or list(chains)
    if not longer:
        return ()
    shown = max(longer, key=lambda chain: chains[chain])
    return tuple(LinkShare(link, through[link]) for link in shown)


def _advice(culprits: Iterable[Blamed]) -> Iterable[str]:
    """Yield what to do first, once per cause, for the first culprit that has it."""
    seen: set[str] = set()
    for one in culprits:
        if one.cause not in seen and (one.rank == 1 or one.share >= MIN_SHARE):
            seen.add(one.cause)
            yield f"{one.culprit.name}: {_what_to_do(one.culprit, one.cause)}"


def _what_to_do(culprit: Culprit, cause: Cause) -> str:
    if culprit.name == STOPPED:
        return _START_IT
    # Who keeps a disk busy asks for much, as who has the slots does; a device is looked at.
    asks = cause == "disk" and culprit.kind != "device"
    return ABOUT["slot" if asks else cause].advice


def _threshold(captures: Iterable[HostCapture]) -> int:
    return min((capture.threshold_us for capture in captures), default=0)
