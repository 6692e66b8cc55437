"""Whose NFS requests keep a server's disk busy: a client's process, the client, or nobody known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from blame_cases import (
    CLIENT,
    IO_WAIT,
    REDIS,
    SERVER,
    START,
    call,
    client,
    processes,
    rpc,
    served,
    server,
    us,
    wait,
)

from tracer.blame.analysis import Analysis, analyse
from tracer.model import DiskUse, HostCapture, Operation, Process, ProcessKey, Sample, Transfer

COPY = ProcessKey(700, 5_000_000)
OTHER = "10.9.0.3"
# The monotonic clocks of all hosts are 0 at START.
CLOCK = {"wall_minus_mono_us": round(START.timestamp() * 1e6)}
CROWDED = {
    "busy_percent": 100.0,
    "await_ms": 900.0,
    "queue_length": 40.0,
    "write_bytes_per_s": 8e6,
}
FEW = CROWDED | {"queue_length": 3.0}
QUICK = {"busy_percent": 10.0, "await_ms": 2.0, "queue_length": 0.2, "read_bytes_per_s": 4e4}


def disk(*seconds: dict[str, float]) -> list[Sample]:
    """Figures of vdb, ten seconds apart."""
    return [
        Sample(START + timedelta(seconds=10 * number), "disk", "vdb", metric, value)
        for number, figures in enumerate(seconds, start=1)
        for metric, value in figures.items()
    ]


def wrote(process: ProcessKey | None, moved: int, write: bool = True) -> Transfer:
    return Transfer(process, SERVER, write, us(10), us(20), moved)


def for_client(address: str | None = CLIENT, queued: float = 90, write: bool = True) -> DiskUse:
    return DiskUse(None, "vdb", us(10), us(20), 90, us(9), address, write, us(queued))


OTHERS = replace(for_client(None, queued=10), busy_us=us(0.1))


def slow_read(number: int = 7, peer: str = CLIENT) -> Operation:
    """An RPC at the server that waits for a page from 12 to 14."""
    waits = wait(12, 14, IO_WAIT)
    return served(12, 14, waits, xid=number, disk="vdb", device="vdb", peer=peer)


def scene(*uses: DiskUse, figures: tuple[dict[str, float], ...] = (QUICK, CROWDED), **of: Any):
    """Redis waits for a read, and copyd for what it has written: both captures."""
    ops = of.pop("ops", [slow_read(), slow_read(8)])
    there = server(ops, disk_use=[*uses, OTHERS], samples=disk(*figures), **CLOCK)
    parent = call(12, 14, op="read")
    asked = rpc(12, 14, xid=7, op="READ", parent_id=parent.op_id)
    written = rpc(12, 14, xid=8, process=None, writer=COPY, comm=None)
    known = processes(
        Process(REDIS, comm="redis-server", exe="/bin/redis-server"),
        Process(COPY, comm="copyd", exe="/opt/copyd"),
    )
    moved = of.pop("transfers", [wrote(COPY, 9_000_000), wrote(REDIS, 500_000)])
    here = client([parent, asked, written], processes=known, transfers=moved, **CLOCK)
    return there, here


def first(*captures: HostCapture) -> tuple[str, str, str | None] | None:
    culprits = analyse(captures).verdict.culprits
    return (
        (culprits[0].culprit.name, culprits[0].cause, culprits[0].culprit.host)
        if culprits
        else None
    )


def charged(analysis: Analysis, comm: str | None) -> Counter[tuple[str, str | None]]:
    sums: Counter[tuple[str, str | None]] = Counter()
    for stall in analysis.stalls:
        for charge, part in stall.bill.items():
            if stall.victim.comm == comm:
                sums[charge.cause, charge.culprit.name if charge.culprit else None] += part
    return sums


def test_the_process_that_wrote_most_is_named_with_its_own_waits() -> None:
    analysis = analyse(scene(for_client()))
    (copyd,) = analysis.verdict.culprits
    assert (copyd.culprit.name, copyd.culprit.host, copyd.cause) == ("copyd", "client", "disk")
    assert [link.link.name for link in copyd.chain] == ["vdb", "copyd"]
    assert charged(analysis, "redis-server")["disk", "copyd"] == us(1.8)
    assert charged(analysis, None)["disk", "copyd"] == us(1.8)
    assert copyd.direct_us == us(1.8)
    assert "wrote 9 MB to NFS servers and read 0 B from them" in copyd.evidence
    assert "vdb on server worked 9 s for client, on 90 requests" in copyd.evidence


@pytest.mark.parametrize(
    "transfers",
    [
        [wrote(COPY, 400_000), wrote(REDIS, 500_000), wrote(None, 500_000)],
        [wrote(COPY, 9_000_000, write=False)],
        [replace(wrote(COPY, 9_000_000), peer="10.9.0.77")],
        [],
    ],
)
def test_of_a_client_whose_processes_cannot_be_told_apart_nobody_is(
    transfers: list[Transfer],
) -> None:
    assert first(*scene(for_client(), transfers=transfers)) == ("vdb", "disk", "server")


@pytest.mark.parametrize(
    "figures",
    [
        # Never quick: it may be slow itself.
        (CROWDED, CROWDED),
        # A few requests are no crowd, however long they take.
        (QUICK | {"read_bytes_per_s": 4e6}, FEW),
        # It does less than it did when it was quick.
        (QUICK | {"read_bytes_per_s": 5e6}, CROWDED | {"write_bytes_per_s": 1e6}),
    ],
)
def test_a_disk_that_is_slow_itself_is_named(figures: tuple[dict[str, float], ...]) -> None:
    assert first(*scene(for_client(), figures=figures)) == ("vdb", "disk", "server")


def test_who_has_a_disk_move_far_more_than_while_it_was_quick_is_named() -> None:
    large = replace(for_client(queued=9), moved_bytes=20_000_000)
    readers = replace(OTHERS, client=OTHER, queued_us=us(30), moved_bytes=40_000)
    assert first(*scene(large, readers, figures=(QUICK, FEW))) == ("copyd", "disk", "client")


def test_what_a_disk_does_for_a_moment_is_not_what_it_can() -> None:
    burst = QUICK | {"write_bytes_per_s": 80e6}
    figures = (QUICK, CROWDED, QUICK, burst)
    assert first(*scene(for_client(), figures=figures)) == ("copyd", "disk", "client")


def test_nobody_who_had_less_than_half_of_the_disk() -> None:
    some = for_client(queued=40), for_client(OTHER, queued=40), for_client(queued=9, write=False)
    assert first(*scene(*some)) == ("vdb", "disk", "server")


def test_a_client_that_was_not_recorded_is_named_by_its_address() -> None:
    there, here = scene(for_client(OTHER))
    assert first(there, here) == (OTHER, "disk", OTHER)
    assert analyse([there]).verdict.summary.startswith(f"The NFS client {OTHER} caused")


def test_of_one_client_alone_nobody_knows_who_waits_for_whom() -> None:
    there, _ = scene(for_client())
    assert first(there) == ("vdb", "disk", "server")


def test_who_reads_is_told_by_what_it_read() -> None:
    moved = [wrote(COPY, 9_000_000, write=False), wrote(REDIS, 9_000_000)]
    found = first(*scene(for_client(write=False), transfers=moved))
    assert found == ("copyd", "disk", "client")


def test_who_waits_only_for_himself_is_no_culprit() -> None:
    analysis = analyse(scene(for_client(), ops=[slow_read(8)]))
    assert analysis.verdict.clear
    assert charged(analysis, None) == {("disk", None): us(2)}
