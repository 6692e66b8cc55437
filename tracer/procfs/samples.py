"""Figures of the host over one interval: differences of two readings of /proc.

Pure: texts in, rows out. A file that is missing or that does not parse gives no
rows; a counter that ran backwards gives none either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

SECTOR_BYTES: Final = 512
# Of nfsd: since recording began; the others are as of now.
_SUMS: Final = frozenset({"none_free_us", "none_free_times"})
_VOLUME: Final = re.compile(r"/sys/block/([^/]+)/dm/suspended")
_PARTITION: Final = re.compile(r"p?\d+$")


class Figure(NamedTuple):
    """One value: scope and metric as in ``schema.SAMPLES``."""

    scope: str
    name: str | None
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of one moment, file by file; empty where the file was missing."""

    mono_ns: int
    cpu: tuple[int, ...] = ()
    runnable: int | None = None
    mem_available_bytes: int | None = None
    pressure: Mapping[str, float] = field(default_factory=dict)
    disks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    suspended: tuple[str, ...] = ()
    nets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tcp: Mapping[str, int] = field(default_factory=dict)
    nfsd: Mapping[str, int] = field(default_factory=dict)


def parse(mono_ns: int, files: Mapping[str, str], nfsd: Mapping[str, int] | None = None) -> Reading:
    """Return the reading in the texts of /proc, keyed by path, and in the figures of nfsd."""
    stat = _words(files.get("/proc/stat", ""))
    return Reading(
        mono_ns=mono_ns,
        cpu=_ints(stat.get("cpu", [])),
        runnable=next(iter(_ints(stat.get("procs_running", []))), None),
        mem_available_bytes=_mem_available(files.get("/proc/meminfo", "")),
        pressure={
            f"pressure_{path.rpartition('/')[2]}_{kind}_percent": value
            for path, text in sorted(files.items())
            if path.startswith("/proc/pressure/")
            for kind, value in _pressure(text)
        },
        disks=dict(_disks(files.get("/proc/diskstats", ""))),
        suspended=tuple(_suspended(files)),
        nets=dict(_nets(files.get("/proc/net/dev", ""))),
        tcp={
            **_pairs(files.get("/proc/net/snmp", ""), "Tcp:"),
            **_pairs(files.get("/proc/net/netstat", ""), "TcpExt:"),
        },
        nfsd=nfsd or {},
    )


def figures(old: Reading, new: Reading) -> list[Figure]:
    """Return the figures of the time between two readings; none if no time went by."""
    seconds = (new.mono_ns - old.mono_ns) / 1e9
    if seconds <= 0:
        return []
    return [
        *_host_figures(old, new),
        *_disk_figures(old, new, seconds),
        *_net_figures(old, new, seconds),
        *_tcp_figures(old, new, seconds),
        *_nfsd_figures(old, new),
    ]


def _host_figures(old: Reading, new: Reading) -> Iterator[Figure]:
    spent = _differences(old.cpu, new.cpu)
    # user nice system idle iowait irq softirq steal; guest time is already in user
    if spent and len(spent) >= 8 and sum(spent[:8]):
        total = sum(spent[:8]) / 100
        _, _, _, idle, iowait, _, _, steal = spent[:8]
        busy = total * 100 - idle - iowait - steal
        yield Figure("host", None, "cpu_busy_percent", busy / total)
        yield Figure("host", None, "cpu_iowait_percent", iowait / total)
        yield Figure("host", None, "cpu_steal_percent", steal / total)
    if new.runnable is not None:
        yield Figure("host", None, "runnable", new.runnable)
    if new.mem_available_bytes is not None:
        yield Figure("host", None, "mem_available_bytes", new.mem_available_bytes)
    for metric, value in new.pressure.items():
        yield Figure("host", None, metric, value)


def _disk_figures(old: Reading, new: Reading, seconds: float) -> Iterator[Figure]:
    for name, counters in new.disks.items():
        spent = _differences(old.disks.get(name, ()), counters, gauge=8)
        if spent is None or len(spent) < 11:
            continue
        reads, _, read_sectors, read_ms, writes, _, write_sectors, write_ms = spent[:8]
        in_flight, busy_ms = spent[8:10]
        idle = not (reads or writes or in_flight or busy_ms)
        if not any(counters) or (idle and _secondary(name, new.disks)):
            continue
        yield Figure("disk", name, "busy_percent", min(100.0, busy_ms / seconds / 10))
        yield Figure("disk", name, "read_bytes_per_s", read_sectors * SECTOR_BYTES / seconds)
        yield Figure("disk", name, "write_bytes_per_s", write_sectors * SECTOR_BYTES / seconds)
        yield Figure("disk", name, "in_flight", in_flight)
        # As iostat's aqu-sz.
        yield Figure("disk", name, "queue_length", spent[10] / seconds / 1000)
        if reads + writes:
            yield Figure("disk", name, "await_ms", (read_ms + write_ms) / (reads + writes))
    for name in new.suspended:
        yield Figure("disk", name, "suspended", 1)


