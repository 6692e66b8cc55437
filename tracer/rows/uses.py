"""Rows of ``disk_use``, ``journal_use`` and ``memory_use``: what a process had of what."""

from __future__ import annotations

import ctypes
import resource
from collections import defaultdict
from collections.abc import Iterator
from typing import Final, NamedTuple

from tracer.records import (
    USE_DISK,
    USE_DISK_WRITE,
    USE_JOURNAL,
    USE_MEMORY,
    USE_SLOT_SHIFT,
    UseKey,
    UseVal,
)
from tracer.rows.operations import Lookups, Row
from tracer.rows.packed import layout, tuples
from tracer.rows.text import address

_USES: Final = layout(UseKey, UseVal)
SLOT_NS: Final = 1 << USE_SLOT_SHIFT
# Whose requests had a disk, or stood in its queue, for less of a slot held nobody up alone: a row
# for each would be most of a capture.
_LEAST_NS: Final = SLOT_NS // 20
# Nor is who took less than this part of a slot's memory behind its being short.
_LEAST_OF_MEMORY: Final = 0.05
_PAGE_BYTES: Final = resource.getpagesize()


class _Use(NamedTuple):
    slot: int
    start_ns: int
    pid: int
    client: bytes
    dev: int
    kind: int
    times: int
    amount: int
    most: int
    queued_ns: int
    moved_bytes: int


def disk_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of disks of a USES frame. Raises BadFrame."""
    rows: list[Row] = []
    together: defaultdict[tuple[int, int, int, bytes], list[_Use]] = defaultdict(list)
    for use in _of_kind(payload, USE_DISK, USE_DISK_WRITE):
        # Any thread of nfsd may do what a client asks for.
        if any(use.client) or not _matters(use):
            together[use.slot, use.dev, use.kind, use.client].append(use)
            continue
        look.comm(use.pid, use.start_ns)  # the process gets its row in `processes`
        who = {"pid": use.pid, "start_us": use.start_ns // 1000}
        rows.append(who | _disk_row(use, ts_us, look))
    for uses in together.values():
        whole = uses[0]._replace(
            times=sum(use.times for use in uses),
            amount=sum(use.amount for use in uses),
            most=max(use.most for use in uses),
            queued_ns=sum(use.queued_ns for use in uses),
            moved_bytes=sum(use.moved_bytes for use in uses),
        )
        if _matters(whole):
            rows.append({"pid": None, "start_us": None} | _disk_row(whole, ts_us, look))
    return rows


def journal_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of journals of a USES frame, one for each process. Raises BadFrame."""
    rows: dict[tuple[int, int, int], Row] = {}
    for use in _of_kind(payload, USE_JOURNAL):
        begin_us, end_us = use.slot * SLOT_NS // 1000, (use.slot + 1) * SLOT_NS // 1000
        row = rows.get((use.start_ns, use.pid, use.dev))
        if row is None:
            look.comm(use.pid, use.start_ns)  # the process gets its row in `processes`
            row = rows[use.start_ns, use.pid, use.dev] = {
                "ts": ts_us,
                "device": look.device(use.dev),
                "pid": use.pid,
                "start_us": use.start_ns // 1000,
                "begin_mono_us": begin_us,
                "end_mono_us": end_us,
                "handles": 0,
                "blocks": 0,
            }
        row["begin_mono_us"] = min(row["begin_mono_us"], begin_us)
        row["end_mono_us"] = max(row["end_mono_us"], end_us)
        row["handles"] += use.times
        row["blocks"] += use.amount
    return list(rows.values())


def memory_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of memory of a USES frame. Raises BadFrame."""
    slots: defaultdict[int, dict[tuple[int, int], int]] = defaultdict(dict)
    for use in _of_kind(payload, USE_MEMORY):
        # What is given back may have been taken in a slot before.
        slots[use.slot][use.pid, use.start_ns] = ctypes.c_int64(use.amount).value
    return [row for slot, taken in slots.items() for row in _taken(slot, taken, ts_us, look)]


def _taken(
    slot: int, taken: dict[tuple[int, int], int], ts_us: int, look: Lookups
) -> Iterator[Row]:
    """Yield the rows of one slot; ``taken``: pages by pid and start_ns."""
    least = sum(map(abs, taken.values())) * _LEAST_OF_MEMORY
    together = 0
    times = {"begin_mono_us": slot * SLOT_NS // 1000, "end_mono_us": (slot + 1) * SLOT_NS // 1000}
    for (tgid, start_ns), pages in taken.items():
        if not tgid or abs(pages) < least:
            together += pages
        elif pages:
            look.comm(tgid, start_ns)  # the process gets its row in `processes`
            who = {"ts": ts_us, "pid": tgid, "start_us": start_ns // 1000}
            yield who | times | {"taken_bytes": pages * _PAGE_BYTES}
    if together:
        nobody = {"ts": ts_us, "pid": None, "start_us": None}
        yield nobody | times | {"taken_bytes": together * _PAGE_BYTES}


def _of_kind(payload: bytes, *wanted: int) -> Iterator[_Use]:
    for slot, start_ns, pid, _, client, dev, kind, *used in tuples(payload, _USES):
        if kind in wanted:
            yield _Use(slot, start_ns, pid, client, dev, kind, *used)


def _matters(use: _Use) -> bool:
    return max(use.amount, use.queued_ns) >= _LEAST_NS


def _disk_row(use: _Use, ts_us: int, look: Lookups) -> Row:
    end_ns = (use.slot + 1) * SLOT_NS
    return {
        "ts": ts_us,
        "disk": look.disk(use.dev),
        "client": address(use.client),
        "write": use.kind == USE_DISK_WRITE,
        # A request that completed in the slot may have had the disk since long before.
        "begin_mono_us": max(0, end_ns - SLOT_NS - use.most) // 1000,
        "end_mono_us": end_ns // 1000,
        "requests": use.times,
        "busy_us": use.amount // 1000,
        "queued_us": use.queued_ns // 1000,
        "moved_bytes": use.moved_bytes,
    }
