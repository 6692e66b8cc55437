"""Loaded tables as the objects of ``tracer.model``, one HostCapture for each host and boot.

Rows are chosen column-wise in Arrow, where there may be millions; objects are
made only of those that count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, cast

import pyarrow as pa

from tracer.model import (
    Count,
    DiskUse,
    Event,
    Holder,
    HostCapture,
    IntervalWaits,
    JournalUse,
    Listener,
    MemoryUse,
    Operation,
    Probe,
    Process,
    ProcessKey,
    Sample,
    Side,
    Wait,
)
from tracer.records import SIDES
from tracer.schema import OPERATIONS, TABLES
from tracer.store import latency
from tracer.store.arrow import arrow_schema, pc
from tracer.store.footer import Footer
from tracer.store.layout import safe_host
from tracer.store.load import Loaded, Segment

Tables = Mapping[str, pa.Table]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK_US: Final = 10_000
# Recordings of one boot may use the same op_ids: those of later ones are moved out of the way.
_OP_ID_STEP: Final = 1 << 64
_MADE: Final = frozenset(
    {"ts", "op_id", "parent_id", "pid", "pid_start_us", "writer_pid", "writer_start_us"}
)
_PLAIN_OPERATION: Final = tuple(
    column.name for column in OPERATIONS.columns if column.name not in _MADE
)


def host_captures(loaded: Loaded) -> list[HostCapture]:
    """Return one HostCapture for each host and boot, ordered by host and start."""
    boots: defaultdict[tuple[str, str], list[Segment]] = defaultdict(list)
    for _, segment in sorted(loaded.segments.items()):
        boots[segment.footer.host, segment.footer.boot_id].append(segment)
    named = {safe_host(host) for host, _ in boots}
    hosts = []
    for (host, _), segments in boots.items():
        capture = _host_capture(segments, loaded.recording)
        # What cannot be laid to one host's account concerns them all.
        problems = (
            problem.text
            for problem in loaded.problems
            if problem.host == safe_host(host) or problem.host not in named
        )
        hosts.append(replace(capture, incomplete=(*problems, *capture.incomplete)))
    return sorted(hosts, key=lambda capture: (capture.host, capture.start))


def _host_capture(segments: Sequence[Segment], recording: set[str]) -> HostCapture:
    """Return the capture of one boot from its segments, oldest first."""
    by_recording: defaultdict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        by_recording[segment.footer.recording].append(segment)
    last = [of_recording[-1].footer for of_recording in by_recording.values()]
    tables = _merged(segments)
    keys = _Keys(tables["processes"])
    stacks = _Stacks(tables["stacks"])
    operations: list[Operation] = []
    for number, of_recording in enumerate(by_recording.values()):
        merged = _merged(of_recording)
        operations += _operations(merged, number * _OP_ID_STEP, last[-1].host, keys, stacks)
    operations.sort(key=lambda op: (op.begin_mono_us, op.op_id))
    losses: Counter[str] = Counter()
    for footer in last:
        losses.update(footer.losses)
    return HostCapture(
        host=last[-1].host,
        sides=tuple(
            cast("Side", side)
            for side in SIDES.values()
            if any(side in footer.sides for footer in last)
        ),
        kernel=last[-1].kernel,
        boot_id=last[-1].boot_id,
        start=_time(min(segment.footer.begin_us for segment in segments)),
        end=_time(max(segment.footer.end_us for segment in segments)),
        threshold_us=last[-1].threshold_us,
        addresses=frozenset(address for footer in last for address in footer.addresses),
        nfsd_threads=last[-1].nfsd_threads,
        operations=[op for op in operations if op.layer != "answer"],
        answers=[op for op in operations if op.layer == "answer"],
        interval_waits=list(_interval_waits(tables["waits"], last[-1], keys, stacks)),
        processes=_processes(tables["processes"], keys),
        listeners=_listeners(tables["listeners"], keys),
        holders=_holders(tables["holders"], keys),
        disk_use=list(_disk_use(tables["disk_use"], keys)),
        journal_use=list(_journal_use(tables["journal_use"], keys)),
        memory_use=list(_memory_use(tables["memory_use"], keys)),
        latency=latency.histograms(tables["latency"]),
        recorded=latency.recorded(tables["latency"]),
        syncs=latency.syncs(tables["latency"], last[-1], keys),
        transfers=latency.transfers(tables["latency"], last[-1], keys),
        answered=latency.answered(tables["latency"], last[-1]),
        counts=_counts(tables["counts"]),
        samples=[Sample(_time(r[0]), *r[1:]) for r in _rows(tables["samples"])],
        events=[Event(_time(r[0]), *r[1:]) for r in _rows(tables["events"])],
        probes=list({r[1]: Probe(*r[1:]) for r in _rows(tables["probes"])}.values()),
        losses=losses,
        overhead=last[-1].overhead,
        wall_minus_mono_us=last[-1].clock.wall_us(0),
        incomplete=tuple(_abrupt(last, recording)),
    )


def _abrupt(last: Iterable[Footer], recording: set[str]) -> Iterator[str]:
    for footer in last:
        if footer.recording in recording:
            yield f"{footer.host} is still recording: this is what it has so far"
        elif footer.ended is None:
            yield (
                f"the recording on {footer.host} was killed or its disk failed: "
                "its last interval may be missing"
            )


def _merged(segments: Iterable[Segment]) -> dict[str, pa.Table]:
    """Return table -> the rows of all segments in order of time."""
    merged = {}
    for table in TABLES:
        parts = [part for segment in segments for part in segment.tables.get(table.name, ())]
        rows = pa.concat_tables(parts) if parts else arrow_schema(table).empty_table()
        # Latency is only ever added up.
        merged[table.name] = rows if table.name == "latency" else _by_time(rows)
    return merged


def _by_time(rows: pa.Table) -> pa.Table:
    return rows.take(pc.sort_indices(rows, sort_keys=[("ts", "ascending")]))


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Yield the rows as tuples in the schema's order, times as microseconds since 1970."""
    columns = [
        (values.cast(pa.int64()) if pa.types.is_timestamp(values.type) else values).to_pylist()
        for values in table.columns
    ]
    return zip(*columns, strict=True)