def _net_figures(old: Reading, new: Reading, seconds: float) -> Iterator[Figure]:
    for name, counters in new.nets.items():
        spent = _differences(old.nets.get(name, ()), counters)
        if spent is None or len(spent) < 16 or not (counters[0] or counters[8]):
            continue
        yield Figure("net", name, "rx_bytes_per_s", spent[0] / seconds)
        yield Figure("net", name, "tx_bytes_per_s", spent[8] / seconds)
        yield Figure("net", name, "drops", spent[3] + spent[11])


def _tcp_figures(old: Reading, new: Reading, seconds: float) -> Iterator[Figure]:
    for counter, metric, per in (
        ("RetransSegs", "retrans_segs_per_s", seconds),
        ("TCPDSACKRecvSegs", "dsack_recv_segs_per_s", seconds),
        ("OutSegs", "out_segs_per_s", seconds),
        ("TCPTimeouts", "timeouts", 1.0),
    ):
        if counter in old.tcp and new.tcp.get(counter, -1) >= old.tcp[counter]:
            yield Figure("tcp", None, metric, (new.tcp[counter] - old.tcp[counter]) / per)


def _nfsd_figures(old: Reading, new: Reading) -> Iterator[Figure]:
    for metric, value in new.nfsd.items():
        if metric in _SUMS and metric in old.nfsd:
            yield Figure("nfsd", None, metric, max(0, value - old.nfsd[metric]))
        elif metric not in _SUMS:
            yield Figure("nfsd", None, metric, value)


def _secondary(name: str, disks: Mapping[str, object]) -> bool:
    """Return whether a device is a partition, or a loop or ram disk: shown only when in use."""
    whole = _PARTITION.sub("", name)
    return name.startswith(("loop", "ram", "zram")) or (whole != name and whole in disks)


def _differences(
    old: tuple[int, ...], new: tuple[int, ...], gauge: int | None = None
) -> tuple[int, ...] | None:
    """Return new - old, but the value itself at index ``gauge``; None if a counter went back."""
    if len(old) != len(new):
        return None
    spent = tuple(
        after if index == gauge else after - before
        for index, (before, after) in enumerate(zip(old, new, strict=True))
    )
    return None if any(value < 0 for value in spent) else spent


def _words(text: str) -> dict[str, list[str]]:
    """Return first word -> the rest of each line."""
    lines = (line.split() for line in text.splitlines())
    return {words[0]: words[1:] for words in lines if words}


def _ints(words: list[str]) -> tuple[int, ...]:
    return tuple(int(word) for word in words) if all(w.isdecimal() for w in words) else ()


def _mem_available(text: str) -> int | None:
    kib = _ints(_words(text).get("MemAvailable:", [])[:1])
    return kib[0] * 1024 if kib else None


def _pressure(text: str) -> Iterator[tuple[str, float]]:
    for kind, words in _words(text).items():
        value = dict(word.partition("=")[::2] for word in words).get("avg10", "")
        if value.replace(".", "", 1).isdecimal():
            yield kind, float(value)


def _disks(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for line in text.splitlines():
        words = line.split()
        counters = _ints(words[3:14])
        if len(counters) == 11:
            yield words[2], counters


def _suspended(files: Mapping[str, str]) -> Iterator[str]:
    """Yield the volumes of the device mapper that let no I/O through."""
    for path, text in files.items():
        match = _VOLUME.fullmatch(path)
        if match and text.strip() == "1":
            yield match[1]


def _nets(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        counters = _ints(rest.split())
        if colon and len(counters) >= 16:
            yield name.strip(), counters


def _pairs(text: str, prefix: str) -> dict[str, int]:
    """Return name -> value of the two lines (names, then values) that start with ``prefix``."""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith(prefix)]
    if len(lines) < 2:
        return {}
    return {
        name: int(value)
        for name, value in zip(lines[0], lines[1], strict=False)
        if value.isdecimal()
    }
