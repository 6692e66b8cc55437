"""The verdict in one sentence that needs no knowledge of NFS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from tracer.blame.context import belongs_to
from tracer.blame.evidence import Direct, DirectWaits
from tracer.blame.occupancy import STOPPED, THREADS
from tracer.blame.units import human_us, percent

if TYPE_CHECKING:
    from tracer.blame.verdict import Blamed, VictimShare

_SHOWN_VICTIMS: Final = 3
_KINDS: Final[Mapping[str, str]] = {
    "device": "disk",
    "module": "kernel module",
    "bpf": "BPF program",
}
# A culprit with less than this is said together with what stands beside it.
_MOST: Final = 0.5

_DID: Final[Mapping[str, str]] = {
    "lock": "it held a kernel lock",
    "frozen": "it kept the filesystem frozen",
    "threads": "all of them were at work",
    "remote": "its replies did not come",
    "network": "packets were lost or late",
    "cpu": "it had the CPUs",
    "disk": "the disk worked for it",
    "journal": "it filled the filesystem's journal",
    "reclaim": "it took the memory",
    "slot": "its requests had the session's slots, or were ahead on the connection",
    "packet-filter": "it held packets of NFS",
    "throttle": "it was used up",
    "grace": "it had been restarted, and clients had to tell it their state again",
    "delegation": "it had not given back its delegations",
    "delay": "it did not give up its leases on the files",
    "module": "its code was in their way",
    "bpf": "its code ran in their way",
}
# What a process does that may wait for another in order to do it.
_ANSWERED: Final = frozenset({"fanotify", "lock", "upcall", "module"})
# What a host is to those who wait for it.
_AS: Final[Mapping[str, str]] = {
    "network": "The network to",
    "grace": "The NFS server",
    "delegation": "The NFS client",
    "lock": "The NFS client",
    "disk": "The NFS client",
}


def summary_of(
    culprits: Sequence[Blamed],
    by_cause: Mapping[str, int],
    threshold_us: int,
    direct: DirectWaits,
    which: str = "",
) -> str:
    """Return the verdict's first line; ``by_cause`` is the stall time, greatest first.

    ``which``: the operations that were asked for, if not all were.
    """
    total = sum(by_cause.values())
    if not total:
        of_these = f" with {which}" if which else ""
        return f"Clear: no NFS operation{of_these} took longer than {human_us(threshold_us)}."
    stalls = f"{human_us(total)} of NFS stalls"
    if not culprits:
        parts = ", ".join(f"{percent(us / total)} {cause}" for cause, us in _top(by_cause, 3))
        return f"Clear of culprits: {stalls}, but none could be shown to be behind them ({parts})."
    first = culprits[0]
    waits = direct.get((first.culprit, first.cause))
    did = _did(first, waits)
    sentence = (
        f"{_who(first, waits)} caused {percent(first.share)} of {stalls}: "
        f"{did} while {_victims(first.victims)} waited"
    )
    rest = {cause: us for cause, us in by_cause.items() if cause != first.cause}
    if first.share < _MOST and rest:
        cause, us = next(iter(_top(rest, 1)))
        sentence += f"; {percent(us / total)} is {cause}"
    if first.cause == "remote":
        sentence += "; record on the server too to see why"
    return sentence + "."


def _who(blamed: Blamed, direct: Direct | None) -> str:
    culprit = blamed.culprit
    if blamed.cause == "network" and direct is not None:
        return f"The NFS client {culprit.name}, or the network to it,"
    if culprit.kind == "host" and blamed.cause in _AS:
        return f"{_AS[blamed.cause]} {culprit.name}"
    if culprit.kind == "host":
        return f"The NFS server {culprit.name}, or the network to it,"
    on = f" on {culprit.host}" if culprit.host else ""
    if culprit.kind == "setting":
        return f"{'Too few' if culprit.name == THREADS else 'The'} {culprit.name}{on}"
    if culprit.kind in _KINDS:
        is_frozen = blamed.cause == "frozen"
        what = "filesystem on" if is_frozen else _KINDS[culprit.kind]
        return f"The {what} {culprit.name}{on}"
    details = [f"pid {culprit.process.pid}"] if culprit.process else []
    if blamed.exe and "/" in blamed.exe:
        details.append(blamed.exe)
    details += belongs_to(blamed.process)
    return f"{culprit.name} ({', '.join(details)}){on}" if details else f"{culprit.name}{on}"


def _did(blamed: Blamed, direct: Direct | None) -> str:
    if direct is None and len(blamed.chain) > 1 and blamed.cause in _ANSWERED:
        return f"{blamed.chain[-2].link.name} waited for it ({blamed.cause})"
    if blamed.cause == "fanotify":
        what = _accesses(direct) if direct else "file accesses"
        return f"it held {what} (fanotify)"
    did = _DID.get(blamed.cause, "it kept them waiting")
    if blamed.cause == "network" and direct is not None:
        did = "it did not take in the server's replies"
    if blamed.culprit.kind == "device":
        did = "it is frozen" if blamed.cause == "frozen" else "it was slow itself"
    if blamed.culprit.kind == "host" and blamed.cause == "lock":
        did = "it held a lock on a file"
    if blamed.culprit.name == STOPPED:
        did = "it had no threads"
    return f"{did} ({blamed.cause})"


def _accesses(direct: Direct) -> str:
    """Return what the agent held, as the kernel's stacks show it."""
    opens = reads = 0
    for stack, us in direct.stacks.items():
        if any("open" in frame and "nfsd4_open" not in frame for frame in stack):
            opens += us
        elif any(frame.startswith(("rw_verify_area", "security_file_perm")) for frame in stack):
            reads += us
    if opens and reads > opens * 0.1:
        return "file opens and reads"
    if opens:
        return "file opens"
    return "file reads" if reads else "file accesses"


def _victims(victims: Iterable[VictimShare]) -> str:
    """Return who waited, by name and host: processes first, those who waited longest first."""
    sums: Counter[tuple[str | None, str]] = Counter()
    for share in victims:
        sums[share.victim.comm, share.victim.host] += share.stall_us
    ranked = sorted(sums, key=lambda one: (one[0] is None, -sums[one]))
    shown = ranked[:_SHOWN_VICTIMS]
    hosts = {host for _, host in shown}
    comms = [comm for comm, _ in shown if comm is not None]
    if len(hosts) == 1 and len(comms) == len(shown):
        text = f"{_listed(comms)} on {hosts.pop()}"
    else:
        text = _listed([_victim(comm, host) for comm, host in shown])
    more = len(ranked) - len(shown)
    return f"{text} and {more} more" if more else text


def _victim(comm: str | None, host: str) -> str:
    """Return a victim in words; a server's own capture knows its clients by address only."""
    if comm:
        return f"{comm} on {host}"
    try:
        return f"client {ip_address(host)}"
    except ValueError:
        return f"background work on {host}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _top(sums: Mapping[str, int], count: int) -> list[tuple[str, int]]:
    return sorted(sums.items(), key=lambda item: -item[1])[:count]
