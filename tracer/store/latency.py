"""What a capture's ``latency`` table holds: histograms, and what happened in each interval."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import pyarrow as pa

from tracer.model import LatencyRow, ProcessKey, Recorded, Side, Syncs, Transfer
from tracer.store.arrow import pc
from tracer.store.footer import Footer

# What carries data to a server, and from it.
_WRITES: Final = ("WRITE",)
_READS: Final = ("READ", "READ_PLUS")

Keys: TypeAlias = Callable[[int | None, int | None], ProcessKey | None]
"""(pid, start_us) -> the process."""


def histograms(table: pa.Table) -> list[LatencyRow]:
    """Return the histograms summed over time, processes, mounts and peers."""
    names = ["side", "layer", "op"]
    sums = table.group_by([*names, "bucket"]).aggregate(
        [("count", "sum"), ("sum_us", "sum"), ("max_us", "max")]
    )
    counts: defaultdict[tuple[str, str, str], dict[int, int]] = defaultdict(dict)
    sum_us: Counter[tuple[str, str, str]] = Counter()
    max_us: Counter[tuple[str, str, str]] = Counter()
    for row in sums.to_pylist():
        key = (row["side"], row["layer"], row["op"])
        counts[key][row["bucket"]] = row["count_sum"]
        sum_us[key] += row["sum_us_sum"]
        max_us[key] = max(max_us[key], row["max_us_max"])
    return [
        LatencyRow(
            side=cast("Side", key[0]),
            layer=key[1],
            op=key[2],
            counts=dict(sorted(counts[key].items())),
            sum_us=sum_us[key],
            max_us=max_us[key],
        )
        for key in sorted(counts)
    ]


def recorded(table: pa.Table) -> list[Recorded]:
    """Return who did what."""
    names = ["side", "op", "comm", "pid", "mount", "peer"]
    return [Recorded(**row) for row in table.group_by(names).aggregate([]).to_pylist()]


def answered(table: pa.Table, footer: Footer) -> list[tuple[int, int, int]]:
    """Return when RPCs of the client ended, by interval: see HostCapture.

    An interval in which none did has no rows; a late one is as long as two.
    """
    sums = _rpcs_of_clients(table).group_by("ts").aggregate([("count", "sum")])
    times = _times(sums, footer)
    return sorted(
        (*times[ts], row["count_sum"])
        for ts, row in zip(_epochs(sums), sums.to_pylist(), strict=True)
        if ts in times
    )


def syncs(table: pa.Table, footer: Footer, keys: Keys) -> list[Syncs]:
    """Return how often processes of a server called fsync, by interval."""
    mine = (("side", "server"), ("layer", "vfs"), ("op", "fsync"))
    for column, value in mine:
        table = table.filter(pc.equal(table[column], value))
    names = ["ts", "pid", "pid_start_us", "mount"]
    sums = table.group_by(names).aggregate([("count", "sum")])
    times = _times(sums, footer)
    return [
        Syncs(process, row["mount"], *times[ts], row["count_sum"])
        for ts, row in zip(_epochs(sums), sums.drop_columns("ts").to_pylist(), strict=True)
        if ts in times and (process := keys(row["pid"], row["pid_start_us"])) is not None
    ]


def transfers(table: pa.Table, footer: Footer, keys: Keys) -> list[Transfer]:
    """Return what processes of a client wrote and read, by interval."""
    rpcs = _rpcs_of_clients(table)
    moving = rpcs.filter(pc.is_in(rpcs["op"], value_set=pa.array([*_WRITES, *_READS])))
    names = ["ts", "pid", "pid_start_us", "peer", "op"]
    sums = moving.group_by(names).aggregate([("rpc_bytes", "sum")])
    times = _times(sums, footer)
    return [
        Transfer(
            keys(row["pid"], row["pid_start_us"]),
            row["peer"],
            row["op"] in _WRITES,
            *times[ts],
            row["rpc_bytes_sum"],
        )
        for ts, row in zip(_epochs(sums), sums.drop_columns("ts").to_pylist(), strict=True)
        if ts in times and row["rpc_bytes_sum"]
    ]


def _rpcs_of_clients(table: pa.Table) -> pa.Table:
    return table.filter(pc.and_(pc.equal(table["side"], "client"), pc.equal(table["layer"], "rpc")))


def _epochs(table: pa.Table) -> list[int]:
    found: list[Any] = table["ts"].cast(pa.int64()).to_pylist()
    return found


def _times(table: pa.Table, footer: Footer) -> dict[int, tuple[int, int]]:
    """Return begin and end of each interval that has rows, on CLOCK_MONOTONIC.

    None of them where the clocks do not tell. A late interval is as long as two.
    """
    offset_us, longest_us = footer.clock.wall_us(0), int(2e6 * footer.interval_s)
    if offset_us is None:
        return {}
    found: dict[int, tuple[int, int]] = {}
    previous = 0
    for ts in sorted(set(_epochs(table))):
        end = ts - offset_us
        found[ts] = (max(end - longest_us, previous), end)
        previous = end
    return found
