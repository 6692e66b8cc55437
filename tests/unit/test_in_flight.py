"""What has not ended: which records are shown, and how."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from tracer import in_flight
from tracer.in_flight import InFlight
from tracer.kernel.awaited import Process
from tracer.records import (
    ASKED,
    FIRST_SLEEPER,
    NO_STACK,
    OP_AWAITS,
    OP_BEGIN_UNKNOWN,
    OP_IN_FLIGHT,
    OP_KERNEL,
    RPC_ENDED,
    WAIT_BLOCKED,
    WAIT_HELD,
    HeldRec,
    OpRec,
    RpcRec,
)


@pytest.fixture
def bare() -> InFlight:
    """Return what is in flight in no maps."""
    one = InFlight.__new__(InFlight)
    one._deferred = None
    one._awaited_by = {}
    one._groups = set()
    return one


def test_a_record_is_flagged_in_place() -> None:
    assert in_flight._flagged(b"abcd\x02\0\0\0efgh", 4, 1) == b"abcd\x03\0\0\0efgh"


class Records:
    """A map of these elements."""

    def __init__(self, *elements: tuple[bytes, ctypes.Structure]) -> None:
        self.elements = elements

    def read(self) -> Iterator[tuple[bytes, bytes]]:
        return ((key, bytes(value)) for key, value in self.elements)


class Table:
    """The records of threads."""

    def __init__(self, *records: OpRec) -> None:
        self.records = records

    def read(self) -> Iterator[bytes]:
        return map(bytes, self.records)


def test_a_packet_is_in_flight_until_it_is_decided_on(bare: InFlight) -> None:
    young, old = HeldRec(op_id=7, since_ns=95), HeldRec(op_id=8, since_ns=5, side=2)
    bare._threshold_ns = 10
    bare._held = Records((b"", young), (b"", old))  # type: ignore[assignment]
    (record,) = map(OpRec.from_buffer_copy, bare.packets(100))
    assert (record.op_id, record.begin_ns, record.side) == (8, 5, 2)
    assert (record.off_ns, record.off_kind) == (5, WAIT_HELD)
    assert record.flags == OP_KERNEL | OP_IN_FLIGHT


def test_since_when_a_packet_of_before_recording_is_held_nobody_knows(bare: InFlight) -> None:
    bare._threshold_ns = 10
    held = HeldRec(op_id=9, since_ns=95, flags=OP_BEGIN_UNKNOWN)
    bare._held = Records((b"", held))  # type: ignore[assignment]
    (record,) = map(OpRec.from_buffer_copy, bare.packets(100))
    assert record.flags == OP_KERNEL | OP_IN_FLIGHT | OP_BEGIN_UNKNOWN


class PutOff:
    """Requests that a server has put off."""

    def __init__(self, *ops: OpRec) -> None:
        self.ops = ops

    def operations(self, _now_ns: int) -> Iterator[OpRec]:
        return iter(self.ops)


def test_a_request_is_put_off_for_long_or_since_before_recording(bare: InFlight) -> None:
    ops = (
        OpRec(op_id=1, arrival_ns=95),
        OpRec(op_id=2, arrival_ns=90),
        OpRec(op_id=3, arrival_ns=95, flags=OP_BEGIN_UNKNOWN),
    )
    bare._threshold_ns = 10
    bare._threads = Table()  # type: ignore[assignment]
    bare._deferred = PutOff(*ops)  # type: ignore[assignment]
    records = map(OpRec.from_buffer_copy, bare.operations(100))
    assert [record.op_id for record in records] == [2, 3]


@pytest.mark.parametrize(
    ("op", "looked"),
    [
        (OpRec(off_ns=5, off_kind=WAIT_BLOCKED, off_stack=NO_STACK), True),
        (OpRec(off_ns=5, off_kind=WAIT_BLOCKED, off_stack=7), False),
        (OpRec(off_ns=5, off_kind=WAIT_BLOCKED + 1, off_stack=NO_STACK), False),
        (OpRec(off_ns=0, off_kind=WAIT_BLOCKED, off_stack=NO_STACK), False),
    ],
    ids=["asleep", "known", "runnable", "running"],
)
def test_the_stack_of_a_sleeper_is_read_once(
    bare: InFlight, monkeypatch: pytest.MonkeyPatch, op: OpRec, looked: bool
) -> None:
    op.active, op.begin_ns = 1, 1
    bare._threads = Table(op)  # type: ignore[assignment]
    bare._threshold_ns, bare._sleepers, bare._groups = 10, 99, set()
    runs: list[int] = []

    def run(link: int) -> None:
        runs.append(link)
        op.off_stack = FIRST_SLEEPER

    monkeypatch.setattr(in_flight.bpf, "run_iterator", run)
    (record,) = bare.operations(100)
    assert runs == ([99] if looked else [])
    assert OpRec.from_buffer_copy(record).off_stack == op.off_stack


def test_rpcs_that_have_ended_are_not_in_flight_and_go_at_last(
    bare: InFlight, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute_ns, deleted = 60_000_000_000, []
    old, new = (RpcRec(begin_ns=begin_ns, flags=RPC_ENDED) for begin_ns in (1, minute_ns))
    revived = RpcRec(begin_ns=1, flags=RPC_ENDED)
    bare._rpcs = Records((b"old", old), (b"rev", revived), (b"new", new))  # type: ignore[assignment]
    bare._maps, bare._threshold_ns = {"rpcs": 5}, 10
    # Another RPC has begun at one's address since the records were read.
    now = {b"old": bytes(old), b"rev": bytes(RpcRec(op_id=7, begin_ns=minute_ns))}
    monkeypatch.setattr(in_flight.bpf, "lookup", lambda _fd, key, _bytes: now[key])
    monkeypatch.setattr(in_flight.bpf, "delete", lambda fd, key: deleted.append((fd, key)))
    assert list(bare.rpcs(minute_ns + 100)) == []
    assert deleted == [(5, b"old")]


@pytest.mark.parametrize(
    ("status", "client", "start_ns", "shown"),
    [
        (-10008, 1, 9, True),
        (-528, 1, 8, True),
        # Success, a task that has been released, and one that is about to be.
        (0, 1, 9, False),
        (-10008, 0, 9, False),
        (-10008, 1, 7, False),
    ],
)
def test_an_rpc_that_is_told_to_come_later_goes_on(
    bare: InFlight, status: int, client: int, start_ns: int, shown: bool
) -> None:
    class Memory:
        def u64(self, _task: int, path: str) -> int:
            return {"rpc_task.tk_client": client, "rpc_task.tk_start": start_ns}[path]

    ended = RpcRec(op_id=4, begin_ns=8, status=status, flags=RPC_ENDED, xid=5, parent_id=3)
    bare._memory, bare._threshold_ns = Memory(), 10  # type: ignore[assignment]
    bare._rpcs = Records((bytes(8), ended))  # type: ignore[assignment]
    found = [RpcRec.from_buffer_copy(record) for record in bare.rpcs(5_000)]
    assert [(r.op_id, r.parent_id, r.begin_ns, r.before, r.status, r.xid) for r in found] == (
        [(4, 3, start_ns, status, 0, 0)] if shown else []
    )
    assert all(record.flags == OP_IN_FLIGHT for record in found)


def test_an_rpc_in_flight_is_known_by_the_start_of_its_task(
    bare: InFlight, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        def u64(self, _task: int, path: str) -> int:
            return {"rpc_task.tk_client": 1, "rpc_task.tk_start": 7}[path]

    ours, other = RpcRec(op=1, begin_ns=7), RpcRec(op=2, begin_ns=8)
    bare._memory, bare._threshold_ns = Memory(), 10  # type: ignore[assignment]
    bare._rpcs = Records((bytes(8), ours), (bytes(8), other))  # type: ignore[assignment]
    forgotten: list[bytes] = []
    monkeypatch.setattr(bare, "_forget_rpc", lambda _task, record: forgotten.append(record))
    found = bare.rpcs(6_000_000_000)
    assert [RpcRec.from_buffer_copy(record).op for record in found] == [1]
    assert forgotten == [bytes(other)]


@pytest.mark.parametrize(
    ("op", "shown"),
    [
        (OpRec(active=1, begin_ns=5), True),
        (OpRec(active=1, begin_ns=95), False),
        (OpRec(active=1, begin_ns=95, arrival_ns=5), True),
        (OpRec(begin_ns=5), False),
        (OpRec(begin_ns=5, watched=1), False),
        (OpRec(begin_ns=5, watched=ASKED | 1), True),
    ],
    ids=["old", "young", "queued for long", "ended", "idle", "asked"],
)
def test_what_is_under_way(bare: InFlight, op: OpRec, shown: bool) -> None:
    bare._threads = Table(op)  # type: ignore[assignment]
    bare._threshold_ns, bare._groups = 10, set()
    assert len(list(bare.operations(100))) == shown


class Peers:
    """Who has the other end, asked once."""

    def __init__(self, process: Process | None) -> None:
        self.process = process
        self.asked: list[tuple[int, int]] = []

    def by(self, pid: int, tid: int) -> Process | None:
        self.asked.append((pid, tid))
        return self.process


READING: dict[str, Any] = {"begin_ns": 5, "off_ns": 6, "off_kind": WAIT_BLOCKED, "off_stack": 7}


@pytest.mark.parametrize(
    ("op", "asked"),
    [
        (OpRec(**READING, tid=413, watched=ASKED | 1), True),
        (OpRec(**READING, tid=413, watched=1, active=1), False),
        (OpRec(**READING, tid=413, watched=ASKED | 1, waking_ns=8), False),
        (OpRec(begin_ns=5, tid=413, watched=ASKED | 1), False),
    ],
    ids=["reads", "in an operation", "woken", "runs"],
)
def test_whose_message_has_not_come_is_looked_for_once(
    bare: InFlight, op: OpRec, asked: bool
) -> None:
    op.proc.tgid = 412
    bare._threshold_ns = 10
    bare._threads = Table(op)  # type: ignore[assignment]
    peers = Peers(Process(500, 4))
    bare._awaited = peers  # type: ignore[assignment]
    for _ in range(2):
        (record,) = map(OpRec.from_buffer_copy, bare.operations(100))
        assert bool(record.flags & OP_AWAITS) == asked
        assert (record.waker.tgid, record.waker.start_ns) == ((500, 4) if asked else (0, 0))
    assert peers.asked == ([(412, 413)] if asked else [])


def test_a_message_that_has_no_known_sender(bare: InFlight) -> None:
    op = OpRec(**READING, tid=413, watched=ASKED | 1)
    bare._threshold_ns = 10
    bare._threads = Table(op)  # type: ignore[assignment]
    bare._awaited = Peers(None)  # type: ignore[assignment]
    (record,) = map(OpRec.from_buffer_copy, bare.operations(100))
    assert (record.flags, record.waker.tgid) == (OP_IN_FLIGHT, 0)