@cache
def _time(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


class _Keys:
    """Processes by pid and start.

    /proc tells a start to 10 ms, the kernel's programs to the nanosecond: where both
    saw a process, the exact start names it.
    """

    def __init__(self, processes: pa.Table) -> None:
        columns = processes.select(["pid", "start_us"])
        self._exact = {
            (pid, start // _TICK_US): ProcessKey(pid, start)
            for pid, start in _rows(columns)
            if start % _TICK_US
        }

    def __call__(self, pid: int | None, start_us: int | None) -> ProcessKey | None:
        if pid is None or start_us is None:
            return None
        exact = self._exact.get((pid, start_us // _TICK_US))
        return exact if exact and not start_us % _TICK_US else ProcessKey(pid, start_us)


class _Stacks:
    """Function names by stack_id."""

    def __init__(self, stacks: pa.Table) -> None:
        ids, frames = stacks["stack_id"].to_pylist(), stacks["frames"].to_pylist()
        self._frames = {
            stack_id: tuple(text.split(";")) if text else ()
            for stack_id, text in zip(ids, frames, strict=True)
        }

    def __call__(self, stack_id: int | None) -> tuple[str, ...]:
        return self._frames.get(stack_id, ()) if stack_id is not None else ()


@dataclass(frozen=True, slots=True)
class _Columns:
    """A table column by column, for rows that are made into objects by name."""

    lists: dict[str, list[Any]]
    length: int

    @classmethod
    def of(cls, table: pa.Table) -> _Columns:
        names = [name for name in table.schema.names if name not in ("ts", "start_time")]
        return cls({name: table[name].to_pylist() for name in names}, table.num_rows)

    def rows(self) -> Iterator[dict[str, Any]]:
        names = list(self.lists)
        for values in zip(*self.lists.values(), strict=True):
            yield dict(zip(names, values, strict=True))


def _operations(
    tables: Tables, op_id_offset: int, host: str, keys: _Keys, stacks: _Stacks
) -> Iterator[Operation]:
    """Yield the operations of one recording with their waits."""
    valid = _valid_operations(tables["operations"])
    waits: defaultdict[int, list[Wait]] = defaultdict(list)
    for row in _Columns.of(_waits_of(tables["waits"], valid)).rows():
        waits[row["op_id"]].append(_wait(row, keys, stacks))
    for row in _Columns.of(valid).rows():
        parent = row["parent_id"]
        yield Operation(
            host=host,
            op_id=row["op_id"] + op_id_offset,
            parent_id=None if parent is None else parent + op_id_offset,
            process=keys(row["pid"], row["pid_start_us"]),
            writer=keys(row["writer_pid"], row["writer_start_us"]),
            waits=tuple(waits.get(row["op_id"], ())),
            **{name: row[name] for name in _PLAIN_OPERATION if name != "waits_lost_us"},
            waits_lost_us=row["waits_lost_us"] or 0,
        )


def _valid_operations(operations: pa.Table) -> pa.Table:
    """Return the row of each op_id that is valid: the last; one that ended beats in flight."""
    order = [("in_flight", "descending"), ("ts", "ascending")]
    rows = operations.take(pc.sort_indices(operations, sort_keys=order))
    numbered = pa.table({"op_id": rows["op_id"], "row": pa.array(range(rows.num_rows), pa.int64())})
    last = numbered.group_by("op_id").aggregate([("row", "max")])
    return rows.take(last["row_max"])


def _waits_of(waits: pa.Table, operations: pa.Table) -> pa.Table:
    """Return the waits that belong to the valid rows of operations: same op_id, same ts."""
    waits = waits.filter(pc.is_valid(waits["op_id"]))
    at = pc.index_in(waits["op_id"], value_set=operations["op_id"].combine_chunks())
    return waits.filter(pc.equal(operations["ts"].take(at), waits["ts"]))


def _wait(row: Mapping[str, Any], keys: _Keys, stacks: _Stacks) -> Wait:
    last = row["last_mono_us"] or 0
    first = row["first_mono_us"]
    return Wait(
        kind=row["kind"],
        total_us=row["total_us"],
        count=row["count"],
        first_mono_us=max(0, last - row["total_us"]) if first is None else first,
        last_mono_us=last,
        max_us=row["max_us"],
        in_flight=row["in_flight"],
        stack=stacks(row["stack_id"]),
        waker=keys(row["waker_pid"], row["waker_start_us"]),
        waker_stack=stacks(row["waker_stack_id"]),
        waker_tid=row["waker_tid"],
        fanotify_group=row["fanotify_group"],
        unread_us=row["unread_us"],
        owner=row["owner"],
    )


def _interval_waits(
    waits: pa.Table, footer: Footer, keys: _Keys, stacks: _Stacks
) -> Iterator[IntervalWaits]:
    sums = waits.filter(pc.is_null(waits["op_id"]))
    interval_us = int(footer.interval_s * 1e6)
    for row in _Columns.of(sums).rows():
        end = row["last_mono_us"] or 0
        row["first_mono_us"] = max(0, end - interval_us)
        yield IntervalWaits(end, row["side"], row["op"], _wait(row, keys, stacks))


def _processes(table: pa.Table, keys: _Keys) -> dict[ProcessKey, Process]:
    processes: dict[ProcessKey, Process] = {}
    starts = table["start_time"].cast(pa.int64()).to_pylist()
    for row, start_us in zip(_Columns.of(table).rows(), starts, strict=True):
        key = keys(row["pid"], row["start_us"])
        assert key is not None
        old = processes.get(key, Process(key))
        processes[key] = Process(
            key=key,
            comm=row["comm"] or old.comm,
            exe=row["exe"] or old.exe,
            start_time=old.start_time if start_us is None else _time(start_us),
            uid=old.uid if row["uid"] is None else row["uid"],
            cgroup=row["cgroup"] or old.cgroup,
            container=row["container"] or old.container,
            pod_uid=row["pod_uid"] or old.pod_uid,
            pod_namespace=row["pod_namespace"] or old.pod_namespace,
            pod_name=row["pod_name"] or old.pod_name,
            command_line=row["command_line"] or old.command_line,
            state=row["state"],
            kthread=row["kthread"],
        )
    return processes


def _listeners(table: pa.Table, keys: _Keys) -> list[Listener]:
    """Return the listeners as last seen; the kernel's counts and fdinfo come row by row."""
    listeners: dict[tuple[ProcessKey, str | None], Listener] = {}
    for row in _Columns.of(table).rows():
        process = keys(row["pid"], row["start_us"])
        assert process is not None
        place = (process, row["fanotify_group"])
        old = listeners.get(place, Listener(process, row["fanotify_group"]))
        listeners[place] = replace(
            old,
            reads=old.reads if row["reads"] is None else row["reads"],
            writes=old.writes if row["writes"] is None else row["writes"],
            blocked=row["blocked"],
            marks=row["marks"] or old.marks,
        )
    return list(listeners.values())


def _holders(table: pa.Table, keys: _Keys) -> list[Holder]:
    """Return the holders, each as last seen."""
    holders: dict[tuple[object, ...], Holder] = {}
    for row in _Columns.of(table).rows():
        process = keys(row.pop("pid"), row.pop("start_us"))
        assert process is not None
        holder = Holder(process, **row)
        holders[process, holder.kind, holder.what, holder.since_mono_us] = holder
    return list(holders.values())


def _disk_use(table: pa.Table, keys: _Keys) -> Iterator[DiskUse]:
    """Yield who used the disks; rows whose times cannot be are left out."""
    for row in _Columns.of(table).rows():
        process = keys(row.pop("pid"), row.pop("start_us"))
        if row["begin_mono_us"] < row["end_mono_us"]:
            yield DiskUse(process, **row)


def _journal_use(table: pa.Table, keys: _Keys) -> Iterator[JournalUse]:
    """Yield who filled journals; rows whose times cannot be are left out."""
    for row in _Columns.of(table).rows():
        process = keys(row.pop("pid"), row.pop("start_us"))
        if process is not None and row["begin_mono_us"] < row["end_mono_us"]:
            yield JournalUse(process, **row)


def _memory_use(table: pa.Table, keys: _Keys) -> Iterator[MemoryUse]:
    """Yield who took memory; rows whose times cannot be are left out."""
    for row in _Columns.of(table).rows():
        process = keys(row.pop("pid"), row.pop("start_us"))
        if row["begin_mono_us"] < row["end_mono_us"]:
            yield MemoryUse(process, **row)


def _counts(table: pa.Table) -> list[Count]:
    """Return what happened, summed over time."""
    names = ["side", "kind", "op", "status", "peer"]
    sums = table.group_by(names).aggregate([("count", "sum")])
    rows = [
        Count(**{name: row[name] for name in names}, count=row["count_sum"])
        for row in sums.to_pylist()
    ]
    return sorted(rows, key=lambda row: (row.side, row.kind, -row.count, row.op or ""))
