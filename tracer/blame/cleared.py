"""Suspects that the data clears, each with the figures that clear it.

Nobody is cleared without figures: where no samples were recorded, or where most of
the stall time is unknown, the suspect is not mentioned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from tracer.blame.causes import OF_STORAGE
from tracer.blame.charge import Culprit
from tracer.blame.crew import none_free_us
from tracer.blame.evidence import DirectWaits
from tracer.blame.hosts import Host
from tracer.blame.ledger import Ledger
from tracer.blame.units import human_bytes, human_us, percent
from tracer.model import HostCapture, ProcessKey, Wait

# With this share of the stall time a suspect is not cleared.
MIN_SHARE: Final = 0.05
# With more than this unknown, any suspect may be behind it.
_MAX_UNKNOWN: Final = 0.5

_CAUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "network": ("network", "packet-filter", "remote"),
    "disk": OF_STORAGE,
    "cpu": ("cpu", "throttle", "irq"),
    "memory": ("reclaim",),
    "nfsd threads": ("threads",),
}


@dataclass(frozen=True, slots=True)
class Cleared:
    """A suspect and the figures that clear it."""

    suspect: str
    figures: str


def cleared(
    ledger: Ledger,
    by_cause: Mapping[str, int],
    culprits: Iterable[Culprit],
    direct: DirectWaits,
) -> list[Cleared]:
    """Return the cleared suspects, given the stall time by cause and the named culprits."""
    total = sum(by_cause.values())
    shares = {cause: us / total for cause, us in by_cause.items()} if total else {}
    out: list[Cleared] = []
    if shares.get("unknown", 0.0) <= _MAX_UNKNOWN:
        for suspect, causes in _CAUSES.items():
            share = sum(shares.get(cause, 0.0) for cause in causes)
            seen = figures(suspect, ledger)
            if seen and share < MIN_SHARE:
                of_stalls = f"{percent(share)} of the stall time; " if total else ""
                out.append(Cleared(suspect, of_stalls + "; ".join(seen)))
    named = {culprit.process for culprit in culprits if culprit.process}
    for host in ledger.hosts:
        out += _listeners(host, named, direct)
    return out


def figures(suspect: str, ledger: Ledger) -> list[str]:
    """Return what was measured of a suspect, by host."""
    captures = [host.capture for host in ledger.hosts]
    if suspect == "network":
        rpcs = [rpc for host in ledger.hosts for rpc in host.rpcs if rpc.transmits is not None]
        repeated = sum(1 for rpc in rpcs if (rpc.transmits or 0) > 1)
        seen = [line for capture in captures for line in _network(capture)]
        if seen and rpcs:
            seen.append(f"{repeated} of {len(rpcs)} slow RPCs sent more than once")
        return [*seen, *_unanswered(ledger)]
    if suspect == "nfsd threads":
        return [
            line
            for index, host in enumerate(ledger.hosts)
            if "server" in host.capture.sides
            for line in _threads(ledger, index)
        ]
    by_host = {"disk": _disk, "cpu": _cpu, "memory": _memory}[suspect]
    # Clients' own disks and memory are not where NFS data lies.
    servers = [capture for capture in captures if "server" in capture.sides]
    asked = captures if suspect == "cpu" else servers
    return [line for capture in asked for line in by_host(capture)]


def _values(capture: HostCapture, scope: str, metric: str) -> dict[str | None, list[float]]:
    values: defaultdict[str | None, list[float]] = defaultdict(list)
    for sample in capture.samples:
        if sample.scope == scope and sample.metric == metric:
            values[sample.name].append(sample.value)
    return dict(values)


def _flat(values: Mapping[str | None, Sequence[float]]) -> list[float]:
    return [value for series in values.values() for value in series]


def _unanswered(ledger: Ledger) -> Iterator[str]:
    count = len(ledger.unanswered)
    if count:
        yield f"{count} RPC{'' if count == 1 else 's'} got no reply and never came to the server"


def _network(capture: HostCapture) -> Iterator[str]:
    retrans = _flat(_values(capture, "tcp", "retrans_segs_per_s"))
    if not retrans:
        return
    line = f"{capture.host}: TCP retransmits {_mean(retrans):.2g}/s, at most {max(retrans):.2g}/s"
    rates = [
        (max(series), name, word)
        for metric, word in (("rx_bytes_per_s", "received"), ("tx_bytes_per_s", "sent"))
        for name, series in _values(capture, "net", metric).items()
        if name != "lo"
    ]
    if rates:
        rate, name, word = max(rates, key=lambda one: one[0])
        line += f", {name} {word} at most {human_bytes(rate)}/s"
    trips = [op.rtt_us for op in capture.operations if op.rtt_us is not None]
    if trips:
        line += f", round trip to clients {human_us(round(median(trips)))}"
        line += f", at most {human_us(max(trips))}"
    yield line


def _disk(capture: HostCapture) -> Iterator[str]:
    busy = _values(capture, "disk", "busy_percent")
    if not busy:
        return
    peak, name = max((max(series), name or "disk") for name, series in busy.items())
    line = f"{capture.host}: busiest disk {name} at most {peak:.3g} % busy"
    awaits = _flat(_values(capture, "disk", "await_ms"))
    if awaits:
        line += f", requests took at most {human_us(max(awaits) * 1000)} on average"
    yield line


def _cpu(capture: HostCapture) -> Iterator[str]:
    busy = _flat(_values(capture, "host", "cpu_busy_percent"))
    if busy:
        yield f"{capture.host}: CPUs {_mean(busy):.3g} % busy, at most {max(busy):.3g} %"


def _memory(capture: HostCapture) -> Iterator[str]:
    available = _flat(_values(capture, "host", "mem_available_bytes"))
    if available:
        yield f"{capture.host}: never less than {human_bytes(min(available))} available"


def _threads(ledger: Ledger, index: int) -> Iterator[str]:
    capture = ledger.hosts[index].capture
    occupancy = ledger.occupancy(index)
    if capture.nfsd_threads and occupancy.most_busy < capture.nfsd_threads:
        none_us = none_free_us(capture)
        none = "" if none_us is None else f", none free for {human_us(none_us)} in all"
        yield (
            f"{capture.host}: at most {occupancy.most_busy} of {capture.nfsd_threads} "
            f"in slow operations at once{none}"
        )


def _listeners(host: Host, named: set[ProcessKey], direct: DirectWaits) -> Iterator[Cleared]:
    """Yield the permission listeners of a host that nothing had to wait for long."""
    if _has_unproven(host):
        return
    capture = host.capture
    slow = {
        culprit.process
        for (culprit, cause), waits in direct.items()
        if culprit.host == capture.host
        and cause == "fanotify"
        and waits.longest_us >= capture.threshold_us
    }
    processes = {row.process for row in capture.listeners}
    waits_by_process = _fanotify_waits(host)
    for key in sorted(processes - slow - named, key=lambda one: (one.pid, one.start_us)):
        culprit = host.suspects.process(key)
        answers = sum(row.writes or 0 for row in capture.listeners if row.process == key)
        waits = waits_by_process.get(key, [])
        count = sum(max(1, wait.count) for wait in waits)
        figures = f"{count} waits for its permission, {answers} answers"
        if waits:
            figures += f", the longest took {human_us(max(map(_longest, waits)))}"
        yield Cleared(f"{culprit.name} (pid {key.pid} on {capture.host})", figures)


def _fanotify_waits(host: Host) -> dict[ProcessKey, list[Wait]]:
    waits: defaultdict[ProcessKey, list[Wait]] = defaultdict(list)
    rows = [(op.side, wait) for op in host.capture.operations for wait in op.waits]
    rows += [(row.side, row.wait) for row in host.capture.interval_waits]
    for side, wait in rows:
        finding = host.suspects.finding(wait, side)
        if finding.wait_class == "fanotify" and finding.culprit and finding.culprit.process:
            waits[finding.culprit.process].append(wait)
    return dict(waits)


def _has_unproven(host: Host) -> bool:
    """Return whether some permission wait has no proven listener: then it may be anyone's."""
    return any(
        (finding := host.suspects.finding(wait, op.side)).wait_class == "fanotify"
        and finding.culprit is None
        for op in host.capture.operations
        for wait in op.waits
    )


def _longest(wait: Wait) -> int:
    return wait.max_us or (wait.total_us if wait.count <= 1 else 0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
